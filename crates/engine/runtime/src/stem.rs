//! The stem: a process parked inside a container's namespaces and cgroup.
use crate::plan::{ContainerPlan, ExecPlan, StartFailure, StemPlan};
use std::os::fd::{BorrowedFd, OwnedFd};

/// A parked process. Dropping it ends the process and everything it holds.
pub struct Stem {
    pidfd: OwnedFd,
    netns: OwnedFd,
    route_socket: OwnedFd,
}

/// Where the new process reads and writes.
pub enum ChildStdio {
    Pipes { stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd },
    Terminal { rows: u16, columns: u16 },
}

/// A process that has been started; a child of the caller, who reaps it.
pub struct Init {
    /// In the caller's pid namespace.
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// Field 22 of `/proc/<pid>/stat`.
    pub start_time: u64,
    /// The terminal's master side, opened in the container's own devpts.
    pub console: Option<OwnedFd>,
}

impl Stem {
    /// Forks the stem from a single-threaded process and waits until it is parked.
    pub fn prepare(plan: &StemPlan) -> Result<Stem, StartFailure> {
        let _ = plan;
        todo!()
    }

    /// Readable when the stem has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.pidfd)
    }

    pub fn netns(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.netns)
    }

    /// A `NETLINK_ROUTE` socket opened inside the stem's network namespace.
    pub fn route_socket(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.route_socket)
    }

    /// Starts the container; returns when `execve` has succeeded or a step has failed.
    pub fn start(self, plan: &ContainerPlan, stdio: ChildStdio) -> Result<Init, StartFailure> {
        let _ = (plan, stdio);
        todo!()
    }
}

/// Starts a process in a running container; returns when `execve` has succeeded or a step has failed.
pub fn exec(
    init_pidfd: BorrowedFd<'_>,
    init_pid: i32,
    plan: &ExecPlan,
    stdio: ChildStdio,
) -> Result<Init, StartFailure> {
    let _ = (init_pidfd, init_pid, plan, stdio);
    todo!()
}
