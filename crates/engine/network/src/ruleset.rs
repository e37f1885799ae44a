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
//! The guard runs before conntrack (-200) takes the address rewriting of answers back: an answer to the host's own
//! 127.0.0.1 connection passes it while its destination is still the bridge's address.

use crate::bridge::Bridge;
use crate::nftables::{
    ACCEPT, CT_STATE, CT_STATUS, DELETE_ELEMENT, DELETE_TABLE, DROP, Expressions, FAMILY_IPV4, FIXED_BYTES,
    GET_CHAIN, GET_ELEMENT, META_IIFNAME, META_L4PROTO, META_OIFNAME, NETWORK_HEADER, NEW_CHAIN, NEW_ELEMENT,
    NEW_RULE, NEW_SET, NEW_TABLE, REGISTER, REGISTER_SECOND, REGISTER_THIRD, REGISTER_WIDE_SECOND,
    STATE_ESTABLISHED_RELATED, STATUS_DNAT, TRANSPORT_HEADER, Transaction, decode_comment, encode_comment,
    list, padded_name,
};
use crate::{Protocol, Published, PublishedEntry};
use naru_sys::netlink::{Attributes, FLAG_APPEND, FLAG_CREATE, FLAG_EXCLUSIVE, Message, Refusal};
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

const PORTS: &str = "ports";
const ADDRESS_PORTS: &str = "address_ports";
const BRIDGES: &str = "bridges";
const BETWEEN: &str = "between";
const INTERNAL: &str = "internal";
/// nft's numbers of data types, six bits each in a concatenation (`include/datatype.h` of nftables).
const TYPE_ADDRESS: u32 = 7;
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
const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;
const LOOPBACK: ([u8; 4], u8) = ([127, 0, 0, 0], 8);
/// Changed whenever the rules below change, so that a newer daemon replaces the rules of an older one.
const GUARD_CHAIN: &str = "guard_v2";

/// What the rules depend on.
pub struct Layout<'a> {
    pub table: &'a str,
    pub bridges: &'a [Arc<Bridge>],
}

/// Adds the whole table to a transaction, in place of any older one.
pub fn write_table(transaction: &mut Transaction, layout: &Layout<'_>, entries: &[PublishedEntry]) {
    let table = layout.table;
    transaction
        .message(FAMILY_IPV4, NEW_TABLE, FLAG_CREATE)
        .attribute_text(1, table);
    // Making it first lets the deletion succeed also when there was none.
    transaction
        .message(FAMILY_IPV4, DELETE_TABLE, 0)
        .attribute_text(1, table);
    transaction
        .message(FAMILY_IPV4, NEW_TABLE, FLAG_CREATE)
        .attribute_text(1, table);
    write_map(transaction, table, PORTS, 1, TYPE_PROTOCOL << 6 | TYPE_PORT, 8);
    let address_key = TYPE_PROTOCOL << 12 | TYPE_ADDRESS << 6 | TYPE_PORT;
    write_map(transaction, table, ADDRESS_PORTS, 2, address_key, 12);
    for entry in entries {
        add_element(transaction, table, entry);
    }
    write_interface_sets(transaction, layout);
    write_chains(transaction, table);
    write_nat_rules(transaction, layout);
    write_filter_rules(transaction, table);
}

fn write_interface_sets(transaction: &mut Transaction, layout: &Layout<'_>) {
    let Layout { table, bridges } = *layout;
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
    write_set(transaction, table, BRIDGES, 3, TYPE_INTERFACE, &names(&|_| true));
    write_set(transaction, table, BETWEEN, 4, pair_type, &between);
    write_set(
        transaction,
        table,
        INTERNAL,
        5,
        TYPE_INTERFACE,
        &names(&|bridge| bridge.options().is_internal),
    );
}

fn write_set(
    transaction: &mut Transaction,
    table: &str,
    name: &str,
    id: u32,
    key_type: u32,
    keys: &[Vec<u8>],
) {
    let parts = if key_type > TYPE_INTERFACE { 2 } else { 1 };
    let batch = transaction.message(FAMILY_IPV4, NEW_SET, FLAG_CREATE);
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
    let batch = transaction.message(FAMILY_IPV4, NEW_ELEMENT, FLAG_CREATE);
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

fn write_map(transaction: &mut Transaction, table: &str, name: &str, id: u32, key_type: u32, key_bytes: u32) {
    let batch = transaction.message(FAMILY_IPV4, NEW_SET, FLAG_CREATE);
    batch.attribute_text(1, table);
    batch.attribute_text(2, name);
    batch.attribute_be32(3, SET_MAP);
    batch.attribute_be32(4, key_type);
    batch.attribute_be32(5, key_bytes);
    batch.attribute_be32(6, TYPE_ADDRESS << 6 | TYPE_PORT);
    batch.attribute_be32(7, 8);
    batch.attribute_be32(10, id);
}

fn write_chains(transaction: &mut Transaction, table: &str) {
    // Hook numbers and priorities of linux/netfilter_ipv4.h.
    for (name, kind, hook, priority) in [
        (GUARD_CHAIN, "filter", 0, -300),
        ("prerouting", "nat", 0, -100),
        ("output", "nat", 3, -100),
        ("postrouting", "nat", 4, 100),
        ("forward", "filter", 2, 0),
    ] {
        let batch = transaction.message(FAMILY_IPV4, NEW_CHAIN, FLAG_CREATE);
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
    table: &str,
    chain: &str,
    write: impl FnOnce(&mut Expressions<'_>),
) {
    let batch = transaction.message(FAMILY_IPV4, NEW_RULE, FLAG_CREATE | FLAG_APPEND);
    batch.attribute_text(1, table);
    batch.attribute_text(2, chain);
    let nested = batch.begin_nested(4);
    write(&mut Expressions(batch));
    batch.end_nested(nested);
}

fn write_nat_rules(transaction: &mut Transaction, layout: &Layout<'_>) {
    let Layout { table, bridges } = *layout;
    for chain in ["prerouting", "output"] {
        write_rule(transaction, table, chain, |rule| {
            rule.destination_type()
                .equals(&LOCAL.to_ne_bytes())
                .meta(META_L4PROTO, REGISTER)
                .payload(NETWORK_HEADER, DESTINATION, 4, REGISTER_SECOND)
                .payload(TRANSPORT_HEADER, 2, 2, REGISTER_THIRD)
                .lookup(ADDRESS_PORTS)
                .destination_nat();
        });
        write_rule(transaction, table, chain, |rule| {
            rule.destination_type()
                .equals(&LOCAL.to_ne_bytes())
                .meta(META_L4PROTO, REGISTER)
                .payload(TRANSPORT_HEADER, 2, 2, REGISTER_SECOND)
                .lookup(PORTS)
                .destination_nat();
        });
    }
    for bridge in bridges.iter().filter(|bridge| !bridge.options().is_internal) {
        write_masquerading(transaction, table, bridge);
    }
}

fn write_masquerading(transaction: &mut Transaction, table: &str, bridge: &Bridge) {
    let (subnet, name) = (bridge.subnet(), bridge.name());
    let network = subnet.network.octets();
    if bridge.options().masquerades {
        write_rule(transaction, table, "postrouting", |rule| {
            rule.address_within(SOURCE, network, subnet.prefix_length)
                .interface_other_than(META_OIFNAME, name)
                .masquerade();
        });
    }
    // A container that reached a container by a published port: without this the answer would take the short way
    // over the bridge and arrive from an address nobody asked.
    write_rule(transaction, table, "postrouting", |rule| {
        rule.interface(META_OIFNAME, name)
            .address_within(SOURCE, network, subnet.prefix_length)
            .conntrack_any(CT_STATUS, STATUS_DNAT)
            .masquerade();
    });
    write_rule(transaction, table, "postrouting", |rule| {
        rule.interface(META_OIFNAME, name)
            .address_within(SOURCE, LOOPBACK.0, LOOPBACK.1)
            .masquerade();
    });
}

fn write_filter_rules(transaction: &mut Transaction, table: &str) {
    for side in [DESTINATION, SOURCE] {
        write_rule(transaction, table, GUARD_CHAIN, |rule| {
            rule.interface_other_than(META_IIFNAME, "lo")
                .address_within(side, LOOPBACK.0, LOOPBACK.1)
                .verdict(DROP);
        });
    }
    write_rule(transaction, table, "forward", |rule| {
        rule.meta(META_IIFNAME, REGISTER)
            .meta(META_OIFNAME, REGISTER_WIDE_SECOND)
            .within(BETWEEN)
            .verdict(ACCEPT);
    });
    // Before everything that accepts: not even a published port leads into or out of an internal network.
    for side in [META_IIFNAME, META_OIFNAME] {
        write_rule(transaction, table, "forward", |rule| {
            rule.meta(side, REGISTER).within(INTERNAL).counter().verdict(DROP);
        });
    }
    write_rule(transaction, table, "forward", |rule| {
        rule.meta(META_OIFNAME, REGISTER)
            .not_within(BRIDGES)
            .verdict(ACCEPT);
    });
    write_rule(transaction, table, "forward", |rule| {
        rule.conntrack_any(CT_STATE, STATE_ESTABLISHED_RELATED)
            .verdict(ACCEPT);
    });
    write_rule(transaction, table, "forward", |rule| {
        rule.conntrack_any(CT_STATUS, STATUS_DNAT).verdict(ACCEPT);
    });
    write_rule(transaction, table, "forward", |rule| {
        rule.counter().verdict(DROP);
    });
}

/// Whether the table of this version is there.
pub fn is_table_present(socket: BorrowedFd<'_>, table: &str) -> Result<bool, Refusal> {
    has_chain(socket, table, |chain| chain == GUARD_CHAIN)
}

/// Whether the table is there, of this version or an older one.
pub fn is_any_table_present(socket: BorrowedFd<'_>, table: &str) -> Result<bool, Refusal> {
    has_chain(socket, table, |_| true)
}

fn has_chain(socket: BorrowedFd<'_>, table: &str, wanted: impl Fn(&str) -> bool) -> Result<bool, Refusal> {
    let mut is_present = false;
    list(socket, FAMILY_IPV4, GET_CHAIN, &[], |message| {
        let attributes = message.attributes(FIXED_BYTES);
        is_present |= attributes.text(1) == Some(table) && attributes.text(3).is_some_and(&wanted);
    })?;
    Ok(is_present)
}

/// Adds a published port; the transaction fails if the port is in the map already.
pub fn add_element(transaction: &mut Transaction, table: &str, entry: &PublishedEntry) {
    let comment = encode_comment(&entry.comment);
    let [a, b, c, d] = entry.container_address.octets();
    let [high, low] = entry.published.container_port.to_be_bytes();
    let data = [a, b, c, d, high, low, 0, 0];
    write_element(
        transaction,
        table,
        NEW_ELEMENT,
        FLAG_CREATE | FLAG_EXCLUSIVE,
        &entry.published,
        Some((data, &comment)),
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
    value: Option<([u8; 8], &[u8])>,
) {
    let batch = transaction.message(FAMILY_IPV4, kind, flags);
    batch.attribute_text(1, table);
    batch.attribute_text(
        2,
        if published.host_ip.is_some() {
            ADDRESS_PORTS
        } else {
            PORTS
        },
    );
    let elements = batch.begin_nested(3);
    let element = batch.begin_nested(1);
    let key = batch.begin_nested(1);
    let (bytes, length) = encode_key(published);
    batch.attribute(1, &bytes[..length]);
    batch.end_nested(key);
    if let Some((data, comment)) = value {
        let nested = batch.begin_nested(2);
        batch.attribute(1, &data);
        batch.end_nested(nested);
        batch.attribute(6, comment);
    }
    batch.end_nested(element);
    batch.end_nested(elements);
}

/// Each part of a concatenation takes whole 4-byte registers.
fn encode_key(published: &Published) -> ([u8; 12], usize) {
    let mut key = [0; 12];
    key[0] = match published.protocol {
        Protocol::Tcp => libc::IPPROTO_TCP as u8,
        Protocol::Udp => libc::IPPROTO_UDP as u8,
    };
    let port_at = match published.host_ip {
        Some(address) => {
            key[4..8].copy_from_slice(&address.octets());
            8
        }
        None => 4,
    };
    key[port_at..port_at + 2].copy_from_slice(&published.host_port.to_be_bytes());
    (key, port_at + 4)
}

/// All published ports as the kernel has them.
pub fn list_elements(socket: BorrowedFd<'_>, table: &str) -> Result<Vec<PublishedEntry>, Refusal> {
    let mut entries = Vec::new();
    for map in [PORTS, ADDRESS_PORTS] {
        list(
            socket,
            FAMILY_IPV4,
            GET_ELEMENT,
            &[(1, table), (2, map)],
            |message| {
                entries.extend(decode_elements(&message));
            },
        )?;
    }
    Ok(entries)
}

fn decode_elements(message: &Message<'_>) -> Vec<PublishedEntry> {
    let elements = message.attributes(FIXED_BYTES).nested(3);
    elements
        .filter_map(|(_, element)| decode_element(Attributes(element)))
        .collect()
}

fn decode_element(element: Attributes<'_>) -> Option<PublishedEntry> {
    let key = element.nested(1).get(1)?;
    let data = element.nested(2).get(1)?;
    let protocol = match i32::from(*key.first()?) {
        libc::IPPROTO_TCP => Protocol::Tcp,
        libc::IPPROTO_UDP => Protocol::Udp,
        _ => return None,
    };
    let port_at = |bytes: &[u8], at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let address_at =
        |bytes: &[u8], at: usize| bytes.get(at..)?.first_chunk::<4>().copied().map(Ipv4Addr::from);
    let host_ip = if key.len() == 12 {
        Some(address_at(key, 4)?)
    } else {
        None
    };
    let published = Published {
        container_port: port_at(data, 4)?,
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
            host_ip: None,
            host_port: 0x1234,
        };
        assert_eq!(
            encode_key(&published),
            ([17, 0, 0, 0, 0x12, 0x34, 0, 0, 0, 0, 0, 0], 8)
        );
        published.host_ip = Some(Ipv4Addr::new(1, 2, 3, 4));
        assert_eq!(
            encode_key(&published),
            ([17, 0, 0, 0, 1, 2, 3, 4, 0x12, 0x34, 0, 0], 12)
        );
    }
}
