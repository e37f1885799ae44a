//! What takes up the disk: `GET /system/df`, and what `GET /info` says of it.

use super::build_cache::wire_entry;
use super::containers::engine_facts;
use super::volumes::wire_volume;
use crate::error::ApiResult;
use crate::request::Call;
use crate::respond::{self, Answer};
use crate::translate::image::image_summary;
use crate::translate::list::container_summary;
use naru_base::Timestamp;
use naru_base::size::precise_size;
use naru_docker_wire::types::{DiskAccount as WireAccount, DiskUsage, Volume, VolumeUsage};
use naru_engine::{DiskAccount, Engine, FileSystemSpace};
use std::collections::HashMap;
use std::sync::Arc;

pub async fn usage(call: Call) -> ApiResult<Answer> {
    let report = call.engine.disk_report().await?;
    let caches = call.engine.build_cache().await?;
    let listed = call.engine.list_containers(true);
    let mut users: HashMap<String, i64> = HashMap::new();
    for container in &listed {
        *users
            .entry(container.record.resolved.image_id.to_string())
            .or_default() += 1;
    }
    let shared: HashMap<_, _> = report
        .images
        .images
        .iter()
        .map(|image| (&image.id, image.shared_bytes as i64))
        .collect();
    let images = call.engine.images().images();
    let images = images.iter().map(|image| {
        let users = users.get(image.id.as_str()).copied().unwrap_or_default();
        let shared = shared.get(&image.id).copied().unwrap_or_default();
        image_summary(image, users, shared, call.version)
    });
    let facts = engine_facts(&call.engine);
    let now = Timestamp::now();
    let volumes = report.volumes.iter().map(|(view, bytes, users)| Volume {
        usage_data: Some(VolumeUsage {
            size: *bytes as i64,
            ref_count: *users as i64,
        }),
        ..wire_volume(view)
    });
    Ok(respond::ok(&DiskUsage {
        layers_size: report.images.layers_bytes as i64,
        images: images.collect(),
        containers: listed
            .iter()
            .map(|container| {
                let sizes = report.containers.get(&container.record.id).copied();
                container_summary(container, Some(sizes.unwrap_or_default()), &facts, now)
            })
            .collect(),
        volumes: volumes.collect(),
        build_cache: caches.into_iter().map(wire_entry).collect(),
        disk_account: Some(wire_account(&call.engine, &report.account)),
    }))
}

/// What is known without waiting for a long count.
pub async fn recent_account(engine: &Arc<Engine>) -> WireAccount {
    match engine.recent_disk_account().await {
        Some(account) => wire_account(engine, &account),
        None => wire_space(engine, engine.file_system_space()),
    }
}

fn wire_space(engine: &Engine, space: FileSystemSpace) -> WireAccount {
    WireAccount {
        data_root: engine.data_root().to_string_lossy().into_owned(),
        file_system_bytes: space.bytes,
        free_bytes: space.free_bytes,
        is_root_file_system: space.is_root,
        ..WireAccount::default()
    }
}

fn wire_account(engine: &Engine, account: &DiskAccount) -> WireAccount {
    let parts = &account.parts;
    WireAccount {
        counted_at: account.counted_at.to_string(),
        layers_shared: parts.layers_shared,
        layers_unique: parts.layers_unique,
        images: parts.images,
        writable: parts.writable,
        logs: parts.logs,
        volumes: parts.volumes,
        trash: parts.trash,
        downloads: parts.downloads,
        other: parts.other,
        total: parts.total(),
        ..wire_space(engine, engine.file_system_space())
    }
}

/// Lines below "Storage Driver" in `docker info`.
pub fn status_lines(account: &WireAccount) -> Vec<[String; 2]> {
    let size = |bytes: u64| precise_size(bytes as f64);
    let mut lines = vec![
        ("Data Space Total", size(account.file_system_bytes)),
        ("Data Space Available", size(account.free_bytes)),
    ];
    if account.counted_at.is_empty() {
        lines.push(("Data Space Used", "being counted".to_owned()));
    } else {
        lines.extend([
            ("Data Space Used", size(account.total)),
            ("Layers Shared", size(account.layers_shared)),
            ("Layers Unique", size(account.layers_unique)),
            ("Image Descriptions", size(account.images)),
            ("Writable Layers", size(account.writable)),
            ("Logs", size(account.logs)),
            ("Volumes", size(account.volumes)),
            ("Removed Volumes", size(account.trash)),
            ("Partial Downloads", size(account.downloads)),
            ("Records", size(account.other)),
        ]);
    }
    lines
        .into_iter()
        .map(|(name, value)| [name.to_owned(), value])
        .collect()
}

pub fn warnings(account: &WireAccount) -> Vec<String> {
    let root = &account.data_root;
    let warning = format!(
        "WARNING: {root} is on the system's root file system: containers, images or logs that fill it up stop the \
         whole system. Mount a file system of its own at {root}, or name a place on another one by --data-root"
    );
    account
        .is_root_file_system
        .then_some(warning)
        .into_iter()
        .collect()
}
