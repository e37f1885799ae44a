//! Attaching a client to a container's standard streams.

use super::lock;
use crate::Engine;
use crate::error::{EngineError, Result};
use crate::keepers::keeper_gone;
use crate::views::{AttachRequest, AttachStream};
use naru_keeper::protocol::{AttachOptions, Reply, Request, Target};
use std::os::fd::{AsFd, OwnedFd};
use tokio::net::UnixStream;

/// Docker's detach keys: ctrl-p, ctrl-q.
const DETACH_KEYS_DEFAULT: [u8; 2] = [16, 17];

impl Engine {
    /// Works on a container not started yet too: the stream then carries everything from its first byte.
    pub async fn attach_container(&self, name: &str, request: AttachRequest) -> Result<AttachStream> {
        let container = self.registry.find(name)?;
        let record = container.record();
        let detach_keys = parse_detach_keys(request.detach_keys.as_deref())?;
        let replay = if request.logs {
            self.logged_so_far(&container, &request).await?
        } else {
            Vec::new()
        };
        let terminal = record.spec.terminal;
        if !request.stream {
            return Ok(AttachStream {
                replay,
                socket: None,
                terminal,
            });
        }
        let options = AttachOptions {
            stdin: request.stdin && record.spec.open_stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            detach_keys,
        };
        let (ours, theirs) = stream_pair()?;
        match container.keeper() {
            Some(keeper) => {
                let answer = keeper.request(&Request::Attach(options), &[theirs.as_fd()]).await;
                refused_is_error(answer.map_err(keeper_gone)?.0)?;
            }
            None => lock(&container.pending_attachments).push((options, theirs)),
        }
        self.container_event("attach", &container, &[]);
        Ok(AttachStream {
            replay,
            socket: Some(ours),
            terminal,
        })
    }

    pub async fn resize_container(&self, name: &str, rows: u16, columns: u16) -> Result<()> {
        let container = self.registry.find(name)?;
        let keeper = container.running_keeper()?;
        // What has no terminal has no size, and Docker takes that for done.
        if !container.record().spec.terminal {
            return Ok(());
        }
        let request = Request::Resize {
            target: Target::Init,
            rows,
            columns,
        };
        refused_is_error(keeper.request(&request, &[]).await.map_err(keeper_gone)?.0)?;
        let size = [("height", &*rows.to_string()), ("width", &*columns.to_string())];
        self.container_event("resize", &container, &size);
        Ok(())
    }
}

/// A refusal by the keeper, as an error of the request.
pub(super) fn refused_is_error(reply: Reply) -> Result<()> {
    match reply {
        Reply::Refused { message } => Err(EngineError::conflict(message)),
        _ => Ok(()),
    }
}

/// Two ends of a stream: one for the client's handler, one for the keeper.
pub(super) fn stream_pair() -> Result<(UnixStream, OwnedFd)> {
    let failed = |error: std::io::Error| EngineError::system(format!("cannot make a socket: {error}"));
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
    ours.set_nonblocking(true).map_err(failed)?;
    Ok((UnixStream::from_std(ours).map_err(failed)?, theirs.into()))
}

/// `ctrl-p,ctrl-q`, `a,b`, `ctrl-@`: each part a character or `ctrl-` with a letter or one of `@[\]^_`.
pub(super) fn parse_detach_keys(text: Option<&str>) -> Result<Vec<u8>> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(DETACH_KEYS_DEFAULT.to_vec());
    };
    text.split(',')
        .map(|key| {
            let control = key.strip_prefix("ctrl-").map(str::to_ascii_uppercase);
            match (control.as_deref().map(str::as_bytes), key.as_bytes()) {
                (Some([letter @ b'@'..=b'_']), _) => Ok(letter - b'@'),
                (None, [single]) => Ok(*single),
                _ => Err(EngineError::invalid(format!(
                    "Invalid detach keys ({text}) provided"
                ))),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_in_dockers_notation() {
        assert_eq!(parse_detach_keys(None).unwrap(), [16, 17]);
        assert_eq!(parse_detach_keys(Some("ctrl-a,b")).unwrap(), [1, b'b']);
        assert_eq!(parse_detach_keys(Some("ctrl-@,ctrl-_")).unwrap(), [0, 31]);
        for text in ["ctrl-", "ctrl-ab", "xy", "ctrl-1"] {
            assert!(parse_detach_keys(Some(text)).is_err(), "{text}");
        }
    }
}
