//! A container's root filesystem: mounting it, and resolving paths in it without ever leaving it.
//!
//! Nothing here trusts the image: every path is resolved by the kernel with the root as its ceiling and magic links
//! refused, and what is mounted is mounted by descriptor.

use crate::ahead::RootAhead;
use crate::failure::{invalid, system};
use crate::plan::{RootfsPlan, StartFailure};
use crate::user_namespace::UserNamespace;
use naru_sys::mount::{MountAttributes, set_attributes};
use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount, move_mount, open_tree, unmount,
};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// As many links as the kernel follows in one path (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

/// The root of a container's file tree.
pub(crate) struct Root {
    fd: OwnedFd,
}

/// What a mount target is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TargetKind {
    Directory,
    File,
}

impl Root {
    /// Mounts the root filesystem in the caller's own mount namespace, over a path that the caller has no more use for.
    /// What has been mounted ahead is used if it fits.
    pub(crate) fn mount(plan: &RootfsPlan, ahead: Option<RootAhead>) -> Result<Self, StartFailure> {
        let (mount_fd, place) = match plan {
            RootfsPlan::Overlay { lower, upper, work } => {
                let made = match ahead.and_then(|ahead| ahead.take(plan)) {
                    Some(fd) => Some(fd),
                    None => overlay(lower, upper, work)?,
                };
                match made {
                    Some(fd) => (fd, upper),
                    None => return Self::mount_overlay_classic(lower, upper, work),
                }
            }
            RootfsPlan::Directory { path } => (copy_tree(path)?, path),
        };
        Self::place(mount_fd, place)
    }

    /// Takes over a root filesystem that the keeper has mounted. It goes over the root itself, which everyone can reach.
    pub(crate) fn mounted(mount_fd: OwnedFd) -> Result<Self, StartFailure> {
        Self::place(mount_fd, Path::new("/"))
    }

    pub(crate) fn place(mount_fd: OwnedFd, place: &Path) -> Result<Self, StartFailure> {
        move_mount(
            mount_fd.as_fd(),
            "",
            CWD,
            place,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .map_err(system("rootfs", format_args!("attach to {}", place.display())))?;
        Ok(Self { fd: mount_fd })
    }

    /// The root of the calling process.
    pub(crate) fn current() -> Result<Self, StartFailure> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open("/", flags, Mode::empty()).map_err(system("rootfs", "/"))?;
        Ok(Self { fd })
    }

    /// The tree whose root a descriptor is.
    pub(crate) fn of(fd: OwnedFd) -> Self {
        Self { fd }
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// For kernels before 6.8, which cannot take layers one by one: everything in one string of at most a page, its
    /// paths relative to the directory that all layers share.
    fn mount_overlay_classic(lower: &[PathBuf], upper: &Path, work: &Path) -> Result<Self, StartFailure> {
        let base = common_ancestor(lower);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::process::chdir(&base).map_err(system("rootfs", base.display()))?;
        let mut data = OsString::from("lowerdir=");
        for (index, path) in lower.iter().enumerate() {
            if index > 0 {
                data.push(":");
            }
            let relative = path.strip_prefix(&base).unwrap_or(path);
            data.push(escape_overlay(if relative.as_os_str().is_empty() {
                Path::new(".")
            } else {
                relative
            }));
        }
        data.push(",upperdir=");
        data.push(escape_overlay(upper));
        data.push(",workdir=");
        data.push(escape_overlay(work));
        let data = std::ffi::CString::new(data.as_bytes()).map_err(system("rootfs", "layer path"))?;
        mount(
            "overlay",
            upper,
            "overlay",
            MountFlags::empty(),
            Some(data.as_c_str()),
        )
        .map_err(system(
            "rootfs",
            format_args!("mount the overlay of {} layers", lower.len()),
        ))?;
        let fd = rustix::fs::open(upper, flags, Mode::empty()).map_err(system("rootfs", upper.display()))?;
        Ok(Self { fd })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens an existing path. Symbolic links are followed inside the root only; magic links not at all.
    pub(crate) fn open(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        retry(|| openat2(&self.fd, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve))
    }

    /// As [`Root::open`], refusing symbolic links at every step.
    pub(crate) fn open_plain(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        retry(|| openat2(&self.fd, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve))
    }

    /// Opens a mount target with `O_PATH`, making it and its parents where missing. Where a symbolic link leads to
    /// nothing, what it leads to is made, in the root, as Docker does.
    pub(crate) fn open_target(&self, path: &Path, kind: TargetKind) -> Result<OwnedFd, StartFailure> {
        match self.open(path, OFlags::PATH) {
            Ok(fd) => return check_kind(fd, kind, path),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(system("mount", path.display())(error)),
        }
        let cleaned = self.resolve(&clean(path))?;
        let name = cleaned
            .file_name()
            .ok_or_else(|| invalid("mount", "the mount target is the root"))?;
        let parent = self.make_directories(cleaned.parent().unwrap_or(Path::new("/")))?;
        let made = match kind {
            TargetKind::Directory => mkdirat(&parent, name, Mode::from_raw_mode(0o755)),
            TargetKind::File => make_file(parent.as_fd(), name),
        };
        match made {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(cannot_make(&parent, path, error)),
        }
        let fd = self
            .open(&cleaned, OFlags::PATH)
            .map_err(system("mount", path.display()))?;
        check_kind(fd, kind, path)
    }

    /// The path with the symbolic links on it replaced by what they say, inside the root. What is missing stays as it
    /// is. A link changed meanwhile gives a wrong name, never one outside: whoever opens it looks in the root again.
    pub(crate) fn resolve(&self, path: &Path) -> Result<PathBuf, StartFailure> {
        let mut resolved = PathBuf::from("/");
        let mut rest: VecDeque<OsString> = path
            .components()
            .map(|part| part.as_os_str().to_owned())
            .collect();
        let mut links = 0;
        while let Some(part) = rest.pop_front() {
            let next = clean(&resolved.join(&part));
            let link = self
                .open(&next, OFlags::PATH | OFlags::NOFOLLOW)
                .and_then(|fd| rustix::fs::readlinkat(&fd, "", Vec::new()));
            let Ok(link) = link else {
                resolved = next;
                continue;
            };
            links += 1;
            if links > LINKS_MAX {
                return Err(system("mount", path.display())(Errno::LOOP));
            }
            let target = PathBuf::from(OsStr::from_bytes(link.as_bytes()));
            for part in target.components().rev() {
                rest.push_front(part.as_os_str().to_owned());
            }
        }
        Ok(resolved)
    }

    /// `mkdir -p` in the root; returns the last directory, opened with `O_PATH`.
    pub(crate) fn make_directories(&self, path: &Path) -> Result<OwnedFd, StartFailure> {
        let directory = OFlags::PATH | OFlags::DIRECTORY;
        let mut reached = PathBuf::from("/");
        let mut here = self.open(&reached, directory).map_err(system("mount", "/"))?;
        for component in clean(path).components() {
            let Component::Normal(name) = component else {
                continue;
            };
            reached.push(name);
            here = match self.open(&reached, directory) {
                Ok(next) => next,
                Err(Errno::NOENT) => {
                    match mkdirat(&here, name, Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(cannot_make(&here, &reached, error)),
                    }
                    self.open(&reached, directory)
                        .map_err(system("mount", reached.display()))?
                }
                Err(error) => return Err(system("mount", reached.display())(error)),
            };
        }
        Ok(here)
    }

    /// Makes this the root of the calling process and of its mount namespace, and lets the old one go.
    pub(crate) fn pivot(&self) -> Result<(), StartFailure> {
        rustix::process::fchdir(&self.fd).map_err(system("rootfs", "enter the root filesystem"))?;
        rustix::process::pivot_root(".", ".").map_err(system("rootfs", "pivot"))?;
        // The old root now lies over the new one; without it nothing of the host's can be reached by path.
        unmount(".", UnmountFlags::DETACH).map_err(system("rootfs", "let the old root go"))?;
        rustix::process::chdir("/").map_err(system("rootfs", "/"))
    }
}

/// The tree at `path` with everything mounted in it, as a detached mount.
pub(crate) fn copy_tree(path: &Path) -> Result<OwnedFd, StartFailure> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, path, flags).map_err(system("rootfs", path.display()))
}

/// A read-only overlay of directories, topmost first, as a detached mount.
pub(crate) fn read_only_overlay(
    layers: &[PathBuf],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, StartFailure> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(system("rootfs", "open the overlay file system"))?;
    for path in layers {
        fsconfig_set_string(context.as_fd(), "lowerdir+", path)
            .map_err(system("rootfs", format_args!("layer {}", path.display())))?;
    }
    let described = format!("mount {} layers to look at them", layers.len());
    fsconfig_create(context.as_fd()).map_err(system("rootfs", &described))?;
    let attributes = attributes | MountAttrFlags::MOUNT_ATTR_RDONLY;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(system("rootfs", described))
}

/// Attaches a detached mount to the target behind a descriptor.
pub(crate) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}

/// A detached copy of the mount (or of the subtree) behind a descriptor.
pub(crate) fn copy_mount(of: BorrowedFd<'_>, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(of, "", flags)
}

/// Keeps others from mounting a snapshot for writing as long as the descriptor is open: every such mount replaces the
/// inner work directory, and with it what another one is copying up there.
pub(crate) fn lock_work(work: &Path, operation: FlockOperation) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(work, flags, Mode::empty())?;
    rustix::fs::flock(&directory, operation)?;
    Ok(directory)
}

/// The overlay as a detached mount; `None` where the kernel cannot take layers one by one, or a path is too long.
pub(crate) fn overlay(lower: &[PathBuf], upper: &Path, work: &Path) -> Result<Option<OwnedFd>, StartFailure> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(system("rootfs", "open the overlay file system"))?;
    let layers = lower.iter().map(|path| ("lowerdir+", path.as_path()));
    for (key, path) in layers.chain([("upperdir", upper), ("workdir", work)]) {
        match fsconfig_set_string(context.as_fd(), key, path) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NAMETOOLONG) => return Ok(None),
            Err(error) => return Err(system("rootfs", format_args!("layer {}", path.display()))(error)),
        }
    }
    match fsconfig_create(context.as_fd()) {
        Ok(()) => {}
        // Before 6.5 overlayfs takes any option at first and looks at them only here.
        Err(Errno::INVAL) => return Ok(None),
        Err(error) => {
            return Err(system(
                "rootfs",
                format_args!("mount the overlay of {} layers", lower.len()),
            )(error));
        }
    }
    fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
    .map(Some)
    .map_err(system("rootfs", "mount the overlay"))
}

/// A detached mount of one directory, its ids shifted into a user namespace.
pub(crate) fn copy_mapped(path: &Path, user: &UserNamespace) -> Result<OwnedFd, StartFailure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let fd = open_tree(CWD, path, flags).map_err(system("rootfs", path.display()))?;
    map_ids(fd.as_fd(), user.fd.as_fd(), false).map_err(system(
        "rootfs",
        format_args!(
            "map the ids of {} (its file system must allow it)",
            path.display()
        ),
    ))?;
    Ok(fd)
}

/// Shifts the ids of a detached mount into a user namespace.
pub(crate) fn map_ids(
    mount: BorrowedFd<'_>,
    user_namespace: BorrowedFd<'_>,
    recursive: bool,
) -> std::io::Result<()> {
    let attributes = MountAttributes {
        set: libc::MOUNT_ATTR_IDMAP,
        user_namespace: user_namespace.as_raw_fd() as u64,
        ..MountAttributes::default()
    };
    set_attributes(mount, attributes, recursive)
}

pub(crate) fn common_ancestor<P: AsRef<Path>>(paths: &[P]) -> PathBuf {
    let mut common = paths
        .first()
        .map_or_else(|| PathBuf::from("/"), |path| path.as_ref().to_owned());
    while !paths.iter().all(|path| path.as_ref().starts_with(&common)) {
        common.pop();
    }
    common
}

/// Overlayfs separates layers by `:` and options by `,`; a backslash takes the meaning away.
pub(crate) fn escape_overlay(path: &Path) -> OsString {
    let mut escaped = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        if matches!(byte, b':' | b',' | b'\\') {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    OsStr::from_bytes(&escaped).to_owned()
}

fn check_kind(fd: OwnedFd, kind: TargetKind, path: &Path) -> Result<OwnedFd, StartFailure> {
    let stat = fstat(&fd).map_err(system("mount", path.display()))?;
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if is_directory == (kind == TargetKind::Directory) {
        return Ok(fd);
    }
    Err(invalid(
        "mount",
        format!(
            "mount on {}: not a directory: Are you trying to mount a directory onto a file (or vice-versa)? Check if \
             the specified host path exists and is the expected type",
            path.display()
        ),
    ))
}

fn cannot_make(parent: &OwnedFd, path: &Path, error: Errno) -> StartFailure {
    let is_proc = rustix::fs::fstatfs(parent).is_ok_and(|stat| stat.f_type == libc::PROC_SUPER_MAGIC);
    if is_proc {
        return invalid(
            "mount",
            format!("cannot make {}: it is inside /proc", path.display()),
        );
    }
    system("mount", format_args!("make {}", path.display()))(error)
}

fn make_file(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
    rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
}

/// The path without `.` and `..`, resolved by its letters alone and never above the root.
pub(crate) fn clean(path: &Path) -> PathBuf {
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

/// `openat2` answers EAGAIN when something was renamed meanwhile.
fn retry(mut open: impl FnMut() -> rustix::io::Result<OwnedFd>) -> rustix::io::Result<OwnedFd> {
    for _ in 0..100 {
        match open() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    open()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaned_paths_stay_below_the_root() {
        assert_eq!(clean(Path::new("/a/../../etc/./x")), Path::new("/etc/x"));
        assert_eq!(clean(Path::new("relative")), Path::new("/relative"));
    }

    #[test]
    fn layers_find_their_common_directory() {
        let paths = [PathBuf::from("/d/snap/1/fs"), PathBuf::from("/d/snap/22/fs")];
        assert_eq!(common_ancestor(&paths), Path::new("/d/snap"));
    }

    #[test]
    fn overlay_separators_are_escaped() {
        assert_eq!(escape_overlay(Path::new("/a:b,c")), OsStr::new("/a\\:b\\,c"));
    }
}
