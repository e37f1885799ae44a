//! The stem: a process parked inside a container's namespaces and cgroup.
//!
//! ```text
//!  keeper                     stem                               PID 1
//!    │── fork ─────────────────▶│ joins the cgroup, unshares
//!    │                          │ (a user namespace first, where wanted: see `user_namespace`)
//!    │◀─ Prepared + 3 fds ──────│ parks (dies with the keeper)
//!    │── root filesystem ──────▶│ mounts it (optional)
//!    │── plan + streams ───────▶│
//!    │                          │── clone: child of the keeper ─────▶│ mounts, pivots, drops privileges
//!    │◀─ Cloned{pid} + pidfd ───│ waits to be killed                 │
//!    │◀─ Console + pty master ──────────────────────────────────────│ (terminals)
//!    │── gate opens ───────────────────────────────────────────────▶│ only now may the program run
//!    │◀─ Failed, or the channel closes: execve has succeeded ────────│
//! ```

use crate::ahead::RootAhead;
use crate::channel::Channel;
use crate::container::{self, Streams};
use crate::failure::system;
use crate::parked::Parked;
use crate::plan::{ContainerPlan, EncodedPlan, RootfsPlan, StartFailure, StemPlan, UserNamespacePlan};
use crate::sources::{SourceKind, Sources};
use crate::user_namespace::{self, UserNamespace};
use crate::{cgroup, mounts, namespaces, time};
use naru_sys::process::{self, Fork};
use rustix::event::{PollFd, PollFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{DumpableBehavior, PidfdFlags, Signal, WaitOptions};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A parked process. Dropping it ends the process and everything it holds.
pub struct Stem {
    channel: Channel,
    process: Helper,
    netns: OwnedFd,
    route_socket: OwnedFd,
    mount_namespace: OwnedFd,
    /// Where it has one of its own: the keeper then mounts for it what only the host's root can.
    user: Option<UserNamespace>,
    ahead: Option<RootAhead>,
    cgroup: String,
}

/// Where the new process reads and writes.
#[derive(Debug)]
pub enum ChildStdio {
    Pipes {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    Terminal {
        rows: u16,
        columns: u16,
    },
}

/// A process that has been started; a child of the caller, who reaps it.
#[derive(Debug)]
pub struct Init {
    /// In the caller's pid namespace.
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// Field 22 of `/proc/<pid>/stat`.
    pub start_time: u64,
    /// The terminal's master side, opened in the container's own devpts.
    pub console: Option<OwnedFd>,
    /// The container's mount namespace (not for exec). With its last process a namespace's mounts go before anyone is
    /// told of that process's end: the kernel waits for all processors, and for an overlay it writes the whole upper
    /// file system to disk, which takes up to 100 ms and more. Whoever holds this until the exit has been reported
    /// keeps that out of everyone's way.
    pub mount_namespace: Option<OwnedFd>,
    /// To be dropped when the start has been reported, and not later than the next fork.
    pub remains: Remains,
}

/// What is left of a helper once the process runs: dropping it reaps the helper and closes what led to it.
#[derive(Debug)]
pub struct Remains {
    helper: Helper,
    _channel: Channel,
    _namespaces: Option<(OwnedFd, OwnedFd)>,
}

/// From stem or PID 1 to the keeper; descriptors come along.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// It is in a new user namespace, and waits for its ids at the gate.
    Unshared,
    /// Network namespace, route socket, mount namespace.
    Prepared,
    /// The new process as the keeper's pid namespace numbers it; its pidfd.
    Cloned {
        pid: i32,
    },
    /// From a helper that mounts: the mount.
    Mounted,
    /// The terminal's master.
    Console,
    Failed(StartFailure),
}

/// The sizes a process needs beside its plan; its streams come as descriptors.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum StdioKind {
    Pipes,
    Terminal { rows: u16, columns: u16 },
}

/// A forked helper that is killed and reaped when it goes out of scope.
#[derive(Debug)]
pub(crate) struct Helper {
    pid: i32,
    pub(crate) pidfd: OwnedFd,
}

impl Helper {
    pub(crate) fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.kill();
        reap(self.pid);
    }
}

fn reap(pid: i32) {
    while let Err(rustix::io::Errno::INTR) =
        rustix::process::waitpid(rustix::process::Pid::from_raw(pid), WaitOptions::empty())
    {}
}

impl Remains {
    pub(crate) fn of_exec(helper: Helper, channel: Channel) -> Self {
        Self {
            helper,
            _channel: channel,
            _namespaces: None,
        }
    }

    /// Has the helper begin to end.
    pub fn kill(&self) {
        self.helper.kill();
    }
}

impl Stem {
    /// Forks the stem and waits until it is parked. The calling process must be single-threaded.
    pub fn prepare(plan: &StemPlan) -> Result<Self, StartFailure> {
        let (channel, process) = fork_helper("prepare", |channel| stem_main(&channel, plan))?;
        let mut report = await_report(&channel)?;
        if let (
            Some((Report::Unshared, _)),
            Some(UserNamespacePlan::New {
                uid_mappings,
                gid_mappings,
            }),
        ) = (&report, &plan.user)
        {
            user_namespace::map(process.pid, uid_mappings, gid_mappings)?;
            channel
                .open_gate()
                .map_err(system("prepare", "answer the stem"))?;
            report = await_report(&channel)?;
        }
        match report {
            Some((Report::Prepared, fds)) => {
                let [netns, route_socket, mount_namespace] = <[OwnedFd; 3]>::try_from(fds)
                    .map_err(|_| system("prepare", "stem")("it sent no descriptors"))?;
                let pid = process.pid;
                Ok(Self {
                    channel,
                    process,
                    netns,
                    route_socket,
                    mount_namespace,
                    user: plan
                        .user
                        .as_ref()
                        .map(|_| UserNamespace::of_process(pid))
                        .transpose()?,
                    ahead: None,
                    cgroup: plan.cgroup.clone(),
                })
            }
            Some((Report::Failed(failure), _)) => Err(failure),
            _ => Err(system("prepare", "stem")("it ended before it was ready")),
        }
    }

    /// Readable when the stem has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.process.pidfd.as_fd()
    }

    pub fn netns(&self) -> BorrowedFd<'_> {
        self.netns.as_fd()
    }

    /// A `NETLINK_ROUTE` socket opened inside the stem's network namespace.
    pub fn route_socket(&self) -> BorrowedFd<'_> {
        self.route_socket.as_fd()
    }

    /// Has the stem mount a root filesystem ahead of the start that will name it. There is no answer: what goes wrong
    /// is found again, and reported, at the start.
    pub fn mount_ahead(&mut self, rootfs: &RootfsPlan) -> io::Result<()> {
        if let Some(user) = &self.user {
            self.ahead = RootAhead::mount(rootfs.clone(), Some(user));
            return Ok(());
        }
        let mut body = serde_json::to_vec(&OrderKind::Rootfs)?;
        serde_json::to_writer(&mut body, rootfs)?;
        self.channel.send_bytes(&body, &[])
    }

    /// Starts the container; returns when `execve` has succeeded or a step has failed. What `meanwhile` does happens
    /// while the container is being set up, and has succeeded before its program runs.
    pub fn start<T>(
        mut self,
        plan: &EncodedPlan,
        stdio: ChildStdio,
        meanwhile: impl FnOnce() -> Result<T, StartFailure>,
    ) -> Result<(Init, T), StartFailure> {
        let ahead = self.ahead.take();
        if let Some(user) = &self.user {
            user.own_streams(&stdio);
            self.send_sources(user, plan, ahead)?;
        }
        let Self {
            channel,
            process,
            netns,
            route_socket,
            mount_namespace,
            ..
        } = self;
        let (kind, streams) = split(stdio);
        let borrowed: Vec<_> = streams.iter().map(AsFd::as_fd).collect();
        send_order(&channel, kind, plan, &borrowed).map_err(system("start", "send the plan to the stem"))?;
        drop(streams);
        let done = match meanwhile() {
            Ok(done) => done,
            Err(failure) => {
                channel.close_gate();
                // What it had got to is ended there.
                let _ = await_exec(&channel, None);
                return Err(failure);
            }
        };
        // A process that has failed already cannot take it, and has said why.
        let started = permit_exec(&channel)?;
        let remains = Remains {
            helper: process,
            _channel: channel,
            _namespaces: Some((netns, route_socket)),
        };
        Ok((started.into_init(Some(mount_namespace), remains), done))
    }

    /// What the stem may not do from inside its user namespace is done here, on the host.
    fn send_sources(
        &self,
        user: &UserNamespace,
        plan: &EncodedPlan,
        ahead: Option<RootAhead>,
    ) -> Result<(), StartFailure> {
        let plan = plan.decode().map_err(system("start", "read the plan"))?;
        let process = plan.spec.process().as_ref();
        if let Some(score) = process.and_then(oci_spec::runtime::Process::oom_score_adj) {
            // Lowering it needs CAP_SYS_RESOURCE, which the engine itself may lack.
            let path = format!("/proc/{}/oom_score_adj", self.process.pid);
            let _ = std::fs::write(path, score.to_string());
        }
        if mounts::has_writable_cgroup(&plan) {
            cgroup::delegate(&self.cgroup, user.root)
                .map_err(system("cgroup", "give it to the container"))?;
        }
        let order = |kind| serde_json::to_vec(&OrderKind::Source(kind)).unwrap_or_default();
        Sources::make(&plan, user, ahead)?
            .send(&self.channel, order)
            .map_err(system("start", "send mounts to the stem"))
    }
}

/// The next report; `None` when the stem has ended.
fn await_report(channel: &Channel) -> Result<Option<(Report, Vec<OwnedFd>)>, StartFailure> {
    channel.receive().map_err(system("prepare", "read from the stem"))
}

pub(crate) fn split(stdio: ChildStdio) -> (StdioKind, Vec<OwnedFd>) {
    match stdio {
        ChildStdio::Pipes {
            stdin,
            stdout,
            stderr,
        } => (StdioKind::Pipes, vec![stdin, stdout, stderr]),
        ChildStdio::Terminal { rows, columns } => (StdioKind::Terminal { rows, columns }, Vec::new()),
    }
}

/// What a stem is told; the matter itself follows, as it came.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum OrderKind {
    /// A [`RootfsPlan`] follows.
    Rootfs,
    /// A detached mount came along, for the start that follows.
    Source(SourceKind),
    /// A [`ContainerPlan`] follows.
    Start(StdioKind),
}

/// An order, read.
enum Order {
    Rootfs(RootfsPlan),
    Source(SourceKind, OwnedFd),
    Start(StdioKind, Box<ContainerPlan>, Vec<OwnedFd>),
}

fn send_order(
    channel: &Channel,
    kind: StdioKind,
    plan: &EncodedPlan,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut body = serde_json::to_vec(&OrderKind::Start(kind))?;
    body.extend_from_slice(plan.as_bytes());
    channel.send_bytes(&body, fds)
}

fn receive_order(channel: &Channel) -> io::Result<Option<Order>> {
    let Some((body, fds)) = channel.receive_bytes()? else {
        return Ok(None);
    };
    let mut values = serde_json::Deserializer::from_slice(&body);
    let order = match OrderKind::deserialize(&mut values)? {
        OrderKind::Rootfs => Order::Rootfs(RootfsPlan::deserialize(&mut values)?),
        OrderKind::Source(kind) => {
            let fd = fds.into_iter().next().ok_or(io::ErrorKind::InvalidData)?;
            Order::Source(kind, fd)
        }
        OrderKind::Start(kind) => Order::Start(kind, Box::deserialize(&mut values)?, fds),
    };
    values.end()?;
    Ok(Some(order))
}

pub(crate) fn join_streams(kind: StdioKind, fds: Vec<OwnedFd>) -> io::Result<Streams> {
    match kind {
        StdioKind::Terminal { rows, columns } => Ok(Streams::Terminal { rows, columns }),
        StdioKind::Pipes => {
            let fds = <[OwnedFd; 3]>::try_from(fds).map_err(|_| io::ErrorKind::InvalidData)?;
            Ok(Streams::Pipes(fds))
        }
    }
}

/// A process whose `execve` has succeeded.
pub(crate) struct Started {
    pid: i32,
    pidfd: OwnedFd,
    start_time: u64,
    console: Option<OwnedFd>,
}

impl Started {
    pub(crate) fn into_init(self, mount_namespace: Option<OwnedFd>, remains: Remains) -> Init {
        Init {
            pid: self.pid,
            pidfd: self.pidfd,
            start_time: self.start_time,
            console: self.console,
            mount_namespace,
            remains,
        }
    }
}

/// Lets the new process run its program, once it has got that far, and waits until it has.
pub(crate) fn permit_exec(channel: &Channel) -> Result<Started, StartFailure> {
    let (executed, notice) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(system("start", "make a pipe"))?;
    // A process that has failed already cannot take it, and has said why.
    let _ = channel.permit(notice.as_fd());
    drop(notice);
    await_exec(channel, Some(executed.as_fd()))
}

/// Follows the reports of a start to their end: a failure, or the end of `executed`, whose other side only the new
/// process holds, and loses by `execve`.
fn await_exec(channel: &Channel, executed: Option<BorrowedFd<'_>>) -> Result<Started, StartFailure> {
    let mut init: Option<Started> = None;
    let mut console = None;
    let failure = loop {
        let is_over = init.is_some() && executed.is_some_and(|executed| is_over(channel, executed));
        let report = if is_over { Ok(None) } else { channel.receive() };
        match report {
            Ok(Some((Report::Cloned { pid }, fds))) => {
                let Some(pidfd) = fds.into_iter().next() else {
                    break system("start", "the process's descriptor")("it did not arrive");
                };
                // Read while the process is busy setting itself up on another processor.
                let start_time = start_time(pid).unwrap_or_default();
                init = Some(Started {
                    pid,
                    pidfd,
                    start_time,
                    console: None,
                });
            }
            Ok(Some((Report::Console, fds))) => console = fds.into_iter().next(),
            Ok(Some((Report::Failed(failure), _))) => break failure,
            Ok(Some((Report::Prepared | Report::Unshared | Report::Mounted, _))) => {}
            Ok(None) => match init {
                Some(init) => return Ok(Started { console, ..init }),
                None => return Err(system("start", "stem")("it ended before it started the process")),
            },
            Err(error) => break system("start", "read from the new process")(error),
        }
    };
    if let Some(init) = init {
        let _ = rustix::process::pidfd_send_signal(&init.pidfd, Signal::KILL);
        reap(init.pid);
    }
    Err(failure)
}

/// Waits for a report or the end; true at the end, once every report has been read.
fn is_over(channel: &Channel, executed: BorrowedFd<'_>) -> bool {
    let mut polled = [
        PollFd::new(channel, PollFlags::IN),
        PollFd::from_borrowed_fd(executed, PollFlags::IN),
    ];
    while let Err(rustix::io::Errno::INTR) = rustix::event::poll(&mut polled, None) {}
    polled[0].revents().is_empty() && !polled[1].revents().is_empty()
}

/// Field 22 of `/proc/<pid>/stat`; the command's name before it may contain anything, so count from its end.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::open(format!("/proc/{pid}/stat"), flags, rustix::fs::Mode::empty()).ok()?;
    // The file is some 350 bytes long and read whole by one call.
    let mut stat = [0_u8; 1024];
    let length = rustix::io::read(&file, &mut stat).ok()?;
    let stat = str::from_utf8(&stat[..length]).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(19)?.parse().ok()
}

fn fork_helper(
    step: &'static str,
    main: impl FnOnce(Channel) -> Result<(), StartFailure>,
) -> Result<(Channel, Helper), StartFailure> {
    fork_helper_keeping(step, &[], |channel, _| main(channel))
}

/// Forks a helper that dies with its parent, holds no descriptor but those named, and cannot be looked into. `main`
/// gets a channel to the parent and its own descriptors, in order; what fails in it is reported there.
pub(crate) fn fork_helper_keeping(
    step: &'static str,
    keep: &[BorrowedFd<'_>],
    main: impl FnOnce(Channel, Vec<OwnedFd>) -> Result<(), StartFailure>,
) -> Result<(Channel, Helper), StartFailure> {
    let (ours, theirs) = Channel::pair().map_err(system(step, "make a socket pair"))?;
    let parent = rustix::process::getpid();
    match process::fork(0).map_err(system(step, "fork"))? {
        Fork::Parent { pid, pidfd } => Ok((ours, Helper { pid, pidfd })),
        Fork::Child => {
            // Whatever happens, this copy of the caller must not return into the caller's code.
            let report = |failure| {
                let _ = theirs.send(&Report::Failed(failure), &[]);
            };
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                isolate(parent).map_err(system(step, "set the helper process up"))?;
                let (channel, fds) = keep_only(&theirs, keep).map_err(system(step, "arrange descriptors"))?;
                Ok((channel, fds))
            }));
            match outcome {
                Ok(Ok((channel, fds))) => run_and_end(step, channel, |channel| main(channel, fds)),
                Ok(Err(failure)) => report(failure),
                Err(_) => {}
            }
            process::exit_now(1)
        }
    }
}

/// Runs `main`; reports its failure or panic on the channel; ends the process.
fn run_and_end(
    step: &'static str,
    channel: Channel,
    main: impl FnOnce(Channel) -> Result<(), StartFailure>,
) -> ! {
    let duplicate = rustix::io::fcntl_dupfd_cloexec(&channel, 3).ok();
    let outcome = catch_unwind(AssertUnwindSafe(|| main(channel)));
    let failure = match outcome {
        Ok(Ok(())) => process::exit_now(0),
        Ok(Err(failure)) => failure,
        Err(_) => system(step, "internal error")("panic"),
    };
    if let Some(socket) = duplicate {
        let _ = Channel::from_socket(socket).send(&Report::Failed(failure), &[]);
    }
    process::exit_now(1)
}

/// A helper must not outlive its parent, nor be inspected by what runs in the container.
fn isolate(parent: rustix::process::Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != Some(parent) {
        process::exit_now(0);
    }
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    process::reset_signals()?;
    rustix::process::umask(rustix::fs::Mode::empty());
    Ok(())
}

/// Leaves /dev/null on 0, 1 and 2, the channel on 3 and `keep` after it, and closes everything else.
fn keep_only(channel: &Channel, keep: &[BorrowedFd<'_>]) -> io::Result<(Channel, Vec<OwnedFd>)> {
    // Duplicated above all others first, so that none is overwritten while it is still wanted.
    let numbers = keep
        .iter()
        .map(AsRawFd::as_raw_fd)
        .chain([channel.as_fd().as_raw_fd(), 2]);
    let above = numbers.max().unwrap_or(2) + 1;
    let mut high = vec![rustix::io::fcntl_dupfd_cloexec(channel, above)?];
    for fd in keep {
        high.push(rustix::io::fcntl_dupfd_cloexec(fd, above)?);
    }
    let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty())?;
    for number in 0..3 {
        process::set_standard_stream(null.as_fd(), number)?;
    }
    let lowest = high.iter().map(AsRawFd::as_raw_fd).min().unwrap_or(above);
    let highest = high.iter().map(AsRawFd::as_raw_fd).max().unwrap_or(above);
    std::mem::forget(null);
    process::close_between(3, lowest - 1)?;
    process::close_from(highest + 1)?;
    let mut fds = high.into_iter();
    let socket = fds.next().ok_or(io::ErrorKind::InvalidData)?;
    Ok((Channel::from_socket(socket), fds.collect()))
}

fn stem_main(channel: &Channel, plan: &StemPlan) -> Result<(), StartFailure> {
    let _ = rustix::thread::set_name(c"naru-stem");
    naru_sys::title::set("naru-stem");
    cgroup::join(&plan.cgroup).map_err(system("cgroup", format_args!("join {}", plan.cgroup)))?;
    let time_offsets = plan.user.is_some().then(time::open_offsets).flatten();
    if let Some(user) = &plan.user {
        user_namespace::enter(channel, user)?;
    }
    namespaces::unshare_all(plan)?;
    let parked = Parked::make(plan)?;
    {
        let netns = namespaces::own("net")?;
        let route_socket = namespaces::open_route_socket()?;
        let mounts = namespaces::own("mnt")?;
        channel
            .send(
                &Report::Prepared,
                &[netns.as_fd(), route_socket.as_fd(), mounts.as_fd()],
            )
            .map_err(system("prepare", "report"))?;
    }
    crate::plan::rehearse();
    let stem = plan;
    let mut ahead = None;
    let mut sources = Sources::default();
    let (kind, plan, fds) = loop {
        match receive_order(channel).map_err(system("start", "read the plan"))? {
            Some(Order::Rootfs(plan)) => ahead = RootAhead::mount(plan, None),
            Some(Order::Source(kind, fd)) => sources.add(kind, fd),
            Some(Order::Start(kind, plan, fds)) => break (kind, plan, fds),
            None => process::exit_now(0),
        }
    };
    let streams = join_streams(kind, fds).map_err(system("start", "receive the streams"))?;
    // Here, because PID 1 cannot see its parent.
    let host_mounts = (stem.user.is_none() && mounts::needs_host(&plan.spec))
        .then(|| namespaces::open_host("mnt"))
        .transpose()?;
    namespaces::arrange(&plan, stem, time_offsets)?;
    // A process enters a time namespace when it is forked, but not when it shares its parent's memory.
    let shares_memory = namespaces::is_host(&plan, oci_spec::runtime::LinuxNamespaceType::Time);
    clone_process(channel, shares_memory, |channel| {
        container::run(&plan, parked, ahead, sources, host_mounts, streams, channel)
    })
}

/// Clones the final process as a child of this one's parent, and waits to be ended.
///
/// Where it can share this process's memory until `execve`, nothing need be copied for it; this process sleeps as long.
pub(crate) fn clone_process(
    channel: &Channel,
    shares_memory: bool,
    main: impl FnOnce(&Channel) -> Result<(), StartFailure>,
) -> Result<(), StartFailure> {
    let report = |pid: i32, pidfd: &OwnedFd| {
        channel
            .send(&Report::Cloned { pid }, &[pidfd.as_fd()])
            .map_err(system("clone", "report"))
    };
    let run = || {
        // The keeper's death until `execve` is this process's too; cleared again just before.
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        main(channel)
    };
    let cannot = || system("clone", "make the process");
    if shares_memory {
        let start = |pid| {
            let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty());
            let outcome = own
                .map_err(system("clone", "the process's descriptor"))
                .and_then(|own| report(pid, &own))
                .and_then(|()| run());
            if let Err(failure) = outcome {
                let _ = channel.send(&Report::Failed(failure), &[]);
            }
        };
        process::run_sharing_memory(libc::CLONE_PARENT, start).map_err(cannot())?;
    } else {
        match process::fork(libc::CLONE_PARENT as u64).map_err(cannot())? {
            Fork::Parent { pid, pidfd } => report(pid, &pidfd)?,
            Fork::Child => return run(),
        }
    }
    // Ending takes the kernel longer than a start's last steps, and it would do it before anyone else gets the
    // processor: the keeper does it when the start has been reported. The channel goes now.
    let _ = process::close_from(0);
    loop {
        rustix::event::pause();
    }
}
