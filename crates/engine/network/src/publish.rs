//! Publishing ports: reserve, one nftables transaction, hold.

use crate::error::{NetworkError, Result, refused};
use crate::nftables::Transaction;
use crate::ports::host_addresses;
use crate::ruleset::{self, Family, Layout};
use crate::{Network, Protocol, PublishRequest, Published, PublishedEntry, Target, conntrack, lock};
use naru_base::ContainerId;
use naru_sys::netlink::Refusal;
use rustix::io::Errno;
use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

impl Network {
    /// Publishes ports of a container; all or none. One that names no address of the host is published on every address
    /// of the families that the container has.
    pub fn publish(
        &self,
        container: &ContainerId,
        name: &str,
        target: Target,
        requests: &[PublishRequest],
    ) -> Result<Vec<Published>> {
        // Without rules for IPv6 nothing can lead there.
        let ipv6 = target.ipv6.filter(|_| self.options.rules_ipv6);
        let published = self.take_ports(container, requests, ipv6.is_some())?;
        let comment = format!("{} {}", shorten(name), container.short());
        let entries: Vec<_> = published
            .iter()
            .map(|port| PublishedEntry {
                published: *port,
                container_address: match (port.host_ip, ipv6) {
                    (IpAddr::V6(_), Some(address)) => IpAddr::V6(address),
                    _ => IpAddr::V4(target.ipv4),
                },
                comment: comment.clone(),
            })
            .collect();
        if let Err(error) = self.add_entries(&entries) {
            self.release_ports(&published);
            return Err(error);
        }
        // Listening is the last step and may still find that the host lost a race against us, or we against it.
        let held = {
            let mut ports = lock(&self.ports);
            entries.iter().try_for_each(|entry| ports.confirm(entry))
        };
        if let Err(error) = held {
            self.unpublish(container, &published)?;
            return Err(error);
        }
        self.forget_udp(&published);
        Ok(published)
    }

    /// Senders that never pause go to the container that has the port now. Failing leaves them where they went before.
    fn forget_udp(&self, published: &[Published]) {
        for (family, is_ipv4) in [(libc::AF_INET, true), (libc::AF_INET6, false)] {
            let ports: Vec<u16> = published
                .iter()
                .filter(|port| port.protocol == Protocol::Udp && port.host_ip.is_ipv4() == is_ipv4)
                .map(|port| port.host_port)
                .collect();
            if ports.is_empty() {
                continue;
            }
            if let Err(error) = conntrack::forget_udp(lock(&self.nft).as_fd(), family, &ports) {
                tracing::warn!(%error, "cannot forget tracked connections to published UDP ports");
            }
        }
    }

    /// Takes published ports back. Ports that are not there are no error.
    pub fn unpublish(&self, container: &ContainerId, published: &[Published]) -> Result<()> {
        self.release_ports(published);
        self.delete_elements(published).map_err(refused(format!(
            "take back the published ports of container {}",
            container.short()
        )))?;
        self.forget_udp(published);
        Ok(())
    }

    /// The published ports as the kernel has them, in no particular order.
    pub fn list_published(&self) -> Result<Vec<PublishedEntry>> {
        let mut entries = Vec::new();
        for family in self.families() {
            let listed = ruleset::list_elements(lock(&self.nft).as_fd(), family, &self.options.table);
            match listed {
                // There is none for IPv6 without a network that has it.
                Err(refusal) if family == Family::Ipv6 && refusal.errno == Errno::NOENT => {}
                listed => entries.extend(listed.map_err(refused("list published ports"))?),
            }
        }
        Ok(entries)
    }

    fn take_ports(
        &self,
        container: &ContainerId,
        requests: &[PublishRequest],
        has_ipv6: bool,
    ) -> Result<Vec<Published>> {
        let mut ports = lock(&self.ports);
        let mut taken = Vec::with_capacity(requests.len());
        for request in requests {
            let took = host_addresses(request, has_ipv6).and_then(|host_ips| {
                ports.take(container.as_str(), request, &host_ips, self.ephemeral_ports)
            });
            match took {
                Ok(published) => taken.extend(published),
                Err(error) => {
                    for published in &taken {
                        ports.release(published);
                    }
                    return Err(error);
                }
            }
        }
        Ok(taken)
    }

    fn release_ports(&self, published: &[Published]) {
        let mut ports = lock(&self.ports);
        for published in published {
            ports.release(published);
        }
    }

    fn add_entries(&self, entries: &[PublishedEntry]) -> Result<()> {
        let mut transaction = Transaction::new();
        for entry in entries {
            ruleset::add_element(&mut transaction, &self.options.table, entry);
        }
        transaction
            .commit(lock(&self.nft).as_fd())
            .map_err(|refusal| match refusal.message {
                // The begin marker is message 0.
                Some(number @ 1..) if refusal.errno == Errno::EXIST && number <= entries.len() => {
                    let Published {
                        host_ip,
                        host_port,
                        protocol,
                        ..
                    } = entries[number - 1].published;
                    NetworkError::PortAllocated {
                        host_ip,
                        port: host_port,
                        protocol,
                        container: String::new(),
                    }
                }
                _ => refused("publish ports")(refusal),
            })
    }

    fn delete_elements(&self, published: &[Published]) -> std::result::Result<(), Refusal> {
        let nft = lock(&self.nft);
        let delete = |ports: &[Published]| {
            let mut transaction = Transaction::new();
            for port in ports {
                ruleset::delete_element(&mut transaction, &self.options.table, port);
            }
            transaction.commit(nft.as_fd())
        };
        match delete(published) {
            Err(refusal) if refusal.errno == Errno::NOENT => {}
            result => return result,
        }
        // One that was gone already undid the whole transaction.
        for port in published {
            match delete(std::slice::from_ref(port)) {
                Err(refusal) if refusal.errno == Errno::NOENT => {}
                result => result?,
            }
        }
        Ok(())
    }

    pub(crate) fn sweep_ports(&self, live: &[Published]) -> Result<()> {
        let live: HashSet<&Published> = live.iter().collect();
        let orphans: Vec<Published> = self
            .list_published()?
            .into_iter()
            .map(|entry| entry.published)
            .filter(|published| !live.contains(published))
            .collect();
        self.release_ports(&orphans);
        self.delete_elements(&orphans)
            .map_err(refused("remove published ports of containers that are gone"))
    }

    /// Writes the rules for the bridges there are, in one transaction together with the published ports, so that no
    /// packet meets a table without them. Takes an earlier daemon's table over; makes one that is missing.
    pub(crate) fn write_table(&self) -> Result<()> {
        let table = &self.options.table;
        let nft = lock(&self.nft);
        if self.is_closed.load(Ordering::Acquire) {
            return Ok(());
        }
        let failed = || refused(format!("write nft table {table}"));
        let bridges = self.bridges();
        let ipv6: Vec<_> = bridges
            .iter()
            .filter(|bridge| bridge.has_ipv6())
            .cloned()
            .collect();
        let wants_ipv6 = self.options.rules_ipv6 && !ipv6.is_empty();
        let has_ipv6 = self.has_ipv6
            && ruleset::is_any_table_present(nft.as_fd(), Family::Ipv6, table).map_err(failed())?;
        let mut transaction = Transaction::new();
        if has_ipv6 && !wants_ipv6 {
            ruleset::remove_table(&mut transaction, Family::Ipv6, table);
        }
        for (family, bridges) in [(Family::Ipv4, &bridges), (Family::Ipv6, &ipv6)] {
            if family == Family::Ipv6 && !wants_ipv6 {
                continue;
            }
            // What is in the kernel counts, not what is known here: another thread may be publishing just now.
            let entries = if ruleset::is_table_present(nft.as_fd(), family, table).map_err(failed())? {
                ruleset::list_elements(nft.as_fd(), family, table).map_err(failed())?
            } else {
                let known = lock(&self.ports).entries().into_iter();
                known
                    .filter(|entry| Family::of(entry.published.host_ip) == family)
                    .collect()
            };
            let layout = Layout {
                family,
                table,
                bridges,
            };
            ruleset::write_table(&mut transaction, &layout, &entries);
        }
        transaction.commit(nft.as_fd()).map_err(failed())
    }

    /// Takes the table of an earlier daemon over with its published ports, or makes it.
    pub(crate) fn adopt_table(&self) -> Result<()> {
        let table = &self.options.table;
        let failed = || refused(format!("read nft table {table}"));
        {
            let nft = lock(&self.nft);
            for family in self.families() {
                if ruleset::is_any_table_present(nft.as_fd(), family, table).map_err(failed())? {
                    let mut ports = lock(&self.ports);
                    for entry in ruleset::list_elements(nft.as_fd(), family, table).map_err(failed())? {
                        ports.restore(&entry);
                    }
                }
            }
        }
        self.write_table()
    }

    /// Writes the table anew if somebody removed it (`nft flush ruleset`).
    pub(crate) fn ensure_table(&self) -> Result<()> {
        let table = &self.options.table;
        let has_table = |family| {
            ruleset::is_table_present(lock(&self.nft).as_fd(), family, table)
                .map_err(refused(format!("read nft table {table}")))
        };
        let wants_ipv6 = self.options.rules_ipv6 && self.bridges().iter().any(|bridge| bridge.has_ipv6());
        if has_table(Family::Ipv4)? && (!wants_ipv6 || has_table(Family::Ipv6)?) {
            return Ok(());
        }
        self.write_table()
    }

    pub(crate) fn remove_table(&self) -> Result<()> {
        let table = &self.options.table;
        for family in self.families() {
            let mut transaction = Transaction::new();
            ruleset::remove_table(&mut transaction, family, table);
            match transaction.commit(lock(&self.nft).as_fd()) {
                Err(refusal) if refusal.errno == Errno::NOENT => {}
                result => result.map_err(refused(format!("remove nft table {table}")))?,
            }
        }
        Ok(())
    }

    /// The families that rules may be there for.
    fn families(&self) -> impl Iterator<Item = Family> + use<> {
        let ipv6 = self.has_ipv6.then_some(Family::Ipv6);
        [Family::Ipv4].into_iter().chain(ipv6)
    }
}

/// A name that leaves room for the id in the comment.
fn shorten(name: &str) -> &str {
    let mut end = name.len().min(100);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}
