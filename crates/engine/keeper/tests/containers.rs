//! Whole containers through the keeper's protocol: a real spawner, real keepers, busybox as the image.
//!
//! Needs root, cgroups and a static busybox at /bin/busybox; without them it says so and passes. Everything it makes
//! lies below one temporary folder and one cgroup.

mod world;

use naru_keeper::cause::{EndCause, Requester, SignalSender};
use naru_keeper::protocol::{AttachOptions, Event, KeeperState, Reply, Request, Target};
use naru_logs::Stream;
use naru_runtime::plan::StartFailureKind;
use std::io::{Read, Write};
use std::time::{Duration, Instant};
use world::{Container, Options, World, demultiplex, seq_text, wait_until};

/// A promise and the function that checks it.
type Test = (&'static str, fn(&World));

const TESTS: &[Test] = &[
    (
        "exit_codes_and_signals_are_recorded",
        exit_codes_and_signals_are_recorded,
    ),
    (
        "output_reaches_log_and_client_whole",
        output_reaches_log_and_client_whole,
    ),
    (
        "standard_input_makes_the_round_trip",
        standard_input_makes_the_round_trip,
    ),
    ("a_terminal_resizes_and_detaches", a_terminal_resizes_and_detaches),
    ("an_exec_has_its_own_streams", an_exec_has_its_own_streams),
    ("a_slow_client_loses_nothing", a_slow_client_loses_nothing),
    (
        "a_client_that_is_gone_holds_nothing_back",
        a_client_that_is_gone_holds_nothing_back,
    ),
    (
        "a_second_daemon_finds_the_keeper",
        a_second_daemon_finds_the_keeper,
    ),
    (
        "a_parked_keeper_ends_with_its_daemon",
        a_parked_keeper_ends_with_its_daemon,
    ),
    (
        "a_start_that_fails_ends_the_keeper",
        a_start_that_fails_ends_the_keeper,
    ),
    (
        "a_container_outlives_its_spawner",
        a_container_outlives_its_spawner,
    ),
    ("an_idle_keeper_is_small", an_idle_keeper_is_small),
    ("hot_runs_are_fast", hot_runs_are_fast),
];

fn main() {
    if std::env::args().nth(1).as_deref() == Some("--spawner") {
        world::become_spawner();
    }
    let filter = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'))
        .unwrap_or_default();
    if !world::is_possible() {
        println!("skipped: needs root and /bin/busybox");
        return;
    }
    for (name, test) in TESTS.iter().filter(|(name, _)| name.contains(&filter)) {
        let begin = Instant::now();
        test(&World::new());
        println!("test {name} ... ok ({} ms)", begin.elapsed().as_millis());
    }
}

fn output_only() -> AttachOptions {
    AttachOptions {
        stdin: false,
        stdout: true,
        stderr: true,
        detach_keys: Vec::new(),
    }
}

fn with_input() -> AttachOptions {
    AttachOptions {
        stdin: true,
        ..output_only()
    }
}

fn exit_codes_and_signals_are_recorded(world: &World) {
    for (script, code, signal) in [
        ("exit 0", 0, None),
        ("exit 7", 7, None),
        ("kill -9 $$; exit 6", 6, None),
    ] {
        let mut container = world.start(&["sh", "-c", script], &Options::default());
        let record = container.wait();
        assert_eq!((record.exit_code, record.signal), (code, signal), "{script}");
    }
    let mut container = world.start(&["sleep", "100"], &Options::default());
    assert!(matches!(
        container.ask(&Request::Signal {
            target: Target::Init,
            signal: 9,
            reason: Requester::KillRequest.into(),
        }),
        Reply::Done
    ));
    let record = container.wait();
    assert_eq!((record.exit_code, record.signal), (137, Some(9)));
    let cause = record.report.unwrap().cause;
    let by_request = matches!(&cause, EndCause::Signaled { sender: SignalSender::Naru(sent), .. }
        if sent.reason.by == Requester::KillRequest);
    assert!(by_request, "{cause:?}");
    assert!(!record.oom_killed);
}

fn output_reaches_log_and_client_whole(world: &World) {
    let options = Options {
        attached: vec![output_only(), output_only()],
        ..Options::default()
    };
    let mut container = world.start(&["sh", "-c", "seq 1 150000; echo done >&2; exit 3"], &options);
    let clients: Vec<_> = container
        .clients
        .drain(..)
        .map(|mut client| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                client.read_to_end(&mut bytes).unwrap();
                demultiplex(&bytes)
            })
        })
        .collect();
    assert_eq!(container.wait().exit_code, 3);
    let expected = seq_text(150_000);
    for client in clients {
        let (stdout, stderr) = client.join().unwrap();
        assert!(stdout == expected, "{} of {} bytes", stdout.len(), expected.len());
        assert_eq!(stderr, b"done\n");
    }
    assert!(container.logged(Stream::Stdout) == expected);
    assert_eq!(container.logged(Stream::Stderr), b"done\n");
}

fn standard_input_makes_the_round_trip(world: &World) {
    let options = Options {
        attached: vec![with_input()],
        open_stdin: true,
        stdin_once: true,
        ..Options::default()
    };
    let mut container = world.start(&["cat"], &options);
    let mut client = container.clients.pop().unwrap();
    let mut sender = client.try_clone().unwrap();
    let text = seq_text(100_000);
    let sent = text.clone();
    let sending = std::thread::spawn(move || {
        sender.write_all(&sent).unwrap();
        sender.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    sending.join().unwrap();
    assert!(demultiplex(&bytes).0 == text);
    assert_eq!(container.wait().exit_code, 0);
}

fn a_terminal_resizes_and_detaches(world: &World) {
    let keys = AttachOptions {
        detach_keys: vec![16, 17],
        ..with_input()
    };
    let options = Options {
        attached: vec![keys.clone()],
        open_stdin: true,
        terminal: true,
        ..Options::default()
    };
    let mut container = world.start(&["sh"], &options);
    let mut client = container.clients.pop().unwrap();
    client.write_all(b"stty size; echo first-$((1+1))\n").unwrap();
    let text = world::read_until(&mut client, "first-2");
    assert!(text.contains("24 80"), "{text}");
    let resize = Request::Resize {
        target: Target::Init,
        rows: 50,
        columns: 132,
    };
    assert!(matches!(container.ask(&resize), Reply::Done));
    client.write_all(b"stty size\n").unwrap();
    world::read_until(&mut client, "50 132");
    client.write_all(b"\x10").unwrap();
    client.write_all(b"\x11").unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert!(matches!(container.event(), Event::Detached { ordinal: 0 }));
    let mut again = container.attach(keys);
    again.write_all(b"exit 5\n").unwrap();
    again.read_to_end(&mut rest).unwrap();
    assert_eq!(container.wait().exit_code, 5);
}

fn an_exec_has_its_own_streams(world: &World) {
    let mut container = world.start(&["sleep", "100"], &Options::default());
    let (exec, mut client) = container.exec(&["sh", "-c", "cat; echo err >&2; exit 4"], with_input());
    client.write_all(b"to the exec\n").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    assert_eq!(
        demultiplex(&bytes),
        (b"to the exec\n".to_vec(), b"err\n".to_vec())
    );
    match container.event() {
        Event::ExecExited {
            exec: ended,
            exit_code,
        } => assert_eq!((ended, exit_code), (exec.clone(), 4)),
        other => panic!("{other:?}"),
    }
    let Reply::Status(status) = container.ask(&Request::Status) else {
        panic!("no status")
    };
    assert_eq!(
        (status.execs[0].exec.clone(), status.execs[0].exit_code),
        (exec, Some(4))
    );
    let (_, mut last) = container.exec(&["sleep", "100"], output_only());
    container.kill();
    last.read_to_end(&mut bytes).unwrap();
    assert_eq!(container.wait().exit_code, 137);
}

fn a_slow_client_loses_nothing(world: &World) {
    let options = Options {
        attached: vec![output_only()],
        ..Options::default()
    };
    let mut container = world.start(&["sh", "-c", "seq 1 600000"], &options);
    let mut client = container.clients.pop().unwrap();
    std::thread::sleep(Duration::from_millis(400));
    let Reply::Status(status) = container.ask(&Request::Status) else {
        panic!("no status")
    };
    assert!(
        matches!(status.state, KeeperState::Running { .. }),
        "the client does not hold it back"
    );
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    assert!(demultiplex(&bytes).0 == seq_text(600_000));
    assert_eq!(container.wait().exit_code, 0);
    assert!(container.logged(Stream::Stdout) == seq_text(600_000));
}

fn a_client_that_is_gone_holds_nothing_back(world: &World) {
    let options = Options {
        attached: vec![output_only()],
        ..Options::default()
    };
    let mut container = world.start(&["sh", "-c", "seq 1 600000"], &options);
    drop(container.clients.pop());
    assert_eq!(container.wait().exit_code, 0);
    assert!(container.logged(Stream::Stdout) == seq_text(600_000));
}

fn a_second_daemon_finds_the_keeper(world: &World) {
    let mut container = world.start(&["sleep", "100"], &Options::default());
    container.reconnect();
    let Reply::Status(status) = container.ask(&Request::Status) else {
        panic!("no status")
    };
    assert!(matches!(status.state, KeeperState::Running { pid, .. } if pid == container.pid));
    assert_eq!(status.container, container.id);
    container.kill();
    assert_eq!(container.wait().exit_code, 137);
}

fn a_parked_keeper_ends_with_its_daemon(world: &World) {
    let container = world.prepare();
    assert_eq!(container.cgroup.process_ids().unwrap().len(), 1, "the stem");
    assert_eq!(world.keepers().len(), 1);
    drop(container.socket);
    wait_until("the keeper ends", || world.keepers().is_empty());
    wait_until("the stem ends", || {
        container.cgroup.process_ids().unwrap().is_empty()
    });
}

fn a_start_that_fails_ends_the_keeper(world: &World) {
    let mut container = world.prepare();
    match container.try_start(&["no-such-command"], &Options::default()) {
        Reply::Failed(failure) => assert_eq!(failure.kind, StartFailureKind::CommandNotFound, "{failure}"),
        other => panic!("{other:?}"),
    }
    wait_until("the keeper ends", || world.keepers().is_empty());
    assert!(!container.folder.join("keeper.sock").exists());
    assert!(container.cgroup.process_ids().unwrap().is_empty());
}

fn a_container_outlives_its_spawner(world: &World) {
    let mut container = world.start(&["sh", "-c", "sleep 0.3; echo late; exit 9"], &Options::default());
    world.kill_spawner();
    container.reconnect();
    assert_eq!(container.wait().exit_code, 9);
    assert_eq!(container.logged(Stream::Stdout), b"late\n");
}

fn an_idle_keeper_is_small(world: &World) {
    let mut container = world.start(&["sh", "-c", "echo hello; sleep 100"], &Options::default());
    wait_until("output", || container.logged(Stream::Stdout) == b"hello\n");
    // Memory is given back in the first quiet moment.
    std::thread::sleep(Duration::from_millis(600));
    let keeper = world.keepers()[0];
    let private = world::private_kib(keeper);
    println!("idle keeper: {private} KiB of its own");
    // Only a guard against growth: a debug build has 160 to 196, and the goal, 100, is not reached yet.
    assert!(private < 256, "{private} KiB");
    container.kill();
    container.wait();
}

fn hot_runs_are_fast(world: &World) {
    let mut phases: [Vec<u128>; 3] = Default::default();
    for _ in 0..30 {
        let begin = Instant::now();
        let mut container: Container = world.prepare();
        let prepared = Instant::now();
        assert!(matches!(
            container.try_start(&["true"], &Options::default()),
            Reply::Started { .. }
        ));
        let started = Instant::now();
        container.wait();
        phases[0].push((prepared - begin).as_micros());
        phases[1].push((started - prepared).as_micros());
        phases[2].push(started.elapsed().as_micros());
    }
    for phase in &mut phases {
        phase.sort_unstable();
    }
    println!(
        "medians in us: prepare {}, start {}, end {}",
        phases[0][15], phases[1][15], phases[2][15]
    );
}
