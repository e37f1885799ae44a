//! What can go wrong in a command, how it is worded, and which exit code it gives.

use std::io;

pub type Result<T, E = CliError> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The daemon refused: its own words, in Docker's frame.
    #[error("Error response from daemon: {message}")]
    Daemon { status: u16, message: String },
    #[error("Cannot connect to the daemon at {host}: {source}. Is it running?")]
    Connect { host: String, source: io::Error },
    #[error("connection to the daemon: {0}")]
    Transport(#[source] io::Error),
    #[error("unexpected answer from the daemon: {0}")]
    Protocol(String),
    /// Wrong use of a flag or option; exit code 125 as Docker's.
    #[error("{message}\nSee '{command} --help'.")]
    Usage { message: String, command: String },
    #[error("{0}")]
    Message(String),
    /// Everything has been said; only the exit code is left.
    #[error("exit status {0}")]
    Status(u8),
    /// Standard output is gone.
    #[error("write to standard output: {0}")]
    Output(#[source] io::Error),
}

impl CliError {
    pub fn message(text: impl Into<String>) -> Self {
        Self::Message(text.into())
    }

    /// The HTTP status, when the daemon answered.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Daemon { status, .. } => Some(*status),
            _ => None,
        }
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => 125,
            Self::Status(code) => *code,
            _ => 1,
        }
    }

    /// One line of advice, where there is one to give.
    pub fn hint(&self, program: &str) -> Option<String> {
        let Self::Daemon { message, .. } = self else {
            return None;
        };
        if let Some(rest) = message.split("The container name \"").nth(1) {
            let name = rest.split('"').next()?.trim_start_matches('/');
            return Some(format!(
                "remove it with `{program} rm -f {name}`, or choose another --name"
            ));
        }
        if message.contains("port is already allocated") || message.contains("address already in use") {
            return Some(format!(
                "see who holds the port with `{program} ps --filter publish=PORT`"
            ));
        }
        if message.contains("container is running: stop the container before removing") {
            return Some(format!("`{program} rm -f` stops and removes it in one step"));
        }
        None
    }
}
