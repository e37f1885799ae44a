//! Interfaces, addresses and routes by rtnetlink, as far as containers need them.

use crate::address::{Subnet, mask};
use crate::error::{Result, refused};
use naru_sys::netlink::{self, Batch, FLAG_CREATE, FLAG_DUMP, FLAG_EXCLUSIVE, FLAG_REPLACE, Refusal};
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

pub const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
pub const RTM_NEWADDR: u16 = 20;
pub const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
pub const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const LINK_BYTES: usize = 16;
const ADDRESS_BYTES: usize = 8;
const ROUTE_BYTES: usize = 12;
pub const IFLA_ADDRESS: u16 = 1;
pub const IFLA_IFNAME: u16 = 3;
pub const IFLA_MTU: u16 = 4;
pub const IFLA_MASTER: u16 = 10;
pub const IFLA_AF_SPEC: u16 = 26;
pub const IFLA_LINKINFO: u16 = 18;
pub const IFLA_NET_NS_FD: u16 = 28;
pub const IFLA_NUM_TX_QUEUES: u16 = 31;
pub const IFLA_NUM_RX_QUEUES: u16 = 32;
pub const IFLA_INFO_KIND: u16 = 1;
pub const IFLA_INFO_DATA: u16 = 2;
pub const IFLA_INFO_SLAVE_KIND: u16 = 4;
pub const IFLA_INFO_SLAVE_DATA: u16 = 5;
pub const UP: u32 = libc::IFF_UP as u32;

/// `struct ifinfomsg`; `flags` are set and all others left alone.
pub fn link_message(index: u32, flags: u32) -> [u8; LINK_BYTES] {
    let mut bytes = [0; LINK_BYTES];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

pub fn write_address(
    batch: &mut Batch,
    kind: u16,
    flags: u16,
    index: u32,
    address: Ipv4Addr,
    prefix_length: u8,
) {
    let mut fixed = [libc::AF_INET as u8, prefix_length, 0, 0, 0, 0, 0, 0];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    batch.begin(kind, flags, &fixed);
    let broadcast = address.to_bits() | !mask(prefix_length);
    batch.attribute(2, &address.octets());
    batch.attribute(1, &address.octets());
    batch.attribute(4, &broadcast.to_be_bytes());
}

/// `struct rtmsg` of a default route in the main table.
fn default_route_message() -> [u8; ROUTE_BYTES] {
    let mut fixed = [0; ROUTE_BYTES];
    fixed[0] = libc::AF_INET as u8;
    fixed[4] = libc::RT_TABLE_MAIN;
    fixed[5] = libc::RTPROT_BOOT;
    fixed[7] = libc::RTN_UNICAST;
    fixed
}

/// The interface must be up when the message is worked on.
pub fn write_default_route(batch: &mut Batch, index: u32, gateway: Ipv4Addr) {
    batch.begin(
        RTM_NEWROUTE,
        FLAG_CREATE | FLAG_EXCLUSIVE,
        &default_route_message(),
    );
    batch.attribute(libc::RTA_GATEWAY, &gateway.octets());
    batch.attribute_u32(libc::RTA_OIF, index);
}

/// Makes this the default route of the socket's namespace, in place of any other; `None` for no default route.
pub fn replace_default_route(
    route: BorrowedFd<'_>,
    gateway: Option<(Ipv4Addr, &str)>,
) -> std::result::Result<(), Refusal> {
    let mut batch = Batch::new();
    match gateway {
        Some((gateway, interface)) => {
            let index = netlink::interface_index(route, interface)?;
            batch.begin(RTM_NEWROUTE, FLAG_CREATE | FLAG_REPLACE, &default_route_message());
            batch.attribute(libc::RTA_GATEWAY, &gateway.octets());
            batch.attribute_u32(libc::RTA_OIF, index);
        }
        None => batch.begin(RTM_DELROUTE, 0, &default_route_message()),
    }
    batch.acknowledge();
    netlink::exchange(route, batch)
}

pub fn delete_link(route: BorrowedFd<'_>, name: &str) -> std::result::Result<(), Refusal> {
    let mut batch = Batch::new();
    batch.begin(RTM_DELLINK, 0, &link_message(0, 0));
    batch.acknowledge();
    batch.attribute_text(IFLA_IFNAME, name);
    netlink::exchange(route, batch)
}

/// An IPv4 address of an interface.
#[derive(Debug, Clone, Copy)]
pub struct InterfaceAddress {
    pub index: u32,
    pub address: Ipv4Addr,
    pub prefix_length: u8,
}

/// Every IPv4 address of every interface.
pub fn list_addresses(route: BorrowedFd<'_>) -> Result<Vec<InterfaceAddress>> {
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
        let index = message.payload.get(4..8).and_then(<[u8]>::first_chunk::<4>);
        if let (Some(address), Some(prefix_length), Some(index)) = (local, message.payload.get(1), index) {
            addresses.push(InterfaceAddress {
                index: u32::from_ne_bytes(*index),
                address: Ipv4Addr::from(*address),
                prefix_length: *prefix_length,
            });
        }
    })
    .map_err(refused("list addresses"))?;
    Ok(addresses)
}

/// Destinations of all IPv4 routes but the default ones.
pub fn list_routes(route: BorrowedFd<'_>) -> Result<Vec<Subnet>> {
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

pub fn list_bridge_ports(route: BorrowedFd<'_>, bridge_index: u32) -> Result<Vec<String>> {
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
