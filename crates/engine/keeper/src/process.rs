//! A process that this keeper is the parent of: PID 1 of the container or an exec.

use crate::streams::Streams;
use naru_base::ExecId;
use naru_runtime::{Init, Remains};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// The exit code, or 128 + the signal's number.
    pub exit_code: i32,
    pub kind: EndingKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndingKind {
    Exited,
    Signaled {
        signal: i32,
        core_dumped: bool,
    },
    /// Somebody else took its status.
    Lost,
}

impl Ending {
    pub fn signal(self) -> Option<i32> {
        match self.kind {
            EndingKind::Signaled { signal, .. } => Some(signal),
            EndingKind::Exited | EndingKind::Lost => None,
        }
    }
}

#[derive(Debug)]
pub struct Process {
    /// `None` for PID 1.
    pub exec: Option<ExecId>,
    pub pid: i32,
    pub start_time: u64,
    pub streams: Streams,
    pub state: ProcessState,
    /// Kept until the end has been reported, see [`Init::mount_namespace`].
    _mount_namespace: Option<OwnedFd>,
}

#[derive(Debug)]
pub enum ProcessState {
    /// Left when the pidfd reports the end.
    Running { pidfd: OwnedFd },
    /// Ended and reaped; clients that are behind have until the deadline to take the rest of the output.
    Ended { deadline: Instant },
}

impl Process {
    /// What is left of the start comes along, to be dropped when the start has been reported.
    pub fn new(exec: Option<ExecId>, init: Init, mut streams: Streams) -> io::Result<(Self, Remains)> {
        streams.set_console(init.console)?;
        let state = ProcessState::Running { pidfd: init.pidfd };
        let process = Self {
            exec,
            pid: init.pid,
            start_time: init.start_time,
            streams,
            state,
            _mount_namespace: init.mount_namespace,
        };
        Ok((process, init.remains))
    }

    /// `None` once it has ended.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            ProcessState::Running { pidfd } => Some(pidfd.as_fd()),
            ProcessState::Ended { .. } => None,
        }
    }

    /// Takes the process's exit status from the kernel; `None` while it runs.
    pub fn reap(&self) -> Option<Ending> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status = match waitid(WaitId::PidFd(self.pidfd()?), options) {
            Ok(status) => status?,
            // Not a child: it was reaped elsewhere and its status is lost.
            Err(rustix::io::Errno::CHILD) => {
                return Some(Ending {
                    exit_code: 255,
                    kind: EndingKind::Lost,
                });
            }
            Err(_) => return None,
        };
        Some(match status.terminating_signal() {
            Some(signal) => Ending {
                exit_code: 128 + signal,
                kind: EndingKind::Signaled {
                    signal,
                    core_dumped: status.dumped(),
                },
            },
            None => Ending {
                exit_code: status.exit_status().unwrap_or(255),
                kind: EndingKind::Exited,
            },
        })
    }
}
