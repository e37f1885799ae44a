//! What an image's documents are annotated with: notes beside the image, which its id does not depend on.
//!
//! ```text
//!  index-descriptor      of the index      ─┐ in the list of an archive
//!  index                 the index itself   │ for an image of which something is attested
//!  manifest-descriptor   of the manifest   ─┘ in the index or, without one, in the list of an archive
//!  manifest              the manifest itself
//! ```
//! The documents are made when an image leaves the store; until then annotations are kept with the image's other records.

use crate::error::ContentError;
use crate::image::Image;
use crate::recovery::remove_any;
use crate::store::ContentStore;
use naru_base::Digest;
use naru_oci::{Manifest, media_type};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Annotations by the document they are in, as the OCI image specification has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Annotations {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub manifest: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub manifest_descriptor: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub index: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub index_descriptor: BTreeMap<String, String>,
}

impl Annotations {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a manifest is what it would be made here.
    pub(crate) fn suit(&self, manifest: &Manifest) -> bool {
        self.manifest.is_empty()
            || (manifest.annotations == self.manifest && manifest.own_type() == media_type::OCI_MANIFEST)
    }
}

impl ContentStore {
    /// Gives an image these annotations, in the place of those that it had before.
    pub fn annotate(&self, image: &Digest, annotations: Annotations) -> Result<(), ContentError> {
        let annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
        let _change = self.begin_change();
        if self.read().images.get(image).map(|stored| &stored.annotations)
            == Some(&annotations.clone().map(Arc::new))
        {
            return Ok(());
        }
        let mut index = self.read().index();
        let record = index.images.get_mut(image);
        let record = record.ok_or_else(|| ContentError::NoSuchImage(image.to_string()))?;
        // The next one is made with them.
        let manifest = record.manifest.take();
        record.annotations.clone_from(&annotations);
        self.layout.write_index(&index)?;
        if let Some(stored) = self.write().images.get_mut(image) {
            stored.annotations = annotations.map(Arc::new);
            stored.manifest = None;
        }
        self.remove_manifest(manifest.as_ref())
    }

    /// Deletes a manifest that its image has no more, unless something else needs it. The caller holds the lock on
    /// changes.
    pub(crate) fn remove_manifest(&self, manifest: Option<&Digest>) -> Result<(), ContentError> {
        match manifest {
            Some(manifest) if !self.read().needs_blob(manifest) => remove_any(&self.layout.blob(manifest)),
            _ => Ok(()),
        }
    }

    pub(crate) fn annotations(&self, image: &Image) -> Arc<Annotations> {
        let state = self.read();
        let stored = state.images.get(&image.id);
        stored
            .and_then(|stored| stored.annotations.clone())
            .unwrap_or_default()
    }
}
