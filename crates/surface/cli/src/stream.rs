//! The traffic between the client's standard streams and an attached process.
//!
//! One thread, one poll loop: nothing blocks but writing to the client's own output, so that a process which reads and
//! writes at once (`cat`) cannot bring both ends to a stop.
//!
//! ```text
//!  stdin ──▶ detach keys ──▶ pending ──▶ socket ──▶ frames ──▶ stdout, stderr
//!  signals ──▶ on_signal
//! ```

use crate::error::{CliError, Result};
use crate::http::{Hijacked, Stream};
use rustix::event::{PollFd, PollFlags, poll};
use signal_hook::consts::signal;
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

/// How the pumping ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Closed,
    /// The user typed the detach keys.
    Detached,
}

pub struct Pump {
    /// Raw bytes instead of frames.
    pub terminal: bool,
    /// Whether to send the client's standard input.
    pub stdin: bool,
    /// Empty: no keys detach.
    pub detach_keys: Vec<u8>,
}

/// Signals that are passed on to the process, or, with a terminal, end the client in order.
const FORWARDED: [i32; 8] = [
    signal::SIGHUP,
    signal::SIGINT,
    signal::SIGQUIT,
    signal::SIGTERM,
    signal::SIGUSR1,
    signal::SIGUSR2,
    signal::SIGALRM,
    signal::SIGCONT,
];
const WITH_TERMINAL: [i32; 3] = [signal::SIGWINCH, signal::SIGHUP, signal::SIGTERM];

type SignalSource = SignalDelivery<UnixStream, SignalOnly>;

/// Signals caught from now on.
pub struct SignalQueue(SignalSource);

impl SignalQueue {
    pub fn forwarded() -> Result<Self> {
        Self::catch(&FORWARDED)
    }

    pub fn with_terminal() -> Result<Self> {
        Self::catch(&WITH_TERMINAL)
    }

    fn catch(signals: &[i32]) -> Result<Self> {
        let failed = |error: io::Error| CliError::message(format!("catch signals: {error}"));
        let (read, write) = UnixStream::pair().map_err(failed)?;
        read.set_nonblocking(true).map_err(failed)?;
        let source = SignalSource::with_pipe(read, write, SignalOnly, signals);
        source.map(Self).map_err(failed)
    }
}

impl Pump {
    /// Carries bytes until the other end closes, the user detaches, or `on_signal` fails.
    pub fn run(
        &self,
        hijacked: Hijacked,
        mut signals: Option<SignalQueue>,
        mut on_signal: impl FnMut(i32) -> Result<()>,
    ) -> Result<Ended> {
        let mut socket = hijacked.stream;
        socket.set_nonblocking(true).map_err(CliError::Transport)?;
        let mut output = Output::new(self.terminal);
        output.accept(&hijacked.received)?;
        let mut input = Input::new(self);
        let mut buffer = vec![0_u8; 32 * 1024];
        loop {
            let ready = wait_ready(&socket, &input, signals.as_ref())?;
            if ready.signal
                && let Some(queue) = &mut signals
            {
                for number in queue.0.pending() {
                    on_signal(number)?;
                }
            }
            if ready.output {
                match socket.read(&mut buffer) {
                    Ok(0) => return Ok(Ended::Closed),
                    Ok(length) => output.accept(&buffer[..length])?,
                    Err(error) if is_again(&error) => {}
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Ended::Closed),
                    Err(error) => return Err(CliError::Transport(error)),
                }
            }
            if ready.input && input.receive(&mut buffer) == Ended::Detached {
                return Ok(Ended::Detached);
            }
            input.send(&mut socket)?;
        }
    }
}

struct Ready {
    output: bool,
    input: bool,
    signal: bool,
}

fn wait_ready(socket: &Stream, input: &Input, signals: Option<&SignalQueue>) -> Result<Ready> {
    let stdin = io::stdin();
    let mut wanted = PollFlags::IN;
    if !input.pending.is_empty() {
        wanted |= PollFlags::OUT;
    }
    let mut polled = vec![PollFd::from_borrowed_fd(socket.as_fd(), wanted)];
    let input_at = input.wants_more().then(|| {
        polled.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
        polled.len() - 1
    });
    let signal_at = signals.map(|queue| {
        polled.push(PollFd::from_borrowed_fd(
            queue.0.get_read().as_fd(),
            PollFlags::IN,
        ));
        polled.len() - 1
    });
    match poll(&mut polled, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(CliError::Transport(error.into())),
    }
    let is_ready = |at: Option<usize>| at.is_some_and(|at| !polled[at].revents().is_empty());
    let output = polled[0]
        .revents()
        .intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
    Ok(Ready {
        output,
        input: is_ready(input_at),
        signal: is_ready(signal_at),
    })
}

fn is_again(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// The client's standard input on its way to the socket.
struct Input<'a> {
    detach: DetachKeys<'a>,
    pending: Vec<u8>,
    is_open: bool,
    /// The end of the input has been passed on.
    is_shut: bool,
}

impl<'a> Input<'a> {
    fn new(pump: &'a Pump) -> Self {
        let detach = DetachKeys {
            keys: &pump.detach_keys,
            matched: 0,
        };
        Self {
            detach,
            pending: Vec::new(),
            is_open: pump.stdin,
            is_shut: !pump.stdin,
        }
    }

    fn wants_more(&self) -> bool {
        self.is_open && self.pending.is_empty()
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Ended {
        match rustix::io::read(io::stdin(), &mut *buffer) {
            Ok(0) => self.is_open = false,
            Ok(length) => {
                if self.detach.pass(&buffer[..length], &mut self.pending) {
                    return Ended::Detached;
                }
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            // A terminal that has gone away reads as EIO: the end of the input.
            Err(_) => self.is_open = false,
        }
        Ended::Closed
    }

    fn send(&mut self, socket: &mut Stream) -> Result<()> {
        while !self.pending.is_empty() {
            match socket.write(&self.pending) {
                Ok(length) => drop(self.pending.drain(..length)),
                Err(error) if is_again(&error) => return Ok(()),
                // The process no longer reads; its output may still come.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    self.pending.clear();
                    self.is_open = false;
                    self.is_shut = true;
                }
                Err(error) => return Err(CliError::Transport(error)),
            }
        }
        if !self.is_open && !self.is_shut {
            self.is_shut = true;
            // Refused only when the peer has closed already; reading tells that.
            let _ = socket.shutdown_write();
        }
        Ok(())
    }
}

/// Looks for the detach keys; bytes that may be their beginning are held back.
struct DetachKeys<'a> {
    keys: &'a [u8],
    matched: usize,
}

impl DetachKeys<'_> {
    /// Passes input on; true when the whole sequence has been typed.
    fn pass(&mut self, input: &[u8], pending: &mut Vec<u8>) -> bool {
        if self.keys.is_empty() {
            pending.extend_from_slice(input);
            return false;
        }
        for &byte in input {
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return true;
                }
                continue;
            }
            pending.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(byte == self.keys[0]);
            if self.matched == 0 {
                pending.push(byte);
            }
        }
        false
    }
}

/// Reads `ctrl-p,ctrl-q` or `a,b` as the bytes a terminal sends for them.
pub fn parse_detach_keys(text: &str) -> Result<Vec<u8>, String> {
    text.split(',')
        .map(|key| {
            let lower = key.to_ascii_lowercase();
            match (lower.strip_prefix("ctrl-"), key.as_bytes()) {
                (Some(letter), _) => match letter.as_bytes() {
                    [letter @ b'a'..=b'z'] => Ok(letter - b'a' + 1),
                    [b'@'] => Ok(0),
                    [symbol @ b'['..=b'_'] => Ok(symbol - b'@'),
                    _ => Err(format!("Unknown character: '{key}'")),
                },
                (None, [byte]) => Ok(*byte),
                _ => Err(format!("Unknown character: '{key}'")),
            }
        })
        .collect()
}

/// What the process wrote, on its way to the client's standard output and error.
pub struct Output {
    terminal: bool,
    frames: FrameReader,
}

impl Output {
    pub fn new(terminal: bool) -> Self {
        Self {
            terminal,
            frames: FrameReader::default(),
        }
    }

    pub fn accept(&mut self, bytes: &[u8]) -> Result<()> {
        if self.terminal {
            return write_to(1, bytes);
        }
        self.frames.accept(bytes, &mut write_to)
    }
}

fn write_to(stream: u8, bytes: &[u8]) -> Result<()> {
    let outcome = if stream == 2 {
        io::stderr().write_all(bytes)
    } else {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush())
    };
    outcome.map_err(CliError::Output)
}

/// Takes Docker's stream frames apart: stream number, three zero bytes, length (big-endian u32), bytes.
#[derive(Debug, Default)]
pub struct FrameReader {
    header: Vec<u8>,
    stream: u8,
    left: usize,
}

impl FrameReader {
    pub fn accept(&mut self, mut bytes: &[u8], write: &mut dyn FnMut(u8, &[u8]) -> Result<()>) -> Result<()> {
        while !bytes.is_empty() {
            if self.left == 0 {
                let wanted = (8 - self.header.len()).min(bytes.len());
                self.header.extend_from_slice(&bytes[..wanted]);
                bytes = &bytes[wanted..];
                if let [stream @ 0..=3, _, _, _, a, b, c, d] = self.header[..] {
                    self.stream = stream;
                    self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                    self.header.clear();
                } else if self.header.len() == 8 {
                    return Err(CliError::Protocol(format!(
                        "unrecognized stream: {}",
                        self.header[0]
                    )));
                }
                continue;
            }
            let length = self.left.min(bytes.len());
            if self.stream == 3 {
                let message = String::from_utf8_lossy(&bytes[..length]).into_owned();
                return Err(CliError::message(format!(
                    "error from daemon in stream: {message}"
                )));
            }
            write(self.stream, &bytes[..length])?;
            self.left -= length;
            bytes = &bytes[length..];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let bytes = b"\x01\0\0\0\0\0\0\x03out\x02\0\0\0\0\0\0\x03err\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x01!";
        for size in 1..bytes.len() {
            let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
            let mut frames = FrameReader::default();
            for part in bytes.chunks(size) {
                frames
                    .accept(part, &mut |stream, bytes| {
                        if stream == 2 {
                            stderr.extend_from_slice(bytes);
                        } else {
                            stdout.extend_from_slice(bytes);
                        }
                        Ok(())
                    })
                    .unwrap();
            }
            assert_eq!(
                (stdout.as_slice(), stderr.as_slice()),
                (&b"out!"[..], &b"err"[..]),
                "parts of {size}"
            );
        }
    }

    #[test]
    fn bytes_that_are_no_frame_are_an_error() {
        let outcome = FrameReader::default().accept(b"HTTP/1.1 200", &mut |_, _| Ok(()));
        assert!(outcome.is_err());
    }

    #[test]
    fn detach_keys_are_found_and_false_starts_passed_on() {
        let keys = parse_detach_keys("ctrl-p,ctrl-q").unwrap();
        assert_eq!(keys, [16, 17]);
        let mut detach = DetachKeys {
            keys: &keys,
            matched: 0,
        };
        let mut pending = Vec::new();
        assert!(!detach.pass(b"a\x10b\x10\x10", &mut pending));
        assert_eq!(pending, b"a\x10b\x10");
        assert!(detach.pass(b"\x11", &mut pending));
        assert!(parse_detach_keys("ctrl-").is_err());
    }
}
