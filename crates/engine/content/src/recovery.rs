//! What opening a store finds after a crash, and puts right.

use crate::error::ContentError;
use crate::image::OpenReport;
use crate::layout::{LayerRecord, Layout};
use crate::store::{State, StoredImage, chain_ids, digest_of};
use naru_base::{ContainerId, Digest};
use naru_oci::ImageConfig;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn children(path: &Path) -> Result<Vec<(String, PathBuf)>, ContentError> {
    let failed = |error| ContentError::io(path, error);
    let mut children = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        children.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    Ok(children)
}

/// Deletes a file or a tree; that it is gone already is fine.
pub(crate) fn remove_any(path: &Path) -> Result<(), ContentError> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(ContentError::io(path, error)),
        _ => Ok(()),
    }
}

/// Empties `temporary/`: nothing in it was ever answered for.
pub(crate) fn clean_temporary(layout: &Layout, report: &mut OpenReport) -> Result<(), ContentError> {
    for (_, path) in children(&layout.root.join("temporary"))? {
        remove_any(&path)?;
        report.temporary_removed += 1;
    }
    Ok(())
}

/// Reads everything the store has. What is damaged is left out and reported; what nothing needs is deleted.
pub(crate) fn read_state(layout: &Layout, report: &mut OpenReport) -> Result<State, ContentError> {
    let mut state = State::default();
    read_layers(layout, &mut state, report)?;
    read_snapshots(layout, &mut state, report)?;
    let index = layout.read_index()?;
    let index_length = index.images.len();
    let boot = crate::step::boot_id();
    for (id, record) in &index.images {
        if record.unsynced.as_ref().is_some_and(|made_in| *made_in != boot) {
            continue;
        }
        match read_image(layout, id, &state) {
            Some((config, raw_config, chain_ids)) => {
                let arrived_at = record.arrived_at;
                let manifest = record.manifest.clone();
                state.images.insert(
                    id.clone(),
                    StoredImage {
                        config,
                        raw_config,
                        chain_ids,
                        arrived_at,
                        manifest,
                        attested: record.attested.clone().map(Arc::new),
                        annotations: record.annotations.clone().map(Arc::new),
                        is_built: record.is_built || record.is_step,
                        is_step: record.is_step,
                        is_listed: !record.is_hidden,
                        unsynced: record.unsynced.clone(),
                    },
                );
            }
            None => report.images_damaged.push(id.clone()),
        }
    }
    state.names = index
        .names
        .into_iter()
        .filter(|(_, id)| state.images.contains_key(id))
        .collect();
    if state.images.len() < index_length {
        layout.write_index(&state.index())?;
    }
    for chain in state.unneeded_layers() {
        remove_any(&layout.layer(&chain))?;
        state.layers.remove(&chain);
        report.layers_removed += 1;
    }
    for (name, path) in children(&layout.root.join("blobs/sha256"))? {
        let is_needed = format!("sha256:{name}")
            .parse()
            .is_ok_and(|digest| state.needs_blob(&digest));
        if !is_needed {
            remove_any(&path)?;
        }
    }
    Ok(state)
}

fn read_layers(layout: &Layout, state: &mut State, report: &mut OpenReport) -> Result<(), ContentError> {
    for (name, path) in children(&layout.root.join("layers"))? {
        let record = std::fs::read(path.join("layer.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<LayerRecord>(&bytes).ok())
            .filter(|record| record.chain_id.hex() == name && path.join("diff").is_dir());
        if let Some(record) = record {
            state.layers.insert(record.chain_id.clone(), Arc::new(record));
        } else {
            remove_any(&path)?;
            report.layers_damaged.push(name);
        }
    }
    Ok(())
}

fn read_snapshots(layout: &Layout, state: &mut State, report: &mut OpenReport) -> Result<(), ContentError> {
    for (name, path) in children(&layout.root.join("snapshots"))? {
        let Ok(container) = name.parse::<ContainerId>() else {
            continue;
        };
        match crate::snapshot::read_top(&path) {
            Some(top) => {
                let mounted = crate::mounted::read_mounted(&path);
                if !mounted.is_empty() {
                    state.mounted.insert(container.clone(), mounted);
                }
                state.snapshots.insert(container, top);
            }
            None => report.snapshots_damaged.push(name),
        }
    }
    Ok(())
}

type ReadImage = (Arc<ImageConfig>, Arc<[u8]>, Vec<Digest>);

fn read_image(layout: &Layout, id: &Digest, state: &State) -> Option<ReadImage> {
    let raw_config = std::fs::read(layout.blob(id))
        .ok()
        .filter(|bytes| digest_of(bytes) == *id)?;
    let config: ImageConfig = serde_json::from_slice(&raw_config).ok()?;
    let chain_ids = chain_ids(&config.rootfs.diff_ids);
    let is_whole = chain_ids.iter().all(|chain| state.layers.contains_key(chain));
    is_whole.then(|| (Arc::new(config), raw_config.into(), chain_ids))
}
