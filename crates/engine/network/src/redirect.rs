//! Leads a container's questions for 127.0.0.11 port 53 to the port where its resolver listens.
//!
//! ```text
//! table ip naru_dns (inside the container)
//!   chain output   output, filter   to   127.0.0.11:53    → port becomes the resolver's
//!                                   from 127.0.0.11:port  → port becomes 53
//! ```
//! The resolver does not listen on port 53 itself: a container that serves DNS on all its addresses would find the port
//! taken. Both directions are the container's own output, so that ports are rewritten where they leave, without
//! connection tracking, which would slow down everything else the container sends.

use crate::error::{Result, refused};
use crate::nftables::{
    ACCEPT, DELETE_TABLE, Expressions, FAMILY_IPV4, META_L4PROTO, NETWORK_HEADER, NEW_CHAIN, NEW_RULE,
    NEW_TABLE, REGISTER, TRANSPORT_HEADER, Transaction,
};
use naru_sys::netlink::{FLAG_APPEND, FLAG_CREATE};
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

const TABLE: &str = "naru_dns";
const CHAIN: &str = "output";
const DNS_PORT: u16 = 53;
const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;
/// Of the transport header, the same for UDP and TCP.
const SOURCE_PORT: u32 = 0;
const DESTINATION_PORT: u32 = 2;
const UDP: (u8, u32) = (libc::IPPROTO_UDP as u8, 6);
const TCP: (u8, u32) = (libc::IPPROTO_TCP as u8, 16);

/// Writes the rules, in place of older ones, by a netfilter socket of the container's namespace.
pub fn redirect_dns(nft: BorrowedFd<'_>, resolver: Ipv4Addr, udp_port: u16, tcp_port: u16) -> Result<()> {
    let mut transaction = Transaction::new();
    for kind in [NEW_TABLE, DELETE_TABLE, NEW_TABLE] {
        let flags = if kind == NEW_TABLE { FLAG_CREATE } else { 0 };
        transaction
            .message(FAMILY_IPV4, kind, flags)
            .attribute_text(1, TABLE);
    }
    write_chain(&mut transaction);
    for ((protocol, checksum), port) in [(UDP, udp_port), (TCP, tcp_port)] {
        for (side, port_at, from, to) in [
            (DESTINATION, DESTINATION_PORT, DNS_PORT, port),
            (SOURCE, SOURCE_PORT, port, DNS_PORT),
        ] {
            write_rule(&mut transaction, |rule| {
                rule.payload(NETWORK_HEADER, side, 4, REGISTER)
                    .equals(&resolver.octets())
                    .meta(META_L4PROTO, REGISTER)
                    .equals(&[protocol])
                    .payload(TRANSPORT_HEADER, port_at, 2, REGISTER)
                    .equals(&from.to_be_bytes())
                    .load(&to.to_be_bytes())
                    .write_transport(port_at, 2, checksum)
                    .verdict(ACCEPT);
            });
        }
    }
    transaction
        .commit(nft)
        .map_err(refused("lead a container's DNS questions to its resolver"))
}

fn write_chain(transaction: &mut Transaction) {
    let batch = transaction.message(FAMILY_IPV4, NEW_CHAIN, FLAG_CREATE);
    batch.attribute_text(1, TABLE);
    batch.attribute_text(3, CHAIN);
    batch.attribute_text(7, "filter");
    batch.attribute_be32(5, ACCEPT as u32);
    let hook = batch.begin_nested(4);
    // `NF_INET_LOCAL_OUT`, and before connection tracking, should the container use it.
    batch.attribute_be32(1, 3);
    batch.attribute_be32(2, i32::cast_unsigned(-300));
    batch.end_nested(hook);
}

fn write_rule(transaction: &mut Transaction, write: impl FnOnce(&mut Expressions<'_>)) {
    let batch = transaction.message(FAMILY_IPV4, NEW_RULE, FLAG_CREATE | FLAG_APPEND);
    batch.attribute_text(1, TABLE);
    batch.attribute_text(2, CHAIN);
    let nested = batch.begin_nested(4);
    write(&mut Expressions(batch));
    batch.end_nested(nested);
}
