//! Containers, without their streams.

use crate::error::{ApiError, ApiResult};
use crate::request::{Call, json_error};
use crate::respond::{self, Answer};
use crate::translate::create::{HostFacts, container_spec};
use crate::translate::defaults;
use crate::translate::filters::Filters;
use crate::translate::inspect::{EngineFacts, container_inspect};
use crate::translate::list;
use crate::translate::prune::PruneFilters;
use crate::translate::update::update_spec;
use crate::translate::version;
use hyper::StatusCode;
use naru_base::Timestamp;
use naru_docker_wire::types::{
    ContainerSummary, CreateRequest, CreateResponse, HostConfig, PruneContainersResponse, TopResponse,
    UpdateResponse,
};
use naru_engine::{ContainerView, Engine, RemoveOptions};
use std::sync::OnceLock;

pub async fn create(mut call: Call) -> ApiResult<Answer> {
    let bytes = call.json_bytes().await?;
    let mut request = CreateRequest::from_slice(&bytes).map_err(|error| json_error(&error))?;
    let defaults = call.engine.container_defaults();
    defaults::merge_log(&mut request.host_config, &defaults.log);
    let security_options = request.host_config.security_opt.clone().unwrap_or_default();
    check_platform(call.query.non_empty("platform"))?;
    let mut warnings = Vec::new();
    version::shape_create(&mut request, call.version, &mut warnings)?;
    let (mut spec, of_limits) = container_spec(request, host_facts())?;
    warnings.extend(of_limits);
    defaults::merge_spec(&mut spec, defaults, &security_options);
    let name = call.query.non_empty("name").map(ToOwned::to_owned);
    let created = call.engine.create_container(name, spec).await?;
    warnings.extend(created.warnings);
    let body = CreateResponse {
        id: created.id.to_string(),
        warnings,
    };
    Ok(respond::json(StatusCode::CREATED, &body))
}

/// Images of this machine's kind only: `linux`, `linux/amd64`.
fn check_platform(platform: Option<&str>) -> ApiResult<()> {
    let Some(text) = platform else { return Ok(()) };
    let mut parts = text.split('/');
    let os = parts.next().unwrap_or_default();
    let architecture = parts.next();
    let here = match std::env::consts::ARCH {
        "x86_64" => ["amd64", "x86_64"],
        "aarch64" => ["arm64", "aarch64"],
        other => [other, other],
    };
    if os == "linux" && architecture.is_none_or(|wanted| here.contains(&wanted)) {
        return Ok(());
    }
    Err(ApiError::not_found(format!(
        "no image of platform {text} can run here: this machine is linux/{}",
        here[0]
    )))
}

pub fn host_facts() -> HostFacts {
    static CPUS: OnceLock<usize> = OnceLock::new();
    let count = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    HostFacts {
        cpus: *CPUS.get_or_init(count),
    }
}

pub fn engine_facts(engine: &Engine) -> EngineFacts {
    EngineFacts {
        cgroup_version: engine.cgroup_version(),
        network_ids: engine.network_ids(),
    }
}

pub async fn inspect(call: Call) -> ApiResult<Answer> {
    let view = call
        .engine
        .inspect_container(&call.name, call.query.flag("size"))
        .await?;
    let facts = engine_facts(&call.engine);
    Ok(respond::ok(&container_inspect(&view, &facts)))
}

/// Why it ended, was restarted or did not start.
pub async fn why(call: Call) -> ApiResult<Answer> {
    Ok(respond::ok(&call.engine.why_container(&call.name).await?))
}

pub async fn list(call: Call) -> ApiResult<Answer> {
    let filters = Filters::parse(call.query.get("filters"), &list::FILTERS)?;
    list::check_filters(&filters)?;
    let limit = call.integer("limit")?.filter(|limit| *limit > 0);
    let with_sizes = call.query.flag("size");
    let all = call.query.flag("all") || limit.is_some() || list::implies_all(&filters);
    let mut views = call.engine.list_containers(all, with_sizes).await?;
    views.sort_by_key(|view| std::cmp::Reverse(view.record.created_at));
    apply_neighbours(&call.engine, &filters, &mut views).await?;
    let facts = engine_facts(&call.engine);
    let now = Timestamp::now();
    let summaries: Vec<ContainerSummary> = views
        .iter()
        .filter(|view| {
            list::matches(view, &filters, &facts, |wanted| {
                descends_from(&call.engine, view, wanted)
            })
        })
        .take(limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX)))
        .map(|view| list::container_summary(view, &facts, now))
        .collect();
    Ok(respond::ok(&summaries))
}

/// `before` and `since` name a container and keep those created on one side of it.
async fn apply_neighbours(
    engine: &Engine,
    filters: &Filters,
    views: &mut Vec<ContainerView>,
) -> ApiResult<()> {
    for name in filters.values("before") {
        let mark = engine.inspect_container(name, false).await?.record.created_at;
        views.retain(|view| view.record.created_at < mark);
    }
    for name in filters.values("since") {
        let mark = engine.inspect_container(name, false).await?.record.created_at;
        views.retain(|view| view.record.created_at > mark);
    }
    Ok(())
}

/// The image itself by any of its names, or an image whose layers it begins with.
fn descends_from(engine: &Engine, view: &ContainerView, wanted: &str) -> bool {
    if view.record.spec.image == wanted {
        return true;
    }
    let Ok(ancestor) = engine.images().image(wanted) else {
        return false;
    };
    if view.record.resolved.image_id == ancestor.id {
        return true;
    }
    let own = engine.images().image(view.record.resolved.image_id.as_str());
    own.is_ok_and(|image| !ancestor.layers.is_empty() && image.layers.starts_with(&ancestor.layers))
}

pub async fn start(call: Call) -> ApiResult<Answer> {
    call.engine.start_container(&call.name).await?;
    Ok(respond::no_content())
}

pub async fn stop(call: Call) -> ApiResult<Answer> {
    let (timeout, signal) = (call.integer("t")?, signal(&call));
    call.engine.stop_container(&call.name, timeout, signal).await?;
    Ok(respond::no_content())
}

pub async fn restart(call: Call) -> ApiResult<Answer> {
    let (timeout, signal) = (call.integer("t")?, signal(&call));
    call.engine.restart_container(&call.name, timeout, signal).await?;
    Ok(respond::no_content())
}

pub async fn kill(call: Call) -> ApiResult<Answer> {
    call.engine.kill_container(&call.name, signal(&call)).await?;
    Ok(respond::no_content())
}

fn signal(call: &Call) -> Option<String> {
    call.query.non_empty("signal").map(ToOwned::to_owned)
}

pub async fn pause(call: Call) -> ApiResult<Answer> {
    call.engine.pause_container(&call.name).await?;
    Ok(respond::no_content())
}

pub async fn unpause(call: Call) -> ApiResult<Answer> {
    call.engine.unpause_container(&call.name).await?;
    Ok(respond::no_content())
}

pub async fn rename(call: Call) -> ApiResult<Answer> {
    let Some(new_name) = call.query.non_empty("name") else {
        return Err(ApiError::invalid("Neither old nor new names may be empty"));
    };
    call.engine.rename_container(&call.name, new_name).await?;
    Ok(respond::no_content())
}

pub async fn resize(call: Call) -> ApiResult<Answer> {
    let (rows, columns) = terminal_size(&call)?;
    call.engine.resize_container(&call.name, rows, columns).await?;
    Ok(respond::empty(StatusCode::OK))
}

/// `h` and `w`, both needed.
pub fn terminal_size(call: &Call) -> ApiResult<(u16, u16)> {
    let side = |key: &str| {
        let text = call.query.get(key).unwrap_or_default();
        text.parse()
            .map_err(|_| ApiError::invalid(format!("invalid resize {key}: {text:?}")))
    };
    Ok((side("h")?, side("w")?))
}

pub async fn remove(call: Call) -> ApiResult<Answer> {
    if call.query.flag("link") {
        call.engine.remove_link(&call.name).await?;
        return Ok(respond::no_content());
    }
    let options = RemoveOptions {
        force: call.query.flag("force"),
        volumes: call.query.flag("v"),
    };
    call.engine.remove_container(&call.name, options).await?;
    Ok(respond::no_content())
}

pub async fn top(call: Call) -> ApiResult<Answer> {
    let ps_args = call.query.non_empty("ps_args").map(ToOwned::to_owned);
    let top = call.engine.top_container(&call.name, ps_args).await?;
    Ok(respond::ok(&TopResponse {
        titles: top.titles,
        processes: top.processes,
    }))
}

pub async fn update(mut call: Call) -> ApiResult<Answer> {
    let wanted: HostConfig = call.json().await?;
    let mut warnings = Vec::new();
    call.engine
        .update_container(&call.name, |spec| {
            update_spec(spec, &wanted, host_facts(), &mut warnings)
        })
        .await?;
    Ok(respond::ok(&UpdateResponse { warnings }))
}

pub async fn prune(call: Call) -> ApiResult<Answer> {
    let filters = PruneFilters::parse(call.query.get("filters"), &["label", "label!", "until"])?;
    let (ids, bytes) = call
        .engine
        .prune_containers(|record| filters.is_meant(&record.resolved.labels, Some(record.created_at)))
        .await?;
    let deleted: Vec<String> = ids.iter().map(ToString::to_string).collect();
    Ok(respond::ok(&PruneContainersResponse {
        containers_deleted: Some(deleted).filter(|list| !list.is_empty()),
        space_reclaimed: bytes,
    }))
}
