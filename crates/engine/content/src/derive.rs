//! Images made from a container's snapshot: the layers it stands on, and one more.

use crate::commit::{ImagePlan, Ingest};
use crate::error::ContentError;
use crate::image::LoadedImage;
use crate::store::ContentStore;
use naru_base::{ContainerId, Digest};
use naru_oci::{ImageConfig, Reference};
use std::io::Read;

impl ContentStore {
    /// Makes an image of a container's layers with `layer` on top; fills in `config.rootfs`. The layers below are used
    /// where they are, whether or not their image is still there.
    pub fn commit_snapshot(
        &self,
        container: &ContainerId,
        names: &[&str],
        mut config: ImageConfig,
        layer: Option<impl Read>,
    ) -> Result<LoadedImage, ContentError> {
        let names: Vec<Reference> = names
            .iter()
            .map(|name| Reference::parse(name).map(Reference::or_latest))
            .collect::<Result<_, _>>()?;
        let mut ingest = Ingest::new(self);
        config.rootfs.diff_ids = self.diff_ids_under(container)?;
        if let Some(layer) = layer {
            let (diff_id, _) = ingest.add_layer(layer, container.short())?;
            config.rootfs.diff_ids.push(diff_id);
        }
        let raw_config =
            serde_json::to_vec(&config).map_err(|error| ContentError::Config(error.to_string()))?;
        let plan = ImagePlan {
            raw_config,
            config,
            names,
            manifest: None,
            is_step: false,
        };
        ingest.commit_one(plan)
    }

    /// The diff ids of the layers a snapshot stands on, bottom first.
    pub(crate) fn diff_ids_under(&self, container: &ContainerId) -> Result<Vec<Digest>, ContentError> {
        let state = self.read();
        let top = state
            .snapshots
            .get(container)
            .ok_or_else(|| ContentError::NoSuchSnapshot(container.clone()))?;
        let records = std::iter::successors(top.as_ref().and_then(|top| state.layers.get(top)), |layer| {
            layer.parent.as_ref().and_then(|parent| state.layers.get(parent))
        });
        let mut diff_ids: Vec<Digest> = records.map(|layer| layer.diff_id.clone()).collect();
        diff_ids.reverse();
        Ok(diff_ids)
    }
}
