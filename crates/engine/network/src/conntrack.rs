//! Forgets connections that the kernel tracks, where they would go on to an address that has changed.
//!
//! A UDP sender that never pauses keeps its connection for ever, and with it the container the port led to when it
//! began: a published port that moves to another container must be forgotten.

use crate::nftables::FIXED_BYTES;
use naru_sys::netlink::{self, Attributes, Batch, FLAG_DUMP, Refusal};
use rustix::io::Errno;
use std::os::fd::BorrowedFd;

/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE`.
const GET: u16 = 0x0101;
const DELETE: u16 = 0x0102;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;

/// Forgets the UDP connections to these ports of the host, of a family (`AF_INET` or `AF_INET6`).
pub fn forget_udp(netfilter: BorrowedFd<'_>, family: libc::c_int, ports: &[u16]) -> Result<(), Refusal> {
    let mut tuples: Vec<Vec<u8>> = Vec::new();
    let mut request = Batch::new();
    request.begin(GET, FLAG_DUMP, &[family as u8, 0, 0, 0]);
    netlink::dump(netfilter, request, |message| {
        if let Some(tuple) = message.attributes(FIXED_BYTES).get(CTA_TUPLE_ORIG)
            && is_udp_to(Attributes(tuple), ports)
        {
            tuples.push(tuple.to_vec());
        }
    })?;
    for tuple in tuples {
        let mut batch = Batch::new();
        batch.begin(DELETE, 0, &[family as u8, 0, 0, 0]);
        batch.acknowledge();
        let nested = batch.begin_nested(CTA_TUPLE_ORIG);
        batch.raw(&tuple);
        batch.end_nested(nested);
        match netlink::exchange(netfilter, batch) {
            // It ended meanwhile.
            Err(refusal) if refusal.errno == Errno::NOENT => {}
            result => result?,
        }
    }
    Ok(())
}

fn is_udp_to(tuple: Attributes<'_>, ports: &[u16]) -> bool {
    let protocol = tuple.nested(CTA_TUPLE_PROTO);
    let number = protocol.get(CTA_PROTO_NUM).and_then(<[u8]>::first).copied();
    let port = protocol
        .get(CTA_PROTO_DST_PORT)
        .and_then(<[u8]>::first_chunk::<2>);
    number == Some(libc::IPPROTO_UDP as u8)
        && port.is_some_and(|port| ports.contains(&u16::from_be_bytes(*port)))
}
