//! The writing side: cuts output into messages and appends them.

use crate::entry::Stream;
use crate::format::Format;
use crate::local;
use crate::rotate::{self, Compressing, Rotation};
use naru_base::Timestamp;
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Longest message; a longer line is cut, as Docker cuts it (`defaultBufSize` of its copier).
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// Encoded messages are written out when there are this many bytes of them, so that one batch stays small in memory.
const BATCH_BYTES_MAX: usize = 64 * 1024;

/// A log being written. There must be only one writer to a path.
#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    format: Format,
    file: OwnedFd,
    /// Bytes in the file being written, and in all those before it.
    bytes: u64,
    bytes_before: u64,
    rotation: Rotation,
    compressing: Option<Compressing>,
    /// Encoded messages not yet written, and their number.
    batch: Vec<u8>,
    batch_messages: u64,
    /// The beginning of a line whose end has not come yet, for stdout and stderr.
    partial: [Vec<u8>; 2],
    /// Messages lost because the file could not be written, and why; told in the log once it can be.
    lost: u64,
    lost_cause: String,
}

impl LogWriter {
    /// Opens the log to append to it; makes it, with mode 0640, where it is not there.
    pub fn open(path: &Path, format: Format, rotation: Rotation) -> io::Result<Self> {
        let file = open_append(path)?;
        let mut bytes = rustix::fs::fstat(&file)?.st_size as u64;
        let mut bytes_before = 0;
        if bytes > 0 {
            if format == Format::Local {
                bytes = cut_torn_record(path, &file, bytes)?;
            }
            bytes_before = rotate::bytes_before(&file).unwrap_or(0);
            rotate::remove_part(path);
        }
        Ok(Self {
            path: path.to_owned(),
            format,
            file,
            bytes,
            bytes_before,
            rotation,
            compressing: None,
            batch: Vec::new(),
            batch_messages: 0,
            partial: [Vec::new(), Vec::new()],
            lost: 0,
            lost_cause: String::new(),
        })
    }

    /// Adds output that was read at `time`. Whole lines reach the file at the next [`LogWriter::flush`].
    pub fn add(&mut self, stream: Stream, mut bytes: &[u8], time: Timestamp) {
        while !bytes.is_empty() {
            let room = MESSAGE_BYTES_MAX - self.partial[slot(stream)].len();
            let window = &bytes[..bytes.len().min(room)];
            let newline = window.iter().position(|&byte| byte == b'\n');
            let (message, rest) = bytes.split_at(newline.map_or(window.len(), |index| index + 1));
            bytes = rest;
            if newline.is_some() || message.len() == room {
                self.add_message(stream, message, time);
            } else {
                self.partial[slot(stream)].extend_from_slice(message);
            }
        }
    }

    /// Writes all whole lines, by one call to the kernel. A failure costs the messages of this batch and no others.
    pub fn flush(&mut self) -> io::Result<()> {
        let result = self.write_batch();
        // The memory of a busy moment is given back.
        self.batch = Vec::new();
        self.compress_on();
        result
    }

    /// Writes what is left, unfinished lines included. A compression under way is given up.
    pub fn finish(&mut self) -> io::Result<()> {
        let time = Timestamp::now();
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !self.partial[slot(stream)].is_empty() {
                self.add_message(stream, &[], time);
            }
        }
        let result = self.flush();
        if self.compressing.take().is_some() {
            rotate::remove_part(&self.path);
        }
        result
    }

    /// How many messages could not be written and have not been told of in the log either.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn add_message(&mut self, stream: Stream, message: &[u8], time: Timestamp) {
        if self.batch.len() >= BATCH_BYTES_MAX || self.is_full() {
            // A failure is counted; output that cannot be recorded must not stop the container.
            let _ = self.write_batch();
        }
        if self.is_full() {
            self.rotate();
        }
        let partial = std::mem::take(&mut self.partial[slot(stream)]);
        let parts: &[&[u8]] = if partial.is_empty() {
            &[message]
        } else {
            &[&partial, message]
        };
        self.format.append(&mut self.batch, parts, stream, time);
        self.batch_messages += 1;
    }

    fn is_full(&self) -> bool {
        self.rotation
            .bytes_max
            .is_some_and(|max| self.bytes + self.batch.len() as u64 >= max)
    }

    fn write_batch(&mut self) -> io::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut self.batch);
        let messages = std::mem::take(&mut self.batch_messages);
        if self.lost > 0 {
            bytes.splice(0..0, self.note_of_lost());
        }
        match self.write(&bytes) {
            Ok(()) => self.lost = 0,
            Err(error) => {
                self.lost += messages;
                self.lost_cause = error.to_string();
                return Err(error);
            }
        }
        // Its memory is used again until the next flush.
        bytes.clear();
        self.batch = bytes;
        Ok(())
    }

    /// Says in the log how much of it is missing here.
    fn note_of_lost(&self) -> Vec<u8> {
        let text = format!(
            "naru: {} messages were lost here: the log could not be written: {}\n",
            self.lost, self.lost_cause
        );
        let mut note = Vec::new();
        self.format
            .append(&mut note, &[text.as_bytes()], Stream::Stderr, Timestamp::now());
        note
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match rustix::io::retry_on_intr(|| rustix::io::write(&self.file, rest)) {
                Ok(count) => rest = &rest[count..],
                Err(error) => {
                    // A full disk may have taken half a message: take it back, so that the next batch starts one.
                    let _ = rustix::fs::ftruncate(&self.file, self.bytes);
                    return Err(error.into());
                }
            }
        }
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Shifts the full files by one name and starts a new one. On a failure the present file goes on growing.
    fn rotate(&mut self) {
        if let Some(unfinished) = self.compressing.take()
            && unfinished.run().is_err()
        {
            rotate::remove_part(&self.path);
        }
        if rotate::shift(&self.path, self.rotation.files_max).is_err() {
            return;
        }
        let Ok(file) = open_append(&self.path) else { return };
        self.bytes_before += self.bytes;
        rotate::set_bytes_before(&file, self.bytes_before);
        self.file = file;
        self.bytes = 0;
        if self.rotation.compress && self.rotation.files_max > 1 {
            self.compressing = Compressing::start(&self.path).ok();
        }
    }

    /// A slice of what is to be compressed. A failure leaves the file uncompressed.
    fn compress_on(&mut self) {
        if let Some(compressing) = &mut self.compressing {
            match compressing.step() {
                Ok(false) => {}
                Ok(true) => self.compressing = None,
                Err(_) => {
                    self.compressing = None;
                    rotate::remove_part(&self.path);
                }
            }
        }
    }
}

fn slot(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

fn open_append(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(
        path,
        flags,
        Mode::RUSR | Mode::WUSR | Mode::RGRP,
    )?)
}

/// Takes back a record that a killed writer left unfinished: nothing after it could be found. Gives the file's size.
fn cut_torn_record(path: &Path, file: &OwnedFd, size: u64) -> io::Result<u64> {
    let reading = std::fs::File::open(path)?;
    if local::ends_whole(&reading, size) {
        return Ok(size);
    }
    let bytes = std::fs::read(path)?;
    let mut end = 0;
    while let local::Record::Whole(_, length) = local::first_record(&bytes[end..]) {
        end += length;
    }
    rustix::fs::ftruncate(file, end as u64)?;
    Ok(end as u64)
}

#[cfg(test)]
mod tests;
