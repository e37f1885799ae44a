use super::*;
use crate::format::LINE_BYTES_MAX;
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
        Format::JsonFile,
        Rotation {
            bytes_max,
            files_max: 5,
            compress: false,
        },
    )
    .unwrap();
    for number in numbers {
        log.add(
            Stream::Stdout,
            format!("{number}\n").as_bytes(),
            time(number).parse().unwrap(),
        );
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
    drain(&mut LogReader::open(path, Format::JsonFile, options).unwrap())
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
        Format::JsonFile,
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

/// Everything that a reader of each kind must still hold, in both formats, plain and compressed.
#[test]
fn every_form_reads_the_same() {
    let folder = scratch("forms");
    for (index, (format, compress)) in [
        (Format::JsonFile, true),
        (Format::Local, false),
        (Format::Local, true),
    ]
    .into_iter()
    .enumerate()
    {
        let path = folder.join(format!("log{index}"));
        let rotation = Rotation {
            bytes_max: Some(40_000),
            files_max: 4,
            compress,
        };
        let following = ReadOptions {
            follow: true,
            ..everything()
        };
        let mut slow_reader = LogReader::open(&path, format, following).unwrap();
        let mut seen = Vec::new();
        let mut log = LogWriter::open(&path, format, rotation).unwrap();
        for number in 0..4000 {
            log.add(
                Stream::Stdout,
                format!("{number}\n").as_bytes(),
                time(number).parse().unwrap(),
            );
            if number % 50 == 0 {
                log.flush().unwrap();
                seen.extend(drain(&mut slow_reader));
            }
        }
        log.flush().unwrap();
        log.finish().unwrap();
        slow_reader.stop_following();
        seen.extend(drain(&mut slow_reader));
        assert_eq!(seen, (0..4000).collect::<Vec<_>>(), "{format:?} {compress}");
        let all = drain(&mut LogReader::open(&path, format, everything()).unwrap());
        assert!(
            all.len() > 1000 && *all.last().unwrap() == 3999,
            "{format:?} {compress}"
        );
        let gaps: Vec<_> = all.windows(2).filter(|pair| pair[1] != pair[0] + 1).collect();
        assert!(gaps.is_empty(), "{format:?} {compress}: {gaps:?}");
        for lines in [0, 1, 50, 900, all.len() - 1, all.len(), all.len() + 1] {
            let options = ReadOptions {
                tail: Some(lines),
                ..everything()
            };
            let got = drain(&mut LogReader::open(&path, format, options).unwrap());
            assert_eq!(
                got,
                all[all.len().saturating_sub(lines)..],
                "{format:?} {compress} tail {lines}"
            );
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_reader_that_was_too_slow_is_told_how_much_it_missed() {
    let folder = scratch("slow");
    for compress in [false, true] {
        let path = folder.join(format!("log-{compress}"));
        let rotation = Rotation {
            bytes_max: Some(10_000),
            files_max: 2,
            compress,
        };
        let mut log = LogWriter::open(&path, Format::JsonFile, rotation).unwrap();
        let mut write = |from: usize, to: usize| {
            for number in from..to {
                log.add(
                    Stream::Stdout,
                    format!("{number:06}\n").as_bytes(),
                    time(number).parse().unwrap(),
                );
                if number % 20 == 0 {
                    log.flush().unwrap();
                }
            }
            log.flush().unwrap();
        };
        write(0, 10);
        let options = ReadOptions {
            follow: true,
            ..everything()
        };
        let mut reader = LogReader::open(&path, Format::JsonFile, options).unwrap();
        let Batch::Entries(first) = reader.next_batch().unwrap() else {
            panic!("nothing was written");
        };
        let line_bytes = std::fs::metadata(&path).unwrap().len() / first.len() as u64;
        write(10, 1000);
        let (mut missed, mut got) = (0, first.len() as u64);
        while let Batch::Entries(entries) = reader.next_batch().unwrap() {
            for entry in entries {
                let text = String::from_utf8(entry.bytes).unwrap();
                match text.strip_prefix("naru: ") {
                    Some(told) => missed += told.split(' ').next().unwrap().parse::<u64>().unwrap(),
                    None => got += 1,
                }
            }
        }
        assert!(missed > 0);
        assert_eq!(missed, (1000 - got) * line_bytes, "compress {compress}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// Lines of one length each, so that bytes can be counted by lines.
fn write_lines(log: &mut LogWriter, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let text = format!("{number:06}\n");
        log.add(Stream::Stdout, text.as_bytes(), time(0).parse().unwrap());
        if number % 20 == 0 {
            log.flush().unwrap();
        }
    }
    log.flush().unwrap();
}

/// Sorts what was read into the numbers and the bytes that are told to be missing.
fn sort_read(entries: Vec<Entry>, numbers: &mut Vec<usize>, missed: &mut usize) {
    for entry in entries {
        let text = String::from_utf8(entry.bytes).unwrap();
        match text.strip_prefix("naru: ") {
            Some(told) => *missed += told.split(' ').next().unwrap().parse::<usize>().unwrap(),
            None => numbers.push(text.trim().parse().unwrap()),
        }
    }
}

fn following() -> ReadOptions {
    ReadOptions {
        follow: true,
        ..everything()
    }
}

#[test]
fn what_came_between_the_end_of_a_file_and_its_renaming_is_read_and_not_told_missing() {
    let folder = scratch("grown");
    let path = folder.join("log");
    let rotation = Rotation {
        bytes_max: Some(10_000),
        files_max: 2,
        compress: false,
    };
    let mut log = LogWriter::open(&path, Format::JsonFile, rotation).unwrap();
    write_lines(&mut log, 0..10);
    let line_bytes = usize::try_from(std::fs::metadata(&path).unwrap().len()).unwrap() / 10;
    let mut reader = LogReader::open(&path, Format::JsonFile, following()).unwrap();
    let (mut numbers, mut missed, mut entries) = (Vec::new(), 0, Vec::new());
    assert!(reader.read_block(&mut entries).unwrap() && !reader.read_block(&mut entries).unwrap());
    write_lines(&mut log, 10..1000);
    assert!(reader.advance(&mut entries).unwrap());
    sort_read(entries, &mut numbers, &mut missed);
    while let Batch::Entries(entries) = reader.next_batch().unwrap() {
        sort_read(entries, &mut numbers, &mut missed);
    }
    assert!(numbers.len() < 1000 && numbers.is_sorted());
    assert_eq!(missed, (1000 - numbers.len()) * line_bytes);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn who_does_not_follow_reads_what_was_there_when_it_came() {
    let folder = scratch("snapshot");
    let path = folder.join("log");
    let rotation = Rotation {
        bytes_max: Some(10_000),
        files_max: 50,
        compress: false,
    };
    let mut log = LogWriter::open(&path, Format::JsonFile, rotation).unwrap();
    write_lines(&mut log, 0..250);
    let tail = ReadOptions {
        tail: Some(5),
        ..everything()
    };
    let mut readers =
        [everything(), tail].map(|options| LogReader::open(&path, Format::JsonFile, options).unwrap());
    // The file grows, and is rotated.
    write_lines(&mut log, 250..1000);
    assert_eq!(drain(&mut readers[0]), (0..250).collect::<Vec<_>>());
    assert_eq!(drain(&mut readers[1]), (245..250).collect::<Vec<_>>());
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_reader_beside_a_quick_writer_keeps_the_order_and_the_count() {
    let folder = scratch("quick");
    let (count, rounds) = (10_000, [(2, false), (2, true), (5, false)]);
    for (files_max, compress) in rounds {
        let path = folder.join(format!("log-{files_max}-{compress}"));
        let rotation = Rotation {
            bytes_max: Some(2_000),
            files_max,
            compress,
        };
        let mut log = LogWriter::open(&path, Format::JsonFile, rotation).unwrap();
        write_lines(&mut log, 0..1);
        let line_bytes = usize::try_from(std::fs::metadata(&path).unwrap().len()).unwrap();
        let mut reader = LogReader::open(&path, Format::JsonFile, following()).unwrap();
        let writer = std::thread::spawn(move || write_lines(&mut log, 1..count));
        let (mut numbers, mut missed) = (Vec::new(), 0);
        loop {
            let is_last = writer.is_finished();
            match reader.next_batch().unwrap() {
                Batch::Entries(entries) => sort_read(entries, &mut numbers, &mut missed),
                _ if is_last => break,
                _ => std::thread::yield_now(),
            }
        }
        writer.join().unwrap();
        let is_in_order = numbers.windows(2).all(|pair| pair[0] < pair[1]);
        assert!(
            is_in_order && numbers.last() == Some(&(count - 1)),
            "{files_max} {compress}"
        );
        assert_eq!(
            missed,
            (count - numbers.len()) * line_bytes,
            "{files_max} {compress}"
        );
    }
    std::fs::remove_dir_all(folder).unwrap();
}
