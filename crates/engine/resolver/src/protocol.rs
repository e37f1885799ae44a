//! What the daemon and the resolver say to each other.
//!
//! ```text
//!  daemon                                   resolver
//!    │── Hello ────────────────────────────────▶│
//!    │◀── State: version, containers, endpoints ┤  what it knows from an earlier daemon
//!    │── SetEndpoint, RemoveEndpoint ──────────▶│
//!    │── Open + netns ─────────────────────────▶│  sockets and rules in the container's namespace
//!    │── Watch + pidfd ────────────────────────▶│  its end closes the container
//!    │── Set, Close ───────────────────────────▶│
//!    │◀── one reply to each, in order ──────────┤
//! ```
//! Every request may be repeated. Transport: `SOCK_SEQPACKET`, one JSON message a packet.

use crate::settings::{ContainerSettings, EndpointNames};
use naru_sys::seqpacket::SeqPacket;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Raised when messages change, so that a daemon replaces a resolver that does not understand it.
pub const PROTOCOL_VERSION: u32 = 1;

/// Largest message: the state of some ten thousand endpoints is sent in parts below it.
pub const MESSAGE_BYTES_MAX: usize = 128 * 1024;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Answer: `State`, as often as it takes, the last with `is_last`.
    Hello,
    /// Begin to answer in the network namespace that comes along. Answer: `Done` or `Failed`.
    Open {
        container: String,
        settings: ContainerSettings,
    },
    /// Replace a container's settings. Answer: `Done`, or `Failed` for a container that is not open.
    Set {
        container: String,
        settings: ContainerSettings,
    },
    /// Close the container when the process behind the pidfd that comes along ends. Answer: `Done`.
    Watch { container: String },
    /// Answer: `Done`, also for a container that is not open.
    Close { container: String },
    /// Answer: `Done`.
    SetEndpoint {
        network: String,
        container: String,
        endpoint: EndpointNames,
    },
    /// Answer: `Done`.
    RemoveEndpoint { network: String, container: String },
    /// End, whatever is open. No answer.
    End,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    State {
        version: u32,
        /// Open containers.
        containers: Vec<String>,
        /// Network and container of each endpoint.
        endpoints: Vec<(String, String)>,
        is_last: bool,
    },
    Done,
    Failed {
        message: String,
    },
}

/// Sends a message; on a nonblocking socket `WouldBlock` means that nothing was sent.
pub fn send<T: Serialize>(socket: &SeqPacket, message: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message).map_err(io::Error::other)?;
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a message of {} bytes to the resolver is too long", bytes.len()),
        ));
    }
    socket.send(&bytes, descriptors)
}

/// Receives a message with its descriptors; `None` when the other end has closed.
pub fn receive<T: DeserializeOwned>(socket: &SeqPacket) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let Some(packet) = socket.receive(MESSAGE_BYTES_MAX)? else {
        return Ok(None);
    };
    let message = serde_json::from_slice(&packet.bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(Some((message, packet.descriptors)))
}
