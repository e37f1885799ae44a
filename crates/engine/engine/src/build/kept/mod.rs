//! Contexts kept between builds: a client that describes its files first sends only those that have changed.
//!
//! ```text
//! <data-root>/builds/contexts/<key>/files/   what the client's directory held at its last build
//! <data-root>/builds/contexts/<key>/index    its names, kinds, times and digests; not there while files are changed
//! <data-root>/builds/contexts/<key>/use      when and how often it was used (see `account`)
//! ```
//! The key is the client's word for one of its directories. A context belongs to one build at a time; a second build of
//! the same one gets an empty directory of its own. Nothing is synced: an index of another boot of the machine is no
//! index, and files without one are thrown away. What was not used for longest goes first when there is too much.

mod update;

pub use update::Update;

use super::account::note_use;
use crate::Engine;
use crate::archive::place::open_plain;
use crate::archive::tape::Tape;
use crate::archive::walk::{Form, Walk};
use crate::archive::{Chunks, stream};
use crate::error::{EngineError, Result};
use naru_base::Digest;
use naru_sys::file;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Largest index read: a million files with long names.
const INDEX_BYTES_MAX: u64 = 512 << 20;

/// Contexts kept at rest. Each is a directory somebody builds from; more than this many on one machine is a fleet of
/// throw-away ones.
const KEPT_MAX: usize = 64;

/// Bytes kept at rest, as their files' lengths tell.
const KEPT_BYTES_MAX: u64 = 8 << 30;

/// What an entry of a context is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeptKind {
    Directory,
    File {
        bytes: u64,
    },
    /// The same file as an earlier entry's.
    HardLink(String),
    Symlink(String),
    Fifo,
}

/// A context's entry, as its client describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptEntry {
    /// Below the context, without a leading slash.
    pub path: String,
    pub kind: KeptKind,
    /// Permissions alone.
    pub mode: u32,
    /// Nanoseconds since 1970.
    pub modified_ns: i64,
    /// `security.capability`, as the kernel writes it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capability: Vec<u8>,
}

/// An entry whose file is here.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Held {
    #[serde(flatten)]
    entry: KeptEntry,
    /// Of a file's content, in hexadecimal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    content: String,
}

#[derive(Serialize, Deserialize)]
struct Index {
    format: u32,
    /// The boot of the machine in which it was written.
    boot: String,
    entries: Vec<Held>,
}

/// The version of an index; another one's files are asked for again.
const INDEX_FORMAT: u32 = 1;

/// A context's directory, held by one build; given back when it is dropped.
#[derive(Debug)]
struct Place {
    directory: PathBuf,
    /// It has no key to be found by again.
    is_temporary: bool,
}

/// The directories that builds hold. The lock on the data root keeps other daemons away.
static HELD: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn held() -> std::sync::MutexGuard<'static, BTreeSet<PathBuf>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a build holds a context.
pub(super) fn is_held(directory: &Path) -> bool {
    held().contains(directory)
}

/// Removes a context that no build holds; whether it did.
pub(super) fn remove_unless_held(directory: &Path) -> bool {
    if !held().insert(directory.to_owned()) {
        return false;
    }
    let removed = file::remove_tree(directory).is_ok();
    held().remove(directory);
    removed
}

impl Place {
    fn take(builds: &Path, key: &str) -> Self {
        static ORDINAL: AtomicU64 = AtomicU64::new(0);
        let directory = builds.join("contexts").join(key);
        if held().insert(directory.clone()) {
            return Self {
                directory,
                is_temporary: false,
            };
        }
        let ordinal = ORDINAL.fetch_add(1, Ordering::Relaxed);
        Self {
            directory: builds.join("running").join(format!("context-{ordinal}")),
            is_temporary: true,
        }
    }

    fn files(&self) -> PathBuf {
        self.directory.join("files")
    }

    fn index(&self) -> PathBuf {
        self.directory.join("index")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_temporary {
            let _ = file::remove_tree(&self.directory);
        } else {
            held().remove(&self.directory);
        }
    }
}

/// The files of a context, complete, for one build.
#[derive(Debug, Clone)]
pub struct KeptContext {
    place: Arc<Place>,
    /// In the order of their paths, directory by directory.
    entries: Arc<Vec<Held>>,
}

impl KeptContext {
    pub(super) fn root(&self) -> PathBuf {
        self.place.files()
    }

    /// The entries by their numbers, with the digests of plain files.
    pub(super) fn entries(&self) -> impl Iterator<Item = (u64, &KeptEntry, Option<Digest>)> {
        self.entries.iter().enumerate().map(|(number, held)| {
            let digest = format!("sha256:{}", held.content).parse().ok();
            (number as u64, &held.entry, digest)
        })
    }

    /// Opens the plain file of an entry.
    pub(super) fn open(&self, number: u64) -> io::Result<File> {
        let held = usize::try_from(number)
            .ok()
            .and_then(|number| self.entries.get(number));
        let held = held.ok_or(io::ErrorKind::NotFound)?;
        let root = rustix::fs::open(self.root(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        Ok(open_plain(&root, Path::new(&held.entry.path), flags)?.into())
    }

    /// All of it as an archive; it is held until that is written.
    pub fn archive(&self) -> Chunks {
        let kept = self.clone();
        stream(move |output| {
            let root = rustix::fs::open(kept.root(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
            let mut tape = Tape::new(output);
            Walk::new(&mut tape, Form::Plain).write_directory(&root, b"", None)?;
            tape.finish()
        })
    }
}

/// The order of a walk, directory by directory, each by its names' bytes.
fn path_order(one: &str, other: &str) -> std::cmp::Ordering {
    one.split('/').cmp(other.split('/'))
}

impl Engine {
    /// Begins to bring a context up to date. `key` tells clients' directories apart; anything will do.
    pub fn update_kept_context(&self, key: &str) -> Result<Update> {
        let name = super::cache::key_of(&("context", key));
        let place = Place::take(&self.builds_directory(), name.hex());
        let entries = read_index(&place.index());
        if entries.is_none() {
            file::remove_tree(&place.directory)?;
            file::make_directories(&place.files(), 0o700)?;
        }
        if !place.is_temporary {
            let named = key.rsplit('\n').next().unwrap_or_default();
            note_use(&place.directory.join("use"), || {
                format!("local source for {named}")
            });
        }
        Update::begin(place, entries.unwrap_or_default())
    }

    /// Deletes what is kept beyond the bounds, longest unused first; what a build holds stays.
    pub(super) fn bound_kept_contexts(&self, count_max: usize, bytes_max: u64) -> u64 {
        let root = self.builds_directory().join("contexts");
        let mut all: Vec<(SystemTime, PathBuf)> = std::fs::read_dir(&root)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| {
                let used = std::fs::metadata(entry.path().join("index")).and_then(|index| index.modified());
                (used.unwrap_or(SystemTime::UNIX_EPOCH), entry.path())
            })
            .collect();
        all.sort_by(|one, other| other.cmp(one));
        let (mut count, mut bytes, mut freed) = (0, 0, 0);
        for (_, directory) in all {
            let size = naru_sys::disk::measure(&directory).disk_bytes;
            let is_over = count >= count_max || bytes + size > bytes_max;
            if is_over && held().insert(directory.clone()) {
                let removed = file::remove_tree(&directory);
                held().remove(&directory);
                freed += if removed.is_ok() { size } else { 0 };
            } else {
                count += 1;
                bytes += size;
            }
        }
        freed
    }

    /// As [`Engine::bound_kept_contexts`], for contexts at rest.
    pub fn trim_kept_contexts(&self) {
        self.bound_kept_contexts(KEPT_MAX, KEPT_BYTES_MAX);
    }
}

/// `None` where there is none to trust.
fn read_index(path: &Path) -> Option<Vec<Held>> {
    let text = file::read_bounded(path, INDEX_BYTES_MAX).ok()?;
    let index: Index = serde_json::from_slice(&text).ok()?;
    (index.format == INDEX_FORMAT && index.boot == boot_id()).then_some(index.entries)
}

fn write_index(path: &Path, entries: Vec<Held>) -> Result<Vec<Held>> {
    let index = Index {
        format: INDEX_FORMAT,
        boot: boot_id(),
        entries,
    };
    let text = serde_json::to_vec(&index)
        .map_err(|error| EngineError::system(format!("cannot write the index of a context: {error}")))?;
    file::replace(path, &text)?;
    Ok(index.entries)
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
