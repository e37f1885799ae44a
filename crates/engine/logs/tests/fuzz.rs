//! Log files with anything in them: read to their end, whatever it is.

use naru_fuzz::feed;
use naru_logs::{Batch, Entry, LogReader, ReadOptions};

const LINES: &[u8] = b"{\"log\":\"hello\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-02T03:04:05.000000006Z\"}\n{\"log\":\"\\u003ca\\ud83d\\ude00\",\"stream\":\"stderr\",\"time\":\"2026-01-02T03:04:05Z\"}\n";

#[test]
fn lines() {
    feed(
        &[LINES.split(|byte| *byte == b'\n').next().unwrap(), b"{}"],
        |line| {
            let _ = Entry::parse(line);
        },
    );
}

#[test]
fn files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    feed(&[LINES, &LINES.repeat(40), b""], |bytes| {
        std::fs::write(&path, bytes).unwrap();
        for tail in [None, Some(0), Some(1), Some(1000)] {
            let options = ReadOptions {
                stdout: true,
                stderr: true,
                tail,
                since: None,
                until: None,
                follow: false,
            };
            let mut reader = LogReader::open(&path, options).unwrap();
            let mut count = 0;
            while let Batch::Entries(entries) = reader.next_batch().unwrap() {
                count += entries.len();
            }
            assert!(count <= bytes.len() && tail.is_none_or(|tail| count <= tail + 1));
        }
    });
}
