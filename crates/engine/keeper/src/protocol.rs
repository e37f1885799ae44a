//! What the daemon and a keeper say to each other.
//!
//! ```text
//!  daemon                          spawner                    keeper                     stem / PID 1
//!    │── SpawnKeeper + socket ───────▶│── fork ──────────────────▶│
//!    │                                                            │
//!    │── Prepare ────────────────────────────────────────────────▶│── fork ───────────────▶│ joins cgroup,
//!    │◀───────────────── Prepared + [netns fd, route socket] ─────│◀───────────────────────│ makes namespaces,
//!    │        (the set may now stay parked for any time)          │                        │ waits
//!    │── MountAhead (as soon as the container is created) ──────────▶│── root filesystem ────▶│ mounts it
//!    │── Start + [attached sockets] ─────────────────────────────▶│── plan ───────────────▶│ mounts, clones PID 1
//!    │◀───────────────── Started{pid, start_time} | Failed ───────│◀── exec'd ─────────────│ (stem ends)
//!    │── Exec, Attach, Resize, Signal, CloseExecStdin … ─────────▶│
//!    │◀──────────────────────────── one reply to each, in order ──│
//!    │◀──────────────────────────── Event: ExecExited, Exited ────│ exit record written before Exited is sent;
//!    │                                                            │ then the keeper ends
//! ```
//!
//! A keeper's first connection is the socket the daemon handed to the spawner. After `Start` it also listens on
//! [`KeeperPlan::socket`], so that a new daemon can find it; every connection speaks the same requests and every one
//! gets the events. A connection that ends costs the keeper nothing; but a keeper that is only parked (no `Start` yet)
//! ends when its first connection does, and takes its stem with it.
//!
//! Transport: `SOCK_SEQPACKET`, one JSON message a packet, file descriptors alongside (`SCM_RIGHTS`). A message over
//! [`INLINE_BYTES_MAX`] travels in a memfd that is the packet's first descriptor, and the packet's body is empty.

use crate::cause::{EndReport, SignalReason};
use naru_base::{ContainerId, ExecId, Timestamp};
use naru_logs::ship::ShipPlan;
use naru_logs::{Format, Rotation};
use naru_runtime::plan::{EncodedPlan, ExecPlan, RootfsPlan, StartFailure, StemPlan};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Largest message sent inside a packet; well under the default socket buffer of 208 KiB.
pub const INLINE_BYTES_MAX: usize = 64 * 1024;

/// Daemon to spawner; the keeper's end of a seqpacket pair travels with it. There is no reply: the keeper answers on
/// that socket, and if it cannot, the socket closes.
#[derive(Debug, Serialize, Deserialize)]
pub struct SpawnKeeper {
    /// For the process title only.
    pub container: ContainerId,
}

/// Daemon to keeper. Each gets exactly one [`Reply`], in order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Make the stem process with its namespaces and cgroup. Answer: `Prepared` with two descriptors: the network
    /// namespace, and an `AF_NETLINK`/`NETLINK_ROUTE` socket opened inside it.
    Prepare(StemPlan),
    /// Mount the root filesystem ahead of the start that will name it. Answer: `Done`, which says nothing about its
    /// success: the start finds out. A stem is asked only for the container that it was offered to.
    MountAhead(RootfsPlan),
    /// Start the container in the prepared stem. One connected stream socket may come along for each entry of
    /// [`KeeperPlan::attached`], in that order. Answer: `Started` or `Failed`; after `Failed` the keeper ends.
    Start(Box<KeeperPlan>),
    /// Start a process in the running container; at most one stream socket comes along when `attached` is set.
    /// Answer: `ExecStarted` or `Failed`. An `ExecExited` event follows.
    Exec(Box<ExecRequest>),
    /// Attach the stream socket that comes along to the container's standard streams. Answer: `Done`.
    Attach(AttachOptions),
    /// Set the terminal size. Answer: `Done`, or `Refused` when there is no terminal.
    Resize { target: Target, rows: u16, columns: u16 },
    /// Send a signal to PID 1 or to an exec's process. Answer: `Done`, or `Refused` when it has ended.
    Signal {
        target: Target,
        signal: i32,
        /// Goes into the exit record, should PID 1 end by it.
        #[serde(default)]
        reason: SignalReason,
    },
    /// Answer: `Status`.
    Status,
}

/// PID 1 of the container, or a process started by exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    Init,
    Exec(ExecId),
}

/// Keeper to daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    Prepared,
    /// `start_time` is field 22 of `/proc/<pid>/stat`, in clock ticks since boot: with the pid it names the process
    /// for ever.
    Started {
        pid: i32,
        start_time: u64,
    },
    ExecStarted {
        pid: i32,
        start_time: u64,
    },
    Failed(StartFailure),
    Done,
    Refused {
        message: String,
    },
    Status(KeeperStatus),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeeperStatus {
    pub container: ContainerId,
    pub state: KeeperState,
    pub execs: Vec<ExecStatus>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeeperState {
    /// Prepared, or about to be; left by `Start`.
    Parked,
    Running {
        pid: i32,
        start_time: u64,
    },
    /// PID 1 has ended and the exit record is written; the keeper is about to end.
    Exited(ExitRecord),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecStatus {
    pub exec: ExecId,
    pub pid: i32,
    /// `None` while it runs.
    pub exit_code: Option<i32>,
}

/// Keeper to daemon, unasked, on every connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    ExecExited {
        exec: ExecId,
        exit_code: i32,
    },
    /// The exit record is on disk and the log is complete. Attached sockets that were read have everything and are
    /// closed; a client that is behind may take up to ten seconds more, which delays nobody else.
    Exited(ExitRecord),
    /// An attached client typed the detach keys or went away while the process ran; `ordinal` counts attachments from 0
    /// in order of arrival, those of execs included.
    Detached {
        ordinal: u64,
    },
}

/// Keeper to daemon: what a packet on the connection may be.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FromKeeper {
    Reply(Reply),
    Event(Event),
}

/// How and why a container ended; written to [`KeeperPlan::exit_record`] by an atomic rename before anyone is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The exit code, or 128 + the signal's number.
    pub exit_code: i32,
    /// The signal that ended PID 1, where one did.
    pub signal: Option<i32>,
    /// The kernel's out-of-memory killer ended a process of this container's cgroup.
    pub oom_killed: bool,
    pub finished_at: Timestamp,
    /// For people: why it ended, where that is not plain from the fields above.
    pub cause: Option<String>,
    /// What is known of the cause; `None` from a keeper of a version that did not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<EndReport>,
}

/// A container to start and how its keeper is to look after it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeeperPlan {
    pub container: ContainerId,
    pub runtime: EncodedPlan,
    /// The cgroup path, as in [`StemPlan::cgroup`]; asked for out-of-memory kills at the end.
    pub cgroup: String,
    /// A limit of processes so low that the stem must not count: set when that is gone. Until then it is one higher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tight_pids: Option<i64>,
    pub stdio: StdioPlan,
    pub log: LogPlan,
    /// Where the exit record goes.
    pub exit_record: PathBuf,
    /// Where the keeper listens after `Start`.
    pub socket: PathBuf,
    /// One for each stream socket that comes with the request.
    pub attached: Vec<AttachOptions>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct StdioPlan {
    /// A terminal instead of three pipes; `spec.process.console_size` gives its first size.
    pub terminal: bool,
    /// Keep standard input open; without it the process reads from `/dev/null`.
    pub open_stdin: bool,
    /// Close standard input when the first attached client that sent input has ended its side (`StdinOnce`).
    pub stdin_once: bool,
}

/// Where output is recorded.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogPlan {
    File {
        path: PathBuf,
        format: Format,
        rotation: Rotation,
    },
    /// To a receiver outside, and into a file as well for those who read the log, unless that is not wanted.
    Ship {
        plan: Box<ShipPlan>,
        cache: Option<LogCache>,
    },
    None,
}

/// What is kept here of a log that goes elsewhere, in the format of the driver local.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogCache {
    pub path: PathBuf,
    pub rotation: Rotation,
}

/// What an attached stream socket carries. Toward the client: with a terminal raw bytes; without one Docker's frames
/// (stream number, three zero bytes, length as big-endian u32, bytes). From the client: raw bytes for standard input;
/// a half-close ends the client's input. The keeper closes the socket when the process has ended and all output is out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AttachOptions {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// The byte sequence that detaches a terminal client, typically ctrl-p ctrl-q; empty for none.
    pub detach_keys: Vec<u8>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecRequest {
    pub exec: ExecId,
    pub plan: ExecPlan,
    pub stdio: StdioPlan,
    /// `None` for a detached exec, whose output goes nowhere.
    pub attached: Option<AttachOptions>,
}
