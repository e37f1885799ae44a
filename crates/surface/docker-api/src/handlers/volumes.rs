//! Volumes.

use crate::error::{ApiError, ApiResult};
use crate::request::Call;
use crate::respond::{self, Answer};
use crate::translate::filters::Filters;
use crate::translate::pattern::is_found;
use crate::translate::prune::PruneFilters;
use hyper::StatusCode;
use naru_docker_wire::types::{PruneVolumesResponse, RemovedVolume, Volume, VolumeCreateRequest, VolumeList};
use naru_engine::{Engine, VolumeView};
use std::collections::BTreeSet;

pub fn wire_volume(view: &VolumeView) -> Volume {
    Volume {
        created_at: view.created_at.to_string(),
        driver: view.driver.clone(),
        labels: Some(view.labels.clone()).filter(|labels| view.shows_empty || !labels.is_empty()),
        mountpoint: view.mountpoint.to_string_lossy().into_owned(),
        name: view.name.clone(),
        options: Some(view.options.clone()).filter(|options| view.shows_empty || !options.is_empty()),
        scope: "local".to_owned(),
        usage_data: None,
    }
}

pub async fn list(call: Call) -> ApiResult<Answer> {
    let filters = Filters::parse(
        call.query.get("filters"),
        &["dangling", "driver", "label", "label!", "name"],
    )?;
    let dangling = filters.boolean("dangling")?;
    let used = if dangling.is_some() {
        used_volumes(&call.engine)
    } else {
        BTreeSet::new()
    };
    let volumes = call
        .engine
        .list_volumes()
        .await?
        .iter()
        .filter(|view| {
            filters.labels_match(&view.labels)
                && filters.any("name", |pattern| is_found(pattern, &view.name))
                && filters.any("driver", |driver| view.driver == driver)
                && dangling.is_none_or(|wanted| wanted != used.contains(&view.name))
        })
        .map(wire_volume)
        .collect();
    Ok(respond::ok(&VolumeList {
        volumes,
        warnings: None,
    }))
}

fn used_volumes(engine: &Engine) -> BTreeSet<String> {
    let containers = engine.list_containers(true);
    containers
        .iter()
        .flat_map(|container| &container.record.resolved.mounts)
        .filter_map(|mount| mount.volume.clone())
        .collect()
}

pub async fn create(mut call: Call) -> ApiResult<Answer> {
    let wire: VolumeCreateRequest = call.json_or_default().await?;
    if wire.cluster_volume_spec.is_some() {
        return Err(ApiError::not_supported(
            "a cluster volume",
            "this node is not part of a swarm",
        ));
    }
    let driver = if wire.driver.is_empty() {
        "local".to_owned()
    } else {
        wire.driver
    };
    if driver != "local" {
        return Err(ApiError::not_found(format!(
            "create {}: error looking up volume plugin {driver}: plugin \"{driver}\" not found",
            wire.name
        )));
    }
    let name = Some(wire.name).filter(|name| !name.is_empty());
    let view = call
        .engine
        .create_volume(name, driver, wire.driver_opts, wire.labels)
        .await?;
    Ok(respond::json(StatusCode::CREATED, &wire_volume(&view)))
}

pub async fn inspect(call: Call) -> ApiResult<Answer> {
    Ok(respond::ok(&wire_volume(
        &call.engine.inspect_volume(&call.name).await?,
    )))
}

pub async fn remove(call: Call) -> ApiResult<Answer> {
    call.engine
        .remove_volume(&call.name, call.query.flag("force"))
        .await?;
    Ok(respond::no_content())
}

/// Since API 1.42 only anonymous volumes go, unless `all` is asked for.
pub async fn prune(call: Call) -> ApiResult<Answer> {
    let filters = PruneFilters::parse(call.query.get("filters"), &["all", "label", "label!"])?;
    let all = filters
        .filters
        .boolean("all")?
        .unwrap_or(!call.version.is_at_least(42));
    let (names, bytes) = call
        .engine
        .prune_volumes(all, |view| filters.is_meant(&view.labels, None))
        .await?;
    let volumes_deleted = Some(names).filter(|names| !names.is_empty());
    Ok(respond::ok(&PruneVolumesResponse {
        volumes_deleted,
        space_reclaimed: bytes,
    }))
}

/// Only swarm's volumes can be changed.
pub fn update() -> ApiResult<Answer> {
    Err(ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "volume update only valid for cluster volumes, but swarm is unavailable",
    ))
}

fn new_name(call: &Call) -> ApiResult<String> {
    match call.query.non_empty("name") {
        Some(name) => Ok(name.to_owned()),
        None => Err(ApiError::invalid("bad parameter: name cannot be empty")),
    }
}

pub async fn rename(call: Call) -> ApiResult<Answer> {
    let view = call.engine.rename_volume(&call.name, &new_name(&call)?).await?;
    Ok(respond::ok(&wire_volume(&view)))
}

pub async fn copy(call: Call) -> ApiResult<Answer> {
    let view = call.engine.clone_volume(&call.name, &new_name(&call)?).await?;
    Ok(respond::json(StatusCode::CREATED, &wire_volume(&view)))
}

pub async fn export(call: Call) -> ApiResult<Answer> {
    let chunks = call.engine.export_volume(&call.name).await?;
    Ok(super::archive::stream(
        hyper::header::HeaderValue::from_static("application/x-tar"),
        chunks,
    ))
}

pub async fn import(call: Call) -> ApiResult<Answer> {
    let archive = crate::upload::chunks(call.body);
    call.engine.import_volume(&call.name, archive).await?;
    Ok(respond::no_content())
}

pub async fn restore(call: Call) -> ApiResult<Answer> {
    let view = call.engine.restore_volume(&call.name).await?;
    Ok(respond::ok(&wire_volume(&view)))
}

pub async fn trash(call: Call) -> ApiResult<Answer> {
    let entries = call.engine.volume_trash().await?;
    let wire = |entry: &naru_engine::TrashEntry| RemovedVolume {
        name: entry.name.clone(),
        size: entry.bytes,
        removed_at: entry.removed_at.to_string(),
    };
    Ok(respond::ok(&entries.iter().map(wire).collect::<Vec<_>>()))
}

pub async fn empty_trash(call: Call) -> ApiResult<Answer> {
    let bytes = call.engine.empty_volume_trash().await?;
    Ok(respond::ok(&PruneVolumesResponse {
        volumes_deleted: None,
        space_reclaimed: bytes,
    }))
}
