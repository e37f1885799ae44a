//! A container's places on bridges: veths, addresses and routes.

use crate::address::mac_of;
use crate::bridge::Bridge;
use crate::error::{NetworkError, Result, refused};
use crate::links::{
    self, IFLA_ADDRESS, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_INFO_SLAVE_DATA,
    IFLA_INFO_SLAVE_KIND, IFLA_LINKINFO, IFLA_MASTER, IFLA_MTU, IFLA_NET_NS_FD, IFLA_NUM_RX_QUEUES,
    IFLA_NUM_TX_QUEUES, RTM_NEWADDR, RTM_NEWLINK, UP, delete_link, link_message, write_address,
    write_default_route,
};
use crate::links6::{
    self, OwnAddress, write_address6, write_default_route6, write_own_address, write_own_address_of,
};
use crate::{BRIDGE_PORTS_MAX, Endpoint, Endpoint6, Network, Published, lock};
use naru_base::ContainerId;
use naru_sys::netlink::{self, Batch, FLAG_CREATE, FLAG_EXCLUSIVE};
use rustix::io::Errno;
use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const VETH_INFO_PEER: u16 = 1;
/// What the bridge's end of a veth is called; nothing else on a bridge of ours is.
const INTERFACE_PREFIX: &str = "nv";
/// The name of a container's first interface.
pub const FIRST_INTERFACE: &str = "eth0";
/// A link-local address is on the whole of 169.254.0.0/16 (RFC 3927).
const LINK_LOCAL_PREFIX_LENGTH: u8 = 16;

/// A place that a container is to have on a network.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The interface's name inside: `eth0`.
    pub interface: &'a str,
    /// `None` derives it from the address.
    pub mac_address: Option<[u8; 6]>,
    /// `None` takes the next free one.
    pub address: Option<Ipv4Addr>,
    /// The same on a network with IPv6.
    pub ipv6_address: Option<Ipv6Addr>,
    /// Further addresses, for this link alone.
    pub link_local: &'a [Ipv4Addr],
    /// The container's default route goes through it.
    pub is_gateway: bool,
}

impl Default for Place<'_> {
    fn default() -> Self {
        Self {
            interface: FIRST_INTERFACE,
            mac_address: None,
            address: None,
            ipv6_address: None,
            link_local: &[],
            is_gateway: true,
        }
    }
}

impl Network {
    /// Gives a container its place on the default bridge. `route_socket` is a `NETLINK_ROUTE` socket opened in the
    /// namespace `netns`.
    pub fn attach(
        &self,
        container: &ContainerId,
        netns: BorrowedFd<'_>,
        route_socket: BorrowedFd<'_>,
        mac_address: Option<[u8; 6]>,
        address: Option<Ipv4Addr>,
    ) -> Result<Endpoint> {
        let place = Place {
            mac_address,
            address,
            ..Place::default()
        };
        self.attach_to(&self.default, container, netns, route_socket, &place)
    }

    /// Gives a container an interface on a network: a veth whose peer is made inside `netns`, with its addresses and,
    /// if wanted, the default route.
    pub fn attach_to(
        &self,
        bridge: &Bridge,
        container: &ContainerId,
        netns: BorrowedFd<'_>,
        route_socket: BorrowedFd<'_>,
        place: &Place<'_>,
    ) -> Result<Endpoint> {
        let address = bridge.allocate(place.address)?;
        let ipv6 = bridge.allocate6(place.ipv6_address).inspect_err(|_| {
            lock(&bridge.addresses).release(address);
        })?;
        let endpoint = Endpoint {
            bridge: bridge.name().to_owned(),
            interface: place.interface.to_owned(),
            address,
            prefix_length: bridge.subnet().prefix_length,
            gateway: bridge.gateway(),
            mac_address: place.mac_address.unwrap_or_else(|| mac_of(address)),
            host_interface: self.interface_name(container),
            ipv6,
        };
        let attached = self.make_veth(bridge, &endpoint, netns).and_then(|()| {
            let enabled = match endpoint.ipv6 {
                Some(_) => links6::enable_inside(netns, &endpoint.interface),
                None => Ok(()),
            };
            let configured =
                enabled.and_then(|()| configure_inside(&endpoint, place, route_socket, self.has_ipv6));
            configured.inspect_err(|_| {
                // Slow (it waits for RCU), but this is the failing path only.
                let _ = delete_link(lock(&self.route).as_fd(), &endpoint.host_interface);
            })
        });
        match attached {
            Ok(()) => {
                // Failing costs a first packet at most.
                let _ = netlink::settle_carrier(lock(&self.route).as_fd(), &endpoint.host_interface);
                let _ = netlink::settle_carrier(route_socket, &endpoint.interface);
                Ok(endpoint)
            }
            Err(error) => {
                bridge.release(&endpoint);
                Err(error)
            }
        }
    }

    /// Gives the address back. The interface goes with the container's network namespace.
    pub fn detach(&self, endpoint: &Endpoint) {
        if let Some(bridge) = self.find_bridge(&endpoint.bridge) {
            bridge.release(endpoint);
        }
    }

    /// Takes a running container's interface away, which waits for the kernel (some 30 ms), and gives the address back.
    pub fn disconnect(&self, endpoint: &Endpoint) -> Result<()> {
        match delete_link(lock(&self.route).as_fd(), &endpoint.host_interface) {
            // It went with its namespace meanwhile.
            Err(refusal) if refusal.errno == Errno::NODEV => {}
            result => result.map_err(refused(format!("delete interface {}", endpoint.host_interface)))?,
        }
        self.detach(endpoint);
        Ok(())
    }

    /// Sends what a container sends out through another of its networks; `None` for no way out. `route_socket` is one of
    /// the container's namespace.
    pub fn change_default_route(
        &self,
        route_socket: BorrowedFd<'_>,
        endpoint: Option<&Endpoint>,
    ) -> Result<()> {
        let gateway = endpoint.map(|endpoint| (endpoint.gateway, endpoint.interface.as_str()));
        match links::replace_default_route(route_socket, gateway) {
            // There was none, or it went with its interface.
            Err(refusal) if endpoint.is_none() && refusal.errno == Errno::SRCH => Ok(()),
            result => result.map_err(refused("change a container's default route")),
        }
    }

    /// The same for IPv6.
    pub fn change_default_route6(
        &self,
        route_socket: BorrowedFd<'_>,
        endpoint: Option<&Endpoint>,
    ) -> Result<()> {
        let gateway =
            endpoint.and_then(|endpoint| Some((endpoint.ipv6?.gateway, endpoint.interface.as_str())));
        match links6::replace_default_route6(route_socket, gateway) {
            Err(refusal) if gateway.is_none() && refusal.errno == Errno::SRCH => Ok(()),
            result => result.map_err(refused("change a container's IPv6 default route")),
        }
    }

    /// Takes note of a container that has been running since before [`Network::open`].
    pub fn reserve(&self, container: &ContainerId, endpoint: &Endpoint) {
        let restored = self
            .find_bridge(&endpoint.bridge)
            .map(|bridge| bridge.restore(endpoint));
        if let Some(Err(error)) = restored {
            tracing::warn!(container = container.short(), %error, "cannot reserve a running container's address");
        }
    }

    /// Removes interfaces and published ports that belong to nobody: those not in the two lists.
    pub fn sweep(&self, live: &[Endpoint], published: &[Published]) -> Result<()> {
        let live: HashSet<&str> = live
            .iter()
            .map(|endpoint| endpoint.host_interface.as_str())
            .collect();
        for bridge in self.bridges() {
            self.sweep_bridge(&bridge, &live)?;
        }
        self.sweep_ports(published)
    }

    fn sweep_bridge(&self, bridge: &Arc<Bridge>, live: &HashSet<&str>) -> Result<()> {
        let route = lock(&self.route);
        for name in links::list_bridge_ports(route.as_fd(), bridge.index)? {
            if name.starts_with(INTERFACE_PREFIX) && !live.contains(name.as_str()) {
                match delete_link(route.as_fd(), &name) {
                    // It went with its namespace meanwhile.
                    Err(refusal) if refusal.errno == Errno::NODEV => {}
                    result => result.map_err(refused(format!("delete interface {name}")))?,
                }
            }
        }
        Ok(())
    }

    fn interface_name(&self, container: &ContainerId) -> String {
        let number = self.interface_counter.fetch_add(1, Ordering::Relaxed) & 0xf_ffff;
        format!("{INTERFACE_PREFIX}{}{number:05x}", &container.as_str()[..8])
    }

    fn make_veth(&self, bridge: &Bridge, endpoint: &Endpoint, netns: BorrowedFd<'_>) -> Result<()> {
        let mut batch = Batch::new();
        batch.begin(RTM_NEWLINK, FLAG_CREATE | FLAG_EXCLUSIVE, &link_message(0, 0));
        batch.acknowledge();
        batch.attribute_text(IFLA_IFNAME, &endpoint.host_interface);
        batch.attribute_u32(IFLA_MASTER, bridge.index);
        write_device(&mut batch, bridge.options.mtu);
        let info = batch.begin_nested(IFLA_LINKINFO);
        batch.attribute_text(IFLA_INFO_KIND, "veth");
        let data = batch.begin_nested(IFLA_INFO_DATA);
        let peer = batch.begin_nested(VETH_INFO_PEER);
        // Neither end comes up in this message: the peer is made before the end it belongs to, and an interface that
        // is up has an IPv6 address already.
        batch.raw(&link_message(0, 0));
        batch.attribute_text(IFLA_IFNAME, &endpoint.interface);
        batch.attribute(IFLA_ADDRESS, &endpoint.mac_address);
        batch.attribute_u32(IFLA_NET_NS_FD, netns.as_raw_fd() as u32);
        write_device(&mut batch, bridge.options.mtu);
        batch.end_nested(peer);
        batch.end_nested(data);
        batch.end_nested(info);
        write_port(
            &mut batch,
            &endpoint.host_interface,
            !bridge.options.allows_between,
        );
        if self.has_ipv6 {
            // A port of a bridge needs no address, and none of the work that comes with one.
            write_own_address(&mut batch, OwnAddress::None);
        }
        batch.begin(RTM_NEWLINK, 0, &link_message(0, UP));
        batch.attribute_text(IFLA_IFNAME, &endpoint.host_interface);
        let route = lock(&self.route);
        netlink::exchange(route.as_fd(), batch).map_err(|refusal| {
            // Refused in the first message, nothing was made, and what has the name is not ours to delete.
            if refusal.message != Some(0) {
                let _ = delete_link(route.as_fd(), &endpoint.host_interface);
            }
            if refusal.errno == Errno::XFULL {
                return NetworkError::BridgeFull {
                    bridge: bridge.name().to_owned(),
                };
            }
            refused(format!(
                "make interface {} on {}",
                endpoint.host_interface,
                bridge.name()
            ))(refusal)
        })
    }
}

impl Bridge {
    fn allocate(&self, wanted: Option<Ipv4Addr>) -> Result<Ipv4Addr> {
        let mut addresses = lock(&self.addresses);
        if addresses.len() >= BRIDGE_PORTS_MAX {
            return Err(NetworkError::BridgeFull {
                bridge: self.name().to_owned(),
            });
        }
        match wanted {
            Some(address) => addresses.take(address).map(|()| address),
            None => addresses.allocate(),
        }
    }

    /// `None` on a network without IPv6.
    fn allocate6(&self, wanted: Option<Ipv6Addr>) -> Result<Option<Endpoint6>> {
        let (Some(options), Some(addresses)) = (&self.options.ipv6, &self.addresses6) else {
            return Ok(None);
        };
        let mut addresses = lock(addresses);
        let address = match wanted {
            Some(address) => addresses.take(address).map(|()| address)?,
            None => addresses.allocate()?,
        };
        Ok(Some(Endpoint6 {
            address,
            prefix_length: options.subnet.prefix_length,
            gateway: options.gateway,
        }))
    }

    fn release(&self, endpoint: &Endpoint) {
        lock(&self.addresses).release(endpoint.address);
        if let (Some(addresses), Some(ipv6)) = (&self.addresses6, &endpoint.ipv6) {
            lock(addresses).release(ipv6.address);
        }
    }

    fn restore(&self, endpoint: &Endpoint) -> Result<()> {
        if let (Some(addresses), Some(ipv6)) = (&self.addresses6, &endpoint.ipv6) {
            lock(addresses).restore(ipv6.address)?;
        }
        lock(&self.addresses).restore(endpoint.address)
    }
}

/// One queue each way: a veth would get one a CPU, each an object of its own to make and to take down, and a packet
/// passes through in the sender's own time anyway.
fn write_device(batch: &mut Batch, mtu: Option<u32>) {
    batch.attribute_u32(IFLA_NUM_TX_QUEUES, 1);
    batch.attribute_u32(IFLA_NUM_RX_QUEUES, 1);
    if let Some(mtu) = mtu {
        batch.attribute_u32(IFLA_MTU, mtu);
    }
}

/// With br_netfilter a connection of a container to its own published port is turned around inside the bridge, which
/// sends a frame back through the port it came from only in hairpin mode. An isolated port reaches the bridge itself and
/// no other isolated port. A port cannot be made with either.
fn write_port(batch: &mut Batch, interface: &str, is_isolated: bool) {
    batch.begin(RTM_NEWLINK, 0, &link_message(0, 0));
    batch.attribute_text(IFLA_IFNAME, interface);
    let info = batch.begin_nested(IFLA_LINKINFO);
    batch.attribute_text(IFLA_INFO_SLAVE_KIND, "bridge");
    let data = batch.begin_nested(IFLA_INFO_SLAVE_DATA);
    batch.attribute(IFLA_BRPORT_MODE, &[1]);
    if is_isolated {
        batch.attribute(IFLA_BRPORT_ISOLATED, &[1]);
    }
    batch.end_nested(data);
    batch.end_nested(info);
}

/// Addresses, up and default route in one batch; a route needs an interface that is up.
fn configure_inside(
    endpoint: &Endpoint,
    place: &Place<'_>,
    route_socket: BorrowedFd<'_>,
    has_ipv6: bool,
) -> Result<()> {
    let what = || format!("configure {} of address {}", endpoint.interface, endpoint.address);
    let index = netlink::interface_index(route_socket, &endpoint.interface)
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
    for address in place.link_local {
        write_address(
            &mut batch,
            RTM_NEWADDR,
            flags,
            index,
            *address,
            LINK_LOCAL_PREFIX_LENGTH,
        );
    }
    if has_ipv6 {
        // None for an interface on a network that has no IPv6 (CVE-2024-32473), and none of the work that comes with it:
        // routers asked for, groups joined, duplicates looked for. Before the interface is up.
        let mode = if endpoint.ipv6.is_some() {
            OwnAddress::LinkLocal
        } else {
            OwnAddress::None
        };
        write_own_address_of(&mut batch, index, mode);
    }
    batch.begin(RTM_NEWLINK, 0, &link_message(index, UP));
    if place.is_gateway {
        write_default_route(&mut batch, index, endpoint.gateway);
    }
    if let Some(ipv6) = &endpoint.ipv6 {
        write_address6(&mut batch, flags, index, ipv6.address, ipv6.prefix_length);
        if place.is_gateway {
            write_default_route6(&mut batch, flags, index, ipv6.gateway);
        }
    }
    batch.acknowledge();
    netlink::exchange(route_socket, batch).map_err(refused(what()))
}
