//! What Naru changes in other programs' tables: an accept for its bridges where forwarding is dropped; and where it is
//! Naru itself that has the host forward packets, a policy that drops what nobody accepts.
//!
//! A host that did not forward would otherwise become a router between its other networks, for whoever names it as a
//! gateway. The policy is that of `FORWARD` in `ip filter`, as Docker sets it, because there others can add what they
//! accept; a drop in Naru's own table would be final for them. Like forwarding itself it stays when the daemon ends.
//!
//! An accept in Naru's own table does not outvote a drop in another. Docker, ufw and firewalld leave a FORWARD chain
//! that drops, so two rules for each bridge (into and out of it) are put first in `ip filter` `DOCKER-USER`, which Docker
//! leaves to others, or else in `FORWARD`, and in firewalld's own forward chain. They are written exactly as
//! `iptables-nft` writes them, so that the host's tools go on printing the table. What they let through still meets
//! Naru's own forward chain.

use crate::bridge::Bridge;
use crate::error::{Result, refused};
use crate::nftables::{
    ACCEPT, DELETE_RULE, DROP, Expressions, FAMILY_INET, FAMILY_IPV4, FAMILY_IPV6, FIXED_BYTES, GET_CHAIN,
    GET_RULE, META_IIFNAME, META_OIFNAME, NEW_CHAIN, NEW_RULE, NEW_TABLE, REGISTER, Transaction,
    decode_comment, encode_comment, handle, list,
};
use crate::ruleset::Family;
use crate::{Network, lock};
use naru_sys::netlink::{FLAG_CREATE, Refusal};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

/// A chain of somebody else that may hold our rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ForeignChain {
    family: u8,
    table: &'static str,
    chain: &'static str,
}

const DOCKER_USER: ForeignChain = ForeignChain {
    family: FAMILY_IPV4,
    table: "filter",
    chain: "DOCKER-USER",
};
const FORWARD: ForeignChain = ForeignChain {
    family: FAMILY_IPV4,
    table: "filter",
    chain: "FORWARD",
};
const DOCKER_USER6: ForeignChain = ForeignChain {
    family: FAMILY_IPV6,
    ..DOCKER_USER
};
const FORWARD6: ForeignChain = ForeignChain {
    family: FAMILY_IPV6,
    ..FORWARD
};
const FIREWALLD: ForeignChain = ForeignChain {
    family: FAMILY_INET,
    table: "firewalld",
    chain: "filter_FORWARD",
};

/// `NF_INET_FORWARD`.
const FORWARD_HOOK: u32 = 2;

/// Wherever a rule of ours may be.
const ALL: [ForeignChain; 5] = [DOCKER_USER, FORWARD, DOCKER_USER6, FORWARD6, FIREWALLD];

/// One of our rules found in a foreign chain.
struct Found {
    place: ForeignChain,
    handle: u64,
    bridge: String,
    /// Which of the two it is; `None` for one that somebody changed.
    key: Option<u32>,
}

impl Network {
    /// Puts the accepts where they belong if they are not there, and Naru's own table with its published ports too;
    /// cheap when nothing is missing. For every change that [`crate::RulesetWatch`] reports, and now and then.
    pub fn ensure_foreign_accept(&self) -> Result<()> {
        self.ensure_table()?;
        let refusal = {
            let nft = lock(&self.nft);
            if self.is_closed.load(Ordering::Acquire) {
                return Ok(());
            }
            self.plan_foreign(nft.as_fd())
                .and_then(|transaction| transaction.commit(nft.as_fd()))
                .err()
        };
        // firewalld may own its table so that nobody else can write there; the rest of the host is still served.
        if let Some(refusal) = refusal {
            self.warn(format!(
                "cannot accept forwarding for containers in the host's firewall: {refusal}"
            ));
        }
        Ok(())
    }

    /// Has a host that does not forward packets drop, once it does, those that nobody accepts.
    pub(crate) fn drop_by_policy(&self, family: Family) {
        let place = match family {
            Family::Ipv4 => FORWARD,
            Family::Ipv6 => FORWARD6,
        };
        let mut transaction = Transaction::new();
        transaction
            .message(place.family, NEW_TABLE, FLAG_CREATE)
            .attribute_text(1, place.table);
        let batch = transaction.message(place.family, NEW_CHAIN, FLAG_CREATE);
        batch.attribute_text(1, place.table);
        batch.attribute_text(3, place.chain);
        batch.attribute_text(7, "filter");
        batch.attribute_be32(5, DROP as u32);
        let hook = batch.begin_nested(4);
        batch.attribute_be32(1, FORWARD_HOOK);
        batch.attribute_be32(2, 0);
        batch.end_nested(hook);
        if let Err(refusal) = transaction.commit(lock(&self.nft).as_fd()) {
            self.warn(format!(
                "this host forwards packets between all its networks now, for containers alone: drop the others in the \
                 host's firewall ({refusal})"
            ));
        }
    }

    fn plan_foreign(&self, nft: BorrowedFd<'_>) -> std::result::Result<Transaction, Refusal> {
        let chains = list_foreign_chains(nft)?;
        let first_of = |places: [ForeignChain; 2]| places.into_iter().find(|place| chains.contains(place));
        let wanted: Vec<_> = first_of([DOCKER_USER, FORWARD])
            .into_iter()
            .chain(first_of([DOCKER_USER6, FORWARD6]))
            .chain(chains.contains(&FIREWALLD).then_some(FIREWALLD))
            .collect();
        let found = self.find_foreign_rules(nft, &chains)?;
        let bridges = self.bridges();
        let belongs = |place: ForeignChain, bridge: &Bridge| place.family != FAMILY_IPV6 || bridge.has_ipv6();
        let mut transaction = Transaction::new();
        for rule in &found {
            let has_bridge = bridges
                .iter()
                .any(|bridge| bridge.name() == rule.bridge && belongs(rule.place, bridge));
            if rule.key.is_none() || !wanted.contains(&rule.place) || !has_bridge {
                delete_rule(&mut transaction, rule);
            }
        }
        for place in wanted {
            for bridge in bridges.iter().filter(|bridge| belongs(place, bridge)) {
                for key in [META_OIFNAME, META_IIFNAME] {
                    let is_wanted = |rule: &Found| {
                        rule.place == place && rule.key == Some(key) && rule.bridge == bridge.name()
                    };
                    if !found.iter().any(is_wanted) {
                        self.insert_rule(&mut transaction, place, bridge.name(), key);
                    }
                }
            }
        }
        Ok(transaction)
    }

    pub(crate) fn remove_foreign_accept(&self) -> Result<()> {
        let nft = lock(&self.nft);
        let failed = || refused("remove the accept rules from the host's firewall");
        let chains = list_foreign_chains(nft.as_fd()).map_err(failed())?;
        let mut transaction = Transaction::new();
        for rule in self.find_foreign_rules(nft.as_fd(), &chains).map_err(failed())? {
            delete_rule(&mut transaction, &rule);
        }
        transaction.commit(nft.as_fd()).map_err(failed())
    }

    /// By its comment a rule is known to be ours: the table's name and the bridge's.
    fn insert_rule(&self, transaction: &mut Transaction, place: ForeignChain, bridge: &str, key: u32) {
        // Without APPEND and a position a rule becomes the first of its chain.
        let batch = transaction.message(place.family, NEW_RULE, FLAG_CREATE);
        batch.attribute_text(1, place.table);
        batch.attribute_text(2, place.chain);
        let nested = batch.begin_nested(4);
        // iptables-nft compares a whole name at its length with the zero; nft would take 16 bytes.
        let mut name = bridge.to_owned().into_bytes();
        name.push(0);
        Expressions(batch)
            .meta(key, REGISTER)
            .equals(&name)
            .counter()
            .verdict(ACCEPT);
        batch.end_nested(nested);
        batch.attribute(7, &encode_comment(&format!("{} {bridge}", self.options.table)));
    }

    fn find_foreign_rules(
        &self,
        nft: BorrowedFd<'_>,
        chains: &[ForeignChain],
    ) -> std::result::Result<Vec<Found>, Refusal> {
        let table = &self.options.table;
        let mut found = Vec::new();
        for place in chains {
            let filter = [(1, place.table), (2, place.chain)];
            list(nft, place.family, GET_RULE, &filter, |message| {
                let attributes = message.attributes(FIXED_BYTES);
                let is_here =
                    attributes.text(1) == Some(place.table) && attributes.text(2) == Some(place.chain);
                let comment = attributes.get(7).and_then(decode_comment).unwrap_or_default();
                if is_here
                    && let Some(handle) = handle(attributes, 3)
                    && let Some(bridge) = comment
                        .strip_prefix(table.as_str())
                        .and_then(|rest| rest.strip_prefix(' '))
                {
                    found.push(Found {
                        place: *place,
                        handle,
                        bridge: bridge.to_owned(),
                        key: rule_key(attributes),
                    });
                }
            })?;
        }
        Ok(found)
    }

    /// Rules of the old kernel interface cannot be seen or changed by netlink.
    pub(crate) fn warn_of_legacy_tables(&self) {
        let names = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
        if names.lines().any(|name| name == "filter") {
            self.warn(
                "this host has iptables-legacy filter rules; if its FORWARD chain drops, containers reach nothing: \
                 move to iptables-nft, or accept forwarding for the bridge there"
                    .to_owned(),
            );
        }
    }
}

/// The key of the rule's first expression, where that is `meta` on an interface name.
fn rule_key(rule: naru_sys::netlink::Attributes<'_>) -> Option<u32> {
    let (_, first) = rule.nested(4).next()?;
    let first = naru_sys::netlink::Attributes(first);
    let key = first.nested(2).be32(2)?;
    (first.text(1) == Some("meta") && matches!(key, META_IIFNAME | META_OIFNAME)).then_some(key)
}

fn delete_rule(transaction: &mut Transaction, rule: &Found) {
    let batch = transaction.message(rule.place.family, DELETE_RULE, 0);
    batch.attribute_text(1, rule.place.table);
    batch.attribute_text(2, rule.place.chain);
    batch.attribute(3, &rule.handle.to_be_bytes());
}

fn list_foreign_chains(nft: BorrowedFd<'_>) -> std::result::Result<Vec<ForeignChain>, Refusal> {
    let mut chains = Vec::new();
    for family in [FAMILY_IPV4, FAMILY_IPV6, FAMILY_INET] {
        list(nft, family, GET_CHAIN, &[], |message| {
            let attributes = message.attributes(FIXED_BYTES);
            chains.extend(ALL.into_iter().find(|place| {
                place.family == family
                    && attributes.text(1) == Some(place.table)
                    && attributes.text(3) == Some(place.chain)
            }));
        })?;
    }
    Ok(chains)
}
