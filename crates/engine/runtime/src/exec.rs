//! Processes beside a container's first: started by exec, in namespaces and a cgroup that are there already.
//!
//! ```text
//!  keeper                     helper                             new process
//!    │── fork ─────────────────▶│ joins the cgroup and the namespaces
//!    │                          │ waits (dies with the keeper)
//!    │── plan + streams ───────▶│
//!    │                          │── clone: child of the keeper ─────▶│ drops privileges
//!    │◀─ Cloned{pid} + pidfd ─────────────────────────────────────────│ waits for the permission, executes
//! ```
//! Joining a cgroup of version 1 takes the kernel some 10 ms when nobody has done so for a while, so a helper may be
//! made ahead of the exec that will need it: right after another one, which has paid for both. Where the container has
//! a limit of processes no helper may count in it; there the new process joins for itself.

use crate::cgroup::Entrances;
use crate::channel::Channel;
use crate::container;
use crate::failure::system;
use crate::namespaces;
use crate::plan::{ExecPlace, ExecPlan, StartFailure};
use crate::seccomp::Agent;
use crate::stem::{
    ChildStdio, Helper, Init, Remains, StdioKind, clone_process, fork_helper_keeping, join_streams,
    permit_exec, split,
};
use crate::user_namespace;
use naru_sys::process;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// The namespaces whose change by the container's first process makes a helper useless.
const WATCHED: [&str; 6] = ["mnt", "net", "ipc", "uts", "user", "cgroup"];

/// A process parked in a running container. Dropping it ends the process.
#[derive(Debug)]
pub struct ExecStem {
    channel: Channel,
    helper: Helper,
    place: ExecPlace,
    namespaces: Vec<PathBuf>,
}

impl ExecStem {
    /// Forks the helper; returns before it is ready. The calling process must be single-threaded.
    pub fn prepare(
        init_pidfd: BorrowedFd<'_>,
        init_pid: i32,
        place: &ExecPlace,
    ) -> Result<Self, StartFailure> {
        let namespaces = namespaces_of(init_pid);
        let (channel, helper) = fork_helper_keeping("exec", &[init_pidfd], |channel, fds| {
            exec_main(&channel, fds, place)
        })?;
        Ok(Self {
            channel,
            helper,
            place: place.clone(),
            namespaces,
        })
    }

    /// Whether an exec at `place` can still use it: it lives, and is where the container's first process is.
    pub fn fits(&self, init_pid: i32, place: &ExecPlace) -> bool {
        let mut polled = [PollFd::new(&self.helper.pidfd, PollFlags::IN)];
        let at_once = Timespec::default();
        let is_alive = rustix::event::poll(&mut polled, Some(&at_once)).is_ok_and(|ended| ended == 0);
        is_alive && self.place == *place && self.namespaces == namespaces_of(init_pid)
    }

    /// Readable when the helper has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.helper.pidfd.as_fd()
    }

    /// Has the helper begin to end.
    pub fn kill(&self) {
        self.helper.kill();
    }

    /// Starts the process; returns when `execve` has succeeded or a step has failed. The new process is a child of the
    /// caller.
    pub fn start(self, plan: &ExecPlan, stdio: ChildStdio) -> Result<Init, StartFailure> {
        if let Some(root) = plan.place.mapped_root {
            user_namespace::own_streams(&stdio, root);
        }
        let (kind, streams) = split(stdio);
        let agent = Agent::path(&plan.seccomp).map(Agent::connect).transpose()?;
        let borrowed: Vec<_> = streams.iter().chain(&agent).map(AsFd::as_fd).collect();
        // A helper that has failed already cannot take it, and has said why.
        let _ = self.channel.send(&(kind, plan), &borrowed);
        drop(streams);
        let started = permit_exec(&self.channel)?;
        Ok(started.into_init(None, Remains::of_exec(self.helper, self.channel)))
    }
}

fn namespaces_of(pid: i32) -> Vec<PathBuf> {
    let links = WATCHED
        .iter()
        .map(|name| std::fs::read_link(format!("/proc/{pid}/ns/{name}")));
    links.map(Result::unwrap_or_default).collect()
}

fn exec_main(channel: &Channel, mut fds: Vec<OwnedFd>, place: &ExecPlace) -> Result<(), StartFailure> {
    naru_sys::title::set("naru-exec");
    let init = fds
        .pop()
        .ok_or_else(|| system("exec", "container")("no descriptor of its first process"))?;
    let what = format!("join {}", place.cgroup);
    let join = || system("cgroup", &what);
    let mut entrances = Some(Entrances::open(&place.cgroup).map_err(join())?);
    if !place.has_process_limit
        && let Some(entrances) = entrances.take()
    {
        entrances.enter().map_err(join())?;
    }
    let host_proc = Agent::open_proc()?;
    namespaces::join_all_of(init.as_fd(), place)?;
    drop(init);
    if place.mapped_root.is_some() {
        user_namespace::become_root()?;
    }
    crate::plan::rehearse();
    let order = channel.receive::<(StdioKind, ExecPlan)>();
    let Some(((kind, plan), mut fds)) = order.map_err(system("exec", "read the plan"))? else {
        process::exit_now(0)
    };
    let agent = Agent::path(&plan.seccomp)
        .and_then(|_| fds.pop())
        .map(|socket| Agent::new(socket, host_proc));
    let streams = join_streams(kind, fds).map_err(system("exec", "receive the streams"))?;
    clone_process(channel, true, |channel| {
        container::run_exec(&plan, agent, entrances.as_ref(), streams, channel)
    })
}
