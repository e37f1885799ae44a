use super::*;

const TIME: &str = "2026-01-02T03:04:05.000000006Z";

fn scratch(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("naru-logs-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).unwrap();
    folder
}

fn now() -> Timestamp {
    TIME.parse().unwrap()
}

fn unlimited() -> Rotation {
    Rotation {
        bytes_max: None,
        files_max: 1,
        compress: false,
    }
}

#[test]
fn a_line_looks_as_dockers() {
    let folder = scratch("line");
    let mut log = LogWriter::open(&folder.join("log"), Format::JsonFile, unlimited()).unwrap();
    log.add(Stream::Stdout, b"hel", now());
    log.add(Stream::Stderr, b"oops\n", now());
    log.add(Stream::Stdout, b"lo\nrest", now());
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
    let mut log = LogWriter::open(&folder.join("log"), Format::JsonFile, unlimited()).unwrap();
    for _ in 0..40 {
        log.add(Stream::Stdout, &[b'x'; 1000], now());
    }
    log.add(Stream::Stdout, b"\n", now());
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
        Format::JsonFile,
        Rotation {
            bytes_max: Some(1000),
            files_max: 3,
            compress: false,
        },
    )
    .unwrap();
    for number in 0..100 {
        log.add(Stream::Stdout, format!("line {number}\n").as_bytes(), now());
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

#[test]
fn full_files_are_compressed_a_slice_at_a_time() {
    let folder = scratch("compress");
    let path = folder.join("log");
    let rotation = Rotation {
        bytes_max: Some(100_000),
        files_max: 4,
        compress: true,
    };
    for format in [Format::JsonFile, Format::Local] {
        let mut log = LogWriter::open(&path, format, rotation).unwrap();
        for number in 0..20_000 {
            log.add(Stream::Stdout, format!("line {number}\n").as_bytes(), now());
            if number % 100 == 0 {
                log.flush().unwrap();
            }
        }
        log.flush().unwrap();
        log.flush().unwrap();
        log.finish().unwrap();
        let mut names: Vec<String> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["log", "log.1.gz", "log.2.gz", "log.3.gz"], "{format:?}");
        for name in names {
            std::fs::remove_file(folder.join(name)).unwrap();
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_torn_record_is_taken_back_before_the_next() {
    let folder = scratch("torn-record");
    let path = folder.join("log");
    let mut log = LogWriter::open(&path, Format::Local, unlimited()).unwrap();
    log.add(Stream::Stdout, b"whole\n", now());
    log.finish().unwrap();
    let whole = std::fs::read(&path).unwrap();
    for torn in [&whole[..3], &whole[..whole.len() - 1], b"\xff\xff\xff\xff\0\0"] {
        std::fs::write(&path, [whole.as_slice(), torn].concat()).unwrap();
        let mut log = LogWriter::open(&path, Format::Local, unlimited()).unwrap();
        log.add(Stream::Stdout, b"whole\n", now());
        log.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole.repeat(2));
        std::fs::write(&path, &whole).unwrap();
    }
    std::fs::remove_dir_all(folder).unwrap();
}
