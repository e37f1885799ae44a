//! Contexts kept between builds: a client that describes its files first sends only those that have changed.
//!
//! ```text
//! <data-root>/builds/contexts/<key>/pack-<n>   contents of files behind each other; what is there never changes
//! <data-root>/builds/contexts/<key>/index      the last context, entry by entry, and where in the pack its files are
//! <data-root>/builds/contexts/<key>/use          when and how often it was used (see `account`)
//! ```
//! The key is the client's word for one of its directories. A build has one [`Version`] of a context, which nobody changes
//! any more: a build beside it adds to the same pack and makes a version of its own. The last one is in memory, with all
//! that was found out about it; the index is written after the build has gone on, for a daemon that comes later, and
//! replaced whole. Nothing is synced: an index of another boot of the machine is no index, nor is a damaged one, and packs
//! without one are thrown away. What was not used for longest goes first when there is too much.

mod index;
mod listed;
mod pack;
mod place;
mod update;

pub use listed::ListedUpdate;
pub(super) use place::Contexts;
pub use update::Update;

use super::account::note_use;
use super::packed::PackedTree;
use crate::Engine;
use crate::error::Result;
use naru_base::Digest;
use naru_build::listing::ContextEntry;
use naru_sys::file;
use pack::Pack;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

/// Contexts kept at rest. Each is a directory somebody builds from; more than this many on one machine is a fleet of
/// throw-away ones.
const KEPT_MAX: usize = 64;

/// Bytes kept at rest, as the packs take them on the disk.
const KEPT_BYTES_MAX: u64 = 8 << 30;

/// Entries kept in memory at rest, each some 500 bytes; those of other contexts are read from their index.
const ENTRIES_IN_MEMORY_MAX: usize = 50_000;

/// Where a plain file's bytes are, and what came with them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Content {
    at: u64,
    /// SHA-256.
    hash: [u8; 32],
    capability: Vec<u8>,
}

/// An entry whose file is here.
#[derive(Debug, Clone)]
struct Held {
    entry: ContextEntry,
    /// Of plain files.
    content: Option<Content>,
}

/// A context as it was at one moment.
#[derive(Debug)]
struct Version {
    /// The client's description as a whole; none where it cannot stand for the files.
    state: Option<Digest>,
    /// In the order of their paths, directory by directory.
    entries: Vec<Held>,
    pack: Arc<Pack>,
    tree: OnceLock<Arc<PackedTree>>,
}

impl Version {
    fn tree(&self) -> Arc<PackedTree> {
        let make = || {
            let entries = self.entries.iter().map(|held| {
                let content = held.content.as_ref();
                let placed = content.map(|content| (content.at, Digest::from_sha256(content.hash)));
                let capability = content.map_or(&held.entry.capability, |content| &content.capability);
                (&held.entry, placed, &capability[..])
            });
            Arc::new(PackedTree::of_entries(entries, self.pack.file()))
        };
        Arc::clone(self.tree.get_or_init(make))
    }
}

/// The files of a context, complete, for one build.
#[derive(Debug, Clone)]
pub struct KeptContext(Arc<Version>);

impl KeptContext {
    /// Puts its entries in order, if nobody has yet.
    pub(super) fn tree(&self) -> Arc<PackedTree> {
        self.0.tree()
    }
}

/// The order of a walk, directory by directory, each by its names' bytes.
fn path_order(one: &str, other: &str) -> std::cmp::Ordering {
    one.split('/').cmp(other.split('/'))
}

/// What users see of a context: the client's directory, which is the last line of the key.
fn description_of(key: &str) -> String {
    format!("local source for {}", key.rsplit('\n').next().unwrap_or_default())
}

impl Engine {
    fn contexts_directory(&self) -> PathBuf {
        self.builds_directory().join("contexts")
    }

    /// Begins to bring a context up to date. `key` tells clients' directories apart; anything will do.
    pub fn update_kept_context(&self, key: &str) -> Result<Update> {
        let place = self.builds.contexts.place(&self.contexts_directory(), key);
        let uses = place.directory.join("use");
        let update = place.begin()?;
        note_use(&uses, || description_of(key));
        Ok(update)
    }

    /// The context of this key, if what its client describes by this digest is what is kept.
    pub fn find_kept_context(&self, key: &str, state: &Digest) -> Option<KeptContext> {
        let place = self.builds.contexts.place(&self.contexts_directory(), key);
        let latest = place.latest()?;
        if latest.state.as_ref() != Some(state) {
            return None;
        }
        note_use(&place.directory.join("use"), || description_of(key));
        Some(KeptContext(latest))
    }

    /// Whether a build brings the context of this directory up to date.
    pub(super) fn is_context_held(&self, directory: &Path) -> bool {
        self.builds.contexts.is_held(directory)
    }

    /// Removes a context that no build brings up to date; whether it did.
    pub(super) fn remove_context(&self, directory: &Path) -> bool {
        self.builds.contexts.clear(directory, file::remove_tree)
    }

    /// Writes down what has changed, and lets go of what is too much to keep at rest.
    pub fn settle_kept_contexts(&self) {
        self.builds.contexts.save();
        self.bound_kept_contexts(KEPT_MAX, KEPT_BYTES_MAX);
        self.builds.contexts.forget(ENTRIES_IN_MEMORY_MAX);
    }

    /// Deletes what is kept beyond the bounds, longest unused first; what a build brings up to date stays. Returns the bytes
    /// that are free when no build has them any more.
    pub(super) fn bound_kept_contexts(&self, count_max: usize, bytes_max: u64) -> u64 {
        let mut all: Vec<(SystemTime, PathBuf)> = std::fs::read_dir(self.contexts_directory())
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| {
                let used = std::fs::metadata(entry.path().join("use")).and_then(|uses| uses.modified());
                (used.unwrap_or(SystemTime::UNIX_EPOCH), entry.path())
            })
            .collect();
        all.sort_by(|one, other| other.cmp(one));
        let (mut count, mut bytes, mut freed) = (0, 0, 0);
        for (_, directory) in all {
            let size = naru_sys::disk::measure(&directory).disk_bytes;
            let is_over = count >= count_max || bytes + size > bytes_max;
            if is_over && self.remove_context(&directory) {
                freed += size;
            } else {
                count += 1;
                bytes += size;
            }
        }
        freed
    }
}

#[cfg(test)]
mod tests;
