use super::lines::{Line, LineCutter};
use super::*;

fn at() -> Timestamp {
    "2026-01-02T03:04:05.123456789Z".parse().unwrap()
}

fn line(text: &str) -> Line<'_> {
    Line {
        stream: Stream::Stdout,
        bytes: text.as_bytes(),
        time: at(),
        part: None,
    }
}

fn syslog(format: SyslogFormat) -> SyslogPlan {
    SyslogPlan {
        addresses: Vec::new(),
        facility: 3,
        format,
        hostname: "host".to_owned(),
        tag: "tag".to_owned(),
        tls: None,
    }
}

fn encoded(plan: &DriverPlan, text: &str) -> Vec<Vec<u8>> {
    let messages = plan.encode(&line(text)).into_iter();
    messages.map(|message| message.bytes).collect()
}

#[test]
fn lines_are_cut_at_their_ends_and_at_16_kib() {
    let mut cutter = LineCutter::default();
    let mut found = Vec::new();
    let mut take = |line: Line<'_>| found.push((line.bytes.to_vec(), line.part));
    cutter.cut(Stream::Stdout, b"one\ntw", at(), &mut take);
    cutter.cut(Stream::Stderr, b"err", at(), &mut take);
    cutter.cut(Stream::Stdout, b"o\n\n", at(), &mut take);
    cutter.cut(Stream::Stdout, &vec![b'x'; 16 * 1024 + 5], at(), &mut take);
    cutter.finish(at(), &mut take);
    let texts: Vec<&[u8]> = found.iter().map(|(bytes, _)| bytes.as_slice()).collect();
    assert_eq!(texts[..3], [b"one".as_slice(), b"two", b""]);
    let pieces: Vec<_> = found[3..5]
        .iter()
        .map(|(_, part)| part.clone().unwrap())
        .collect();
    assert_eq!((found[3].0.len(), found[4].0.len()), (16 * 1024, 5));
    assert_eq!(pieces[0].id, pieces[1].id);
    assert_eq!((pieces[0].ordinal, pieces[0].is_last), (1, false));
    assert_eq!((pieces[1].ordinal, pieces[1].is_last), (2, false));
    assert_eq!(texts[5], b"err");
}

#[test]
fn syslog_has_docker_s_four_forms() {
    let pid = std::process::id();
    for (format, expected) in [
        (
            SyslogFormat::Unix,
            format!("<30>Jan  2 03:04:05 tag[{pid}]: text\n"),
        ),
        (
            SyslogFormat::Rfc3164,
            format!("<30>Jan  2 03:04:05 host tag[{pid}]: text\n"),
        ),
        (
            SyslogFormat::Rfc5424,
            format!("<30>1 2026-01-02T03:04:05Z host tag {pid} tag - text\n"),
        ),
        (
            SyslogFormat::Rfc5424Micro,
            format!("<30>1 2026-01-02T03:04:05.123456Z host tag {pid} tag - text\n"),
        ),
    ] {
        let plan = DriverPlan::Syslog(syslog(format));
        assert_eq!(encoded(&plan, "text"), [expected.into_bytes()]);
    }
}

#[test]
fn gelf_is_chunked_when_it_is_long() {
    let plan = DriverPlan::Gelf(GelfPlan {
        address: Address::Udp("127.0.0.1:1".parse().unwrap()),
        compression: Compression::None,
        hostname: "host".to_owned(),
        fields: vec![("_tag".to_owned(), "t".to_owned())],
        reconnects_max: 3,
        reconnect_delay_ms: 1000,
    });
    assert!(encoded(&plan, "").is_empty());
    let whole = encoded(&plan, "short");
    let object: serde_json::Value = serde_json::from_slice(&whole[0]).unwrap();
    assert_eq!(object["short_message"], "short");
    assert_eq!(object["timestamp"], 1_767_323_045.123);
    let text = "y".repeat(4000);
    let chunks = encoded(&plan, &text);
    assert_eq!(chunks.len(), 3);
    for (number, chunk) in chunks.iter().enumerate() {
        assert!(chunk.len() <= 1420 && chunk.starts_with(&[0x1e, 0x0f]));
        assert_eq!((chunk[10], chunk[11]), (number as u8, 3));
    }
}

/// A receiver that is bound and never reads, then reads.
#[test]
fn a_receiver_that_rests_costs_what_the_mode_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let receiver = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let plan = |mode| ShipPlan {
        driver: DriverPlan::Syslog(SyslogPlan {
            addresses: vec![Address::UnixDatagram(path.clone())],
            ..syslog(SyslogFormat::Unix)
        }),
        mode,
    };
    let mut blocking = Shipper::open(plan(ShipMode::Blocking)).unwrap();
    let text = [b'z'; 1023];
    let mut written = 0;
    while !blocking.is_behind() {
        blocking.add(Stream::Stdout, &[&text[..], b"\n"].concat(), at());
        written += 1;
        assert!(written < 10_000, "it never holds the container back");
    }
    let mut lossy = Shipper::open(plan(ShipMode::NonBlocking { bytes_max: 10_000 })).unwrap();
    for _ in 0..1000 {
        lossy.add(Stream::Stdout, &[&text[..], b"\n"].concat(), at());
    }
    assert!(!lossy.is_behind() && lossy.queued_bytes <= 10_000 && lossy.lost > 900);
    receiver.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    let mut got = 0;
    while blocking.has_queue() || receiver.recv(&mut buffer).is_ok_and(|_| true) {
        got += usize::from(!blocking.has_queue());
        while receiver.recv(&mut buffer).is_ok() {
            got += 1;
        }
        blocking.turn();
    }
    assert!(got >= written - 1, "{got} of {written}");
    let mut last = Vec::new();
    while lossy.has_queue() {
        lossy.turn();
        while let Ok(count) = receiver.recv(&mut buffer) {
            last = buffer[..count].to_vec();
        }
    }
    let last = String::from_utf8_lossy(&last).into_owned();
    assert!(last.contains("messages were lost"), "{last}");
}

#[test]
fn a_stream_is_connected_anew_and_fluentd_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let plan = |is_async| ShipPlan {
        driver: DriverPlan::Fluentd(FluentdPlan {
            address: Address::UnixStream(path.clone()),
            tag: "t".to_owned(),
            fields: Vec::new(),
            is_async,
            retry_wait_ms: 1,
            retries_max: u32::MAX,
            is_precise: true,
            asks_for_ack: false,
        }),
        mode: ShipMode::Blocking,
    };
    assert!(Shipper::open(plan(false)).is_err());
    let mut shipper = Shipper::open(plan(true)).unwrap();
    shipper.add(Stream::Stdout, b"early\n", at());
    assert!(shipper.has_queue() && shipper.needs_timer());
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    while shipper.has_queue() {
        shipper.turn();
    }
    let (mut stream, _) = listener.accept().unwrap();
    let mut buffer = [0; 4096];
    let count = std::io::Read::read(&mut stream, &mut buffer).unwrap();
    let wire = &buffer[..count];
    assert!(wire.starts_with(b"\x94\xa1t\xd7\x00") && wire.windows(5).any(|window| window == b"early"));
}
