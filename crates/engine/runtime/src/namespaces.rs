//! Which namespaces a container gets: made while parked, left again for the host's, or joined.

use crate::failure::{invalid, system};
use crate::plan::{ContainerPlan, StartFailure};
use naru_sys::namespace;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType as Kind};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The kinds that every stem makes for itself before it parks. It is not itself in the pid namespace: the first process
/// it makes is, as PID 1.
const PARKED: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWPID;

/// Called in the container's cgroup, which so becomes the root of its cgroup namespace.
pub(crate) fn unshare_all() -> Result<(), StartFailure> {
    namespace::unshare(PARKED).map_err(system("namespaces", "make new namespaces"))?;
    // Slaves, not private: what the host unmounts must not be held here, and a bind mount may ask for `rslave`.
    let slaves = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", slaves).map_err(system("namespaces", "detach the mounts from the host's"))?;
    set_network_defaults()?;
    namespace::set_loopback_up().map_err(system("namespaces", "set the loopback interface up"))
}

/// What every network namespace of a container's own starts with, unless `--sysctl` says otherwise, as with Docker:
/// no IPv6 on any interface, present or future (CVE-2024-32473), ports below 1024 and ping sockets for every user.
const NETWORK_DEFAULTS: [(&str, &str); 3] = [
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv4/ip_unprivileged_port_start", "0"),
    ("ipv4/ping_group_range", "0 2147483647"),
];

fn set_network_defaults() -> Result<(), StartFailure> {
    for (name, value) in NETWORK_DEFAULTS {
        let path = format!("/proc/sys/net/{name}");
        match std::fs::write(&path, value) {
            // A kernel without IPv6.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            written => written.map_err(system("namespaces", format_args!("write {path}")))?,
        }
    }
    Ok(())
}

/// A descriptor of one of the calling process's own namespaces.
pub(crate) fn own(name: &str) -> Result<OwnedFd, StartFailure> {
    open(Path::new(&format!("/proc/self/ns/{name}")))
}

fn open(path: &Path) -> Result<OwnedFd, StartFailure> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(system("namespaces", path.display()))
}

/// `NETLINK_ROUTE` is protocol 0.
pub(crate) fn open_route_socket() -> Result<OwnedFd, StartFailure> {
    socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(system("namespaces", "open a netlink socket"))
}

/// Moves a parked process to the namespaces that the specification asks for.
pub(crate) fn arrange(plan: &ContainerPlan) -> Result<(), StartFailure> {
    let wanted = wanted(plan);
    for kind in [Kind::User, Kind::Time] {
        if find(wanted, kind).is_some() {
            return Err(invalid(
                "namespaces",
                format!("a new {kind} namespace is not supported"),
            ));
        }
    }
    // Every path is opened before the first is joined: joining changes what a path means.
    let mut joins = Vec::new();
    for (kind, name) in [
        (Kind::Network, "net"),
        (Kind::Ipc, "ipc"),
        (Kind::Uts, "uts"),
        (Kind::Cgroup, "cgroup"),
        (Kind::Pid, "pid"),
    ] {
        match find(wanted, kind) {
            None => joins.push((open_host(name)?, kind)),
            Some(namespace) => {
                if let Some(path) = namespace.path() {
                    joins.push((open(path)?, kind));
                }
            }
        }
    }
    for (fd, kind) in &joins {
        namespace::join(fd.as_fd(), *kind as i32)
            .map_err(system("namespaces", format_args!("join a {kind} namespace")))?;
    }
    Ok(())
}

/// The host's namespace is the parent's: the keeper never leaves it.
pub(crate) fn open_host(name: &str) -> Result<OwnedFd, StartFailure> {
    of_process(
        rustix::process::getppid().map_or(1, rustix::process::Pid::as_raw_pid),
        name,
    )
}

pub(crate) fn of_process(pid: i32, name: &str) -> Result<OwnedFd, StartFailure> {
    open(Path::new(&format!("/proc/{pid}/ns/{name}")))
}

fn wanted(plan: &ContainerPlan) -> &[LinuxNamespace] {
    plan.spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_deref())
        .unwrap_or_default()
}

fn find(wanted: &[LinuxNamespace], kind: Kind) -> Option<&LinuxNamespace> {
    wanted.iter().find(|namespace| namespace.typ() == kind)
}

/// Whether the container has a namespace of this kind of its own: neither the host's nor another container's.
pub(crate) fn is_own(plan: &ContainerPlan, kind: Kind) -> bool {
    find(wanted(plan), kind).is_some_and(|namespace| namespace.path().is_none())
}

/// Whether the container shares the host's namespace of this kind.
pub(crate) fn is_host(plan: &ContainerPlan, kind: Kind) -> bool {
    find(wanted(plan), kind).is_none()
}

/// Enters all namespaces of the process behind `pidfd`; children are born in its pid namespace.
pub(crate) fn join_all_of(pidfd: BorrowedFd<'_>) -> Result<(), StartFailure> {
    namespace::join(pidfd, PARKED).map_err(system("namespaces", "enter the container"))
}
