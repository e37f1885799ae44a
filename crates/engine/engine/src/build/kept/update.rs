//! Bringing a kept context up to date, entry by entry, with the client's description as the truth.
//!
//! ```text
//!  offer(entry) … offer(entry)   in the order of their paths; answers whether the file's content is wanted
//!  receive(number, bytes) …      contents, several at a time; no bytes end one
//!  finish()                      all there: a new version
//! ```
//! A description is hostile until it is checked: names that leave, come twice or in disorder, stand in no directory or
//! behind a link, files of another length than told are refused. No name of it is ever one of the host's.

use super::pack::Pack;
use super::place::Updating;
use super::{Content, Held, KeptContext, Version, path_order};
use crate::error::{EngineError, Result};
use naru_base::Digest;
use naru_build::listing::{ContextEntry, EntryKind};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

/// More than any source tree has; each takes some hundred bytes of memory.
pub(super) const ENTRIES_MAX: usize = 1 << 20;

/// The kernel's `PATH_MAX`.
const PATH_BYTES_MAX: usize = 4096;

/// Files that a client sends at the same time; Docker's sends four.
const RECEIVING_MAX: usize = 64;

/// Bytes gathered before they are written: small files come by the thousand.
const GATHERED_BYTES: usize = 256 << 10;

/// A pack may have this much that no version needs beyond what the last one does; then what is needed moves to a new one.
const WASTE_BYTES: u64 = 16 << 20;

/// A file on its way.
#[derive(Debug)]
struct Receiving {
    at: u64,
    hash: Sha256,
    bytes: u64,
    told: u64,
}

/// A context while it is brought up to date.
#[derive(Debug)]
pub struct Update {
    place: Updating,
    before: Option<Arc<Version>>,
    /// The first entry of the version before that has not been met yet.
    met: usize,
    pack: Arc<Pack>,
    new: Vec<Held>,
    offered: u32,
    /// Directories that the next entry may be in, the innermost last.
    directories: Vec<String>,
    /// The entry that a number stands for, while its content is wanted.
    wanted: HashMap<u32, usize>,
    receiving: HashMap<u32, Receiving>,
    capabilities: HashMap<u32, Vec<u8>>,
    gathered: Vec<u8>,
    gathered_at: u64,
    /// Whether a build can tell this context from the one before.
    is_changed: bool,
}

impl Update {
    pub(super) fn begin(place: Updating, before: Option<Arc<Version>>) -> Result<Self> {
        let pack = match &before {
            Some(before) => Arc::clone(&before.pack),
            None => place.new_pack()?,
        };
        Ok(Self {
            new: Vec::with_capacity(before.as_ref().map_or(0, |before| before.entries.len())),
            is_changed: before.is_none(),
            place,
            before,
            met: 0,
            pack,
            offered: 0,
            directories: Vec::new(),
            wanted: HashMap::new(),
            receiving: HashMap::new(),
            capabilities: HashMap::new(),
            gathered: Vec::new(),
            gathered_at: 0,
        })
    }

    /// Takes the next entry; the number of the file if its content is wanted. Entries count from 0, whatever they are.
    pub fn offer(&mut self, entry: ContextEntry) -> Result<Option<u32>> {
        self.check(&entry)?;
        let number = self.offered;
        self.offered += 1;
        if entry.kind == EntryKind::Directory {
            self.directories.push(entry.path.clone());
        }
        let before = self.take_before(&entry.path);
        let is_file = matches!(entry.kind, EntryKind::File { .. });
        let is_same = before
            .as_ref()
            .is_some_and(|before| before.entry == entry && !entry.is_recent);
        self.is_changed |= !before
            .as_ref()
            .is_some_and(|before| looks_alike(&before.entry, &entry));
        let content = before.filter(|_| is_same).and_then(|before| before.content);
        let is_wanted = is_file && content.is_none();
        self.new.push(Held { entry, content });
        if is_wanted {
            self.wanted.insert(number, self.new.len() - 1);
        }
        Ok(is_wanted.then_some(number))
    }

    /// Counts an entry that no build can use.
    pub fn skip(&mut self) {
        self.offered += 1;
    }

    /// The attribute `security.capability` of a file whose content is wanted, where the entry did not tell it.
    pub fn set_capability(&mut self, number: u32, capability: Vec<u8>) {
        if self.wanted.contains_key(&number) && !capability.is_empty() {
            self.capabilities.insert(number, capability);
        }
    }

    /// Takes a piece of a file's content; an empty one ends it.
    pub fn receive(&mut self, number: u32, bytes: &[u8]) -> Result<()> {
        let index = *self
            .wanted
            .get(&number)
            .ok_or_else(|| EngineError::invalid("the client sent a file that nobody asked for"))?;
        if !self.receiving.contains_key(&number) {
            let begun = self.begin_file(index)?;
            self.receiving.insert(number, begun);
        }
        let wrong_length = |entry: &ContextEntry| {
            EngineError::invalid(format!(
                "{} changed while it was sent: it has another length than was told",
                entry.path
            ))
        };
        let Some(receiving) = self.receiving.get_mut(&number) else {
            return Err(wrong_length(&self.new[index].entry));
        };
        let at = receiving.at + receiving.bytes;
        receiving.bytes += bytes.len() as u64;
        let is_end = bytes.is_empty();
        if receiving.bytes > receiving.told || is_end && receiving.bytes < receiving.told {
            return Err(wrong_length(&self.new[index].entry));
        }
        receiving.hash.update(bytes);
        if is_end {
            self.complete(number, index);
            return Ok(());
        }
        self.write(at, bytes).map_err(|error| cannot_keep(&error))
    }

    /// No entry comes any more; what the client has no longer goes.
    pub fn end_of_entries(&mut self) {
        let entries = self.before.as_ref().map_or(0, |before| before.entries.len());
        self.is_changed |= self.met < entries;
    }

    /// Whether content is still on its way.
    pub fn is_waiting(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Whether the description may stand for the files: no file of it can change without its telling.
    pub fn is_settled(&self) -> bool {
        let tells = |held: &Held| held.entry.identity.is_some() || held.content.is_none();
        self.new.iter().all(|held| !held.entry.is_recent && tells(held))
    }

    /// `state` is the digest of the whole description, if it may stand for the files.
    pub fn finish(mut self, state: Option<Digest>) -> Result<KeptContext> {
        if self.is_waiting() {
            return Err(EngineError::invalid("the client left before all files were sent"));
        }
        self.flush().map_err(|error| cannot_keep(&error))?;
        let state = state.filter(|_| self.is_settled());
        let tree = OnceLock::new();
        if !self.is_changed
            && let Some(before) = &self.before
        {
            if self.is_as_before(before, state.as_ref()) {
                return Ok(KeptContext(Arc::clone(before)));
            }
            // The same context, described anew: what was found out about it still holds.
            let _ = tree.set(before.tree());
        }
        self.compact();
        let version = Arc::new(Version {
            state,
            entries: std::mem::take(&mut self.new),
            pack: Arc::clone(&self.pack),
            tree,
        });
        self.place.record(&version);
        self.before = Some(Arc::clone(&version));
        Ok(KeptContext(version))
    }

    fn is_as_before(&self, before: &Version, state: Option<&Digest>) -> bool {
        let are_same = |(new, old): (&Held, &Held)| new.entry == old.entry && new.content == old.content;
        before.state.as_ref() == state && self.new.iter().zip(&before.entries).all(are_same)
    }

    fn check(&mut self, entry: &ContextEntry) -> Result<()> {
        let path = &entry.path;
        let refuse = |why: &str| {
            Err(EngineError::invalid(format!(
                "bad entry {path:?} in the context: {why}"
            )))
        };
        if self.new.len() >= ENTRIES_MAX {
            return refuse("there are too many files");
        }
        let has_bad_part = path.split('/').any(|part| matches!(part, "" | "." | ".."));
        if has_bad_part || path.contains('\0') || path.len() >= PATH_BYTES_MAX {
            return refuse("it is no path below the context");
        }
        if let Some(last) = self.new.last()
            && path_order(&last.entry.path, path).is_ge()
        {
            return refuse("it comes twice or out of order");
        }
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        while self.directories.last().is_some_and(|open| open != directory) {
            self.directories.pop();
        }
        if !directory.is_empty() && self.directories.is_empty() {
            return refuse("it is in no directory");
        }
        if let EntryKind::HardLink(target) = &entry.kind {
            let target = self.find_new(target).map(|index| &self.new[index].entry.kind);
            if !matches!(target, Some(EntryKind::File { .. })) {
                return refuse("it is a link to a file that did not come before it");
            }
        }
        Ok(())
    }

    fn find_new(&self, path: &str) -> Option<usize> {
        self.new
            .binary_search_by(|held| path_order(&held.entry.path, path))
            .ok()
    }

    /// The entry of this path in the version before; those before it are gone.
    fn take_before(&mut self, path: &str) -> Option<Held> {
        let before = self.before.as_ref()?;
        while let Some(next) = before.entries.get(self.met) {
            match path_order(&next.entry.path, path) {
                std::cmp::Ordering::Less => {
                    self.met += 1;
                    self.is_changed = true;
                }
                std::cmp::Ordering::Equal => {
                    self.met += 1;
                    return Some(next.clone());
                }
                std::cmp::Ordering::Greater => break,
            }
        }
        None
    }

    /// The content that the version before has under this path.
    fn content_before(&self, path: &str) -> Option<&Content> {
        let entries = &self.before.as_ref()?.entries;
        let found = entries.binary_search_by(|held| path_order(&held.entry.path, path));
        entries[found.ok()?].content.as_ref()
    }

    fn begin_file(&self, index: usize) -> Result<Receiving> {
        if self.receiving.len() >= RECEIVING_MAX {
            return Err(EngineError::invalid("the client sends too many files at once"));
        }
        let entry = &self.new[index].entry;
        let told = match entry.kind {
            EntryKind::File { bytes } => bytes,
            _ => 0,
        };
        let at = self
            .pack
            .allocate(told)
            .ok_or_else(|| EngineError::invalid(format!("{} is too long for a build context", entry.path)))?;
        Ok(Receiving {
            at,
            hash: Sha256::new(),
            bytes: 0,
            told,
        })
    }

    fn complete(&mut self, number: u32, index: usize) {
        let Some(done) = self.receiving.remove(&number) else {
            return;
        };
        self.wanted.remove(&number);
        let told = self.capabilities.remove(&number);
        let entry = &self.new[index].entry;
        let content = Content {
            at: done.at,
            hash: done.hash.finalize().into(),
            capability: told.unwrap_or_else(|| entry.capability.clone()),
        };
        let is_same =
            |before: &Content| before.hash == content.hash && before.capability == content.capability;
        self.is_changed |= !self.content_before(&entry.path).is_some_and(is_same);
        self.new[index].content = Some(content);
    }

    /// What follows on what was written last waits for more.
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let follows = self.gathered_at + self.gathered.len() as u64 == at;
        if !follows || self.gathered.len() + bytes.len() > GATHERED_BYTES {
            self.flush()?;
            self.gathered_at = at;
        }
        if bytes.len() >= GATHERED_BYTES {
            self.gathered_at = at + bytes.len() as u64;
            return self.pack.file().write_all_at(bytes, at);
        }
        self.gathered.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pack.file().write_all_at(&self.gathered, self.gathered_at)?;
        self.gathered.clear();
        Ok(())
    }

    /// Moves what is needed to a pack of its own when most of this one is not. A failure leaves everything as it is.
    fn compact(&mut self) {
        let length = |held: &Held| match held.entry.kind {
            EntryKind::File { bytes } => bytes,
            _ => 0,
        };
        let needed: u64 = self.new.iter().map(length).sum();
        if self.pack.end() <= 2 * needed + WASTE_BYTES {
            return;
        }
        let Ok(pack) = self.place.new_pack() else {
            return;
        };
        match self.copy_into(&pack) {
            Ok(moved) => (self.new, self.pack) = (moved, pack),
            Err(error) => {
                tracing::warn!(%error, "a build context takes more room than it needs: it could not be copied");
                pack.remove(&self.place.directory);
            }
        }
    }

    fn copy_into(&self, pack: &Pack) -> io::Result<Vec<Held>> {
        let (from, to) = (self.pack.file(), pack.file());
        let mut piece = vec![0; GATHERED_BYTES];
        let mut moved = self.new.clone();
        for held in &mut moved {
            let (Some(content), EntryKind::File { bytes }) = (&mut held.content, &held.entry.kind) else {
                continue;
            };
            let at = pack.allocate(*bytes).ok_or(io::ErrorKind::StorageFull)?;
            let mut done = 0;
            while done < *bytes {
                let wanted = piece
                    .len()
                    .min(usize::try_from(bytes - done).unwrap_or(usize::MAX));
                from.read_exact_at(&mut piece[..wanted], content.at + done)?;
                to.write_all_at(&piece[..wanted], at + done)?;
                done += wanted as u64;
            }
            content.at = at;
        }
        Ok(moved)
    }
}

impl Drop for Update {
    fn drop(&mut self) {
        // A pack that was made for this update alone, and that no version has.
        if self.before.is_none() {
            self.pack.remove(&self.place.directory);
        }
    }
}

/// Whether no build can tell the entries apart, but for their files' contents.
fn looks_alike(one: &ContextEntry, other: &ContextEntry) -> bool {
    (one.path == other.path && one.kind == other.kind)
        && (one.mode, one.modified_ns) == (other.mode, other.modified_ns)
        && one.capability == other.capability
}

fn cannot_keep(error: &io::Error) -> EngineError {
    EngineError::system(format!("cannot keep the build context: {error}"))
}
