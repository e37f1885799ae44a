//! Paths in a container's tree, resolved by the kernel with the container's root as their ceiling.
//!
//! Every open goes through `openat2` with `RESOLVE_IN_ROOT`: an absolute link leads to the container's own root, `..`
//! stops there, and the links of /proc that lead anywhere else are refused. A link swapped at any moment gives another
//! file of the same container, never one of the host's.

use naru_base::Timestamp;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::{Errno, Result};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// As many links as the kernel follows in one path (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

/// A path as a client wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Absolute, without `.` and `..`.
    pub path: PathBuf,
    /// It ended in `/` or `/.`: the directory itself is meant, and a link to one is followed.
    pub is_directory_meant: bool,
    ends_in_dot: bool,
}

impl Asked {
    pub fn parse(text: &str) -> Self {
        let ends_in_dot = text == "." || text.ends_with("/.");
        Self {
            path: clean(Path::new(text)),
            is_directory_meant: ends_in_dot || text.ends_with('/'),
            ends_in_dot,
        }
    }

    /// The last element, as Go's `filepath.Base` names it: `/` for the root, `.` for what ended in a dot.
    pub fn base(&self) -> &[u8] {
        match self.path.file_name() {
            None => b"/",
            Some(_) if self.ends_in_dot => b".",
            Some(name) => name.as_bytes(),
        }
    }
}

/// The path without `.` and `..`, by its letters alone and never above the root.
pub fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            _ => {}
        }
    }
    cleaned
}

/// Opens a path in the tree; its last element too is followed, unless `flags` say no.
pub fn open(root: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, flags, resolve)
}

/// Opens a path below `directory` that must not lead through any link.
pub fn open_plain(directory: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(directory, path, flags, resolve)
}

/// The kernel answers EAGAIN when something was renamed meanwhile.
fn openat2(directory: impl AsFd, path: &Path, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    for _ in 0..100 {
        match rustix::fs::openat2(&directory, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    rustix::fs::openat2(&directory, path, flags, Mode::empty(), resolve)
}

/// Opens a file to read it, once it is known to be a plain one: opening a device can have effects of its own.
pub fn open_file(directory: impl AsFd, name: &OsStr) -> Result<Option<(std::fs::File, Stat)>> {
    use std::os::fd::AsRawFd;
    let found = open_plain(directory, Path::new(name), OFlags::PATH | OFlags::NOFOLLOW)?;
    let stat = rustix::fs::fstat(&found)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(Some((file.into(), stat)))
}

/// What a client's path leads to.
#[derive(Debug)]
pub struct Found {
    /// The object itself, opened with `O_PATH`; a link is not followed unless a directory was meant.
    pub fd: OwnedFd,
    pub stat: Stat,
}

pub fn find(root: &OwnedFd, asked: &Asked) -> Result<Found> {
    let flags = if asked.is_directory_meant {
        OFlags::PATH | OFlags::DIRECTORY
    } else {
        OFlags::PATH | OFlags::NOFOLLOW
    };
    let fd = open(root, &asked.path, flags)?;
    let stat = rustix::fs::fstat(&fd)?;
    Ok(Found { fd, stat })
}

/// What Docker tells of a path in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    pub name: String,
    pub bytes: i64,
    /// In the bits of Go's `os.FileMode`.
    pub mode: u32,
    pub modified_at: Timestamp,
    /// Where a link leads in the end, as a path in the container; empty for anything else.
    pub link_target: String,
}

pub fn describe(root: &OwnedFd, asked: &Asked, found: &Found) -> Result<PathStat> {
    let is_link = FileType::from_raw_mode(found.stat.st_mode) == FileType::Symlink;
    let link_target = if is_link {
        resolve(root, &asked.path)?.to_string_lossy().into_owned()
    } else {
        String::new()
    };
    Ok(PathStat {
        name: String::from_utf8_lossy(asked.base()).into_owned(),
        bytes: found.stat.st_size,
        mode: go_mode(found.stat.st_mode),
        modified_at: Timestamp::from_parts(found.stat.st_mtime, found.stat.st_mtime_nsec as i32),
        link_target,
    })
}

/// The kernel's mode in the bits of Go's `os.FileMode`.
fn go_mode(mode: u32) -> u32 {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => 1 << 26 | 1 << 21,
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let set = special
        .iter()
        .filter(|(bit, _)| mode & bit != 0)
        .map(|(_, go)| go);
    kind | mode & 0o777 | set.sum::<u32>()
}

/// The path with the links on it replaced by what they say, inside the tree. What is missing stays as it is written. It
/// is for people to read: whoever opens it looks in the tree again.
pub fn resolve(root: &OwnedFd, path: &Path) -> Result<PathBuf> {
    let mut resolved = PathBuf::from("/");
    let mut rest: VecDeque<OsString> = names(path).collect();
    let mut links = 0;
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            resolved.pop();
            continue;
        }
        let next = resolved.join(&part);
        let link = open(root, &next, OFlags::PATH | OFlags::NOFOLLOW)
            .and_then(|fd| rustix::fs::readlinkat(&fd, "", Vec::new()));
        let Ok(link) = link else {
            resolved = next;
            continue;
        };
        links += 1;
        if links > LINKS_MAX {
            return Err(Errno::LOOP);
        }
        let target = PathBuf::from(OsString::from_vec(link.into_bytes()));
        if target.is_absolute() {
            resolved = PathBuf::from("/");
        }
        for part in names(&target).collect::<Vec<_>>().into_iter().rev() {
            rest.push_front(part);
        }
    }
    Ok(resolved)
}

fn names(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

/// The extended attributes that archives carry: capabilities and the user's own. Those of a link are its own.
pub fn read_attributes(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    read_attributes_by(
        |names| rustix::fs::llistxattr(path, names),
        |name, value| rustix::fs::lgetxattr(path, name, value),
    )
}

/// As [`read_attributes`], for a path whose last part is a link to the file meant, as in `/proc/self/fd`.
pub fn read_attributes_through(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    read_attributes_by(
        |names| rustix::fs::listxattr(path, names),
        |name, value| rustix::fs::getxattr(path, name, value),
    )
}

fn read_attributes_by(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 64 << 10];
    let Ok(length) = list(&mut names[..]) else {
        return Vec::new();
    };
    let mut found: Vec<(Vec<u8>, Vec<u8>)> = names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| *name == b"security.capability" || name.starts_with(b"user."))
        .filter_map(|name| {
            let mut value = vec![0; 64 << 10];
            let length = get(name, &mut value[..]).ok()?;
            value.truncate(length);
            Some((name.to_vec(), value))
        })
        .collect();
    found.sort();
    found
}

/// The status of a name in an open directory, links not followed.
pub fn status(directory: impl AsFd, name: &OsStr) -> Result<Stat> {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn asked_paths_are_read_as_docker_reads_them() {
        let read = |text: &str| {
            let asked = Asked::parse(text);
            let base = String::from_utf8_lossy(asked.base()).into_owned();
            (asked.path, asked.is_directory_meant, base)
        };
        assert_eq!(read("a/../b"), (PathBuf::from("/b"), false, "b".to_owned()));
        assert_eq!(read("/../a/"), (PathBuf::from("/a"), true, "a".to_owned()));
        assert_eq!(read("/a/."), (PathBuf::from("/a"), true, ".".to_owned()));
        assert_eq!(read("/"), (PathBuf::from("/"), true, "/".to_owned()));
    }

    fn tree() -> (PathBuf, OwnedFd) {
        static ORDINAL: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let ordinal = ORDINAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("naru-place-{}-{ordinal}", std::process::id()));
        std::fs::create_dir_all(path.join("run/inner")).unwrap();
        std::fs::create_dir_all(path.join("var")).unwrap();
        std::fs::write(path.join("run/inner/file"), "inside").unwrap();
        symlink("/run", path.join("var/run")).unwrap();
        symlink("../../../../../../../etc/passwd", path.join("var/escape")).unwrap();
        symlink("loop", path.join("var/loop")).unwrap();
        let root = rustix::fs::open(&path, OFlags::PATH, Mode::empty()).unwrap();
        (path, root)
    }

    #[test]
    fn links_lead_inside_the_tree() {
        let (path, root) = tree();
        let resolved = |text: &str| resolve(&root, Path::new(text)).map(|path| path.display().to_string());
        assert_eq!(resolved("/var/run/inner/file").unwrap(), "/run/inner/file");
        assert_eq!(resolved("/var/escape").unwrap(), "/etc/passwd");
        assert_eq!(resolved("/var/run/missing/x").unwrap(), "/run/missing/x");
        assert_eq!(resolved("/var/loop"), Err(Errno::LOOP));
        assert!(open(&root, Path::new("/var/run/inner/file"), OFlags::RDONLY).is_ok());
        assert_eq!(
            open(&root, Path::new("/var/escape"), OFlags::RDONLY).unwrap_err(),
            Errno::NOENT
        );
        let found = find(&root, &Asked::parse("/var/run")).unwrap();
        let stat = describe(&root, &Asked::parse("/var/run"), &found).unwrap();
        assert_eq!((stat.link_target.as_str(), stat.name.as_str()), ("/run", "run"));
        assert!(
            find(&root, &Asked::parse("/var/run/")).is_ok_and(|found| go_mode(found.stat.st_mode) >> 31 == 1)
        );
        std::fs::remove_dir_all(path).unwrap();
    }
}
