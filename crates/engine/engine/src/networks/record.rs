//! Networks as they are asked for and as they are stored.

use naru_base::{NetworkId, Timestamp};
use naru_network::BridgeOptions;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A network as its creator asked for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSpec {
    pub name: String,
    /// `bridge`, or empty for it.
    pub driver: String,
    /// No way out, and none in.
    pub is_internal: bool,
    /// For swarm services; kept for `inspect`.
    pub is_attachable: bool,
    pub enable_ipv6: bool,
    pub labels: BTreeMap<String, String>,
    /// `com.docker.network.…`.
    pub options: BTreeMap<String, String>,
    pub ipam_driver: String,
    pub ipam_options: BTreeMap<String, String>,
    pub pools: Vec<IpamPool>,
}

/// One wanted range, as texts: they are checked when the network is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IpamPool {
    pub subnet: String,
    pub range: String,
    pub gateway: String,
    /// Addresses of other machines, by name.
    pub reserved: BTreeMap<String, String>,
}

impl IpamPool {
    pub fn is_ipv6(&self) -> bool {
        self.subnet.contains(':')
    }
}

/// A network that exists, `<data-root>/networks/<id>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    pub id: NetworkId,
    pub created_at: Timestamp,
    pub spec: NetworkSpec,
    /// What was decided; the bridge is made again from it after a reboot.
    pub bridge: BridgeOptions,
}

impl NetworkRecord {
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Containers may ask for addresses of their own only where the creator chose the range.
    pub fn has_own_subnet(&self) -> bool {
        self.spec
            .pools
            .iter()
            .any(|pool| !pool.subnet.is_empty() && !pool.is_ipv6())
    }

    pub fn has_own_subnet6(&self) -> bool {
        self.bridge.ipv6.is_some() && self.spec.pools.iter().any(IpamPool::is_ipv6)
    }

    pub fn option(&self, name: &str) -> Option<&str> {
        self.spec.options.get(name).map(String::as_str)
    }
}
