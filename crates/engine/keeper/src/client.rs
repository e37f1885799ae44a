//! A stream socket attached to a process: output goes to it in frames or raw, its bytes are standard input.

use crate::detach::DetachKeys;
use crate::protocol::AttachOptions;
use naru_logs::Stream;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes kept for a client that does not read; beyond this the process's output is left in its pipe, which holds the
/// process back, as with Docker.
pub const CLIENT_BUFFER_MAX: usize = 256 * 1024;

/// Bytes of input taken at once.
const INPUT_BYTES: usize = 32 * 1024;

/// Reads that empty a socket's buffer (208 KiB by default) at the end.
const LATE_READS_MAX: usize = 16;

/// What became of an attempt to read a client's input.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// There was some, or nothing just now.
    Open,
    /// The client has ended its side; output still goes to it.
    Ended,
    /// The client typed the detach keys.
    Detached,
}

#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    pub ordinal: u64,
    options: AttachOptions,
    is_framed: bool,
    detach_keys: DetachKeys,
    outgoing: Vec<u8>,
    /// How much of `outgoing` has been sent.
    sent: usize,
    /// Its bytes are, or were until they ended, standard input.
    takes_input: bool,
    is_gone: bool,
}

impl Client {
    pub fn new(socket: OwnedFd, options: AttachOptions, ordinal: u64, terminal: bool) -> Self {
        let keys = if terminal {
            options.detach_keys.clone()
        } else {
            Vec::new()
        };
        Self {
            socket,
            ordinal,
            takes_input: options.stdin,
            options,
            is_framed: !terminal,
            detach_keys: DetachKeys::new(keys),
            outgoing: Vec::new(),
            sent: 0,
            is_gone: false,
        }
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub fn takes_input(&self) -> bool {
        self.takes_input && !self.is_gone
    }

    pub fn is_gone(&self) -> bool {
        self.is_gone
    }

    pub fn set_gone(&mut self) {
        self.is_gone = true;
    }

    /// Output waits for the client to read.
    pub fn has_output(&self) -> bool {
        !self.is_gone && self.sent < self.outgoing.len()
    }

    pub fn is_behind(&self) -> bool {
        !self.is_gone && self.outgoing.len() - self.sent > CLIENT_BUFFER_MAX
    }

    /// Queues output of the process and sends what the client takes at once.
    pub fn push(&mut self, stream: Stream, bytes: &[u8]) {
        let is_wanted = match stream {
            Stream::Stdout => self.options.stdout,
            Stream::Stderr => self.options.stderr,
        };
        if !is_wanted || self.is_gone || bytes.is_empty() {
            return;
        }
        if self.is_framed {
            self.outgoing.extend_from_slice(&[stream.number(), 0, 0, 0]);
            self.outgoing
                .extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        }
        self.outgoing.extend_from_slice(bytes);
        self.flush();
    }

    /// Sends as much as the client takes.
    pub fn flush(&mut self) {
        while self.has_output() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::send(&self.socket, &self.outgoing[self.sent..], flags) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => self.is_gone = true,
            }
        }
        if !self.has_output() {
            self.outgoing = Vec::new();
            self.sent = 0;
        } else if self.sent > CLIENT_BUFFER_MAX {
            self.outgoing.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Ends the connection in good order: all output is out, and input that came too late does not turn the client's
    /// end of stream into an error, as closing a Unix socket with unread bytes would.
    pub fn finish(&mut self) {
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write);
        let mut discarded = Vec::new();
        for _ in 0..LATE_READS_MAX {
            discarded.clear();
            discarded.reserve(INPUT_BYTES);
            let buffer = rustix::buffer::spare_capacity(&mut discarded);
            if rustix::net::recv(&self.socket, buffer, RecvFlags::DONTWAIT).is_err() || discarded.is_empty() {
                break;
            }
        }
        self.is_gone = true;
    }

    /// Reads input once and appends to `stdin` what is for the process.
    pub fn read_input(&mut self, stdin: &mut Vec<u8>) -> Input {
        let mut bytes = Vec::with_capacity(INPUT_BYTES);
        let buffer = rustix::buffer::spare_capacity(&mut bytes);
        match rustix::net::recv(&self.socket, buffer, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => Input::Open,
            Ok(_) if !bytes.is_empty() => {
                if self.detach_keys.filter(&bytes, stdin) {
                    Input::Detached
                } else {
                    Input::Open
                }
            }
            Ok(_) | Err(_) => {
                self.takes_input = false;
                Input::Ended
            }
        }
    }
}
