//! The layer that `COPY` or `ADD` makes, decided as plain data before a byte of it is written: each member by its path
//! in the image, the directories on the way with what the base says of them.

use super::solve::{TIME_REAL, time_of};
use super::transfer::{Item, read_error};
use super::tree::{Content, Listed, SourceTree};
use crate::archive::extract::{ExtractOptions, Target, extract, file_error, make_directories};
use crate::archive::place::{self, Asked};
use crate::archive::tape::{Member, Tape};
use crate::archive::walk::{means_removal, removal_refused};
use crate::archive::{ChunkReader, Chunks, stream};
use crate::error::{EngineError, Result};
use naru_content::tarball::{NoTap, TarReader};
use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io::{BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where and how items are put.
#[derive(Debug, Clone, Default)]
pub(super) struct Placing {
    /// Absolute; ends in a slash where a directory is meant.
    pub target: String,
    pub owner: Option<(u32, u32)>,
    pub mode: Option<u32>,
    /// The time of everything, in seconds since the epoch.
    pub time: i64,
}

/// One member of the layer and the tree that has its bytes.
#[derive(Debug)]
struct Placed {
    tree: Option<Arc<SourceTree>>,
    listed: Listed,
}

/// A layer's members by their paths, without slashes at either end.
#[derive(Debug)]
pub(super) struct LayerPlan(BTreeMap<Vec<u8>, Placed>);

impl LayerPlan {
    /// Decides where the items go on a base, if there is one.
    pub(super) fn decide(base: Option<&OwnedFd>, items: Vec<Item>, placing: &Placing) -> Result<Self> {
        let target = Path::new(&placing.target);
        let is_there = |root| place::open(root, target, OFlags::PATH | OFlags::DIRECTORY).is_ok();
        let is_into = placing.target.ends_with('/')
            || base.is_some_and(is_there)
            || items.iter().any(|item| !item.below.is_empty());
        if items.len() > 1 && !is_into {
            return Err(EngineError::invalid(
                "When using COPY with more than one source file, the destination must be a directory and end with a /",
            ));
        }
        let mut planner = Planner {
            base,
            placing,
            members: BTreeMap::new(),
            in_base: HashMap::from([(Vec::new(), base.is_some())]),
            opened: None,
        };
        for item in items {
            planner.add(item, is_into)?;
        }
        Ok(Self(planner.members))
    }

    /// The layer's archive.
    pub(super) fn archive(self) -> Chunks {
        stream(move |output| {
            let mut tape = Tape::new(output);
            for placed in self.0.values() {
                match &placed.tree {
                    Some(tree) => tree.write(&mut tape, &placed.listed)?,
                    None => tape.push(&placed.listed.member)?,
                }
            }
            tape.finish()
        })
    }
}

struct Planner<'a> {
    base: Option<&'a OwnedFd>,
    placing: &'a Placing,
    members: BTreeMap<Vec<u8>, Placed>,
    /// Directories of the plan: whether the base has them too.
    in_base: HashMap<Vec<u8>, bool>,
    /// The base's directory that was looked into last: most members are in the same one as the one before.
    opened: Option<(Vec<u8>, OwnedFd)>,
}

impl Planner<'_> {
    fn add(&mut self, item: Item, is_into: bool) -> Result<()> {
        let wanted = PathBuf::from(&self.placing.target);
        let wanted = wanted.join(item.below.trim_start_matches('/'));
        let place = match (item.is_directory, item.below.is_empty()) {
            (false, true) if is_into => wanted.join(&item.base),
            _ => wanted,
        };
        // The way is resolved in the image; what is at its end is replaced, not followed, unless it is a directory's.
        let real = if item.is_directory {
            self.resolve(&place)?
        } else {
            let parent = self.resolve(place.parent().unwrap_or(Path::new("/")))?;
            parent.join(place.file_name().unwrap_or(OsStr::new("")))
        };
        let real = real.as_os_str().as_bytes();
        let real = real.strip_prefix(b"/").unwrap_or(real).to_vec();
        if item.is_directory {
            self.make_directory(&real)?;
        } else {
            self.make_directory(parent_of(&real))?;
        }
        for listed in item.listed {
            // Of a directory the content is brought.
            if item.is_directory && listed.member.name.is_empty() {
                continue;
            }
            let path = joined(&real, &listed.member.name);
            let mut listed = listed;
            if listed.member.kind == tar::EntryType::Link {
                listed.member.link = joined(&real, &listed.member.link);
            }
            self.insert(path, listed, Arc::clone(&item.tree))?;
        }
        Ok(())
    }

    fn resolve(&self, path: &Path) -> Result<PathBuf> {
        let asked = Asked::parse(&path.to_string_lossy());
        match self.base {
            None => Ok(asked.path),
            Some(root) => place::resolve(root, &asked.path).map_err(|errno| file_error("mkdir", path, errno)),
        }
    }

    /// Makes a directory part of the layer, and those above it: the base's as they are, new ones with the owner.
    fn make_directory(&mut self, path: &[u8]) -> Result<()> {
        if path.is_empty() {
            return Ok(());
        }
        if let Some(placed) = self.members.get(path) {
            if placed.listed.member.kind == tar::EntryType::Directory {
                return Ok(());
            }
            return Err(file_error("mkdir", &absolute(path), rustix::io::Errno::NOTDIR));
        }
        self.make_directory(parent_of(path))?;
        let name = [path, b"/"].concat();
        let member = match self.stat_in_base(path)? {
            None => {
                let mut member = Member::empty(name);
                (member.kind, member.mode) = (tar::EntryType::Directory, 0o755);
                (member.uid, member.gid) = self.placing.owner.unwrap_or((0, 0));
                member.modified_at = time_of(self.placing.time).as_second();
                self.in_base.insert(path.to_vec(), false);
                Some(member)
            }
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                self.in_base.insert(path.to_vec(), true);
                let member = Member::of(name, &stat);
                member.map(|member| Member {
                    modified_at: member.modified_at.min(self.placing.time),
                    ..member
                })
            }
            Some(_) => None,
        };
        let Some(member) = member else {
            return Err(file_error("mkdir", &absolute(path), rustix::io::Errno::NOTDIR));
        };
        let listed = Listed {
            member,
            content: Content::None,
        };
        self.members.insert(path.to_vec(), Placed { tree: None, listed });
        Ok(())
    }

    /// What the base has there itself, links not followed. Directories above it are in the plan.
    fn stat_in_base(&mut self, path: &[u8]) -> Result<Option<Stat>> {
        let parent = parent_of(path);
        let (Some(root), Some(true)) = (self.base, self.in_base.get(parent)) else {
            return Ok(None);
        };
        let failed = |errno| file_error("stat", &absolute(path), errno);
        if self.opened.as_ref().is_none_or(|(known, _)| known != parent) {
            let fd =
                place::open(root, &absolute(parent), OFlags::PATH | OFlags::DIRECTORY).map_err(failed)?;
            self.opened = Some((parent.to_vec(), fd));
        }
        let Some((_, directory)) = &self.opened else {
            return Ok(None);
        };
        let base = &path[if parent.is_empty() { 0 } else { parent.len() + 1 }..];
        match rustix::fs::statat(directory, base, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed(errno)),
        }
    }

    fn insert(&mut self, path: Vec<u8>, mut listed: Listed, tree: Arc<SourceTree>) -> Result<()> {
        let base = path.rsplit(|byte| *byte == b'/').next();
        if base.is_some_and(means_removal) {
            return Err(EngineError::invalid(removal_refused(Path::new(
                OsStr::from_bytes(&path),
            ))));
        }
        let is_directory = listed.member.kind == tar::EntryType::Directory;
        let stands = match self.members.get(&path) {
            Some(placed) => Some(placed.listed.member.kind == tar::EntryType::Directory),
            None => self
                .stat_in_base(&path)?
                .map(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
        };
        if let Some(stands_directory) = stands
            && stands_directory != is_directory
        {
            return Err(self.wrong_kind(&path, stands_directory));
        }
        if is_directory {
            self.in_base.insert(path.clone(), stands.is_some());
        }
        let member = &mut listed.member;
        member.name.clone_from(&path);
        if is_directory {
            member.name.push(b'/');
        }
        member.modified_at = match self.placing.time {
            TIME_REAL => member.modified_at,
            time => time,
        };
        if let Some(owner) = self.placing.owner {
            (member.uid, member.gid) = owner;
        }
        if let (Some(mode), false) = (self.placing.mode, member.kind == tar::EntryType::Symlink) {
            member.mode = mode;
        }
        let placed = Placed {
            tree: Some(tree),
            listed,
        };
        self.members.insert(path, placed);
        Ok(())
    }

    fn wrong_kind(&self, path: &[u8], stands_directory: bool) -> EngineError {
        let (old, new) = if stands_directory {
            ("directory", "non-directory")
        } else {
            ("non-directory", "directory")
        };
        EngineError::invalid(format!(
            "cannot overwrite {old} {:?} with {new} {:?}",
            absolute(path).display().to_string(),
            self.placing.target
        ))
    }
}

fn parent_of(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    &path[..end]
}

fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match (directory, name) {
        ([], name) => name.to_vec(),
        (directory, []) => directory.to_vec(),
        (directory, name) => [directory, b"/", name].concat(),
    }
}

fn absolute(path: &[u8]) -> PathBuf {
    Path::new("/").join(OsStr::from_bytes(path))
}

/// Puts items into a tree, archives among them unpacked; all or an error.
pub(super) fn put_items(items: Vec<Item>, root: &OwnedFd, placing: &Placing) -> Result<()> {
    let mut others = Vec::new();
    for item in items {
        if is_archive(&item)? {
            make_target(root, Path::new(&placing.target), placing.owner)?;
            unpack(&item, root, placing)?;
        } else {
            others.push(item);
        }
    }
    if others.is_empty() {
        return Ok(());
    }
    let archive = LayerPlan::decide(Some(root), others, placing)?.archive();
    let into = Target {
        root,
        directory: "/".into(),
    };
    extract(ChunkReader::new(archive), &into, ExtractOptions::default())
}

/// Makes a directory and those above it; the new ones get the owner.
pub(super) fn make_target(root: &OwnedFd, path: &Path, owner: Option<(u32, u32)>) -> Result<()> {
    let failed = |errno| file_error("mkdir", path, errno);
    let mut missing = Vec::new();
    let mut next: Option<&Path> = Some(path);
    while let Some(directory) = next {
        if place::open(root, directory, OFlags::PATH | OFlags::DIRECTORY).is_ok() {
            break;
        }
        missing.push(directory.to_owned());
        next = directory.parent();
    }
    if missing.is_empty() {
        return Ok(());
    }
    make_directories(root, path).map_err(failed)?;
    let Some((uid, gid)) = owner else { return Ok(()) };
    for directory in missing {
        let made = place::open(root, &directory, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed)?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::fchown(&made, Some(uid), Some(gid)).map_err(failed)?;
    }
    Ok(())
}

/// A plain file that begins as an archive does, once it is decompressed.
pub(super) fn is_archive(item: &Item) -> Result<bool> {
    let Some(file) = item.listed.first().filter(|_| !item.is_directory) else {
        return Ok(false);
    };
    if file.member.kind != tar::EntryType::Regular {
        return Ok(false);
    }
    let content = item.tree.read(file).map_err(read_error)?;
    // What is none fails to be decompressed, or holds no header.
    let Ok(mut plain) = crate::archive::extract::decompress(content) else {
        return Ok(false);
    };
    let mut first = [0; 512];
    if plain.read_exact(&mut first).is_err() || first.iter().all(|byte| *byte == 0) {
        return Ok(false);
    }
    let mut reader = TarReader::new(BufReader::new((&first[..]).chain(plain)), NoTap);
    Ok(reader.next_entry().is_ok())
}

fn unpack(item: &Item, root: &OwnedFd, placing: &Placing) -> Result<()> {
    let Some(file) = item.listed.first() else {
        return Ok(());
    };
    let content = item.tree.read(file).map_err(read_error)?;
    let target = Target {
        root,
        directory: PathBuf::from(&placing.target),
    };
    let options = ExtractOptions {
        keep_kinds: true,
        owner: placing.owner,
        ids: None,
    };
    extract(content, &target, options)
}
