//! Snapshots: the writable directories of containers, over shared read-only layers.
//!
//! ```text
//! snapshots/<container id>/layers -> <chain id of the topmost layer>, or "none"
//! snapshots/<container id>/upper     what the container writes
//! snapshots/<container id>/work      overlay's own
//! snapshots/<container id>/mounted   images mounted beside it, where there are any (see `mounted`)
//! ```
//! The link is made first and deleted last, so a snapshot with an `upper` always knows its layers, whatever becomes
//! of its image. Nothing here is synced: a power loss may lose a container made within the last seconds.

use crate::error::ContentError;
use crate::image::Image;
use crate::layout::{Layout, close_to_others};
use crate::recovery::remove_any;
use crate::store::{ContentStore, State};
use naru_base::{ContainerId, Digest};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub(crate) const NO_LAYERS: &str = "none";

/// The directories an overlay is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Read-only layers, topmost first; the first is the init layer that every container shares.
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
}

/// Makes `init/diff`, the topmost read-only layer of every container: the files and directories that are mounted
/// upon, as Docker's init layer has them. It shadows whatever an image has there, symbolic links above all.
pub(crate) fn make_init_layer(layout: &Layout) -> Result<(), ContentError> {
    let path = layout.root.join("init");
    if path.join("diff").is_dir() {
        return Ok(());
    }
    let staging = layout.temporary();
    let make_all = || -> std::io::Result<()> {
        std::fs::create_dir(&staging)?;
        let diff = staging.join("diff");
        for directory in ["", "dev", "dev/pts", "dev/shm", "proc", "sys", "etc"] {
            std::fs::create_dir(diff.join(directory))?;
            std::fs::set_permissions(diff.join(directory), std::fs::Permissions::from_mode(0o755))?;
        }
        for file in [
            ".dockerenv",
            "dev/console",
            "etc/hosts",
            "etc/hostname",
            "etc/resolv.conf",
        ] {
            std::fs::write(diff.join(file), "")?;
            std::fs::set_permissions(diff.join(file), std::fs::Permissions::from_mode(0o755))?;
        }
        std::os::unix::fs::symlink("/proc/mounts", diff.join("etc/mtab"))?;
        std::fs::rename(&staging, &path)
    };
    make_all().map_err(|error| ContentError::io(&path, error))?;
    close_to_others(&path)
}

/// The topmost layer a snapshot was made on; the outer `None` when it cannot be told.
#[allow(clippy::option_option)] // unknown, known to be none, or known
pub(crate) fn read_top(snapshot: &Path) -> Option<Option<Digest>> {
    let target = std::fs::read_link(snapshot.join("layers")).ok()?;
    let target = target.to_str()?;
    if !snapshot.join("upper").is_dir() || !snapshot.join("work").is_dir() {
        return None;
    }
    if target == NO_LAYERS {
        Some(None)
    } else {
        format!("sha256:{target}").parse().ok().map(Some)
    }
}

impl ContentStore {
    /// Makes the writable directories of a container. Its layers stay until the snapshot is removed.
    pub fn create_snapshot(&self, container: &ContainerId, image: &Digest) -> Result<Snapshot, ContentError> {
        let top = {
            let mut state = self.write();
            if state.snapshots.contains_key(container) {
                return Err(ContentError::Conflict(format!(
                    "container {container} already has a snapshot"
                )));
            }
            let stored = state
                .images
                .get(image)
                .ok_or_else(|| ContentError::NoSuchImage(image.to_string()))?;
            let top = stored.chain_ids.last().cloned();
            state.snapshots.insert(container.clone(), top.clone());
            top
        };
        let path = self.layout.snapshot(container);
        if let Err(errno) = make_directories(&path, top.as_ref()) {
            // One that was there before this call, a damaged one, is not this call's to delete.
            if errno != Errno::EXIST {
                drop(remove_any(&path));
            }
            self.write().snapshots.remove(container);
            return Err(ContentError::io(&path, errno));
        }
        Ok(self.describe(&self.read(), &path, top.as_ref()))
    }

    /// The snapshot of a container, whether or not its image is still there.
    pub fn snapshot(&self, container: &ContainerId) -> Result<Snapshot, ContentError> {
        let state = self.read();
        let top = state
            .snapshots
            .get(container)
            .ok_or_else(|| ContentError::NoSuchSnapshot(container.clone()))?;
        Ok(self.describe(&state, &self.layout.snapshot(container), top.as_ref()))
    }

    /// The directories of an image's own layers, topmost first.
    pub fn image_layers(&self, image: &Image) -> Vec<PathBuf> {
        image
            .chain_ids
            .iter()
            .rev()
            .map(|chain| self.layout.diff(chain))
            .collect()
    }

    /// Containers that have a snapshot, or what is left of one.
    pub fn snapshots(&self) -> Vec<ContainerId> {
        let entries = std::fs::read_dir(self.layout.root.join("snapshots"));
        let names = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name());
        names.filter_map(|name| name.to_str()?.parse().ok()).collect()
    }

    /// Deletes what the container wrote, and layers that only it still needed. No snapshot, no error.
    pub fn remove_snapshot(&self, container: &ContainerId) -> Result<(), ContentError> {
        self.release_snapshot(container).map(EmptySnapshot::remove)
    }

    /// As [`ContentStore::remove_snapshot`], but where the container wrote nothing its directories may go later: they
    /// hold no data, and opening the store again would remove them too.
    pub fn release_snapshot(&self, container: &ContainerId) -> Result<EmptySnapshot, ContentError> {
        let path = self.layout.snapshot(container);
        let is_empty = rustix::fs::rmdir(path.join("upper")).is_ok();
        if !is_empty {
            let trash = self.layout.temporary();
            match std::fs::rename(&path, &trash) {
                Ok(()) => remove_any(&trash)?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(ContentError::io(&path, error)),
            }
        }
        let needs_collection = {
            let mut state = self.write();
            let top = state.snapshots.remove(container).flatten();
            let mounted = state.mounted.remove(container).unwrap_or_default();
            top.iter().chain(&mounted).any(|top| {
                !state
                    .images
                    .values()
                    .any(|image| image.chain_ids.last() == Some(top))
            })
        };
        if needs_collection {
            let _change = self.begin_change();
            self.collect_layers()?;
        }
        Ok(EmptySnapshot(is_empty.then_some(path)))
    }

    /// `(bytes written by the container, bytes of its whole root filesystem)` of each, as Docker counts; blocking.
    pub fn snapshot_sizes(&self, containers: &[ContainerId]) -> Vec<(u64, u64)> {
        let uppers: Vec<PathBuf> = containers.iter().map(|id| self.upper(id)).collect();
        let written = naru_sys::disk::measure_all(&uppers);
        let bytes = |(container, written): (&ContainerId, naru_sys::disk::TreeSize)| {
            (
                written.content_bytes,
                written.content_bytes + self.image_bytes_under(container),
            )
        };
        containers.iter().zip(written).map(bytes).collect()
    }

    /// Where a container's own files are, if it has a snapshot.
    pub fn upper(&self, container: &ContainerId) -> PathBuf {
        self.layout.snapshot(container).join("upper")
    }

    /// Bytes of the layers under a container's snapshot.
    pub fn image_bytes_under(&self, container: &ContainerId) -> u64 {
        let state = self.read();
        let top = state.snapshots.get(container).and_then(Option::as_ref);
        chain_of(&state, top)
            .filter_map(|chain| state.layers.get(chain))
            .map(|layer| layer.bytes)
            .sum()
    }

    /// The lower directories over a topmost layer, topmost first.
    pub(crate) fn lower(&self, state: &State, top: Option<&Digest>) -> Vec<PathBuf> {
        let init = self.layout.root.join("init/diff");
        std::iter::once(init)
            .chain(self.layers_below(state, top))
            .collect()
    }

    /// The directories of the layers from `top` downwards.
    pub(crate) fn layers_below(&self, state: &State, top: Option<&Digest>) -> Vec<PathBuf> {
        chain_of(state, top)
            .map(|chain| self.layout.diff(chain))
            .collect()
    }

    fn describe(&self, state: &State, path: &Path, top: Option<&Digest>) -> Snapshot {
        Snapshot {
            lower: self.lower(state, top),
            upper: path.join("upper"),
            work: path.join("work"),
        }
    }
}

/// The layers from `top` downwards.
fn chain_of<'a>(state: &'a State, top: Option<&'a Digest>) -> impl Iterator<Item = &'a Digest> {
    std::iter::successors(top, |chain| {
        state.layers.get(*chain).and_then(|layer| layer.parent.as_ref())
    })
}

fn make_directories(path: &Path, top: Option<&Digest>) -> Result<(), Errno> {
    rustix::fs::mkdir(path, Mode::from_raw_mode(0o700))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    rustix::fs::symlinkat(top.map_or(NO_LAYERS, Digest::hex), &directory, "layers")?;
    // The upper directory's mode and owner are those of the container's `/`.
    rustix::fs::mkdirat(&directory, "upper", Mode::from_raw_mode(0o755))?;
    rustix::fs::mkdirat(&directory, "work", Mode::from_raw_mode(0o700))
}

/// The directories of a snapshot in which nothing was written, where there are any left.
#[derive(Debug)]
#[must_use = "its directories stay until it is removed"]
pub struct EmptySnapshot(Option<PathBuf>);

impl EmptySnapshot {
    pub fn remove(self) {
        let Some(path) = self.0 else { return };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(directory) = rustix::fs::open(&path, flags, Mode::empty()) else {
            return;
        };
        let remove = |name: &str, flags| rustix::fs::unlinkat(&directory, name, flags);
        // A mount leaves an empty `work/work`.
        let _ = remove("work/work", AtFlags::REMOVEDIR);
        let _ = remove("work", AtFlags::REMOVEDIR);
        let _ = remove("layers", AtFlags::empty());
        // Images mounted beside it left directories, empty ones too.
        if rustix::fs::rmdir(&path) == Err(Errno::NOTEMPTY) {
            let _ = remove_any(&path);
        }
    }
}
