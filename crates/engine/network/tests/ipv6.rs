//! Networks with IPv6 beside IPv4, in network namespaces of their own.

mod support;

use naru_base::ContainerId;
use naru_network::{
    BridgeRequest, Endpoint, Ipv6Request, Network, NetworkError, Place, Protocol, PublishRequest, Target,
};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;
use support::{Host, Namespace, run};

const PATIENCE: Duration = Duration::from_secs(2);

fn request(name: &str, subnet: Option<&str>) -> BridgeRequest {
    BridgeRequest {
        name: name.to_owned(),
        subnet: None,
        gateway: None,
        range: None,
        reserved: Vec::new(),
        mtu: None,
        is_internal: false,
        allows_between: true,
        masquerades: true,
        ipv6: Some(Ipv6Request {
            subnet: subnet.map(|text| text.parse().unwrap()),
            ..Ipv6Request::default()
        }),
    }
}

/// A host whose machine outside has IPv6 too: 2001:db8::2, and the host is ::1 there.
fn host() -> Host {
    let host = Host::new();
    host.namespace
        .run(|| run("ip addr add 2001:db8::1/64 dev uplink nodad"));
    host.outside
        .run(|| run("ip addr add 2001:db8::2/64 dev eth0 nodad && ip -6 route add default via 2001:db8::1"));
    host
}

fn create(host: &Host, network: &Network, request: &BridgeRequest) -> Result<(), NetworkError> {
    host.namespace
        .run(|| network.create_bridge(request, &[], |_| Ok::<_, NetworkError>(())))
        .map(drop)
}

struct Container {
    id: ContainerId,
    namespace: Namespace,
    endpoint: Endpoint,
}

impl Container {
    /// A namespace as a container's is: without IPv6 anywhere.
    fn attach(network: &Network, bridge: &str) -> Self {
        let (id, namespace) = (ContainerId::generate(), Namespace::new());
        namespace.run(|| run("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"));
        let socket = namespace.route_socket();
        let bridge = network.find_bridge(bridge).unwrap();
        let endpoint = network
            .attach_to(
                &bridge,
                &id,
                namespace.fd().as_fd(),
                socket.as_fd(),
                &Place::default(),
            )
            .unwrap();
        Self {
            id,
            namespace,
            endpoint,
        }
    }

    fn target(&self) -> Target {
        Target {
            ipv4: self.endpoint.address,
            ipv6: self.endpoint.ipv6.map(|ipv6| ipv6.address),
        }
    }
}

/// Answers so many connections with the address they come from.
fn serve(namespace: &Namespace, port: u16, connections: usize) -> std::thread::JoinHandle<()> {
    let listener = namespace.run(|| TcpListener::bind(("::", port)).unwrap());
    std::thread::spawn(move || {
        for _ in 0..connections {
            let (mut stream, peer) = listener.accept().unwrap();
            let _ = stream.write_all(peer.ip().to_string().as_bytes());
        }
    })
}

fn ask(from: &Namespace, target: &str) -> Option<String> {
    let target: SocketAddr = target.parse().unwrap();
    from.run(|| {
        let mut stream = TcpStream::connect_timeout(&target, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    })
}

#[test]
fn containers_reach_each_other_and_outside_with_the_hosts_address() {
    let host = host();
    let network = host.open();
    create(&host, &network, &request("six", Some("fd00:6::/64"))).unwrap();
    let (first, second) = (
        Container::attach(&network, "six"),
        Container::attach(&network, "six"),
    );
    assert_eq!(first.target().ipv6.unwrap().to_string(), "fd00:6::2");
    let server = serve(&second.namespace, 80, 1);
    assert_eq!(
        ask(&first.namespace, "[fd00:6::3]:80").as_deref(),
        Some("fd00:6::2")
    );
    server.join().unwrap();
    let server = serve(&host.outside, 81, 1);
    assert_eq!(
        ask(&first.namespace, "[2001:db8::2]:81").as_deref(),
        Some("2001:db8::1"),
        "masqueraded"
    );
    server.join().unwrap();
    let shown = first
        .namespace
        .run(|| run("ip -6 addr show eth0; ip -6 route; ip -6 addr show lo"));
    assert!(
        shown.contains("fd00:6::2/64") && shown.contains("default via fd00:6::1"),
        "{shown}"
    );
    assert!(shown.contains("::1/128"), "{shown}");
    // One that is on no network with IPv6 has none at all.
    let plain = Container::attach(&network, "naru0");
    let shown = plain.namespace.run(|| run("ip -6 addr"));
    assert_eq!((shown.trim(), plain.endpoint.ipv6), ("", None));
}

#[test]
fn ports_are_published_for_both_families_and_for_nothing_else() {
    let host = host();
    let network = host.open();
    create(&host, &network, &request("six", Some("fd00:6::/64"))).unwrap();
    create(&host, &network, &request("seven", Some("fd00:7::/64"))).unwrap();
    let (server, other) = (
        Container::attach(&network, "six"),
        Container::attach(&network, "seven"),
    );
    let both = PublishRequest {
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
        host_ports: Some((8080, 8080)),
    };
    let own = PublishRequest {
        host_ip: Some("2001:db8::1".parse().unwrap()),
        host_ports: Some((8081, 8081)),
        ..both.clone()
    };
    let published = host
        .publish(&network, &server.id, "web", server.target(), &[both.clone(), own])
        .unwrap();
    let shown: Vec<String> = published
        .iter()
        .map(|one| format!("{} {}", one.host_ip, one.host_port))
        .collect();
    assert_eq!(shown, ["0.0.0.0 8080", ":: 8080", "2001:db8::1 8081"]);
    let serving = serve(&server.namespace, 80, 6);
    for (target, source) in [
        ("203.0.113.1:8080", "::ffff:203.0.113.2"),
        ("[2001:db8::1]:8080", "2001:db8::2"),
        ("[2001:db8::1]:8081", "2001:db8::2"),
    ] {
        assert_eq!(ask(&host.outside, target).as_deref(), Some(source), "{target}");
    }
    assert!(
        ask(&host.namespace, "[2001:db8::1]:8080").is_some(),
        "the host by its own address"
    );
    assert!(ask(&server.namespace, "[2001:db8::1]:8080").is_some(), "hairpin");
    assert!(
        ask(&other.namespace, "[2001:db8::1]:8080").is_some(),
        "from another network"
    );
    serving.join().unwrap();
    // `localhost` goes on to IPv4 at once.
    let began = std::time::Instant::now();
    assert_eq!(ask(&host.namespace, "[::1]:8080"), None);
    assert!(began.elapsed() < Duration::from_secs(1));
    let serving = serve(&server.namespace, 82, 1);
    host.outside
        .run(|| run("ip -6 route replace fd00:6::/64 via 2001:db8::1"));
    assert_eq!(ask(&host.outside, "[fd00:6::2]:82"), None, "unpublished");
    assert_eq!(ask(&other.namespace, "[fd00:6::2]:82"), None, "another network");
    assert!(
        ask(&host.namespace, "[fd00:6::2]:82").is_some(),
        "the host itself"
    );
    serving.join().unwrap();
    let again = host.publish(&network, &other.id, "again", other.target(), &[both]);
    assert!(again.unwrap_err().is_port_in_use());
    host.namespace.run(|| TcpListener::bind("[::]:8080").unwrap_err());
    network.unpublish(&server.id, &published).unwrap();
    assert_eq!(network.list_published().unwrap(), []);
    assert_eq!(ask(&host.outside, "[2001:db8::1]:8080"), None);
}

#[test]
fn what_cannot_be_published_is_said() {
    let host = host();
    let network = host.open();
    create(&host, &network, &request("six", None)).unwrap();
    let (six, plain) = (
        Container::attach(&network, "six"),
        Container::attach(&network, "naru0"),
    );
    assert!(six.target().ipv6.unwrap().is_unique_local());
    let on = |address: &str| PublishRequest {
        container_port: 80,
        protocol: Protocol::Udp,
        host_ip: Some(address.parse().unwrap()),
        host_ports: None,
    };
    let refused = |container: &Container, address: &str| {
        let published = host.publish(&network, &container.id, "x", container.target(), &[on(address)]);
        published.unwrap_err().to_string()
    };
    assert!(refused(&plain, "::").contains("the container has no IPv6 address"));
    assert!(refused(&six, "::1").contains("publish on 127.0.0.1"));
    assert!(refused(&six, "2001:db8::77").contains("2001:db8::77"));
    for (wanted, part) in [("2001:db8::/32", "2001:db8::1"), ("fd00:1::/64", "")] {
        match create(&host, &network, &request("next", Some(wanted))) {
            Ok(()) => assert_eq!(part, ""),
            Err(error) => assert!(
                error.to_string().contains("host's own address 2001:db8::1"),
                "{error}"
            ),
        }
    }
    let error = create(&host, &network, &request("more", Some("fd00:1::/48"))).unwrap_err();
    assert!(matches!(error, NetworkError::SubnetOverlaps(_)), "{error}");
}

#[test]
fn a_new_daemon_takes_rules_and_ports_over_and_leaves_nothing_behind() {
    let host = host();
    let six = {
        let network = host.open();
        let request = request("six", Some("fd00:6::/64"));
        let bridge = host
            .namespace
            .run(|| network.create_bridge(&request, &[], |_| Ok::<_, NetworkError>(())))
            .unwrap();
        let options = bridge.options().clone();
        let container = Container::attach(&network, "six");
        let port = PublishRequest {
            container_port: 80,
            protocol: Protocol::Tcp,
            host_ip: None,
            host_ports: Some((8080, 8080)),
        };
        host.publish(&network, &container.id, "web", container.target(), &[port])
            .unwrap();
        (container, options)
    };
    let mut options = host.options();
    options.bridges = vec![six.1];
    let network = host.namespace.run(|| Network::open(options).unwrap());
    network.reserve(&six.0.id, &six.0.endpoint);
    assert_eq!(network.list_published().unwrap().len(), 2);
    let next = Container::attach(&network, "six");
    assert_eq!(next.target().ipv6.unwrap().to_string(), "fd00:6::3");
    let serving = serve(&six.0.namespace, 80, 1);
    assert!(ask(&host.outside, "[2001:db8::1]:8080").is_some());
    serving.join().unwrap();
    if support::is_installed("nft") {
        host.namespace.run(|| run("nft flush ruleset"));
        host.namespace.run(|| network.ensure_foreign_accept()).unwrap();
        let serving = serve(&six.0.namespace, 80, 1);
        assert!(ask(&host.outside, "[2001:db8::1]:8080").is_some());
        serving.join().unwrap();
        host.namespace.run(|| network.close()).unwrap();
        assert_eq!(host.namespace.run(|| run("nft list ruleset")).trim(), "");
    }
}
