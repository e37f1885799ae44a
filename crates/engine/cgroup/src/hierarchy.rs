//! Which cgroup hierarchies the host has mounted, and how a directory in them is reached.
//!
//! ```text
//!  v2                     /sys/fs/cgroup                       one root, all controllers
//!  v1                     /sys/fs/cgroup/{cpu,memory,…}        a root for each set of controllers
//!  hybrid                 v1, plus a bare v2 root without controllers (kept: it has cgroup.kill)
//! ```
//!
//! Every operation asks for the root of its controller and looks at that root's own version, so a host which has
//! moved only some controllers to v2 is served too. Roots are held as directory descriptors: a path is resolved
//! from there, even by a process that has changed its root or its mount namespace since.

use crate::error::{CgroupError, Result};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The kernel's own names of the v1 controllers; any other word among a mount's options is an option.
const V1_CONTROLLERS: [&str; 14] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "rdma",
    "misc",
];

/// The v2 controllers that limits are written for; others stay as they are on the host.
const V2_CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"];

/// The form that controllers have on this host. A hybrid host whose v2 root has no controllers is `V1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// One mounted hierarchy.
#[derive(Debug)]
pub struct Root {
    directory: OwnedFd,
    mount_point: PathBuf,
    version: Version,
    controllers: Vec<String>,
    name: Option<String>,
}

impl Root {
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// Controllers of this hierarchy; empty for a named v1 one and for the bare v2 one of a hybrid host.
    pub fn controllers(&self) -> &[String] {
        &self.controllers
    }

    /// `systemd` for the hierarchy mounted with `name=systemd`.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub fn has_controller(&self, controller: &str) -> bool {
        self.controllers.iter().any(|own| own == controller)
    }

    pub(crate) fn display(&self, relative: &str) -> PathBuf {
        self.mount_point.join(relative)
    }

    fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Makes one directory; whether it is new.
    pub(crate) fn make_directory(&self, relative: &str) -> Result<bool, Errno> {
        match rustix::fs::mkdirat(self.directory(), relative, Mode::from_raw_mode(0o755)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn remove_directory(&self, relative: &str) -> Result<(), Errno> {
        rustix::fs::unlinkat(self.directory(), relative, AtFlags::REMOVEDIR)
    }

    pub(crate) fn open_directory(&self, relative: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(self.directory(), or_self(relative), flags, Mode::empty())
    }

    pub(crate) fn open_for_writing(&self, relative: &str) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(
            self.directory(),
            relative,
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
    }

    pub(crate) fn write(&self, relative: &str, value: &str) -> Result<(), Errno> {
        write_value(self.open_for_writing(relative)?.as_fd(), value)
    }

    pub(crate) fn read(&self, relative: &str) -> Result<String, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.directory(), relative, flags, Mode::empty())?;
        let mut bytes = Vec::with_capacity(4096);
        loop {
            if bytes.len() == bytes.capacity() {
                bytes.reserve(bytes.capacity());
            }
            if rustix::io::read(&file, rustix::buffer::spare_capacity(&mut bytes))? == 0 {
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
        }
    }

    pub(crate) fn exists(&self, relative: &str) -> bool {
        rustix::fs::accessat(
            self.directory(),
            relative,
            rustix::fs::Access::EXISTS,
            AtFlags::empty(),
        )
        .is_ok()
    }

    /// Names of the directories directly below; none where the directory itself does not exist.
    pub(crate) fn children(&self, relative: &str) -> Result<Vec<String>, Errno> {
        let directory = match self.open_directory(relative) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            if entry.file_type() == rustix::fs::FileType::Directory && name != "." && name != ".." {
                names.push(name.into_owned());
            }
        }
        Ok(names)
    }
}

/// A control file takes a value in one `write`, wholly or not at all.
pub(crate) fn write_value(file: BorrowedFd<'_>, value: &str) -> Result<(), Errno> {
    rustix::io::retry_on_intr(|| rustix::io::write(file, value.as_bytes())).map(drop)
}

fn or_self(relative: &str) -> &str {
    if relative.is_empty() { "." } else { relative }
}

/// All hierarchies of the host.
#[derive(Debug)]
pub struct Hierarchy {
    roots: Vec<Root>,
    version: Version,
    /// Parents whose children can be made with a single `mkdir` in each root, and whether a child's cpuset must
    /// then be filled by hand.
    parents: Mutex<HashMap<String, CpusetInheritance>>,
}

/// A new v1 cpuset is empty and refuses every process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CpusetInheritance {
    /// The kernel fills it (`cgroup.clone_children`), or no v1 cpuset is mounted.
    ByKernel,
    /// Its parent is not ours to change.
    ByHand,
}

/// The host's hierarchies, found once and kept for the life of the process and its forks.
pub fn hierarchy() -> Result<&'static Hierarchy> {
    static FOUND: OnceLock<Hierarchy> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found);
    }
    let detected = Hierarchy::detect()?;
    Ok(FOUND.get_or_init(|| detected))
}

/// The version that limits are set in. A hybrid host may leave a controller or two, `hugetlb` or `net_cls`, in the other
/// one, so those that every container needs decide.
fn version_of(roots: &[Root]) -> Version {
    let deciding = ["memory", "pids", "cpu"];
    let root = deciding
        .iter()
        .find_map(|controller| roots.iter().find(|root| root.has_controller(controller)))
        .or_else(|| roots.iter().find(|root| !root.controllers.is_empty()));
    root.map_or(Version::V2, Root::version)
}

impl Hierarchy {
    pub fn version(&self) -> Version {
        self.version
    }

    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// The root that has a controller, named as in v1 or v2 (`blkio`, `io`).
    pub fn root_with(&self, controller: &str) -> Option<&Root> {
        self.roots.iter().find(|root| root.has_controller(controller))
    }

    /// The v2 root, where one is mounted, with controllers or without.
    pub fn unified(&self) -> Option<&Root> {
        self.roots.iter().find(|root| root.version == Version::V2)
    }

    fn detect() -> Result<Self> {
        let path = "/proc/self/mountinfo";
        let table = read_small_file(path).map_err(|error| CgroupError::io("read", path.into(), error))?;
        let mut roots = Vec::new();
        for mount in parse_mounts(&table) {
            roots.push(open_root(mount)?);
        }
        if roots.is_empty() {
            return Err(CgroupError::NotMounted);
        }
        let version = version_of(&roots);
        Ok(Self {
            roots,
            version,
            parents: Mutex::default(),
        })
    }

    /// Makes the parent of new cgroups and everything above it; remembered, so that it costs nothing the next time.
    pub(crate) fn prepare_parent(&self, parent: &str, again: bool) -> Result<CpusetInheritance> {
        let known = self
            .parents
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(parent)
            .copied();
        if let (Some(inheritance), false) = (known, again) {
            return Ok(inheritance);
        }
        let mut inheritance = CpusetInheritance::ByKernel;
        for root in &self.roots {
            if prepare_parent_in(root, parent, self.version)? == CpusetInheritance::ByHand {
                inheritance = CpusetInheritance::ByHand;
            }
        }
        self.parents
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(parent.to_owned(), inheritance);
        Ok(inheritance)
    }
}

/// On a hybrid host the v2 tree only follows processes: its controllers are left as they are, because a directory with
/// processes could have no children then.
fn prepare_parent_in(root: &Root, parent: &str, limits_in: Version) -> Result<CpusetInheritance> {
    let mut inheritance = if root.has_controller("cpuset") && root.version == Version::V1 && parent.is_empty()
    {
        CpusetInheritance::ByHand
    } else {
        CpusetInheritance::ByKernel
    };
    let sets_limits = root.version == limits_in;
    if root.version == Version::V2 && sets_limits {
        enable_controllers(root, "")?;
    }
    for level in levels(parent) {
        let is_new = root
            .make_directory(level)
            .map_err(|error| CgroupError::io("make the cgroup", root.display(level), error))?;
        match root.version {
            Version::V2 if sets_limits => enable_controllers(root, level)?,
            Version::V2 => {}
            Version::V1 => {
                if root.has_controller("memory") {
                    account_hierarchically(root, level);
                }
                if root.has_controller("cpuset") {
                    inheritance = prepare_cpuset_parent(root, level, is_new)?;
                }
            }
        }
    }
    Ok(inheritance)
}

/// `a`, `a/b`, `a/b/c` for `a/b/c`; nothing for the root itself.
pub(crate) fn levels(path: &str) -> impl Iterator<Item = &str> {
    let ends = path
        .match_indices('/')
        .map(|(index, _)| index)
        .chain([path.len()]);
    ends.filter(|end| *end > 0).map(|end| &path[..end])
}

/// Lets children of this v2 directory have limits. Where the kernel refuses the whole set, each is tried alone: a
/// controller that is missing then is reported by the limit that needs it.
fn enable_controllers(root: &Root, relative: &str) -> Result<()> {
    let file = join(relative, "cgroup.subtree_control");
    let enabled = root.read(&file).unwrap_or_default();
    let wanted: Vec<String> = root
        .controllers
        .iter()
        .filter(|name| V2_CONTROLLERS.contains(&name.as_str()))
        .filter(|name| !enabled.split_whitespace().any(|word| word == name.as_str()))
        .map(|name| format!("+{name}"))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    match root.write(&file, &wanted.join(" ")) {
        Ok(()) => Ok(()),
        // Processes live in this directory itself: no child of it can have limits. Trying further would turn it into
        // a threaded domain, which takes limits away from it too.
        Err(error @ (Errno::BUSY | Errno::OPNOTSUPP)) => Err(CgroupError::io(
            "enable controllers in",
            root.display(&file),
            error,
        )),
        Err(_) => {
            for one in &wanted {
                let _ = root.write(&file, one);
            }
            Ok(())
        }
    }
}

/// Kernels before 5.11 count a v1 child's memory in its parent only when told so; later ones always do.
fn account_hierarchically(root: &Root, relative: &str) {
    let file = join(relative, "memory.use_hierarchy");
    if root.read(&file).is_ok_and(|value| value.trim() == "0") {
        // Refused when children exist already; limits of the containers themselves work either way.
        let _ = root.write(&file, "1");
    }
}

/// Only a directory made here is told to clone itself into its children; a foreign one stays as it is.
fn prepare_cpuset_parent(root: &Root, relative: &str, is_new: bool) -> Result<CpusetInheritance> {
    let file = join(relative, "cgroup.clone_children");
    inherit_cpuset(root, relative)?;
    if is_new {
        root.write(&file, "1")
            .map_err(|error| CgroupError::io("write", root.display(&file), error))?;
        return Ok(CpusetInheritance::ByKernel);
    }
    let clones = root.read(&file).is_ok_and(|value| value.trim() == "1");
    Ok(if clones {
        CpusetInheritance::ByKernel
    } else {
        CpusetInheritance::ByHand
    })
}

/// Fills an empty v1 cpuset from its parent, which is filled first.
pub(crate) fn inherit_cpuset(root: &Root, relative: &str) -> Result<()> {
    for level in levels(relative) {
        let parent = level.rsplit_once('/').map_or("", |(parent, _)| parent);
        for name in ["cpuset.cpus", "cpuset.mems"] {
            let file = join(level, name);
            let read = |path: &str| {
                root.read(path)
                    .map_err(|error| CgroupError::io("read", root.display(path), error))
            };
            if read(&file)?.trim().is_empty() {
                let value = read(&join(parent, name))?;
                root.write(&file, value.trim())
                    .map_err(|error| CgroupError::io("write", root.display(&file), error))?;
            }
        }
    }
    Ok(())
}

pub(crate) fn join(relative: &str, file: &str) -> String {
    if relative.is_empty() {
        file.to_owned()
    } else {
        format!("{relative}/{file}")
    }
}

#[derive(Debug, PartialEq, Eq)]
struct CgroupMount {
    device: String,
    mount_point: PathBuf,
    version: Version,
    controllers: Vec<String>,
    name: Option<String>,
}

/// Reads the cgroup mounts from a mountinfo table (proc_pid_mountinfo(5)); a hierarchy mounted twice counts once, at
/// its place below /sys/fs/cgroup where it has one.
fn parse_mounts(table: &str) -> Vec<CgroupMount> {
    let mut mounts: Vec<CgroupMount> = Vec::new();
    for mount in table.lines().filter_map(parse_mount) {
        match mounts.iter_mut().find(|known| known.device == mount.device) {
            None => mounts.push(mount),
            Some(known) => {
                let usual = |mount: &CgroupMount| mount.mount_point.starts_with("/sys/fs/cgroup");
                if usual(&mount) && !usual(known) {
                    *known = mount;
                }
            }
        }
    }
    mounts
}

fn parse_mount(line: &str) -> Option<CgroupMount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(2);
    let device = left.next()?.to_owned();
    let mount_point = PathBuf::from(left.nth(1)?);
    let mut right = right.split(' ');
    let version = match right.next()? {
        "cgroup" => Version::V1,
        "cgroup2" => Version::V2,
        _ => return None,
    };
    let options = right.nth(1).unwrap_or_default();
    let words = || options.split(',');
    let controllers = match version {
        Version::V1 => words()
            .filter(|word| V1_CONTROLLERS.contains(word))
            .map(str::to_owned)
            .collect(),
        Version::V2 => Vec::new(),
    };
    let name = words()
        .find_map(|word| word.strip_prefix("name="))
        .map(str::to_owned);
    Some(CgroupMount {
        device,
        mount_point,
        version,
        controllers,
        name,
    })
}

fn open_root(mount: CgroupMount) -> Result<Root> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(&mount.mount_point, flags, Mode::empty())
        .map_err(|error| CgroupError::io("open", mount.mount_point.clone(), error))?;
    let CgroupMount {
        mount_point,
        version,
        controllers,
        name,
        ..
    } = mount;
    let mut root = Root {
        directory,
        mount_point,
        version,
        controllers,
        name,
    };
    if version == Version::V2 {
        let listed = root.read("cgroup.controllers").unwrap_or_default();
        root.controllers = listed.split_whitespace().map(str::to_owned).collect();
    }
    Ok(root)
}

fn read_small_file(path: &str) -> Result<String, Errno> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::with_capacity(16 * 1024);
    loop {
        if bytes.len() == bytes.capacity() {
            bytes.reserve(bytes.capacity());
        }
        if rustix::io::read(&file, rustix::buffer::spare_capacity(&mut bytes))? == 0 {
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:4 - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /mnt/other rw,relatime - cgroup2 cgroup2 rw
42 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn hybrid_mounts_are_found_once_each() {
        let mounts = parse_mounts(HYBRID);
        assert_eq!(mounts.len(), 3);
        assert_eq!(mounts[0].controllers, ["cpu", "cpuacct"]);
        assert_eq!(mounts[1].name.as_deref(), Some("systemd"));
        assert!(mounts[1].controllers.is_empty());
        assert_eq!(mounts[2].version, Version::V2);
        assert_eq!(mounts[2].mount_point, Path::new("/sys/fs/cgroup/unified"));
    }

    #[test]
    fn levels_run_from_the_top() {
        assert_eq!(levels("a/b/c").collect::<Vec<_>>(), ["a", "a/b", "a/b/c"]);
        assert_eq!(levels("").count(), 0);
    }
}
