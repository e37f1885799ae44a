//! A container's file tree as others look at it: to copy files from and to it, to archive it.
//!
//! ```text
//!  running      the tree its own processes have, entered by its mount namespace
//!  stopped      an overlay of its layers and its mounts, put together in a mount namespace that only this view has
//!  layers alone its own files without any mount
//! ```
//! Nothing of the container is run or loaded. Every function changes the calling thread for good and must be called on
//! a thread that ends with it: [`on_own_thread`] makes one.

use crate::failure::{invalid, system};
use crate::mounts;
use crate::namespaces;
use crate::plan::{RootfsPlan, StartFailure};
use crate::root::{Root, copy_mount, lock_work, read_only_overlay};
use naru_sys::mount::{MountAttributes, set_attributes};
use naru_sys::namespace;
use oci_spec::runtime::Mount;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Nothing seen from outside is to be run or opened as a device.
const HARMLESS: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// A file tree: the descriptor of its root, and what keeps its mounts where they are.
#[derive(Debug)]
pub struct View {
    pub root: OwnedFd,
    _namespace: Option<OwnedFd>,
    /// Locked for one that may write.
    _work: Option<OwnedFd>,
}

/// A container's process and when it started, by which one that has taken its number is told apart.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    pub pid: i32,
    pub start_time: u64,
}

/// Runs `work` on a thread of its own and waits for it.
pub fn on_own_thread<T: Send>(
    work: impl FnOnce() -> Result<T, StartFailure> + Send,
) -> Result<T, StartFailure> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("naru-view".to_owned())
            .spawn_scoped(scope, work)
            .map_err(system("view", "start a thread"))?;
        thread
            .join()
            .unwrap_or_else(|_| Err(system("view", "look at the container")("the thread panicked")))
    })
}

/// The tree of a running container with all its mounts. `None` when the process is gone.
pub fn running(process: Process) -> Result<Option<View>, StartFailure> {
    let Some(namespace) = enter(process)? else {
        return Ok(None);
    };
    Ok(Some(View {
        root: Root::current()?.into_fd(),
        _namespace: Some(namespace),
        _work: None,
    }))
}

/// The root file system of a running container without anything mounted on it. `None` when the process is gone.
pub fn running_without_mounts(process: Process) -> Result<Option<View>, StartFailure> {
    let Some(_namespace) = enter(process)? else {
        return Ok(None);
    };
    let root = copy_mount(Root::current()?.fd(), false).map_err(system("view", "copy the root mount"))?;
    Ok(Some(View {
        root,
        _namespace: None,
        _work: None,
    }))
}

fn enter(process: Process) -> Result<Option<OwnedFd>, StartFailure> {
    let Ok(theirs) = namespaces::of_process(process.pid, "mnt") else {
        return Ok(None);
    };
    // Read after the namespace was opened: the process that has this start time is the one it was taken from.
    if crate::stem::start_time(process.pid) != Some(process.start_time) {
        return Ok(None);
    }
    namespace::unshare_file_system_state().map_err(system("view", "leave the shared root directory"))?;
    namespace::join(theirs.as_fd(), libc::CLONE_NEWNS)
        .map_err(system("view", "enter the container's mount namespace"))?;
    Ok(Some(theirs))
}

/// Layers seen as one read-only tree, topmost first.
pub fn layers(layers: &[PathBuf]) -> Result<View, StartFailure> {
    let root = match layers {
        // The kernel makes no overlay of one directory.
        [only] => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(only, flags, rustix::fs::Mode::empty())
                .map_err(system("view", format_args!("open {}", only.display())))?
        }
        several => read_only_overlay(several, HARMLESS)?,
    };
    Ok(View {
        root,
        _namespace: None,
        _work: None,
    })
}

/// What to put together for a container that does not run.
#[derive(Debug)]
pub enum Base<'a> {
    /// To read: `upper` over `lower`.
    ReadOnly { lower: &'a [PathBuf], upper: &'a Path },
    /// To write: nobody else may mount the same layers meanwhile.
    Writable(&'a RootfsPlan),
}

/// What a remapped container's ids are on the host: the texts of `uid_map` and `gid_map` the other way round, so that
/// what the host calls 200007 is shown, and made, as 7.
#[derive(Debug)]
pub struct HostIds {
    pub uids: String,
    pub gids: String,
}

/// The tree of a stopped container with its bind mounts. Its own files have its own ids on disk; those in its mounts
/// have the host's, and are shown with its own. Where a read-only tree lacks a mount's target the answer is
/// `None`: a writable one has to be put together first, which makes it.
pub fn stopped(
    base: &Base<'_>,
    binds: &[Mount],
    ids: Option<&HostIds>,
) -> Result<Option<View>, StartFailure> {
    let ids = ids
        .map(|ids| namespace::make_user_namespace(&ids.uids, &ids.gids))
        .transpose()
        .map_err(system("view", "make a user namespace with the ids of the host"))?;
    namespace::unshare(libc::CLONE_NEWNS).map_err(system("view", "make a mount namespace"))?;
    let private = MountAttributes {
        propagation: libc::MS_PRIVATE,
        ..MountAttributes::default()
    };
    set_attributes(Root::current()?.fd(), private, true).map_err(system("view", "make mounts private"))?;
    let work = match base {
        Base::Writable(RootfsPlan::Overlay { work, .. }) => Some(
            lock_work(work, FlockOperation::LockExclusive)
                .map_err(system("view", format_args!("lock {}", work.display())))?,
        ),
        _ => None,
    };
    let root = match base {
        Base::Writable(plan) => Root::mount(plan, None)?,
        Base::ReadOnly { lower, upper } => {
            let all: Vec<PathBuf> = std::iter::once(upper.to_path_buf())
                .chain(lower.iter().cloned())
                .collect();
            Root::place(read_only_overlay(&all, HARMLESS)?, upper)?
        }
    };
    let is_writable = matches!(base, Base::Writable(_));
    for mount in binds {
        if !is_writable && is_missing(&root, mount.destination()) {
            return Ok(None);
        }
        mounts::apply_bind(&root, mount, ids.as_ref().map(AsFd::as_fd))?;
    }
    let namespace = namespaces::own("mnt")?;
    Ok(Some(View {
        root: root.into_fd(),
        _namespace: Some(namespace),
        _work: work,
    }))
}

fn is_missing(root: &Root, path: &Path) -> bool {
    matches!(root.open(path, OFlags::PATH), Err(Errno::NOENT | Errno::NOTDIR))
}

/// The user and group that `user` means in this tree, by its own databases.
pub fn find_user(view: &View, user: &str) -> Result<(u32, u32), StartFailure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(&view.root, ".", flags, Mode::empty()).map_err(system("user", "/"))?;
    let user = crate::users::resolve(&Root::of(root), user, &[])
        .map_err(|failure| invalid("user", failure.message))?;
    Ok((user.uid, user.gid))
}
