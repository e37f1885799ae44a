//! The user namespace of a stem: how the stem gets into it, and what its keeper keeps of it.
//!
//! ```text
//!  keeper (host's user namespace)        stem
//!    │◀── Unshared ─────────────────────── is in a new one, in which nobody has an id yet
//!    │ writes uid_map and gid_map
//!    │─── gate opens ─────────────────────▶ becomes its root, and makes all other namespaces within
//! ```
//! Inside, the stem has every capability, and none on the host. What needs one there its keeper does for it: see
//! `sources`.

use crate::channel::Channel;
use crate::failure::{invalid, system};
use crate::plan::{MappedRoot, StartFailure, UserNamespacePlan};
use crate::stem::{ChildStdio, Report};
use naru_sys::{namespace, process};
use oci_spec::runtime::LinuxIdMapping;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::process::Signal;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// As many lines as the kernel takes in one mapping (`user_namespaces(7)`).
const MAPPINGS_MAX: usize = 340;

/// The stem's side: enters the namespace and becomes its root.
pub(crate) fn enter(channel: &Channel, plan: &UserNamespacePlan) -> Result<(), StartFailure> {
    let failed = |what| system("user namespace", what);
    match plan {
        UserNamespacePlan::New { .. } => {
            namespace::unshare(libc::CLONE_NEWUSER).map_err(failed("make a new one"))?;
            channel
                .send(&Report::Unshared, &[])
                .map_err(failed("ask for its ids"))?;
            channel.pass_gate().map_err(failed("wait for its ids"))?;
        }
        UserNamespacePlan::Join { path } => {
            let fd = open(path)?;
            namespace::join(fd.as_fd(), libc::CLONE_NEWUSER)
                .map_err(system("user namespace", format_args!("join {}", path.display())))?;
        }
    }
    become_root()
}

/// Takes the ids of the present user namespace's root. Dropping the host's ends what was agreed about the parent's
/// death, so that is said again.
pub(crate) fn become_root() -> Result<(), StartFailure> {
    let failed = |what| system("user namespace", what);
    let parent = rustix::process::getppid();
    set_thread_groups(&[]).map_err(failed("drop the host's groups"))?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).map_err(failed("take its root's group"))?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).map_err(failed("take its root's id"))?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(failed("follow the keeper's end"))?;
    if rustix::process::getppid() != parent {
        naru_sys::process::exit_now(0);
    }
    Ok(())
}

fn open(path: &Path) -> Result<OwnedFd, StartFailure> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(system("user namespace", path.display()))
}

/// A stem's user namespace as its keeper sees it.
#[derive(Debug)]
pub(crate) struct UserNamespace {
    pub(crate) fd: OwnedFd,
    pub(crate) root: MappedRoot,
}

impl UserNamespace {
    /// The namespace of the process `pid`, once its ids are mapped.
    pub(crate) fn of_process(pid: i32) -> Result<Self, StartFailure> {
        Ok(Self {
            fd: open(Path::new(&format!("/proc/{pid}/ns/user")))?,
            root: MappedRoot {
                uid: read_root(&format!("/proc/{pid}/uid_map"))?,
                gid: read_root(&format!("/proc/{pid}/gid_map"))?,
            },
        })
    }

    /// A container that is not the host's root must be able to open its /dev/stdout anew.
    pub(crate) fn own_streams(&self, stdio: &ChildStdio) {
        own_streams(stdio, self.root);
    }
}

/// Does `work` with every capability of the host's root, but with the files it makes owned by the root of a user
/// namespace. An overlay keeps both for all that it does later; below a mount with mapped ids root of the host itself
/// owns nothing and can make nothing. It concerns the calling thread alone.
pub fn as_mapped_root<T>(
    root: MappedRoot,
    work: impl FnOnce() -> Result<T, StartFailure>,
) -> Result<T, StartFailure> {
    let failed = |what| system("user namespace", what);
    process::set_file_system_ids(root.uid, root.gid).map_err(failed("make files as its root"))?;
    let done = raise_capabilities().and_then(|()| work());
    process::set_file_system_ids(0, 0).map_err(failed("make files as the host's root again"))?;
    done
}

fn raise_capabilities() -> Result<(), StartFailure> {
    let failed = |what| system("user namespace", what);
    let mut held = rustix::thread::capabilities(None).map_err(failed("read capabilities"))?;
    held.effective = held.permitted;
    rustix::thread::set_capabilities(None, held).map_err(failed("raise capabilities"))
}

/// Gives pipes to the root of a user namespace. /dev/null is everybody's already, and a terminal is made inside.
pub(crate) fn own_streams(stdio: &ChildStdio, root: MappedRoot) {
    let ChildStdio::Pipes {
        stdin,
        stdout,
        stderr,
    } = stdio
    else {
        return;
    };
    for fd in [stdin, stdout, stderr] {
        let is_null = rustix::fs::fstat(fd).is_ok_and(|stat| stat.st_rdev == rustix::fs::makedev(1, 3));
        if !is_null {
            let _ = rustix::fs::fchown(fd, Some(Uid::from_raw(root.uid)), Some(Gid::from_raw(root.gid)));
        }
    }
}

/// The keeper's side: gives the new namespace of the process `pid` its ids.
pub(crate) fn map(pid: i32, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<(), StartFailure> {
    for (name, mappings) in [("gid_map", gids), ("uid_map", uids)] {
        check(name, mappings)?;
        let path = format!("/proc/{pid}/{name}");
        std::fs::write(&path, text(mappings)).map_err(system(
            "user namespace",
            format_args!("map its ids by {name} {:?}", text(mappings).trim_end()),
        ))?;
    }
    Ok(())
}

fn check(name: &str, mappings: &[LinuxIdMapping]) -> Result<(), StartFailure> {
    if mappings.len() > MAPPINGS_MAX {
        return Err(invalid(
            "user namespace",
            format!(
                "{name} has {} mappings, the kernel takes {MAPPINGS_MAX}",
                mappings.len()
            ),
        ));
    }
    let has_root = mappings
        .iter()
        .any(|mapping| mapping.container_id() == 0 && mapping.size() > 0);
    if has_root {
        Ok(())
    } else {
        Err(invalid(
            "user namespace",
            format!("{name} maps no id to root, whom a container needs"),
        ))
    }
}

/// As the kernel reads it; it takes the whole in one write only.
fn text(mappings: &[LinuxIdMapping]) -> String {
    let line = |mapping: &LinuxIdMapping| {
        format!(
            "{} {} {}\n",
            mapping.container_id(),
            mapping.host_id(),
            mapping.size()
        )
    };
    mappings.iter().map(line).collect()
}

fn read_root(path: &str) -> Result<u32, StartFailure> {
    let text = std::fs::read_to_string(path).map_err(system("user namespace", path))?;
    parse_root(&text)
        .ok_or_else(|| invalid("user namespace", "the user namespace to join has no id for root"))
}

/// The host's id of the container's id 0, from the text of a mapping.
fn parse_root(text: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let is_root = words.next()? == "0";
        let host = words.next()?.parse().ok()?;
        is_root.then_some(host)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxIdMappingBuilder;

    fn mapping(container: u32, host: u32, size: u32) -> LinuxIdMapping {
        let mapping = LinuxIdMappingBuilder::default()
            .container_id(container)
            .host_id(host)
            .size(size);
        mapping.build().unwrap()
    }

    #[test]
    fn mappings_are_written_as_the_kernel_reads_them() {
        let mappings = [mapping(0, 100_000, 65_536), mapping(65_536, 300_000, 10)];
        assert_eq!(text(&mappings), "0 100000 65536\n65536 300000 10\n");
    }

    #[test]
    fn a_mapping_without_root_is_refused() {
        assert!(check("uid_map", &[mapping(1, 100_000, 10)]).is_err());
        assert!(check("uid_map", &[mapping(0, 100_000, 1)]).is_ok());
        assert!(check("uid_map", &vec![mapping(0, 0, 1); 341]).is_err());
    }

    #[test]
    fn root_is_found_in_a_mapping() {
        let text = "     65536     300000         10\n         0     100000      65536\n";
        assert_eq!(parse_root(text), Some(100_000));
        assert_eq!(parse_root("1 2 3\n"), None);
    }
}
