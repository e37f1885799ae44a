//! The reading side: the last lines, a span of time, and what is still to come, across rotated files.
//!
//! A reader never waits. At the end of what there is it answers [`Batch::Idle`] (when following) or [`Batch::End`];
//! the caller decides when to look again. Lines that are not entries, torn ones included, are skipped.

use crate::entry::{Entry, Stream};
use crate::writer::rotated_path;
use naru_base::Timestamp;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Bytes read at once.
const BLOCK_BYTES: usize = 64 * 1024;

/// A line longer than this is not ours: the longest message is 16 KiB and no byte of it takes more than six.
const LINE_BYTES_MAX: usize = 256 * 1024;

/// Which part of a log to read.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    pub stdout: bool,
    pub stderr: bool,
    /// The last so many lines of both streams together; `None` for all.
    pub tail: Option<usize>,
    /// Nothing older than this.
    pub since: Option<Timestamp>,
    /// Nothing newer than this; also ends following.
    pub until: Option<Timestamp>,
    /// Go on with what will be written.
    pub follow: bool,
}

/// What [`LogReader::next_batch`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Batch {
    /// Never empty.
    Entries(Vec<Entry>),
    /// Nothing new now; look again later.
    Idle,
    /// Nothing more will come.
    End,
}

/// A position in a log.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    options: ReadOptions,
    /// Oldest first; the last one is, or was when looked at, the one being written.
    files: VecDeque<LogFile>,
    /// The beginning of a line whose end has not been read.
    carry: Vec<u8>,
    /// The line in `carry` is too long; the rest of it is skipped.
    is_skipping: bool,
    is_ended: bool,
}

#[derive(Debug)]
struct LogFile {
    file: OwnedFd,
    /// Device and inode.
    identity: (u64, u64),
    offset: u64,
}

impl LogReader {
    /// Opens the log at `path` with its rotated files. A log that does not exist is an empty one.
    pub fn open(path: &Path, options: ReadOptions) -> io::Result<Self> {
        let mut reader = Self {
            path: path.to_owned(),
            options,
            files: VecDeque::new(),
            carry: Vec::new(),
            is_skipping: false,
            is_ended: false,
        };
        reader.files = reader.open_since(None)?;
        if let Some(lines) = reader.options.tail {
            reader.seek_tail(lines)?;
        }
        Ok(reader)
    }

    /// What is there now is the last there will be, because the container has ended: after it comes [`Batch::End`].
    pub fn stop_following(&mut self) {
        self.options.follow = false;
    }

    /// The next entries, at most a block's worth.
    pub fn next_batch(&mut self) -> io::Result<Batch> {
        let mut entries = Vec::new();
        while !self.is_ended {
            let was_read = self.read_block(&mut entries)?;
            if !entries.is_empty() {
                return Ok(Batch::Entries(entries));
            }
            if !was_read && !self.advance()? {
                break;
            }
        }
        if self.options.follow && !self.is_ended {
            return Ok(Batch::Idle);
        }
        self.take_last_line(&mut entries);
        self.is_ended = true;
        Ok(if entries.is_empty() {
            Batch::End
        } else {
            Batch::Entries(entries)
        })
    }

    /// Reads on in the first file; `false` at its end.
    fn read_block(&mut self, entries: &mut Vec<Entry>) -> io::Result<bool> {
        let Some(current) = self.files.front_mut() else {
            return Ok(false);
        };
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        read_at(&current.file, current.offset, &mut block)?;
        if block.is_empty() {
            let size = rustix::fs::fstat(&current.file)?.st_size as u64;
            if size < current.offset {
                // The writer took back a line that a full disk had torn.
                current.offset = size;
                self.carry.clear();
            }
            return Ok(false);
        }
        current.offset += block.len() as u64;
        self.split(&block, entries);
        Ok(true)
    }

    fn split(&mut self, block: &[u8], entries: &mut Vec<Entry>) {
        for piece in block.split_inclusive(|&byte| byte == b'\n') {
            if !self.is_skipping {
                self.carry.extend_from_slice(piece);
            }
            if piece.last() == Some(&b'\n') {
                self.take_line(entries);
            } else if self.carry.len() > LINE_BYTES_MAX {
                self.carry = Vec::new();
                self.is_skipping = true;
            }
            if self.is_ended {
                return;
            }
        }
    }

    fn take_line(&mut self, entries: &mut Vec<Entry>) {
        let entry = Entry::parse(&self.carry);
        self.carry.clear();
        self.is_skipping = false;
        let Some(entry) = entry else { return };
        if self.options.until.is_some_and(|until| entry.time > until) {
            self.is_ended = true;
            return;
        }
        let is_wanted = match entry.stream {
            Stream::Stdout => self.options.stdout,
            Stream::Stderr => self.options.stderr,
        };
        if is_wanted && self.options.since.is_none_or(|since| entry.time >= since) {
            entries.push(entry);
        }
    }

    /// A last line without a newline still counts when it is a whole entry.
    fn take_last_line(&mut self, entries: &mut Vec<Entry>) {
        if !self.is_ended && !self.carry.is_empty() {
            self.take_line(entries);
        }
    }

    /// At the end of a file: goes to the next one, or looks for those that a rotation has made. `false` when there is
    /// nothing more to read now.
    fn advance(&mut self) -> io::Result<bool> {
        if self.files.len() < 2 {
            let Some(mut newer) = self.find_newer()? else {
                return Ok(false);
            };
            self.files.append(&mut newer);
            // The present file may have grown between its end being read and its being renamed.
            return Ok(true);
        }
        let front = &self.files[0];
        if rustix::fs::fstat(&front.file)?.st_size as u64 > front.offset {
            return Ok(true);
        }
        self.files.pop_front();
        self.carry.clear();
        self.is_skipping = false;
        Ok(true)
    }

    /// The files written after the one now being read; `None` when that is still the one being written.
    fn find_newer(&self) -> io::Result<Option<VecDeque<LogFile>>> {
        let current = self.files.front().map(|file| file.identity);
        let newer = self.open_since(current)?;
        Ok(if newer.is_empty() { None } else { Some(newer) })
    }

    /// Opens the files newer than `identity`, oldest first; all of them when it is not among them.
    ///
    /// The writer may rename while we look. Files are opened from the newest on; one that then has moved to the next
    /// name is met again there and left out.
    fn open_since(&self, identity: Option<(u64, u64)>) -> io::Result<VecDeque<LogFile>> {
        let mut files: VecDeque<LogFile> = VecDeque::new();
        for number in 0..u32::MAX {
            let path = if number == 0 {
                self.path.clone()
            } else {
                rotated_path(&self.path, number)
            };
            match open_log_file(&path)? {
                Some(file) if Some(file.identity) == identity => break,
                Some(file) if files.iter().any(|known| known.identity == file.identity) => {}
                Some(file) => files.push_front(file),
                // Between a rename and the making of the new file there is none under the plain name.
                None if number == 0 => {}
                None => break,
            }
        }
        Ok(files)
    }

    /// Moves to the beginning of the last `lines` lines.
    fn seek_tail(&mut self, lines: usize) -> io::Result<()> {
        let mut missing = lines;
        for index in (0..self.files.len()).rev() {
            let file = &mut self.files[index];
            let size = rustix::fs::fstat(&file.file)?.st_size as u64;
            let (start, found) = find_tail(&file.file, size, missing)?;
            file.offset = start;
            missing -= found;
            if missing == 0 {
                self.files.drain(..index);
                break;
            }
        }
        Ok(())
    }
}

fn open_log_file(path: &Path) -> io::Result<Option<LogFile>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stat = rustix::fs::fstat(&file)?;
    Ok(Some(LogFile {
        file,
        identity: (stat.st_dev, stat.st_ino),
        offset: 0,
    }))
}

/// Where the last `lines` lines of the first `size` bytes begin, and how many there are (at most `lines`). A last line
/// without its newline is still being written, or torn, and does not count.
fn find_tail(file: &OwnedFd, size: u64, lines: usize) -> io::Result<(u64, usize)> {
    let mut position = size;
    // The newline that ends the last line is followed by no line.
    let mut newlines = 0;
    let mut last_newline = None;
    while position > 0 {
        let start = position.saturating_sub(BLOCK_BYTES as u64);
        let mut block = Vec::with_capacity((position - start) as usize);
        read_at(file, start, &mut block)?;
        for (index, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            if newlines == lines {
                return Ok((start + index as u64 + 1, lines));
            }
            newlines += 1;
            last_newline.get_or_insert(start + index as u64 + 1);
        }
        position = start;
    }
    Ok((
        if lines == 0 { last_newline.unwrap_or(0) } else { 0 },
        newlines.min(lines),
    ))
}

/// Fills `block` to its capacity, or less at the end of the file.
fn read_at(file: &OwnedFd, offset: u64, block: &mut Vec<u8>) -> io::Result<()> {
    while block.len() < block.capacity() {
        let at = offset + block.len() as u64;
        let count =
            rustix::io::retry_on_intr(|| rustix::io::pread(file, rustix::buffer::spare_capacity(block), at))?;
        if count == 0 {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LogWriter, Rotation};

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("naru-logs-{}-read-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        folder
    }

    fn everything() -> ReadOptions {
        ReadOptions {
            stdout: true,
            stderr: true,
            tail: None,
            since: None,
            until: None,
            follow: false,
        }
    }

    fn time(number: usize) -> String {
        format!(
            "2026-01-02T03:{:02}:{:02}.000000000Z",
            number / 60 % 60,
            number % 60
        )
    }

    fn write_numbers(path: &Path, numbers: std::ops::Range<usize>, bytes_max: Option<u64>) {
        let mut log = LogWriter::open(
            path,
            Rotation {
                bytes_max,
                files_max: 5,
            },
        )
        .unwrap();
        for number in numbers {
            log.add(Stream::Stdout, format!("{number}\n").as_bytes(), &time(number));
        }
        log.finish().unwrap();
    }

    fn drain(reader: &mut LogReader) -> Vec<usize> {
        let mut numbers = Vec::new();
        while let Batch::Entries(entries) = reader.next_batch().unwrap() {
            numbers.extend(entries.iter().map(|entry| {
                std::str::from_utf8(&entry.bytes)
                    .unwrap()
                    .trim()
                    .parse::<usize>()
                    .unwrap()
            }));
        }
        numbers
    }

    fn read(path: &Path, options: ReadOptions) -> Vec<usize> {
        drain(&mut LogReader::open(path, options).unwrap())
    }

    #[test]
    fn tails_reach_across_rotated_files() {
        let folder = scratch("tail");
        let path = folder.join("log");
        write_numbers(&path, 0..3000, Some(60_000));
        let all = read(&path, everything());
        assert!(all.len() > 2000 && all.is_sorted() && *all.last().unwrap() == 2999);
        for lines in [0, 1, 2, 10, 700, 1500, all.len() - 1, all.len(), all.len() + 1] {
            let got = read(
                &path,
                ReadOptions {
                    tail: Some(lines),
                    ..everything()
                },
            );
            assert_eq!(got, all[all.len().saturating_sub(lines)..], "tail {lines}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn since_and_until_bound_the_span() {
        let folder = scratch("span");
        let path = folder.join("log");
        write_numbers(&path, 0..100, None);
        let options = ReadOptions {
            since: Some(time(20).parse().unwrap()),
            until: Some(time(29).parse().unwrap()),
            ..everything()
        };
        assert_eq!(read(&path, options), (20..30).collect::<Vec<_>>());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn following_goes_on_through_rotations() {
        let folder = scratch("follow");
        let path = folder.join("log");
        let mut reader = LogReader::open(
            &path,
            ReadOptions {
                follow: true,
                ..everything()
            },
        )
        .unwrap();
        assert_eq!(reader.next_batch().unwrap(), Batch::Idle);
        let mut numbers = Vec::new();
        for round in 0..40 {
            write_numbers(&path, round * 25..round * 25 + 25, Some(1_000));
            numbers.extend(drain(&mut reader));
        }
        reader.stop_following();
        numbers.extend(drain(&mut reader));
        assert_eq!(reader.next_batch().unwrap(), Batch::End);
        assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn torn_and_corrupt_lines_cost_only_themselves() {
        let folder = scratch("torn");
        let path = folder.join("log");
        let line = |number: usize| {
            format!(
                "{{\"log\":\"{number}\\n\",\"stream\":\"stdout\",\"time\":\"{}\"}}\n",
                time(number)
            )
        };
        let mut seed: u64 = 7;
        let mut next = move || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize
        };
        for _ in 0..200 {
            let mut bytes = Vec::new();
            let mut good = Vec::new();
            for number in 0..20 {
                let text = line(number);
                match next() % 5 {
                    0 => bytes.extend_from_slice(&text.as_bytes()[next() % (text.len() - 1)..]),
                    1 => bytes.extend(
                        (0..next() % 50)
                            .map(|_| next() as u8)
                            .filter(|b| *b != b'\n')
                            .chain([b'\n']),
                    ),
                    _ => {
                        bytes.extend_from_slice(text.as_bytes());
                        good.push(number);
                    }
                }
            }
            bytes.extend_from_slice(&line(99).as_bytes()[..next() % 40]);
            std::fs::write(&path, &bytes).unwrap();
            // A cut at the very start of a line leaves it whole.
            let got = read(&path, everything());
            assert!(
                good.iter().all(|number| got.contains(number)),
                "{got:?} lacks some of {good:?}"
            );
            let _ = read(
                &path,
                ReadOptions {
                    tail: Some(next() % 30),
                    ..everything()
                },
            );
        }
        std::fs::write(
            &path,
            [
                vec![b'x'; 3 * LINE_BYTES_MAX],
                b"\n".to_vec(),
                line(5).into_bytes(),
            ]
            .concat(),
        )
        .unwrap();
        assert_eq!(read(&path, everything()), [5]);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
