//! Bringing a kept context up to date, entry by entry, with the client's description as the truth.
//!
//! ```text
//!  offer(entry) … offer(entry)   in the order of their paths; answers whether the file's content is wanted
//!  receive(number, bytes) …      contents, several at a time; no bytes end one
//!  finish()                      all there: links, times, the index
//! ```
//! A description is hostile until it is checked: names that leave, come twice or in disorder, stand in no directory or
//! behind a link, files of another length than told are refused. Files are made by descriptors below the context's own
//! root, no link followed.

use super::{Held, KeptContext, KeptEntry, KeptKind, Place, path_order, write_index};
use crate::archive::extract::{file_error, remove};
use crate::archive::place::open_plain;
use crate::build::context::open_directory;
use crate::error::{EngineError, Result};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Write;
use std::iter::Peekable;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::vec::IntoIter;

/// More than any source tree has; each takes some hundred bytes of memory.
const ENTRIES_MAX: usize = 1 << 20;

/// The kernel's `PATH_MAX`.
const PATH_BYTES_MAX: usize = 4096;

/// Files that a client sends at the same time; Docker's sends four.
const RECEIVING_MAX: usize = 64;

/// A file on its way.
#[derive(Debug)]
struct Receiving {
    file: std::fs::File,
    hash: Sha256,
    bytes: u64,
}

/// A context while it is brought up to date.
#[derive(Debug)]
pub struct Update {
    place: Place,
    root: OwnedFd,
    old: Peekable<IntoIter<Held>>,
    new: Vec<Held>,
    /// The entries of `new` that were made now, not kept.
    is_fresh: Vec<bool>,
    offered: u32,
    /// Directories that the next entry may be in, the innermost last.
    directories: Vec<String>,
    /// The directory of the last file that was made.
    parent: Option<(String, OwnedFd)>,
    /// The entry that a number stands for, while its content is wanted.
    wanted: HashMap<u32, usize>,
    receiving: HashMap<u32, Receiving>,
    is_changed: bool,
}

impl Update {
    pub(super) fn begin(place: Place, old: Vec<Held>) -> Result<Self> {
        Ok(Self {
            root: open_directory(&place.files())?,
            place,
            new: Vec::with_capacity(old.len()),
            old: old.into_iter().peekable(),
            is_fresh: Vec::new(),
            offered: 0,
            directories: Vec::new(),
            parent: None,
            wanted: HashMap::new(),
            receiving: HashMap::new(),
            is_changed: false,
        })
    }

    /// Takes the next entry; the number of the file if its content is wanted. Entries count from 0, whatever they are.
    pub fn offer(&mut self, entry: KeptEntry) -> Result<Option<u32>> {
        self.check(&entry)?;
        let number = self.offered;
        self.offered += 1;
        if entry.kind == KeptKind::Directory {
            self.directories.push(entry.path.clone());
        }
        let before = self.take_old(&entry.path)?;
        if let Some(before) = before {
            let is_same = before.entry == entry && self.is_target_kept(&entry);
            if is_same {
                self.push(before, false);
                return Ok(None);
            }
            self.replace(&before.entry, &entry)?;
        } else {
            self.make(&entry, false)?;
        }
        let is_wanted = matches!(entry.kind, KeptKind::File { .. });
        let held = Held {
            entry,
            content: String::new(),
        };
        self.push(held, true);
        if is_wanted {
            self.wanted.insert(number, self.new.len() - 1);
        }
        Ok(is_wanted.then_some(number))
    }

    /// Counts an entry that no build can use.
    pub fn skip(&mut self) {
        self.offered += 1;
    }

    fn push(&mut self, held: Held, is_fresh: bool) {
        self.new.push(held);
        self.is_fresh.push(is_fresh);
    }

    /// Takes a piece of a file's content; an empty one ends it.
    pub fn receive(&mut self, number: u32, bytes: &[u8]) -> Result<()> {
        let index = *self
            .wanted
            .get(&number)
            .ok_or_else(|| EngineError::invalid("the client sent a file that nobody asked for"))?;
        if !self.receiving.contains_key(&number) {
            if self.receiving.len() >= RECEIVING_MAX {
                return Err(EngineError::invalid("the client sends too many files at once"));
            }
            let begun = self.create_file(index)?;
            self.receiving.insert(number, begun);
        }
        let entry = &self.new[index].entry;
        let told = match entry.kind {
            KeptKind::File { bytes } => bytes,
            _ => 0,
        };
        let wrong_length = || {
            EngineError::invalid(format!(
                "{} changed while it was sent: it has another length than was told",
                entry.path
            ))
        };
        if bytes.is_empty() {
            let done = self.receiving.remove(&number).ok_or_else(wrong_length)?;
            if done.bytes != told {
                return Err(wrong_length());
            }
            self.wanted.remove(&number);
            return self.complete(index, done);
        }
        let receiving = self.receiving.get_mut(&number).ok_or_else(wrong_length)?;
        receiving.bytes += bytes.len() as u64;
        if receiving.bytes > told {
            return Err(wrong_length());
        }
        receiving.hash.update(bytes);
        receiving.file.write_all(bytes).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            file_error("write", Path::new(&entry.path), errno)
        })
    }

    /// No entry comes any more; what the client has no longer goes.
    pub fn end_of_entries(&mut self) -> Result<()> {
        while let Some(gone) = self.old.next() {
            self.remove_old(&gone.entry.path)?;
        }
        Ok(())
    }

    /// Whether content is still on its way.
    pub fn is_waiting(&self) -> bool {
        !self.wanted.is_empty()
    }

    pub fn finish(mut self) -> Result<KeptContext> {
        if self.is_waiting() {
            return Err(EngineError::invalid("the client left before all files were sent"));
        }
        if self.is_changed {
            self.make_hard_links()?;
            self.set_directory_times();
        }
        let index = self.place.index();
        let entries = if self.is_changed || !index.exists() {
            write_index(&index, self.new)?
        } else {
            // Its time tells when it was last used.
            let _ = rustix::fs::utimensat(rustix::fs::CWD, &index, &now(), AtFlags::empty());
            self.new
        };
        Ok(KeptContext {
            place: Arc::new(self.place),
            entries: Arc::new(entries),
        })
    }

    fn check(&mut self, entry: &KeptEntry) -> Result<()> {
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
        if let KeptKind::HardLink(target) = &entry.kind {
            let target = self.find_new(target).map(|index| &self.new[index].entry.kind);
            if !matches!(target, Some(KeptKind::File { .. })) {
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

    /// A link to a file that was made anew is to the one before.
    fn is_target_kept(&self, entry: &KeptEntry) -> bool {
        match &entry.kind {
            KeptKind::HardLink(target) => self.find_new(target).is_some_and(|index| !self.is_fresh[index]),
            _ => true,
        }
    }

    /// The old entry of this path; those before it are gone.
    fn take_old(&mut self, path: &str) -> Result<Option<Held>> {
        while let Some(next) = self.old.peek() {
            match path_order(&next.entry.path, path) {
                std::cmp::Ordering::Less => {
                    let gone = self.old.next();
                    if let Some(gone) = gone {
                        self.remove_old(&gone.entry.path)?;
                    }
                }
                std::cmp::Ordering::Equal => return Ok(self.old.next()),
                std::cmp::Ordering::Greater => break,
            }
        }
        Ok(None)
    }

    /// From now on the files are not those of the index.
    fn begin_change(&mut self) -> Result<()> {
        if !self.is_changed {
            naru_sys::file::remove_tree(&self.place.index())?;
            self.is_changed = true;
        }
        Ok(())
    }

    fn remove_old(&mut self, path: &str) -> Result<()> {
        self.begin_change()?;
        let (directory, base) = split(path);
        let removed = self.with_parent(directory, |parent| remove(parent, base));
        // It may be gone with its directory.
        match removed {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(file_error("remove", Path::new(path), errno)),
        }
        if self
            .parent
            .as_ref()
            .is_some_and(|(known, _)| is_inside(known, path))
        {
            self.parent = None;
        }
        Ok(())
    }

    fn replace(&mut self, before: &KeptEntry, entry: &KeptEntry) -> Result<()> {
        let are_directories = before.kind == KeptKind::Directory && entry.kind == KeptKind::Directory;
        if !are_directories {
            self.remove_old(&before.path)?;
        }
        self.make(entry, are_directories)
    }

    /// Makes what needs no content; files come with theirs, links to them at the end.
    fn make(&mut self, entry: &KeptEntry, is_there: bool) -> Result<()> {
        self.begin_change()?;
        let (directory, base) = split(&entry.path);
        let permissions = Mode::from_raw_mode(entry.mode & 0o7777);
        let outcome = self.with_parent(directory, |parent| match &entry.kind {
            KeptKind::Directory => {
                if !is_there {
                    rustix::fs::mkdirat(parent, base, Mode::from_raw_mode(0o700))?;
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = rustix::fs::openat(parent, base, flags, Mode::empty())?;
                rustix::fs::fchmod(&made, permissions)
            }
            KeptKind::Symlink(target) => {
                rustix::fs::symlinkat(target.as_str(), parent, base)?;
                let times = times_of(entry);
                rustix::fs::utimensat(parent, base, &times, AtFlags::SYMLINK_NOFOLLOW)
            }
            KeptKind::Fifo => rustix::fs::mknodat(parent, base, FileType::Fifo, permissions, 0),
            KeptKind::File { .. } | KeptKind::HardLink(_) => Ok(()),
        });
        outcome.map_err(|errno| file_error("create", Path::new(&entry.path), errno))
    }

    fn create_file(&mut self, index: usize) -> Result<Receiving> {
        let path = self.new[index].entry.path.clone();
        let (directory, base) = split(&path);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = self
            .with_parent(directory, |parent| {
                rustix::fs::openat(parent, base, flags, Mode::from_raw_mode(0o600))
            })
            .map_err(|errno| file_error("create", Path::new(&path), errno))?;
        Ok(Receiving {
            file: file.into(),
            hash: Sha256::new(),
            bytes: 0,
        })
    }

    fn complete(&mut self, index: usize, done: Receiving) -> Result<()> {
        let held = &mut self.new[index];
        let (entry, file) = (&held.entry, done.file);
        let finish = || {
            if !entry.capability.is_empty() {
                // The kernel takes it from root's files alone, and drops it when an owner changes.
                rustix::fs::fchown(&file, Some(Uid::ROOT), Some(Gid::ROOT))?;
                let set = rustix::fs::fsetxattr(
                    &file,
                    "security.capability",
                    &entry.capability,
                    XattrFlags::empty(),
                );
                if !matches!(set, Ok(()) | Err(Errno::NOTSUP | Errno::PERM)) {
                    return set;
                }
            }
            rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode & 0o7777))?;
            rustix::fs::futimens(&file, &times_of(entry))
        };
        finish().map_err(|errno| file_error("write", Path::new(&entry.path), errno))?;
        let content = naru_base::Digest::from_sha256(done.hash.finalize().into());
        content.hex().clone_into(&mut held.content);
        Ok(())
    }

    fn make_hard_links(&mut self) -> Result<()> {
        for index in 0..self.new.len() {
            if !self.is_fresh[index] {
                continue;
            }
            let entry = self.new[index].entry.clone();
            let KeptKind::HardLink(target) = &entry.kind else {
                continue;
            };
            let failed = |errno| file_error("link", Path::new(&entry.path), errno);
            let (directory, base) = split(target);
            let from = open_below(&self.root, directory).map_err(failed)?;
            let (into, name) = split(&entry.path);
            self.with_parent(into, |parent| {
                rustix::fs::linkat(&from, base, parent, name, AtFlags::empty())
            })
            .map_err(failed)?;
        }
        Ok(())
    }

    /// At the end, when nothing is made in them any more; from the inside out.
    fn set_directory_times(&self) {
        for held in self.new.iter().rev() {
            if held.entry.kind != KeptKind::Directory {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            if let Ok(directory) = open_plain(&self.root, Path::new(&held.entry.path), flags) {
                let _ = rustix::fs::futimens(&directory, &times_of(&held.entry));
            }
        }
    }

    fn with_parent<T>(
        &mut self,
        directory: &str,
        change: impl FnOnce(&OwnedFd) -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        if let Some((known, fd)) = &self.parent
            && known == directory
        {
            return change(fd);
        }
        let fd = open_below(&self.root, directory)?;
        let (_, fd) = self.parent.insert((directory.to_owned(), fd));
        change(fd)
    }
}

fn open_below(root: &OwnedFd, directory: &str) -> rustix::io::Result<OwnedFd> {
    let directory = if directory.is_empty() { "." } else { directory };
    open_plain(root, Path::new(directory), OFlags::PATH | OFlags::DIRECTORY)
}

fn split(path: &str) -> (&str, &OsStr) {
    let (directory, base) = path.rsplit_once('/').unwrap_or(("", path));
    (directory, OsStr::new(base))
}

/// Whether a path is this directory or below it.
fn is_inside(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn times_of(entry: &KeptEntry) -> Timestamps {
    let time = Timespec {
        tv_sec: entry.modified_ns.div_euclid(1_000_000_000),
        tv_nsec: entry.modified_ns.rem_euclid(1_000_000_000),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn now() -> Timestamps {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: rustix::fs::UTIME_NOW,
    };
    Timestamps {
        last_access: now,
        last_modification: now,
    }
}
