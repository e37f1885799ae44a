//! What builds keep, entry by entry: results of steps, cache mounts, contexts, files that `ADD` fetched.
//!
//! ```text
//! <data-root>/builds/cache/<key>           a step's record, a line end after it for each use
//! <data-root>/builds/mounts/<id>.use       the same of a cache mount; of a context: contexts/<key>/use
//! ```
//! A use costs one write at the end of a small file, whose time of change is then the time of the last use.

use super::cache::CacheRecord;
use crate::Engine;
use crate::error::Result;
use naru_base::{Digest, Timestamp};
use naru_content::StepLayer;
use naru_sys::disk;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest record of a use: a line of a Dockerfile and a few million uses.
const RECORD_BYTES_MAX: u64 = 16 << 20;

/// What an entry is, in the words of BuildKit's record types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheKind {
    /// The layer a step made.
    Step,
    /// Contents of `RUN --mount=type=cache`.
    Mount,
    /// A context kept for the client's next build.
    Context,
    /// A file that `ADD` fetched.
    Fetched,
}

impl CacheKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Step | Self::Fetched => "regular",
            Self::Mount => "exec.cachemount",
            Self::Context => "source.local",
        }
    }
}

/// One thing that builds keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEntry {
    pub id: String,
    /// Entries that this one stands on.
    pub parents: Vec<String>,
    pub kind: CacheKind,
    pub description: String,
    /// A build needs it right now.
    pub is_in_use: bool,
    /// An image that users see has the same layer: removing the entry frees nothing.
    pub is_shared: bool,
    pub bytes: u64,
    pub made_at: Option<Timestamp>,
    pub used_at: Option<Timestamp>,
    pub uses: u64,
}

/// An entry, and where it is.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub entry: CacheEntry,
    pub place: Place,
}

#[derive(Debug, Clone)]
pub(super) enum Place {
    /// A step's record and its image.
    Record(PathBuf, Digest),
    /// A layer that steps stand on and no image has any more; it goes with them.
    Below,
    Directory(PathBuf),
}

/// What is written of a thing's use.
#[derive(Debug, Serialize, Deserialize)]
struct UseRecord {
    description: String,
    made_at: Timestamp,
}

/// Notes that something with a record of its use is used. A use that cannot be noted is none.
pub(super) fn note_use(path: &Path, description: impl FnOnce() -> String) {
    if add_use(path) {
        return;
    }
    let record = UseRecord {
        description: description(),
        made_at: Timestamp::now(),
    };
    if naru_store::write(path, &record).is_ok() {
        add_use(path);
    }
}

/// Adds a use to a record; false where there is none.
pub(super) fn add_use(path: &Path) -> bool {
    let file = std::fs::OpenOptions::new().append(true).open(path);
    file.and_then(|mut file| file.write_all(b"\n")).is_ok()
}

/// When a record was last used, and how often.
fn read_uses(path: &Path) -> (Option<Timestamp>, u64) {
    let used_at = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    let text = naru_sys::file::read_bounded(path, RECORD_BYTES_MAX).unwrap_or_default();
    let uses = text.iter().rev().take_while(|byte| **byte == b'\n').count();
    (used_at.ok().map(Timestamp::from), uses as u64)
}

fn made_at(path: &Path) -> Option<Timestamp> {
    let metadata = std::fs::metadata(path).ok()?;
    metadata
        .created()
        .or_else(|_| metadata.modified())
        .ok()
        .map(Timestamp::from)
}

fn names_in(directory: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<(String, PathBuf)> = entries
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect();
    names.sort();
    names
}

impl Engine {
    /// Everything that builds keep.
    pub async fn build_cache(self: &Arc<Self>) -> Result<Vec<CacheEntry>> {
        let engine = Arc::clone(self);
        let found = crate::archive::blocking(move || Ok(engine.find_cache())).await?;
        Ok(found.into_iter().map(|found| found.entry).collect())
    }

    pub(super) fn find_cache(&self) -> Vec<Found> {
        let mut all = self.find_steps();
        let root = self.builds_directory();
        let mut directories = Vec::new();
        for (name, path) in names_in(&root.join("mounts")) {
            if path.is_dir() {
                let is_in_use = self.builds.in_use.has_mount(&name);
                let uses = root.join("mounts").join(format!("{name}.use"));
                directories.push((CacheKind::Mount, name, path, uses, is_in_use));
            }
        }
        for (name, path) in names_in(&root.join("contexts")) {
            let (is_in_use, uses) = (self.is_context_held(&path), path.join("use"));
            directories.push((CacheKind::Context, name, path, uses, is_in_use));
        }
        for (name, path) in names_in(&root.join("fetched")) {
            let uses = path.join("use");
            directories.push((CacheKind::Fetched, name, path, uses, false));
        }
        let paths: Vec<&PathBuf> = directories.iter().map(|(_, _, path, ..)| path).collect();
        let sizes = disk::measure_all(&paths);
        for ((kind, id, path, uses, is_in_use), size) in directories.into_iter().zip(sizes) {
            let record: Option<UseRecord> = naru_store::read(&uses).ok();
            let (used_at, count) = read_uses(&uses);
            let began = made_at(&path);
            let entry = CacheEntry {
                id,
                parents: Vec::new(),
                kind,
                is_in_use,
                is_shared: false,
                bytes: size.content_bytes,
                made_at: record.as_ref().map(|record| record.made_at).or(began),
                used_at: used_at.or(began),
                uses: count,
                description: record.map(|record| record.description).unwrap_or_default(),
            };
            all.push(Found {
                entry,
                place: Place::Directory(path),
            });
        }
        all
    }

    /// Steps by their records. The bytes of a layer are those of the entry that is the first to have it on top.
    fn find_steps(&self) -> Vec<Found> {
        let layers = self.content.step_layers();
        let mut found = Vec::new();
        let mut owners: HashMap<Digest, String> = HashMap::new();
        let mut records = Vec::new();
        for (id, path) in names_in(&self.builds_directory().join("cache")) {
            let Ok(record) = naru_store::read::<CacheRecord>(&path) else {
                continue;
            };
            if let Ok(image) = self.content.image(record.image.as_str()) {
                records.push((record, id, path, image.chain_ids.last().cloned()));
            }
        }
        records.sort_by_key(|(record, ..)| record.made_at);
        for (record, id, path, top) in records {
            let (used_at, uses) = read_uses(&path);
            let layer = top.as_ref().and_then(|chain| layers.get(chain));
            let is_first = top.is_some_and(|chain| *owners.entry(chain).or_insert(id.clone()) == id);
            found.push((
                CacheEntry {
                    id,
                    parents: Vec::new(),
                    kind: CacheKind::Step,
                    description: record.description,
                    is_in_use: self.builds.in_use.has_image(&record.image),
                    is_shared: layer.is_some_and(|layer| layer.is_shared),
                    bytes: layer.filter(|_| is_first).map_or(0, |layer| layer.bytes),
                    made_at: Some(record.made_at),
                    used_at,
                    uses,
                },
                Place::Record(path, record.image),
            ));
        }
        add_layers_below(&layers, &mut owners, &mut found);
        let chain_of: HashMap<String, Digest> = owners
            .iter()
            .map(|(chain, id)| (id.clone(), chain.clone()))
            .collect();
        let with_parent = |(mut entry, place): (CacheEntry, Place)| {
            let parent = chain_of
                .get(&entry.id)
                .and_then(|chain| layers.get(chain)?.parent.as_ref());
            entry.parents = parent
                .and_then(|chain| owners.get(chain))
                .cloned()
                .into_iter()
                .collect();
            Found { entry, place }
        };
        found.into_iter().map(with_parent).collect()
    }
}

/// Layers that only steps hold and that none of them made: those of a base image that was removed.
fn add_layers_below(
    layers: &HashMap<Digest, StepLayer>,
    owners: &mut HashMap<Digest, String>,
    found: &mut Vec<(CacheEntry, Place)>,
) {
    for (chain, layer) in layers {
        if layer.is_shared || owners.contains_key(chain) {
            continue;
        }
        let id = chain.hex().to_owned();
        owners.insert(chain.clone(), id.clone());
        let entry = CacheEntry {
            id,
            parents: Vec::new(),
            kind: CacheKind::Step,
            description: "layer of an image that is no longer here".to_owned(),
            is_in_use: false,
            is_shared: false,
            bytes: layer.bytes,
            made_at: None,
            used_at: None,
            uses: 0,
        };
        found.push((entry, Place::Below));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_counted_behind_the_record() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record");
        assert_eq!(read_uses(&path), (None, 0));
        for _ in 0..3 {
            note_use(&path, || "what".to_owned());
        }
        let (used_at, uses) = read_uses(&path);
        assert!(used_at.is_some());
        assert_eq!(uses, 3);
        let record: UseRecord = naru_store::read(&path).unwrap();
        assert_eq!(record.description, "what");
    }
}
