//! Images as the API lists and inspects them.

use super::version::shape_image_config;
use naru_base::Timestamp;
use naru_docker_wire::ApiVersion;
use naru_docker_wire::types::{
    ContainerConfig, GraphDriver, Healthcheck, HistoryEntry, ImageDeleteItem, ImageInspect, ImageMetadata,
    ImageSummary, RootFs, StringOrList,
};
use naru_engine::content::ImageConfig;
use naru_engine::content::{HistoryEntry as History, Image, Removed};
use std::collections::{BTreeMap, BTreeSet};

/// `Size` was joined by an equal `VirtualSize` before API 1.44.
fn virtual_size(bytes: u64, version: ApiVersion) -> Option<i64> {
    (!version.is_at_least(44)).then_some(bytes as i64)
}

fn created_text(created: Option<Timestamp>) -> String {
    created.map_or_else(|| Timestamp::ZERO.to_owned(), |time| time.to_string())
}

/// `containers` and `shared_bytes` are -1 when they were not counted, and `containers` always before API 1.51.
pub fn image_summary(image: &Image, containers: i64, shared_bytes: i64, version: ApiVersion) -> ImageSummary {
    ImageSummary {
        id: image.id.to_string(),
        parent_id: String::new(),
        repo_tags: or_none(&image.tags, &image.digests, "<none>:<none>", version),
        repo_digests: or_none(&image.digests, &image.tags, "<none>@<none>", version),
        created: image.listed_at().map_or(0, Timestamp::as_second),
        size: image.bytes as i64,
        shared_size: shared_bytes,
        virtual_size: virtual_size(image.bytes, version),
        labels: Some(image.config.config.labels.clone()).filter(|labels| !labels.is_empty()),
        containers,
    }
}

/// Before API 1.43 an image without names has placeholders, which old clients show.
fn or_none(names: &[String], others: &[String], placeholder: &str, version: ApiVersion) -> Vec<String> {
    if names.is_empty() && others.is_empty() && !version.is_at_least(43) {
        return vec![placeholder.to_owned()];
    }
    names.to_vec()
}

pub fn image_inspect(image: &Image, version: ApiVersion) -> ImageInspect {
    let config = &*image.config;
    ImageInspect {
        id: image.id.to_string(),
        repo_tags: image.tags.clone(),
        repo_digests: image.digests.clone(),
        comment: config.comment.clone(),
        created: created_text(image.created),
        container: (!version.is_at_least(44)).then(|| config.container.clone()),
        // Gone from Docker's API with 1.44, but docker-compose 1.29, which asks in the newest version there is, fails
        // without it; it looks for the volumes of the image.
        container_config: Some(ContainerConfig {
            volumes: container_config(config).volumes,
            ..ContainerConfig::default()
        }),
        docker_version: config.docker_version.clone(),
        author: config.author.clone(),
        config: shape_image_config(container_config(config), version),
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
        os: config.os.clone(),
        os_version: config.os_version.clone(),
        size: image.bytes as i64,
        virtual_size: virtual_size(image.bytes, version),
        graph_driver: GraphDriver {
            data: Some(BTreeMap::new()),
            name: "overlay2".to_owned(),
        },
        root_fs: RootFs {
            kind: "layers".to_owned(),
            layers: image.layers.iter().map(ToString::to_string).collect(),
        },
        metadata: ImageMetadata {
            last_tag_time: image.arrived_at.to_string(),
        },
        ..ImageInspect::default()
    }
}

fn container_config(config: &ImageConfig) -> ContainerConfig {
    let inner = &config.config;
    let set = |keys: &BTreeSet<String>| {
        let empty = Some(naru_docker_wire::types::Empty {});
        (!keys.is_empty()).then(|| keys.iter().map(|key| (key.clone(), empty)).collect())
    };
    ContainerConfig {
        hostname: inner.hostname.clone(),
        domainname: inner.domainname.clone(),
        user: inner.user.clone(),
        exposed_ports: set(&inner.exposed_ports),
        env: Some(inner.env.clone()).filter(|env| !env.is_empty()),
        cmd: inner.cmd.clone().map(StringOrList),
        entrypoint: inner.entrypoint.clone().map(StringOrList),
        healthcheck: inner.healthcheck.as_ref().map(|check| Healthcheck {
            test: Some(check.test.clone()),
            interval: check.interval,
            timeout: check.timeout,
            start_period: check.start_period,
            start_interval: check.start_interval,
            retries: check.retries,
        }),
        args_escaped: inner.args_escaped,
        volumes: set(&inner.volumes),
        working_dir: inner.working_dir.clone(),
        on_build: Some(inner.on_build.clone()).filter(|steps| !steps.is_empty()),
        labels: Some(inner.labels.clone()).filter(|labels| !labels.is_empty()),
        stop_signal: inner.stop_signal.clone(),
        stop_timeout: inner.stop_timeout,
        shell: inner.shell.clone(),
        ..ContainerConfig::default()
    }
}

pub fn history(entries: Vec<History>) -> Vec<HistoryEntry> {
    let wire = |entry: History| HistoryEntry {
        id: entry.id,
        created: entry.created.map_or(0, Timestamp::as_second),
        created_by: entry.created_by,
        tags: Some(entry.tags).filter(|tags| !tags.is_empty()),
        size: entry.bytes as i64,
        comment: entry.comment,
    };
    entries.into_iter().map(wire).collect()
}

pub fn delete_items(removed: Vec<Removed>) -> Vec<ImageDeleteItem> {
    let wire = |one| match one {
        Removed::Untagged(name) => ImageDeleteItem {
            untagged: name,
            ..ImageDeleteItem::default()
        },
        Removed::Deleted(digest) => ImageDeleteItem {
            deleted: digest.to_string(),
            ..ImageDeleteItem::default()
        },
    };
    removed.into_iter().map(wire).collect()
}
