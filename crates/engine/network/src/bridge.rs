//! Bridges: each is one network, with its subnet, made or found again.
//!
//! Which range is free is known only while nobody else chooses one: whoever chooses holds the lock on the network
//! namespace's own file until the bridge has its address, so that several engines on a host never meet.

use crate::address::{AddressPool, Subnet, choose_subnet, mac_of, mask};
use crate::address6::{AddressPool6, Ipv6Options, Ipv6Request, Subnet6};
use crate::error::{NetworkError, Result, refused};
use crate::links::{
    self, IFLA_ADDRESS, IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_MTU, InterfaceAddress, RTM_DELADDR,
    RTM_NEWADDR, RTM_NEWLINK, UP, link_message, write_address,
};
use crate::links6::{self, InterfaceAddress6, write_address6, write_address6_removal};
use crate::{INTERFACE_NAME_BYTES_MAX, Network, NetworkOptions, lock, sysctl};
use naru_sys::netlink::{self, Batch, FLAG_CREATE, FLAG_EXCLUSIVE, FLAG_REPLACE};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// One network as it is made: nothing is left to choose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeOptions {
    /// The interface's name, at most 15 bytes.
    pub name: String,
    pub subnet: Subnet,
    /// The bridge's own address.
    pub gateway: Ipv4Addr,
    /// The part of the subnet from which addresses are given out; `None` for all of it.
    pub range: Option<Subnet>,
    /// Addresses of the subnet that are never given out: those of other machines.
    pub reserved: Vec<Ipv4Addr>,
    /// `None` leaves the kernel's.
    pub mtu: Option<u32>,
    /// No way out, and none in.
    pub is_internal: bool,
    /// Whether its containers reach each other (`enable_icc`).
    pub allows_between: bool,
    /// Whether what leaves takes the host's address (`enable_ip_masquerade`).
    pub masquerades: bool,
    /// Its IPv6 side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Options>,
}

/// One network of an engine.
#[derive(Debug)]
pub struct Bridge {
    pub(crate) options: BridgeOptions,
    pub(crate) index: u32,
    pub(crate) addresses: Mutex<AddressPool>,
    pub(crate) addresses6: Option<Mutex<AddressPool6>>,
}

impl Bridge {
    pub fn options(&self) -> &BridgeOptions {
        &self.options
    }

    pub fn name(&self) -> &str {
        &self.options.name
    }

    pub fn gateway(&self) -> Ipv4Addr {
        self.options.gateway
    }

    pub fn subnet(&self) -> Subnet {
        self.options.subnet
    }

    pub fn subnet6(&self) -> Option<Subnet6> {
        self.options.ipv6.as_ref().map(|ipv6| ipv6.subnet)
    }

    pub fn has_ipv6(&self) -> bool {
        self.options.ipv6.is_some()
    }
}

/// A network to be made, with what its creator left open.
#[derive(Debug, Clone)]
pub struct BridgeRequest {
    pub name: String,
    /// `None` takes the first free one of the engine's pools.
    pub subnet: Option<Subnet>,
    /// `None` takes the first address of the range or subnet.
    pub gateway: Option<Ipv4Addr>,
    pub range: Option<Subnet>,
    pub reserved: Vec<Ipv4Addr>,
    pub mtu: Option<u32>,
    pub is_internal: bool,
    pub allows_between: bool,
    pub masquerades: bool,
    pub ipv6: Option<Ipv6Request>,
}

impl Network {
    /// Makes a network. `commit` is called with what was decided before anything is made, and is to write it down; it
    /// may refuse. `taken` are ranges that are nobody's route and still not free.
    pub fn create_bridge<E: From<NetworkError>>(
        &self,
        request: &BridgeRequest,
        taken: &[Subnet],
        commit: impl FnOnce(&BridgeOptions) -> std::result::Result<(), E>,
    ) -> std::result::Result<Arc<Bridge>, E> {
        check_name(&request.name)?;
        if request.ipv6.is_some() && !self.has_ipv6 {
            return Err(NetworkError::NoIpv6(format!("bridge {}", request.name)).into());
        }
        let _choosing = lock_namespace()?;
        let mut options = self.decide(request, taken)?;
        if let Some(wanted) = &request.ipv6 {
            options.ipv6 = Some(self.decide6(wanted)?);
            self.forward(crate::ruleset::Family::Ipv6)?;
        }
        commit(&options)?;
        let made = {
            let route = lock(&self.route);
            make_bridge(route.as_fd(), &options).and_then(|index| {
                prepare_bridge(route.as_fd(), index, &options).inspect_err(|_| {
                    let _ = links::delete_link(route.as_fd(), &options.name);
                })?;
                Ok(new_bridge(options, index))
            })
        };
        Ok(made.and_then(|bridge| self.admit(bridge))?)
    }

    fn decide(&self, request: &BridgeRequest, taken: &[Subnet]) -> Result<BridgeOptions> {
        let route = lock(&self.route);
        if netlink::interface_index(route.as_fd(), &request.name).is_ok() {
            return Err(NetworkError::InterfaceExists(request.name.clone()));
        }
        let own: Vec<Subnet> = lock(&self.bridges).iter().map(|bridge| bridge.subnet()).collect();
        let subnet = if let Some(subnet) = request.subnet {
            if own.iter().chain(taken).any(|other| other.overlaps(subnet)) {
                return Err(NetworkError::SubnetOverlaps(subnet.to_string()));
            }
            check_host_addresses(route.as_fd(), subnet)?;
            subnet
        } else {
            let mut busy = links::list_routes(route.as_fd())?;
            busy.extend(own);
            busy.extend(taken);
            choose_subnet(&self.pools, &busy).ok_or_else(|| NetworkError::NoFreeSubnet {
                bridge: request.name.clone(),
            })?
        };
        decide_addresses(request, subnet)
    }

    fn decide6(&self, request: &Ipv6Request) -> Result<Ipv6Options> {
        let own: Vec<Subnet6> = lock(&self.bridges)
            .iter()
            .filter_map(|bridge| bridge.subnet6())
            .collect();
        let found = links6::list_addresses6(lock(&self.route).as_fd())?;
        let Some(subnet) = request.subnet else {
            return request.decide(choose_unique_local(&own, &found));
        };
        if own.iter().any(|other| other.overlaps(subnet)) {
            return Err(NetworkError::SubnetOverlaps(subnet.to_string()));
        }
        let meets =
            |found: &&InterfaceAddress6| !found.address.is_loopback() && found.subnet().overlaps(subnet);
        if let Some(found) = found.iter().find(meets) {
            return Err(NetworkError::SubnetOfHost {
                subnet: subnet.to_string(),
                address: found.address.into(),
            });
        }
        request.decide(subnet)
    }

    /// Takes a bridge that exists into the rules and the list.
    fn admit(&self, bridge: Bridge) -> Result<Arc<Bridge>> {
        let bridge = Arc::new(bridge);
        lock(&self.bridges).push(Arc::clone(&bridge));
        let ruled = self.write_table().and_then(|()| self.ensure_foreign_accept());
        if let Err(error) = ruled {
            let _ = self.remove_bridge(&bridge);
            return Err(error);
        }
        Ok(bridge)
    }

    /// Removes a network and whatever is still on it.
    pub fn remove_bridge(&self, bridge: &Bridge) -> Result<()> {
        lock(&self.bridges).retain(|other| other.name() != bridge.name());
        // First the interface: without rules its containers would not be kept apart from others.
        let deleted = links::delete_link(lock(&self.route).as_fd(), bridge.name());
        match deleted {
            Err(refusal) if refusal.errno == Errno::NODEV => {}
            result => result.map_err(refused(format!("delete bridge {}", bridge.name())))?,
        }
        self.write_table()?;
        self.ensure_foreign_accept()
    }

    /// Every network that is up, the default one first.
    pub fn bridges(&self) -> Vec<Arc<Bridge>> {
        lock(&self.bridges).clone()
    }

    /// The network with an interface of this name.
    pub fn find_bridge(&self, name: &str) -> Option<Arc<Bridge>> {
        let bridges = lock(&self.bridges);
        bridges.iter().find(|bridge| bridge.name() == name).cloned()
    }
}

/// Gateway, range and reserved addresses, checked against the subnet.
fn decide_addresses(request: &BridgeRequest, subnet: Subnet) -> Result<BridgeOptions> {
    let outside = |address: Ipv4Addr| NetworkError::AddressOutside {
        address: address.into(),
        subnet: subnet.network.into(),
        prefix_length: subnet.prefix_length,
    };
    if let Some(range) = request.range
        && (!subnet.contains(range.network) || range.prefix_length < subnet.prefix_length)
    {
        return Err(outside(range.network));
    }
    if let Some(address) = request
        .reserved
        .iter()
        .find(|address| !subnet.contains(**address))
    {
        return Err(outside(*address));
    }
    let gateway = match request.gateway {
        Some(gateway) if !subnet.contains(gateway) => return Err(outside(gateway)),
        Some(gateway) => gateway,
        None => first_host(request.range.unwrap_or(subnet), subnet),
    };
    Ok(BridgeOptions {
        name: request.name.clone(),
        subnet,
        gateway,
        range: request.range,
        reserved: request.reserved.clone(),
        mtu: request.mtu,
        is_internal: request.is_internal,
        allows_between: request.allows_between,
        masquerades: request.masquerades,
        ipv6: None,
    })
}

/// The first address of the range that is not the subnet's own.
fn first_host(range: Subnet, subnet: Subnet) -> Ipv4Addr {
    let first = range.network.to_bits();
    Ipv4Addr::from_bits(if first == subnet.network.to_bits() {
        first + 1
    } else {
        first
    })
}

/// A range in which the host has an address already would cut it off from its own neighbours.
fn check_host_addresses(route: BorrowedFd<'_>, subnet: Subnet) -> Result<()> {
    let meets = |found: &InterfaceAddress| {
        !found.address.is_loopback()
            && Subnet::containing(found.address, found.prefix_length).overlaps(subnet)
    };
    match links::list_addresses(route)?.iter().find(|found| meets(found)) {
        Some(found) => Err(NetworkError::SubnetOfHost {
            subnet: subnet.to_string(),
            address: found.address.into(),
        }),
        None => Ok(()),
    }
}

fn new_bridge(options: BridgeOptions, index: u32) -> Bridge {
    let pool = AddressPool::new(options.subnet, options.gateway, options.range, &options.reserved);
    Bridge {
        addresses: Mutex::new(pool),
        addresses6: options
            .ipv6
            .as_ref()
            .map(|ipv6| Mutex::new(AddressPool6::new(ipv6))),
        options,
        index,
    }
}

/// Makes the default bridge exist, or takes over the one an earlier daemon left.
pub fn open_default(route: BorrowedFd<'_>, options: &NetworkOptions) -> Result<Bridge> {
    check_options(options)?;
    let _choosing = lock_namespace()?;
    let name = options.bridge.as_str();
    let present = match netlink::interface_index(route, name) {
        Ok(index) => links::list_addresses(route)?
            .into_iter()
            .find(|found| found.index == index),
        Err(_) => None,
    };
    let (gateway, prefix_length) = match (options.address, present) {
        (Some(wanted), _) => wanted,
        (None, Some(found)) => (found.address, found.prefix_length),
        (None, None) => choose_default_address(route, options)?,
    };
    let bridge = open_bridge(
        route,
        BridgeOptions {
            name: name.to_owned(),
            subnet: Subnet::containing(gateway, prefix_length),
            gateway,
            range: options.range,
            reserved: Vec::new(),
            mtu: options.mtu,
            is_internal: false,
            allows_between: options.allows_between,
            masquerades: options.masquerades,
            ipv6: decide_default6(route, options)?,
        },
    )?;
    write_state(&options.state_file, gateway, prefix_length, bridge.subnet6())?;
    Ok(bridge)
}

/// Makes a bridge exist as its options say, whether or not it does already.
pub fn open_bridge(route: BorrowedFd<'_>, options: BridgeOptions) -> Result<Bridge> {
    let index = match netlink::interface_index(route, &options.name) {
        Ok(index) => index,
        Err(_) => make_bridge(route, &options)?,
    };
    prepare_bridge(route, index, &options)?;
    Ok(new_bridge(options, index))
}

fn make_bridge(route: BorrowedFd<'_>, options: &BridgeOptions) -> Result<u32> {
    let bridge = &options.name;
    let mut batch = Batch::new();
    batch.begin(RTM_NEWLINK, FLAG_CREATE | FLAG_EXCLUSIVE, &link_message(0, 0));
    batch.acknowledge();
    batch.attribute_text(IFLA_IFNAME, bridge);
    // Without an address of its own a bridge changes it as ports come and go, and containers lose their gateway.
    batch.attribute(IFLA_ADDRESS, &mac_of(options.gateway));
    if let Some(mtu) = options.mtu {
        batch.attribute_u32(IFLA_MTU, mtu);
    }
    let info = batch.begin_nested(IFLA_LINKINFO);
    batch.attribute_text(IFLA_INFO_KIND, "bridge");
    batch.end_nested(info);
    netlink::exchange(route, batch).map_err(refused(format!("make bridge {bridge}")))?;
    netlink::interface_index(route, bridge)
        .map_err(|errno| refused(format!("find bridge {bridge}"))(errno.into()))
}

/// Makes a bridge safe and up, with exactly one IPv4 address.
fn prepare_bridge(route: BorrowedFd<'_>, index: u32, options: &BridgeOptions) -> Result<()> {
    let BridgeOptions {
        name,
        gateway,
        subnet,
        ..
    } = options;
    harden_bridge(options)?;
    let mut batch = Batch::new();
    for other in links::list_addresses(route)?
        .iter()
        .filter(|found| found.index == index)
    {
        if (other.address, other.prefix_length) != (*gateway, subnet.prefix_length) {
            write_address(
                &mut batch,
                RTM_DELADDR,
                0,
                index,
                other.address,
                other.prefix_length,
            );
        }
    }
    let flags = FLAG_CREATE | FLAG_REPLACE;
    write_address(
        &mut batch,
        RTM_NEWADDR,
        flags,
        index,
        *gateway,
        subnet.prefix_length,
    );
    batch.begin(RTM_NEWLINK, 0, &link_message(index, UP));
    write_ipv6(&mut batch, route, index, options)?;
    batch.acknowledge();
    netlink::exchange(route, batch).map_err(refused(format!(
        "give bridge {name} the address {gateway}/{}",
        subnet.prefix_length
    )))
}

/// No IPv6 on a bridge that has no IPv6 network (CVE-2024-32473) and none to be announced by a container
/// (CVE-2020-13401). The host's 127.0.0.1 may reach published ports through this one interface; what comes back the
/// other way is stopped by the guard chain (CVE-2020-8558).
fn harden_bridge(options: &BridgeOptions) -> Result<()> {
    let bridge = &options.name;
    if options.ipv6.is_some() {
        links6::enable(bridge)?;
        return sysctl::write(&format!("net/ipv4/conf/{bridge}/route_localnet"), "1");
    }
    for (name, value) in [("accept_ra", "0"), ("disable_ipv6", "1")] {
        let name = format!("net/ipv6/conf/{bridge}/{name}");
        // A kernel without IPv6 has no such file.
        if sysctl::path(&name).exists() {
            sysctl::write(&name, value)?;
        }
    }
    sysctl::write(&format!("net/ipv4/conf/{bridge}/route_localnet"), "1")
}

/// Exactly one IPv6 address on a bridge of a network that has IPv6, beside the link-local one.
fn write_ipv6(batch: &mut Batch, route: BorrowedFd<'_>, index: u32, options: &BridgeOptions) -> Result<()> {
    let Some(ipv6) = &options.ipv6 else {
        return Ok(());
    };
    let (gateway, prefix_length) = (ipv6.gateway, ipv6.subnet.prefix_length);
    let present = links6::list_addresses6(route)?;
    for other in present.iter().filter(|found| found.index == index) {
        if (other.address, other.prefix_length) != (gateway, prefix_length) {
            write_address6_removal(batch, index, other.address, other.prefix_length);
        }
    }
    write_address6(batch, FLAG_CREATE | FLAG_REPLACE, index, gateway, prefix_length);
    Ok(())
}

/// A subnet that neither a network nor the host has.
fn choose_unique_local(own: &[Subnet6], found: &[InterfaceAddress6]) -> Subnet6 {
    loop {
        let subnet = Subnet6::unique_local(RandomState::new().hash_one(()));
        let is_taken = own.iter().any(|other| other.overlaps(subnet))
            || found.iter().any(|address| address.subnet().overlaps(subnet));
        if !is_taken {
            return subnet;
        }
    }
}

/// The default bridge's IPv6 side: what was asked for; else what it has had before.
fn decide_default6(route: BorrowedFd<'_>, options: &NetworkOptions) -> Result<Option<Ipv6Options>> {
    let Some(wanted) = &options.ipv6 else {
        return Ok(None);
    };
    if !sysctl::path("net/ipv6").exists() {
        return Err(NetworkError::NoIpv6("--ipv6".to_owned()));
    }
    let own: Vec<Subnet6> = options
        .bridges
        .iter()
        .filter_map(|bridge| Some(bridge.ipv6.as_ref()?.subnet))
        .collect();
    let subnet = match wanted.subnet {
        Some(subnet) => match own.iter().find(|other| other.overlaps(subnet)) {
            Some(_) => return Err(NetworkError::SubnetOverlaps(subnet.to_string())),
            None => subnet,
        },
        None => match read_state(&options.state_file).and_then(|state| state.ipv6) {
            Some(remembered) => remembered,
            None => choose_unique_local(&own, &links6::list_addresses6(route)?),
        },
    };
    wanted.decide(subnet).map(Some)
}

fn check_name(name: &str) -> Result<()> {
    let is_name = !name.is_empty()
        && name.len() <= INTERFACE_NAME_BYTES_MAX
        && !matches!(name, "." | "..")
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if is_name {
        Ok(())
    } else {
        Err(NetworkError::InvalidOption(format!(
            "{name:?} cannot be the name of a bridge"
        )))
    }
}

fn check_options(options: &NetworkOptions) -> Result<()> {
    check_name(&options.bridge)?;
    let is_table = !options.table.is_empty()
        && options
            .table
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    let invalid = |text: String| Err(NetworkError::InvalidOption(text));
    if !is_table {
        return invalid(format!("{:?} cannot be the name of a table", options.table));
    }
    if let Some((address, prefix_length)) = options.address {
        let subnet = Subnet::containing(address, prefix_length);
        let host_part = address.to_bits() & !mask(prefix_length);
        let is_host = host_part != 0 && host_part != !mask(prefix_length);
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

/// Held by whoever chooses a range, in this engine or another one, until the range is on an interface.
fn lock_namespace() -> Result<File> {
    let path = Path::new("/proc/thread-self/ns/net");
    let failed = |source| NetworkError::File {
        what: "lock",
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))
        .map_err(|errno| failed(errno.into()))?;
    Ok(file)
}

fn choose_default_address(route: BorrowedFd<'_>, options: &NetworkOptions) -> Result<(Ipv4Addr, u8)> {
    let mut taken = links::list_routes(route)?;
    taken.extend(options.bridges.iter().map(|bridge| bridge.subnet));
    let remembered = read_state(&options.state_file).filter(|state| {
        !taken
            .iter()
            .any(|other| other.overlaps(Subnet::containing(state.address, state.prefix_length)))
    });
    remembered
        .map(|state| (state.address, state.prefix_length))
        .or_else(|| {
            let subnet = choose_subnet(&options.pools, &taken)?;
            Some((first_host(subnet, subnet), subnet.prefix_length))
        })
        .ok_or_else(|| NetworkError::NoFreeSubnet {
            bridge: options.bridge.clone(),
        })
}

/// What the state file tells, in the order in which it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    address: Ipv4Addr,
    prefix_length: u8,
    ipv6: Option<Subnet6>,
}

fn read_state(path: &Path) -> Option<State> {
    let text = std::fs::read_to_string(path).ok()?;
    let values: Vec<serde_json::Value> = serde_json::from_str(&text).ok()?;
    let state = State {
        address: values.first()?.as_str()?.parse().ok()?,
        prefix_length: u8::try_from(values.get(1)?.as_u64()?).ok()?,
        ipv6: values.get(2).and_then(|value| value.as_str()?.parse().ok()),
    };
    (8..=30).contains(&state.prefix_length).then_some(state)
}

/// Lost or torn, the file costs only that another range may be chosen when no bridge is there any more.
fn write_state(path: &Path, address: Ipv4Addr, prefix_length: u8, ipv6: Option<Subnet6>) -> Result<()> {
    let known = read_state(path);
    let state = State {
        address,
        prefix_length,
        // An engine that is started without IPv6 once has its old range when it is started with it again.
        ipv6: ipv6.or(known.and_then(|known| known.ipv6)),
    };
    if known == Some(state) {
        return Ok(());
    }
    let text = match state.ipv6 {
        Some(ipv6) => serde_json::json!([address, prefix_length, ipv6.to_string()]).to_string(),
        None => serde_json::json!([address, prefix_length]).to_string(),
    };
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
