//! Networks.

use crate::error::{ApiError, ApiResult};
use crate::request::Call;
use crate::respond::{self, Answer};
use crate::translate::filters::Filters;
use crate::translate::network::{attachment, network_spec, wire_network};
use crate::translate::pattern::NamePatterns;
use crate::translate::prune::PruneFilters;
use crate::translate::version;
use hyper::StatusCode;
use naru_docker_wire::types::{
    Network, NetworkConnectRequest, NetworkCreateRequest, NetworkCreateResponse, NetworkDisconnectRequest,
    PruneNetworksResponse,
};
use naru_engine::NetworkView;

const FILTERS: [&str; 8] = [
    "dangling", "driver", "id", "label", "label!", "name", "scope", "type",
];

pub async fn list(call: Call) -> ApiResult<Answer> {
    let filters = Filters::parse(call.query.get("filters"), &FILTERS)?;
    if let Some(kind) = filters
        .values("type")
        .iter()
        .find(|kind| !matches!(kind.as_str(), "builtin" | "custom"))
    {
        return Err(ApiError::invalid(format!("invalid filter 'type={kind}'")));
    }
    let dangling = filters.boolean("dangling")?;
    let names = NamePatterns::new(filters.values("name"));
    // Since API 1.28 only an inspect shows who is on a network.
    let with_containers = !call.version.is_at_least(28);
    let networks: Vec<Network> = call
        .engine
        .list_networks()
        .await?
        .iter()
        .filter(|view| matches(view, &filters, &names, dangling))
        .map(|view| wire_network(view, with_containers))
        .collect();
    Ok(respond::ok(&networks))
}

fn matches(view: &NetworkView, filters: &Filters, names: &NamePatterns, dangling: Option<bool>) -> bool {
    let is_custom = view.record.is_some();
    let labels = view
        .record
        .as_ref()
        .map(|record| record.spec.labels.clone())
        .unwrap_or_default();
    names.fit(&view.name)
        && filters.any("id", |id| view.id.starts_with(id))
        && filters.any("driver", |driver| view.driver == driver)
        && filters.any("scope", |scope| scope == "local")
        && filters.any("type", |kind| is_custom == (kind == "custom"))
        && filters.labels_match(&labels)
        && dangling.is_none_or(|wanted| wanted == (is_custom && view.endpoints.is_empty()))
}

pub async fn create(mut call: Call) -> ApiResult<Answer> {
    let mut wire: NetworkCreateRequest = call.json().await?;
    version::shape_network_create(&mut wire, call.version);
    let id = call.engine.create_network(network_spec(wire)?).await?;
    let body = NetworkCreateResponse {
        id: id.to_string(),
        warning: String::new(),
    };
    Ok(respond::json(StatusCode::CREATED, &body))
}

pub async fn inspect(call: Call) -> ApiResult<Answer> {
    if let Some(scope) = call.query.non_empty("scope").filter(|scope| *scope != "local") {
        return Err(ApiError::not_found(format!(
            "network {} not found in scope {scope}",
            call.name
        )));
    }
    let view = call.engine.inspect_network(&call.name).await?;
    Ok(respond::ok(&wire_network(&view, true)))
}

pub async fn remove(call: Call) -> ApiResult<Answer> {
    call.engine.remove_network(&call.name).await?;
    Ok(respond::no_content())
}

pub async fn connect(mut call: Call) -> ApiResult<Answer> {
    let wire: NetworkConnectRequest = call.json().await?;
    let wanted = attachment(&call.name, &wire.endpoint_config.unwrap_or_default())?;
    call.engine
        .connect_network(&call.name, &wire.container, wanted)
        .await?;
    Ok(respond::empty(StatusCode::OK))
}

pub async fn disconnect(mut call: Call) -> ApiResult<Answer> {
    let wire: NetworkDisconnectRequest = call.json().await?;
    call.engine
        .disconnect_network(&call.name, &wire.container, wire.force)
        .await?;
    Ok(respond::empty(StatusCode::OK))
}

pub async fn prune(call: Call) -> ApiResult<Answer> {
    let filters = PruneFilters::parse(call.query.get("filters"), &["label", "label!", "until"])?;
    let removed = call
        .engine
        .prune_networks(|record| filters.is_meant(&record.spec.labels, Some(record.created_at)))
        .await?;
    Ok(respond::ok(&PruneNetworksResponse {
        networks_deleted: Some(removed).filter(|removed| !removed.is_empty()),
    }))
}
