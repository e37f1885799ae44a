//! A container's `hosts`, `resolv.conf` and `hostname`: written for its start, and changed in place while it runs, since
//! they are mounted and another file of the name would not be seen.

use super::names::needs_resolver;
use crate::Engine;
use crate::containers::{Container, give_to};
use crate::error::Result;
use crate::record::{ContainerRecord, EndpointRecord};
use crate::spec::NetworkMode;
use naru_runtime::plan::MappedRoot;
use naru_sys::file::FileError;
use std::net::IpAddr;
use std::path::PathBuf;

impl Engine {
    /// Writes hostname, hosts and resolv.conf, and says where each is mounted.
    pub(crate) fn write_network_files(
        &self,
        container: &Container,
        record: &ContainerRecord,
        endpoints: &[EndpointRecord],
        owner: Option<MappedRoot>,
    ) -> Result<Vec<(&'static str, PathBuf)>> {
        if let NetworkMode::Container(other) = &record.spec.network {
            let other = self.registry.find(other)?;
            let names = ["resolv.conf", "hostname", "hosts"];
            let targets = ["/etc/resolv.conf", "/etc/hostname", "/etc/hosts"];
            let files = targets.into_iter().zip(names);
            return Ok(files
                .map(|(target, name)| (target, other.network_file(name)))
                .collect());
        }
        let resolv = self.resolv_conf(record, needs_resolver(endpoints));
        let hosts = self.hosts(record, endpoints);
        let hostname = format!("{}\n", record.resolved.hostname);
        let mut files = Vec::with_capacity(3);
        for (target, name, contents) in [
            ("/etc/resolv.conf", "resolv.conf", resolv),
            ("/etc/hostname", "hostname", hostname),
            ("/etc/hosts", "hosts", hosts),
        ] {
            let path = container.network_file(name);
            std::fs::write(&path, contents).map_err(FileError::at("write", &path))?;
            give_to(owner, &path)?;
            files.push((target, path));
        }
        Ok(files)
    }

    /// `has_resolver`: its questions go to 127.0.0.11.
    pub(crate) fn resolv_conf(&self, record: &ContainerRecord, has_resolver: bool) -> String {
        let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let (spec, defaults) = (&record.spec, &self.options.network);
        let is_plain = spec.dns.is_empty() && spec.dns_search.is_empty() && spec.dns_options.is_empty();
        if spec.network == NetworkMode::Host && is_plain {
            return host;
        }
        let search = own_or(&spec.dns_search, &defaults.dns_search);
        let options = own_or(&spec.dns_options, &defaults.dns_options);
        if has_resolver {
            naru_network::resolv_conf_of_resolver(&host, naru_resolver::RESOLVER_ADDRESS, search, options)
        } else {
            naru_network::resolv_conf(&host, own_or(&spec.dns, &defaults.dns), search, options)
        }
    }

    fn hosts(&self, record: &ContainerRecord, endpoints: &[EndpointRecord]) -> String {
        let spec = &record.spec;
        if spec.network == NetworkMode::Host {
            let mut hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            for extra in &spec.extra_hosts {
                let (name, address) = extra.split_once(':').unwrap_or((extra, ""));
                hosts.extend([address, "\t", name, "\n"]);
            }
            return hosts;
        }
        let addresses: Vec<IpAddr> = endpoints.iter().flat_map(EndpointRecord::addresses).collect();
        let mut hosts = naru_network::hosts_file(
            &addresses,
            &record.resolved.hostname,
            &spec.domainname,
            &spec.extra_hosts,
            self.host_gateway(),
        );
        hosts.push_str(&self.linked_hosts(record));
        hosts
    }
}

pub fn write_resolv_conf(container: &Container, text: &str) -> Result<()> {
    let path = container.network_file("resolv.conf");
    Ok(std::fs::write(&path, text).map_err(FileError::at("write", &path))?)
}

fn own_or<'a, T>(own: &'a [T], default: &'a [T]) -> &'a [T] {
    if own.is_empty() { default } else { own }
}

/// Takes out the lines of endpoints that are gone and adds those of new ones; what the container wrote itself stays.
pub fn update_hosts(
    container: &Container,
    record: &ContainerRecord,
    before: &[EndpointRecord],
    after: &[EndpointRecord],
) -> Result<()> {
    let path = container.network_file("hosts");
    let Ok(text) = std::fs::read_to_string(&path) else {
        return Ok(());
    };
    let lines = |endpoints: &[EndpointRecord]| -> Vec<String> {
        let addresses = endpoints.iter().flat_map(EndpointRecord::addresses);
        addresses
            .map(|address| {
                naru_network::own_hosts_line(address, &record.resolved.hostname, &record.spec.domainname)
            })
            .collect()
    };
    let changed = change_lines(&text, &lines(before), &lines(after));
    if changed == text {
        return Ok(());
    }
    Ok(std::fs::write(&path, changed).map_err(FileError::at("write", &path))?)
}

fn change_lines(text: &str, before: &[String], after: &[String]) -> String {
    let is_gone = |line: &str| before.iter().any(|old| old == line) && !after.iter().any(|new| new == line);
    let mut lines: Vec<&str> = text.lines().filter(|line| !is_gone(line)).collect();
    for line in after {
        if !lines.contains(&line.as_str()) {
            lines.push(line);
        }
    }
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_lines_of_the_container_stay() {
        let line = |text: &str| text.to_owned();
        let text = "127.0.0.1\tlocalhost\n10.0.0.2\tweb\n9.9.9.9\tmine\n";
        let changed = change_lines(text, &[line("10.0.0.2\tweb")], &[line("10.1.0.2\tweb")]);
        assert_eq!(changed, "127.0.0.1\tlocalhost\n9.9.9.9\tmine\n10.1.0.2\tweb\n");
        assert_eq!(change_lines(text, &[], &[line("10.0.0.2\tweb")]), text);
    }
}
