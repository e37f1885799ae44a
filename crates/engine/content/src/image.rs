//! What callers see of an image.

use naru_base::{ContainerId, Digest, Timestamp};
use naru_oci::ImageConfig;
use std::path::PathBuf;
use std::sync::Arc;

/// An image in the store. A snapshot of its names: a later tag makes a new `Image`.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the configuration's bytes.
    pub id: Digest,
    pub config: Arc<ImageConfig>,
    /// The configuration verbatim.
    pub raw_config: Arc<[u8]>,
    /// Familiar form, sorted: `debian:latest`.
    pub tags: Vec<String>,
    /// Familiar form, sorted: `debian@sha256:…`.
    pub digests: Vec<String>,
    /// Digests of the uncompressed layer archives, bottom first.
    pub layers: Vec<Digest>,
    /// Chain ids of the layers (OCI "Layer ChainID"), bottom first.
    pub chain_ids: Vec<Digest>,
    /// Bytes of the files of every layer, as counted when they were unpacked.
    pub bytes: u64,
    /// What the configuration says; nothing new for an image built reproducibly, which has the time of its base.
    pub created: Option<Timestamp>,
    /// When it came into this store.
    pub arrived_at: Timestamp,
    /// A build made it here.
    pub is_built: bool,
}

impl Image {
    /// How old it is to whoever looks at a list: since its build if that was here, else what its configuration says.
    pub fn listed_at(&self) -> Option<Timestamp> {
        if self.is_built {
            Some(self.arrived_at)
        } else {
            self.created
        }
    }
}

/// One line of `docker history`, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The image's id on the newest line, `<missing>` on the others.
    pub id: String,
    pub created: Option<Timestamp>,
    pub created_by: String,
    /// The image's tags on the newest line.
    pub tags: Vec<String>,
    pub bytes: u64,
    pub comment: String,
}

/// A container that keeps an image from being removed.
#[derive(Debug, Clone)]
pub struct ImageUser {
    pub container: ContainerId,
    pub name: String,
    pub is_running: bool,
}

/// Tells which containers use an image.
pub type UsersOf<'a> = &'a dyn Fn(&Digest) -> Vec<ImageUser>;

/// One thing a removal did, in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A familiar reference that no longer names the image.
    Untagged(String),
    /// An image id or a layer's chain id whose files are gone.
    Deleted(Digest),
}

/// How far a load is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadProgress {
    /// A short stable name of the layer within this load, twelve digits as Docker shows them.
    pub layer: String,
    /// Bytes of the layer read so far, as they are in the archive.
    pub bytes: u64,
    pub bytes_total: u64,
}

/// An image that a load brought, or found already there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    pub id: Digest,
    /// Familiar names it now has from this load; empty when the archive gave none.
    pub names: Vec<String>,
}

/// What [`crate::ContentStore::open`] found and put right.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Leftovers of loads and removals that a crash interrupted; deleted.
    pub temporary_removed: usize,
    /// Whole layers no image or snapshot needs; deleted.
    pub layers_removed: usize,
    /// Layers without their description; deleted.
    pub layers_damaged: Vec<String>,
    /// Images that lost a layer or their configuration; forgotten, so that they can be loaded again.
    pub images_damaged: Vec<Digest>,
    /// Snapshots that a power loss left half made. Kept until removed; they cannot be started.
    pub snapshots_damaged: Vec<String>,
}

/// Space used, in bytes of file content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Every layer counted once.
    pub layers_bytes: u64,
    pub images: Vec<ImageUsage>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUsage {
    pub id: Digest,
    pub bytes: u64,
    /// Part of `bytes` in layers that other images have too.
    pub shared_bytes: u64,
}

/// Where a layer is, with everything kept of it, and how many images have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerPlace {
    pub path: PathBuf,
    pub images: usize,
}
