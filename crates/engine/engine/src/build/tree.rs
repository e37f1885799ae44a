//! Trees that files are brought from: directories of the host that hold a stage or an image, and packed contexts.
//!
//! Both list what is below a path as plain data, in order of names; contents are read when they are wanted. No path
//! leads out of its tree: the kernel resolves those of directories, and a packed tree has nothing but its own names.

use super::packed::PackedTree;
use crate::archive::place::{self, Asked, open_plain, read_attributes_through};
use crate::archive::tape::{Member, Tape};
use naru_base::Digest;
use rustix::fs::{Dir, FileType, OFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest path in a tree, in bytes: the kernel's own bound for one path (`PATH_MAX`).
const PATH_BYTES_MAX: usize = 4096;

/// Read at once from a file.
const PIECE_BYTES: usize = 128 << 10;

/// A tree, and what users call it.
#[derive(Debug)]
pub(super) struct SourceTree {
    pub root: Root,
    pub name: String,
    /// Files keep their owners; those of a context get root's.
    pub keeps_owners: bool,
}

#[derive(Debug)]
pub(super) enum Root {
    Directory(OwnedFd),
    Packed(Arc<PackedTree>),
}

/// One thing below a path; its member's name is the way there from that path, and empty for the path's own.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub member: Member,
    pub content: Content,
}

/// Where a file's bytes are.
#[derive(Debug, Clone)]
pub(super) enum Content {
    None,
    /// In the directory, at this path without links.
    File(PathBuf),
    Packed {
        at: u64,
        digest: Digest,
    },
    Text(Arc<[u8]>),
}

impl SourceTree {
    /// Names in a directory, sorted; none where there is no such directory.
    pub(super) fn names_in(&self, path: &str) -> Vec<String> {
        match &self.root {
            Root::Packed(tree) => tree.names_in(path),
            Root::Directory(root) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let Ok(directory) = place::open(root, Path::new(path), flags) else {
                    return Vec::new();
                };
                let names = sorted_names(&directory).unwrap_or_default();
                names
                    .into_iter()
                    .filter_map(|name| name.into_string().ok())
                    .collect()
            }
        }
    }

    /// Whether a path, links followed, is a directory; an error where there is nothing.
    pub(super) fn is_directory(&self, path: &Path) -> Result<bool, Errno> {
        match &self.root {
            Root::Packed(tree) => tree.is_directory(path),
            Root::Directory(root) => {
                let found = place::open(root, path, OFlags::PATH)?;
                let stat = rustix::fs::fstat(&found)?;
                Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
            }
        }
    }

    /// A path, links followed, and everything below it.
    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<Listed>> {
        let mut listed = match &self.root {
            Root::Packed(tree) => tree.list(path)?,
            Root::Directory(root) => {
                let real = place::resolve(root, &Asked::parse(&path.to_string_lossy()).path)?;
                Listing::default().run(root, &real)?
            }
        };
        if !self.keeps_owners {
            for one in &mut listed {
                (one.member.uid, one.member.gid) = (0, 0);
            }
        }
        Ok(listed)
    }

    /// Reads a listed file's bytes.
    pub(super) fn read(&self, listed: &Listed) -> io::Result<Box<dyn Read + '_>> {
        match (&listed.content, &self.root) {
            (Content::Packed { at, .. }, Root::Packed(tree)) => Ok(tree.read_at(*at, listed.member.bytes)),
            (Content::File(path), Root::Directory(root)) => {
                let name = path.strip_prefix("/").unwrap_or(path);
                let file = open_plain(root, name, OFlags::RDONLY | OFlags::NONBLOCK)?;
                Ok(Box::new(File::from(file)))
            }
            (Content::Text(text), _) => Ok(Box::new(io::Cursor::new(Arc::clone(text)))),
            _ => Ok(Box::new(io::empty())),
        }
    }

    /// Writes a listed thing, which may have got another name.
    pub(super) fn write<W: Write>(&self, tape: &mut Tape<W>, listed: &Listed) -> io::Result<()> {
        if listed.member.kind == tar::EntryType::Regular {
            tape.push_file(&listed.member, &mut self.read(listed)?)
        } else {
            tape.push(&listed.member)
        }
    }

    /// Feeds a hash with all that matters of a listed thing: everything but its time.
    pub(super) fn digest_into(&self, hash: &mut impl Write, listed: &Listed) -> io::Result<()> {
        let member = &listed.member;
        for text in [&member.name, &member.link] {
            hash.write_all(&(text.len() as u64).to_le_bytes())?;
            hash.write_all(text)?;
        }
        for number in [
            u32::from(member.kind.as_byte()),
            member.mode,
            member.uid,
            member.gid,
            member.device.0,
            member.device.1,
            member.attributes.len() as u32,
        ] {
            hash.write_all(&number.to_le_bytes())?;
        }
        for (key, value) in &member.attributes {
            for text in [key, value] {
                hash.write_all(&(text.len() as u64).to_le_bytes())?;
                hash.write_all(text)?;
            }
        }
        if member.kind != tar::EntryType::Regular {
            return Ok(());
        }
        let digest = match &listed.content {
            Content::Packed { digest, .. } => digest.clone(),
            _ => digest_of(self.read(listed)?)?,
        };
        hash.write_all(digest.as_str().as_bytes())
    }
}

fn digest_of(mut content: impl Read) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match content.read(&mut piece) {
            Ok(0) => return Ok(Digest::from_sha256(hash.finalize().into())),
            Ok(length) => hash.update(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Lists a directory of the host.
#[derive(Default)]
struct Listing {
    /// With device and inode of what has several names.
    listed: Vec<(Listed, Option<(u64, u64)>)>,
}

/// A directory being read: itself, its path below the start, and the names still to come.
struct Level {
    fd: OwnedFd,
    path: PathBuf,
    names: std::vec::IntoIter<OsString>,
}

impl Listing {
    /// `top` has no links in it.
    fn run(mut self, root: &OwnedFd, top: &Path) -> io::Result<Vec<Listed>> {
        let below = top.strip_prefix("/").unwrap_or(top);
        let below = if below.as_os_str().is_empty() {
            Path::new(".")
        } else {
            below
        };
        let found = open_plain(root, below, OFlags::PATH | OFlags::NOFOLLOW)?;
        let stat = rustix::fs::fstat(&found)?;
        self.push(&found, Vec::new(), top, &stat)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(self.finish());
        }
        let mut levels = vec![open_level(&found, Path::new("."), PathBuf::new())?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next() else {
                levels.pop();
                continue;
            };
            let path = level.path.join(&name);
            if path.as_os_str().len() > PATH_BYTES_MAX {
                return Err(Errno::NAMETOOLONG.into());
            }
            let found = open_plain(&level.fd, Path::new(&name), OFlags::PATH | OFlags::NOFOLLOW)?;
            let stat = rustix::fs::fstat(&found)?;
            self.push(
                &found,
                path.as_os_str().as_bytes().to_vec(),
                &top.join(&path),
                &stat,
            )?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let next = open_level(&level.fd, Path::new(&name), path)?;
                levels.push(next);
            }
        }
        Ok(self.finish())
    }

    fn push(&mut self, found: &OwnedFd, name: Vec<u8>, real: &Path, stat: &Stat) -> io::Result<()> {
        // A socket cannot be brought.
        let Some(mut member) = Member::of(name, stat) else {
            return Ok(());
        };
        let is_directory = member.kind == tar::EntryType::Directory;
        let mut content = Content::None;
        match member.kind {
            tar::EntryType::Symlink => {
                member.link = rustix::fs::readlinkat(found, "", Vec::new())?.into_bytes();
            }
            tar::EntryType::Regular => content = Content::File(real.to_owned()),
            _ => {}
        }
        if is_directory || member.kind == tar::EntryType::Regular {
            let path = format!("/proc/self/fd/{}", found.as_raw_fd());
            member.attributes = read_attributes_through(Path::new(&path));
        }
        let inode = (stat.st_nlink > 1 && !is_directory).then_some((stat.st_dev, stat.st_ino));
        self.listed.push((Listed { member, content }, inode));
        Ok(())
    }

    /// In order of their paths' letters, as packed trees have them; a hard link then comes after what it is linked with.
    fn finish(mut self) -> Vec<Listed> {
        self.listed
            .sort_by(|(left, _), (right, _)| left.member.name.cmp(&right.member.name));
        let mut firsts: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
        let linked = self.listed.into_iter().map(|(mut listed, inode)| {
            let Some(inode) = inode else { return listed };
            match firsts.get(&inode) {
                None => drop(firsts.insert(inode, listed.member.name.clone())),
                Some(first) => {
                    let member = &mut listed.member;
                    (member.kind, member.bytes) = (tar::EntryType::Link, 0);
                    member.link.clone_from(first);
                    member.attributes.clear();
                    listed.content = Content::None;
                }
            }
            listed
        });
        linked.collect()
    }
}

fn open_level(parent: &OwnedFd, name: &Path, path: PathBuf) -> io::Result<Level> {
    let fd = open_plain(parent, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let names = sorted_names(&fd)?.into_iter();
    Ok(Level { fd, path, names })
}

fn sorted_names(directory: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    names.sort();
    Ok(names)
}
