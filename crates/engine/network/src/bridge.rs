//! The bridge and the veths on it, by rtnetlink.

use crate::address::{AddressPool, Subnet, choose_subnet, mac_of};
use crate::error::{NetworkError, Result, refused};
use crate::ports::PortTable;
use crate::{
    BRIDGE_PORTS_MAX, Endpoint, INTERFACE_NAME_BYTES_MAX, Network, NetworkOptions, Published, lock,
    open_socket,
};
use naru_base::ContainerId;
use naru_sys::netlink::{
    self, Batch, FLAG_CREATE, FLAG_DUMP, FLAG_EXCLUSIVE, FLAG_REPLACE, Protocol as Family, Refusal,
};
use rustix::io::Errno;
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const LINK_BYTES: usize = 16;
const ADDRESS_BYTES: usize = 8;
const ROUTE_BYTES: usize = 12;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_NET_NS_FD: u16 = 28;
const VETH_INFO_PEER: u16 = 1;
const UP: u32 = libc::IFF_UP as u32;
/// What the bridge's end of a veth is called; nothing else on a bridge of ours is.
const INTERFACE_PREFIX: &str = "nv";
/// The name inside a container.
const CONTAINER_INTERFACE: &str = "eth0";

/// `struct ifinfomsg`; `flags` are set and all others left alone.
fn link_message(index: u32, flags: u32) -> [u8; LINK_BYTES] {
    let mut bytes = [0; LINK_BYTES];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

fn write_address(batch: &mut Batch, kind: u16, flags: u16, index: u32, address: Ipv4Addr, prefix_length: u8) {
    let mut fixed = [libc::AF_INET as u8, prefix_length, 0, 0, 0, 0, 0, 0];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    batch.begin(kind, flags, &fixed);
    let broadcast = address.to_bits() | !crate::address::mask(prefix_length);
    batch.attribute(2, &address.octets());
    batch.attribute(1, &address.octets());
    batch.attribute(4, &broadcast.to_be_bytes());
}

impl Network {
    /// Makes the bridge and the table, or takes over what an earlier daemon left. May be called while containers of
    /// that daemon run; nothing they use is interrupted.
    pub fn open(options: NetworkOptions) -> Result<Self> {
        check_options(&options)?;
        let route = open_socket(Family::Route)?;
        let nft = open_socket(Family::Netfilter)?;
        let (gateway, prefix_length) = prepare_bridge(route.as_fd(), &options)?;
        let bridge_index = netlink::interface_index(route.as_fd(), &options.bridge)
            .map_err(|errno| refused(format!("find bridge {}", options.bridge))(errno.into()))?;
        write_sysctl("net/ipv4/ip_forward", "1")?;
        let network = Self {
            gateway,
            prefix_length,
            bridge_index,
            ephemeral_ports: read_ephemeral_ports(),
            interface_counter: AtomicU32::new(RandomState::new().hash_one(&options.bridge) as u32),
            route: Mutex::new(route),
            nft: Mutex::new(nft),
            addresses: Mutex::new(AddressPool::new(gateway, prefix_length)),
            ports: Mutex::new(PortTable::default()),
            warnings: Mutex::new(Vec::new()),
            options,
        };
        network.adopt_table()?;
        network.ensure_foreign_accept()?;
        network.warn_of_legacy_tables();
        Ok(network)
    }

    /// Gives a container its interface: a veth whose peer `eth0` is made inside `netns`, with address and default
    /// route. `route_socket` is a `NETLINK_ROUTE` socket opened in that namespace.
    pub fn attach(
        &self,
        container: &ContainerId,
        netns: BorrowedFd<'_>,
        route_socket: BorrowedFd<'_>,
        mac: Option<[u8; 6]>,
        address: Option<Ipv4Addr>,
    ) -> Result<Endpoint> {
        let address = self.allocate(address)?;
        let endpoint = Endpoint {
            address,
            prefix_length: self.prefix_length,
            gateway: self.gateway,
            mac_address: mac.unwrap_or_else(|| mac_of(address)),
            host_interface: self.interface_name(container),
        };
        let attached = self.make_veth(&endpoint, netns).and_then(|()| {
            configure_inside(&endpoint, route_socket).inspect_err(|_| {
                // Slow (it waits for RCU), but this is the failing path only.
                let _ = delete_link(lock(&self.route).as_fd(), &endpoint.host_interface);
            })
        });
        match attached {
            Ok(()) => {
                // Failing costs a first packet at most.
                let _ = netlink::settle_carrier(lock(&self.route).as_fd(), &endpoint.host_interface);
                let _ = netlink::settle_carrier(route_socket, CONTAINER_INTERFACE);
                Ok(endpoint)
            }
            Err(error) => {
                lock(&self.addresses).release(address);
                Err(error)
            }
        }
    }

    /// Gives the address back. The interface goes with the container's network namespace.
    pub fn detach(&self, endpoint: &Endpoint) {
        lock(&self.addresses).release(endpoint.address);
    }

    /// Takes note of a container that has been running since before [`Network::open`].
    pub fn reserve(&self, container: &ContainerId, endpoint: &Endpoint) {
        if let Err(error) = lock(&self.addresses).restore(endpoint.address) {
            tracing::warn!(container = container.short(), %error, "cannot reserve a running container's address");
        }
    }

    /// Removes interfaces and published ports that belong to nobody: those not in the two lists.
    pub fn sweep(&self, live: &[Endpoint], published: &[Published]) -> Result<()> {
        let live: HashSet<&str> = live
            .iter()
            .map(|endpoint| endpoint.host_interface.as_str())
            .collect();
        let route = lock(&self.route);
        for name in list_bridge_ports(route.as_fd(), self.bridge_index)? {
            if name.starts_with(INTERFACE_PREFIX) && !live.contains(name.as_str()) {
                match delete_link(route.as_fd(), &name) {
                    // It went with its namespace meanwhile.
                    Err(refusal) if refusal.errno == Errno::NODEV => {}
                    result => result.map_err(refused(format!("delete interface {name}")))?,
                }
            }
        }
        drop(route);
        self.sweep_ports(published)
    }

    /// Removes the table, the foreign rules and the bridge. Containers still attached lose their network.
    pub fn close(&self) -> Result<()> {
        self.remove_foreign_accept()?;
        self.remove_table()?;
        match delete_link(lock(&self.route).as_fd(), &self.options.bridge) {
            Err(refusal) if refusal.errno == Errno::NODEV => Ok(()),
            result => result.map_err(refused(format!("delete bridge {}", self.options.bridge))),
        }
    }

    fn allocate(&self, wanted: Option<Ipv4Addr>) -> Result<Ipv4Addr> {
        let mut addresses = lock(&self.addresses);
        if addresses.len() >= BRIDGE_PORTS_MAX {
            return Err(NetworkError::BridgeFull {
                bridge: self.options.bridge.clone(),
            });
        }
        match wanted {
            Some(address) => addresses.take(address).map(|()| address),
            None => addresses.allocate(),
        }
    }

    fn interface_name(&self, container: &ContainerId) -> String {
        let number = self.interface_counter.fetch_add(1, Ordering::Relaxed) & 0xf_ffff;
        format!("{INTERFACE_PREFIX}{}{number:05x}", &container.as_str()[..8])
    }

    fn make_veth(&self, endpoint: &Endpoint, netns: BorrowedFd<'_>) -> Result<()> {
        let mut batch = Batch::new();
        batch.begin(RTM_NEWLINK, FLAG_CREATE | FLAG_EXCLUSIVE, &link_message(0, UP));
        batch.acknowledge();
        batch.attribute_text(IFLA_IFNAME, &endpoint.host_interface);
        batch.attribute_u32(IFLA_MASTER, self.bridge_index);
        let info = batch.begin_nested(IFLA_LINKINFO);
        batch.attribute_text(IFLA_INFO_KIND, "veth");
        let data = batch.begin_nested(IFLA_INFO_DATA);
        let peer = batch.begin_nested(VETH_INFO_PEER);
        // The peer cannot come up in this message: it is made before the end it belongs to.
        batch.raw(&link_message(0, 0));
        batch.attribute_text(IFLA_IFNAME, CONTAINER_INTERFACE);
        batch.attribute(IFLA_ADDRESS, &endpoint.mac_address);
        batch.attribute_u32(IFLA_NET_NS_FD, netns.as_raw_fd() as u32);
        batch.end_nested(peer);
        batch.end_nested(data);
        batch.end_nested(info);
        write_hairpin(&mut batch, &endpoint.host_interface);
        let route = lock(&self.route);
        netlink::exchange(route.as_fd(), batch).map_err(|refusal| {
            // Refused in the first message, nothing was made, and what has the name is not ours to delete.
            if refusal.message == Some(1) {
                let _ = delete_link(route.as_fd(), &endpoint.host_interface);
            }
            if refusal.errno == Errno::XFULL {
                return NetworkError::BridgeFull {
                    bridge: self.options.bridge.clone(),
                };
            }
            refused(format!(
                "make interface {} on {}",
                endpoint.host_interface, self.options.bridge
            ))(refusal)
        })
    }
}

/// With br_netfilter a connection of a container to its own published port is turned around inside the bridge, which
/// sends a frame back through the port it came from only in hairpin mode. A port cannot be made with it.
fn write_hairpin(batch: &mut Batch, interface: &str) {
    batch.begin(RTM_NEWLINK, 0, &link_message(0, 0));
    batch.attribute_text(IFLA_IFNAME, interface);
    let info = batch.begin_nested(IFLA_LINKINFO);
    batch.attribute_text(IFLA_INFO_SLAVE_KIND, "bridge");
    let data = batch.begin_nested(IFLA_INFO_SLAVE_DATA);
    batch.attribute(IFLA_BRPORT_MODE, &[1]);
    batch.end_nested(data);
    batch.end_nested(info);
}

/// Address, up and default route in one batch; a route needs an interface that is up.
fn configure_inside(endpoint: &Endpoint, route_socket: BorrowedFd<'_>) -> Result<()> {
    let what = || format!("configure {CONTAINER_INTERFACE} of address {}", endpoint.address);
    let index = netlink::interface_index(route_socket, CONTAINER_INTERFACE)
        .map_err(|errno| refused(what())(errno.into()))?;
    let mut batch = Batch::new();
    let flags = FLAG_CREATE | FLAG_EXCLUSIVE;
    write_address(
        &mut batch,
        RTM_NEWADDR,
        flags,
        index,
        endpoint.address,
        endpoint.prefix_length,
    );
    batch.begin(RTM_NEWLINK, 0, &link_message(index, UP));
    let protocol = libc::RTPROT_BOOT;
    let fixed = [
        libc::AF_INET as u8,
        0,
        0,
        0,
        libc::RT_TABLE_MAIN,
        protocol,
        0,
        libc::RTN_UNICAST,
        0,
        0,
        0,
        0,
    ];
    batch.begin(RTM_NEWROUTE, flags, &fixed);
    batch.acknowledge();
    batch.attribute(libc::RTA_GATEWAY, &endpoint.gateway.octets());
    batch.attribute_u32(libc::RTA_OIF, index);
    netlink::exchange(route_socket, batch).map_err(refused(what()))
}

fn check_options(options: &NetworkOptions) -> Result<()> {
    let is_name = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    };
    let invalid = |text: String| Err(NetworkError::InvalidOption(text));
    if !is_name(&options.bridge)
        || options.bridge.len() > INTERFACE_NAME_BYTES_MAX
        || matches!(options.bridge.as_str(), "." | "..")
    {
        return invalid(format!("{:?} cannot be the name of a bridge", options.bridge));
    }
    if !is_name(&options.table) {
        return invalid(format!("{:?} cannot be the name of a table", options.table));
    }
    if let Some((address, prefix_length)) = options.address {
        let subnet = Subnet::containing(address, prefix_length);
        let host_part = address.to_bits() & !crate::address::mask(prefix_length);
        let is_host = host_part != 0 && host_part != !crate::address::mask(prefix_length);
        let is_unicast = !address.is_loopback() && !address.is_multicast() && !address.is_unspecified();
        if !(8..=30).contains(&prefix_length) || !is_host || !is_unicast {
            return invalid(format!(
                "{address}/{prefix_length} is no host address in {}",
                subnet.network
            ));
        }
    }
    Ok(())
}

/// Makes the bridge exist, safe and up, with exactly one IPv4 address, which is returned.
fn prepare_bridge(route: BorrowedFd<'_>, options: &NetworkOptions) -> Result<(Ipv4Addr, u8)> {
    let bridge = options.bridge.as_str();
    let old_index = netlink::interface_index(route, bridge).ok();
    let present = match old_index {
        Some(index) => list_addresses(route, index)?,
        None => Vec::new(),
    };
    let (address, prefix_length) = match (options.address, present.first()) {
        (Some(wanted), _) => wanted,
        (None, Some(found)) => *found,
        (None, None) => choose_address(route, options)?,
    };
    let index = match old_index {
        Some(index) => index,
        None => make_bridge(route, bridge, address)?,
    };
    harden_bridge(bridge)?;
    let mut batch = Batch::new();
    for (other, length) in present.iter().filter(|found| **found != (address, prefix_length)) {
        write_address(&mut batch, RTM_DELADDR, 0, index, *other, *length);
    }
    let flags = FLAG_CREATE | FLAG_REPLACE;
    write_address(&mut batch, RTM_NEWADDR, flags, index, address, prefix_length);
    batch.begin(RTM_NEWLINK, 0, &link_message(index, UP));
    batch.acknowledge();
    netlink::exchange(route, batch).map_err(refused(format!(
        "give bridge {bridge} the address {address}/{prefix_length}"
    )))?;
    write_state(&options.state_file, address, prefix_length)?;
    Ok((address, prefix_length))
}

fn make_bridge(route: BorrowedFd<'_>, bridge: &str, address: Ipv4Addr) -> Result<u32> {
    let mut batch = Batch::new();
    batch.begin(RTM_NEWLINK, FLAG_CREATE | FLAG_EXCLUSIVE, &link_message(0, 0));
    batch.acknowledge();
    batch.attribute_text(IFLA_IFNAME, bridge);
    // Without an address of its own a bridge changes it as ports come and go, and containers lose their gateway.
    batch.attribute(IFLA_ADDRESS, &mac_of(address));
    let info = batch.begin_nested(IFLA_LINKINFO);
    batch.attribute_text(IFLA_INFO_KIND, "bridge");
    batch.end_nested(info);
    netlink::exchange(route, batch).map_err(refused(format!("make bridge {bridge}")))?;
    netlink::interface_index(route, bridge)
        .map_err(|errno| refused(format!("find bridge {bridge}"))(errno.into()))
}

/// No IPv6 on a bridge that has no IPv6 network (CVE-2024-32473) and none to be announced by a container
/// (CVE-2020-13401). The host's 127.0.0.1 may reach published ports through this one interface; what comes back the
/// other way is stopped by the guard chain (CVE-2020-8558).
fn harden_bridge(bridge: &str) -> Result<()> {
    for (name, value) in [("accept_ra", "0"), ("disable_ipv6", "1")] {
        let path = format!("net/ipv6/conf/{bridge}/{name}");
        // A kernel without IPv6 has no such file.
        if sysctl_path(&path).exists() {
            write_sysctl(&path, value)?;
        }
    }
    write_sysctl(&format!("net/ipv4/conf/{bridge}/route_localnet"), "1")
}

fn choose_address(route: BorrowedFd<'_>, options: &NetworkOptions) -> Result<(Ipv4Addr, u8)> {
    let taken = list_routes(route)?;
    let remembered = read_state(&options.state_file).filter(|(address, length)| {
        !taken
            .iter()
            .any(|other| other.overlaps(Subnet::containing(*address, *length)))
    });
    remembered
        .or_else(|| choose_subnet(&taken))
        .ok_or_else(|| NetworkError::NoFreeSubnet {
            bridge: options.bridge.clone(),
        })
}

fn list_addresses(route: BorrowedFd<'_>, index: u32) -> Result<Vec<(Ipv4Addr, u8)>> {
    let mut request = Batch::new();
    request.begin(
        RTM_GETADDR,
        FLAG_DUMP,
        &[libc::AF_INET as u8, 0, 0, 0, 0, 0, 0, 0],
    );
    let mut addresses = Vec::new();
    netlink::dump(route, request, |message| {
        let local = message
            .attributes(ADDRESS_BYTES)
            .get(2)
            .and_then(<[u8]>::first_chunk::<4>);
        if let (Some(address), Some(prefix_length)) = (local, message.payload.get(1))
            && message.payload.get(4..8) == Some(&index.to_ne_bytes())
        {
            addresses.push((Ipv4Addr::from(*address), *prefix_length));
        }
    })
    .map_err(refused("list addresses"))?;
    Ok(addresses)
}

/// Destinations of all IPv4 routes but the default ones.
fn list_routes(route: BorrowedFd<'_>) -> Result<Vec<Subnet>> {
    let mut request = Batch::new();
    let mut fixed = [0; ROUTE_BYTES];
    fixed[0] = libc::AF_INET as u8;
    request.begin(RTM_GETROUTE, FLAG_DUMP, &fixed);
    let mut routes = Vec::new();
    netlink::dump(route, request, |message| {
        let destination = message
            .attributes(ROUTE_BYTES)
            .get(libc::RTA_DST)
            .and_then(<[u8]>::first_chunk::<4>);
        // A prefix of 0 or 1 bit is a default route, or half of one as VPNs write it.
        if let (Some(network), Some(length @ 2..=32)) = (destination, message.payload.get(1)) {
            routes.push(Subnet::containing(Ipv4Addr::from(*network), *length));
        }
    })
    .map_err(refused("list routes"))?;
    Ok(routes)
}

fn list_bridge_ports(route: BorrowedFd<'_>, bridge_index: u32) -> Result<Vec<String>> {
    let mut request = Batch::new();
    request.begin(RTM_GETLINK, FLAG_DUMP, &link_message(0, 0));
    request.attribute_u32(IFLA_MASTER, bridge_index);
    let mut names = Vec::new();
    netlink::dump(route, request, |message| {
        let attributes = message.attributes(LINK_BYTES);
        if attributes.u32(IFLA_MASTER) == Some(bridge_index) {
            names.extend(attributes.text(IFLA_IFNAME).map(str::to_owned));
        }
    })
    .map_err(refused("list interfaces"))?;
    Ok(names)
}

fn delete_link(route: BorrowedFd<'_>, name: &str) -> std::result::Result<(), Refusal> {
    let mut batch = Batch::new();
    batch.begin(RTM_DELLINK, 0, &link_message(0, 0));
    batch.acknowledge();
    batch.attribute_text(IFLA_IFNAME, name);
    netlink::exchange(route, batch)
}

/// The calling thread's network namespace decides which values these are.
fn sysctl_path(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

fn write_sysctl(name: &str, value: &str) -> Result<()> {
    let path = sysctl_path(name);
    let failed = |what| {
        let path = path.clone();
        move |source| NetworkError::File { what, path, source }
    };
    let present = std::fs::read_to_string(&path).map_err(failed("read"))?;
    if present.trim() == value {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(failed("write"))
}

fn read_ephemeral_ports() -> (u16, u16) {
    // The kernel's own default, for a /proc that does not show it.
    let default = (32768, 60999);
    let text = std::fs::read_to_string(sysctl_path("net/ipv4/ip_local_port_range")).unwrap_or_default();
    let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) if first > 0 && first <= last => (first, last),
        _ => default,
    }
}

fn read_state(path: &Path) -> Option<(Ipv4Addr, u8)> {
    let text = std::fs::read_to_string(path).ok()?;
    let (address, prefix_length): (Ipv4Addr, u8) = serde_json::from_str(&text).ok()?;
    (8..=30)
        .contains(&prefix_length)
        .then_some((address, prefix_length))
}

/// Lost or torn, the file costs only that another range may be chosen when no bridge is there any more.
fn write_state(path: &Path, address: Ipv4Addr, prefix_length: u8) -> Result<()> {
    if read_state(path) == Some((address, prefix_length)) {
        return Ok(());
    }
    let text = serde_json::json!([address, prefix_length]).to_string();
    let new = path.with_extension("new");
    let write = || -> io::Result<()> {
        std::fs::write(&new, text)?;
        std::fs::rename(&new, path)
    };
    write().map_err(|source| NetworkError::File {
        what: "write",
        path: path.to_owned(),
        source,
    })
}
