//! A socket that never blocks, made again when it breaks.

use super::msgpack;
use super::plan::{Address, Message, Retry};
use super::tls::{Session, Tls};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, connect,
    socket_with, sockopt,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long the start of a container may wait for a receiver.
const FIRST_CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// An answer of a receiver names one message and says nothing else.
const ANSWER_BYTES_MAX: usize = 512;

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
    tls: Option<Tls>,
    state: State,
    /// Bytes of the present message that are out, on a stream.
    done: usize,
    /// All of it is out, and its receiver is to answer.
    is_sent: bool,
    /// What has come of the answer.
    answer: Vec<u8>,
    /// Failures to connect since the last success.
    failures: u32,
}

#[derive(Debug)]
enum State {
    Open {
        socket: OwnedFd,
        is_datagram: bool,
        session: Option<Session>,
    },
    /// On its way; writable when it is decided.
    Connecting { socket: OwnedFd },
    /// Broken, not to be tried again before then.
    Resting { until: Instant },
}

impl Connection {
    pub fn open(addresses: Vec<Address>, retry: Retry, tls: Option<Tls>) -> io::Result<Self> {
        let mut first_error = None;
        let mut state = None;
        for address in &addresses {
            match begin(address).and_then(|state| complete(state, retry.is_async, tls.as_ref())) {
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
            tls,
            state,
            done: 0,
            is_sent: false,
            answer: Vec::new(),
            failures: 0,
        })
    }

    /// What to wait for before the present message goes on.
    pub fn to_poll(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match &self.state {
            State::Open { socket, session, .. } => {
                let has_output = session.as_ref().is_some_and(Session::has_output);
                let is_shaking_hands = session.as_ref().is_some_and(Session::is_shaking_hands);
                // All of a message is out: its receiver has the word.
                let is_asking = is_shaking_hands || self.is_sent;
                let flags = if is_asking && !has_output {
                    PollFlags::IN
                } else {
                    PollFlags::OUT
                };
                Some((socket.as_fd(), flags))
            }
            State::Connecting { socket } => Some((socket.as_fd(), PollFlags::OUT)),
            State::Resting { .. } => None,
        }
    }

    pub fn is_resting(&self) -> bool {
        matches!(self.state, State::Resting { .. })
    }

    /// Sends the message that is first in line; the same one again after [`Sent::Later`].
    pub fn send(&mut self, message: &Message) -> Sent {
        loop {
            match &mut self.state {
                State::Open { .. } => match self.advance(message) {
                    Ok(true) => {
                        self.begin_message();
                        self.failures = 0;
                        return Sent::Whole;
                    }
                    Ok(false) | Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return Sent::Later,
                    // A packet that is too large, or that nobody took; the next may be.
                    Err(Errno::MSGSIZE) => return Sent::Lost,
                    // It was sent, and the receiver does not have it: it is not asked again at once.
                    Err(Errno::PROTO) => {
                        self.begin_message();
                        if let Some(sent) = self.failed() {
                            return sent;
                        }
                    }
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
                    let is_made = sockopt::socket_error(socket).is_ok_and(|error| error.is_ok());
                    if !(is_made && self.become_open())
                        && let Some(sent) = self.failed()
                    {
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

    /// Goes one step on with a message over an open connection; whether it is through with it.
    fn advance(&mut self, message: &Message) -> Result<bool, Errno> {
        let State::Open {
            socket,
            is_datagram,
            session,
        } = &mut self.state
        else {
            return Err(Errno::NOTCONN);
        };
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        if *is_datagram {
            return rustix::net::send(&*socket, &message.bytes, flags).map(|_| true);
        }
        if let Some(session) = session {
            session.exchange(socket).map_err(|_| Errno::CONNRESET)?;
            if session.is_shaking_hands() || session.has_output() {
                return Err(Errno::AGAIN);
            }
        }
        let rest = &message.bytes[self.done..];
        if !rest.is_empty() {
            self.done += match session {
                Some(session) => session.add(rest).map_err(|_| Errno::CONNRESET)?,
                None => rustix::net::send(&*socket, rest, flags)?,
            };
            return Ok(false);
        }
        let Some(chunk) = &message.chunk else {
            return Ok(true);
        };
        self.is_sent = true;
        let mut piece = [0; 256];
        let count = rustix::net::recv(&*socket, &mut piece[..], RecvFlags::DONTWAIT)?.0;
        self.answer.extend_from_slice(&piece[..count]);
        match msgpack::read_ack(&self.answer) {
            msgpack::Ack::Of(told) if told == chunk.as_bytes() => Ok(true),
            msgpack::Ack::Partial if count > 0 && self.answer.len() <= ANSWER_BYTES_MAX => Ok(false),
            _ => Err(Errno::PROTO),
        }
    }

    /// The next message, or the same one anew.
    fn begin_message(&mut self) {
        (self.done, self.is_sent) = (0, false);
        self.answer.clear();
    }

    /// Whether a stream that is made can be used.
    fn become_open(&mut self) -> bool {
        let resting = State::Resting {
            until: Instant::now(),
        };
        let State::Connecting { socket } = std::mem::replace(&mut self.state, resting) else {
            return false;
        };
        let Ok(session) = self.tls.as_ref().map(Tls::begin).transpose() else {
            return false;
        };
        // One that still has to shake hands can fail yet.
        if session.is_none() {
            self.failures = 0;
        }
        self.state = State::Open {
            socket,
            is_datagram: false,
            session,
        };
        true
    }

    /// The receiver has gone: the message is sent anew, from its beginning, on another connection.
    fn broke(&mut self) -> Option<Sent> {
        self.begin_message();
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
        // Over TCP a connection is never made at once, without anything to wait for.
        Ok(()) if matches!(address, Address::Tcp(_)) => Ok(State::Connecting { socket }),
        Ok(()) => Ok(State::Open {
            socket,
            is_datagram: address.is_datagram(),
            session: None,
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
fn complete(state: State, is_async: bool, tls: Option<&Tls>) -> io::Result<State> {
    let State::Connecting { socket } = state else {
        return Ok(state);
    };
    if is_async {
        return Ok(State::Connecting { socket });
    }
    let deadline = Instant::now() + FIRST_CONNECT_TIME_MAX;
    if !is_decided(&socket, FIRST_CONNECT_TIME_MAX) {
        return Err(io::ErrorKind::TimedOut.into());
    }
    sockopt::socket_error(&socket)??;
    let session = tls.map(|tls| shake_hands(tls, &socket, deadline)).transpose()?;
    Ok(State::Open {
        socket,
        is_datagram: false,
        session,
    })
}

fn shake_hands(tls: &Tls, socket: &OwnedFd, deadline: Instant) -> io::Result<Session> {
    let mut session = tls.begin()?;
    loop {
        session.exchange(socket)?;
        if !session.is_shaking_hands() && !session.has_output() {
            return Ok(session);
        }
        let flags = if session.has_output() {
            PollFlags::OUT
        } else {
            PollFlags::IN
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !is_ready(socket, flags, left) {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

fn is_decided(socket: &OwnedFd, wait: Duration) -> bool {
    is_ready(socket, PollFlags::OUT, wait)
}

fn is_ready(socket: &OwnedFd, flags: PollFlags, wait: Duration) -> bool {
    let mut polled = [PollFd::new(socket, flags)];
    let timeout = Timespec {
        tv_sec: wait.as_secs() as i64,
        tv_nsec: i64::from(wait.subsec_nanos()),
    };
    rustix::event::poll(&mut polled, Some(&timeout)).is_ok_and(|count| count > 0)
}
