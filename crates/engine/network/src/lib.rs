//! The networks of containers: bridges, their addresses, outgoing NAT, isolation and published ports.
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
mod address6;
mod attach;
mod bridge;
mod conntrack;
mod error;
mod foreign;
mod hosts;
mod links;
mod links6;
mod nftables;
mod ports;
mod publish;
mod redirect;
mod ruleset;
mod sysctl;
mod watch;

pub use address::{Subnet, SubnetPool, choose_subnet};
pub use address6::{Ipv6Options, Ipv6Request, Subnet6};
pub use attach::{FIRST_INTERFACE, Place};
pub use bridge::{Bridge, BridgeOptions, BridgeRequest};
pub use error::{NetworkError, Result};
pub use hosts::{hosts_file, own_hosts_line, resolv_conf, resolv_conf_of_resolver};
pub use redirect::redirect_dns;
pub use watch::RulesetWatch;

use naru_sys::netlink::{self, Protocol as Family};
use ports::PortTable;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// `--fixed-cidr`: the part of the default bridge's subnet from which addresses are given out.
    pub range: Option<Subnet>,
    /// `--mtu`, for the default bridge.
    pub mtu: Option<u32>,
    /// `--icc`: whether containers on the default bridge reach each other.
    pub allows_between: bool,
    /// `--ip-masq`, for the default bridge.
    pub masquerades: bool,
    /// `--ip-forward`: whether a host that does not forward packets is to begin.
    pub turns_on_forwarding: bool,
    /// `--default-address-pool`: where networks without a subnet of their own take one.
    pub pools: Vec<SubnetPool>,
    /// `--ipv6`: what the default bridge's IPv6 side is to be; `None` for none.
    pub ipv6: Option<Ipv6Request>,
    /// `--ip6tables`: whether IPv6 is translated, published and kept apart by rules.
    pub rules_ipv6: bool,
    /// The other networks, as they were made.
    pub bridges: Vec<BridgeOptions>,
}

impl NetworkOptions {
    /// Docker's defaults for a bridge and a table of these names.
    pub fn new(bridge: String, table: String, state_file: PathBuf) -> Self {
        Self {
            bridge,
            table,
            address: None,
            state_file,
            range: None,
            mtu: None,
            allows_between: true,
            masquerades: true,
            turns_on_forwarding: true,
            pools: SubnetPool::defaults(),
            ipv6: None,
            rules_ipv6: true,
            bridges: Vec::new(),
        }
    }
}

/// The networks of one engine on its host.
#[derive(Debug)]
pub struct Network {
    options: NetworkOptions,
    default: Arc<Bridge>,
    /// All that are up, the default one first.
    bridges: Mutex<Vec<Arc<Bridge>>>,
    pools: Vec<SubnetPool>,
    /// Whether the kernel knows IPv6 at all.
    has_ipv6: bool,
    /// First and last port to choose from when none is asked for (`net.ipv4.ip_local_port_range`).
    ephemeral_ports: (u16, u16),
    /// Makes interface names differ, also for one container started twice: the old veth may still be going away.
    interface_counter: AtomicU32,
    route: Mutex<OwnedFd>,
    nft: Mutex<OwnedFd>,
    ports: Mutex<PortTable>,
    warnings: Mutex<Vec<String>>,
    /// Set by [`Network::close`]; a repair that was on its way must not bring back what is being removed.
    is_closed: AtomicBool,
}

/// A container's place on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The name of the network's bridge.
    pub bridge: String,
    /// The interface's name inside: `eth0`.
    pub interface: String,
    pub address: Ipv4Addr,
    pub prefix_length: u8,
    pub gateway: Ipv4Addr,
    pub mac_address: [u8; 6],
    /// The name of the veth's end on the host.
    pub host_interface: String,
    /// On a network with IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Endpoint6>,
}

/// The IPv6 side of a container's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint6 {
    pub address: Ipv6Addr,
    pub prefix_length: u8,
    pub gateway: Ipv6Addr,
}

/// Where published ports lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    pub ipv4: Ipv4Addr,
    pub ipv6: Option<Ipv6Addr>,
}

impl From<Ipv4Addr> for Target {
    fn from(ipv4: Ipv4Addr) -> Self {
        Self { ipv4, ipv6: None }
    }
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
    /// `None`: every address of the host, of the families that the container has. `0.0.0.0` and `::`: every address of
    /// that family.
    pub host_ip: Option<IpAddr>,
    /// First and last host port to choose from; `None`: an ephemeral one. Equal: exactly that one.
    pub host_ports: Option<(u16, u16)>,
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Published {
    pub container_port: u16,
    pub protocol: Protocol,
    /// `0.0.0.0` or `::` for every address of the host of that family.
    pub host_ip: IpAddr,
    pub host_port: u16,
}

/// A published port as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedEntry {
    pub published: Published,
    pub container_address: IpAddr,
    /// The element's comment: the container's name and the start of its id.
    pub comment: String,
}

impl Network {
    /// Makes the bridges and the table, or takes over what an earlier daemon left. May be called while containers of
    /// that daemon run; nothing they use is interrupted. A network that cannot be made is left out, with a warning.
    pub fn open(options: NetworkOptions) -> Result<Self> {
        let route = open_socket(Family::Route)?;
        let nft = open_socket(Family::Netfilter)?;
        let default = Arc::new(bridge::open_default(route.as_fd(), &options)?);
        let mut bridges = vec![Arc::clone(&default)];
        let mut warnings = Vec::new();
        for other in &options.bridges {
            match bridge::open_bridge(route.as_fd(), other.clone()) {
                Ok(bridge) => bridges.push(Arc::new(bridge)),
                Err(error) => warnings.push(format!("network on bridge {} is not up: {error}", other.name)),
            }
        }
        let has_ipv6_bridge = bridges.iter().any(|bridge| bridge.has_ipv6());
        let network = Self {
            default,
            bridges: Mutex::new(bridges),
            pools: options.pools.clone(),
            has_ipv6: sysctl::path("net/ipv6").exists(),
            ephemeral_ports: sysctl::read_ephemeral_ports(),
            interface_counter: AtomicU32::new(RandomState::new().hash_one(&options.bridge) as u32),
            route: Mutex::new(route),
            nft: Mutex::new(nft),
            ports: Mutex::new(PortTable::default()),
            warnings: Mutex::new(Vec::new()),
            is_closed: AtomicBool::new(false),
            options,
        };
        for warning in warnings {
            network.warn(warning);
        }
        network.forward(ruleset::Family::Ipv4)?;
        if has_ipv6_bridge {
            network.forward(ruleset::Family::Ipv6)?;
        }
        network.adopt_table()?;
        network.ensure_foreign_accept()?;
        network.warn_of_legacy_tables();
        Ok(network)
    }

    /// Has the host forward packets, if it does not yet, and then only those that somebody accepts.
    pub(crate) fn forward(&self, family: ruleset::Family) -> Result<()> {
        if !self.options.turns_on_forwarding || sysctl::is_forwarding(family) {
            return Ok(());
        }
        self.drop_by_policy(family);
        match family {
            ruleset::Family::Ipv4 => sysctl::write(sysctl::FORWARDING, "1"),
            ruleset::Family::Ipv6 => sysctl::forward_ipv6(),
        }
    }

    /// Removes the table, the foreign rules and the bridges. Containers still attached lose their network.
    pub fn close(&self) -> Result<()> {
        self.is_closed.store(true, Ordering::Release);
        self.remove_foreign_accept()?;
        self.remove_table()?;
        for bridge in self.bridges() {
            match links::delete_link(lock(&self.route).as_fd(), bridge.name()) {
                Err(refusal) if refusal.errno == rustix::io::Errno::NODEV => {}
                result => result.map_err(error::refused(format!("delete bridge {}", bridge.name())))?,
            }
        }
        Ok(())
    }

    /// The network of containers that ask for none in particular.
    pub fn default_bridge(&self) -> &Arc<Bridge> {
        &self.default
    }

    /// The default bridge's own address: what `host-gateway` means.
    pub fn gateway(&self) -> Ipv4Addr {
        self.default.gateway()
    }

    pub fn prefix_length(&self) -> u8 {
        self.default.subnet().prefix_length
    }

    /// The default bridge's subnet, as `172.17.0.0/16`.
    pub fn subnet(&self) -> String {
        self.default.subnet().to_string()
    }

    pub fn bridge(&self) -> &str {
        self.default.name()
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
