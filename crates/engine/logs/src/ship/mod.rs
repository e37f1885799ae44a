//! Output on its way to a receiver outside: Docker's drivers journald, syslog, fluentd and gelf.
//!
//! ```text
//!  add ── lines ──▶ encode (journald, syslog, fluentd, gelf) ──▶ queue, bounded ──▶ connection ──▶ receiver
//! ```
//! Nothing here waits: sockets do not block, and whoever owns a [`Shipper`] polls its descriptor and gives it a turn.
//! A queue that is full holds the container back (mode `blocking`) or costs the newest messages (`non-blocking`). What
//! is lost is counted, and told to the receiver in a message once it takes any.

mod connection;
mod fluentd;
mod gelf;
mod journald;
mod lines;
mod msgpack;
mod plan;
mod syslog;
mod tls;

pub use plan::{
    Address, Compression, DriverPlan, FluentdPlan, GelfPlan, JournaldPlan, ShipMode, ShipPlan, SyslogFormat,
    SyslogPlan, TlsPlan,
};

use crate::entry::Stream;
use connection::{Connection, Sent};
use lines::{Line, LineCutter};
use naru_base::Timestamp;
use plan::Message;
use rustix::event::PollFlags;
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

/// Encoded messages that may wait in mode `blocking` before the container's output is left in its pipes.
const BLOCKING_BYTES_MAX: usize = 256 * 1024;

/// One container's messages for one receiver.
#[derive(Debug)]
pub struct Shipper {
    plan: ShipPlan,
    cutter: LineCutter,
    connection: Connection,
    queue: VecDeque<Message>,
    queued_bytes: usize,
    /// Messages lost of which the receiver has not been told.
    lost: u64,
}

impl Shipper {
    /// Reaches the receiver, within a bounded time. It is an error where Docker's start would fail too: a stream that
    /// nobody listens on, unless the plan is to connect later.
    pub fn open(plan: ShipPlan) -> io::Result<Self> {
        let tls = plan.driver.tls().map(tls::Tls::of).transpose()?;
        let connection = Connection::open(plan.driver.address(), plan.driver.retry(), tls)?;
        Ok(Self {
            plan,
            cutter: LineCutter::default(),
            connection,
            queue: VecDeque::new(),
            queued_bytes: 0,
            lost: 0,
        })
    }

    /// Takes output in, as it was read.
    pub fn add(&mut self, stream: Stream, bytes: &[u8], time: Timestamp) {
        let mut cutter = std::mem::take(&mut self.cutter);
        cutter.cut(stream, bytes, time, &mut |line| self.enqueue(&line));
        self.cutter = cutter;
        self.turn();
    }

    /// The process has ended: unfinished lines go, too.
    pub fn finish(&mut self) {
        let mut cutter = std::mem::take(&mut self.cutter);
        cutter.finish(Timestamp::now(), &mut |line| self.enqueue(&line));
        self.turn();
    }

    /// The container's output is to wait.
    pub fn is_behind(&self) -> bool {
        self.plan.mode == ShipMode::Blocking && self.queued_bytes > BLOCKING_BYTES_MAX
    }

    pub fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    /// To be polled while there is a queue, for room or for an answer; `None` while it rests before another try.
    pub fn to_poll(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        self.connection.to_poll()
    }

    /// There is a queue, and nothing to be polled: it is to be given a turn after a while.
    pub fn needs_timer(&self) -> bool {
        self.has_queue() && self.connection.to_poll().is_none()
    }

    /// Sends what the receiver takes.
    pub fn turn(&mut self) {
        while let Some(message) = self.queue.front() {
            match self.connection.send(message) {
                Sent::Whole => self.drop_first(),
                Sent::Later => return,
                Sent::Lost => {
                    self.lost += 1;
                    self.drop_first();
                }
            }
            self.tell_lost();
        }
        // The memory of a busy moment is given back.
        self.queue = VecDeque::new();
    }

    fn drop_first(&mut self) {
        if let Some(message) = self.queue.pop_front() {
            self.queued_bytes -= message.bytes.len();
        }
    }

    fn enqueue(&mut self, line: &Line<'_>) {
        for message in self.plan.driver.encode(line) {
            let is_full = match self.plan.mode {
                ShipMode::Blocking => false,
                ShipMode::NonBlocking { bytes_max } => {
                    !self.queue.is_empty() && self.queued_bytes + message.bytes.len() > bytes_max
                }
            };
            if is_full {
                self.lost += 1;
                return;
            }
            self.queued_bytes += message.bytes.len();
            self.queue.push_back(message);
        }
    }

    /// Once all that waited is out, the receiver learns what it has missed.
    fn tell_lost(&mut self) {
        if self.lost == 0 || !self.queue.is_empty() || self.connection.is_resting() {
            return;
        }
        let text = format!(
            "naru: {} messages were lost, because this log's receiver did not take them in time",
            std::mem::take(&mut self.lost)
        );
        let note = Line {
            stream: Stream::Stderr,
            bytes: text.as_bytes(),
            time: Timestamp::now(),
            part: None,
        };
        self.enqueue(&note);
    }
}

#[cfg(test)]
mod tests;
