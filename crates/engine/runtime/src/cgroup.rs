//! Joining a cgroup that already exists, in every hierarchy, and showing a container its own.

use crate::plan::MappedRoot;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A mounted cgroup hierarchy of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) mount_point: PathBuf,
    pub(crate) kind: HierarchyKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HierarchyKind {
    /// Version 1; the mount options that name it: `cpu,cpuacct` or `name=systemd`.
    One {
        controllers: Vec<String>,
    },
    Two,
}

/// The host's hierarchies; looked up once in a process and its forks.
pub(crate) fn hierarchies() -> &'static [Hierarchy] {
    static HIERARCHIES: OnceLock<Vec<Hierarchy>> = OnceLock::new();
    HIERARCHIES.get_or_init(|| {
        fs::read_to_string("/proc/self/mountinfo")
            .map(|text| parse_hierarchies(&text))
            .unwrap_or_default()
    })
}

fn parse_hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((front, back)) = line.split_once(" - ") else {
            continue;
        };
        let mut back = back.split(' ');
        let file_system = back.next().unwrap_or_default();
        let options = back.nth(1).unwrap_or_default();
        let mut front = front.split(' ').skip(3);
        let (Some(root), Some(mount_point)) = (front.next(), front.next()) else {
            continue;
        };
        let kind = match file_system {
            "cgroup2" => HierarchyKind::Two,
            "cgroup" => HierarchyKind::One {
                controllers: controllers_of(options),
            },
            _ => continue,
        };
        if root == "/" && !found.iter().any(|hierarchy| hierarchy.kind == kind) {
            found.push(Hierarchy {
                mount_point: PathBuf::from(mount_point),
                kind,
            });
        }
    }
    found
}

/// What names a version 1 hierarchy among its super block options.
fn controllers_of(options: &str) -> Vec<String> {
    let other = [
        "rw",
        "ro",
        "xattr",
        "clone_children",
        "noprefix",
        "none",
        "favordynmods",
        "cpuset_v2_mode",
    ];
    options
        .split(',')
        .filter(|option| !other.contains(option) && !option.starts_with("release_agent="))
        .map(str::to_owned)
        .collect()
}

/// The ways into a cgroup, opened while the host's files can be seen.
pub(crate) struct Entrances(Vec<File>);

impl Entrances {
    /// One for every hierarchy that has `cgroup`. A hierarchy without that directory is passed over: it has no
    /// controller that anyone limits. Having none at all is an error.
    pub(crate) fn open(cgroup: &str) -> io::Result<Self> {
        let mut found = Vec::new();
        for hierarchy in hierarchies() {
            let path = directory(&hierarchy.mount_point, cgroup).join("cgroup.procs");
            match OpenOptions::new().write(true).open(path) {
                Ok(file) => found.push(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if found.is_empty() {
            Err(io::ErrorKind::NotFound.into())
        } else {
            Ok(Self(found))
        }
    }

    /// Moves the calling process in. Unlike making a process there it needs no room under a limit of processes.
    pub(crate) fn enter(&self) -> io::Result<()> {
        self.0.iter().try_for_each(|mut file| file.write_all(b"0"))
    }
}

/// Moves the calling process into `cgroup` in every hierarchy that has it.
pub(crate) fn join(cgroup: &str) -> io::Result<()> {
    Entrances::open(cgroup)?.enter()
}

/// Gives a container's cgroup to the root of its user namespace, where it may write to it (OCI runtime specification,
/// "Cgroup ownership"): version 2 only, the directory and the files that the kernel calls delegatable.
pub(crate) fn delegate(cgroup: &str, root: MappedRoot) -> io::Result<()> {
    let listed = fs::read_to_string("/sys/kernel/cgroup/delegate").unwrap_or_else(|_| {
        // Linux before 4.15 does not say.
        "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n".to_owned()
    });
    for hierarchy in hierarchies() {
        if hierarchy.kind != HierarchyKind::Two {
            return Ok(());
        }
        let directory = directory(&hierarchy.mount_point, cgroup);
        lchown(&directory, Some(root.uid), Some(root.gid))?;
        for name in listed.lines() {
            match lchown(directory.join(name), Some(root.uid), Some(root.gid)) {
                // A file of a controller that is not switched on here.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
    }
    Ok(())
}

fn directory(mount_point: &Path, cgroup: &str) -> PathBuf {
    mount_point.join(cgroup.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_read_from_mountinfo() {
        let text = "30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
            31 30 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n\
            33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            34 30 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n\
            35 30 0:29 /docker/x /elsewhere rw - cgroup cgroup rw,cpu,cpuacct\n";
        let found = parse_hierarchies(text);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].kind, HierarchyKind::Two);
        assert_eq!(
            found[1].kind,
            HierarchyKind::One {
                controllers: vec!["cpu".into(), "cpuacct".into()]
            }
        );
        assert_eq!(
            found[2].kind,
            HierarchyKind::One {
                controllers: vec!["name=systemd".into()]
            }
        );
    }
}
