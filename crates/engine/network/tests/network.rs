//! The promises of the network, each on a host of its own made of network namespaces. Needs root.

mod support;

use naru_network::{Network, NetworkError, Protocol, PublishRequest, Published};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use support::{Container, Host, Namespace, is_installed, run};

const HOST_ADDRESS: &str = "203.0.113.1";
const PATIENCE: Duration = Duration::from_secs(2);

fn request(container_port: u16, host_port: u16) -> PublishRequest {
    PublishRequest {
        container_port,
        protocol: Protocol::Tcp,
        host_ip: None,
        host_ports: (host_port != 0).then_some((host_port, host_port)),
    }
}

/// Answers each connection with the address it came from, until it has answered `count`.
fn serve_tcp(namespace: &Namespace, port: u16, count: usize) -> JoinHandle<()> {
    let listener = namespace.run(|| TcpListener::bind(("0.0.0.0", port)).unwrap());
    thread::spawn(move || {
        for _ in 0..count {
            let (mut stream, peer) = listener.accept().unwrap();
            stream.write_all(peer.ip().to_string().as_bytes()).unwrap();
        }
    })
}

fn ask_tcp(namespace: &Namespace, target: &str) -> Option<String> {
    let target: SocketAddr = target.parse().unwrap();
    namespace.run(|| {
        let mut stream = TcpStream::connect_timeout(&target, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    })
}

fn serve_udp(namespace: &Namespace, port: u16, count: usize) -> JoinHandle<()> {
    let socket = namespace.run(|| UdpSocket::bind(("0.0.0.0", port)).unwrap());
    thread::spawn(move || {
        for _ in 0..count {
            let (_, peer) = socket.recv_from(&mut [0; 16]).unwrap();
            socket.send_to(peer.ip().to_string().as_bytes(), peer).unwrap();
        }
    })
}

fn ask_udp(namespace: &Namespace, target: &str) -> Option<String> {
    namespace.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(target).ok()?;
        socket.send(b"?").ok()?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    })
}

#[test]
fn containers_reach_each_other_the_gateway_and_outside() {
    let host = Host::new();
    let network = host.open();
    let (first, second) = (Container::attach(&network), Container::attach(&network));
    assert_eq!(first.address(), Ipv4Addr::new(172, 17, 0, 2));
    assert_eq!(second.address(), Ipv4Addr::new(172, 17, 0, 3));
    let server = serve_tcp(&second.namespace, 80, 1);
    let began = Instant::now();
    assert_eq!(
        ask_tcp(&first.namespace, "172.17.0.3:80").as_deref(),
        Some("172.17.0.2")
    );
    println!("first connection after attach: {:?}", began.elapsed());
    server.join().unwrap();
    let server = serve_tcp(&host.namespace, 81, 1);
    assert!(ask_tcp(&first.namespace, "172.17.0.1:81").is_some());
    server.join().unwrap();
    let server = serve_tcp(&host.outside, 82, 1);
    assert_eq!(
        ask_tcp(&first.namespace, "203.0.113.2:82").as_deref(),
        Some(HOST_ADDRESS),
        "masqueraded"
    );
    server.join().unwrap();
    let inside = first.namespace.run(|| run("ip addr show eth0 && ip route"));
    assert!(
        inside.contains("02:42:ac:11:00:02") && inside.contains("172.17.0.2/16"),
        "{inside}"
    );
    assert!(inside.contains("default via 172.17.0.1 dev eth0"), "{inside}");
}

#[test]
fn a_published_port_is_reached_from_everywhere_and_outside_sources_stay() {
    let host = Host::new();
    let network = host.open();
    let (server, other) = (Container::attach(&network), Container::attach(&network));
    let requests = [
        request(80, 8080),
        PublishRequest {
            protocol: Protocol::Udp,
            ..request(53, 5353)
        },
        request(80, 0),
    ];
    let published = host
        .publish(&network, &server.id, "web", server.address(), &requests)
        .unwrap();
    let ephemeral = published[2].host_port;
    assert!(ephemeral >= 32768);

    let serving = serve_tcp(&server.namespace, 80, 6);
    let to_host = format!("{HOST_ADDRESS}:8080");
    assert_eq!(
        ask_tcp(&host.outside, &to_host).as_deref(),
        Some("203.0.113.2"),
        "source preserved"
    );
    let to_ephemeral = format!("{HOST_ADDRESS}:{ephemeral}");
    assert_eq!(
        ask_tcp(&host.outside, &to_ephemeral).as_deref(),
        Some("203.0.113.2")
    );
    assert!(
        ask_tcp(&host.namespace, &to_host).is_some(),
        "host by its own address"
    );
    assert_eq!(
        ask_tcp(&host.namespace, "127.0.0.1:8080").as_deref(),
        Some("172.17.0.1")
    );
    assert!(
        ask_tcp(&server.namespace, &to_host).is_some(),
        "hairpin to itself"
    );
    assert!(
        ask_tcp(&other.namespace, "172.17.0.1:8080").is_some(),
        "from a neighbour by the gateway"
    );
    serving.join().unwrap();

    let serving = serve_udp(&server.namespace, 53, 4);
    let to_host = format!("{HOST_ADDRESS}:5353");
    assert_eq!(ask_udp(&host.outside, &to_host).as_deref(), Some("203.0.113.2"));
    assert!(ask_udp(&host.namespace, "127.0.0.1:5353").is_some());
    assert!(ask_udp(&server.namespace, &to_host).is_some(), "hairpin");
    assert!(ask_udp(&other.namespace, &to_host).is_some());
    serving.join().unwrap();

    network.unpublish(&server.id, &published).unwrap();
    assert_eq!(ask_tcp(&host.outside, "203.0.113.1:8080"), None);
    network.unpublish(&server.id, &published).unwrap();
    assert_eq!(network.list_published().unwrap(), []);
}

#[test]
fn only_published_ports_are_open_to_the_outside() {
    let host = Host::new();
    let network = host.open();
    let container = Container::attach(&network);
    let on_loopback = PublishRequest {
        host_ip: Some(Ipv4Addr::LOCALHOST.into()),
        ..request(80, 8080)
    };
    host.publish(
        &network,
        &container.id,
        "web",
        container.address(),
        &[on_loopback],
    )
    .unwrap();
    let serving = serve_tcp(&container.namespace, 80, 1);
    host.outside
        .run(|| run("ip route add 172.17.0.0/16 via 203.0.113.1 2>/dev/null || true"));
    assert_eq!(
        ask_tcp(&host.outside, "172.17.0.2:80"),
        None,
        "unpublished, by the container's own address"
    );
    assert_eq!(
        ask_tcp(&host.outside, "203.0.113.1:8080"),
        None,
        "published on 127.0.0.1 alone"
    );
    assert!(
        ask_tcp(&host.namespace, "127.0.0.1:8080").is_some(),
        "the honest way"
    );
    serving.join().unwrap();
}

#[test]
fn loopback_addresses_are_refused_from_other_interfaces() {
    let host = Host::new();
    let network = host.open();
    let container = Container::attach(&network);
    let secret = serve_udp(&host.namespace, 9999, 1);
    let service = serve_tcp(&host.namespace, 9998, 1);
    // CVE-2020-8558: 127.0.0.1 routed to the gateway, which has route_localnet on this interface.
    container.namespace.run(|| {
        run("echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; ip addr del 127.0.0.1/8 dev lo");
        run("ip route del local 127.0.0.0/8 dev lo table local 2>/dev/null || true");
        run("ip route add 127.0.0.0/8 via 172.17.0.1 dev eth0 src 172.17.0.2");
    });
    assert_eq!(ask_tcp(&container.namespace, "127.0.0.1:9998"), None);
    assert_eq!(ask_udp(&container.namespace, "127.0.0.1:9999"), None);
    // The naive twin: without the guard the attack gets through, so the attack above is a real one.
    host.namespace.run(|| run("nft flush chain ip naru guard_v2"));
    assert!(
        ask_tcp(&container.namespace, "127.0.0.1:9998").is_some(),
        "the attack works without the guard"
    );
    service.join().unwrap();
    drop(secret);
    let settings = host.namespace.run(|| {
        run(
            "cd /proc/sys/net/; cat ipv4/conf/all/route_localnet ipv4/conf/uplink/route_localnet \
             ipv4/conf/naru0/route_localnet ipv6/conf/naru0/disable_ipv6 ipv6/conf/naru0/accept_ra",
        )
    });
    assert_eq!(settings.split_whitespace().collect::<String>(), "00110");
}

#[test]
fn ports_in_use_are_refused_and_nothing_is_half_published() {
    let host = Host::new();
    let network = host.open();
    let (first, second) = (Container::attach(&network), Container::attach(&network));
    host.publish(
        &network,
        &first.id,
        "first",
        first.address(),
        &[request(80, 8080)],
    )
    .unwrap();
    let wanted = [request(80, 8081), request(80, 8080)];
    let error = host
        .publish(&network, &second.id, "second", second.address(), &wanted)
        .unwrap_err();
    assert!(matches!(error, NetworkError::PortAllocated { port: 8080, .. }));
    assert_eq!(
        error.to_string(),
        "Bind for 0.0.0.0:8080 failed: port is already allocated"
    );
    let held = host.namespace.run(|| TcpListener::bind("0.0.0.0:8082").unwrap());
    let wanted = [request(80, 8083), request(80, 8082)];
    let error = host
        .publish(&network, &second.id, "second", second.address(), &wanted)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "listen tcp4 0.0.0.0:8082: bind: address already in use"
    );
    assert_eq!(network.list_published().unwrap().len(), 1);
    drop(held);
    // And the other way: the port is held against the host's programs.
    let refused = host.namespace.run(|| TcpListener::bind("0.0.0.0:8080").map(drop));
    assert!(refused.is_err());
    let range = PublishRequest {
        host_ports: Some((8080, 8082)),
        ..request(80, 0)
    };
    let chosen = host.namespace.run(|| {
        host.publish(&network, &second.id, "second", second.address(), &[range])
            .unwrap()
    });
    assert_eq!(chosen[0].host_port, 8081);
}

#[test]
fn a_port_wanted_by_many_at_once_goes_to_one() {
    let host = Host::new();
    let network = host.open();
    let container = Container::attach(&network);
    let winners = thread::scope(|scope| {
        let tries: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    host.namespace.run(|| {
                        let requests = [request(80, 7000)];
                        network
                            .publish(&container.id, "web", container.address().into(), &requests)
                            .is_ok()
                    })
                })
            })
            .collect();
        tries
            .into_iter()
            .filter(|_| true)
            .map(|handle| handle.join().unwrap())
            .filter(|won| *won)
            .count()
    });
    assert_eq!(winners, 1);
}

#[test]
fn everything_survives_the_daemon_and_orphans_are_swept() {
    let host = Host::new();
    let network = host.open();
    let (kept, lost) = (Container::attach(&network), Container::attach(&network));
    let published = host
        .publish(&network, &kept.id, "kept", kept.address(), &[request(80, 8080)])
        .unwrap();
    host.publish(&network, &lost.id, "lost", lost.address(), &[request(80, 8081)])
        .unwrap();
    drop(network);
    let serving = serve_tcp(&kept.namespace, 80, 3);
    assert!(
        ask_tcp(&host.outside, "203.0.113.1:8080").is_some(),
        "with no daemon"
    );
    let network = host.open();
    network.reserve(&kept.id, &kept.endpoint);
    host.namespace.run(|| {
        network
            .sweep(std::slice::from_ref(&kept.endpoint), &published)
            .unwrap();
    });
    assert!(
        ask_tcp(&host.outside, "203.0.113.1:8080").is_some(),
        "with the next daemon"
    );
    let entries = network.list_published().unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].published, published[0]);
    assert_eq!(entries[0].comment, format!("kept {}", kept.id.short()));
    let links = host.namespace.run(|| run("ip -o link"));
    assert!(links.contains(&kept.endpoint.host_interface) && !links.contains(&lost.endpoint.host_interface));
    let next = Container::attach(&network);
    assert_ne!(next.address(), kept.address());
    let error = host
        .publish(&network, &next.id, "next", next.address(), &[request(80, 8080)])
        .unwrap_err();
    assert!(error.is_port_in_use());
    host.namespace.run(|| network.close().unwrap());
    let left = host
        .namespace
        .run(|| run("ip -o link; nft list ruleset 2>/dev/null || true"));
    assert!(!left.contains("naru"), "{left}");
    drop(serving);
}

#[test]
fn a_failed_attach_leaves_nothing() {
    let host = Host::new();
    let network = host.open();
    let container = Container::attach(&network);
    // A namespace that has an eth0 already.
    let socket = container.namespace.route_socket();
    let before = host.namespace.run(|| run("ip -o link | cut -d: -f2"));
    let again = {
        network.attach(
            &container.id,
            container.namespace.fd().as_fd(),
            socket.as_fd(),
            None,
            None,
        )
    };
    println!("{}", again.unwrap_err());
    assert_eq!(host.namespace.run(|| run("ip -o link | cut -d: -f2")), before);
    let next = Container::attach(&network);
    assert_eq!(next.address(), Ipv4Addr::new(172, 17, 0, 4));
}

#[test]
fn ranges_of_the_host_are_avoided_and_the_choice_is_remembered() {
    let host = Host::new();
    host.namespace
        .run(|| run("ip route add 172.17.9.0/24 via 203.0.113.2"));
    let network = host.open();
    assert_eq!(network.subnet(), "172.18.0.0/16");
    host.namespace.run(|| {
        network.close().unwrap();
        run("ip route del 172.17.9.0/24");
    });
    assert_eq!(host.open().subnet(), "172.18.0.0/16");
    let mut options = host.options();
    options.address = Some((Ipv4Addr::new(10, 9, 8, 1), 24));
    let network = host.namespace.run(|| Network::open(options.clone()).unwrap());
    assert_eq!(network.subnet(), "10.9.8.0/24");
    assert!(
        !host
            .namespace
            .run(|| run("ip addr show naru0"))
            .contains("172.18")
    );
    options.address = Some((Ipv4Addr::new(10, 9, 8, 0), 24));
    assert!(matches!(
        Network::open(options),
        Err(NetworkError::InvalidOption(_))
    ));
}

#[test]
fn the_hosts_tools_print_what_naru_made() {
    if !is_installed("nft") {
        return;
    }
    let host = Host::new();
    let network = host.open();
    let container = Container::attach(&network);
    let on_address = PublishRequest {
        host_ip: Some(Ipv4Addr::LOCALHOST.into()),
        ..request(80, 8081)
    };
    let requests = [request(80, 8080), on_address];
    host.publish(&network, &container.id, "web", container.address(), &requests)
        .unwrap();
    let printed = host.namespace.run(|| run("nft list ruleset"));
    println!("{printed}");
    let comment = format!("comment \"web {}\"", container.id.short());
    assert!(
        printed.contains(&format!("tcp . 8080 {comment} : 172.17.0.2 . 80")),
        "{printed}"
    );
    assert!(
        printed.contains(&format!("tcp . 127.0.0.1 . 8081 {comment} : 172.17.0.2 . 80")),
        "{printed}"
    );
}

#[test]
fn publishing_costs_the_same_at_any_count() {
    let host = Host::new();
    let network = host.open();
    let container = Container::attach(&network);
    let mut times: Vec<Duration> = Vec::new();
    let mut published: Vec<Published> = Vec::new();
    host.namespace.run(|| {
        for port in 10_000..11_000 {
            let began = Instant::now();
            published.extend(
                network
                    .publish(
                        &container.id,
                        "web",
                        container.address().into(),
                        &[request(80, port)],
                    )
                    .unwrap(),
            );
            times.push(began.elapsed());
        }
    });
    let median = |times: &[Duration]| {
        let mut times = times.to_vec();
        times.sort();
        times[times.len() / 2]
    };
    println!(
        "publish, median of the first 100: {:?}, of the last 100: {:?}",
        median(&times[..100]),
        median(&times[900..])
    );
    let began = Instant::now();
    network.unpublish(&container.id, &published).unwrap();
    println!("unpublish of 1,000 in one batch: {:?}", began.elapsed());
}

#[test]
fn the_first_packet_after_attach_arrives() {
    let host = Host::new();
    let network = host.open();
    let server = Container::attach(&network);
    let serving = serve_tcp(&server.namespace, 80, 30);
    for _ in 0..30 {
        let client = Container::attach(&network);
        let began = Instant::now();
        assert!(ask_tcp(&client.namespace, "172.17.0.2:80").is_some());
        // A lost packet is sent again after a whole second.
        assert!(
            began.elapsed() < Duration::from_millis(900),
            "{:?}",
            began.elapsed()
        );
    }
    serving.join().unwrap();
}

/// What this thread has had of the processor: on a busy machine it says more than the clock.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn attaching_is_quick() {
    let host = Host::new();
    let network = host.open();
    let (send, receive) = mpsc::channel();
    for _ in 0..50 {
        let namespace = Namespace::new();
        let socket = namespace.route_socket();
        let id = naru_base::ContainerId::generate();
        let (began, spent) = (Instant::now(), processor_time());
        network
            .attach(&id, namespace.fd().as_fd(), socket.as_fd(), None, None)
            .unwrap();
        send.send((began.elapsed(), processor_time().saturating_sub(spent), namespace))
            .unwrap();
    }
    drop(send);
    let mut times: Vec<_> = receive.iter().collect();
    times.sort_by_key(|(time, ..)| *time);
    print!("attach, median of 50: {:?}", times[25].0);
    times.sort_by_key(|(_, spent, _)| *spent);
    println!(", of the processor's time {:?}", times[25].1);
}
