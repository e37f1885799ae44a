//! The resolver as containers and daemons meet it, in network namespaces of its own. Needs root.

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use naru_resolver::protocol::{self, Reply, Request};
use naru_resolver::{ContainerSettings, EndpointNames, NetworkView};
use naru_sys::namespace;
use naru_sys::seqpacket::{SeqPacket, SeqPacketListener};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const RESOLVER: &str = "127.0.0.11:53";

struct Namespace(File);

impl Namespace {
    fn new() -> Self {
        let made = std::thread::spawn(|| {
            namespace::unshare(libc::CLONE_NEWNET).unwrap();
            namespace::set_loopback_up().unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self(made.join().unwrap())
    }

    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                namespace::join(self.0.as_fd(), libc::CLONE_NEWNET).unwrap();
                work()
            });
            worker.join().unwrap()
        })
    }

    /// Asks once and gives what came back.
    fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.run(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(6))).unwrap();
            socket.connect(RESOLVER).unwrap();
            socket.send(&question(name, kind)).unwrap();
            let mut buffer = [0; 4096];
            let length = socket.recv(&mut buffer).unwrap();
            Message::from_vec(&buffer[..length]).unwrap()
        })
    }

    fn find(&self, name: &str) -> Vec<String> {
        let answer = self.ask(name, RecordType::A);
        answer
            .answers
            .iter()
            .map(|record| record.data.to_string())
            .collect()
    }

    /// A name server at an address of this namespace, which counts questions; after `delay` it answers every one with
    /// `code`, and with `address` if there is no error.
    fn serve(&self, at: &str, delay: Duration, code: ResponseCode, address: [u8; 4]) -> Arc<AtomicUsize> {
        let socket = self.run(|| UdpSocket::bind((at, 53)).unwrap());
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                counted.fetch_add(1, Ordering::SeqCst);
                let asked = Message::from_vec(&buffer[..length]).unwrap();
                let mut answer = Message::response(asked.metadata.id, OpCode::Query);
                answer.metadata.response_code = code;
                answer.add_query(asked.queries[0].clone());
                if code == ResponseCode::NoError {
                    let data = RData::A(A(address.into()));
                    answer.add_answer(Record::from_rdata(asked.queries[0].name.clone(), 30, data));
                }
                let socket = socket.try_clone().unwrap();
                std::thread::spawn(move || {
                    std::thread::sleep(delay);
                    let _ = socket.send_to(&answer.to_vec().unwrap(), from);
                });
            }
        });
        count
    }
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

/// A resolver whose host is a namespace of its own.
struct World {
    host: Namespace,
    path: PathBuf,
    _directory: TempDir,
    running: Option<std::thread::JoinHandle<()>>,
}

impl World {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("resolver.sock");
        let listener = SeqPacketListener::listen(&path).unwrap();
        let host = Namespace::new();
        let home = host.0.try_clone().unwrap();
        let running = std::thread::spawn(move || {
            namespace::join(home.as_fd(), libc::CLONE_NEWNET).unwrap();
            naru_resolver::run(listener.into());
        });
        Self {
            host,
            path,
            _directory: directory,
            running: Some(running),
        }
    }

    fn connect(&self) -> Daemon {
        Daemon(SeqPacket::connect(&self.path).unwrap())
    }
}

struct Daemon(SeqPacket);

impl Daemon {
    fn ask(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Reply {
        protocol::send(&self.0, request, descriptors).unwrap();
        protocol::receive(&self.0).unwrap().unwrap().0
    }

    fn demand(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) {
        let reply = self.ask(request, descriptors);
        assert!(matches!(reply, Reply::Done), "{reply:?}");
    }

    fn open(&self, container: &str, settings: ContainerSettings) -> Namespace {
        let namespace = Namespace::new();
        let container = container.to_owned();
        self.demand(&Request::Open { container, settings }, &[namespace.0.as_fd()]);
        namespace
    }

    fn name(&self, container: &str, names: &[&str], last: u8) {
        self.demand(
            &Request::SetEndpoint {
                network: "1".to_owned(),
                container: container.to_owned(),
                endpoint: EndpointNames {
                    network_name: "blue".to_owned(),
                    names: names.iter().map(|name| (*name).to_owned()).collect(),
                    addresses: vec![IpAddr::from([10, 0, 0, last])],
                },
            },
            &[],
        );
    }

    fn state(&self) -> (Vec<String>, usize) {
        let (mut all, mut count) = (Vec::new(), 0);
        protocol::send(&self.0, &Request::Hello, &[]).unwrap();
        loop {
            match protocol::receive(&self.0).unwrap().unwrap().0 {
                Reply::State {
                    containers,
                    endpoints,
                    is_last,
                    ..
                } => {
                    all.extend(containers);
                    count += endpoints.len();
                    if is_last {
                        all.sort();
                        return (all, count);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

fn settings(servers: &[&str]) -> ContainerSettings {
    ContainerSettings {
        networks: vec![NetworkView {
            network: "1".to_owned(),
            ..NetworkView::default()
        }],
        servers: servers.iter().map(|server| server.parse().unwrap()).collect(),
        forwards: true,
        keeps_short_names: false,
        host_address: Some(Ipv4Addr::new(10, 0, 0, 1)),
    }
}

#[test]
fn containers_find_each_other_by_udp_and_tcp_and_after_the_daemon() {
    let world = World::new();
    let daemon = world.connect();
    let web = daemon.open("a", settings(&["127.0.0.1"]));
    daemon.name("b", &["db", "database"], 2);
    assert_eq!(web.find("db."), ["10.0.0.2"]);
    assert_eq!(web.find("DataBase.blue."), ["10.0.0.2"]);
    assert_eq!(
        web.ask("db.", RecordType::AAAA).metadata.response_code,
        ResponseCode::NoError
    );
    let reverse = web.ask("2.0.0.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(reverse.answers[0].data.to_string(), "db.blue.");
    web.run(|| {
        let mut stream = TcpStream::connect(RESOLVER).unwrap();
        for _ in 0..3 {
            let packet = question("db.", RecordType::A);
            stream.write_all(&(packet.len() as u16).to_be_bytes()).unwrap();
            stream.write_all(&packet).unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut answer = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 1);
        }
    });
    // The daemon dies; the next one finds everything.
    drop(daemon);
    assert_eq!(web.find("db."), ["10.0.0.2"]);
    let daemon = world.connect();
    assert_eq!(daemon.state(), (vec!["a".to_owned()], 1));
    let container = "b".to_owned();
    daemon.demand(
        &Request::RemoveEndpoint {
            network: "1".to_owned(),
            container,
        },
        &[],
    );
    assert!(web.find("db.").is_empty());
}

#[test]
fn an_internal_network_leaks_no_question() {
    let world = World::new();
    let daemon = world.connect();
    let asked = world
        .host
        .serve("127.0.0.1", Duration::ZERO, ResponseCode::NoError, [1, 1, 1, 1]);
    let inside = ContainerSettings {
        forwards: false,
        ..settings(&["127.0.0.1"])
    };
    let inside = daemon.open("a", inside);
    daemon.name("b", &["db"], 2);
    assert_eq!(inside.find("db."), ["10.0.0.2"]);
    let refused = inside.ask("secret.attacker.example.", RecordType::A);
    assert_eq!(refused.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[test]
fn loopback_servers_are_the_hosts_and_others_are_reached_through_the_container() {
    let world = World::new();
    let daemon = world.connect();
    world
        .host
        .serve("127.0.0.53", Duration::ZERO, ResponseCode::NoError, [9, 9, 9, 9]);
    let by_host = daemon.open("a", settings(&["127.0.0.53"]));
    assert_eq!(by_host.find("example."), ["9.9.9.9"]);
    let own = daemon.open("b", settings(&["198.51.100.7"]));
    own.run(|| {
        let done = std::process::Command::new("ip")
            .args(["addr", "add", "198.51.100.7/32", "dev", "lo"])
            .status();
        assert!(done.unwrap().success());
    });
    own.serve(
        "198.51.100.7",
        Duration::ZERO,
        ResponseCode::NoError,
        [7, 7, 7, 7],
    );
    assert_eq!(own.find("example."), ["7.7.7.7"]);
}

#[test]
fn one_slow_or_failing_server_holds_nobody_up() {
    let world = World::new();
    let daemon = world.connect();
    // Nobody listens at .1; .2 is slow; .3 fails; .4 is good.
    world.host.serve(
        "127.0.1.2",
        Duration::from_secs(3),
        ResponseCode::NoError,
        [2, 2, 2, 2],
    );
    world
        .host
        .serve("127.0.1.3", Duration::ZERO, ResponseCode::ServFail, [0; 4]);
    let good = world
        .host
        .serve("127.0.1.4", Duration::ZERO, ResponseCode::NoError, [4, 4, 4, 4]);
    let servers = ["127.0.1.1", "127.0.1.2", "127.0.1.3", "127.0.1.4"];
    let container = daemon.open("a", settings(&servers));
    daemon.name("b", &["db"], 2);
    std::thread::scope(|scope| {
        let began = Instant::now();
        let outside = scope.spawn(|| container.find("example."));
        assert_eq!(container.find("db."), ["10.0.0.2"]);
        assert!(
            began.elapsed() < Duration::from_millis(250),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(outside.join().unwrap(), ["4.4.4.4"]);
        assert!(
            began.elapsed() < Duration::from_millis(1500),
            "{:?}",
            began.elapsed()
        );
    });
    // From memory now, in the asker's own spelling.
    let answer = container.ask("EXAMPLE.", RecordType::A);
    assert_eq!(answer.queries[0].name.to_ascii(), "EXAMPLE.");
    assert_eq!(good.load(Ordering::SeqCst), 1);
}

#[test]
fn an_outage_is_told_as_one_and_over_when_it_is_over() {
    let world = World::new();
    let daemon = world.connect();
    let container = daemon.open("a", settings(&["127.0.1.1"]));
    let failed = container.ask("example.", RecordType::A);
    assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
    world
        .host
        .serve("127.0.1.1", Duration::ZERO, ResponseCode::NoError, [1, 1, 1, 1]);
    assert_eq!(container.find("example."), ["1.1.1.1"]);
}

#[test]
fn the_end_of_a_container_frees_its_namespace_without_a_daemon() {
    let mut world = World::new();
    let daemon = world.connect();
    let container = daemon.open("a", settings(&[]));
    daemon.name("a", &["web"], 3);
    let mut process = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&process);
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    let watch = Request::Watch {
        container: "a".to_owned(),
    };
    daemon.demand(&watch, &[pidfd.as_fd()]);
    assert_eq!(daemon.state(), (vec!["a".to_owned()], 1));
    let listens = || {
        container.run(|| {
            std::fs::read_to_string("/proc/thread-self/net/udp")
                .unwrap()
                .lines()
                .count()
                > 1
        })
    };
    assert!(listens());
    process.kill().unwrap();
    process.wait().unwrap();
    let until = Instant::now() + Duration::from_secs(2);
    while listens() {
        assert!(Instant::now() < until, "its sockets are still open");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(daemon.state(), (vec![], 0));
    // Nothing left to do: the process ends by itself.
    drop(daemon);
    world.running.take().unwrap().join().unwrap();
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let world = World::new();
    let daemon = world.connect();
    let container = "nobody".to_owned();
    let open = Request::Open {
        container: container.clone(),
        settings: settings(&[]),
    };
    assert!(matches!(daemon.ask(&open, &[]), Reply::Failed { .. }));
    let file = File::open("/dev/null").unwrap();
    assert!(matches!(daemon.ask(&open, &[file.as_fd()]), Reply::Failed { .. }));
    assert!(matches!(
        daemon.ask(
            &Request::Watch {
                container: container.clone()
            },
            &[file.as_fd()]
        ),
        Reply::Failed { .. }
    ));
    daemon.demand(&Request::Close { container }, &[]);
    // What is no request ends its own connection only.
    let other = world.connect();
    other.0.send(b"nonsense", &[]).unwrap();
    assert!(other.0.receive(100).unwrap().is_none());
    assert_eq!(daemon.state(), (vec![], 0));
}
