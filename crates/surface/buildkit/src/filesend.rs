//! Giving a client files (`moby.filesync.v1.FileSend/DiffCopy`): an archive in pieces, or entry by entry.
//!
//! ```text
//!  archive   we: bytes …                                   client: ends, or says why it cannot write
//!  entries   we: STAT … STAT, an empty STAT at the end     client: REQ number …
//!            we: DATA number bytes …, DATA number (empty)  client: FIN
//!            we: FIN
//! ```
//! The client decides where things go and whose they are.

use crate::error::{KitError, Result};
use crate::session::Session;
use crate::wire::{FileBytes, Packet, PacketType, Stat, go_mode_of};
use futures_util::stream;
use naru_engine::archive::Chunks;
use naru_engine::{AttestedFile, EngineError, ImageTree, TreeEntry};
use rustix::fs::FileType;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};

const METHOD: &str = "/moby.filesync.v1.FileSend/DiffCopy";
const WHAT: &str = "the output";

/// By this a client knows which of its outputs is meant.
const NUMBER: &str = "buildkit-attachable-exporter-id";

/// Packets in flight, of 32 KiB at most.
const PACKETS_MAX: usize = 128;
const PACKET_BYTES: usize = 32 << 10;

/// Files that the client has asked for and that are not sent yet: as many as it has been told of, at most.
type Wanted = Arc<Mutex<HashMap<u32, Offered>>>;

/// Where a file's content is.
enum Offered {
    OfImage(PathBuf),
    Here(Vec<u8>),
}

fn check(session: &Session) -> Result<()> {
    if session.offers(METHOD) {
        return Ok(());
    }
    Err(EngineError::invalid("the client takes no files: say where the output goes, dest=…").into())
}

fn asked<S>(questions: S, number: Option<usize>) -> tonic::Request<S> {
    let mut request = tonic::Request::new(questions);
    if let Some(number) = number {
        request.metadata_mut().insert(NUMBER, number.into());
    }
    request
}

/// Sends an archive; answers with its length when the client has all of it.
pub async fn send_archive(session: &Session, number: Option<usize>, archive: Chunks) -> Result<u64> {
    check(session)?;
    let (broken, breaks) = oneshot::channel::<io::Error>();
    let sent = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&sent);
    let pieces = stream::unfold((archive, Some(broken)), move |(mut archive, mut broken)| {
        let counted = Arc::clone(&counted);
        async move {
            match archive.recv().await? {
                Ok(bytes) => {
                    *counted.lock().unwrap_or_else(PoisonError::into_inner) += bytes.len() as u64;
                    Some((FileBytes { data: bytes.to_vec() }, (archive, broken)))
                }
                Err(error) => {
                    // The stream must not end as if all were there: the call is dropped.
                    let _ = broken.take().map(|broken| broken.send(error));
                    std::future::pending().await
                }
            }
        }
    });
    let conversation = async {
        let mut answers = session
            .channel
            .converse::<FileBytes, FileBytes, _>(WHAT, METHOD, asked(pieces, number))
            .await?;
        let refused = |status: tonic::Status| KitError::broken(WHAT, status.message());
        while answers.message().await.map_err(refused)?.is_some() {}
        Ok::<(), KitError>(())
    };
    tokio::select! {
        ended = conversation => ended?,
        Ok(error) = breaks => return Err(EngineError::system(format!("cannot read the image: {error}")).into()),
    }
    let sent = *sent.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(sent)
}

/// Sends the files of an image and what is attested of it, as far as the client asks for them; answers with the bytes of
/// content.
pub async fn send_files(
    session: &Session,
    number: Option<usize>,
    tree: ImageTree,
    attested: Vec<AttestedFile>,
) -> Result<u64> {
    check(session)?;
    let tree = Arc::new(tree);
    let (packets, outgoing) = mpsc::channel(PACKETS_MAX);
    let outgoing = stream::unfold(outgoing, |mut outgoing: mpsc::Receiver<Packet>| async move {
        outgoing.recv().await.map(|packet| (packet, outgoing))
    });
    let files = Wanted::default();
    let (walked, telling) = (Arc::clone(&tree), packets.clone());
    let listed = Arc::clone(&files);
    let walk = tokio::task::spawn_blocking(move || tell_entries(&walked, attested, &telling, &listed));
    let conversation = converse(session, asked(outgoing, number), &tree, &files, packets);
    let walk = async { walk.await.unwrap_or_else(|error| Err(stopped(&error))) };
    tokio::pin!(walk, conversation);
    tokio::select! {
        // A walk that fails has told less than everything: the call is dropped.
        walked = &mut walk => {
            walked?;
            conversation.await
        }
        ended = &mut conversation => ended,
    }
}

fn stopped(error: &tokio::task::JoinError) -> KitError {
    EngineError::system(format!("the output did not finish: {error}")).into()
}

/// Answers the client's requests, until it has everything.
async fn converse<S>(
    session: &Session,
    question: tonic::Request<S>,
    tree: &Arc<ImageTree>,
    files: &Wanted,
    packets: mpsc::Sender<Packet>,
) -> Result<u64>
where
    S: futures_util::Stream<Item = Packet> + Send + 'static,
{
    let mut answers = session
        .channel
        .converse::<Packet, Packet, _>(WHAT, METHOD, question)
        .await?;
    let mut packets = Some(packets);
    let mut sent = 0;
    let broken = |status: tonic::Status| KitError::broken(WHAT, status.message());
    while let Some(packet) = answers.message().await.map_err(broken)? {
        match (packet.r#type(), &packets) {
            (PacketType::PacketReq, Some(out)) => {
                let offered = files
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&packet.id);
                let unknown = || KitError::broken(WHAT, "it asked for a file that there is none of");
                let (tree, out, offered) = (Arc::clone(tree), out.clone(), offered.ok_or_else(unknown)?);
                let sending =
                    tokio::task::spawn_blocking(move || send_offered(&tree, offered, packet.id, &out));
                sent += sending.await.unwrap_or_else(|error| Err(stopped(&error)))?;
            }
            (PacketType::PacketFin, Some(out)) => {
                say(out, PacketType::PacketFin, 0).await?;
                packets = None;
            }
            (PacketType::PacketErr, _) => {
                return Err(KitError::broken(WHAT, String::from_utf8_lossy(&packet.data)));
            }
            _ => {}
        }
    }
    Ok(sent)
}

async fn say(packets: &mpsc::Sender<Packet>, kind: PacketType, id: u32) -> Result<()> {
    let packet = Packet {
        r#type: kind.into(),
        id,
        ..Packet::default()
    };
    let sent = packets.send(packet).await;
    sent.map_err(|_| KitError::broken(WHAT, "it left in the middle"))
}

/// Describes every entry; a file can be asked for before the next one is told.
fn tell_entries(
    tree: &ImageTree,
    mut attested: Vec<AttestedFile>,
    packets: &mpsc::Sender<Packet>,
    files: &Wanted,
) -> Result<()> {
    let mut number = 0;
    let tell_packet = |stat: Option<Stat>| {
        let packet = Packet {
            r#type: PacketType::PacketStat.into(),
            stat,
            ..Packet::default()
        };
        packets
            .blocking_send(packet)
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    };
    let mut tell = |stat: Stat, offered: Offered| {
        files
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(number, offered);
        number += 1;
        tell_packet(Some(stat))
    };
    attested.sort_by(|one, other| other.name.cmp(&one.name));
    let walked = tree.walk(|entry| {
        if FileType::from_raw_mode(entry.mode) == FileType::Socket {
            return Ok(());
        }
        // Clients want names in order: each is told before the first that comes after it.
        let root = entry.path.iter().next().unwrap_or_default().to_owned();
        while let Some(file) = attested.pop_if(|file| OsStr::new(&file.name) < root.as_os_str()) {
            tell(describe_attested(&file), Offered::Here(file.bytes))?;
        }
        let path = entry.path.clone();
        tell(describe_entry(entry)?, Offered::OfImage(path))
    });
    walked
        .and_then(|()| {
            let mut left = attested.into_iter().rev();
            left.try_for_each(|file| tell(describe_attested(&file), Offered::Here(file.bytes)))
        })
        .and_then(|()| tell_packet(None))
        .map_err(|error| EngineError::system(format!("cannot give the image's files: {error}")).into())
}

fn describe_attested(file: &AttestedFile) -> Stat {
    Stat {
        path: file.name.clone(),
        mode: go_mode_of(FileType::RegularFile.as_raw_mode() | 0o644),
        size: file.bytes.len() as i64,
        mod_time: file.modified_at * 1_000_000_000,
        ..Stat::default()
    }
}

fn describe_entry(entry: TreeEntry) -> io::Result<Stat> {
    let text = |path: &Path| {
        let text = path.to_str().map(str::to_owned);
        text.ok_or_else(|| {
            io::Error::other(format!(
                "{} is not UTF-8, as this way needs it: use type=tar",
                path.display()
            ))
        })
    };
    let attributes = entry.attributes.into_iter();
    Ok(Stat {
        path: text(&entry.path)?,
        mode: go_mode_of(entry.mode),
        uid: entry.uid,
        gid: entry.gid,
        size: if entry.link.is_some() {
            0
        } else {
            entry.bytes as i64
        },
        mod_time: entry.modified_ns,
        linkname: entry.link.as_deref().map(text).transpose()?.unwrap_or_default(),
        devmajor: i64::from(entry.device.0),
        devminor: i64::from(entry.device.1),
        xattrs: attributes
            .filter_map(|(name, value)| Some((String::from_utf8(name).ok()?, value)))
            .collect(),
    })
}

fn send_offered(tree: &ImageTree, offered: Offered, id: u32, packets: &mpsc::Sender<Packet>) -> Result<u64> {
    let path = match offered {
        Offered::Here(bytes) => return send_content(&mut bytes.as_slice(), "what is attested", id, packets),
        Offered::OfImage(path) => path,
    };
    let name = format!("{} of the image", path.display());
    let cannot = |error: io::Error| EngineError::system(format!("cannot read {name}: {error}"));
    send_content(&mut tree.open(&path).map_err(cannot)?, &name, id, packets)
}

fn send_content(file: &mut impl Read, name: &str, id: u32, packets: &mpsc::Sender<Packet>) -> Result<u64> {
    let cannot = |error: io::Error| EngineError::system(format!("cannot read {name}: {error}"));
    let mut sent = 0;
    loop {
        let mut data = vec![0; PACKET_BYTES];
        let length = file.read(&mut data).map_err(cannot)?;
        data.truncate(length);
        let packet = Packet {
            r#type: PacketType::PacketData.into(),
            id,
            data,
            ..Packet::default()
        };
        packets
            .blocking_send(packet)
            .map_err(|_| KitError::broken(WHAT, "it left in the middle"))?;
        sent += length as u64;
        if length == 0 {
            return Ok(sent);
        }
    }
}
