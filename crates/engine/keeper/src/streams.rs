//! Standard streams of one process: pipes or a terminal on one side, the log and attached clients on the other.
//!
//! ```text
//!  process ──stdout, stderr / terminal──▶ read ──┬──▶ log
//!     ▲                                          └──▶ every client (buffered up to CLIENT_BUFFER_MAX)
//!     └──stdin / terminal◀── queue ◀── detach keys ◀── clients that give input
//! ```
//! A client that is behind holds back the process, without limit of time, as with Docker; one that is gone never does.

use crate::client::{Client, Input};
use crate::protocol::{AttachOptions, StdioPlan};
use naru_base::Timestamp;
use naru_logs::ship::Shipper;
use naru_logs::{LogWriter, Stream};
use naru_runtime::ChildStdio;
use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes of output taken at once: a pipe's whole default capacity.
const OUTPUT_BYTES: usize = 64 * 1024;

/// Input kept for a process that does not read; beyond this it is left in the client's socket.
const INPUT_QUEUE_MAX: usize = 64 * 1024;

/// After the process's end at most this much is still read from each of its streams: the largest a pipe can be for
/// an unprivileged process (`fs.pipe-max-size`). More can only come from someone else who still writes.
const LATE_BYTES_MAX: usize = 1024 * 1024;

/// A descriptor of [`Streams`] that is polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Stdout,
    Stderr,
    Stdin,
    Console,
    /// The receiver of a log that goes elsewhere.
    Receiver,
    /// Index among the clients.
    Client(usize),
}

#[derive(Debug)]
pub struct Streams {
    plan: StdioPlan,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    /// The terminal's master side, in place of the three above.
    console: Option<OwnedFd>,
    /// Nobody has the terminal's other side open; it is looked at again from time to time.
    is_console_resting: bool,
    /// Input on its way to the process.
    input: Vec<u8>,
    /// Standard input is to be closed once `input` is out.
    is_input_ending: bool,
    log: Option<LogWriter>,
    shipper: Option<Box<Shipper>>,
    clients: Vec<Client>,
}

/// Where output is recorded.
#[derive(Debug, Default)]
pub struct Logs {
    pub file: Option<LogWriter>,
    pub shipper: Option<Box<Shipper>>,
}

impl Streams {
    /// Makes the streams and the process's ends of them.
    pub fn new(plan: StdioPlan, size: (u16, u16)) -> io::Result<(Self, ChildStdio)> {
        let mut streams = Self {
            plan,
            stdout: None,
            stderr: None,
            stdin: None,
            console: None,
            is_console_resting: false,
            input: Vec::new(),
            is_input_ending: false,
            log: None,
            shipper: None,
            clients: Vec::new(),
        };
        if plan.terminal {
            return Ok((
                streams,
                ChildStdio::Terminal {
                    rows: size.0,
                    columns: size.1,
                },
            ));
        }
        let (stdout_ours, stdout) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr_ours, stderr) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&stdout_ours, true)?;
        rustix::io::ioctl_fionbio(&stderr_ours, true)?;
        (streams.stdout, streams.stderr) = (Some(stdout_ours), Some(stderr_ours));
        let stdin = if plan.open_stdin {
            let (stdin, stdin_ours) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(&stdin_ours, true)?;
            streams.stdin = Some(stdin_ours);
            stdin
        } else {
            rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?
        };
        Ok((
            streams,
            ChildStdio::Pipes {
                stdin,
                stdout,
                stderr,
            },
        ))
    }

    /// Records output from here on; called before any is read.
    pub fn set_logs(&mut self, logs: Logs) {
        (self.log, self.shipper) = (logs.file, logs.shipper);
    }

    fn is_shipper(&self, asked: impl Fn(&Shipper) -> bool) -> bool {
        self.shipper.as_deref().is_some_and(asked)
    }

    /// Takes the terminal's master side, once the process has one.
    pub fn set_console(&mut self, console: Option<OwnedFd>) -> io::Result<()> {
        if let Some(console) = &console {
            rustix::io::ioctl_fionbio(console, true)?;
        }
        self.console = console;
        Ok(())
    }

    pub fn console(&self) -> Option<BorrowedFd<'_>> {
        self.console.as_ref().map(AsFd::as_fd)
    }

    pub fn attach(&mut self, socket: OwnedFd, options: AttachOptions, ordinal: u64) {
        self.clients
            .push(Client::new(socket, options, ordinal, self.plan.terminal));
    }

    /// Calls `add` with everything to be polled now.
    pub fn each_poll<'a>(&'a self, mut add: impl FnMut(Part, BorrowedFd<'a>, PollFlags)) {
        let is_held_back = self.clients.iter().any(Client::is_behind) || self.is_shipper(Shipper::is_behind);
        if let Some((fd, flags)) = self
            .shipper
            .as_ref()
            .filter(|shipper| shipper.has_queue())
            .and_then(|shipper| shipper.to_poll())
        {
            add(Part::Receiver, fd, flags);
        }
        if !is_held_back {
            for (part, fd) in [(Part::Stdout, &self.stdout), (Part::Stderr, &self.stderr)] {
                if let Some(fd) = fd {
                    add(part, fd.as_fd(), PollFlags::IN);
                }
            }
        }
        if let Some(stdin) = self.stdin.as_ref().filter(|_| !self.input.is_empty()) {
            add(Part::Stdin, stdin.as_fd(), PollFlags::OUT);
        }
        if let Some(console) = self.console.as_ref().filter(|_| !self.is_console_resting) {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, !is_held_back);
            flags.set(PollFlags::OUT, !self.input.is_empty());
            if !flags.is_empty() {
                add(Part::Console, console.as_fd(), flags);
            }
        }
        for (index, client) in self.clients.iter().enumerate() {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::OUT, client.has_output());
            if client.takes_input() {
                if self.input.len() >= INPUT_QUEUE_MAX && flags.is_empty() {
                    // A hang-up would be reported without end; its input is read first, when there is room.
                    continue;
                }
                flags.set(PollFlags::IN, self.input.len() < INPUT_QUEUE_MAX);
            }
            add(Part::Client(index), client.as_fd(), flags);
        }
    }

    /// The terminal is to be looked at again soon, although poll will not report it.
    pub fn needs_timer(&self) -> bool {
        self.is_console_resting || self.is_shipper(Shipper::needs_timer)
    }

    pub fn on_timer(&mut self) {
        self.is_console_resting = false;
        self.ship();
    }

    fn ship(&mut self) {
        if let Some(shipper) = &mut self.shipper {
            shipper.turn();
        }
    }

    /// Reacts to what poll reported.
    pub fn on_ready(&mut self, part: Part, ready: PollFlags) {
        match part {
            Part::Stdout | Part::Stderr => {
                self.read_output(part);
            }
            Part::Stdin => self.write_input(),
            Part::Console => {
                if ready.contains(PollFlags::OUT) {
                    self.write_input();
                }
                if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                    self.read_output(part);
                }
            }
            Part::Receiver => self.ship(),
            Part::Client(index) => self.on_client_ready(index, ready),
        }
    }

    /// Writes what was read in this round to the log.
    pub fn flush_log(&mut self) {
        if let Some(log) = &mut self.log {
            // The writer counts what it loses and says so in the log.
            let _ = log.flush();
        }
    }

    /// Removes clients that are gone and returns their ordinals.
    pub fn sweep_clients(&mut self) -> Vec<u64> {
        let mut gone = Vec::new();
        self.clients.retain(|client| {
            if client.is_gone() {
                gone.push(client.ordinal);
            }
            !client.is_gone()
        });
        gone
    }

    /// The process has ended: reads what is left without waiting for more, completes the log, and lets go of pipes
    /// and terminal.
    pub fn finish_output(&mut self) {
        for part in [Part::Stdout, Part::Stderr, Part::Console] {
            let mut left = LATE_BYTES_MAX;
            while left > 0 {
                match self.read_output(part) {
                    0 => break,
                    count => left = left.saturating_sub(count),
                }
            }
        }
        if let Some(log) = &mut self.log {
            let _ = log.finish();
        }
        self.log = None;
        if let Some(shipper) = &mut self.shipper {
            shipper.finish();
        }
        self.close_input();
        (self.stdout, self.stderr, self.console) = (None, None, None);
        self.is_console_resting = false;
    }

    /// After [`Streams::finish_output`]: closes the clients that have everything. `true` when none is left, and what
    /// was for a receiver elsewhere is out, too.
    pub fn finish_clients(&mut self) -> bool {
        self.clients.retain_mut(|client| {
            if !client.has_output() {
                client.finish();
            }
            !client.is_gone()
        });
        self.clients.is_empty() && !self.is_shipper(Shipper::has_queue)
    }

    fn source(&mut self, part: Part) -> &mut Option<OwnedFd> {
        match part {
            Part::Stdout => &mut self.stdout,
            Part::Stderr => &mut self.stderr,
            _ => &mut self.console,
        }
    }

    /// Reads one stream once and hands on what came; returns how many bytes.
    fn read_output(&mut self, part: Part) -> usize {
        let mut bytes = Vec::with_capacity(OUTPUT_BYTES);
        let Some(fd) = self.source(part) else { return 0 };
        let result = rustix::io::read(fd, rustix::buffer::spare_capacity(&mut bytes));
        match result {
            Ok(0) => *self.source(part) = None,
            Ok(_) => self.hand_on(
                if part == Part::Stderr {
                    Stream::Stderr
                } else {
                    Stream::Stdout
                },
                &bytes,
            ),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::IO) if part == Part::Console => self.is_console_resting = true,
            Err(_) => *self.source(part) = None,
        }
        bytes.len()
    }

    fn hand_on(&mut self, stream: Stream, bytes: &[u8]) {
        if let Some(log) = &mut self.log {
            log.add(stream, bytes, Timestamp::now());
        }
        if let Some(shipper) = &mut self.shipper {
            shipper.add(stream, bytes, Timestamp::now());
        }
        for client in &mut self.clients {
            client.push(stream, bytes);
        }
    }

    fn on_client_ready(&mut self, index: usize, ready: PollFlags) {
        let Some(client) = self.clients.get_mut(index) else {
            return;
        };
        if ready.contains(PollFlags::OUT) {
            client.flush();
        }
        let is_hung_up = ready.intersects(PollFlags::HUP | PollFlags::ERR);
        if client.takes_input() && (ready.contains(PollFlags::IN) || is_hung_up) {
            self.read_client(index);
        } else if is_hung_up {
            client.set_gone();
        }
    }

    fn read_client(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let outcome = client.read_input(&mut self.input);
        if outcome == Input::Detached {
            client.flush();
            client.finish();
        }
        if outcome == Input::Ended && self.plan.stdin_once && !self.plan.terminal {
            self.is_input_ending = true;
        }
        self.write_input();
    }

    /// Gives the process as much input as it takes.
    fn write_input(&mut self) {
        let Some(fd) = self.stdin.as_ref().or(self.console.as_ref()) else {
            self.input = Vec::new();
            return;
        };
        let mut written = 0;
        while written < self.input.len() {
            match rustix::io::write(fd, &self.input[written..]) {
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    // Nobody will read it any more.
                    written = self.input.len();
                    self.is_input_ending |= self.stdin.is_some();
                }
            }
        }
        if written == self.input.len() {
            self.input = Vec::new();
        } else {
            self.input.drain(..written);
        }
        if self.is_input_ending && self.input.is_empty() {
            self.close_input();
        }
    }

    fn close_input(&mut self) {
        self.stdin = None;
        self.input = Vec::new();
    }
}
