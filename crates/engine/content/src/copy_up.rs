//! Fills an empty volume with what the image has at its mount point.
//!
//! The image is seen through a detached read-only overlay of its layers, which no other process and no mount table
//! ever has; its paths are resolved with its root as `/`. The copy is made beside the volume and takes the place of
//! the volume's directory by one rename, which the kernel refuses unless that is empty: a volume with anything in it
//! is never written to (CVE-2020-1726), and a crash leaves it empty, to be filled next time.

use crate::error::ContentError;
use crate::recovery::remove_any;
use crate::store::ContentStore;
use naru_base::Digest;
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

/// Directories within directories; deeper than any path the kernel takes in one piece.
const DEPTH_MAX: usize = 2048;

impl ContentStore {
    /// Copies the image's files at `path` into `destination`, an empty directory, with owners, modes, times and
    /// extended attributes, the directory's own too. False, and nothing done, when `destination` is not empty or the
    /// image has no directory there. `owner` says who gets what belongs to a user and group of the image's.
    pub fn copy_up(
        &self,
        image: &Digest,
        path: &str,
        destination: &Path,
        owner: &dyn Fn(u32, u32) -> (u32, u32),
    ) -> Result<bool, ContentError> {
        let _one_at_a_time = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |errno: Errno| ContentError::io(destination, errno);
        let lower = {
            let state = self.read();
            let stored = state
                .images
                .get(image)
                .ok_or_else(|| ContentError::NoSuchImage(image.to_string()))?;
            self.lower(&state, stored.chain_ids.last())
        };
        if lower.len() < 2 || !is_empty_directory(destination)? {
            return Ok(false);
        }
        let root = mount_layers(&lower).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let source = match rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
            Ok(source) => source,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
            Err(errno) => return Err(failed(errno)),
        };
        let partial = partial_path(destination);
        remove_any(&partial)?;
        let copied =
            copy_directory(&source, &partial, owner).and_then(|()| rustix::fs::rename(&partial, destination));
        match copied {
            Ok(()) => Ok(true),
            Err(errno) => {
                drop(remove_any(&partial));
                if errno == Errno::NOTEMPTY {
                    Ok(false)
                } else {
                    Err(failed(errno))
                }
            }
        }
    }
}

fn partial_path(destination: &Path) -> PathBuf {
    let mut name = destination.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    destination.with_file_name(name)
}

fn is_empty_directory(path: &Path) -> Result<bool, ContentError> {
    let mut entries = std::fs::read_dir(path).map_err(|error| ContentError::io(path, error))?;
    Ok(entries.next().is_none())
}

/// A read-only overlay of the layers, attached nowhere; it is gone when its file descriptor is closed.
fn mount_layers(lower: &[PathBuf]) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for path in lower {
        rustix::mount::fsconfig_set_string(&context, "lowerdir+", path)?;
    }
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV,
    )
}

struct Copier<'a> {
    owner: &'a dyn Fn(u32, u32) -> (u32, u32),
    /// Files with several links, to the place of their copy.
    links: HashMap<(u64, u64), PathBuf>,
}

fn copy_directory(
    source: &OwnedFd,
    target: &Path,
    owner: &dyn Fn(u32, u32) -> (u32, u32),
) -> Result<(), Errno> {
    rustix::fs::mkdir(target, Mode::from_raw_mode(0o700))?;
    let mut copier = Copier {
        owner,
        links: HashMap::new(),
    };
    copier.copy_children(source.as_fd(), target, 0)
}

impl Copier<'_> {
    /// Copies everything in `source` into `target`, then gives `target` the attributes of `source`.
    fn copy_children(&mut self, source: BorrowedFd<'_>, target: &Path, depth: usize) -> Result<(), Errno> {
        if depth > DEPTH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        for entry in Dir::read_from(source)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_bytes() != b"." && name.to_bytes() != b".." {
                self.copy_entry(source, name, target, depth)?;
            }
        }
        let stat = self.as_copied(rustix::fs::fstat(source)?);
        let directory = rustix::fs::open(
            target,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        copy_attributes(source, directory.as_fd(), &stat)
    }

    /// The attributes that the copy is to have.
    fn as_copied(&self, mut stat: Stat) -> Stat {
        (stat.st_uid, stat.st_gid) = (self.owner)(stat.st_uid, stat.st_gid);
        stat
    }

    fn copy_entry(
        &mut self,
        source: BorrowedFd<'_>,
        name: &CStr,
        target: &Path,
        depth: usize,
    ) -> Result<(), Errno> {
        use std::os::unix::ffi::OsStrExt;
        let stat = self.as_copied(rustix::fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?);
        let target = target.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let kind = FileType::from_raw_mode(stat.st_mode);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if kind == FileType::Directory {
            rustix::fs::mkdir(&target, Mode::from_raw_mode(0o700))?;
            let child = rustix::fs::openat(source, name, flags | OFlags::DIRECTORY, Mode::empty())?;
            return self.copy_children(child.as_fd(), &target, depth + 1);
        }
        if stat.st_nlink > 1 {
            if let Some(copy) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                return rustix::fs::link(copy, &target);
            }
            self.links.insert((stat.st_dev, stat.st_ino), target.clone());
        }
        if kind == FileType::RegularFile {
            let mut from = File::from(rustix::fs::openat(source, name, flags, Mode::empty())?);
            let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut to = File::from(rustix::fs::open(&target, create, Mode::from_raw_mode(0o600))?);
            std::io::copy(&mut from, &mut to)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            return copy_attributes(from.as_fd(), to.as_fd(), &stat);
        }
        copy_special(source, name, &target, kind, &stat)
    }
}

fn copy_special(
    source: BorrowedFd<'_>,
    name: &CStr,
    target: &Path,
    kind: FileType,
    stat: &Stat,
) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    if kind == FileType::Symlink {
        let link = rustix::fs::readlinkat(source, name, Vec::new())?;
        rustix::fs::symlink(&link, target)?;
    } else {
        rustix::fs::mknodat(rustix::fs::CWD, target, kind, mode, stat.st_rdev)?;
    }
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(
        rustix::fs::CWD,
        target,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    if kind != FileType::Symlink {
        rustix::fs::chmod(target, mode)?;
    }
    rustix::fs::utimensat(rustix::fs::CWD, target, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds: i64, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as i64,
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Owner, mode, extended attributes, times, in the order in which none undoes another.
fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> Result<(), Errno> {
    rustix::fs::fchown(
        to,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    copy_xattrs(from, to)?;
    rustix::fs::futimens(to, &times(stat))
}

fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    // 64 KiB is the kernel's limit on the list and on one value.
    let mut names = vec![0; 64 << 10];
    let path = format!("/proc/self/fd/{}", from.as_raw_fd());
    let length = match rustix::fs::listxattr(&path, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    for name in names[..length].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"security.selinux") {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let size = rustix::fs::getxattr(&path, name, &mut value[..])?;
        match rustix::fs::fsetxattr(to, name, &value[..size], XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
