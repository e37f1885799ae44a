//! Receiving a client's directory (`moby.filesync.v1.FileSync/DiffCopy`).
//!
//! ```text
//!  we: which directory, without what      client: STAT … STAT, one an entry, in order; an empty STAT at the end
//!  we: REQ number …                       client: DATA number bytes …, DATA number (empty) at a file's end
//!  we: FIN                                client: FIN
//! ```
//! Requests go out while descriptions still come in. What is done with files decides a [`Sink`], on a thread that may
//! wait for a disk.

use crate::error::{KitError, Result};
use crate::session::Session;
use crate::wire::{Described, Packet, PacketType, describe};
use futures_util::stream;
use naru_build::listing::{ContextEntry, EntryKind};
use naru_engine::{ContextUpdate, EngineError};
use std::collections::HashMap;
use tokio::sync::mpsc;
use tonic::metadata::{Ascii, MetadataValue};

const METHOD: &str = "/moby.filesync.v1.FileSync/DiffCopy";
const WHAT: &str = "its files";

/// Packets between the connection and the thread that writes; one is a description or 32 KiB at most.
const PACKETS_MAX: usize = 256;

/// Requests that have not been sent; they wait for the connection, not for the client.
const REQUESTS_MAX: usize = 1024;

/// A Dockerfile and its `.dockerignore` are text for people.
const TEXT_BYTES_MAX: u64 = 16 << 20;

/// Which part of which directory is wanted.
#[derive(Debug, Clone, Default)]
pub struct Selection<'a> {
    /// As the client calls it.
    pub directory: &'a str,
    pub excludes: Vec<String>,
    /// Only these, and where they lead to; everything if there are none.
    pub paths: Vec<String>,
}

/// What becomes of the files.
pub trait Sink: Send + 'static {
    type Made: Send + 'static;
    fn offer(&mut self, entry: ContextEntry) -> Result<Option<u32>, EngineError>;
    fn skip(&mut self);
    fn receive(&mut self, number: u32, bytes: &[u8]) -> Result<(), EngineError>;
    fn end_of_entries(&mut self) -> Result<(), EngineError>;
    fn is_waiting(&self) -> bool;
    fn finish(self) -> Result<Self::Made, EngineError>;
}

impl Sink for ContextUpdate {
    type Made = naru_engine::KeptContext;

    fn offer(&mut self, entry: ContextEntry) -> Result<Option<u32>, EngineError> {
        Self::offer(self, entry)
    }

    fn skip(&mut self) {
        Self::skip(self);
    }

    fn receive(&mut self, number: u32, bytes: &[u8]) -> Result<(), EngineError> {
        Self::receive(self, number, bytes)
    }

    fn end_of_entries(&mut self) -> Result<(), EngineError> {
        Self::end_of_entries(self);
        Ok(())
    }

    fn is_waiting(&self) -> bool {
        Self::is_waiting(self)
    }

    fn finish(self) -> Result<Self::Made, EngineError> {
        // Times of files alone cannot stand for what is in them.
        Self::finish(self, None)
    }
}

/// A few small files, held in memory.
#[derive(Debug, Default)]
pub struct Texts {
    names: Vec<String>,
    offered: u32,
    /// By number: its name and length as told.
    wanted: HashMap<u32, (String, u64)>,
    partial: HashMap<u32, Vec<u8>>,
    done: HashMap<String, Vec<u8>>,
}

impl Texts {
    pub fn new(names: &[String]) -> Self {
        Self {
            names: names.to_vec(),
            ..Self::default()
        }
    }
}

impl Sink for Texts {
    type Made = HashMap<String, Vec<u8>>;

    fn offer(&mut self, entry: ContextEntry) -> Result<Option<u32>, EngineError> {
        let number = self.offered;
        self.offered += 1;
        let EntryKind::File { bytes } = entry.kind else {
            return Ok(None);
        };
        if !self.names.contains(&entry.path) {
            return Ok(None);
        }
        if bytes > TEXT_BYTES_MAX {
            return Err(EngineError::invalid(format!("{} is too long", entry.path)));
        }
        self.wanted.insert(number, (entry.path, bytes));
        Ok(Some(number))
    }

    fn skip(&mut self) {
        self.offered += 1;
    }

    fn receive(&mut self, number: u32, bytes: &[u8]) -> Result<(), EngineError> {
        let unasked = || EngineError::invalid("the client sent a file that nobody asked for");
        let (name, told) = self.wanted.get(&number).ok_or_else(unasked)?;
        let text = self.partial.entry(number).or_default();
        text.extend_from_slice(bytes);
        if text.len() as u64 > *told {
            return Err(EngineError::invalid(format!("{name} changed while it was sent")));
        }
        if bytes.is_empty() {
            let text = self.partial.remove(&number).unwrap_or_default();
            if let Some((name, _)) = self.wanted.remove(&number) {
                self.done.insert(name, text);
            }
        }
        Ok(())
    }

    fn end_of_entries(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    fn is_waiting(&self) -> bool {
        !self.wanted.is_empty()
    }

    fn finish(self) -> Result<Self::Made, EngineError> {
        Ok(self.done)
    }
}

/// What was received, and how many bytes of content travelled.
pub struct Received<T> {
    pub made: T,
    pub bytes: u64,
}

/// Receives what is selected of a client's directory into a sink.
pub async fn receive<S: Sink>(
    session: &Session,
    selection: Selection<'_>,
    sink: S,
) -> Result<Received<S::Made>> {
    let (requests, outgoing) = mpsc::channel(REQUESTS_MAX);
    let outgoing = stream::unfold(outgoing, |mut outgoing: mpsc::Receiver<Packet>| async move {
        outgoing.recv().await.map(|packet| (packet, outgoing))
    });
    let mut question = tonic::Request::new(outgoing);
    let words = question.metadata_mut();
    for (key, values) in [
        ("dir-name", &[selection.directory.to_owned()][..]),
        ("exclude-patterns", &selection.excludes),
        ("followpaths", &selection.paths),
    ] {
        for value in values {
            words.append(key, header_value(value)?);
        }
    }
    let mut incoming = session
        .channel
        .converse::<Packet, Packet, _>(WHAT, METHOD, question)
        .await?;
    let (packets, queue) = mpsc::channel(PACKETS_MAX);
    let work = tokio::task::spawn_blocking(move || Reception::new(sink, requests).run(queue));
    loop {
        match incoming.message().await {
            Ok(Some(packet)) => {
                // Whoever receives has ended: with an error, or because all is there.
                if packets.send(packet).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(status) => {
                drop(packets);
                let told = work.await.unwrap_or_else(|error| Err(stopped(&error)));
                // What went wrong here comes first: the connection may have ended for it.
                return Err(match told {
                    Err(error @ (KitError::Engine(_) | KitError::Broken { .. })) if !is_cut_off(&error) => {
                        error
                    }
                    _ => KitError::broken(WHAT, status.message()),
                });
            }
        }
    }
    drop(packets);
    work.await.unwrap_or_else(|error| Err(stopped(&error)))
}

const CUT_OFF: &str = "it left in the middle";

fn is_cut_off(error: &KitError) -> bool {
    matches!(error, KitError::Broken { reason, .. } if reason == CUT_OFF)
}

fn stopped(error: &tokio::task::JoinError) -> KitError {
    EngineError::system(format!("the reception did not finish: {error}")).into()
}

/// Paths are bytes above all; only what no header can hold is refused.
fn header_value(text: &str) -> Result<MetadataValue<Ascii>> {
    MetadataValue::try_from(text.as_bytes())
        .map_err(|_| EngineError::invalid(format!("{text:?} holds a control character")).into())
}

/// The thread's side of it.
pub struct Reception<S> {
    sink: S,
    requests: mpsc::Sender<Packet>,
    has_all_entries: bool,
    bytes: u64,
}

impl<S: Sink> Reception<S> {
    pub fn new(sink: S, requests: mpsc::Sender<Packet>) -> Self {
        Self {
            sink,
            requests,
            has_all_entries: false,
            bytes: 0,
        }
    }

    fn run(mut self, mut queue: mpsc::Receiver<Packet>) -> Result<Received<S::Made>> {
        let mut batch = Vec::new();
        while !self.has_all_entries || self.sink.is_waiting() {
            if queue.blocking_recv_many(&mut batch, PACKETS_MAX) == 0 {
                return Err(KitError::broken(WHAT, CUT_OFF));
            }
            for packet in batch.drain(..) {
                self.take(packet)?;
            }
        }
        self.say(PacketType::PacketFin, 0)?;
        // Its own FIN is the last; a client that ends without has sent all the same.
        while let Some(packet) = queue.blocking_recv() {
            if packet.r#type() == PacketType::PacketFin {
                break;
            }
        }
        Ok(Received {
            made: self.sink.finish()?,
            bytes: self.bytes,
        })
    }

    fn say(&self, kind: PacketType, number: u32) -> Result<()> {
        let packet = Packet {
            r#type: kind.into(),
            id: number,
            ..Packet::default()
        };
        self.requests
            .blocking_send(packet)
            .map_err(|_| KitError::broken(WHAT, CUT_OFF))
    }

    pub fn take(&mut self, packet: Packet) -> Result<()> {
        match packet.r#type() {
            PacketType::PacketStat => self.take_entry(packet),
            PacketType::PacketData => {
                self.bytes += packet.data.len() as u64;
                Ok(self.sink.receive(packet.id, &packet.data)?)
            }
            PacketType::PacketErr => Err(KitError::broken(WHAT, String::from_utf8_lossy(&packet.data))),
            PacketType::PacketFin => Err(KitError::broken(WHAT, "it ended before all was there")),
            PacketType::PacketReq => Err(KitError::broken(WHAT, "it asked for a file itself")),
        }
    }

    fn take_entry(&mut self, packet: Packet) -> Result<()> {
        if self.has_all_entries {
            return Err(KitError::broken(WHAT, "an entry came after the last one"));
        }
        let Some(stat) = packet.stat else {
            self.has_all_entries = true;
            return Ok(self.sink.end_of_entries()?);
        };
        match describe(stat) {
            Described::Entry(entry) => match self.sink.offer(entry)? {
                Some(number) => self.say(PacketType::PacketReq, number),
                None => Ok(()),
            },
            Described::Skipped => {
                self.sink.skip();
                Ok(())
            }
            Described::Refused(why) => Err(EngineError::invalid(why).into()),
        }
    }
}
