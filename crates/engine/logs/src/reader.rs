//! The reading side: the last messages, a span of time, and what is still to come, across rotated files.
//!
//! A reader never waits, and nobody waits for it. At the end of what there is it answers [`Batch::Idle`] (when
//! following) or, at the end of what there was when it was opened, [`Batch::End`]; the caller decides when to look again.
//! Messages that are no entries, torn ones included, are skipped. A reader so slow that files were rotated away before it
//! came to them says how much it missed.

use crate::entry::{Entry, Stream};
use crate::file::LogFile;
use crate::format::{Cutter, Format};
use crate::rotate::{compressed_path, rotated_path};
use naru_base::Timestamp;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

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
    format: Format,
    options: ReadOptions,
    /// Oldest first; the last one is, or was when looked at, the one being written.
    files: VecDeque<LogFile>,
    /// Opened without following: a writer quicker than the reader would otherwise keep it for ever.
    ends_where_opened: bool,
    cutter: Cutter,
    is_ended: bool,
}

impl LogReader {
    /// Opens the log at `path` with its rotated files. A log that does not exist is an empty one.
    pub fn open(path: &Path, format: Format, options: ReadOptions) -> io::Result<Self> {
        let mut reader = Self {
            path: path.to_owned(),
            format,
            ends_where_opened: !options.follow,
            options,
            files: VecDeque::new(),
            cutter: Cutter::new(format),
            is_ended: false,
        };
        reader.files = reader.open_since(None)?.0;
        if let Some(lines) = reader.options.tail {
            reader.seek_tail(lines)?;
        }
        if reader.ends_where_opened
            && let Some(last) = reader.files.back_mut()
        {
            last.end_here()?;
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
            if !was_read && entries.is_empty() && !self.advance(&mut entries)? {
                break;
            }
            if !entries.is_empty() {
                return Ok(Batch::Entries(entries));
            }
        }
        if self.options.follow && !self.is_ended {
            return Ok(Batch::Idle);
        }
        if !self.is_ended {
            self.finish_file(&mut entries);
        }
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
        let block = current.read()?;
        if block.is_empty() {
            if current.step_back()? {
                self.cutter.reset();
            }
            return Ok(false);
        }
        let (options, is_ended) = (&self.options, &mut self.is_ended);
        let skip = &mut current.skip;
        self.cutter
            .push(&block, &mut |entry| take(options, entry, skip, is_ended, entries));
        Ok(true)
    }

    /// At the last end of a file.
    fn finish_file(&mut self, entries: &mut Vec<Entry>) {
        let (options, is_ended) = (&self.options, &mut self.is_ended);
        let mut skip = 0;
        self.cutter
            .finish(&mut |entry| take(options, entry, &mut skip, is_ended, entries));
    }

    /// At the end of a file: goes to the next one, or looks for those that a rotation has made. `false` when there is
    /// nothing more to read now.
    fn advance(&mut self, entries: &mut Vec<Entry>) -> io::Result<bool> {
        if self.files.len() < 2 {
            if self.ends_where_opened {
                return Ok(false);
            }
            let (mut newer, missed) = self.open_since(self.files.front())?;
            if newer.is_empty() {
                return Ok(false);
            }
            // What is missing lies between this file's end and the oldest that is left.
            if let Some(missed) = missed {
                entries.extend(self.note_of_missed(missed));
            }
            self.files.append(&mut newer);
            // The present file may have grown between its end being read and its being renamed.
            return Ok(true);
        }
        if self.files[0].has_more()? {
            return Ok(true);
        }
        self.files.pop_front();
        self.cutter.reset();
        Ok(true)
    }

    /// Opens the files newer than `current`, oldest first; all of them when it is not among them, and then tells how many
    /// bytes are missing between it and them: `None` for none, 0 where that is not known.
    ///
    /// The writer may rename while we look, once or several times. Files are opened from the newest on, and only ever move
    /// to higher numbers: one that has moved is met again and left out. Where one is newer than those found, the log has
    /// gone on by several files meanwhile: those found are older then, and are met again if they are still kept.
    fn open_since(&self, current: Option<&LogFile>) -> io::Result<(VecDeque<LogFile>, Option<u64>)> {
        let mut files: VecDeque<LogFile> = VecDeque::new();
        let mut was_missing = false;
        for number in 0..u32::MAX {
            let Some(file) = self.open_numbered(number)? else {
                // A rotation leaves one number free at a time: that of the file it has just renamed.
                if was_missing {
                    break;
                }
                was_missing = true;
                continue;
            };
            was_missing = false;
            if current.is_some_and(|current| current.is(&file)) {
                return Ok((files, None));
            }
            if files.iter().any(|other| other.is(&file)) {
                continue;
            }
            if files
                .front()
                .is_some_and(|found| found.bytes_before() < file.bytes_before())
            {
                files.clear();
            }
            files.push_front(file);
        }
        let missed = match (current, files.front()) {
            (Some(current), Some(oldest)) => missed_between(current, oldest)?,
            _ => None,
        };
        Ok((files, missed))
    }

    fn open_numbered(&self, number: u32) -> io::Result<Option<LogFile>> {
        if number == 0 {
            return LogFile::open(&self.path);
        }
        match LogFile::open(&rotated_path(&self.path, number))? {
            None => LogFile::open_compressed(&compressed_path(&self.path, number)),
            file => Ok(file),
        }
    }

    fn note_of_missed(&self, bytes: u64) -> Option<Entry> {
        if !self.options.stdout && !self.options.stderr {
            return None;
        }
        let count = if bytes == 0 {
            "some".to_owned()
        } else {
            format!("{bytes} bytes")
        };
        Some(Entry {
            stream: if self.options.stderr {
                Stream::Stderr
            } else {
                Stream::Stdout
            },
            time: Timestamp::now(),
            bytes: format!("naru: {count} of this log were rotated away before they were read here\n")
                .into_bytes(),
        })
    }

    /// Moves to the beginning of the last `lines` lines.
    fn seek_tail(&mut self, lines: usize) -> io::Result<()> {
        let mut missing = lines;
        for index in (0..self.files.len()).rev() {
            missing -= self.files[index].seek_tail(self.format, missing)?;
            if missing == 0 {
                self.files.drain(..index);
                break;
            }
        }
        Ok(())
    }
}

/// Keeps an entry that was asked for.
fn take(
    options: &ReadOptions,
    entry: Option<Entry>,
    skip: &mut usize,
    is_ended: &mut bool,
    entries: &mut Vec<Entry>,
) {
    if *skip > 0 {
        *skip -= 1;
        return;
    }
    let Some(entry) = entry.filter(|_| !*is_ended) else {
        return;
    };
    if options.until.is_some_and(|until| entry.time > until) {
        *is_ended = true;
        return;
    }
    let is_wanted = match entry.stream {
        Stream::Stdout => options.stdout,
        Stream::Stderr => options.stderr,
    };
    if is_wanted && options.since.is_none_or(|since| entry.time >= since) {
        entries.push(entry);
    }
}

/// Bytes of the log between the end of `current`, which has been renamed and no longer grows, and the beginning of
/// `oldest`. What is left to read of `current` is not missing.
fn missed_between(current: &LogFile, oldest: &LogFile) -> io::Result<Option<u64>> {
    // Only a log that was never rotated has a file that does not know.
    let end = current.bytes_before().unwrap_or(0) + current.end()?;
    Ok(match oldest.bytes_before() {
        Some(before) => Some(before.saturating_sub(end)).filter(|missed| *missed > 0),
        None => Some(0),
    })
}

#[cfg(test)]
mod tests;
