//! A socket and what has been received on it ahead of need.

use super::address::Stream;
use std::io::{self, Read};

/// Longest head of an answer that is accepted; Docker's are under 1 KiB.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A connection and the bytes that have been received but not used.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: Stream,
    pub(super) received: Vec<u8>,
    pub(super) used: usize,
    /// It has carried an answer before, so the peer may have closed it meanwhile.
    pub(super) is_reused: bool,
}

impl Connection {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            received: Vec::new(),
            used: 0,
            is_reused: false,
        }
    }

    /// Receives more; `Ok(0)` at the end of the stream.
    pub(super) fn fill(&mut self) -> io::Result<usize> {
        if self.used > 0 {
            self.received.drain(..self.used);
            self.used = 0;
        }
        let start = self.received.len();
        self.received.resize(start + 16 * 1024, 0);
        let outcome = retry_interrupted(|| self.stream.read(&mut self.received[start..]));
        self.received.truncate(start + *outcome.as_ref().unwrap_or(&0));
        outcome
    }

    /// Receives into a buffer of the caller's; only while nothing is pending.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        retry_interrupted(|| self.stream.read(buffer))
    }

    pub(super) fn pending(&self) -> &[u8] {
        &self.received[self.used..]
    }

    pub(super) fn take(&mut self, buffer: &mut [u8]) -> usize {
        let length = buffer.len().min(self.pending().len());
        buffer[..length].copy_from_slice(&self.received[self.used..self.used + length]);
        self.used += length;
        length
    }

    pub(super) fn read_line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.pending().iter().position(|&byte| byte == b'\n') {
                let line = String::from_utf8_lossy(&self.pending()[..end])
                    .trim_end()
                    .to_owned();
                self.used += end + 1;
                return Ok(line);
            }
            if self.pending().len() > HEAD_BYTES_MAX {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a header line without end",
                ));
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn retry_interrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}
