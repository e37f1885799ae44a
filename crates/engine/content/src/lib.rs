//! Images as content: blobs, layers, snapshots.

mod error;
mod image;

pub use error::{ContentError, LayerError};
pub use image::{
    DiskUsage, HistoryEntry, Image, ImageUsage, ImageUser, LoadProgress, LoadedImage, OpenReport, Removed, UsersOf,
};
use naru_base::{ContainerId, Digest};
use naru_oci::ImageConfig;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The directories an overlay is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Read-only layers, topmost first; the first is the shared init layer.
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
}

pub struct ContentStore {}
#[allow(unused_variables)]
impl ContentStore {
    pub fn open(root: &Path) -> Result<Self, ContentError> { unimplemented!() }
    /// What `open` found and put right.
    pub fn open_report(&self) -> &OpenReport { unimplemented!() }
    pub fn load(&self, archive: impl Read, progress: &mut dyn FnMut(LoadProgress)) -> Result<Vec<LoadedImage>, ContentError> { unimplemented!() }
    /// Layers bottom first, as plain or compressed tar archives; `config.rootfs` is filled in here.
    pub fn import_image(&self, names: &[&str], config: ImageConfig, layers: Vec<Box<dyn Read + Send + '_>>) -> Result<LoadedImage, ContentError> { unimplemented!() }
    pub fn image(&self, reference: &str) -> Result<Arc<Image>, ContentError> { unimplemented!() }
    /// Newest first.
    pub fn images(&self) -> Vec<Arc<Image>> { unimplemented!() }
    pub fn history(&self, image: &Image) -> Vec<HistoryEntry> { unimplemented!() }
    pub fn tag(&self, source: &str, target: &str) -> Result<(), ContentError> { unimplemented!() }
    pub fn remove(&self, reference: &str, force: bool, no_prune: bool, users: UsersOf<'_>) -> Result<Vec<Removed>, ContentError> { unimplemented!() }
    pub fn prune(&self, dangling_only: bool, users: UsersOf<'_>) -> Result<(Vec<Removed>, u64), ContentError> { unimplemented!() }
    pub fn create_snapshot(&self, container: &ContainerId, image: &Digest) -> Result<Snapshot, ContentError> { unimplemented!() }
    pub fn snapshot(&self, container: &ContainerId) -> Result<Snapshot, ContentError> { unimplemented!() }
    pub fn snapshots(&self) -> Vec<ContainerId> { unimplemented!() }
    /// Removing one that is not there is no error.
    pub fn remove_snapshot(&self, container: &ContainerId) -> Result<(), ContentError> { unimplemented!() }
    /// `(bytes written by the container, bytes of its whole root filesystem)`.
    pub fn snapshot_sizes(&self, container: &ContainerId) -> Result<(u64, u64), ContentError> { unimplemented!() }
    /// Copies the image's files at `path` into `destination` if that is an empty directory; tells whether it did.
    pub fn copy_up(&self, image: &Digest, path: &str, destination: &Path) -> Result<bool, ContentError> { unimplemented!() }
    pub fn disk_usage(&self) -> DiskUsage { unimplemented!() }
}
