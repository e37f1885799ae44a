//! The last stretch before `execve`: what PID 1, or a process started by exec, does to itself.
//!
//! Order matters here; each step says why it is where it is.

use crate::ahead::RootAhead;
use crate::attributes;
use crate::cgroup::Entrances;
use crate::channel::Channel;
use crate::command;
use crate::devices;
use crate::failure::{invalid, system};
use crate::mounts;
use crate::namespaces;
use crate::parked::{FileSystem, Parked};
use crate::plan::{ContainerPlan, ExecPlan, SeccompPlan, StartFailure};
use crate::privileges::{self, Privileges};
use crate::root::Root;
use crate::seccomp::Agent;
use crate::sources::{SourceKind, Sources};
use crate::stem::Report;
use crate::users;
use naru_sys::mount::{MountAttributes, set_attributes};
use naru_sys::{process, terminal};
use oci_spec::runtime::{Linux, LinuxNamespaceType, Process};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The new process's standard streams.
pub(crate) enum Streams {
    Pipes([OwnedFd; 3]),
    Terminal { rows: u16, columns: u16 },
}

/// Sets the container up around the calling process, which becomes its first. Returns only on failure.
pub(crate) fn run(
    plan: &ContainerPlan,
    mut parked: Parked,
    ahead: Option<RootAhead>,
    mut sources: Sources,
    host_mounts: Option<OwnedFd>,
    streams: Streams,
    channel: &Channel,
) -> Result<(), StartFailure> {
    let spec = &plan.spec;
    let oci = spec
        .process()
        .as_ref()
        .ok_or_else(|| invalid("plan", "the specification has no process"))?;
    let linux = spec
        .linux()
        .as_ref()
        .ok_or_else(|| invalid("plan", "the specification has no linux part"))?;
    attributes::check_supported(spec, linux)?;
    discard_foreign(plan, &mut parked);
    let agent = match sources.take(SourceKind::Agent) {
        Some(socket) => Some(Agent::with(socket)?),
        None => Agent::of(&plan.seccomp)?,
    };
    let init = plan.with_init.then(command::init_file).transpose()?;
    let root = match sources.take(SourceKind::Root) {
        Some(mounted) => Root::mounted(mounted)?,
        None => Root::mount(&plan.rootfs, ahead)?,
    };
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let ready = sources.take(SourceKind::Mount(index));
        mounts::apply(&root, mount, spec, &mut parked, host_mounts.as_ref(), ready)?;
    }
    drop(parked);
    drop(host_mounts);
    devices::make(&root, linux, &mut sources)?;
    set_names(plan)?;
    write_kernel_settings(plan, linux, oci)?;
    // Before the masks, one of which may be on the way to the terminal.
    let console = open_console(&root, &streams, channel, true)?;
    mounts::mask(&root, linux.masked_paths().as_deref().unwrap_or_default())?;
    mounts::make_read_only(&root, linux.readonly_paths().as_deref().unwrap_or_default())?;
    root.pivot()?;
    if let Some(propagation) = linux.rootfs_propagation() {
        mounts::propagate_root(propagation)?;
    }
    attributes::set_personality(linux)?;
    if spec
        .root()
        .as_ref()
        .and_then(oci_spec::runtime::Root::readonly)
        .unwrap_or(false)
    {
        // After every mount target has been made in it.
        let read_only = MountAttributes {
            set: libc::MOUNT_ATTR_RDONLY,
            ..MountAttributes::default()
        };
        set_attributes(root.fd(), read_only, false).map_err(system("rootfs", "make the root read-only"))?;
    }
    finish(
        &root,
        Final {
            process: oci,
            user: &plan.user,
            additional_groups: &plan.additional_groups,
            seccomp: &plan.seccomp,
            init,
            gate: channel,
            agent,
            container: &plan.container,
        },
        &streams,
        console,
    )
}

/// As [`run`], in namespaces that are all set up.
pub(crate) fn run_exec(
    plan: &ExecPlan,
    agent: Option<Agent>,
    entrances: Option<&Entrances>,
    streams: Streams,
    channel: &Channel,
) -> Result<(), StartFailure> {
    if let Some(entrances) = entrances {
        entrances
            .enter()
            .map_err(system("cgroup", format_args!("join {}", plan.place.cgroup)))?;
    }
    let root = Root::current()?;
    let console = open_console(&root, &streams, channel, false)?;
    let last = Final {
        process: &plan.process,
        user: &plan.user,
        additional_groups: &plan.additional_groups,
        seccomp: &plan.seccomp,
        init: None,
        gate: channel,
        agent,
        container: &plan.container,
    };
    finish(&root, last, &streams, console)
}

/// A file system that shows a namespace must have been made in the namespace that the container has now.
fn discard_foreign(plan: &ContainerPlan, parked: &mut Parked) {
    if !namespaces::is_own(plan, LinuxNamespaceType::Network) {
        parked.discard("sysfs");
    }
    if !namespaces::is_own(plan, LinuxNamespaceType::Ipc) {
        parked.discard("mqueue");
    }
    if !namespaces::is_own(plan, LinuxNamespaceType::Cgroup) {
        parked.discard("cgroup");
    }
}

/// Host and domain name, in a namespace of the container's own only.
fn set_names(plan: &ContainerPlan) -> Result<(), StartFailure> {
    if !namespaces::is_own(plan, LinuxNamespaceType::Uts) {
        return Ok(());
    }
    if let Some(name) = plan.spec.hostname() {
        rustix::system::sethostname(name.as_bytes())
            .map_err(system("hostname", format_args!("set the host name {name:?}")))?;
    }
    if let Some(name) = plan.spec.domainname() {
        rustix::system::setdomainname(name.as_bytes())
            .map_err(system("hostname", format_args!("set the domain name {name:?}")))?;
    }
    Ok(())
}

/// Sysctls and the out-of-memory score, written through a procfs that was made here: what the image has at /proc
/// can redirect nothing (CVE-2019-16884, CVE-2025-52881).
fn write_kernel_settings(plan: &ContainerPlan, linux: &Linux, oci: &Process) -> Result<(), StartFailure> {
    let empty = HashMap::new();
    let sysctls = linux.sysctl().as_ref().unwrap_or(&empty);
    if sysctls.is_empty() && oci.oom_score_adj().is_none() {
        return Ok(());
    }
    let wish = FileSystem {
        kind: "proc".to_owned(),
        source: "proc".to_owned(),
        attributes: 0,
        data: Vec::new(),
    };
    let proc = wish.mount()?;
    for (name, value) in sysctls {
        check_sysctl(plan, name)?;
        write_below(proc.as_fd(), &format!("sys/{}", name.replace('.', "/")), value)
            .map_err(system("sysctl", format_args!("set {name} to {value:?}")))?;
    }
    if let Some(score) = oci.oom_score_adj() {
        let pid = rustix::process::getpid().as_raw_pid();
        let written = write_below(proc.as_fd(), &format!("{pid}/oom_score_adj"), &score.to_string());
        match written {
            // Lowering it needs CAP_SYS_RESOURCE, which the engine itself may lack.
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => {}
            other => other.map_err(system("oom_score_adj", format_args!("set it to {score}")))?,
        }
    }
    Ok(())
}

fn write_below(proc: BorrowedFd<'_>, path: &str, value: &str) -> std::io::Result<()> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let fd = openat2(
        proc,
        path,
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )?;
    std::fs::File::from(fd).write_all(value.as_bytes())
}

/// Only what a namespace of the container's own holds may be set; anything else is the host's (CVE-2022-0811).
fn check_sysctl(plan: &ContainerPlan, name: &str) -> Result<(), StartFailure> {
    let refuse = |why: &str| Err(invalid("sysctl", format!("sysctl {name:?} {why}")));
    if name.split(['.', '/']).any(|part| part.is_empty() || part == "..") {
        return refuse("is not a name");
    }
    let name = name.replace('/', ".");
    let ipc = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
    ];
    let ipc_more = ["kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"];
    let kind = if ipc.contains(&name.as_str())
        || ipc_more.contains(&name.as_str())
        || name.starts_with("fs.mqueue.")
    {
        LinuxNamespaceType::Ipc
    } else if name.starts_with("net.") {
        LinuxNamespaceType::Network
    } else if name == "kernel.domainname" {
        LinuxNamespaceType::Uts
    } else {
        return refuse("is not in a separate kernel namespace");
    };
    if namespaces::is_host(plan, kind) {
        return refuse("is not allowed as it would change the host's");
    }
    Ok(())
}

/// Opens a terminal in the container's own devpts and sends its master to the keeper.
fn open_console(
    root: &Root,
    streams: &Streams,
    channel: &Channel,
    bind: bool,
) -> Result<Option<OwnedFd>, StartFailure> {
    let Streams::Terminal { rows, columns } = *streams else {
        return Ok(None);
    };
    let what = "open a terminal in the container's /dev/pts";
    let master = root
        .open_plain(Path::new("/dev/pts/ptmx"), OFlags::RDWR | OFlags::NOCTTY)
        .map_err(system("terminal", what))?;
    let stat = rustix::fs::fstat(&master).map_err(system("terminal", what))?;
    // The number of the terminal multiplexer; anything else is an image's trick.
    if stat.st_rdev != rustix::fs::makedev(5, 2) {
        return Err(invalid(
            "terminal",
            "the container's /dev/pts/ptmx is not a terminal multiplexer",
        ));
    }
    let peer = terminal::open_peer(master.as_fd(), rows, columns).map_err(system("terminal", what))?;
    channel
        .send(&Report::Console, &[master.as_fd()])
        .map_err(system("terminal", "hand it over"))?;
    if bind {
        bind_console(root, peer.as_fd())?;
    }
    Ok(Some(peer))
}

/// Puts the terminal itself at /dev/console, by descriptor on both sides (CVE-2025-52565).
fn bind_console(root: &Root, peer: BorrowedFd<'_>) -> Result<(), StartFailure> {
    let dev = root
        .open_plain(Path::new("/dev"), OFlags::PATH | OFlags::DIRECTORY)
        .map_err(system("terminal", "/dev"))?;
    let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY | OFlags::NONBLOCK;
    let made = rustix::fs::openat(&dev, "console", flags | OFlags::EXCL, Mode::from_raw_mode(0o620));
    drop(made);
    let target = root
        .open_plain(Path::new("/dev/console"), OFlags::PATH)
        .map_err(system("terminal", "/dev/console"))?;
    let copy = crate::root::copy_mount(peer, false).map_err(system("terminal", "copy it"))?;
    crate::root::attach(copy.as_fd(), target.as_fd()).map_err(system("terminal", "/dev/console"))
}

/// What is left to do when the file tree is in place.
struct Final<'a> {
    process: &'a Process,
    user: &'a str,
    additional_groups: &'a [String],
    seccomp: &'a SeccompPlan,
    init: Option<OwnedFd>,
    /// Where the keeper says that the program may run.
    gate: &'a Channel,
    /// Who decides some of its system calls.
    agent: Option<Agent>,
    container: &'a str,
}

fn finish(
    root: &Root,
    last: Final<'_>,
    streams: &Streams,
    console: Option<OwnedFd>,
) -> Result<(), StartFailure> {
    let user = users::resolve(root, last.user, last.additional_groups)?;
    let mut environment = last.process.env().clone().unwrap_or_default();
    if !environment.iter().any(|variable| variable.starts_with("HOME=")) {
        environment.push(format!("HOME={}", user.home));
    }
    let privileges = Privileges::of(last.process, last.seccomp)?;
    privileges::set_limits(last.process)?;
    attributes::apply(last.process)?;
    rustix::process::setsid().map_err(system("session", "start a session"))?;
    take_streams(streams, console, &user)?;
    enter_directory(root, last.process.cwd())?;
    let arguments = last.process.args().clone().unwrap_or_default();
    let program = command::find(&arguments, &environment)?;
    let command = command::Prepared::new(program, arguments, &environment, last.init)?;
    rustix::process::umask(Mode::from_raw_mode(last.process.user().umask().unwrap_or(0o022)));
    let describe = |agent: Agent| agent.describe(last.seccomp, last.container);
    let agent = last.agent.map(describe).transpose()?;
    let notice = last
        .gate
        .await_permit()
        .map_err(system("start", "wait for the keeper"))?;
    // Left for the kernel to close: should `execve` fail, that must not be before the failure has been reported.
    std::mem::forget(notice);
    // Only the standard streams and what `execve` closes remain.
    process::close_on_exec_from(3).map_err(system("exec", "close descriptors"))?;
    // Not before: everything above needs descriptors.
    privileges::limit_open_files(last.process)?;
    privileges.apply(&user, agent)?;
    command.exec()
}

fn take_streams(streams: &Streams, console: Option<OwnedFd>, user: &users::User) -> Result<(), StartFailure> {
    let failed = || system("stdio", "set the standard streams");
    if let Some(peer) = &console {
        for number in 0..3 {
            process::set_standard_stream(peer.as_fd(), number).map_err(failed())?;
        }
        terminal::make_controlling(peer.as_fd()).map_err(system("terminal", "take control of it"))?;
    }
    if let Streams::Pipes(fds) = streams {
        for (number, fd) in (0..).zip(fds) {
            process::set_standard_stream(fd.as_fd(), number).map_err(failed())?;
        }
    }
    if user.uid != 0 {
        own_streams(user.uid);
    }
    Ok(())
}

/// A program that is not root must be able to open /dev/stdout again; a terminal keeps its group, and /dev/null is
/// everybody's already.
fn own_streams(uid: u32) {
    for fd in [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ] {
        let Ok(stat) = rustix::fs::fstat(fd) else { continue };
        let is_null = stat.st_rdev == rustix::fs::makedev(1, 3);
        if !is_null {
            let _ = rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(uid)), None);
        }
    }
}

/// Enters the working directory, made where missing. One that lies outside the root, through a descriptor that
/// leaked, is refused (CVE-2024-21626).
fn enter_directory(root: &Root, path: &Path) -> Result<(), StartFailure> {
    let path = if path.as_os_str().is_empty() {
        Path::new("/")
    } else {
        path
    };
    if !path.is_absolute() {
        return Err(invalid(
            "cwd",
            format!("the working directory {} is not an absolute path", path.display()),
        ));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let fd = match root.open(path, flags) {
        Ok(fd) => fd,
        // A link that leads to nothing leads to where it is made, as with Docker.
        Err(rustix::io::Errno::NOENT) => root
            .resolve(path)
            .and_then(|path| root.make_directories(&path))
            .map_err(|failure| invalid("cwd", format!("make the working directory: {}", failure.message)))?,
        Err(error) => {
            return Err(invalid(
                "cwd",
                format!("enter the working directory {}: {error}", path.display()),
            ));
        }
    };
    rustix::process::fchdir(&fd).map_err(system("cwd", path.display()))?;
    let reached = rustix::process::getcwd(Vec::new()).map_err(system("cwd", path.display()))?;
    if reached.as_bytes().first() != Some(&b'/') {
        return Err(invalid(
            "cwd",
            format!(
                "the working directory {} is outside the container",
                path.display()
            ),
        ));
    }
    Ok(())
}
