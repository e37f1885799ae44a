//! Attaching the client to a process: what `run`, `start`, `attach` and `exec` share.

use crate::error::{CliError, Result};
use crate::http::{Hijacked, PendingHijack, Query, escape};
use crate::json::Value;
use crate::stream::{Ended, Pump, SignalQueue, parse_detach_keys};
use crate::{Session, terminal};
use signal_hook::consts::signal;
use std::io::Read;

/// What an attached process is, to its client.
pub struct Attached<'a> {
    /// `/containers/ID` or `/exec/ID`: where resize and kill go.
    pub path: &'a str,
    pub terminal: bool,
    pub stdin: bool,
    /// As given by `--detach-keys`; `None` for the configured or usual ones.
    pub detach_keys: Option<&'a str>,
    /// Pass signals on (never with a terminal, whose keys make them).
    pub proxies_signals: bool,
}

/// Refuses a terminal whose input is none, as Docker does.
pub fn check_terminal(stdin: bool, terminal: bool) -> Result<()> {
    if stdin && terminal && !terminal::stdin_is_terminal() {
        return Err(CliError::message("the input device is not a TTY"));
    }
    Ok(())
}

impl Attached<'_> {
    fn pump(&self, session: &Session) -> Result<Pump> {
        let mut detach_keys = Vec::new();
        if self.terminal && self.stdin {
            let configured = session.config.read_config().get("detachKeys").text().to_owned();
            let keys = self.detach_keys.filter(|keys| !keys.is_empty());
            let keys = keys.unwrap_or(if configured.is_empty() {
                "ctrl-p,ctrl-q"
            } else {
                &configured
            });
            let invalid =
                |reason| CliError::message(format!("invalid detach keys ({keys}) provided: {reason}"));
            detach_keys = parse_detach_keys(keys).map_err(invalid)?;
        }
        Ok(Pump {
            terminal: self.terminal,
            stdin: self.stdin,
            detach_keys,
        })
    }

    /// Signals to catch while attached. Take them before the process starts, so that none is lost.
    pub fn catch_signals(&self) -> Result<Option<SignalQueue>> {
        if self.terminal {
            SignalQueue::with_terminal().map(Some)
        } else if self.proxies_signals {
            SignalQueue::forwarded().map(Some)
        } else {
            Ok(None)
        }
    }

    /// Carries the streams until the process ends or the user detaches.
    pub fn run(&self, session: &Session, hijacked: Hijacked, signals: Option<SignalQueue>) -> Result<Ended> {
        let pump = self.pump(session)?;
        let _raw = if self.terminal && self.stdin && terminal::stdin_is_terminal() {
            Some(
                terminal::RawMode::enter()
                    .map_err(|error| CliError::message(format!("terminal: {error}")))?,
            )
        } else {
            None
        };
        if self.terminal {
            self.resize(session);
        }
        pump.run(hijacked, signals, |number| self.handle(session, number))
    }

    fn handle(&self, session: &Session, number: i32) -> Result<()> {
        match number {
            signal::SIGWINCH => self.resize(session),
            _ if self.terminal => return Err(CliError::Status(u8::try_from(128 + number).unwrap_or(255))),
            _ => {
                let path = Query::new(&format!("{}/kill", self.path))
                    .set("signal", &number.to_string())
                    .build();
                // It may just have ended, which the stream tells next.
                let _ = session.client.post(&path);
            }
        }
        Ok(())
    }

    fn resize(&self, session: &Session) {
        if let Some((rows, columns)) = terminal::size() {
            let path = Query::new(&format!("{}/resize", self.path))
                .set("h", &rows.to_string())
                .set("w", &columns.to_string())
                .build();
            // A process that has just ended has no size; nothing else depends on it.
            let _ = session.client.post(&path);
        }
    }
}

/// `/containers/NAME`, escaped.
pub fn container_path(name: &str) -> String {
    format!("/containers/{}", escape(name))
}

/// The path that attaches to a container's streams.
pub fn attach_path(
    container: &str,
    streams: crate::options::Attach,
    detach_keys: Option<&str>,
    logs: bool,
) -> String {
    Query::new(&format!("{container}/attach"))
        .set("stream", "1")
        .set_if(streams.stdin, "stdin", "1")
        .set_if(streams.stdout, "stdout", "1")
        .set_if(streams.stderr, "stderr", "1")
        .set_if(logs, "logs", "1")
        .set_some("detachKeys", detach_keys)
        .build()
}

/// Asks for the exit code before there is one.
pub fn begin_wait(session: &Session, container: &str, condition: &str) -> Result<PendingHijack> {
    session
        .client
        .begin("POST", &format!("{container}/wait?condition={condition}"))
}

/// The answer to a wait: the exit code, and the daemon's own error where it had one.
pub fn read_exit_code(mut answer: impl Read) -> Result<u8> {
    let mut bytes = Vec::new();
    answer.read_to_end(&mut bytes).map_err(CliError::Transport)?;
    let value = Value::parse(&bytes).map_err(|error| CliError::Protocol(format!("wait: {error}")))?;
    let error = value.at(&["Error", "Message"]).text();
    if !error.is_empty() {
        crate::output::tell!("Error waiting for container: {error}");
        return Ok(125);
    }
    Ok(value.get("StatusCode").integer() as u8)
}
