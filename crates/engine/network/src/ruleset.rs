//! Naru's own table: what it accepts, drops and rewrites.
//!
//! ```text
//! table ip naru
//!   map ports          protocol . port           → container address . port     (published on every address)
//!   map address_ports  protocol . address . port → container address . port     (published on one address)
//!   set bridges        every bridge of the engine
//!   set between        bridge . bridge, for each whose containers reach each other
//!   set internal       bridges without a way out or in
//!   chain guard        prerouting, raw       loopback addresses come from lo only (CVE-2020-8558)
//!   chain prerouting   prerouting, dstnat    local destination: look the two maps up
//!   chain output       output, dstnat        the same for the host's own connections, 127.0.0.1 included
//!   chain postrouting  postrouting, srcnat   masquerade: outgoing; hairpin; from the host's loopback addresses
//!   chain forward      forward, filter       within a bridge; out; established; published; anything else to a bridge,
//!                                            from outside or from another bridge, is dropped
//! ```
//! The same table of family `ip6` is there beside it while a network has IPv6, with those networks in it.
//!
//! The guard runs before conntrack (-200) takes the address rewriting of answers back: an answer to the host's own
//! 127.0.0.1 connection passes it while its destination is still the bridge's address.

use crate::bridge::Bridge;
use crate::nftables::{
    ACCEPT, CT_STATE, CT_STATUS, DELETE_ELEMENT, DELETE_TABLE, DROP, Expressions, FAMILY_IPV4, FAMILY_IPV6,
    FIXED_BYTES, GET_CHAIN, GET_ELEMENT, META_IIFNAME, META_L4PROTO, META_OIFNAME, NETWORK_HEADER, NEW_CHAIN,
    NEW_ELEMENT, NEW_RULE, NEW_SET, NEW_TABLE, REGISTER, REGISTER_AFTER_SECOND6, REGISTER_SECOND,
    REGISTER_THIRD, REGISTER_WIDE_SECOND, STATE_ESTABLISHED_RELATED, STATUS_DNAT, TRANSPORT_HEADER,
    Transaction, decode_comment, encode_comment, list, padded_name,
};
use crate::{Protocol, Published, PublishedEntry};
use naru_sys::netlink::{Attributes, FLAG_APPEND, FLAG_CREATE, FLAG_EXCLUSIVE, Message, Refusal};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

const PORTS: &str = "ports";
const ADDRESS_PORTS: &str = "address_ports";
const BRIDGES: &str = "bridges";
const BETWEEN: &str = "between";
const INTERNAL: &str = "internal";
/// nft's numbers of data types, six bits each in a concatenation (`include/datatype.h` of nftables).
const TYPE_ADDRESS: u32 = 7;
const TYPE_ADDRESS6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
const TYPE_INTERFACE: u32 = 41;
const INTERFACE_BYTES: u32 = 16;
/// `NFTNL_UDATA_SET_KEYBYTEORDER`, its length and `BYTEORDER_HOST_ENDIAN`: without it `nft` prints names backwards.
const KEY_IN_HOST_ORDER: [u8; 6] = [0, 4, 1, 0, 0, 0];
/// `NFT_SET_MAP`.
const SET_MAP: u32 = 0x8;
/// `RTN_LOCAL`.
const LOCAL: u32 = 2;
/// Changed whenever the rules below change, so that a newer daemon replaces the rules of an older one.
const GUARD_CHAIN: &str = "guard_v2";

/// Which of the two protocols a table is for, and where its addresses are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    fn number(self) -> u8 {
        match self {
            Self::Ipv4 => FAMILY_IPV4,
            Self::Ipv6 => FAMILY_IPV6,
        }
    }

    fn address_bytes(self) -> u32 {
        match self {
            Self::Ipv4 => 4,
            Self::Ipv6 => 16,
        }
    }

    fn address_type(self) -> u32 {
        match self {
            Self::Ipv4 => TYPE_ADDRESS,
            Self::Ipv6 => TYPE_ADDRESS6,
        }
    }

    /// Where a packet's source is in its network header.
    fn source(self) -> u32 {
        match self {
            Self::Ipv4 => 12,
            Self::Ipv6 => 8,
        }
    }

    fn destination(self) -> u32 {
        self.source() + self.address_bytes()
    }

    /// The register that holds the port of a key that begins with protocol and address.
    fn port_register(self) -> u32 {
        match self {
            Self::Ipv4 => REGISTER_THIRD,
            Self::Ipv6 => REGISTER_AFTER_SECOND6,
        }
    }

    fn loopback(self) -> (Vec<u8>, u8) {
        match self {
            Self::Ipv4 => (vec![127, 0, 0, 0], 8),
            Self::Ipv6 => (Ipv6Addr::LOCALHOST.octets().to_vec(), 128),
        }
    }
}

/// What the rules depend on.
pub struct Layout<'a> {
    pub family: Family,
    pub table: &'a str,
    pub bridges: &'a [Arc<Bridge>],
}

/// Adds the whole table to a transaction, in place of any older one.
pub fn write_table(transaction: &mut Transaction, layout: &Layout<'_>, entries: &[PublishedEntry]) {
    let (family, table) = (layout.family, layout.table);
    transaction
        .message(family.number(), NEW_TABLE, FLAG_CREATE)
        .attribute_text(1, table);
    // Making it first lets the deletion succeed also when there was none.
    transaction
        .message(family.number(), DELETE_TABLE, 0)
        .attribute_text(1, table);
    transaction
        .message(family.number(), NEW_TABLE, FLAG_CREATE)
        .attribute_text(1, table);
    write_map(transaction, layout, (PORTS, 1), TYPE_PROTOCOL << 6 | TYPE_PORT, 8);
    let address_key = TYPE_PROTOCOL << 12 | family.address_type() << 6 | TYPE_PORT;
    let address_key_bytes = 8 + family.address_bytes();
    write_map(
        transaction,
        layout,
        (ADDRESS_PORTS, 2),
        address_key,
        address_key_bytes,
    );
    for entry in entries {
        add_element(transaction, table, entry);
    }
    write_interface_sets(transaction, layout);
    write_chains(transaction, layout);
    write_nat_rules(transaction, layout);
    write_filter_rules(transaction, layout);
}

fn write_interface_sets(transaction: &mut Transaction, layout: &Layout<'_>) {
    let bridges = layout.bridges;
    let names = |wanted: &dyn Fn(&Bridge) -> bool| -> Vec<Vec<u8>> {
        let bridges = bridges.iter().filter(|bridge| wanted(bridge));
        bridges
            .map(|bridge| padded_name(bridge.name()).to_vec())
            .collect()
    };
    let between: Vec<Vec<u8>> = names(&|bridge| bridge.options().allows_between)
        .iter()
        .map(|name| name.repeat(2))
        .collect();
    let pair_type = TYPE_INTERFACE << 6 | TYPE_INTERFACE;
    write_set(
        transaction,
        layout,
        (BRIDGES, 3),
        TYPE_INTERFACE,
        &names(&|_| true),
    );
    write_set(transaction, layout, (BETWEEN, 4), pair_type, &between);
    write_set(
        transaction,
        layout,
        (INTERNAL, 5),
        TYPE_INTERFACE,
        &names(&|bridge| bridge.options().is_internal),
    );
}

fn write_set(
    transaction: &mut Transaction,
    layout: &Layout<'_>,
    (name, id): (&str, u32),
    key_type: u32,
    keys: &[Vec<u8>],
) {
    let Layout { family, table, .. } = *layout;
    let parts = if key_type > TYPE_INTERFACE { 2 } else { 1 };
    let batch = transaction.message(family.number(), NEW_SET, FLAG_CREATE);
    batch.attribute_text(1, table);
    batch.attribute_text(2, name);
    batch.attribute_be32(3, 0);
    batch.attribute_be32(4, key_type);
    batch.attribute_be32(5, INTERFACE_BYTES * parts);
    batch.attribute_be32(10, id);
    batch.attribute(13, &KEY_IN_HOST_ORDER);
    if keys.is_empty() {
        return;
    }
    let batch = transaction.message(family.number(), NEW_ELEMENT, FLAG_CREATE);
    batch.attribute_text(1, table);
    batch.attribute_text(2, name);
    let elements = batch.begin_nested(3);
    for bytes in keys {
        let element = batch.begin_nested(1);
        let key = batch.begin_nested(1);
        batch.attribute(1, bytes);
        batch.end_nested(key);
        batch.end_nested(element);
    }
    batch.end_nested(elements);
}

fn write_map(
    transaction: &mut Transaction,
    layout: &Layout<'_>,
    (name, id): (&str, u32),
    key_type: u32,
    key_bytes: u32,
) {
    let Layout { family, table, .. } = *layout;
    let batch = transaction.message(family.number(), NEW_SET, FLAG_CREATE);
    batch.attribute_text(1, table);
    batch.attribute_text(2, name);
    batch.attribute_be32(3, SET_MAP);
    batch.attribute_be32(4, key_type);
    batch.attribute_be32(5, key_bytes);
    batch.attribute_be32(6, family.address_type() << 6 | TYPE_PORT);
    batch.attribute_be32(7, family.address_bytes() + 4);
    batch.attribute_be32(10, id);
}

fn write_chains(transaction: &mut Transaction, layout: &Layout<'_>) {
    let Layout { family, table, .. } = *layout;
    // Hook numbers and priorities of linux/netfilter_ipv4.h.
    for (name, kind, hook, priority) in [
        (GUARD_CHAIN, "filter", 0, -300),
        ("prerouting", "nat", 0, -100),
        ("output", "nat", 3, -100),
        ("postrouting", "nat", 4, 100),
        ("forward", "filter", 2, 0),
    ] {
        let batch = transaction.message(family.number(), NEW_CHAIN, FLAG_CREATE);
        batch.attribute_text(1, table);
        batch.attribute_text(3, name);
        batch.attribute_text(7, kind);
        batch.attribute_be32(5, ACCEPT as u32);
        let nested = batch.begin_nested(4);
        batch.attribute_be32(1, hook);
        batch.attribute_be32(2, i32::cast_unsigned(priority));
        batch.end_nested(nested);
    }
}

fn write_rule(
    transaction: &mut Transaction,
    layout: &Layout<'_>,
    chain: &str,
    write: impl FnOnce(&mut Expressions<'_>),
) {
    let Layout { family, table, .. } = *layout;
    let batch = transaction.message(family.number(), NEW_RULE, FLAG_CREATE | FLAG_APPEND);
    batch.attribute_text(1, table);
    batch.attribute_text(2, chain);
    let nested = batch.begin_nested(4);
    write(&mut Expressions(batch));
    batch.end_nested(nested);
}

fn write_nat_rules(transaction: &mut Transaction, layout: &Layout<'_>) {
    let Layout { family, bridges, .. } = *layout;
    if family == Family::Ipv6 {
        // The answer would be led nowhere (RFC 4291, 2.5.3); refused by the host itself, a client goes on to 127.0.0.1.
        let (loopback, length) = family.loopback();
        write_rule(transaction, layout, "output", |rule| {
            rule.address_within(family.destination(), &loopback, length)
                .verdict(ACCEPT);
        });
    }
    for chain in ["prerouting", "output"] {
        write_rule(transaction, layout, chain, |rule| {
            rule.destination_type()
                .equals(&LOCAL.to_ne_bytes())
                .meta(META_L4PROTO, REGISTER)
                .payload(
                    NETWORK_HEADER,
                    family.destination(),
                    family.address_bytes(),
                    REGISTER_SECOND,
                )
                .payload(TRANSPORT_HEADER, 2, 2, family.port_register())
                .lookup(ADDRESS_PORTS)
                .destination_nat(family.number());
        });
        write_rule(transaction, layout, chain, |rule| {
            rule.destination_type()
                .equals(&LOCAL.to_ne_bytes())
                .meta(META_L4PROTO, REGISTER)
                .payload(TRANSPORT_HEADER, 2, 2, REGISTER_SECOND)
                .lookup(PORTS)
                .destination_nat(family.number());
        });
    }
    for bridge in bridges.iter().filter(|bridge| !bridge.options().is_internal) {
        write_masquerading(transaction, layout, bridge);
    }
}

fn write_masquerading(transaction: &mut Transaction, layout: &Layout<'_>, bridge: &Bridge) {
    let (family, name) = (layout.family, bridge.name());
    let (network, prefix_length) = match (family, bridge.subnet6()) {
        (Family::Ipv6, Some(subnet)) => (subnet.network.octets().to_vec(), subnet.prefix_length),
        _ => (
            bridge.subnet().network.octets().to_vec(),
            bridge.subnet().prefix_length,
        ),
    };
    if bridge.options().masquerades {
        write_rule(transaction, layout, "postrouting", |rule| {
            rule.address_within(family.source(), &network, prefix_length)
                .interface_other_than(META_OIFNAME, name)
                .masquerade();
        });
    }
    // A container that reached a container by a published port: without this the answer would take the short way
    // over the bridge and arrive from an address nobody asked.
    write_rule(transaction, layout, "postrouting", |rule| {
        rule.interface(META_OIFNAME, name)
            .address_within(family.source(), &network, prefix_length)
            .conntrack_any(CT_STATUS, STATUS_DNAT)
            .masquerade();
    });
    if family == Family::Ipv4 {
        let (loopback, length) = family.loopback();
        write_rule(transaction, layout, "postrouting", |rule| {
            rule.interface(META_OIFNAME, name)
                .address_within(family.source(), &loopback, length)
                .masquerade();
        });
    }
}

fn write_filter_rules(transaction: &mut Transaction, layout: &Layout<'_>) {
    let family = layout.family;
    let (loopback, length) = family.loopback();
    for side in [family.destination(), family.source()] {
        write_rule(transaction, layout, GUARD_CHAIN, |rule| {
            rule.interface_other_than(META_IIFNAME, "lo")
                .address_within(side, &loopback, length)
                .verdict(DROP);
        });
    }
    write_rule(transaction, layout, "forward", |rule| {
        rule.meta(META_IIFNAME, REGISTER)
            .meta(META_OIFNAME, REGISTER_WIDE_SECOND)
            .within(BETWEEN)
            .verdict(ACCEPT);
    });
    // Before everything that accepts: not even a published port leads into or out of an internal network.
    for side in [META_IIFNAME, META_OIFNAME] {
        write_rule(transaction, layout, "forward", |rule| {
            rule.meta(side, REGISTER).within(INTERNAL).counter().verdict(DROP);
        });
    }
    write_rule(transaction, layout, "forward", |rule| {
        rule.meta(META_OIFNAME, REGISTER)
            .not_within(BRIDGES)
            .verdict(ACCEPT);
    });
    write_rule(transaction, layout, "forward", |rule| {
        rule.conntrack_any(CT_STATE, STATE_ESTABLISHED_RELATED)
            .verdict(ACCEPT);
    });
    write_rule(transaction, layout, "forward", |rule| {
        rule.conntrack_any(CT_STATUS, STATUS_DNAT).verdict(ACCEPT);
    });
    write_rule(transaction, layout, "forward", |rule| {
        rule.counter().verdict(DROP);
    });
}

/// Whether the table of this version is there.
pub fn is_table_present(socket: BorrowedFd<'_>, family: Family, table: &str) -> Result<bool, Refusal> {
    has_chain(socket, family, table, |chain| chain == GUARD_CHAIN)
}

/// Whether the table is there, of this version or an older one.
pub fn is_any_table_present(socket: BorrowedFd<'_>, family: Family, table: &str) -> Result<bool, Refusal> {
    has_chain(socket, family, table, |_| true)
}

fn has_chain(
    socket: BorrowedFd<'_>,
    family: Family,
    table: &str,
    wanted: impl Fn(&str) -> bool,
) -> Result<bool, Refusal> {
    let mut is_present = false;
    list(socket, family.number(), GET_CHAIN, &[], |message| {
        let attributes = message.attributes(FIXED_BYTES);
        // Without IPv6 in nf_tables the kernel answers for the families it has.
        is_present |= message.payload.first() == Some(&family.number())
            && attributes.text(1) == Some(table)
            && attributes.text(3).is_some_and(&wanted);
    })?;
    Ok(is_present)
}

/// Removes a table that is there.
pub fn remove_table(transaction: &mut Transaction, family: Family, table: &str) {
    transaction
        .message(family.number(), DELETE_TABLE, 0)
        .attribute_text(1, table);
}

/// Adds a published port; the transaction fails if the port is in the map already.
pub fn add_element(transaction: &mut Transaction, table: &str, entry: &PublishedEntry) {
    let comment = encode_comment(&entry.comment);
    let mut data = octets(entry.container_address);
    data.extend(entry.published.container_port.to_be_bytes());
    data.extend([0, 0]);
    write_element(
        transaction,
        table,
        NEW_ELEMENT,
        FLAG_CREATE | FLAG_EXCLUSIVE,
        &entry.published,
        Some((&data, &comment)),
    );
}

pub fn delete_element(transaction: &mut Transaction, table: &str, published: &Published) {
    write_element(transaction, table, DELETE_ELEMENT, 0, published, None);
}

fn write_element(
    transaction: &mut Transaction,
    table: &str,
    kind: u16,
    flags: u16,
    published: &Published,
    value: Option<(&[u8], &[u8])>,
) {
    let family = Family::of(published.host_ip);
    let batch = transaction.message(family.number(), kind, flags);
    batch.attribute_text(1, table);
    batch.attribute_text(
        2,
        if published.host_ip.is_unspecified() {
            PORTS
        } else {
            ADDRESS_PORTS
        },
    );
    let elements = batch.begin_nested(3);
    let element = batch.begin_nested(1);
    let key = batch.begin_nested(1);
    batch.attribute(1, &encode_key(published));
    batch.end_nested(key);
    if let Some((data, comment)) = value {
        let nested = batch.begin_nested(2);
        batch.attribute(1, data);
        batch.end_nested(nested);
        batch.attribute(6, comment);
    }
    batch.end_nested(element);
    batch.end_nested(elements);
}

/// Each part of a concatenation takes whole 4-byte registers.
fn encode_key(published: &Published) -> Vec<u8> {
    let protocol = match published.protocol {
        Protocol::Tcp => libc::IPPROTO_TCP as u8,
        Protocol::Udp => libc::IPPROTO_UDP as u8,
    };
    let mut key = vec![protocol, 0, 0, 0];
    if !published.host_ip.is_unspecified() {
        key.extend(octets(published.host_ip));
    }
    key.extend(published.host_port.to_be_bytes());
    key.extend([0, 0]);
    key
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// All published ports as the kernel has them.
pub fn list_elements(
    socket: BorrowedFd<'_>,
    family: Family,
    table: &str,
) -> Result<Vec<PublishedEntry>, Refusal> {
    let mut entries = Vec::new();
    for map in [PORTS, ADDRESS_PORTS] {
        list(
            socket,
            family.number(),
            GET_ELEMENT,
            &[(1, table), (2, map)],
            |message| {
                entries.extend(decode_elements(&message, family));
            },
        )?;
    }
    Ok(entries)
}

fn decode_elements(message: &Message<'_>, family: Family) -> Vec<PublishedEntry> {
    let elements = message.attributes(FIXED_BYTES).nested(3);
    elements
        .filter_map(|(_, element)| decode_element(Attributes(element), family))
        .collect()
}

fn decode_element(element: Attributes<'_>, family: Family) -> Option<PublishedEntry> {
    let key = element.nested(1).get(1)?;
    let data = element.nested(2).get(1)?;
    let protocol = match i32::from(*key.first()?) {
        libc::IPPROTO_TCP => Protocol::Tcp,
        libc::IPPROTO_UDP => Protocol::Udp,
        _ => return None,
    };
    let port_at = |bytes: &[u8], at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let address_at = |bytes: &[u8], at: usize| match family {
        Family::Ipv4 => Some(IpAddr::from(*bytes.get(at..)?.first_chunk::<4>()?)),
        Family::Ipv6 => Some(IpAddr::from(*bytes.get(at..)?.first_chunk::<16>()?)),
    };
    let host_ip = match (key.len(), family) {
        (8, Family::Ipv4) => Ipv4Addr::UNSPECIFIED.into(),
        (8, Family::Ipv6) => Ipv6Addr::UNSPECIFIED.into(),
        _ => address_at(key, 4)?,
    };
    let published = Published {
        container_port: port_at(data, family.address_bytes() as usize)?,
        protocol,
        host_ip,
        host_port: port_at(key, key.len().checked_sub(4)?)?,
    };
    let comment = element.get(6).and_then(decode_comment).unwrap_or_default();
    Some(PublishedEntry {
        published,
        container_address: address_at(data, 0)?,
        comment,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_a_key_fills_whole_registers() {
        let mut published = Published {
            container_port: 80,
            protocol: Protocol::Udp,
            host_ip: Ipv4Addr::UNSPECIFIED.into(),
            host_port: 0x1234,
        };
        assert_eq!(encode_key(&published), [17, 0, 0, 0, 0x12, 0x34, 0, 0]);
        published.host_ip = Ipv4Addr::new(1, 2, 3, 4).into();
        assert_eq!(
            encode_key(&published),
            [17, 0, 0, 0, 1, 2, 3, 4, 0x12, 0x34, 0, 0]
        );
    }
}
