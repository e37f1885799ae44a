//! Reading a container's log for clients. The keeper writes it; nobody waits for a client that reads slowly.

use super::Container;
use crate::Engine;
use crate::error::{EngineError, Result};
use crate::plan;
use crate::views::{AttachRequest, LogRequest, LogStream};
use bytes::Bytes;
use naru_logs::{Batch, FrameStyle, LogReader, ReadOptions, append_frame};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// Chunks a slow client may lag behind before reading pauses.
const CHUNKS_AHEAD: usize = 8;

impl Engine {
    pub async fn container_logs(&self, name: &str, request: LogRequest) -> Result<LogStream> {
        let container = self.registry.find(name)?;
        if !request.stdout && !request.stderr {
            return Err(EngineError::invalid(
                "Bad parameters: you must choose at least one stream",
            ));
        }
        let reader = open_reader(&container, &request)?;
        let record = container.record();
        let terminal = record.spec.terminal;
        let style = FrameStyle {
            terminal,
            timestamps: request.timestamps,
            details: request.details.then(|| details(&plan::log_attributes(&record))),
        };
        drop(record);
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        tokio::spawn(async move {
            if let Err(error) = send_log(&container, reader, style, request.follow, &sender).await {
                // A client that has gone needs no error.
                let _ = sender.send(Err(error)).await;
            }
        });
        Ok(LogStream { terminal, chunks })
    }

    /// The whole log so far, framed, for an attach that asks for it.
    pub(super) async fn logged_so_far(
        &self,
        container: &Arc<Container>,
        request: &AttachRequest,
    ) -> Result<Vec<u8>> {
        let request = LogRequest {
            stdout: request.stdout,
            stderr: request.stderr,
            ..LogRequest::default()
        };
        let mut reader = open_reader(container, &request)?;
        let style = FrameStyle {
            terminal: container.record().spec.terminal,
            timestamps: false,
            details: None,
        };
        let mut framed = Vec::new();
        while let Batch::Entries(entries) = reader.next_batch().map_err(read_failed)? {
            for entry in &entries {
                append_frame(&mut framed, entry, &style);
            }
        }
        Ok(framed)
    }
}

fn open_reader(container: &Container, request: &LogRequest) -> Result<LogReader> {
    let record = container.record();
    let (path, format) = plan::log_place(&record, &container.directory).ok_or_else(|| {
        EngineError::new(
            naru_base::ErrorKind::NotImplemented,
            format!(
                "configured logging driver does not support reading: {}",
                record.spec.log.driver
            ),
        )
    })?;
    let options = ReadOptions {
        stdout: request.stdout,
        stderr: request.stderr,
        tail: request.tail,
        since: request.since,
        until: request.until,
        follow: request.follow,
    };
    LogReader::open(&path, format, options).map_err(read_failed)
}

/// `key=value` pairs as Docker writes them before each message, escaped like a query.
fn details(attributes: &[(String, String)]) -> String {
    let escape = |text: &String| {
        text.bytes().fold(String::new(), |escaped, byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped + &char::from(byte).to_string()
            }
            b' ' => escaped + "+",
            _ => escaped + &format!("%{byte:02X}"),
        })
    };
    let pairs = attributes
        .iter()
        .map(|(key, value)| format!("{}={}", escape(key), escape(value)));
    pairs.collect::<Vec<_>>().join(",")
}

fn read_failed(error: io::Error) -> EngineError {
    EngineError::system(format!("cannot read the container's log: {error}"))
}

async fn send_log(
    container: &Arc<Container>,
    mut reader: LogReader,
    style: FrameStyle,
    follow: bool,
    chunks: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    // Watched before the first read, so that nothing written in between is missed.
    let mut changes = if follow {
        Some(Changes::watch(&container.directory)?)
    } else {
        None
    };
    let mut phase = container.phase();
    let mut is_ended = false;
    loop {
        match reader.next_batch()? {
            Batch::Entries(entries) => {
                let mut framed = Vec::new();
                for entry in &entries {
                    append_frame(&mut framed, entry, &style);
                }
                if chunks.send(Ok(framed.into())).await.is_err() {
                    return Ok(());
                }
            }
            Batch::End => return Ok(()),
            Batch::Idle if is_ended => return Ok(()),
            Batch::Idle => {
                let Some(changes) = &mut changes else {
                    return Ok(());
                };
                tokio::select! {
                    // All output is in the log before a container counts as ended.
                    ended = phase.wait_for(|phase| !phase.is_running) => {
                        drop(ended);
                        reader.stop_following();
                        is_ended = true;
                    }
                    written = changes.wait() => written?,
                    () = chunks.closed() => return Ok(()),
                }
            }
        }
    }
}

/// Tells when something in a directory was written or renamed.
struct Changes {
    inotify: AsyncFd<OwnedFd>,
}

impl Changes {
    #[expect(
        deprecated,
        reason = "its successor is unsafe; an OwnedFd owns its descriptor for as long as it lives"
    )]
    fn watch(directory: &Path) -> io::Result<Self> {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        add_watch(
            &inotify,
            directory,
            WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO,
        )?;
        Ok(Self {
            inotify: AsyncFd::new(inotify)?,
        })
    }

    async fn wait(&mut self) -> io::Result<()> {
        let mut guard = self.inotify.readable().await?;
        // What changed does not matter: the reader looks for itself.
        let mut events = [0_u8; 4096];
        while rustix::io::read(&self.inotify, &mut events).is_ok() {}
        guard.clear_ready();
        Ok(())
    }
}
