//! Containers, without their streams.

use crate::error::{ApiError, ApiResult};
use crate::request::{Call, json_error};
use crate::respond::{self, Answer};
use crate::translate::create::{HostFacts, container_spec};
use crate::translate::defaults;
use crate::translate::filters::Filters;
use crate::translate::inspect::{EngineFacts, container_inspect};
use crate::translate::list;
use crate::translate::pattern::NamePatterns;
use crate::translate::prune::PruneFilters;
use crate::translate::update::update_spec;
use crate::translate::version;
use hyper::StatusCode;
use naru_base::{ContainerId, Digest, Timestamp};
use naru_docker_wire::types::{
    CreateRequest, CreateResponse, HostConfig, PruneContainersResponse, TopResponse, UpdateResponse,
};
use naru_engine::content::Image;
use naru_engine::record::ContainerRecord;
use naru_engine::{Engine, ListedContainer, RemoveOptions};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

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
    let mut told = container_inspect(&view, &facts);
    version::shape_container(&mut told, call.version);
    Ok(respond::ok(&told))
}

/// Why it ended, was restarted or did not start.
pub async fn why(call: Call) -> ApiResult<Answer> {
    Ok(respond::ok(&call.engine.why_container(&call.name).await?))
}

/// A summary's customary length; what is foreseen of an answer that turns out shorter costs nothing.
const SUMMARY_BYTES: usize = 1024;

pub async fn list(call: Call) -> ApiResult<Answer> {
    let filters = Filters::parse(call.query.get("filters"), &list::FILTERS)?;
    list::check_filters(&filters)?;
    let limit = call.integer("limit")?.filter(|limit| *limit > 0);
    let all = call.query.flag("all") || limit.is_some() || list::implies_all(&filters);
    let mut listed = call.engine.list_containers(all);
    apply_neighbours(&call.engine, &filters, &mut listed).await?;
    let facts = engine_facts(&call.engine);
    let ancestors = Ancestors::new(&call.engine, filters.values("ancestor"));
    let names = NamePatterns::new(filters.values("name"));
    listed.retain(|container| {
        list::matches(container, &filters, &names, &facts, || {
            ancestors.include(&container.record)
        })
    });
    listed.truncate(limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX)));
    let sizes = if call.query.flag("size") {
        Some(call.engine.container_sizes(ids_of(&listed)).await?)
    } else {
        None
    };
    let now = Timestamp::now();
    let summaries = listed.iter().enumerate().map(|(at, container)| {
        let sizes = sizes.as_ref().and_then(|sizes| sizes.get(at).copied());
        list::container_summary(container, sizes, &facts, now)
    });
    Ok(respond::list(summaries, SUMMARY_BYTES))
}

fn ids_of(listed: &[ListedContainer]) -> Vec<ContainerId> {
    let ids = listed.iter().map(|container| container.record.id.clone());
    ids.collect()
}

/// `before` and `since` name a container and keep those created on one side of it.
async fn apply_neighbours(
    engine: &Engine,
    filters: &Filters,
    listed: &mut Vec<ListedContainer>,
) -> ApiResult<()> {
    for name in filters.values("before") {
        let mark = engine.inspect_container(name, false).await?.record.created_at;
        listed.retain(|container| container.record.created_at < mark);
    }
    for name in filters.values("since") {
        let mark = engine.inspect_container(name, false).await?.record.created_at;
        listed.retain(|container| container.record.created_at > mark);
    }
    Ok(())
}

/// The images of the filter `ancestor`, looked up once for all containers.
struct Ancestors<'a> {
    engine: &'a Engine,
    names: &'a [String],
    images: Vec<Arc<Image>>,
    /// What was found for an image that containers have.
    known: RefCell<HashMap<Digest, bool>>,
}

impl<'a> Ancestors<'a> {
    fn new(engine: &'a Engine, names: &'a [String]) -> Self {
        let found = names.iter().filter_map(|name| engine.images().image(name).ok());
        Self {
            engine,
            names,
            images: found.collect(),
            known: RefCell::default(),
        }
    }

    fn include(&self, record: &ContainerRecord) -> bool {
        let image = &record.resolved.image_id;
        self.names.is_empty()
            || self.names.contains(&record.spec.image)
            || *self
                .known
                .borrow_mut()
                .entry(image.clone())
                .or_insert_with(|| self.are_under(image))
    }

    /// One of them is the image itself, or one whose layers it begins with.
    fn are_under(&self, id: &Digest) -> bool {
        let own = self.engine.images().image(id.as_str());
        self.images.iter().any(|ancestor| {
            let begins = |own: &Arc<Image>| own.layers.starts_with(&ancestor.layers);
            ancestor.id == *id || (!ancestor.layers.is_empty() && own.as_ref().is_ok_and(begins))
        })
    }
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
