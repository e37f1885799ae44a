//! What the daemon tells of containers and their places on networks.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// What one container may ask and where its questions go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSettings {
    /// Its networks, the first asked first.
    pub networks: Vec<NetworkView>,
    /// `--dns`; empty takes the host's.
    pub servers: Vec<IpAddr>,
    /// Whether anything but containers' names may be asked. A container on internal networks alone has no way out by
    /// questions either (CVE-2024-29018).
    pub forwards: bool,
    /// The creator set `ndots` above 0: names of one label are not asked outside, the client adds a domain first.
    pub keeps_short_names: bool,
    /// What `host.docker.internal` means.
    pub host_address: Option<Ipv4Addr>,
}

/// A network as one container sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkView {
    pub network: String,
    /// Names of other containers under which only this one knows them (`--link`): own name to theirs.
    pub links: BTreeMap<String, String>,
}

/// A container's place on a network, under all its names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointNames {
    /// The network's name, the second part of `container.network`.
    pub network_name: String,
    /// The first is what a reverse question gets.
    pub names: Vec<String>,
    pub addresses: Vec<IpAddr>,
}
