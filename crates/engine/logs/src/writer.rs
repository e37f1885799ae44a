//! The writing side: cuts output into lines and appends them.

use crate::encode::append_line;
use crate::entry::Stream;
use naru_base::Timestamp;
use rustix::fs::{Mode, OFlags};
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Longest message; a longer line is cut, as Docker cuts it (`defaultBufSize` of its copier).
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// Encoded lines are written out when there are this many bytes of them, so that one batch stays small in memory.
const BATCH_BYTES_MAX: usize = 64 * 1024;

/// When a log is full and how many files are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// `None` for no limit.
    pub bytes_max: Option<u64>,
    /// All files together, the one being written included; at least 1.
    pub files_max: u32,
}

/// A log being written. There must be only one writer to a path.
#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    file: OwnedFd,
    bytes: u64,
    rotation: Rotation,
    /// Encoded lines not yet written.
    batch: Vec<u8>,
    /// The beginning of a line whose end has not come yet, for stdout and stderr.
    partial: [Vec<u8>; 2],
    /// Messages lost because the file could not be written.
    lost: u64,
}

impl LogWriter {
    /// Opens the log to append to it; makes it, with mode 0640, where it is not there.
    pub fn open(path: &Path, rotation: Rotation) -> io::Result<Self> {
        let file = open_append(path)?;
        let bytes = rustix::fs::fstat(&file)?.st_size as u64;
        Ok(Self {
            path: path.to_owned(),
            file,
            bytes,
            rotation,
            batch: Vec::new(),
            partial: [Vec::new(), Vec::new()],
            lost: 0,
        })
    }

    /// Adds output that was read at `time`. Whole lines reach the file at the next [`LogWriter::flush`].
    pub fn add(&mut self, stream: Stream, mut bytes: &[u8], time: &str) {
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

    /// Writes all whole lines, by one call to the kernel. A failure costs the lines of this batch and no others.
    pub fn flush(&mut self) -> io::Result<()> {
        let result = self.write_batch();
        // The memory of a busy moment is given back.
        self.batch = Vec::new();
        result
    }

    /// Writes what is left, unfinished lines included.
    pub fn finish(&mut self) -> io::Result<()> {
        let time = Timestamp::now().to_string();
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !self.partial[slot(stream)].is_empty() {
                self.add_message(stream, &[], &time);
            }
        }
        self.flush()
    }

    /// How many batches could not be written.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn add_message(&mut self, stream: Stream, message: &[u8], time: &str) {
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
        append_line(&mut self.batch, parts, stream.name(), time);
    }

    fn is_full(&self) -> bool {
        self.rotation
            .bytes_max
            .is_some_and(|max| self.bytes + self.batch.len() as u64 >= max)
    }

    fn write_batch(&mut self) -> io::Result<()> {
        let mut rest = self.batch.as_slice();
        while !rest.is_empty() {
            match rustix::io::retry_on_intr(|| rustix::io::write(&self.file, rest)) {
                Ok(count) => rest = &rest[count..],
                Err(error) => {
                    // A full disk may have taken half a line: take it back, so that the next batch starts a line.
                    let _ = rustix::fs::ftruncate(&self.file, self.bytes);
                    self.batch.clear();
                    self.lost += 1;
                    return Err(error.into());
                }
            }
        }
        self.bytes += self.batch.len() as u64;
        self.batch.clear();
        Ok(())
    }

    /// Shifts the full files by one name and starts a new one. On a failure the present file goes on growing.
    fn rotate(&mut self) {
        if self.rotation.files_max > 1 {
            for number in (1..self.rotation.files_max - 1).rev() {
                let _ = rustix::fs::rename(
                    rotated_path(&self.path, number),
                    rotated_path(&self.path, number + 1),
                );
            }
            if rustix::fs::rename(&self.path, rotated_path(&self.path, 1)).is_err() {
                return;
            }
        } else if rustix::fs::unlink(&self.path).is_err() {
            return;
        }
        if let Ok(file) = open_append(&self.path) {
            self.file = file;
            self.bytes = 0;
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

/// The name of the `number`th newest full file.
pub(crate) fn rotated_path(path: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-01-02T03:04:05.000000006Z";

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("naru-logs-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        folder
    }

    fn unlimited() -> Rotation {
        Rotation {
            bytes_max: None,
            files_max: 1,
        }
    }

    #[test]
    fn a_line_looks_as_dockers() {
        let folder = scratch("line");
        let mut log = LogWriter::open(&folder.join("log"), unlimited()).unwrap();
        log.add(Stream::Stdout, b"hel", TIME);
        log.add(Stream::Stderr, b"oops\n", TIME);
        log.add(Stream::Stdout, b"lo\nrest", TIME);
        log.finish().unwrap();
        let text = std::fs::read_to_string(folder.join("log")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            format!("{{\"log\":\"oops\\n\",\"stream\":\"stderr\",\"time\":\"{TIME}\"}}")
        );
        assert_eq!(
            lines[1],
            format!("{{\"log\":\"hello\\n\",\"stream\":\"stdout\",\"time\":\"{TIME}\"}}")
        );
        assert!(lines[2].starts_with("{\"log\":\"rest\",\"stream\":\"stdout\""));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn long_lines_are_cut_at_sixteen_kibibytes_and_lose_nothing() {
        let folder = scratch("cut");
        let mut log = LogWriter::open(&folder.join("log"), unlimited()).unwrap();
        for _ in 0..40 {
            log.add(Stream::Stdout, &[b'x'; 1000], TIME);
        }
        log.add(Stream::Stdout, b"\n", TIME);
        log.finish().unwrap();
        let text = std::fs::read(folder.join("log")).unwrap();
        let sizes: Vec<usize> = text
            .split(|&byte| byte == b'\n')
            .filter_map(crate::Entry::parse)
            .map(|entry| entry.bytes.len())
            .collect();
        assert_eq!(sizes, [16384, 16384, 40001 - 2 * 16384]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_full_log_is_rotated_and_the_oldest_goes() {
        let folder = scratch("rotate");
        let path = folder.join("log");
        let mut log = LogWriter::open(
            &path,
            Rotation {
                bytes_max: Some(1000),
                files_max: 3,
            },
        )
        .unwrap();
        for number in 0..100 {
            log.add(Stream::Stdout, format!("line {number}\n").as_bytes(), TIME);
        }
        log.finish().unwrap();
        let mut names: Vec<String> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["log", "log.1", "log.2"]);
        assert!(std::fs::read_to_string(path).unwrap().contains("line 99"));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
