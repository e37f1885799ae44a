//! Which namespaces a container gets: made while parked, left again for the host's, or joined.

use crate::failure::{invalid, system};
use crate::plan::{ContainerPlan, ExecPlace, StartFailure, StemPlan, UserNamespacePlan};
use crate::time;
use naru_sys::namespace;
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespace, LinuxNamespaceType as Kind};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
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

/// Called in the container's cgroup, which so becomes the root of its cgroup namespace, and in its user namespace,
/// which so becomes the owner of all others.
pub(crate) fn unshare_all(plan: &StemPlan) -> Result<(), StartFailure> {
    let kept = plan.shared.iter().fold(0, |kinds, kind| kinds | *kind as i32);
    namespace::unshare(PARKED & !kept).map_err(system("namespaces", "make new namespaces"))?;
    // Slaves, not private: what the host unmounts must not be held here, and a bind mount may ask for `rslave`.
    let slaves = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", slaves).map_err(|errno| {
        let what = match errno {
            Errno::INVAL => {
                "detach the mounts from the host's (the engine runs in a chroot: start it outside)"
            }
            _ => "detach the mounts from the host's",
        };
        system("namespaces", what)(errno)
    })?;
    if plan.shared.contains(&Kind::Network) {
        return Ok(());
    }
    set_network_defaults(plan.user.is_some())?;
    namespace::set_loopback_up().map_err(system("namespaces", "set the loopback interface up"))
}

/// What every network namespace of a container's own starts with, unless `--sysctl` says otherwise, as with Docker:
/// no IPv6 on any interface, present or future (CVE-2024-32473), ports below 1024 and ping sockets for every user.
const NETWORK_DEFAULTS: [(&str, &str); 3] = [
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv4/ip_unprivileged_port_start", "0"),
    (PING_GROUPS, "0 2147483647"),
];

/// The groups of [`NETWORK_DEFAULTS`] do not exist in a user namespace, where Docker leaves ping sockets to root too.
const PING_GROUPS: &str = "ipv4/ping_group_range";

fn set_network_defaults(is_mapped: bool) -> Result<(), StartFailure> {
    let wanted = NETWORK_DEFAULTS
        .iter()
        .filter(|(name, _)| !is_mapped || *name != PING_GROUPS);
    for (name, value) in wanted {
        let path = format!("/proc/sys/net/{name}");
        match std::fs::write(&path, value) {
            // A kernel without IPv6.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            written => written.map_err(system("namespaces", format_args!("write {path}")))?,
        }
    }
    Ok(())
}

/// A descriptor of one of the calling thread's own namespaces.
pub(crate) fn own(name: &str) -> Result<OwnedFd, StartFailure> {
    open(Path::new(&format!("/proc/thread-self/ns/{name}")))
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
pub(crate) fn arrange(
    plan: &ContainerPlan,
    stem: &StemPlan,
    time_offsets: Option<OwnedFd>,
) -> Result<(), StartFailure> {
    let wanted = wanted(plan);
    check_user(plan, stem)?;
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
            None if stem.shared.contains(&kind) => {}
            None if stem.user.is_some() => return Err(not_parked_so(kind)),
            Some(namespace) if stem.shared.contains(&kind) && namespace.path().is_none() => {
                return Err(not_parked_so(kind));
            }
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
    arrange_time(plan, time_offsets)
}

/// The user namespace is the owner of all others and cannot be changed after them: the stem was parked in it.
fn check_user(plan: &ContainerPlan, stem: &StemPlan) -> Result<(), StartFailure> {
    let linux = plan.spec.linux().as_ref();
    let is_same = |given: Option<&Vec<LinuxIdMapping>>, parked: &[LinuxIdMapping]| {
        given.is_none_or(|given| given == parked)
    };
    let fits = match (find(wanted(plan), Kind::User), &stem.user) {
        (None, None) => true,
        (Some(namespace), Some(UserNamespacePlan::Join { path })) => namespace.path().as_ref() == Some(path),
        (
            Some(namespace),
            Some(UserNamespacePlan::New {
                uid_mappings,
                gid_mappings,
            }),
        ) => {
            namespace.path().is_none()
                && is_same(
                    linux.and_then(|linux| linux.uid_mappings().as_ref()),
                    uid_mappings,
                )
                && is_same(
                    linux.and_then(|linux| linux.gid_mappings().as_ref()),
                    gid_mappings,
                )
        }
        _ => false,
    };
    if fits {
        Ok(())
    } else {
        Err(not_parked_so(Kind::User))
    }
}

fn not_parked_so(kind: Kind) -> StartFailure {
    invalid(
        "namespaces",
        format!("the container was not made ready for the {kind} namespace that its specification asks for"),
    )
}

fn arrange_time(plan: &ContainerPlan, offsets_file: Option<OwnedFd>) -> Result<(), StartFailure> {
    let linux = plan.spec.linux().as_ref();
    let has_offsets = linux
        .and_then(|linux| linux.time_offsets().as_ref())
        .is_some_and(|offsets| !offsets.is_empty());
    match find(wanted(plan), Kind::Time) {
        Some(namespace) => match namespace.path() {
            None => time::make(linux, offsets_file),
            Some(_) if has_offsets => Err(offsets_without_namespace()),
            Some(path) => namespace::join(open(path)?.as_fd(), libc::CLONE_NEWTIME)
                .map_err(system("namespaces", "join a time namespace")),
        },
        None if has_offsets => Err(offsets_without_namespace()),
        None => Ok(()),
    }
}

fn offsets_without_namespace() -> StartFailure {
    invalid(
        "namespaces",
        "timeOffsets: only a new time namespace's clocks can be set off",
    )
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

/// Enters all namespaces of the process behind `pidfd`; children are born in its pid namespace. The kernel enters the
/// user namespace first, which allows the rest. It refuses one that the caller is in already.
pub(crate) fn join_all_of(pidfd: BorrowedFd<'_>, place: &ExecPlace) -> Result<(), StartFailure> {
    let mut kinds = PARKED;
    if place.mapped_root.is_some() {
        kinds |= libc::CLONE_NEWUSER;
    }
    if place.has_time_namespace {
        kinds |= libc::CLONE_NEWTIME;
    }
    namespace::join(pidfd, kinds).map_err(system("namespaces", "enter the container"))
}
