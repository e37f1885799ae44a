//! Log files with anything in them: read to their end, whatever it is.

use naru_fuzz::feed;
use naru_logs::{Batch, Entry, Format, LogReader, LogWriter, ReadOptions, Rotation, Stream};

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
fn files_of_json() {
    feed_files(Format::JsonFile, &[LINES, &LINES.repeat(40), b""]);
}

#[test]
fn files_of_records() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let rotation = Rotation {
        bytes_max: None,
        files_max: 1,
        compress: false,
    };
    let mut log = LogWriter::open(&path, Format::Local, rotation).unwrap();
    log.add(Stream::Stdout, b"one\ntwo\n", naru_base::Timestamp::now());
    log.add(Stream::Stderr, b"no end", naru_base::Timestamp::now());
    log.finish().unwrap();
    let whole = std::fs::read(&path).unwrap();
    feed_files(Format::Local, &[&whole, &whole.repeat(30)]);
}

fn feed_files(format: Format, examples: &[&[u8]]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    feed(examples, |bytes| {
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
            let mut reader = LogReader::open(&path, format, options).unwrap();
            let mut count = 0;
            while let Batch::Entries(entries) = reader.next_batch().unwrap() {
                count += entries.len();
            }
            assert!(count <= bytes.len() && tail.is_none_or(|tail| count <= tail + 1));
        }
    });
}

#[test]
fn files_that_claim_to_be_compressed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    std::fs::write(&path, b"").unwrap();
    let mut encoder = flate2::GzBuilder::new()
        .comment("naru 1 2 3 4")
        .write(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &LINES.repeat(10)).unwrap();
    let compressed = encoder.finish().unwrap();
    feed(&[&compressed], |bytes| {
        std::fs::write(folder.path().join("log.1.gz"), bytes).unwrap();
        let options = ReadOptions {
            stdout: true,
            stderr: true,
            tail: bytes.first().map(|byte| usize::from(*byte)),
            since: None,
            until: None,
            follow: false,
        };
        // Damage may be an error, never more.
        if let Ok(mut reader) = LogReader::open(&path, Format::JsonFile, options) {
            while let Ok(Batch::Entries(_)) = reader.next_batch() {}
        }
    });
}
