//! The keeper's loop and what it does with each request.
//!
//! What survives what, in the order of a start:
//! 1. The log is opened and the socket listens before the container's program runs. If either fails nothing has
//!    started. If the daemon dies here the start goes on, and the next daemon finds the socket, connects, and has its
//!    first request answered when the start is done.
//! 2. `execve` has succeeded; the reply is the very next thing done.
//! 3. PID 1 ends: its output is read to the end, the log completed, the exit record renamed into place; only then are
//!    daemons told and the socket removed. A daemon that finds no socket therefore finds a record.
//!
//! If the keeper itself is killed its connections close, and the daemon ends the container through its cgroup.

use crate::cause::{self, EndReport, OomVictim, Pressure, SentSignal, SignalReason};
use crate::connection::Connection;
use crate::kernel_log;
use crate::process::{Ending, Process, ProcessState};
use crate::protocol::{
    AttachOptions, Event, ExecRequest, ExecStatus, ExitRecord, FromKeeper, KeeperPlan, KeeperState,
    KeeperStatus, LogPlan, Reply, Request, StdioPlan, Target,
};
use crate::spawner::keeper_title;
use crate::streams::{Logs, Part, Streams};
use naru_base::{ContainerId, ExecId, Timestamp};
use naru_cgroup::Cgroup;
use naru_logs::ship::{ShipPlan, Shipper};
use naru_logs::{Format, LogWriter};
use naru_runtime::plan::{ExecPlace, RootfsPlan, StartFailure, StartFailureKind, StemPlan};
use naru_runtime::{ExecStem, Remains, Stem};
use naru_sys::seqpacket::{SeqPacket, SeqPacketListener};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Ended execs whose exit codes are kept for `Status`; Docker forgets them after a while, too.
const FINISHED_EXECS_MAX: usize = 64;

/// How long a client that is behind may take to read the rest after the process's end.
const LINGER: Duration = Duration::from_secs(10);

/// Between two looks at a terminal that nobody has open, and between two tries to write an exit record.
const TICK: Duration = Duration::from_millis(250);

/// How long what is left of a helper may stay after a start. The kernel takes as long to end a process as all the rest
/// of a start, and would do it before whoever waits for the reply gets the processor.
const REMAINS_DELAY: Duration = Duration::from_millis(2);

/// How long a helper waits for another exec: longer than most health checks pause.
const EXEC_PARKED: Duration = Duration::from_secs(60);

/// Signals to PID 1, and victims among execs, that are remembered.
const REMEMBERED_MAX: usize = 8;

/// Docker's terminal size until a client sets one.
const CONSOLE_SIZE: (u16, u16) = (24, 80);

/// Serves one container until it has ended. Returns when there is nothing left to do; the caller then ends the
/// process, and with it a stem that is still parked.
pub fn run_keeper(socket: SeqPacket, container: ContainerId) -> io::Result<()> {
    let mut keeper = Keeper {
        container,
        connections: vec![Connection::new(socket)?],
        listener: None,
        phase: Phase::Parked { stem: None },
        processes: Vec::new(),
        finished_execs: VecDeque::new(),
        attachments: 0,
        oom_score: None,
        remains: None,
        exec_stem: None,
        wants_exec_stem: false,
        exec_place: None,
        is_trimmed: true,
        begun_us: 0,
        sent: Vec::new(),
        oom_victims: Vec::new(),
    };
    while !keeper.is_over() {
        keeper.turn()?;
    }
    Ok(())
}

struct Keeper {
    container: ContainerId,
    connections: Vec<Connection>,
    /// Listening from the start of the container to its end.
    listener: Option<SeqPacketListener>,
    phase: Phase,
    /// PID 1 first, then execs, while they run or clients still read.
    processes: Vec<Process>,
    finished_execs: VecDeque<ExecStatus>,
    /// The next ordinal.
    attachments: u64,
    /// What execs get that ask for nothing else, where this process itself has gone lower.
    oom_score: Option<i32>,
    /// What the last start left behind.
    remains: Option<Remains>,
    /// Ready for the next exec.
    exec_stem: Option<ParkedExec>,
    wants_exec_stem: bool,
    exec_place: Option<ExecPlace>,
    /// Memory that the start or the last request needed has been given back. A parked keeper holds on to it: touching
    /// it anew would be part of the start's time.
    is_trimmed: bool,
    /// When the container was started, on the clock of the kernel's log.
    begun_us: u64,
    /// The last signals that PID 1 was sent from here.
    sent: Vec<SentSignal>,
    /// Execs that were ended for want of memory.
    oom_victims: Vec<OomVictim>,
}

/// A helper made ahead of an exec.
struct ParkedExec {
    stem: ExecStem,
    /// It is not wanted any longer from then on; `None` once it has been told to end.
    until: Option<Instant>,
}

enum Phase {
    /// No container yet; left by `Start`, or to `Over` when the first connection or the stem ends.
    Parked { stem: Option<Stem> },
    /// PID 1 runs; left to `Exited` when it ends.
    Running(Files),
    /// PID 1 has ended; left when the record is written and all clients are served.
    Exited {
        files: Files,
        record: ExitRecord,
        is_written: bool,
    },
    /// The start failed, or there is no one to start for; left when replies are out.
    Over { deadline: Instant },
}

/// Where the container's traces go.
#[derive(Clone)]
struct Files {
    cgroup: String,
    exit_record: PathBuf,
    socket: PathBuf,
}

/// What a polled descriptor belongs to.
#[derive(Clone, Copy)]
enum Token {
    Listener,
    Stem,
    ExecStem,
    Connection(usize),
    Process,
    Stream(usize, Part),
}

impl Keeper {
    fn is_over(&self) -> bool {
        let is_idle = self.processes.is_empty() && !self.connections.iter().any(Connection::has_queue);
        match &self.phase {
            Phase::Parked { .. } | Phase::Running(_) => false,
            Phase::Exited { is_written, .. } => *is_written && is_idle,
            Phase::Over { deadline } => is_idle || Instant::now() >= *deadline,
        }
    }

    /// Waits for something to happen and deals with all that has.
    fn turn(&mut self) -> io::Result<()> {
        let ready = self.wait()?;
        if ready.is_empty() {
            self.processes
                .iter_mut()
                .for_each(|process| process.streams.on_timer());
            self.trim();
        }
        for (token, flags) in ready {
            self.on_ready(token, flags);
        }
        self.settle();
        self.park_exec();
        Ok(())
    }

    /// Gives memory back in the first quiet moment, so that a short-lived container pays nothing for it.
    fn trim(&mut self) {
        if self.remains.take().is_some() {
            return;
        }
        if let Some(parked) = &mut self.exec_stem
            && parked.until.is_some_and(|until| Instant::now() >= until)
        {
            // In a frozen container it ends later.
            parked.stem.kill();
            parked.until = None;
        }
        if !self.is_trimmed {
            naru_sys::memory::release_unused();
            self.is_trimmed = true;
        }
    }

    fn wait(&self) -> io::Result<Vec<(Token, PollFlags)>> {
        let mut tokens = Vec::new();
        let mut polled = Vec::new();
        let mut add = |token, fd, flags| {
            tokens.push(token);
            polled.push(PollFd::from_borrowed_fd(fd, flags));
        };
        if let Some(listener) = &self.listener {
            add(Token::Listener, listener.as_fd(), PollFlags::IN);
        }
        if let Phase::Parked { stem: Some(stem) } = &self.phase {
            add(Token::Stem, stem.pidfd(), PollFlags::IN);
        }
        if let Some(parked) = &self.exec_stem {
            add(Token::ExecStem, parked.stem.pidfd(), PollFlags::IN);
        }
        for (index, connection) in self.connections.iter().enumerate() {
            // One that does not read its replies is not asked for more requests.
            let flags = if connection.has_queue() {
                PollFlags::OUT
            } else {
                PollFlags::IN
            };
            add(Token::Connection(index), connection.as_fd(), flags);
        }
        for (index, process) in self.processes.iter().enumerate() {
            // Execs come before PID 1: their ends are reported first when both have ended.
            if let Some(pidfd) = process.pidfd() {
                add(Token::Process, pidfd, PollFlags::IN);
            }
            process
                .streams
                .each_poll(|part, fd, flags| add(Token::Stream(index, part), fd, flags));
        }
        let timeout = self.timeout();
        match rustix::event::poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = tokens.into_iter().zip(polled.iter().map(PollFd::revents));
        Ok(ready.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    /// `None` while only descriptors can make a difference.
    fn timeout(&self) -> Option<Timespec> {
        let is_waiting = self.processes.iter().any(|process| {
            process.streams.needs_timer() || matches!(process.state, ProcessState::Ended { .. })
        });
        let is_unwritten = matches!(
            self.phase,
            Phase::Exited {
                is_written: false,
                ..
            } | Phase::Over { .. }
        );
        let timeout = if self.remains.is_some() {
            REMAINS_DELAY
        } else {
            TICK
        };
        let expires = self
            .exec_stem
            .as_ref()
            .is_some_and(|parked| parked.until.is_some());
        let is_timed = is_waiting || is_unwritten || expires || self.remains.is_some() || !self.is_trimmed;
        is_timed.then(|| Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        })
    }

    fn on_ready(&mut self, token: Token, ready: PollFlags) {
        match token {
            Token::Listener => self.accept(),
            Token::Stem => {
                self.phase = Phase::Over {
                    deadline: Instant::now(),
                }
            }
            // It was told to, or the kernel chose it when memory ran out.
            Token::ExecStem => self.exec_stem = None,
            Token::Connection(index) => self.serve(index),
            // Ends are looked at when all output of this round has been dealt with.
            Token::Process => {}
            Token::Stream(index, part) => {
                if let Some(process) = self.processes.get_mut(index) {
                    process.streams.on_ready(part, ready);
                }
            }
        }
    }

    fn accept(&mut self) {
        let accepted = self.listener.as_ref().map(SeqPacketListener::accept);
        if let Some(Ok(connection)) = accepted.map(|socket| socket.and_then(Connection::new)) {
            self.connections.push(connection);
        }
    }

    /// Answers the next request of a connection.
    fn serve(&mut self, index: usize) {
        self.connections[index].flush();
        if self.connections[index].has_queue() {
            return;
        }
        let Some((request, descriptors)) = self.connections[index].receive() else {
            return;
        };
        self.is_trimmed = matches!(self.phase, Phase::Parked { .. });
        match request {
            Request::Prepare(plan) => self.prepare(index, &plan),
            Request::Start(plan) => self.start(index, *plan, descriptors),
            Request::Exec(request) => self.exec(index, *request, descriptors),
            other => {
                let reply = self.answer(other, descriptors);
                self.reply(index, reply);
            }
        }
    }

    fn reply(&mut self, index: usize, reply: Reply) {
        self.connections[index].send(FromKeeper::Reply(reply), &[]);
    }

    fn prepare(&mut self, index: usize, plan: &StemPlan) {
        if !matches!(self.phase, Phase::Parked { stem: None }) {
            return self.reply(index, refused("this keeper has been prepared already"));
        }
        match Stem::prepare(plan) {
            Ok(stem) => {
                let descriptors = [stem.netns(), stem.route_socket()];
                self.connections[index].send(FromKeeper::Reply(Reply::Prepared), &descriptors);
                self.phase = Phase::Parked { stem: Some(stem) };
            }
            Err(failure) => self.fail(index, failure),
        }
    }

    fn start(&mut self, index: usize, plan: KeeperPlan, descriptors: Vec<OwnedFd>) {
        let Phase::Parked { stem } = &mut self.phase else {
            return self.reply(index, refused("this keeper has a container already"));
        };
        let Some(stem) = stem.take() else {
            return self.reply(index, refused("this keeper has not been prepared"));
        };
        let begun_us = kernel_log::now_us();
        match self.start_process(stem, &plan, descriptors) {
            Ok((process, remains)) => {
                self.begun_us = begun_us;
                let (pid, start_time) = (process.pid, process.start_time);
                let remains = match plan.tight_pids {
                    None => Some(remains),
                    Some(max) => {
                        drop(remains);
                        limit_processes(&plan.cgroup, max);
                        None
                    }
                };
                self.reply(index, Reply::Started { pid, start_time });
                self.remains = remains;
                self.processes.push(process);
                let KeeperPlan {
                    cgroup,
                    exit_record,
                    socket,
                    container,
                    ..
                } = plan;
                if self.container != container {
                    naru_sys::title::set(&keeper_title(&container));
                    self.container = container;
                }
                self.phase = Phase::Running(Files {
                    cgroup,
                    exit_record,
                    socket,
                });
                // Not before: PID 1 would inherit it.
                self.oom_score = crate::oom_score::lower();
                self.is_trimmed = false;
            }
            Err(failure) => {
                if self.listener.take().is_some() {
                    let _ = rustix::fs::unlink(&plan.socket);
                }
                self.fail(index, failure);
            }
        }
    }

    /// Everything up to the running program.
    fn start_process(
        &mut self,
        stem: Stem,
        plan: &KeeperPlan,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Process, Remains), StartFailure> {
        if descriptors.len() != plan.attached.len() {
            return Err(failure("attach", "the request and its sockets do not match"));
        }
        let size = first_size(plan)?;
        let (mut streams, stdio) = make_streams(plan.stdio, size)?;
        for (socket, options) in descriptors.into_iter().zip(&plan.attached) {
            streams.attach(socket, options.clone(), self.next_ordinal());
        }
        let (init, logs) = stem.start(&plan.runtime, stdio, || {
            self.listener = Some(listen(&plan.socket)?);
            open_logs(&plan.log)
        })?;
        streams.set_logs(logs);
        Process::new(None, init, streams).map_err(|error| failure("terminal", error.to_string()))
    }

    fn next_ordinal(&mut self) -> u64 {
        self.attachments += 1;
        self.attachments - 1
    }

    fn fail(&mut self, index: usize, failure: StartFailure) {
        self.reply(index, Reply::Failed(failure));
        self.phase = Phase::Over {
            deadline: Instant::now() + LINGER,
        };
    }

    fn answer(&mut self, request: Request, mut descriptors: Vec<OwnedFd>) -> Reply {
        match request {
            Request::Attach(options) => self.attach(options, descriptors.pop()),
            Request::Resize {
                target,
                rows,
                columns,
            } => self.resize(&target, rows, columns),
            Request::Signal {
                target,
                signal,
                reason,
            } => self.signal(&target, signal, reason),
            Request::Status => Reply::Status(self.status()),
            Request::MountAhead(rootfs) => self.mount_ahead(&rootfs),
            Request::Prepare(_) | Request::Start(_) | Request::Exec(_) => refused("not possible now"),
        }
    }

    /// After an exec's end, has a helper ready for another: where there was one more follow, from health checks above
    /// all.
    fn park_exec(&mut self) {
        if !std::mem::take(&mut self.wants_exec_stem) || self.exec_stem.is_some() {
            return;
        }
        // Before the fork, which would copy them.
        self.remains = None;
        let place = self.exec_place.as_ref().filter(|place| !place.has_process_limit);
        if let (Some((pid, pidfd)), Some(place)) = (self.init(), place) {
            self.exec_stem = ExecStem::prepare(pidfd, pid, place).ok().map(|stem| ParkedExec {
                stem,
                until: Some(Instant::now() + EXEC_PARKED),
            });
        }
    }

    /// PID 1 of the running container.
    fn init(&self) -> Option<(i32, BorrowedFd<'_>)> {
        let init = self.processes.first().filter(|process| process.exec.is_none())?;
        Some((init.pid, init.pidfd()?))
    }

    fn exec(&mut self, index: usize, request: ExecRequest, mut descriptors: Vec<OwnedFd>) {
        match self.exec_process(request, descriptors.pop()) {
            Ok((process, remains)) => {
                let (pid, start_time) = (process.pid, process.start_time);
                self.reply(index, Reply::ExecStarted { pid, start_time });
                self.remains = Some(remains);
                self.processes.push(process);
            }
            Err(failure) => self.reply(index, Reply::Failed(failure)),
        }
    }

    fn exec_process(
        &mut self,
        mut request: ExecRequest,
        socket: Option<OwnedFd>,
    ) -> Result<(Process, Remains), StartFailure> {
        let size = console_size(&request.plan.process);
        if request.plan.process.oom_score_adj().is_none() {
            request.plan.process.set_oom_score_adj(self.oom_score);
        }
        let (mut streams, stdio) = make_streams(request.stdio, size)?;
        if let (Some(socket), Some(options)) = (socket, request.attached) {
            streams.attach(socket, options, self.next_ordinal());
        }
        let parked = self.exec_stem.take().map(|parked| parked.stem);
        // Before a fork, which would copy them.
        let remains = self.remains.take();
        let Some((pid, pidfd)) = self.init() else {
            return Err(StartFailure {
                step: "exec".to_owned(),
                kind: StartFailureKind::Invalid,
                message: "the container is not running".to_owned(),
            });
        };
        let place = &request.plan.place;
        let stem = match parked {
            Some(parked) if parked.fits(pid, place) => parked,
            _ => {
                drop(remains);
                ExecStem::prepare(pidfd, pid, place)?
            }
        };
        let init = stem.start(&request.plan, stdio)?;
        self.exec_place = Some(request.plan.place);
        Process::new(Some(request.exec), init, streams)
            .map_err(|error| failure("terminal", error.to_string()))
    }

    fn mount_ahead(&mut self, rootfs: &RootfsPlan) -> Reply {
        match &mut self.phase {
            Phase::Parked { stem: Some(stem) } => match stem.mount_ahead(rootfs) {
                Ok(()) => Reply::Done,
                Err(error) => refused(format!("cannot reach the stem: {error}")),
            },
            _ => refused("this keeper has no stem that waits"),
        }
    }

    fn attach(&mut self, options: AttachOptions, socket: Option<OwnedFd>) -> Reply {
        let Some(socket) = socket else {
            return refused("no socket came along");
        };
        let ordinal = self.next_ordinal();
        match self.find(&Target::Init) {
            Some(process) => {
                process.streams.attach(socket, options, ordinal);
                Reply::Done
            }
            None => refused("the container is not running"),
        }
    }

    fn resize(&mut self, target: &Target, rows: u16, columns: u16) -> Reply {
        let Some(process) = self.find(target) else {
            return refused("the process has ended");
        };
        let Some(console) = process.streams.console() else {
            return refused("the process has no terminal");
        };
        match naru_sys::terminal::resize(console, rows, columns) {
            Ok(()) => Reply::Done,
            Err(error) => refused(format!("cannot resize the terminal: {error}")),
        }
    }

    fn signal(&mut self, target: &Target, signal: i32, reason: SignalReason) -> Reply {
        let Some(process) = self.find(target) else {
            return refused("the process has ended");
        };
        let Some(pidfd) = process.pidfd() else {
            return refused("the process has ended");
        };
        if let Err(error) = naru_sys::signal::send(pidfd, signal) {
            return refused(format!("cannot send signal {signal}: {error}"));
        }
        if *target == Target::Init {
            if self.sent.len() == REMEMBERED_MAX {
                self.sent.remove(0);
            }
            self.sent.push(SentSignal {
                signal,
                reason,
                sent_at: Timestamp::now(),
            });
        }
        Reply::Done
    }

    /// A process that still runs.
    fn find(&mut self, target: &Target) -> Option<&mut Process> {
        self.processes
            .iter_mut()
            .filter(|process| process.pidfd().is_some())
            .find(|process| match target {
                Target::Init => process.exec.is_none(),
                Target::Exec(id) => process.exec.as_ref() == Some(id),
            })
    }

    fn status(&self) -> KeeperStatus {
        let state = match &self.phase {
            Phase::Parked { .. } | Phase::Over { .. } => KeeperState::Parked,
            Phase::Running(_) => {
                let init = &self.processes[0];
                KeeperState::Running {
                    pid: init.pid,
                    start_time: init.start_time,
                }
            }
            Phase::Exited { record, .. } => KeeperState::Exited(record.clone()),
        };
        let running = self
            .processes
            .iter()
            .filter(|process| process.pidfd().is_some())
            .filter_map(|process| {
                Some(ExecStatus {
                    exec: process.exec.clone()?,
                    pid: process.pid,
                    exit_code: None,
                })
            });
        let execs = self.finished_execs.iter().cloned().chain(running).collect();
        KeeperStatus {
            container: self.container.clone(),
            state,
            execs,
        }
    }

    /// After each round: logs, ended processes, clients and connections that are gone.
    fn settle(&mut self) {
        for process in &mut self.processes {
            process.streams.flush_log();
        }
        self.settle_ends();
        self.settle_clients();
        self.connections.retain(|connection| !connection.is_closed());
        if matches!(self.phase, Phase::Parked { .. }) && self.connections.is_empty() {
            // Nobody can start it any more.
            self.phase = Phase::Over {
                deadline: Instant::now(),
            };
        }
        if matches!(
            self.phase,
            Phase::Exited {
                is_written: false,
                ..
            }
        ) {
            self.write_record();
        }
    }

    /// Reaps what has ended: execs first, because PID 1's end is the last thing told.
    fn settle_ends(&mut self) {
        for index in (0..self.processes.len()).rev() {
            let Some(ending) = self.processes[index].reap() else {
                continue;
            };
            let finished_at = Timestamp::now();
            let process = &mut self.processes[index];
            process.streams.finish_output();
            process.state = ProcessState::Ended {
                deadline: Instant::now() + LINGER,
            };
            match process.exec.clone() {
                Some(exec) => self.finish_exec(exec, index, ending),
                None => self.finish_init(ending, finished_at),
            }
        }
    }

    fn finish_exec(&mut self, exec: ExecId, index: usize, ending: Ending) {
        if self.finished_execs.len() == FINISHED_EXECS_MAX {
            self.finished_execs.pop_front();
        }
        let (pid, exit_code) = (self.processes[index].pid, ending.exit_code);
        if ending.signal() == Some(libc::SIGKILL) {
            self.look_for_oom(pid);
        }
        self.finished_execs.push_back(ExecStatus {
            exec: exec.clone(),
            pid,
            exit_code: Some(exit_code),
        });
        self.processes[index].streams.finish_clients();
        self.broadcast(&Event::ExecExited { exec, exit_code });
        self.wants_exec_stem = true;
    }

    fn finish_init(&mut self, ending: Ending, finished_at: Timestamp) {
        // While the record is written: the cgroup must be empty when the end is told.
        if let Some(remains) = &self.remains {
            remains.kill();
        }
        if let Some(parked) = &self.exec_stem {
            parked.stem.kill();
        }
        self.wants_exec_stem = false;
        // With a pid namespace of its own all execs have ended before; with the host's they end now.
        for process in &self.processes {
            if let Some(pidfd) = process.pidfd() {
                let _ = naru_sys::signal::send(pidfd, libc::SIGKILL);
            }
        }
        let Phase::Running(files) = &self.phase else {
            return;
        };
        let files = files.clone();
        let report = self.report(&files.cgroup, ending);
        let record = ExitRecord {
            exit_code: ending.exit_code,
            signal: ending.signal(),
            oom_killed: report.pressure.oom_kills > 0,
            finished_at,
            cause: None,
            report: Some(report),
        };
        self.phase = Phase::Exited {
            files,
            record,
            is_written: false,
        };
        self.processes[0].streams.finish_clients();
        self.write_record();
    }

    /// Why PID 1 ended. The kernel is asked for more than one counter only where there is something to explain.
    fn report(&self, cgroup: &str, ending: Ending) -> EndReport {
        let pid = self.processes[0].pid;
        let mut pressure = Pressure::default();
        if let Ok(cgroup) = Cgroup::open(cgroup) {
            pressure.oom_kills = cgroup.oom_kill_count().unwrap_or(0);
            if ending.exit_code != 0 {
                pressure.forks_refused = cgroup.fork_refusal_count().unwrap_or(0);
            }
            if pressure.oom_kills > 0 {
                pressure.oom_victims = kernel_log::oom_victims(&cgroup, &[pid], self.begun_us);
            }
        }
        for victim in &self.oom_victims {
            if !pressure.oom_victims.contains(victim) {
                pressure.oom_victims.push(victim.clone());
            }
        }
        let fault = ending
            .signal()
            .filter(|signal| cause::is_fault(*signal))
            .and_then(|_| kernel_log::fault_of(pid, self.begun_us));
        let cause = cause::decide(pid, ending, &self.sent, &pressure.oom_victims, fault);
        EndReport { cause, pressure }
    }

    /// Remembers an exec that was ended for want of memory: the kernel's log is not for ever.
    fn look_for_oom(&mut self, pid: i32) {
        let Phase::Running(files) = &self.phase else {
            return;
        };
        let Ok(cgroup) = Cgroup::open(&files.cgroup) else {
            return;
        };
        let is_short = cgroup.oom_kill_count().unwrap_or(0) > 0;
        if is_short && self.oom_victims.len() < REMEMBERED_MAX {
            let found = kernel_log::oom_victims(&cgroup, &[pid], self.begun_us);
            self.oom_victims
                .extend(found.into_iter().filter(|victim| victim.pid == pid).take(1));
        }
    }

    /// Writes the exit record, then tells everyone. When the disk refuses it is tried again later, and meanwhile a
    /// daemon learns the end from `Status`.
    fn write_record(&mut self) {
        let Phase::Exited {
            files,
            record,
            is_written,
        } = &mut self.phase
        else {
            return;
        };
        let Ok(text) = serde_json::to_vec(record) else {
            return;
        };
        if naru_sys::file::replace(&files.exit_record, &text).is_err() {
            return;
        }
        *is_written = true;
        let event = Event::Exited(record.clone());
        let socket = files.socket.clone();
        self.broadcast(&event);
        self.remains = None;
        self.exec_stem = None;
        self.listener = None;
        let _ = rustix::fs::unlink(&socket);
    }

    fn settle_clients(&mut self) {
        let mut gone = Vec::new();
        for process in &mut self.processes {
            if process.pidfd().is_some() {
                gone.append(&mut process.streams.sweep_clients());
            }
        }
        self.processes.retain_mut(|process| match &process.state {
            ProcessState::Running { .. } => true,
            ProcessState::Ended { deadline } => {
                !process.streams.finish_clients() && Instant::now() < *deadline
            }
        });
        for ordinal in gone {
            self.broadcast(&Event::Detached { ordinal });
        }
    }

    fn broadcast(&mut self, event: &Event) {
        for connection in &mut self.connections {
            connection.send(FromKeeper::Event(event.clone()), &[]);
        }
    }
}

/// A limit one too high is no reason to end a container that runs: what the kernel refuses stays as it is.
fn limit_processes(cgroup: &str, max: i64) {
    let mut pids = oci_spec::runtime::LinuxPids::default();
    pids.set_limit(max);
    let mut resources = oci_spec::runtime::LinuxResources::default();
    resources.set_devices(None).set_pids(Some(pids));
    let _ = Cgroup::open(cgroup).and_then(|cgroup| cgroup.apply(&resources));
}

fn refused(message: impl Into<String>) -> Reply {
    Reply::Refused {
        message: message.into(),
    }
}

fn failure(step: &str, message: impl Into<String>) -> StartFailure {
    StartFailure {
        step: step.to_owned(),
        kind: StartFailureKind::System,
        message: message.into(),
    }
}

fn make_streams(
    plan: StdioPlan,
    size: (u16, u16),
) -> Result<(Streams, naru_runtime::ChildStdio), StartFailure> {
    Streams::new(plan, size)
        .map_err(|error| failure("stdio", format!("cannot make standard streams: {error}")))
}

/// The first size of the container's terminal, where it has one.
fn first_size(plan: &KeeperPlan) -> Result<(u16, u16), StartFailure> {
    if !plan.stdio.terminal {
        return Ok(CONSOLE_SIZE);
    }
    let runtime = plan
        .runtime
        .decode()
        .map_err(|error| failure("plan", format!("cannot read the plan: {error}")))?;
    Ok(runtime.spec.process().as_ref().map_or(CONSOLE_SIZE, console_size))
}

/// Rows and columns as the specification has them.
fn console_size(process: &oci_spec::runtime::Process) -> (u16, u16) {
    process.console_size().map_or(CONSOLE_SIZE, |size| {
        let fit = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
        (fit(size.height()), fit(size.width()))
    })
}

fn open_logs(plan: &LogPlan) -> Result<Logs, StartFailure> {
    let open_file = |path: &Path, format, rotation| {
        LogWriter::open(path, format, rotation)
            .map(Some)
            .map_err(|error| failure("log", format!("cannot open the log {}: {error}", path.display())))
    };
    match plan {
        LogPlan::None => Ok(Logs::default()),
        LogPlan::File {
            path,
            format,
            rotation,
        } => Ok(Logs {
            file: open_file(path, *format, *rotation)?,
            shipper: None,
        }),
        LogPlan::Ship { plan, cache } => {
            let shipper = Shipper::open(ShipPlan::clone(plan)).map_err(|error| {
                let reason = error.to_string().to_lowercase();
                let reason = reason.split(" (os error").next().unwrap_or_default();
                failure(
                    "log",
                    format!("failed to initialize logging driver: {}: {reason}", plan.driver),
                )
            })?;
            let file = match cache {
                Some(cache) => open_file(&cache.path, Format::Local, cache.rotation)?,
                None => None,
            };
            Ok(Logs {
                file,
                shipper: Some(Box::new(shipper)),
            })
        }
    }
}

/// Listens at `path`; a socket that an earlier keeper left there is replaced.
fn listen(path: &Path) -> Result<SeqPacketListener, StartFailure> {
    let listening = match SeqPacketListener::listen(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => rustix::fs::unlink(path)
            .map_err(io::Error::from)
            .and_then(|()| SeqPacketListener::listen(path)),
        other => other,
    };
    listening.map_err(|error| failure("listen", format!("cannot listen at {}: {error}", path.display())))
}
