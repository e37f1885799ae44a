//! Under which names a container is found, and what it may ask. Pure.

use super::places::DEFAULT_NETWORK;
use crate::record::{ContainerRecord, EndpointRecord};
use crate::spec::AttachmentSpec;
use naru_resolver::{ContainerSettings, EndpointNames, NetworkView};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// What of the engine the answers depend on.
#[derive(Debug, Clone, Default)]
pub struct DnsFacts {
    /// The daemon's `--dns`, for containers without their own.
    pub servers: Vec<IpAddr>,
    pub options: Vec<String>,
    /// What `host.docker.internal` means.
    pub host_address: Option<Ipv4Addr>,
}

/// Name, aliases, the start of its id, and the host name it was given.
pub fn endpoint_names(record: &ContainerRecord, endpoint: &EndpointRecord) -> EndpointNames {
    let mut names = vec![record.name.clone()];
    let attachment = attachment_of(record, &endpoint.network);
    names.extend(
        attachment
            .into_iter()
            .flat_map(|found| found.aliases.iter().cloned()),
    );
    names.push(record.id.short().to_owned());
    names.extend(record.spec.hostname.clone());
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| !name.is_empty() && seen.insert(name.to_ascii_lowercase()));
    EndpointNames {
        network_name: endpoint.network.clone(),
        names,
        addresses: endpoint.addresses().collect(),
    }
}

fn attachment_of<'a>(record: &'a ContainerRecord, network: &str) -> Option<&'a AttachmentSpec> {
    record
        .spec
        .attachments
        .iter()
        .find(|attachment| attachment.network == network)
}

/// Whether names are answered for a container with these endpoints: on the default network alone they are not.
pub fn needs_resolver(endpoints: &[EndpointRecord]) -> bool {
    endpoints
        .iter()
        .any(|endpoint| endpoint.network != DEFAULT_NETWORK)
}

/// `has_way_out`: one of its networks is not internal.
pub fn container_settings(
    record: &ContainerRecord,
    endpoints: &[EndpointRecord],
    has_way_out: bool,
    facts: &DnsFacts,
) -> ContainerSettings {
    let spec = &record.spec;
    let networks = endpoints
        .iter()
        .filter(|endpoint| endpoint.network != DEFAULT_NETWORK)
        .map(|endpoint| NetworkView {
            network: endpoint.network_id.clone(),
            links: attachment_of(record, &endpoint.network).map_or_else(BTreeMap::new, links),
        });
    ContainerSettings {
        networks: networks.collect(),
        servers: if spec.dns.is_empty() {
            facts.servers.clone()
        } else {
            spec.dns.clone()
        },
        forwards: has_way_out,
        keeps_short_names: has_ndots(&spec.dns_options) || has_ndots(&facts.options),
        host_address: facts.host_address,
    }
}

/// `container:alias`, or a container's name alone.
fn links(attachment: &AttachmentSpec) -> BTreeMap<String, String> {
    let links = attachment.links.iter().map(|link| {
        let (target, alias) = link.split_once(':').unwrap_or((link, link));
        (alias.to_owned(), target.trim_start_matches('/').to_owned())
    });
    links.collect()
}

/// The creator asked for `ndots` above 0.
fn has_ndots(options: &[String]) -> bool {
    options.iter().any(|option| {
        option
            .strip_prefix("ndots:")
            .and_then(|number| number.parse::<u32>().ok())
            .is_some_and(|number| number > 0)
    })
}
