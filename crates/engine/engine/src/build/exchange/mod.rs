//! A build's cache for other engines: sent to a registry, handed out as an OCI layout, kept with the client or carried by
//! the image itself, and taken from there.
//!
//! ```text
//!  manifest (OCI)  ─▶ configuration: application/vnd.buildkit.cacheconfig.v0 (see `document`)
//!                  ─▶ layers: those of steps; contents of cache mounts, where they were asked for (see `contents`)
//! ```
//! The format is BuildKit's, so that it lives wherever that does; the keys are Naru's own. A layer is fetched when a step
//! asks for it by its key, and taken only where it stands on the step's own layers and has the digests that the
//! configuration says. Whoever can write a cache decides what its steps made, as with a base image: use those you trust.
//! History alone, as other builders' images have it, is never taken for a cache: it does not say what was copied.

mod contents;
mod document;
mod send;
mod take;

pub(super) use take::Imported;

use crate::error::Result;
use naru_base::Digest;
use naru_content::Image;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Builds whose steps are remembered for whoever fetches their cache.
const RECENT_MAX: usize = 64;

/// Where a cache comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheSource {
    /// The name of an image that is here, else of an image or a cache in a registry.
    Named(String),
    /// An image that is here; no registry is asked.
    Image(String),
    /// An OCI layout in the context's archive.
    Archived(String),
    /// A store of the client's, by the digest of the cache's manifest.
    Client { store: String, manifest: Digest },
}

/// Where a build's cache goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheTarget {
    pub place: CachePlace,
    /// Every stage's steps, not only those that the result stands on.
    pub has_all: bool,
    /// The contents of cache mounts too.
    pub has_mounts: bool,
    /// A cache that cannot be sent does not fail the build.
    pub ignores_errors: bool,
}

/// What keeps a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachePlace {
    /// A name in a registry.
    Registry(String),
    /// A store of the client's.
    Client(String),
}

impl CachePlace {
    fn name(&self) -> &str {
        match self {
            Self::Registry(name) | Self::Client(name) => name,
        }
    }
}

/// The steps that a build found or made, by their keys.
#[derive(Debug, Clone, Default)]
pub(super) struct Steps {
    made: BTreeMap<Digest, Arc<Image>>,
    /// Directories of the cache mounts that steps have.
    mounts: BTreeSet<String>,
}

/// Steps of recent builds, by the ids of the images they made.
#[derive(Debug, Default)]
pub(super) struct Recent(VecDeque<(Digest, Steps)>);

impl Recent {
    fn add(&mut self, image: Digest, steps: Steps) {
        self.0.retain(|(known, _)| *known != image);
        self.0.push_back((image, steps));
        while self.0.len() > RECENT_MAX {
            self.0.pop_front();
        }
    }

    fn find(&self, image: &Digest) -> Option<Steps> {
        self.0
            .iter()
            .find(|(known, _)| known == image)
            .map(|(_, steps)| steps.clone())
    }
}

impl Steps {
    pub(super) fn note(&mut self, key: &Digest, image: &Arc<Image>) {
        // Without layers there is nothing to keep.
        if !image.layers.is_empty() {
            self.made.insert(key.clone(), Arc::clone(image));
        }
    }

    pub(super) fn note_mount(&mut self, name: String) {
        self.mounts.insert(name);
    }

    /// Those whose layers `chain` begins with.
    fn on(&self, chain: &[Digest]) -> Self {
        let made = self.made.iter();
        let made = made.filter(|(_, image)| chain.starts_with(&image.chain_ids));
        Self {
            made: made
                .map(|(key, image)| (key.clone(), Arc::clone(image)))
                .collect(),
            mounts: self.mounts.clone(),
        }
    }

    /// What a cache holds of them that was asked for so.
    fn chosen(&self, image: &Image, has_all: bool, has_mounts: bool) -> Self {
        let mut chosen = if has_all {
            self.clone()
        } else {
            self.on(&image.chain_ids)
        };
        if !has_mounts {
            chosen.mounts.clear();
        }
        chosen
    }

    /// Images that no other one stands on.
    fn tips(&self) -> Vec<Arc<Image>> {
        let mut tips: Vec<Arc<Image>> = Vec::new();
        for image in self.made.values() {
            let is_below = |other: &Arc<Image>| other.chain_ids.starts_with(&image.chain_ids);
            if !tips.iter().any(is_below) {
                tips.retain(|other| !image.chain_ids.starts_with(&other.chain_ids));
                tips.push(Arc::clone(image));
            }
        }
        tips
    }

    /// The cache that an image of these layers is to carry.
    pub(super) fn inline(&self, image: Option<&Image>) -> Result<String> {
        document::inline_text(self, image.map_or(&[], |image| &image.chain_ids))
    }
}
