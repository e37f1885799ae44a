//! The networks every engine has; making others is not available yet.

use crate::error::{ApiError, ApiResult};
use crate::request::Call;
use crate::respond::{self, Answer};
use crate::translate::filters::Filters;
use hyper::StatusCode;
use naru_docker_wire::types::{Ipam, Network, NetworkContainer, PruneNetworksResponse, StringMap};
use naru_engine::NetworkView;
use std::collections::BTreeMap;

const FILTERS: [&str; 8] = [
    "dangling", "driver", "id", "label", "label!", "name", "scope", "type",
];

fn wire_network(view: &NetworkView, with_containers: bool) -> Network {
    let mut config = StringMap::new();
    if let Some(subnet) = &view.subnet {
        config.insert("Subnet".to_owned(), subnet.clone());
    }
    if let Some(gateway) = &view.gateway {
        config.insert("Gateway".to_owned(), gateway.clone());
    }
    let containers = view
        .endpoints
        .iter()
        .filter(|_| with_containers)
        .map(|(id, name, endpoint)| {
            let container = NetworkContainer {
                name: name.clone(),
                endpoint_id: id.to_string(),
                mac_address: endpoint.mac_address.clone(),
                ipv4_address: format!("{}/{}", endpoint.address, endpoint.prefix_length),
                ipv6_address: String::new(),
            };
            (id.to_string(), container)
        });
    Network {
        name: view.name.clone(),
        id: view.id.clone(),
        created: view.created_at.to_string(),
        scope: "local".to_owned(),
        driver: view.driver.clone(),
        ipam: Ipam {
            driver: "default".to_owned(),
            options: None,
            config: Some(config)
                .filter(|config| !config.is_empty())
                .into_iter()
                .collect(),
        },
        containers: containers.collect(),
        options: bridge_options(view),
        ..Network::default()
    }
}

/// The options Docker's own default bridge shows; clients read the bridge's name from them.
fn bridge_options(view: &NetworkView) -> BTreeMap<String, String> {
    let Some(interface) = &view.interface else {
        return BTreeMap::new();
    };
    [
        ("com.docker.network.bridge.default_bridge", "true"),
        ("com.docker.network.bridge.enable_icc", "true"),
        ("com.docker.network.bridge.enable_ip_masquerade", "true"),
        ("com.docker.network.bridge.host_binding_ipv4", "0.0.0.0"),
        ("com.docker.network.bridge.name", interface),
        ("com.docker.network.driver.mtu", "1500"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

pub async fn list(call: Call) -> ApiResult<Answer> {
    let filters = Filters::parse(call.query.get("filters"), &FILTERS)?;
    let networks: Vec<Network> = call
        .engine
        .list_networks()
        .await?
        .iter()
        .filter(|view| {
            filters.any("name", |part| view.name.contains(part))
                && filters.any("id", |id| view.id.starts_with(id))
                && filters.any("driver", |driver| view.driver == driver)
                && filters.any("scope", |scope| scope == "local")
                && filters.any("type", |kind| kind == "builtin")
                && !filters.has("label")
                && filters.any("dangling", |text| matches!(text, "0" | "false"))
        })
        .map(|view| wire_network(view, false))
        .collect();
    Ok(respond::ok(&networks))
}

pub async fn inspect(call: Call) -> ApiResult<Answer> {
    Ok(respond::ok(&wire_network(&find(&call).await?, true)))
}

/// By name, by id, or by the beginning of an id.
async fn find(call: &Call) -> ApiResult<NetworkView> {
    let networks = call.engine.list_networks().await?;
    let name = call.name.as_str();
    let found = networks.iter().find(|view| view.name == name || view.id == name);
    let found = found.or_else(|| networks.iter().find(|view| view.id.starts_with(name)));
    found
        .cloned()
        .ok_or_else(|| ApiError::not_found(format!("network {name} not found")))
}

pub async fn remove(call: Call) -> ApiResult<Answer> {
    let network = find(&call).await?;
    let message = format!("{} is a pre-defined network and cannot be removed", network.name);
    Err(ApiError::new(StatusCode::FORBIDDEN, message))
}

/// The networks there are cannot be removed, so there is never anything to prune.
pub fn prune() -> Answer {
    respond::ok(&PruneNetworksResponse::default())
}
