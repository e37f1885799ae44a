//! IPv6 addresses and routes by rtnetlink.

use crate::address6::Subnet6;
use crate::error::{NetworkError, Result, refused};
use crate::links::{IFLA_AF_SPEC, RTM_DELADDR, RTM_NEWADDR, RTM_NEWROUTE, link_message};
use crate::sysctl;
use naru_sys::netlink::{self, Batch, FLAG_CREATE, FLAG_DUMP, FLAG_REPLACE, Refusal};
use std::net::Ipv6Addr;
use std::os::fd::BorrowedFd;

const RTM_GETADDR: u16 = 22;
const RTM_DELROUTE: u16 = 25;
const ADDRESS_BYTES: usize = 8;
const ROUTE_BYTES: usize = 12;
/// `IFA_F_NODAD`: the engine knows that nobody else has the address, and nothing waits to find out.
const NO_DUPLICATE_DETECTION: u8 = 0x02;
const IFA_ADDRESS: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;

/// How an interface comes by an IPv6 address that nobody gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnAddress {
    /// `IN6_ADDR_GEN_MODE_EUI64`: a link-local one, of its hardware address.
    LinkLocal = 0,
    /// `IN6_ADDR_GEN_MODE_NONE`.
    None = 1,
}

/// Says so in a message about an interface, before that is up.
pub fn write_own_address(batch: &mut Batch, mode: OwnAddress) {
    let families = batch.begin_nested(IFLA_AF_SPEC);
    let family = batch.begin_nested(libc::AF_INET6 as u16);
    batch.attribute(IFLA_INET6_ADDR_GEN_MODE, &[mode as u8]);
    batch.end_nested(family);
    batch.end_nested(families);
}

fn address_message(index: u32, prefix_length: u8) -> [u8; ADDRESS_BYTES] {
    let mut fixed = [
        libc::AF_INET6 as u8,
        prefix_length,
        NO_DUPLICATE_DETECTION,
        0,
        0,
        0,
        0,
        0,
    ];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed
}

pub fn write_address6(batch: &mut Batch, flags: u16, index: u32, address: Ipv6Addr, prefix_length: u8) {
    batch.begin(RTM_NEWADDR, flags, &address_message(index, prefix_length));
    batch.attribute(IFA_ADDRESS, &address.octets());
}

pub fn write_address6_removal(batch: &mut Batch, index: u32, address: Ipv6Addr, prefix_length: u8) {
    batch.begin(RTM_DELADDR, 0, &address_message(index, prefix_length));
    batch.attribute(IFA_ADDRESS, &address.octets());
}

/// `struct rtmsg` of a default route in the main table.
fn default_route_message() -> [u8; ROUTE_BYTES] {
    let mut fixed = [0; ROUTE_BYTES];
    fixed[0] = libc::AF_INET6 as u8;
    fixed[4] = libc::RT_TABLE_MAIN;
    fixed[5] = libc::RTPROT_BOOT;
    fixed[7] = libc::RTN_UNICAST;
    fixed
}

/// The interface must be up and have its address when the message is worked on.
pub fn write_default_route6(batch: &mut Batch, flags: u16, index: u32, gateway: Ipv6Addr) {
    batch.begin(RTM_NEWROUTE, flags, &default_route_message());
    batch.attribute(libc::RTA_GATEWAY, &gateway.octets());
    batch.attribute_u32(libc::RTA_OIF, index);
}

/// Makes this the IPv6 default route of the socket's namespace, in place of any other; `None` for no default route.
pub fn replace_default_route6(
    route: BorrowedFd<'_>,
    gateway: Option<(Ipv6Addr, &str)>,
) -> std::result::Result<(), Refusal> {
    let mut batch = Batch::new();
    match gateway {
        Some((gateway, interface)) => {
            let index = netlink::interface_index(route, interface)?;
            write_default_route6(&mut batch, FLAG_CREATE | FLAG_REPLACE, index, gateway);
        }
        None => batch.begin(RTM_DELROUTE, 0, &default_route_message()),
    }
    batch.acknowledge();
    netlink::exchange(route, batch)
}

/// An IPv6 address of an interface.
#[derive(Debug, Clone, Copy)]
pub struct InterfaceAddress6 {
    pub index: u32,
    pub address: Ipv6Addr,
    pub prefix_length: u8,
}

impl InterfaceAddress6 {
    pub fn subnet(self) -> Subnet6 {
        Subnet6::containing(self.address, self.prefix_length)
    }
}

/// Every IPv6 address of every interface but the link-local ones.
pub fn list_addresses6(route: BorrowedFd<'_>) -> Result<Vec<InterfaceAddress6>> {
    let mut request = Batch::new();
    request.begin(
        RTM_GETADDR,
        FLAG_DUMP,
        &[libc::AF_INET6 as u8, 0, 0, 0, 0, 0, 0, 0],
    );
    let mut addresses = Vec::new();
    netlink::dump(route, request, |message| {
        let address = message
            .attributes(ADDRESS_BYTES)
            .get(IFA_ADDRESS)
            .and_then(<[u8]>::first_chunk::<16>);
        let index = message.payload.get(4..8).and_then(<[u8]>::first_chunk::<4>);
        if let (Some(address), Some(prefix_length), Some(index)) = (address, message.payload.get(1), index) {
            let address = Ipv6Addr::from(*address);
            if !address.is_unicast_link_local() {
                addresses.push(InterfaceAddress6 {
                    index: u32::from_ne_bytes(*index),
                    address,
                    prefix_length: *prefix_length,
                });
            }
        }
    })
    .map_err(refused("list IPv6 addresses"))?;
    Ok(addresses)
}

/// Turns IPv6 on for one interface of a namespace, and on its loopback: a container's namespace has it off everywhere
/// (CVE-2024-32473). No router may announce itself there (CVE-2020-13401).
pub fn enable_inside(netns: BorrowedFd<'_>, interface: &str) -> Result<()> {
    let failed = |error: std::io::Error| NetworkError::File {
        what: "enter",
        path: "a container's network namespace".into(),
        source: error,
    };
    // A thread of its own, which ends inside: `/proc/sys/net` is that of whoever looks.
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            naru_sys::namespace::join(netns, libc::CLONE_NEWNET).map_err(failed)?;
            enable(interface)?;
            sysctl::write("net/ipv6/conf/lo/disable_ipv6", "0")
        });
        worker
            .join()
            .unwrap_or_else(|_| Err(failed(std::io::ErrorKind::Other.into())))
    })
}

/// Turns IPv6 on for an interface of the calling thread's namespace, with no address but those it is given.
pub fn enable(interface: &str) -> Result<()> {
    for (name, value) in [("accept_ra", "0"), ("accept_dad", "0"), ("disable_ipv6", "0")] {
        sysctl::write(&format!("net/ipv6/conf/{interface}/{name}"), value)?;
    }
    Ok(())
}

/// Says how an interface that exists comes by its own address.
pub fn write_own_address_of(batch: &mut Batch, index: u32, mode: OwnAddress) {
    batch.begin(crate::links::RTM_NEWLINK, 0, &link_message(index, 0));
    write_own_address(batch, mode);
}
