//! Which interface a container gets for each of its networks, and which one leads out. Pure.

use crate::error::{EngineError, Result};
use crate::record::{ContainerRecord, EndpointRecord};
use crate::spec::{AttachmentSpec, NetworkMode};
use naru_network::Bridge;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// The name of the network that every engine has.
pub const DEFAULT_NETWORK: &str = "bridge";
pub const INTERFACE_PREFIX_DEFAULT: &str = "eth";

/// A network that is up, as far as places on it are concerned.
#[derive(Debug, Clone)]
pub struct NetworkFacts {
    pub name: String,
    pub id: String,
    pub is_internal: bool,
    /// Containers may ask for addresses of their own only where the creator chose the range.
    pub has_own_subnet: bool,
    pub has_own_subnet6: bool,
    pub interface_prefix: String,
    pub bridge: Arc<Bridge>,
}

/// A place decided: nothing is left to choose but the address.
#[derive(Debug, Clone)]
pub struct PlannedPlace {
    pub network: NetworkFacts,
    pub interface: String,
    pub mac_address: Option<[u8; 6]>,
    pub address: Option<Ipv4Addr>,
    pub ipv6_address: Option<Ipv6Addr>,
    pub link_local: Vec<Ipv4Addr>,
}

/// The place for one more network, beside the interfaces that are there.
pub fn plan_place(
    network: NetworkFacts,
    attachment: &AttachmentSpec,
    endpoints: &[EndpointRecord],
) -> Result<PlannedPlace> {
    let is_without_range = (attachment.ipv4_address.is_some() && !network.has_own_subnet)
        || (attachment.ipv6_address.is_some() && !network.has_own_subnet6);
    if is_without_range {
        return Err(EngineError::invalid(format!(
            "invalid config for network {}: invalid endpoint settings:\nuser specified IP address is supported only \
             when connecting to networks with user configured subnets",
            network.name
        )));
    }
    Ok(PlannedPlace {
        interface: free_interface(&network.interface_prefix, endpoints),
        mac_address: attachment
            .mac_address
            .as_deref()
            .map(crate::containers::parse_mac)
            .transpose()?,
        address: attachment.ipv4_address,
        ipv6_address: attachment.ipv6_address,
        link_local: attachment.link_local.clone(),
        network,
    })
}

fn free_interface(prefix: &str, endpoints: &[EndpointRecord]) -> String {
    let taken: BTreeSet<&str> = endpoints
        .iter()
        .map(|endpoint| endpoint.interface.as_str())
        .collect();
    (0..=taken.len())
        .map(|number| format!("{prefix}{number}"))
        .find(|name| !taken.contains(name.as_str()))
        .unwrap_or_default()
}

/// The endpoint that leads out; `None` where all networks are internal.
pub fn way_out<'a>(record: &ContainerRecord, endpoints: &'a [EndpointRecord]) -> Option<&'a EndpointRecord> {
    let priority = |network: &str| {
        let attachments = &record.spec.attachments;
        let found = attachments
            .iter()
            .find(|attachment| attachment.network == network);
        found.map_or(0, |attachment| attachment.gateway_priority)
    };
    let name = choose_gateway(endpoints.iter().map(|endpoint| Candidate {
        network: &endpoint.network,
        priority: priority(&endpoint.network),
        is_internal: endpoint.is_internal,
    }))?;
    endpoints.iter().find(|endpoint| endpoint.network == name)
}

/// What a network is for the choice of the way out.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    pub network: &'a str,
    pub priority: i64,
    pub is_internal: bool,
}

/// The network that leads out: the highest `gw-priority`, then the first by name; none of internal ones.
pub fn choose_gateway<'a>(candidates: impl IntoIterator<Item = Candidate<'a>>) -> Option<&'a str> {
    candidates
        .into_iter()
        .filter(|candidate| !candidate.is_internal)
        .min_by_key(|candidate| (std::cmp::Reverse(candidate.priority), candidate.network))
        .map(|candidate| candidate.network)
}

/// Containers of some modes have no place on further networks; in Docker's words.
pub fn check_mode(record: &ContainerRecord) -> Result<()> {
    let refused = |text: &str| Err(EngineError::invalid(text));
    match record.spec.network {
        NetworkMode::Host => {
            refused("container cannot be disconnected from host network or connected to host network")
        }
        NetworkMode::None => refused(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        ),
        NetworkMode::Container(_) => refused(
            "container sharing network namespace with another container or host cannot be connected to any other \
             network",
        ),
        NetworkMode::Bridge | NetworkMode::Named(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(network: &str, priority: i64, is_internal: bool) -> Candidate<'_> {
        Candidate {
            network,
            priority,
            is_internal,
        }
    }

    #[test]
    fn the_way_out_goes_by_priority_then_by_name_and_never_through_internal_ones() {
        let choose = |candidates: &[Candidate<'static>]| choose_gateway(candidates.iter().copied());
        assert_eq!(choose(&[]), None);
        assert_eq!(choose(&[candidate("a", 9, true)]), None);
        assert_eq!(
            choose(&[
                candidate("c", 0, false),
                candidate("b", 0, false),
                candidate("a", 0, true)
            ]),
            Some("b")
        );
        assert_eq!(
            choose(&[
                candidate("a", -1, false),
                candidate("b", 0, false),
                candidate("c", 2, false)
            ]),
            Some("c")
        );
    }
}
