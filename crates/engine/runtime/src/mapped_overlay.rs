//! The overlay of a container in a user namespace of its own: every id in it is shifted, and on disk the ids are those
//! that the container sees, so that its layers serve any other container too. Overlayfs itself cannot be mounted so; what
//! it is made of can (Linux 5.19).
//!
//! Since Linux 6.15 it takes its layers as detached mounts. Before, they must be attached somewhere, which a helper does
//! in a mount namespace of its own.

use crate::channel::Channel;
use crate::failure::system;
use crate::parked::FileSystem;
use crate::plan::StartFailure;
use crate::root::{attach, common_ancestor, copy_mapped, escape_overlay};
use crate::stem::{Report, fork_helper_keeping};
use crate::user_namespace::{UserNamespace, as_mapped_root};
use naru_sys::mount::{MountAttributes, set_attributes};
use naru_sys::namespace;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_string,
    fsmount, fsopen,
};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where the helper attaches the directory that the writable ones are in.
const WRITABLE: &str = "w";

/// The directories an overlay is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layers<'a> {
    /// Topmost first.
    pub(crate) lower: &'a [PathBuf],
    pub(crate) upper: &'a Path,
    pub(crate) work: &'a Path,
}

/// Mounts it, detached. The calling process must be single-threaded and in the host's user namespace.
pub(crate) fn mount(layers: Layers<'_>, user: &UserNamespace) -> Result<OwnedFd, StartFailure> {
    match from_detached(layers, user)? {
        Some(fd) => Ok(fd),
        None => in_helper(layers, user),
    }
}

/// Mounts layers alone, topmost first, which nobody can write to. Only where the kernel takes detached ones.
pub(crate) fn mount_read_only(layers: &[PathBuf], user: &UserNamespace) -> Result<OwnedFd, StartFailure> {
    let context = open_context()?;
    let mut held = Vec::with_capacity(layers.len());
    for path in layers {
        let layer = copy_mapped(path, user)?;
        fsconfig_set_fd(context.as_fd(), "lowerdir+", layer.as_fd()).map_err(of_layer(path))?;
        held.push(layer);
    }
    let described = format!("mount the {} layers of an image with mapped ids", layers.len());
    create(&context, user).map_err(system("mount", &described))?;
    fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )
    .map_err(system("mount", described))
}

/// `None` where the kernel takes no detached layers.
fn from_detached(layers: Layers<'_>, user: &UserNamespace) -> Result<Option<OwnedFd>, StartFailure> {
    let context = open_context()?;
    let add = |key: &str, fd: BorrowedFd<'_>| fsconfig_set_fd(context.as_fd(), key, fd);
    // A detached mount lives as long as its descriptor, and must until the overlay has been made of it.
    let mut held = Vec::with_capacity(layers.lower.len());
    for path in layers.lower {
        let layer = copy_mapped(path, user)?;
        match add("lowerdir+", layer.as_fd()) {
            Ok(()) => held.push(layer),
            // Before 6.13 overlayfs takes no descriptors; before 6.5 no option of any kind but text.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(of_layer(path)(error)),
        }
    }
    // Both must lie in one mount.
    let base = common_ancestor(&[layers.upper, layers.work]);
    let writable = copy_mapped(&base, user)?;
    for (key, path) in [("upperdir", layers.upper), ("workdir", layers.work)] {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(&writable, below(&base, path), flags, Mode::empty()).map_err(of_layer(path))?;
        add(key, fd.as_fd()).map_err(of_layer(path))?;
    }
    match create(&context, user) {
        Ok(()) => finish(&context, layers).map(Some),
        // Before 6.15 it takes none of detached mounts.
        Err(Errno::INVAL) => Ok(None),
        Err(error) => Err(of_overlay(layers)(error)),
    }
}

/// Has a helper attach the layers where nobody else sees them, and mount the overlay there.
fn in_helper(layers: Layers<'_>, user: &UserNamespace) -> Result<OwnedFd, StartFailure> {
    let keep = [user.fd.as_fd()];
    let (channel, _helper) = fork_helper_keeping("rootfs", &keep, |channel, fds| {
        let fd = fds
            .into_iter()
            .next()
            .ok_or_else(|| system("rootfs", "user namespace")("no descriptor"))?;
        let user = UserNamespace { fd, root: user.root };
        report(&channel, &from_attached(layers, &user)?)
    })?;
    match channel
        .receive()
        .map_err(system("rootfs", "read from the helper"))?
    {
        Some((Report::Mounted, fds)) => fds
            .into_iter()
            .next()
            .ok_or_else(|| system("rootfs", "overlay")("it did not arrive")),
        Some((Report::Failed(failure), _)) => Err(failure),
        _ => Err(system("rootfs", "helper")(
            "it ended before it mounted the overlay",
        )),
    }
}

fn report(channel: &Channel, overlay: &OwnedFd) -> Result<(), StartFailure> {
    channel
        .send(&Report::Mounted, &[overlay.as_fd()])
        .map_err(system("rootfs", "hand the overlay over"))
}

fn from_attached(layers: Layers<'_>, user: &UserNamespace) -> Result<OwnedFd, StartFailure> {
    let failed = |what| system("rootfs", what);
    let base = common_ancestor(&[layers.upper, layers.work]);
    let writable = copy_mapped(&base, user)?;
    let lower = layers
        .lower
        .iter()
        .map(|path| copy_mapped(path, user))
        .collect::<Result<Vec<_>, _>>()?;
    let scratch = make_place(layers.upper)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let attach_at = |name: &str, layer: &OwnedFd| {
        mkdirat(&scratch, name, Mode::from_raw_mode(0o755))?;
        let place = openat(&scratch, name, flags, Mode::empty())?;
        attach(layer.as_fd(), place.as_fd())
    };
    let mut names = Vec::with_capacity(lower.len());
    for (index, layer) in lower.iter().enumerate() {
        let name = index.to_string();
        attach_at(&name, layer).map_err(failed("attach a layer"))?;
        names.push(name);
    }
    attach_at(WRITABLE, &writable).map_err(failed("attach the writable layer"))?;
    // The names are relative, so that many fit into the page that the kernel takes.
    rustix::process::fchdir(&scratch).map_err(failed("go to the layers"))?;
    let inside = |path: &Path| escape_overlay(&Path::new(WRITABLE).join(below(&base, path)));
    let context = open_context()?;
    let options = [
        ("lowerdir", OsString::from(names.join(":"))),
        ("upperdir", inside(layers.upper)),
        ("workdir", inside(layers.work)),
    ];
    for (key, value) in &options {
        fsconfig_set_string(context.as_fd(), *key, value.as_os_str()).map_err(of_overlay(layers))?;
    }
    create(&context, user).map_err(of_overlay(layers))?;
    finish(&context, layers)
}

/// An empty directory that only the calling process sees, mounted over one that it has no more use for.
fn make_place(over: &Path) -> Result<OwnedFd, StartFailure> {
    namespace::unshare(libc::CLONE_NEWNS).map_err(system("rootfs", "make a mount namespace"))?;
    let private = MountAttributes {
        propagation: libc::MS_PRIVATE,
        ..MountAttributes::default()
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, "/", flags, Mode::empty()).map_err(system("rootfs", "open the root"))?;
    set_attributes(root.as_fd(), private, true).map_err(system("rootfs", "make mounts private"))?;
    let scratch = FileSystem {
        kind: "tmpfs".to_owned(),
        source: "layers".to_owned(),
        attributes: 0,
        data: vec!["mode=755".to_owned()],
    }
    .mount()?;
    let place = openat(CWD, over, flags, Mode::empty()).map_err(of_layer(over))?;
    attach(scratch.as_fd(), place.as_fd()).map_err(system("rootfs", "attach a place for the layers"))?;
    Ok(scratch)
}

fn open_context() -> Result<OwnedFd, StartFailure> {
    fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(system("rootfs", "open the overlay file system"))
}

/// Overlayfs keeps whose rights it was made with for all that it does later.
fn create(context: &OwnedFd, user: &UserNamespace) -> Result<(), Errno> {
    let mut outcome = Ok(());
    let done = as_mapped_root(user.root, || {
        outcome = fsconfig_create(context.as_fd());
        Ok(())
    });
    done.map_err(|_| Errno::PERM).and(outcome)
}

fn finish(context: &OwnedFd, layers: Layers<'_>) -> Result<OwnedFd, StartFailure> {
    fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
    .map_err(of_overlay(layers))
}

fn below<'a>(base: &Path, path: &'a Path) -> &'a Path {
    path.strip_prefix(base)
        .ok()
        .filter(|relative| !relative.as_os_str().is_empty())
        .unwrap_or(Path::new(OsStr::new(".")))
}

fn of_layer(path: &Path) -> impl FnOnce(Errno) -> StartFailure {
    system("rootfs", format!("layer {}", path.display()))
}

fn of_overlay(layers: Layers<'_>) -> impl FnOnce(Errno) -> StartFailure {
    let what = format!(
        "mount the overlay of {} layers with mapped ids",
        layers.lower.len()
    );
    system("rootfs", what)
}
