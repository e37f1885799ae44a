//! A socket that never blocks, made again when it breaks.

use super::plan::{Address, Retry};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
    sockopt,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long the start of a container may wait for a receiver.
const FIRST_CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    Whole,
    /// There is no room, or no receiver, now.
    Later,
    /// Given up.
    Lost,
}

#[derive(Debug)]
pub(super) struct Connection {
    addresses: Vec<Address>,
    retry: Retry,
    state: State,
    /// Bytes of the present message that are out, on a stream.
    done: usize,
    /// Failures to connect since the last success.
    failures: u32,
}

#[derive(Debug)]
enum State {
    Open {
        socket: OwnedFd,
        is_datagram: bool,
    },
    /// On its way; writable when it is decided.
    Connecting {
        socket: OwnedFd,
    },
    /// Broken, not to be tried again before then.
    Resting {
        until: Instant,
    },
}

impl Connection {
    pub fn open(addresses: Vec<Address>, retry: Retry) -> io::Result<Self> {
        let mut first_error = None;
        let mut state = None;
        for address in &addresses {
            match begin(address).and_then(|state| complete(state, retry.is_async)) {
                Ok(open) => {
                    state = Some(open);
                    break;
                }
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        let state = match (state, first_error) {
            (Some(state), _) => state,
            (None, Some(error)) if !retry.is_async => return Err(error),
            (None, _) => State::Resting {
                until: Instant::now() + retry.wait,
            },
        };
        Ok(Self {
            addresses,
            retry,
            state,
            done: 0,
            failures: 0,
        })
    }

    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Open { socket, .. } | State::Connecting { socket } => Some(socket.as_fd()),
            State::Resting { .. } => None,
        }
    }

    pub fn is_resting(&self) -> bool {
        matches!(self.state, State::Resting { .. })
    }

    /// Sends the message that is first in line; the same one again after [`Sent::Later`].
    pub fn send(&mut self, message: &[u8]) -> Sent {
        loop {
            match &self.state {
                State::Open { socket, is_datagram } => match self.write(socket, *is_datagram, message) {
                    Ok(count) if *is_datagram || self.done + count == message.len() => {
                        (self.done, self.failures) = (0, 0);
                        return Sent::Whole;
                    }
                    Ok(count) => self.done += count,
                    Err(Errno::AGAIN) => return Sent::Later,
                    Err(Errno::INTR) => {}
                    // A packet that is too large, or that nobody took; the next may be.
                    Err(Errno::MSGSIZE) => return Sent::Lost,
                    Err(_) => {
                        if let Some(sent) = self.broke() {
                            return sent;
                        }
                    }
                },
                State::Connecting { socket } => {
                    if !is_decided(socket, Duration::ZERO) {
                        return Sent::Later;
                    }
                    if sockopt::socket_error(socket).is_ok_and(|error| error.is_ok()) {
                        self.become_open();
                    } else if let Some(sent) = self.failed() {
                        return sent;
                    }
                }
                State::Resting { until } => {
                    if Instant::now() < *until {
                        return Sent::Later;
                    }
                    match self.addresses.iter().find_map(|address| begin(address).ok()) {
                        Some(state) => {
                            self.state = state;
                            if let State::Open { .. } = self.state {
                                self.failures = 0;
                            }
                        }
                        None => {
                            if let Some(sent) = self.failed() {
                                return sent;
                            }
                        }
                    }
                }
            }
        }
    }

    fn write(&self, socket: &OwnedFd, is_datagram: bool, message: &[u8]) -> Result<usize, Errno> {
        let bytes = if is_datagram {
            message
        } else {
            &message[self.done..]
        };
        rustix::net::send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
    }

    fn become_open(&mut self) {
        let resting = State::Resting {
            until: Instant::now(),
        };
        if let State::Connecting { socket } = std::mem::replace(&mut self.state, resting) {
            self.state = State::Open {
                socket,
                is_datagram: false,
            };
            self.failures = 0;
        }
    }

    /// The receiver has gone: the message is sent anew, from its beginning, on another connection.
    fn broke(&mut self) -> Option<Sent> {
        self.done = 0;
        self.state = State::Resting {
            until: Instant::now(),
        };
        // Where every try fails at once this is what ends them.
        self.failures += 1;
        (self.failures > self.retry.tries_max.max(1)).then(|| self.give_up())
    }

    /// Nobody could be reached.
    fn failed(&mut self) -> Option<Sent> {
        self.failures += 1;
        self.state = State::Resting {
            until: Instant::now() + self.retry.wait,
        };
        if self.failures > self.retry.tries_max {
            return Some(self.give_up());
        }
        None
    }

    fn give_up(&mut self) -> Sent {
        self.failures = 0;
        Sent::Lost
    }
}

/// Makes a socket for this address; one for a stream may be on its way.
fn begin(address: &Address) -> io::Result<State> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let to = |path: &std::path::Path| SocketAddrUnix::new(path).map(SocketAddrAny::from);
    let (family, kind, to) = match address {
        Address::UnixStream(path) => (AddressFamily::UNIX, SocketType::STREAM, to(path)?),
        Address::UnixDatagram(path) => (AddressFamily::UNIX, SocketType::DGRAM, to(path)?),
        Address::Udp(to) => (family_of(to), SocketType::DGRAM, SocketAddrAny::from(*to)),
        Address::Tcp(to) => (family_of(to), SocketType::STREAM, SocketAddrAny::from(*to)),
    };
    let socket = socket_with(family, kind, flags, None)?;
    match connect(&socket, &to) {
        Ok(()) => Ok(State::Open {
            socket,
            is_datagram: address.is_datagram(),
        }),
        Err(Errno::INPROGRESS) => Ok(State::Connecting { socket }),
        Err(error) => Err(error.into()),
    }
}

fn family_of(address: &std::net::SocketAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    }
}

/// Waits for a connection on its way, unless it may come later.
fn complete(state: State, is_async: bool) -> io::Result<State> {
    let State::Connecting { socket } = state else {
        return Ok(state);
    };
    if is_async {
        return Ok(State::Connecting { socket });
    }
    if !is_decided(&socket, FIRST_CONNECT_TIME_MAX) {
        return Err(io::ErrorKind::TimedOut.into());
    }
    sockopt::socket_error(&socket)??;
    Ok(State::Open {
        socket,
        is_datagram: false,
    })
}

fn is_decided(socket: &OwnedFd, wait: Duration) -> bool {
    let mut polled = [PollFd::new(socket, PollFlags::OUT)];
    let timeout = Timespec {
        tv_sec: wait.as_secs() as i64,
        tv_nsec: i64::from(wait.subsec_nanos()),
    };
    rustix::event::poll(&mut polled, Some(&timeout)).is_ok_and(|count| count > 0)
}
