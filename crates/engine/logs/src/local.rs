//! The format of Docker's driver `local`: about half the size of json-file's, and every byte kept as it was written.
//!
//! ```text
//!  length (u32, big-endian) │ message (Protocol Buffers) │ length again, so that a file can be read backwards
//! ```
//! The message is Docker's `LogEntry`: `source` 1, `time_nano` 2, `line` 3 without its newline, `partial` 4 for a
//! message that no newline ends.

use crate::entry::{Entry, Stream};
use naru_base::Timestamp;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Longer messages are not ours: a message holds at most 16 KiB of output.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// A length before and one after.
pub const FRAME_BYTES: usize = 8;

/// Protocol Buffers: the field's number, then 0 for a varint or 2 for bytes with their length.
const SOURCE: u8 = 1 << 3 | 2;
const TIME: u8 = 2 << 3;
const LINE: u8 = 3 << 3 | 2;
const PARTIAL: u8 = 4 << 3;

/// Appends one message of the file.
pub fn append_record(out: &mut Vec<u8>, message: &[&[u8]], stream: Stream, time: Timestamp) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    append_bytes(out, SOURCE, &[stream.name().as_bytes()]);
    out.push(TIME);
    append_varint(
        out,
        i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX) as u64,
    );
    let is_whole = message.last().and_then(|part| part.last()) == Some(&b'\n');
    let mut parts = message.to_vec();
    if let Some(last) = parts.last_mut().filter(|_| is_whole) {
        *last = &last[..last.len() - 1];
    }
    append_bytes(out, LINE, &parts);
    if !is_whole {
        out.extend_from_slice(&[PARTIAL, 1]);
    }
    let length = ((out.len() - start - 4) as u32).to_be_bytes();
    out[start..start + 4].copy_from_slice(&length);
    out.extend_from_slice(&length);
}

fn append_bytes(out: &mut Vec<u8>, field: u8, parts: &[&[u8]]) {
    out.push(field);
    append_varint(out, parts.iter().map(|part| part.len() as u64).sum());
    for part in parts {
        out.extend_from_slice(part);
    }
}

fn append_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// What stands at the beginning of `bytes`.
#[derive(Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A message and the bytes it takes with its lengths.
    Whole(&'a [u8], usize),
    /// Its end has not been read.
    Unfinished,
    /// No record begins here, nor can the next one be found.
    Corrupt,
}

pub fn first_record(bytes: &[u8]) -> Record<'_> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return Record::Unfinished;
    };
    let size = u32::from_be_bytes(*length) as usize;
    if size == 0 || size > MESSAGE_BYTES_MAX {
        return Record::Corrupt;
    }
    if rest.len() < size + 4 {
        return Record::Unfinished;
    }
    if rest[size..size + 4] == *length {
        Record::Whole(&rest[..size], size + FRAME_BYTES)
    } else {
        Record::Corrupt
    }
}

/// Reads one message; `None` when it is not an entry.
pub fn parse_message(mut bytes: &[u8]) -> Option<Entry> {
    let (mut stream, mut time, mut line, mut is_partial) = (None, 0_u64, Vec::new(), false);
    while let Some((&field, rest)) = bytes.split_first() {
        let (number, rest) = take_varint(rest)?;
        bytes = rest;
        let wire_type = field & 7;
        let value = match wire_type {
            0 => &[],
            2 => {
                let (value, rest) = bytes.split_at_checked(usize::try_from(number).ok()?)?;
                bytes = rest;
                value
            }
            _ => return None,
        };
        match field {
            SOURCE if value == b"stdout" => stream = Some(Stream::Stdout),
            SOURCE if value == b"stderr" => stream = Some(Stream::Stderr),
            TIME => time = number,
            LINE => line = value.to_vec(),
            PARTIAL => is_partial = number != 0,
            // Docker's own: where a partial message belongs. Nobody here asks.
            _ => {}
        }
    }
    if !is_partial {
        line.push(b'\n');
    }
    let nanoseconds = time as i64;
    Some(Entry {
        stream: stream?,
        time: Timestamp::from_parts(
            nanoseconds.div_euclid(1_000_000_000),
            nanoseconds.rem_euclid(1_000_000_000) as i32,
        ),
        bytes: line,
    })
}

fn take_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0_u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        number |= u64::from(byte & 0x7f).checked_shl(index as u32 * 7)?;
        if byte & 0x80 == 0 {
            return Some((number, &bytes[index + 1..]));
        }
    }
    None
}

/// Where the last record of the first `end` bytes begins; `None` where no whole one ends there.
pub fn last_record(file: &File, end: u64) -> Option<u64> {
    let length_at = |offset: u64| {
        let mut length = [0; 4];
        file.read_exact_at(&mut length, offset).ok()?;
        Some(u64::from(u32::from_be_bytes(length)))
    };
    let length = length_at(end.checked_sub(4)?)?;
    let start = end.checked_sub(length.checked_add(FRAME_BYTES as u64)?)?;
    (length > 0 && length <= MESSAGE_BYTES_MAX as u64 && length_at(start)? == length).then_some(start)
}

/// Whether the file's first `size` bytes end with a whole record.
pub fn ends_whole(file: &File, size: u64) -> bool {
    size == 0 || last_record(file, size).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_byte_for_byte() {
        let time: Timestamp = "2026-01-02T03:04:05.000000006Z".parse().unwrap();
        let messages: [(&[&[u8]], &[u8]); 4] = [
            (&[b"hello\n"], b"hello\n"),
            (&[b"two \xff", b"parts\n"], b"two \xffparts\n"),
            (&[b"no end"], b"no end"),
            (&[b"\n"], b"\n"),
        ];
        for (parts, whole) in messages {
            let mut out = Vec::new();
            append_record(&mut out, parts, Stream::Stderr, time);
            let Record::Whole(message, size) = first_record(&out) else {
                panic!("{out:?}");
            };
            assert_eq!(size, out.len());
            let entry = parse_message(message).unwrap();
            assert_eq!(
                (entry.stream, entry.time, entry.bytes.as_slice()),
                (Stream::Stderr, time, whole)
            );
            assert_eq!(first_record(&out[..out.len() - 1]), Record::Unfinished);
        }
    }

    #[test]
    fn a_message_written_by_docker_is_read() {
        // Source "stdout", time 1, line "hi", partial with its metadata (field 5).
        let bytes = b"\x0a\x06stdout\x10\x01\x1a\x02hi\x20\x01\x2a\x02\x08\x01";
        let entry = parse_message(bytes).unwrap();
        assert_eq!(
            (entry.stream, entry.bytes.as_slice()),
            (Stream::Stdout, &b"hi"[..])
        );
        assert_eq!(entry.time.as_nanosecond(), 1);
    }
}
