//! A pipe between threads: a worker that may block writes, whoever streams the bytes to a client reads.

use bytes::Bytes;
use std::io::{self, Read, Write};
use tokio::sync::mpsc;

/// Bytes gathered before they are handed on.
const CHUNK_BYTES: usize = 64 << 10;

/// Chunks in flight: what a slow reader makes the worker wait for.
const CHUNKS_MAX: usize = 8;

pub type Chunks = mpsc::Receiver<io::Result<Bytes>>;

/// Gathers what is written into chunks. A reader that has gone away is a broken pipe.
pub struct ChunkWriter {
    chunks: mpsc::Sender<io::Result<Bytes>>,
    gathered: Vec<u8>,
}

/// A writer for a thread that may block, and its reader.
pub fn pipe() -> (ChunkWriter, Chunks) {
    let (chunks, reader) = mpsc::channel(CHUNKS_MAX);
    let writer = ChunkWriter {
        chunks,
        gathered: Vec::with_capacity(CHUNK_BYTES),
    };
    (writer, reader)
}

impl ChunkWriter {
    fn send(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.gathered, Vec::with_capacity(CHUNK_BYTES));
        self.chunks
            .blocking_send(Ok(chunk.into()))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Ends the stream with an error: the reader must not take what it has for the whole.
    pub fn fail(self, error: io::Error) {
        let _ = self.chunks.blocking_send(Err(error));
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= CHUNK_BYTES {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// Reads chunks from a thread that may block.
pub struct ChunkReader {
    chunks: Chunks,
    current: Bytes,
}

impl ChunkReader {
    pub fn new(chunks: Chunks) -> Self {
        Self {
            chunks,
            current: Bytes::new(),
        }
    }
}

impl Read for ChunkReader {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let length = target.len().min(self.current.len());
        target[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}
