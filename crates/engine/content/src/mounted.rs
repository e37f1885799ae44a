//! Images mounted into containers beside their root: what keeps their layers.
//!
//! ```text
//! snapshots/<container id>/mounted/<chain id of the topmost layer, or "none">/   empty, one for each image
//! ```
//! Such a directory says that the layers are needed until the snapshot goes, whatever becomes of the image. It is also
//! the lowest one of the overlay that shows them, since the kernel makes none of a single directory.

use crate::error::ContentError;
use crate::snapshot::NO_LAYERS;
use crate::store::ContentStore;
use naru_base::{ContainerId, Digest};
use std::path::{Path, PathBuf};

impl ContentStore {
    /// Keeps the layers below `top` until the container's snapshot, which must be there, is removed. Returns the
    /// directories that show them together, topmost first and never fewer than one.
    pub fn hold_layers(
        &self,
        container: &ContainerId,
        top: Option<&Digest>,
    ) -> Result<Vec<PathBuf>, ContentError> {
        let mut directories = {
            let mut state = self.write();
            if !state.snapshots.contains_key(container) {
                return Err(ContentError::NoSuchSnapshot(container.clone()));
            }
            if let Some(top) = top {
                if !state.layers.contains_key(top) {
                    return Err(ContentError::NoSuchImage(top.to_string()));
                }
                state
                    .mounted
                    .entry(container.clone())
                    .or_default()
                    .push(top.clone());
            }
            self.layers_below(&state, top)
        };
        let empty = directory(&self.layout.snapshot(container)).join(top.map_or(NO_LAYERS, Digest::hex));
        std::fs::create_dir_all(&empty).map_err(|error| ContentError::io(&empty, error))?;
        directories.push(empty);
        Ok(directories)
    }
}

fn directory(snapshot: &Path) -> PathBuf {
    snapshot.join("mounted")
}

/// The topmost layers of the images mounted into a container, from its snapshot's directory.
pub(crate) fn read_mounted(snapshot: &Path) -> Vec<Digest> {
    let entries = std::fs::read_dir(directory(snapshot))
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| format!("sha256:{}", entry.file_name().to_str()?).parse().ok())
        .collect()
}
