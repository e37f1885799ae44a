//! The two formats, behind one way to write a message and one way to find messages in what is read.

use crate::encode::append_line;
use crate::entry::{Entry, Stream};
use crate::local::{self, Record, append_record};
use naru_base::Timestamp;
use serde::{Deserialize, Serialize};

/// How messages look in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Docker's driver `json-file`: one JSON object a line.
    JsonFile,
    /// Docker's driver `local`: see [`crate::local`].
    Local,
}

impl Format {
    /// Appends one message, in parts.
    pub(crate) fn append(self, out: &mut Vec<u8>, message: &[&[u8]], stream: Stream, time: Timestamp) {
        match self {
            Self::JsonFile => append_line(out, message, stream.name(), &time.to_string()),
            Self::Local => append_record(out, message, stream, time),
        }
    }
}

/// A JSON line longer than this is not ours: the longest message is 16 KiB and no byte of it takes more than six.
pub(crate) const LINE_BYTES_MAX: usize = 256 * 1024;

/// Finds messages in blocks of a file, however they are cut.
#[derive(Debug)]
pub(crate) struct Cutter {
    format: Format,
    /// The beginning of a message whose end has not been read.
    carry: Vec<u8>,
    /// The line in `carry` is too long, or the file is corrupt from here on; what follows is skipped.
    is_skipping: bool,
}

impl Cutter {
    pub fn new(format: Format) -> Self {
        Self {
            format,
            carry: Vec::new(),
            is_skipping: false,
        }
    }

    /// Starts anew, at the beginning of a message.
    pub fn reset(&mut self) {
        self.carry.clear();
        self.is_skipping = false;
    }

    /// Hands every message that ends in `block` to `take`; `None` is one that is no entry.
    pub fn push(&mut self, block: &[u8], take: &mut dyn FnMut(Option<Entry>)) {
        match self.format {
            Format::JsonFile => self.push_lines(block, take),
            Format::Local => self.push_records(block, take),
        }
    }

    /// A last line without a newline still counts when it is a whole entry.
    pub fn finish(&mut self, take: &mut dyn FnMut(Option<Entry>)) {
        if self.format == Format::JsonFile && !self.carry.is_empty() && !self.is_skipping {
            take(Entry::parse(&self.carry));
        }
        self.reset();
    }

    fn push_lines(&mut self, block: &[u8], take: &mut dyn FnMut(Option<Entry>)) {
        for piece in block.split_inclusive(|&byte| byte == b'\n') {
            if !self.is_skipping {
                self.carry.extend_from_slice(piece);
            }
            if piece.last() == Some(&b'\n') {
                take(
                    Some(&self.carry)
                        .filter(|_| !self.is_skipping)
                        .and_then(|line| Entry::parse(line)),
                );
                self.reset();
            } else if self.carry.len() > LINE_BYTES_MAX {
                self.carry = Vec::new();
                self.is_skipping = true;
            }
        }
    }

    fn push_records(&mut self, block: &[u8], take: &mut dyn FnMut(Option<Entry>)) {
        if self.is_skipping {
            return;
        }
        self.carry.extend_from_slice(block);
        let mut used = 0;
        loop {
            match local::first_record(&self.carry[used..]) {
                Record::Whole(message, size) => {
                    take(local::parse_message(message));
                    used += size;
                }
                Record::Unfinished => break,
                Record::Corrupt => {
                    self.is_skipping = true;
                    used = self.carry.len();
                    break;
                }
            }
        }
        drop(self.carry.drain(..used));
    }
}
