//! A context as it came: names and digests in memory, the bytes of all its files behind each other in one.
//!
//! Ten thousand small files cost ten thousand lines here, not ten thousand files made, read and removed again: a step
//! that brings them compares digests that were taken while they arrived. Links are followed by their letters, inside the
//! tree; the kernel is asked for none of these paths.

use super::tree::{Content, Listed};
use crate::archive::extract;
use crate::archive::tape::Member;
use crate::error::{EngineError, Result};
use naru_base::Digest;
use naru_build::listing::{ContextEntry, EntryKind as ListedKind};
use naru_content::tarball::{Entry, EntryKind, NoTap, TarReader};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// As many links as the kernel follows in one path (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

/// Paths of a context: a bound on memory, some hundred times what large ones have.
const ENTRIES_MAX: usize = 4 << 20;

/// Bytes gathered before they are written.
const BUFFER_BYTES: usize = 256 << 10;

/// Selections whose digests a tree remembers; a Dockerfile has some dozens.
const REMEMBERED_MAX: usize = 256;

/// Paths have no slash at either end; the tree's own is empty and in no map.
#[derive(Debug)]
pub(super) struct PackedTree {
    entries: BTreeMap<Vec<u8>, PackedEntry>,
    /// The bytes of files, behind each other; none where there are no files.
    pack: Option<Arc<File>>,
    /// The digests of what was selected of it, by the selection's.
    remembered: Mutex<HashMap<Digest, Digest>>,
}

#[derive(Debug, Clone)]
struct PackedEntry {
    /// With its path as its name.
    member: Member,
    /// Where a plain file's bytes begin, and their digest.
    content: Option<(u64, Digest)>,
    /// Names with one of these are hard links of each other.
    inode: u64,
}

impl PackedTree {
    /// Reads an archive, plain or compressed. `pack` is a new file, for the bytes.
    pub(super) fn receive(archive: impl Read, pack: File) -> Result<Self> {
        let entries = Packing::run(archive, &pack)?;
        Ok(Self::new(entries, Some(Arc::new(pack))))
    }

    fn new(entries: Entries, pack: Option<Arc<File>>) -> Self {
        Self {
            entries,
            pack,
            remembered: Mutex::default(),
        }
    }

    /// A tree with nothing in it.
    pub(super) fn empty() -> Self {
        Self::new(Entries::new(), None)
    }

    /// The digest that was remembered for a selection.
    pub(super) fn recall(&self, selection: &Digest) -> Option<Digest> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.get(selection).cloned()
    }

    /// Remembers the digest of what a selection takes: neither ever changes.
    pub(super) fn remember(&self, selection: Digest, digest: Digest) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(selection, digest);
    }

    /// The entries of a kept context, in the order of their paths: where a plain file's bytes begin in the pack, their
    /// digest, and the attribute `security.capability`.
    pub(super) fn of_entries<'a>(
        listed: impl Iterator<Item = (&'a ContextEntry, Option<(u64, Digest)>, &'a [u8])>,
        pack: Arc<File>,
    ) -> Self {
        let mut entries = Entries::new();
        let mut inodes = 0;
        for (entry, content, capability) in listed {
            let name = entry.path.clone().into_bytes();
            let mut member = Member::empty(name.clone());
            (member.mode, member.modified_at) = (entry.mode, entry.modified_ns.div_euclid(1_000_000_000));
            let mut placed = PackedEntry {
                member,
                content: None,
                inode: 0,
            };
            match &entry.kind {
                ListedKind::Directory => placed.member.kind = tar::EntryType::Directory,
                ListedKind::Fifo => placed.member.kind = tar::EntryType::Fifo,
                ListedKind::Symlink(target) => {
                    placed.member.kind = tar::EntryType::Symlink;
                    placed.member.link = target.clone().into_bytes();
                }
                ListedKind::File { bytes } => {
                    placed.member.bytes = *bytes;
                    placed.content = content;
                    if !capability.is_empty() {
                        let key = b"security.capability".to_vec();
                        placed.member.attributes = vec![(key, capability.to_vec())];
                    }
                }
                ListedKind::HardLink(target) => {
                    // The index has no link whose file is not before it.
                    let Some(first) = entries.get_mut(target.as_bytes()) else {
                        continue;
                    };
                    if first.inode == 0 {
                        inodes += 1;
                        first.inode = inodes;
                    }
                    placed = first.clone();
                    placed.member.name.clone_from(&name);
                }
            }
            entries.insert(name, placed);
        }
        Self::new(entries, Some(pack))
    }

    /// Takes a directory out: a tree of its own, whose root it is.
    pub(super) fn split_off(&mut self, directory: &str) -> Self {
        let directory = directory.as_bytes();
        let taken: Vec<Vec<u8>> = below(&self.entries, directory)
            .map(|(path, _)| path.clone())
            .collect();
        let mut entries = Entries::new();
        for path in taken {
            if let Some(mut entry) = self.entries.remove(&path) {
                let name = path[directory.len() + 1..].to_vec();
                entry.member.name.clone_from(&name);
                entries.insert(name, entry);
            }
        }
        // Directories that were there for this one alone.
        let mut path = directory;
        while !path.is_empty() && below(&self.entries, path).next().is_none() {
            self.entries.remove(path);
            let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            path = &path[..end];
        }
        Self::new(entries, self.pack.clone())
    }

    /// Takes a file away, by its own name.
    pub(super) fn remove_file(&mut self, path: &str) {
        let path = path.as_bytes();
        if !is_directory(&self.entries, path) {
            self.entries.remove(path);
        }
    }

    fn find(&self, path: &Path) -> Result<Vec<u8>, Errno> {
        let real = resolve(&self.entries, path.as_os_str().as_bytes())?;
        if real.is_empty() || self.entries.contains_key(&real) {
            return Ok(real);
        }
        Err(Errno::NOENT)
    }

    pub(super) fn is_directory(&self, path: &Path) -> Result<bool, Errno> {
        let real = self.find(path)?;
        Ok(is_directory(&self.entries, &real))
    }

    pub(super) fn names_in(&self, path: &str) -> Vec<String> {
        let Ok(real) = self.find(Path::new(path)) else {
            return Vec::new();
        };
        let skipped = if real.is_empty() { 0 } else { real.len() + 1 };
        let names = below(&self.entries, &real).filter_map(|(path, _)| {
            let name = &path[skipped..];
            (!name.contains(&b'/')).then(|| String::from_utf8(name.to_vec()).ok())?
        });
        names.collect()
    }

    /// A path, links followed, and all below it; names are the way from there.
    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<Listed>> {
        let real = self.find(path)?;
        let own = match self.entries.get(&real) {
            Some(entry) => entry.clone(),
            None => PackedEntry::directory(Vec::new()),
        };
        let mut links = HashMap::new();
        let mut listed = vec![own.listed(Vec::new(), &mut links)];
        if own.member.kind != tar::EntryType::Directory {
            return Ok(listed);
        }
        let skipped = if real.is_empty() { 0 } else { real.len() + 1 };
        let children = below(&self.entries, &real)
            .map(|(path, entry)| entry.listed(path[skipped..].to_vec(), &mut links));
        listed.extend(children);
        Ok(listed)
    }

    /// The bytes of a file that is kept at a place.
    pub(super) fn read_at(&self, at: u64, bytes: u64) -> Box<dyn Read + Send> {
        match &self.pack {
            Some(pack) => Box::new(PackedReader {
                pack: Arc::clone(pack),
                at,
                left: bytes,
            }),
            None => Box::new(io::empty()),
        }
    }

    /// A whole plain file, links followed, if it is no longer than that.
    pub(super) fn read_file(&self, path: &Path, bytes_max: u64) -> Result<Vec<u8>, Errno> {
        let (at, length) = self.place_of(path)?;
        let mut bytes = Vec::new();
        self.read_at(at, length.min(bytes_max))
            .read_to_end(&mut bytes)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok(bytes)
    }

    /// A plain file of any length, links followed, to be read piece by piece.
    pub(super) fn open_file(&self, path: &Path) -> Result<Box<dyn Read + Send>, Errno> {
        let (at, length) = self.place_of(path)?;
        Ok(self.read_at(at, length))
    }

    /// Where the bytes of a plain file are, links followed, and how many.
    fn place_of(&self, path: &Path) -> Result<(u64, u64), Errno> {
        let real = self.find(path)?;
        let entry = self.entries.get(&real).ok_or(Errno::ISDIR)?;
        let (at, _) = entry.content.as_ref().ok_or(Errno::INVAL)?;
        Ok((*at, entry.member.bytes))
    }
}

impl PackedEntry {
    fn directory(path: Vec<u8>) -> Self {
        let mut member = Member::empty(path);
        (member.kind, member.mode) = (tar::EntryType::Directory, 0o755);
        Self {
            member,
            content: None,
            inode: 0,
        }
    }

    fn listed(&self, name: Vec<u8>, links: &mut HashMap<u64, Vec<u8>>) -> Listed {
        let mut member = self.member.clone();
        member.name = name;
        if self.inode != 0 {
            if let Some(first) = links.get(&self.inode) {
                member.kind = tar::EntryType::Link;
                member.link.clone_from(first);
                member.bytes = 0;
                return Listed {
                    member,
                    content: Content::None,
                };
            }
            links.insert(self.inode, member.name.clone());
        }
        let content = match &self.content {
            Some((at, digest)) => Content::Packed {
                at: *at,
                digest: digest.clone(),
            },
            None => Content::None,
        };
        Listed { member, content }
    }
}

/// Reads a piece of the pack.
struct PackedReader {
    pack: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for PackedReader {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let wanted = target.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let length = self.pack.read_at(&mut target[..wanted], self.at)?;
        self.at += length as u64;
        self.left -= length as u64;
        Ok(length)
    }
}

type Entries = BTreeMap<Vec<u8>, PackedEntry>;

/// Everything in a directory, at any depth, in order of names.
fn below<'a>(
    entries: &'a Entries,
    directory: &[u8],
) -> impl Iterator<Item = (&'a Vec<u8>, &'a PackedEntry)> + use<'a> {
    let (first, last) = if directory.is_empty() {
        (Bound::Unbounded, Bound::Unbounded)
    } else {
        // What begins with the directory's name and a slash is before what begins with it and the next letter.
        let first = [directory, b"/"].concat();
        let last = [directory, b"0"].concat();
        (Bound::Excluded(first), Bound::Excluded(last))
    };
    entries.range::<Vec<u8>, _>((first, last))
}

fn is_directory(entries: &Entries, path: &[u8]) -> bool {
    path.is_empty()
        || entries
            .get(path)
            .is_some_and(|entry| entry.member.kind == tar::EntryType::Directory)
}

/// Follows links, the last element's too, never above the root. What is missing stays as it is written.
fn resolve(entries: &Entries, path: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut resolved: Vec<u8> = Vec::new();
    let mut rest: VecDeque<Vec<u8>> = parts(path).collect();
    let mut links = 0;
    while let Some(part) = rest.pop_front() {
        if part == b".." {
            let parent = resolved.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            resolved.truncate(parent);
            continue;
        }
        let next = joined(&resolved, &part);
        let link = entries
            .get(&next)
            .filter(|entry| entry.member.kind == tar::EntryType::Symlink);
        let Some(link) = link else {
            resolved = next;
            continue;
        };
        links += 1;
        if links > LINKS_MAX {
            return Err(Errno::LOOP);
        }
        let target = &link.member.link;
        if target.starts_with(b"/") {
            resolved.clear();
        }
        for part in parts(target).collect::<Vec<_>>().into_iter().rev() {
            rest.push_front(part);
        }
    }
    Ok(resolved)
}

fn parts(path: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    path.split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
}

fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        return name.to_vec();
    }
    [directory, b"/", name].concat()
}

/// A tree being received.
struct Packing<'a> {
    entries: Entries,
    output: BufWriter<&'a File>,
    at: u64,
    inodes: u64,
}

impl<'a> Packing<'a> {
    fn run(archive: impl Read, pack: &'a File) -> Result<Entries> {
        let plain = extract::decompress(archive).map_err(|error| extract::bad_archive(&error))?;
        let mut reader = TarReader::new(BufReader::with_capacity(BUFFER_BYTES, plain), NoTap);
        let mut packing = Self {
            entries: BTreeMap::new(),
            output: BufWriter::with_capacity(BUFFER_BYTES, pack),
            at: 0,
            inodes: 0,
        };
        while let Some(entry) = reader
            .next_entry()
            .map_err(|error| extract::bad_archive(&error))?
        {
            packing.place(&entry, &mut reader)?;
        }
        packing.output.flush().map_err(cannot_keep)?;
        Ok(packing.entries)
    }

    fn place<R: io::BufRead>(&mut self, entry: &Entry, reader: &mut TarReader<R, NoTap>) -> Result<()> {
        let path = extract::member_path(&entry.name)?;
        let Some(base) = path.file_name() else {
            return Ok(());
        };
        if self.entries.len() >= ENTRIES_MAX {
            return Err(EngineError::invalid(format!(
                "the archive has more than {ENTRIES_MAX} members"
            )));
        }
        let parent = path.parent().unwrap_or(Path::new("/"));
        let parent =
            resolve(&self.entries, parent.as_os_str().as_bytes()).map_err(|errno| at(&path, errno))?;
        self.make_directories(&parent).map_err(|errno| at(&path, errno))?;
        let name = joined(&parent, base.as_bytes());
        let mut placed = self.read_entry(entry, name.clone(), reader)?;
        if entry.kind == EntryKind::HardLink {
            placed = self.link(&entry.link, name.clone())?;
        }
        let stood_directory = is_directory(&self.entries, &name);
        if stood_directory && placed.member.kind != tar::EntryType::Directory {
            let gone: Vec<Vec<u8>> = below(&self.entries, &name)
                .map(|(path, _)| path.clone())
                .collect();
            for path in gone {
                self.entries.remove(&path);
            }
        }
        self.entries.insert(name, placed);
        Ok(())
    }

    /// Makes what is missing of a directory's way. A file on it is an error.
    fn make_directories(&mut self, path: &[u8]) -> Result<(), Errno> {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let ends: Vec<usize> = ends.map(|(at, _)| at).chain([path.len()]).collect();
        for end in ends.into_iter().filter(|end| *end > 0) {
            match self.entries.get(&path[..end]) {
                Some(entry) if entry.member.kind != tar::EntryType::Directory => return Err(Errno::NOTDIR),
                Some(_) => {}
                None => {
                    let directory = path[..end].to_vec();
                    self.entries
                        .insert(directory.clone(), PackedEntry::directory(directory));
                }
            }
        }
        Ok(())
    }

    fn read_entry<R: io::BufRead>(
        &mut self,
        entry: &Entry,
        name: Vec<u8>,
        reader: &mut TarReader<R, NoTap>,
    ) -> Result<PackedEntry> {
        // Ids the kernel cannot hold would wrap around to root's.
        let id = |id: u64| u32::try_from(id).map_err(|_| extract::bad_archive(&"an owner is out of range"));
        let mut member = Member::empty(name);
        member.kind = match entry.kind {
            EntryKind::File | EntryKind::HardLink => tar::EntryType::Regular,
            EntryKind::Symlink => tar::EntryType::Symlink,
            EntryKind::CharacterDevice => tar::EntryType::Char,
            EntryKind::BlockDevice => tar::EntryType::Block,
            EntryKind::Directory => tar::EntryType::Directory,
            EntryKind::Fifo => tar::EntryType::Fifo,
        };
        (member.mode, member.uid, member.gid) = (entry.mode & 0o7777, id(entry.uid)?, id(entry.gid)?);
        (member.modified_at, member.device) = (entry.mtime.0, entry.device);
        if entry.kind == EntryKind::Symlink {
            member.link.clone_from(&entry.link);
        }
        let kept = |(key, _): &&(Vec<u8>, Vec<u8>)| extract::may_set(key);
        member.attributes = entry.xattrs.iter().filter(kept).cloned().collect();
        let mut content = None;
        if entry.kind == EntryKind::File {
            let (bytes, digest) = self.keep(entry, reader)?;
            member.bytes = bytes;
            content = Some((self.at - bytes, digest));
        }
        Ok(PackedEntry {
            member,
            content,
            inode: 0,
        })
    }

    /// Appends an entry's content to the pack; its length and digest.
    fn keep<R: io::BufRead>(
        &mut self,
        entry: &Entry,
        reader: &mut TarReader<R, NoTap>,
    ) -> Result<(u64, Digest)> {
        let mut hash = Sha256::new();
        let whole = [(0, entry.bytes)];
        let mut written = 0;
        for (offset, length) in entry.sparse.as_deref().unwrap_or(&whole) {
            if *offset < written {
                return Err(extract::bad_archive(&"the pieces of a sparse file overlap"));
            }
            self.pad(&mut hash, *offset - written)?;
            let mut left = *length;
            while left > 0 {
                let piece = reader.content().map_err(|error| extract::bad_archive(&error))?;
                if piece.is_empty() {
                    return Err(extract::bad_archive(&"it ends in the middle of a file"));
                }
                let length = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                hash.update(&piece[..length]);
                self.output.write_all(&piece[..length]).map_err(cannot_keep)?;
                reader.consume(length);
                left -= length as u64;
            }
            written = offset + length;
        }
        self.pad(&mut hash, entry.bytes.saturating_sub(written))?;
        let bytes = entry.bytes.max(written);
        self.at += bytes;
        Ok((bytes, Digest::from_sha256(hash.finalize().into())))
    }

    /// What a sparse file leaves out are zeros.
    fn pad(&mut self, hash: &mut Sha256, bytes: u64) -> Result<()> {
        let zeros = [0; 4096];
        let mut left = bytes;
        while left > 0 {
            let length = left.min(zeros.len() as u64);
            hash.update(&zeros[..length as usize]);
            self.output
                .write_all(&zeros[..length as usize])
                .map_err(cannot_keep)?;
            left -= length;
        }
        Ok(())
    }

    /// Another name of a file that came before.
    fn link(&mut self, target: &[u8], name: Vec<u8>) -> Result<PackedEntry> {
        let wanted = extract::member_path(target)?;
        let parent = wanted
            .parent()
            .unwrap_or(Path::new("/"))
            .as_os_str()
            .as_bytes()
            .to_vec();
        let base = wanted.file_name().map(|base| base.as_bytes().to_vec());
        let found = resolve(&self.entries, &parent)
            .ok()
            .zip(base)
            .and_then(|(parent, base)| self.entries.get_mut(&joined(&parent, &base)))
            .filter(|entry| entry.member.kind != tar::EntryType::Directory);
        let Some(found) = found else {
            return Err(EngineError::invalid(format!(
                "invalid hardlink {:?} -> {:?}",
                String::from_utf8_lossy(&name),
                wanted.display().to_string()
            )));
        };
        if found.inode == 0 {
            self.inodes += 1;
            found.inode = self.inodes;
        }
        let mut placed = found.clone();
        placed.member.name = name;
        Ok(placed)
    }
}

fn at(path: &Path, errno: Errno) -> EngineError {
    extract::file_error("open", path, errno)
}

fn cannot_keep(error: io::Error) -> EngineError {
    EngineError::system(format!("cannot keep the build context: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tape::Tape;

    fn tree(members: &[(&str, tar::EntryType, &str)]) -> Result<PackedTree> {
        let mut bytes = Vec::new();
        let mut tape = Tape::new(&mut bytes);
        for (name, kind, text) in members {
            let mut member = Member::empty(name.as_bytes().to_vec());
            (member.kind, member.mode) = (*kind, 0o640);
            if *kind == tar::EntryType::Regular {
                member.bytes = text.len() as u64;
                tape.push_file(&member, &mut text.as_bytes()).unwrap();
            } else {
                member.link = text.as_bytes().to_vec();
                tape.push(&member).unwrap();
            }
        }
        tape.finish().unwrap();
        PackedTree::receive(&bytes[..], tempfile::tempfile().unwrap())
    }

    fn names(tree: &PackedTree, path: &str) -> Vec<String> {
        let listed = tree.list(Path::new(path)).unwrap();
        let name = |one: &Listed| String::from_utf8(one.member.name.clone()).unwrap();
        listed.iter().map(name).collect()
    }

    const FILE: tar::EntryType = tar::EntryType::Regular;
    const LINK: tar::EntryType = tar::EntryType::Symlink;

    #[test]
    fn what_comes_is_found_below_its_own_root() {
        let tree = tree(&[
            ("./a-b", FILE, "1"),
            ("a/c", FILE, "22"),
            ("a/d/e", FILE, "333"),
            ("way", LINK, "/a/d"),
            ("up", LINK, "../../../a/c"),
            ("hard", tar::EntryType::Link, "a/c"),
            ("way/f", FILE, "4444"),
        ])
        .unwrap();
        assert_eq!(names(&tree, "a"), ["", "c", "d", "d/e", "d/f"]);
        assert_eq!(names(&tree, "/way/"), ["", "e", "f"]);
        assert_eq!(tree.names_in("/"), ["a", "a-b", "hard", "up", "way"]);
        assert_eq!(tree.read_file(Path::new("up"), 9).unwrap(), b"22");
        assert_eq!(tree.read_file(Path::new("a/../a/d/f"), 2).unwrap(), b"44");
        assert!(tree.is_directory(Path::new("way")).unwrap());
        assert!(tree.is_directory(Path::new("nosuch")).is_err());
        let all = tree.list(Path::new("/")).unwrap();
        let hard = all.iter().find(|one| one.member.name == b"hard").unwrap();
        assert_eq!(
            (hard.member.kind, &hard.member.link[..]),
            (tar::EntryType::Link, &b"a/c"[..])
        );
    }

    #[test]
    fn a_part_of_an_archive_is_a_tree_of_its_own() {
        let mut whole = tree(&[
            ("in/1/a", FILE, "1"),
            ("in/1/way", LINK, "/a"),
            ("in/1/out", LINK, "../b"),
            ("b", FILE, "2"),
        ])
        .unwrap();
        let part = whole.split_off("in/1");
        assert_eq!(names(&part, "/"), ["", "a", "out", "way"]);
        assert_eq!(part.read_file(Path::new("way"), 9).unwrap(), b"1");
        assert!(part.read_file(Path::new("out"), 9).is_err());
        assert_eq!(names(&whole, "/"), ["", "b"]);
    }

    #[test]
    fn links_never_lead_out_and_circles_are_found() {
        let tree = tree(&[
            ("etc", LINK, "../../../../etc"),
            ("one", LINK, "two"),
            ("two", LINK, "one"),
        ])
        .unwrap();
        assert_eq!(tree.find(Path::new("etc/passwd")), Err(Errno::LOOP));
        assert_eq!(tree.find(Path::new("one")), Err(Errno::LOOP));
    }

    #[test]
    fn a_later_member_takes_the_place_of_an_earlier_one() {
        let tree = tree(&[
            ("a/b", FILE, "1"),
            ("a", FILE, "2"),
            ("c", FILE, "3"),
            ("c", FILE, "4"),
        ])
        .unwrap();
        assert_eq!(names(&tree, "/"), ["", "a", "c"]);
        assert_eq!(tree.read_file(Path::new("c"), 9).unwrap(), b"4");
    }

    #[test]
    fn what_has_no_place_is_refused() {
        for members in [
            &[("../x", FILE, "")][..],
            &[("a", FILE, ""), ("a/b", FILE, "")],
            &[("a", tar::EntryType::Link, "nosuch")],
        ] {
            assert!(tree(members).is_err(), "{members:?}");
        }
    }
}
