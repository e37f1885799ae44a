//! The file that contents of a context's files are added to. It knows of no names and never takes anything away.

use crate::error::{EngineError, Result};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// No file is longer, nor is a pack: ext4's own bound for one (16 TiB), some distance from where numbers end.
pub(super) const BYTES_MAX: u64 = 1 << 44;

#[derive(Debug)]
pub(super) struct Pack {
    file: Arc<File>,
    /// A later pack of a context has a higher one.
    pub(super) number: u64,
    end: AtomicU64,
}

fn path_of(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("pack-{number}"))
}

impl Pack {
    pub(super) fn create(directory: &Path, number: u64) -> Result<Self> {
        let path = path_of(directory, number);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600));
        let made =
            made.map_err(|errno| EngineError::system(format!("create {}: {errno}", path.display())))?;
        Ok(Self {
            file: Arc::new(made.into()),
            number,
            end: AtomicU64::new(0),
        })
    }

    /// One of a daemon before this one. What it added last may be in no index; it is added behind that.
    pub(super) fn open(directory: &Path, number: u64) -> std::io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(
            path_of(directory, number),
            flags,
            Mode::empty(),
        )?);
        let end = AtomicU64::new(file.metadata()?.len());
        let file = Arc::new(file);
        Ok(Self { file, number, end })
    }

    pub(super) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Takes a place for so many bytes; nobody else gets it. `None` where there is no room for them.
    pub(super) fn allocate(&self, bytes: u64) -> Option<u64> {
        let next = |end: u64| end.checked_add(bytes).filter(|end| *end <= BYTES_MAX);
        self.end
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .ok()
    }

    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    /// The file goes when nobody has it open any more.
    pub(super) fn remove(&self, directory: &Path) {
        let _ = std::fs::remove_file(path_of(directory, self.number));
    }
}

/// Removes the packs before this one, and with `others` those after it too.
pub(super) fn remove_others(directory: &Path, number: u64, others: bool) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let found = name.to_str().and_then(|name| name.strip_prefix("pack-"));
        let found: Option<u64> = found.and_then(|number| number.parse().ok());
        if found.is_some_and(|found| found < number || others && found != number) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
