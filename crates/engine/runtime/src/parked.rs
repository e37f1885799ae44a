//! What a container's root filesystem will need in any case, made while there is time: detached mounts.

use crate::failure::system;
use crate::mounts;
use crate::plan::{MappedRoot, StartFailure, StemPlan};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid, chownat, mkdirat, mknodat, symlinkat, unlinkat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A file system and how it is to be mounted, comparable so that a parked one serves only an equal wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileSystem {
    pub(crate) kind: String,
    pub(crate) source: String,
    /// Mount attributes (`MOUNT_ATTR_*`).
    pub(crate) attributes: u32,
    /// Options of the file system itself, sorted: `mode=755`, `newinstance`.
    pub(crate) data: Vec<String>,
}

impl FileSystem {
    fn new(kind: &str, source: &str, attributes: MountAttrFlags, data: &[&str]) -> Self {
        let mut data: Vec<_> = data.iter().map(|&option| option.to_owned()).collect();
        data.sort();
        Self {
            kind: kind.to_owned(),
            source: source.to_owned(),
            attributes: attributes.bits(),
            data,
        }
    }

    /// Makes it as a detached mount.
    pub(crate) fn mount(&self) -> Result<OwnedFd, StartFailure> {
        let what = || format!("mount {}", self.kind);
        let context =
            fsopen(self.kind.as_str(), FsOpenFlags::FSOPEN_CLOEXEC).map_err(system("mount", what()))?;
        let set = |option: &str| match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(context.as_fd(), key, value),
            None => fsconfig_set_flag(context.as_fd(), option),
        };
        let _ = fsconfig_set_string(context.as_fd(), "source", self.source.as_str());
        for option in &self.data {
            set(option).map_err(system("mount", format_args!("{}: option {option}", what())))?;
        }
        fsconfig_create(context.as_fd()).map_err(system("mount", what()))?;
        let attributes = MountAttrFlags::from_bits_retain(self.attributes);
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(system("mount", what()))
    }
}

/// The detached mounts of a parked stem. Each is good for a container that keeps the namespace it belongs to.
pub(crate) struct Parked {
    mounts: Vec<(FileSystem, OwnedFd)>,
}

impl Parked {
    /// Made in the stem's own namespaces, with an empty umask. In a user namespace /dev, and whatever shows a
    /// namespace of the host's, is left to the keeper.
    pub(crate) fn make(plan: &StemPlan) -> Result<Self, StartFailure> {
        let mut mounts = Vec::new();
        let is_keepers = |wish: &FileSystem| {
            let is_dev = plan.user.is_some() && is_dev(wish);
            is_dev || namespace_shown(&wish.kind).is_some_and(|kind| plan.shared.contains(&kind))
        };
        for wish in standard().into_iter().filter(|wish| !is_keepers(wish)) {
            let mount = wish.mount()?;
            if is_dev(&wish) {
                fill_dev(mount.as_fd(), None)?;
            }
            if wish.kind == "sysfs" {
                look_up_masked(mount.as_fd());
            }
            mounts.push((wish, mount));
        }
        if plan.shared.contains(&LinuxNamespaceType::Cgroup) {
            return Ok(Self { mounts });
        }
        // On kernels before 6.15 this waits until the container's tree is there.
        let wish = cgroup_wish(read_only());
        if let Ok(tree) = mounts::cgroup_tree(wish.attributes, |_| Ok(())) {
            mounts.push((wish, tree));
        }
        Ok(Self { mounts })
    }

    /// Hands out the parked mount equal to `wish`, once.
    pub(crate) fn take(&mut self, wish: &FileSystem) -> Option<OwnedFd> {
        let position = self.mounts.iter().position(|(parked, _)| parked == wish)?;
        Some(self.mounts.swap_remove(position).1)
    }

    /// Forgets what belongs to a namespace that the container does not keep.
    pub(crate) fn discard(&mut self, kind: &str) {
        self.mounts.retain(|(parked, _)| parked.kind != kind);
    }
}

/// The first look at a path of a new sysfs makes the kernel build it; the start will look at these.
fn look_up_masked(sysfs: BorrowedFd<'_>) {
    for path in crate::default_masked_paths() {
        if let Some(below) = path.strip_prefix("/sys/") {
            let _ = rustix::fs::statat(sysfs, below, rustix::fs::AtFlags::empty());
        }
    }
}

fn is_dev(wish: &FileSystem) -> bool {
    wish.kind == "tmpfs" && wish.source == "tmpfs"
}

/// The kind of namespace that a file system shows, and whose owner alone may mount it.
pub(crate) fn namespace_shown(kind: &str) -> Option<LinuxNamespaceType> {
    match kind {
        "sysfs" => Some(LinuxNamespaceType::Network),
        "mqueue" => Some(LinuxNamespaceType::Ipc),
        "cgroup" | "cgroup2" => Some(LinuxNamespaceType::Cgroup),
        _ => None,
    }
}

/// The whole tree of /sys/fs/cgroup, as one wish.
pub(crate) fn cgroup_wish(attributes: u32) -> FileSystem {
    FileSystem {
        kind: "cgroup".to_owned(),
        source: "cgroup".to_owned(),
        attributes,
        data: Vec::new(),
    }
}

fn read_only() -> u32 {
    (MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_RDONLY)
        .bits()
}

/// The mounts of every Docker container, as its OCI specification words them.
fn standard() -> Vec<FileSystem> {
    let nosuid = MountAttrFlags::MOUNT_ATTR_NOSUID;
    let noexec = MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let nodev = MountAttrFlags::MOUNT_ATTR_NODEV;
    let strict = MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    let all = nosuid | noexec | nodev;
    vec![
        FileSystem::new("tmpfs", "tmpfs", nosuid | strict, &["mode=755", "size=65536k"]),
        FileSystem::new(
            "devpts",
            "devpts",
            nosuid | noexec,
            &["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        FileSystem::new("sysfs", "sysfs", all | MountAttrFlags::MOUNT_ATTR_RDONLY, &[]),
        FileSystem::new("mqueue", "mqueue", all, &[]),
        FileSystem::new("tmpfs", "shm", all, &["mode=1777", "size=67108864"]),
    ]
}

/// The devices that every container has (OCI runtime specification, "Default Devices"), with their numbers.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// OCI runtime specification, "Dev symbolic links"; `ptmx` belongs to devpts.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// The directories of /dev that other file systems are mounted on.
const PLACES: [&str; 3] = ["pts", "shm", "mqueue"];

/// Takes those away that nothing will be mounted on: with `--ipc none` there is no /dev/shm.
pub(crate) fn trim_dev(dev: BorrowedFd<'_>, spec: &Spec) -> Result<(), StartFailure> {
    for name in PLACES {
        let is_used = spec.mounts().iter().flatten().any(|mount| {
            let below = mount.destination().strip_prefix("/dev");
            below.is_ok_and(|path| path.starts_with(name))
        });
        if !is_used {
            unlinkat(dev, name, AtFlags::REMOVEDIR)
                .map_err(system("devices", format_args!("remove /dev/{name}")))?;
        }
    }
    Ok(())
}

/// Fills an empty /dev, for the root of another user namespace where one is named. Names that are already there (a
/// bind mount of the host's /dev) are left alone.
pub(crate) fn fill_dev(dev: BorrowedFd<'_>, owner: Option<MappedRoot>) -> Result<(), StartFailure> {
    let own = |name: &str| match owner {
        None => Ok(()),
        Some(root) => {
            let (uid, gid) = (Uid::from_raw(root.uid), Gid::from_raw(root.gid));
            chownat(dev, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(system(
                "devices",
                format_args!("give /dev/{name} to the container"),
            ))
        }
    };
    let there = |result: rustix::io::Result<()>| match result {
        Err(rustix::io::Errno::EXIST) => Ok(()),
        other => other,
    };
    for (name, major, minor) in DEVICES {
        let number = rustix::fs::makedev(major, minor);
        let mode = Mode::from_raw_mode(0o666);
        there(mknodat(dev, name, FileType::CharacterDevice, mode, number))
            .map_err(system("devices", format_args!("make /dev/{name}")))?;
        own(name)?;
    }
    // As runc: only where the kernel has it.
    let core = [("core", "/proc/kcore")]
        .into_iter()
        .filter(|(_, target)| rustix::fs::stat(*target).is_ok());
    for (name, target) in LINKS.into_iter().chain(core) {
        there(symlinkat(target, dev, name)).map_err(system("devices", format_args!("make /dev/{name}")))?;
        own(name)?;
    }
    for name in PLACES {
        there(mkdirat(dev, name, Mode::from_raw_mode(0o755)))
            .map_err(system("devices", format_args!("make /dev/{name}")))?;
        own(name)?;
    }
    Ok(())
}
