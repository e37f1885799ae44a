//! The wire format of nf_tables: messages, expressions and comments, as `linux/netfilter/nf_tables.h` numbers them.
//!
//! What the rules say is in [`crate::ruleset`] and [`crate::foreign`]; here is only how they are written.

use naru_sys::netlink::{self, Attributes, Batch, FLAG_DUMP, Message, Refusal};
use std::os::fd::BorrowedFd;

pub const FAMILY_INET: u8 = 1;
pub const FAMILY_IPV4: u8 = 2;
pub const FAMILY_IPV6: u8 = 10;

pub const NEW_TABLE: u16 = 0;
pub const DELETE_TABLE: u16 = 2;
pub const NEW_CHAIN: u16 = 3;
pub const GET_CHAIN: u16 = 4;
pub const NEW_RULE: u16 = 6;
pub const GET_RULE: u16 = 7;
pub const DELETE_RULE: u16 = 8;
pub const NEW_SET: u16 = 9;
pub const NEW_ELEMENT: u16 = 12;
pub const GET_ELEMENT: u16 = 13;
pub const DELETE_ELEMENT: u16 = 14;
pub const NEW_GENERATION: u16 = 15;

/// `NFNL_SUBSYS_NFTABLES` in the type's upper byte.
pub const SUBSYSTEM: u16 = 10;
/// `NFNLGRP_NFTABLES`.
pub const MULTICAST_GROUP: u32 = 7;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// `sizeof(struct nfgenmsg)`.
pub const FIXED_BYTES: usize = 4;

/// The 16-byte registers 1 and 2; 4-byte register 9 is the second quarter of register 1.
pub const REGISTER: u32 = 1;
pub const REGISTER_SECOND: u32 = 9;
pub const REGISTER_THIRD: u32 = 10;
/// The first 4 bytes after a 16-byte address in register 1, and after one in register 9.
pub const REGISTER_AFTER_ADDRESS6: u32 = 12;
pub const REGISTER_AFTER_SECOND6: u32 = 13;
/// The second 16-byte register.
pub const REGISTER_WIDE_SECOND: u32 = 2;
const REGISTER_VERDICT: u32 = 0;
/// `NFT_LOOKUP_F_INV`.
const LOOKUP_INVERTED: u32 = 1;
/// `NFT_PAYLOAD_CSUM_INET`.
const CHECKSUM_INTERNET: u32 = 1;

pub const META_IIFNAME: u32 = 6;
pub const META_OIFNAME: u32 = 7;
pub const META_L4PROTO: u32 = 16;
pub const CT_STATE: u32 = 0;
pub const CT_STATUS: u32 = 2;
/// `NF_CT_STATE_BIT(IP_CT_ESTABLISHED) | NF_CT_STATE_BIT(IP_CT_RELATED)`.
pub const STATE_ESTABLISHED_RELATED: u32 = 0x6;
/// `IPS_DST_NAT`.
pub const STATUS_DNAT: u32 = 0x20;
pub const DROP: i32 = 0;
pub const ACCEPT: i32 = 1;
pub const NETWORK_HEADER: u32 = 1;
pub const TRANSPORT_HEADER: u32 = 2;
/// `NFTNL_UDATA_*_COMMENT`: libnftnl's type for a comment, followed by its length and the text with a zero.
const COMMENT: u8 = 0;
/// `NFTNL_UDATA_COMMENT_MAXLEN`, zero included.
const COMMENT_BYTES_MAX: usize = 128;

/// A transaction: all of it happens or nothing.
pub struct Transaction(Batch);

impl Transaction {
    pub fn new() -> Self {
        let mut batch = Batch::new();
        batch.begin(BATCH_BEGIN, 0, &[0, 0, 0, SUBSYSTEM as u8]);
        Self(batch)
    }

    /// The messages so far, to add attributes to.
    pub fn message(&mut self, family: u8, kind: u16, flags: u16) -> &mut Batch {
        self.0.begin(SUBSYSTEM << 8 | kind, flags, &[family, 0, 0, 0]);
        &mut self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.len() == 1
    }

    /// Applies it. A transaction without messages is nothing to do.
    pub fn commit(mut self, socket: BorrowedFd<'_>) -> Result<(), Refusal> {
        if self.is_empty() {
            return Ok(());
        }
        // Acknowledgement of the end marker itself came only with Linux 6.10.
        self.0.acknowledge();
        self.0.begin(BATCH_END, 0, &[0, 0, 0, SUBSYSTEM as u8]);
        netlink::exchange(socket, self.0)
    }
}

/// Lists objects of a kind; `attributes` narrows the list.
pub fn list(
    socket: BorrowedFd<'_>,
    family: u8,
    kind: u16,
    attributes: &[(u16, &str)],
    each: impl FnMut(Message<'_>),
) -> Result<(), Refusal> {
    let mut request = Batch::new();
    request.begin(SUBSYSTEM << 8 | kind, FLAG_DUMP, &[family, 0, 0, 0]);
    for (kind, text) in attributes {
        request.attribute_text(*kind, text);
    }
    netlink::dump(socket, request, each)
}

/// The expressions of one rule.
pub struct Expressions<'a>(pub &'a mut Batch);

impl Expressions<'_> {
    fn expression(&mut self, name: &str, data: impl FnOnce(&mut Batch)) {
        let element = self.0.begin_nested(1);
        self.0.attribute_text(1, name);
        let body = self.0.begin_nested(2);
        data(self.0);
        self.0.end_nested(body);
        self.0.end_nested(element);
    }

    pub fn meta(&mut self, key: u32, register: u32) -> &mut Self {
        self.expression("meta", |batch| {
            batch.attribute_be32(2, key);
            batch.attribute_be32(1, register);
        });
        self
    }

    pub fn conntrack(&mut self, key: u32) -> &mut Self {
        self.expression("ct", |batch| {
            batch.attribute_be32(2, key);
            batch.attribute_be32(1, REGISTER);
        });
        self
    }

    /// The destination's address type (`RTN_LOCAL` and so on) by the routing table.
    pub fn destination_type(&mut self) -> &mut Self {
        self.expression("fib", |batch| {
            batch.attribute_be32(3, 2);
            batch.attribute_be32(2, 3);
            batch.attribute_be32(1, REGISTER);
        });
        self
    }

    pub fn payload(&mut self, base: u32, offset: u32, length: u32, register: u32) -> &mut Self {
        self.expression("payload", |batch| {
            batch.attribute_be32(1, register);
            batch.attribute_be32(2, base);
            batch.attribute_be32(3, offset);
            batch.attribute_be32(4, length);
        });
        self
    }

    fn compare(&mut self, operation: u32, value: &[u8]) -> &mut Self {
        self.expression("cmp", |batch| {
            batch.attribute_be32(1, REGISTER);
            batch.attribute_be32(2, operation);
            let data = batch.begin_nested(3);
            batch.attribute(1, value);
            batch.end_nested(data);
        });
        self
    }

    pub fn equals(&mut self, value: &[u8]) -> &mut Self {
        self.compare(0, value)
    }

    pub fn differs(&mut self, value: &[u8]) -> &mut Self {
        self.compare(1, value)
    }

    pub fn masked(&mut self, mask: &[u8]) -> &mut Self {
        self.expression("bitwise", |batch| {
            batch.attribute_be32(1, REGISTER);
            batch.attribute_be32(2, REGISTER);
            batch.attribute_be32(3, mask.len() as u32);
            let data = batch.begin_nested(4);
            batch.attribute(1, mask);
            batch.end_nested(data);
            let data = batch.begin_nested(5);
            batch.attribute(1, &[0; 16][..mask.len()]);
            batch.end_nested(data);
        });
        self
    }

    /// The interface's name is exactly this; written at full width, as `nft` does.
    pub fn interface(&mut self, key: u32, name: &str) -> &mut Self {
        self.meta(key, REGISTER).equals(&padded_name(name))
    }

    pub fn interface_other_than(&mut self, key: u32, name: &str) -> &mut Self {
        self.meta(key, REGISTER).differs(&padded_name(name))
    }

    /// The address at this offset of the network header is in a range. The address's length tells the family.
    pub fn address_within(&mut self, offset: u32, network: &[u8], prefix_length: u8) -> &mut Self {
        let mut mask = [0_u8; 16];
        for (at, byte) in mask[..network.len()].iter_mut().enumerate() {
            let ones = u32::from(prefix_length).saturating_sub(at as u32 * 8).min(8);
            *byte = (0xff00_u32 >> ones) as u8;
        }
        self.payload(NETWORK_HEADER, offset, network.len() as u32, REGISTER)
            .masked(&mask[..network.len()])
            .equals(network)
    }

    /// Any of these bits of a conntrack field is set.
    pub fn conntrack_any(&mut self, key: u32, bits: u32) -> &mut Self {
        self.conntrack(key).masked(&bits.to_ne_bytes()).differs(&[0; 4])
    }

    /// The key that starts at register 1 is in a set.
    pub fn within(&mut self, set: &str) -> &mut Self {
        self.expression("lookup", |batch| {
            batch.attribute_be32(2, REGISTER);
            batch.attribute_text(1, set);
        });
        self
    }

    /// The key that starts at register 1 is not in a set.
    pub fn not_within(&mut self, set: &str) -> &mut Self {
        self.expression("lookup", |batch| {
            batch.attribute_be32(2, REGISTER);
            batch.attribute_text(1, set);
            batch.attribute_be32(5, LOOKUP_INVERTED);
        });
        self
    }

    /// Writes the bytes of register 1 into the packet's transport header and keeps its checksum right.
    pub fn write_transport(&mut self, offset: u32, length: u32, checksum_offset: u32) -> &mut Self {
        self.expression("payload", |batch| {
            batch.attribute_be32(5, REGISTER);
            batch.attribute_be32(2, TRANSPORT_HEADER);
            batch.attribute_be32(3, offset);
            batch.attribute_be32(4, length);
            batch.attribute_be32(6, CHECKSUM_INTERNET);
            batch.attribute_be32(7, checksum_offset);
        });
        self
    }

    /// Puts a value into register 1.
    pub fn load(&mut self, value: &[u8]) -> &mut Self {
        self.expression("immediate", |batch| {
            batch.attribute_be32(1, REGISTER);
            let data = batch.begin_nested(2);
            batch.attribute(1, value);
            batch.end_nested(data);
        });
        self
    }

    /// Looks the key that starts at register 1 up in a map; the rule ends here without a hit.
    pub fn lookup(&mut self, map: &str) -> &mut Self {
        self.expression("lookup", |batch| {
            batch.attribute_be32(2, REGISTER);
            batch.attribute_be32(3, REGISTER);
            batch.attribute_text(1, map);
        });
        self
    }

    /// Rewrites the destination to the address in register 1 and the port in the register after it.
    pub fn destination_nat(&mut self, family: u8) -> &mut Self {
        let port = if family == FAMILY_IPV6 {
            REGISTER_AFTER_ADDRESS6
        } else {
            REGISTER_SECOND
        };
        self.expression("nat", |batch| {
            batch.attribute_be32(1, 1);
            batch.attribute_be32(2, u32::from(family));
            batch.attribute_be32(3, REGISTER);
            batch.attribute_be32(5, port);
        });
        self
    }

    pub fn masquerade(&mut self) -> &mut Self {
        self.expression("masq", |_| ());
        self
    }

    pub fn counter(&mut self) -> &mut Self {
        self.expression("counter", |batch| {
            batch.attribute(1, &[0; 8]);
            batch.attribute(2, &[0; 8]);
        });
        self
    }

    pub fn verdict(&mut self, code: i32) -> &mut Self {
        self.expression("immediate", |batch| {
            batch.attribute_be32(1, REGISTER_VERDICT);
            let data = batch.begin_nested(2);
            let verdict = batch.begin_nested(2);
            batch.attribute_be32(1, code as u32);
            batch.end_nested(verdict);
            batch.end_nested(data);
        });
        self
    }
}

pub fn padded_name(name: &str) -> [u8; 16] {
    let mut padded = [0; 16];
    padded[..name.len()].copy_from_slice(name.as_bytes());
    padded
}

/// A comment as libnftnl stores it in user data, cut to what `nft` prints.
pub fn encode_comment(text: &str) -> Vec<u8> {
    let mut end = text.len().min(COMMENT_BYTES_MAX - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = vec![COMMENT, (end + 1) as u8];
    bytes.extend_from_slice(&text.as_bytes()[..end]);
    bytes.push(0);
    bytes
}

/// The comment in user data, if there is one.
pub fn decode_comment(mut bytes: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = bytes {
        let value = rest.get(..usize::from(*length))?;
        if *kind == COMMENT {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        bytes = &rest[value.len()..];
    }
    None
}

/// The 64-bit handle of an object.
pub fn handle(attributes: Attributes<'_>, kind: u16) -> Option<u64> {
    attributes
        .get(kind)?
        .first_chunk()
        .copied()
        .map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_read_back_and_long_ones_are_cut_at_a_character() {
        assert_eq!(
            decode_comment(&encode_comment("web 0123")).as_deref(),
            Some("web 0123")
        );
        let long = "ä".repeat(100);
        let comment = decode_comment(&encode_comment(&long)).unwrap();
        assert_eq!(comment, "ä".repeat(63));
        assert_eq!(decode_comment(&[0, 9, 1]), None);
        assert_eq!(decode_comment(&[1, 1, 0, 0, 2, b'a', 0]).as_deref(), Some("a"));
    }
}
