//! The network of containers: one bridge, its addresses, outgoing NAT and published ports.
//!
//! ```text
//!   container netns            the daemon's netns
//!   ┌────────────────┐
//!   │ eth0 172.17.0.2│──veth── nv…┐
//!   └────────────────┘            ├─ bridge 172.17.0.1 ── forward, NAT ── eth0, lo
//!   ┌────────────────┐            │        nft table: maps (protocol, port) → (container address, port)
//!   │ eth0 172.17.0.3│──veth── nv…┘
//!   └────────────────┘
//! ```
//!
//! Everything lives in the kernel and goes on when the daemon is gone; [`Network::open`] finds it again. No helper
//! program is ever started and no file is written for a container. A veth is made in one message with its peer already
//! in the container's namespace, and never deleted on its own: it goes with the namespace.
//!
//! All calls are blocking and short (well under a millisecond); they may come from any thread that is in the network
//! namespace [`Network::open`] was called in.

mod address;
mod bridge;
mod error;
mod foreign;
mod hosts;
mod nftables;
mod ports;
mod publish;
mod ruleset;
mod watch;

pub use error::{NetworkError, Result};
pub use hosts::{hosts_file, resolv_conf};
pub use watch::RulesetWatch;

use address::AddressPool;
use naru_sys::netlink::{self, Protocol as Family};
use ports::PortTable;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// `BR_MAX_PORTS` less the one number the kernel keeps (`net/bridge/br_private.h`).
pub const BRIDGE_PORTS_MAX: usize = 1023;
/// `IFNAMSIZ` without the terminating zero.
const INTERFACE_NAME_BYTES_MAX: usize = 15;

#[derive(Debug, Clone)]
pub struct NetworkOptions {
    /// The bridge's name, at most 15 bytes: `naru0`, or one derived from the exec-root.
    pub bridge: String,
    /// The nft table's name: `naru`, or one derived from the exec-root.
    pub table: String,
    /// `--bip`: the bridge's own address and prefix length; `None` chooses a free private range.
    pub address: Option<(Ipv4Addr, u8)>,
    /// Remembers the chosen range, so that containers keep their addresses over a reboot.
    pub state_file: PathBuf,
}

/// The default bridge network of one engine.
#[derive(Debug)]
pub struct Network {
    options: NetworkOptions,
    gateway: Ipv4Addr,
    prefix_length: u8,
    bridge_index: u32,
    /// First and last port to choose from when none is asked for (`net.ipv4.ip_local_port_range`).
    ephemeral_ports: (u16, u16),
    /// Makes interface names differ, also for one container started twice: the old veth may still be going away.
    interface_counter: AtomicU32,
    route: Mutex<OwnedFd>,
    nft: Mutex<OwnedFd>,
    addresses: Mutex<AddressPool>,
    ports: Mutex<PortTable>,
    warnings: Mutex<Vec<String>>,
}

/// A container's place on the bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub address: Ipv4Addr,
    pub prefix_length: u8,
    pub gateway: Ipv4Addr,
    pub mac_address: [u8; 6],
    /// The name of the veth's end on the host.
    pub host_interface: String,
}

impl Endpoint {
    /// As Docker writes it: `02:42:ac:11:00:02`.
    pub fn mac_text(&self) -> String {
        self.mac_address.map(|byte| format!("{byte:02x}")).join(":")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One wanted publication of a container's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishRequest {
    pub container_port: u16,
    pub protocol: Protocol,
    /// `None` or `0.0.0.0`: every IPv4 address of the host.
    pub host_ip: Option<Ipv4Addr>,
    /// First and last host port to choose from; `None`: an ephemeral one. Equal: exactly that one.
    pub host_ports: Option<(u16, u16)>,
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Published {
    pub container_port: u16,
    pub protocol: Protocol,
    /// `None` for every IPv4 address of the host.
    pub host_ip: Option<Ipv4Addr>,
    pub host_port: u16,
}

/// A published port as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedEntry {
    pub published: Published,
    pub container_address: Ipv4Addr,
    /// The element's comment: the container's name and the start of its id.
    pub comment: String,
}

impl Network {
    /// The bridge's own address: the containers' gateway, and what `host-gateway` means.
    pub fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    pub fn prefix_length(&self) -> u8 {
        self.prefix_length
    }

    /// The bridge's subnet, as `172.17.0.0/16`.
    pub fn subnet(&self) -> String {
        let subnet = address::Subnet::containing(self.gateway, self.prefix_length);
        format!("{}/{}", subnet.network, subnet.prefix_length)
    }

    pub fn bridge(&self) -> &str {
        &self.options.bridge
    }

    /// What a person should know about this host, for `info` and the log. Each once.
    pub fn warnings(&self) -> Vec<String> {
        lock(&self.warnings).clone()
    }

    fn warn(&self, text: String) {
        let mut warnings = lock(&self.warnings);
        if !warnings.contains(&text) {
            tracing::warn!("{text}");
            warnings.push(text);
        }
    }
}

/// A panic while a lock was held leaves whole values behind here: every change is a single insertion or removal.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_socket(family: Family) -> Result<OwnedFd> {
    netlink::open(family)
        .map_err(|errno| error::refused(format!("open a {family:?} netlink socket"))(errno.into()))
}
