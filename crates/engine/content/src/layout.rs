//! Where things are in the store's directory, and its small files.

use crate::annotate::Annotations;
use crate::attest::AttestedRecord;
use crate::error::ContentError;
use crate::frame::Displacement;
use crate::stage::Compression;
use naru_base::{ContainerId, Digest, Timestamp};
use rustix::fs::{FlockOperation, IFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub(crate) const FORMAT: &str = "naru-content 1\n";
/// How long a store waits for a killed daemon's lock; the kernel frees it once the process is torn down.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// `layers/<chain id>/layer.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub chain_id: Digest,
    pub diff_id: Digest,
    pub parent: Option<Digest>,
    /// Content of plain files.
    pub bytes: u64,
    pub entries: u64,
    /// The blob it came in; compressed as it was, so not what the frame makes.
    pub blob: Digest,
    pub blob_bytes: u64,
    /// The compressed form at `blob` in the layer's directory, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<KeptBlob>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub displaced: Vec<Displacement>,
}

/// A layer's archive, compressed, as registries know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptBlob {
    pub digest: Digest,
    pub bytes: u64,
    pub compression: Compression,
}

/// `images.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct IndexRecord {
    pub images: BTreeMap<Digest, ImageRecord>,
    /// Canonical reference, with a tag or a digest, to image id.
    pub names: BTreeMap<String, Digest>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub arrived_at: Timestamp,
    /// The manifest it came with, a blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// What is known to be true of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attested: Option<AttestedRecord>,
    /// What its documents are annotated with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Annotations>,
    /// A build made it here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_built: bool,
    /// A build keeps it (see `step`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_step: bool,
    /// Nobody sees it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_hidden: bool,
    /// The boot it was made in, until it is synced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsynced: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Layout {
    pub root: PathBuf,
    /// Tells this store's temporary names from those of every other, see [`spread_children`].
    run: u64,
    next: AtomicU64,
    /// Held while the store is open; closing frees it.
    _lock: File,
}

/// Images and containers hold programs that run as root whoever starts them; nobody on the host may reach those
/// (CVE-2021-41091). A container reaches its files through mounts, whose paths it never walks.
pub(crate) fn close_to_others(path: &Path) -> Result<(), ContentError> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
        .map_err(|error| ContentError::io(path, error))
}

/// Tells ext4 that the trees below this directory have nothing to do with each other (`chattr +T`), so that each new
/// layer gets a block group of its own. Layers unpacked at once then do not wait for each other; and a layer that
/// comes just after another was removed does not land in its group, where an ext4 without a journal looks at every
/// inode deleted within the last 35 s before it takes one: a pull after a removal took four times as long. The group
/// is chosen by the child's name, which is why names in `temporary/` are never used twice, in no store.
fn spread_children(path: &Path) {
    let spread = || -> rustix::io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty())?;
        let attributes = rustix::fs::ioctl_getflags(&directory)?;
        if attributes.contains(IFlags::TOPDIR) {
            return Ok(());
        }
        rustix::fs::ioctl_setflags(&directory, attributes | IFlags::TOPDIR)
    };
    if let Err(error) = spread() {
        // Other filesystems place files by other rules.
        tracing::debug!(%error, "layers are not spread over block groups");
    }
}

impl Layout {
    /// Makes what is missing, checks the format and takes the lock.
    pub(crate) fn open(root: &Path) -> Result<Self, ContentError> {
        std::fs::create_dir_all(root).map_err(|e| ContentError::io(root, e))?;
        let root = root.canonicalize().map_err(|e| ContentError::io(root, e))?;
        let lock = take_lock(&root)?;
        check_format(&root)?;
        let layout = Self {
            root,
            run: RandomState::new().hash_one(()),
            next: AtomicU64::new(0),
            _lock: lock,
        };
        for name in ["blobs/sha256", "downloads", "layers", "snapshots", "temporary"] {
            let path = layout.root.join(name);
            std::fs::create_dir_all(&path).map_err(|e| ContentError::io(&path, e))?;
        }
        for name in ["blobs", "downloads", "layers", "snapshots", "temporary"] {
            close_to_others(&layout.root.join(name))?;
        }
        spread_children(&layout.root.join("temporary"));
        Ok(layout)
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn layer(&self, chain: &Digest) -> PathBuf {
        self.root.join("layers").join(chain.hex())
    }

    pub(crate) fn download(&self, digest: &Digest) -> PathBuf {
        self.root.join("downloads").join(digest.hex())
    }

    pub(crate) fn diff(&self, chain: &Digest) -> PathBuf {
        self.layer(chain).join("diff")
    }

    pub(crate) fn snapshot(&self, container: &ContainerId) -> PathBuf {
        self.root.join("snapshots").join(container.as_str())
    }

    /// A path in `temporary/` that nothing else uses while this store is open.
    pub(crate) fn temporary(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.root
            .join("temporary")
            .join(format!("{:016x}-{number}", self.run))
    }

    /// One sync of the whole filesystem, where an `fsync` for each file would cost a hundred times as much.
    pub(crate) fn sync_filesystem(&self) -> Result<(), ContentError> {
        let directory = File::open(&self.root).map_err(|e| ContentError::io(&self.root, e))?;
        rustix::fs::syncfs(&directory).map_err(|e| ContentError::io(&self.root, e))
    }

    pub(crate) fn sync_directory(&self, name: &str) -> Result<(), ContentError> {
        let path = self.root.join(name);
        File::open(&path)
            .and_then(|file| file.sync_all())
            .map_err(|e| ContentError::io(&path, e))
    }

    /// Replaces `images.json` so that a crash leaves the old one or the new one.
    pub(crate) fn write_index(&self, index: &IndexRecord) -> Result<(), ContentError> {
        self.replace_index(index, true)
    }

    /// As [`Layout::write_index`], but a power loss may bring the old one back.
    pub(crate) fn write_index_later(&self, index: &IndexRecord) -> Result<(), ContentError> {
        self.replace_index(index, false)
    }

    fn replace_index(&self, index: &IndexRecord, is_synced: bool) -> Result<(), ContentError> {
        let path = self.root.join("images.json");
        let bytes = serde_json::to_vec(index).map_err(|e| ContentError::io(&path, e))?;
        let new = self.temporary();
        let written = File::create(&new)
            .and_then(|mut file| file.write_all(&bytes).map(|()| file))
            .and_then(|file| if is_synced { file.sync_all() } else { Ok(()) })
            .and_then(|()| std::fs::rename(&new, &path));
        if let Err(error) = written {
            drop(std::fs::remove_file(&new));
            return Err(ContentError::io(&path, error));
        }
        if is_synced {
            self.sync_directory(".")
        } else {
            Ok(())
        }
    }

    pub(crate) fn read_index(&self) -> Result<IndexRecord, ContentError> {
        let path = self.root.join("images.json");
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| ContentError::io(&path, e)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(IndexRecord::default()),
            Err(error) => Err(ContentError::io(&path, error)),
        }
    }
}

fn take_lock(root: &Path) -> Result<File, ContentError> {
    let path = root.join("lock");
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    let lock =
        rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)).map_err(|e| ContentError::io(&path, e))?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock.into()),
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Err(_) => return Err(ContentError::InUse(root.to_owned())),
        }
    }
}

fn check_format(root: &Path) -> Result<(), ContentError> {
    let path = root.join("format");
    match std::fs::read_to_string(&path) {
        Ok(found) if found == FORMAT => Ok(()),
        // Empty: a crash between creating and writing it, before anything else was made.
        Ok(found) if !found.is_empty() => Err(ContentError::Format {
            path,
            found,
            expected: FORMAT.to_owned(),
        }),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(ContentError::io(&path, error)),
        _ => std::fs::write(&path, FORMAT).map_err(|e| ContentError::io(&path, e)),
    }
}
