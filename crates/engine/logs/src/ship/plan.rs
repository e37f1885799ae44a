//! Where messages go and how they look there: decided by the daemon, carried out by the keeper.

use super::lines::Line;
use super::{fluentd, gelf, journald, syslog};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShipPlan {
    pub driver: DriverPlan,
    pub mode: ShipMode,
}

/// What happens when the receiver is slower than the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShipMode {
    /// The container waits.
    Blocking,
    /// Messages beyond this much are lost.
    NonBlocking { bytes_max: usize },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverPlan {
    Journald(JournaldPlan),
    Syslog(SyslogPlan),
    Fluentd(FluentdPlan),
    Gelf(GelfPlan),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournaldPlan {
    pub socket: PathBuf,
    /// Sent with each message; the names are journald's.
    pub fields: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyslogPlan {
    /// The first one that answers.
    pub addresses: Vec<Address>,
    /// `LOG_DAEMON` is 3.
    pub facility: u8,
    pub format: SyslogFormat,
    pub hostname: String,
    pub tag: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsPlan>,
}

/// Files are read when the container starts, and not again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsPlan {
    /// Whose certificate is expected: a host's name or address.
    pub server_name: String,
    /// An authority beside those of the host.
    pub authority: Option<PathBuf>,
    /// What the receiver is shown; both or neither.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Whoever answers is believed.
    pub skips_verification: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyslogFormat {
    /// As RFC 3164 without the host's name: Docker's default.
    Unix,
    Rfc3164,
    Rfc5424,
    /// With microseconds.
    Rfc5424Micro,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FluentdPlan {
    pub address: Address,
    pub tag: String,
    /// Told with each message: names, labels, variables.
    pub fields: Vec<(String, String)>,
    /// The container starts without a receiver.
    pub is_async: bool,
    pub retry_wait_ms: u64,
    pub retries_max: u32,
    /// Times as fluentd's `EventTime`.
    pub is_precise: bool,
    /// A message is sent until the receiver says that it has it.
    #[serde(default)]
    pub asks_for_ack: bool,
}

/// A message on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub bytes: Vec<u8>,
    /// What the receiver is to answer with, before the message counts as sent.
    pub chunk: Option<String>,
}

impl From<Vec<u8>> for Message {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, chunk: None }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GelfPlan {
    pub address: Address,
    pub compression: Compression,
    pub hostname: String,
    /// Told with each message; the names begin with an underscore.
    pub fields: Vec<(String, String)>,
    pub reconnects_max: u32,
    pub reconnect_delay_ms: u64,
}

/// Of a GELF message over UDP; the level is zlib's, -1 for its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    Gzip { level: i8 },
    Zlib { level: i8 },
    None,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    UnixStream(PathBuf),
    UnixDatagram(PathBuf),
    Udp(SocketAddr),
    Tcp(SocketAddr),
}

impl Address {
    /// A message is a packet: one that cannot be sent is lost by itself.
    pub(super) fn is_datagram(&self) -> bool {
        matches!(self, Self::UnixDatagram(_) | Self::Udp(_))
    }
}

/// How a broken connection is made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Retry {
    /// A start without a receiver is no error.
    pub is_async: bool,
    /// Between two tries.
    pub wait: Duration,
    /// After so many failures a message is lost.
    pub tries_max: u32,
}

/// The driver's name and where it leads, `syslog to tcp://127.0.0.1:514`.
impl fmt::Display for DriverPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Journald(_) => "journald",
            Self::Syslog(_) => "syslog",
            Self::Fluentd(_) => "fluentd",
            Self::Gelf(_) => "gelf",
        };
        write!(f, "{name}")?;
        for (ordinal, address) in self.address().iter().enumerate() {
            write!(f, "{}{address}", if ordinal == 0 { " to " } else { " or " })?;
        }
        Ok(())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnixStream(path) => write!(f, "unix://{}", path.display()),
            Self::UnixDatagram(path) => write!(f, "unixgram://{}", path.display()),
            Self::Udp(to) => write!(f, "udp://{to}"),
            Self::Tcp(to) => write!(f, "tcp://{to}"),
        }
    }
}

impl DriverPlan {
    /// Where to connect to, best first.
    pub(super) fn address(&self) -> Vec<Address> {
        match self {
            Self::Journald(plan) => vec![Address::UnixDatagram(plan.socket.clone())],
            Self::Syslog(plan) => plan.addresses.clone(),
            Self::Fluentd(plan) => vec![plan.address.clone()],
            Self::Gelf(plan) => vec![plan.address.clone()],
        }
    }

    pub(super) fn retry(&self) -> Retry {
        match self {
            // srslog connects anew once for a message, and gives that up then.
            Self::Journald(_) | Self::Syslog(_) => Retry {
                is_async: false,
                wait: Duration::ZERO,
                tries_max: 1,
            },
            Self::Fluentd(plan) => Retry {
                is_async: plan.is_async,
                wait: Duration::from_millis(plan.retry_wait_ms),
                tries_max: plan.retries_max,
            },
            Self::Gelf(plan) => Retry {
                is_async: false,
                wait: Duration::from_millis(plan.reconnect_delay_ms),
                tries_max: plan.reconnects_max,
            },
        }
    }

    pub(super) fn tls(&self) -> Option<&TlsPlan> {
        match self {
            Self::Syslog(plan) => plan.tls.as_ref(),
            _ => None,
        }
    }

    /// The packets, or the piece of a stream, that a message becomes.
    pub(super) fn encode(&self, line: &Line<'_>) -> Vec<Message> {
        match self {
            Self::Journald(plan) => vec![journald::encode(plan, line).into()],
            Self::Syslog(plan) => vec![syslog::encode(plan, line).into()],
            Self::Fluentd(plan) => vec![fluentd::encode(plan, line)],
            Self::Gelf(plan) => gelf::encode(plan, line).into_iter().map(Message::from).collect(),
        }
    }
}
