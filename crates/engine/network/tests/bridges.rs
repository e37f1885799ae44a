//! The promises of further networks beside the default one, each on a host of its own. Needs root.

mod support;

use naru_base::ContainerId;
use naru_network::{
    Bridge, BridgeOptions, BridgeRequest, Endpoint, Network, NetworkError, NetworkOptions, Place, Protocol,
    PublishRequest, redirect_dns,
};
use naru_sys::netlink;
use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use support::{Host, Namespace, run};

const PATIENCE: Duration = Duration::from_secs(2);
const BRIEF: Duration = Duration::from_millis(300);

fn request(name: &str) -> BridgeRequest {
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
        ipv6: None,
    }
}

fn create(host: &Host, network: &Network, request: &BridgeRequest) -> Result<Arc<Bridge>, NetworkError> {
    host.namespace
        .run(|| network.create_bridge(request, &[], |_| Ok::<_, NetworkError>(())))
}

struct Member {
    id: ContainerId,
    namespace: Namespace,
}

impl Member {
    fn new() -> Self {
        Self {
            id: ContainerId::generate(),
            namespace: Namespace::new(),
        }
    }

    fn join(&self, network: &Network, bridge: &Bridge, place: &Place<'_>) -> Result<Endpoint, NetworkError> {
        let socket = self.namespace.route_socket();
        network.attach_to(
            bridge,
            &self.id,
            self.namespace.fd().as_fd(),
            socket.as_fd(),
            place,
        )
    }

    fn on(network: &Network, bridge: &Bridge) -> (Self, Endpoint) {
        let member = Self::new();
        let endpoint = member.join(network, bridge, &Place::default()).unwrap();
        (member, endpoint)
    }
}

fn can_reach(from: &Namespace, to: &Namespace, address: Ipv4Addr, patience: Duration) -> bool {
    let _listener = to.run(|| TcpListener::bind("0.0.0.0:80").unwrap());
    from.run(|| TcpStream::connect_timeout(&SocketAddr::from((address, 80)), patience).is_ok())
}

#[test]
fn networks_are_kept_apart_and_published_ports_lead_in() {
    let host = Host::new();
    let network = host.open();
    let blue = create(&host, &network, &request("br-blue")).unwrap();
    let red = create(&host, &network, &request("br-red")).unwrap();
    assert_eq!(blue.subnet().to_string(), "172.18.0.0/16");
    assert_eq!(red.gateway(), Ipv4Addr::new(172, 19, 0, 1));
    let (first, at) = Member::on(&network, &blue);
    let (second, second_at) = Member::on(&network, &blue);
    let (other, _) = Member::on(&network, &red);
    let reach = |from: &Member, patience| can_reach(&from.namespace, &first.namespace, at.address, patience);
    assert!(reach(&second, PATIENCE), "on one network");
    assert!(!reach(&other, BRIEF), "from another network");
    assert!(
        !can_reach(&host.outside, &first.namespace, at.address, BRIEF),
        "from outside by a route"
    );
    assert!(can_reach(
        &second.namespace,
        &host.outside,
        Ipv4Addr::new(203, 0, 113, 2),
        PATIENCE
    ));
    let wanted = PublishRequest {
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
        host_ports: Some((80, 80)),
    };
    host.publish(&network, &first.id, "web", at.address, &[wanted])
        .unwrap();
    let host_address = Ipv4Addr::new(203, 0, 113, 1);
    assert!(can_reach(&host.outside, &first.namespace, host_address, PATIENCE));
    assert!(can_reach(
        &other.namespace,
        &first.namespace,
        host_address,
        PATIENCE
    ));
    assert_ne!(at.address, second_at.address);
    // A reload of the host's firewall takes everything away; what comes back keeps networks apart.
    host.namespace.run(|| {
        run("nft flush ruleset");
        network.ensure_foreign_accept().unwrap();
    });
    assert!(reach(&second, PATIENCE));
    assert!(!reach(&other, BRIEF));
    assert!(can_reach(&host.outside, &first.namespace, host_address, PATIENCE));
    host.namespace.run(|| network.remove_bridge(&red).unwrap());
    let left = host.namespace.run(|| run("ip -br link && nft list ruleset"));
    assert!(!left.contains("br-red"), "{left}");
    host.namespace.run(|| network.close().unwrap());
    let left = host.namespace.run(|| run("ip -br link && nft list ruleset"));
    assert!(!left.contains("br-") && !left.contains("naru"), "{left}");
}

#[test]
fn an_internal_network_has_no_way_out_or_in() {
    let host = Host::new();
    let network = host.open();
    let inside = BridgeRequest {
        is_internal: true,
        ..request("br-inside")
    };
    let inside = create(&host, &network, &inside).unwrap();
    let open = create(&host, &network, &request("br-open")).unwrap();
    let place = Place {
        is_gateway: false,
        ..Place::default()
    };
    let (first, second) = (Member::new(), Member::new());
    first.join(&network, &inside, &place).unwrap();
    let at = second.join(&network, &inside, &place).unwrap();
    assert!(can_reach(
        &first.namespace,
        &second.namespace,
        at.address,
        PATIENCE
    ));
    let outside = Ipv4Addr::new(203, 0, 113, 2);
    assert!(!can_reach(&first.namespace, &host.outside, outside, BRIEF));
    // A container with the privilege makes itself a route; the host still does not forward.
    let gateway = inside.gateway();
    first
        .namespace
        .run(|| run(&format!("ip route add default via {gateway}")));
    assert!(!can_reach(&first.namespace, &host.outside, outside, BRIEF));
    let (neighbour, neighbour_at) = Member::on(&network, &open);
    assert!(!can_reach(
        &first.namespace,
        &neighbour.namespace,
        neighbour_at.address,
        BRIEF
    ));
    assert!(!can_reach(
        &neighbour.namespace,
        &second.namespace,
        at.address,
        BRIEF
    ));
    // Not even by a port published on the host.
    let wanted = PublishRequest {
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
        host_ports: Some((80, 80)),
    };
    host.publish(
        &network,
        &neighbour.id,
        "web",
        neighbour_at.address,
        std::slice::from_ref(&wanted),
    )
    .unwrap();
    assert!(!can_reach(&first.namespace, &neighbour.namespace, gateway, BRIEF));
}

#[test]
fn without_icc_containers_reach_the_gateway_only() {
    let host = Host::new();
    let network = host.open();
    let lonely = BridgeRequest {
        allows_between: false,
        ..request("br-lonely")
    };
    let lonely = create(&host, &network, &lonely).unwrap();
    let (first, _) = Member::on(&network, &lonely);
    let (second, at) = Member::on(&network, &lonely);
    assert!(!can_reach(&first.namespace, &second.namespace, at.address, BRIEF));
    assert!(can_reach(
        &first.namespace,
        &host.namespace,
        lonely.gateway(),
        PATIENCE
    ));
    assert!(can_reach(
        &first.namespace,
        &host.outside,
        Ipv4Addr::new(203, 0, 113, 2),
        PATIENCE
    ));
}

#[test]
fn one_container_joins_and_leaves_several_networks() {
    let host = Host::new();
    let network = host.open();
    let blue = create(&host, &network, &request("br-blue")).unwrap();
    let red = BridgeRequest {
        subnet: Some("10.9.0.0/24".parse().unwrap()),
        range: Some("10.9.0.128/25".parse().unwrap()),
        gateway: Some(Ipv4Addr::new(10, 9, 0, 254)),
        reserved: vec![Ipv4Addr::new(10, 9, 0, 128)],
        mtu: Some(1400),
        ..request("br-red")
    };
    let red = create(&host, &network, &red).unwrap();
    let member = Member::new();
    let first = member.join(&network, &blue, &Place::default()).unwrap();
    let place = Place {
        interface: "eth1",
        mac_address: Some([2, 0, 0, 0, 0, 9]),
        link_local: &[Ipv4Addr::new(169, 254, 8, 8)],
        is_gateway: false,
        ..Place::default()
    };
    let second = member.join(&network, &red, &place).unwrap();
    assert_eq!(second.address, Ipv4Addr::new(10, 9, 0, 129));
    let inside = member.namespace.run(|| run("ip addr show eth1"));
    for wanted in ["10.9.0.129/24", "169.254.8.8/16", "mtu 1400", "02:00:00:00:00:09"] {
        assert!(inside.contains(wanted), "{wanted}: {inside}");
    }
    let (neighbour, _) = Member::on(&network, &red);
    assert!(can_reach(
        &neighbour.namespace,
        &member.namespace,
        second.address,
        PATIENCE
    ));
    let taken = Place {
        address: Some(second.address),
        ..Place::default()
    };
    assert!(matches!(
        Member::new().join(&network, &red, &taken),
        Err(NetworkError::AddressInUse(_))
    ));
    let route = member.namespace.route_socket();
    network
        .change_default_route(route.as_fd(), Some(&second))
        .unwrap();
    let routes = member.namespace.run(|| run("ip route"));
    assert!(routes.contains("default via 10.9.0.254 dev eth1"), "{routes}");
    assert_eq!(routes.matches("default").count(), 1, "{routes}");
    network.disconnect(&first).unwrap();
    let inside = member.namespace.run(|| run("ip -br link"));
    assert!(!inside.contains("eth0") && inside.contains("eth1"), "{inside}");
    network.change_default_route(route.as_fd(), None).unwrap();
    network.change_default_route(route.as_fd(), None).unwrap();
    let again = Place {
        address: Some(first.address),
        ..Place::default()
    };
    member.join(&network, &blue, &again).unwrap();
}

#[test]
fn ranges_that_collide_are_refused_and_nothing_is_made() {
    let host = Host::new();
    let network = host.open();
    let with_subnet = |text: &str| BridgeRequest {
        subnet: Some(text.parse().unwrap()),
        ..request("br-x")
    };
    assert!(matches!(
        create(&host, &network, &with_subnet("172.17.8.0/24")),
        Err(NetworkError::SubnetOverlaps(_))
    ));
    assert!(matches!(
        create(&host, &network, &with_subnet("203.0.113.0/25")),
        Err(NetworkError::SubnetOfHost { .. })
    ));
    let wrong_gateway = BridgeRequest {
        gateway: Some(Ipv4Addr::new(10, 8, 0, 1)),
        ..with_subnet("10.9.0.0/24")
    };
    assert!(matches!(
        create(&host, &network, &wrong_gateway),
        Err(NetworkError::AddressOutside { .. })
    ));
    assert!(matches!(
        create(
            &host,
            &network,
            &BridgeRequest {
                name: "uplink".to_owned(),
                ..request("x")
            }
        ),
        Err(NetworkError::InterfaceExists(_))
    ));
    let links = host.namespace.run(|| run("ip -br link"));
    assert!(!links.contains("br-x"), "{links}");
    // A creator that cannot write the network down makes none.
    let refused = host.namespace.run(|| {
        network.create_bridge(&request("br-x"), &[], |_| {
            Err::<(), _>(NetworkError::InvalidOption("no".to_owned()))
        })
    });
    assert!(refused.is_err());
    assert!(!host.namespace.run(|| run("ip -br link")).contains("br-x"));
}

#[test]
fn engines_that_choose_at_once_never_meet() {
    let host = Host::new();
    let subnets: Vec<_> = std::thread::scope(|scope| {
        let engines: Vec<_> = (0..6)
            .map(|number| {
                let host = &host;
                scope.spawn(move || {
                    let options = NetworkOptions::new(
                        format!("engine{number}"),
                        format!("engine{number}"),
                        host.directory.path().join(format!("{number}.json")),
                    );
                    let network = host.namespace.run(|| Network::open(options).unwrap());
                    let made = create(host, &network, &request(&format!("net{number}"))).unwrap();
                    [network.subnet(), made.subnet().to_string()]
                })
            })
            .collect();
        engines
            .into_iter()
            .flat_map(|engine| engine.join().unwrap())
            .collect()
    });
    let distinct: HashSet<_> = subnets.iter().collect();
    assert_eq!(distinct.len(), subnets.len(), "{subnets:?}");
}

#[test]
fn networks_come_back_as_they_were() {
    let host = Host::new();
    let (options, endpoint, member) = {
        let network = host.open();
        let blue = create(&host, &network, &request("br-blue")).unwrap();
        let (member, endpoint) = Member::on(&network, &blue);
        (blue.options().clone(), endpoint, member)
    };
    let reopen = |bridges: Vec<BridgeOptions>| {
        let options = NetworkOptions {
            bridges,
            ..host.options()
        };
        host.namespace.run(|| Network::open(options).unwrap())
    };
    let network = reopen(vec![options.clone()]);
    network.reserve(&member.id, &endpoint);
    network.sweep(std::slice::from_ref(&endpoint), &[]).unwrap();
    let blue = network.find_bridge("br-blue").unwrap();
    let (second, _) = Member::on(&network, &blue);
    assert!(can_reach(
        &second.namespace,
        &member.namespace,
        endpoint.address,
        PATIENCE
    ));
    // After a reboot nothing is there but what was written down.
    host.namespace.run(|| network.close().unwrap());
    let network = reopen(vec![options.clone()]);
    assert_eq!(network.find_bridge("br-blue").unwrap().options(), &options);
}

#[test]
fn a_udp_sender_that_never_pauses_follows_its_port() {
    let host = Host::new();
    let network = host.open();
    let client = host.outside.run(|| UdpSocket::bind("0.0.0.0:7777").unwrap());
    client.set_read_timeout(Some(BRIEF)).unwrap();
    client.connect("203.0.113.1:5353").unwrap();
    let wanted = PublishRequest {
        container_port: 53,
        protocol: Protocol::Udp,
        host_ip: None,
        host_ports: Some((5353, 5353)),
    };
    for answer in [b"first.", b"second"] {
        let _ = client.send(b"?");
        let (member, endpoint) = Member::on(&network, network.default_bridge());
        let server = member.namespace.run(|| UdpSocket::bind("0.0.0.0:53").unwrap());
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let published = host
            .publish(
                &network,
                &member.id,
                "dns",
                endpoint.address,
                std::slice::from_ref(&wanted),
            )
            .unwrap();
        // What was refused before the port was there is told to the sender once.
        let _ = client.send(b"?");
        let _ = client.send(b"?");
        let mut buffer = [0; 16];
        let (_, from) = server.recv_from(&mut buffer).unwrap();
        server.send_to(answer, from).unwrap();
        let mut received = client.recv(&mut buffer);
        if received.is_err() {
            received = client.recv(&mut buffer);
        }
        assert_eq!(&buffer[..received.unwrap()], answer);
        // The first container stays, and would go on to be asked.
        std::mem::forget(member);
        network.unpublish(&ContainerId::generate(), &published).unwrap();
    }
}

#[test]
fn questions_for_port_53_reach_the_resolver_and_leave_the_containers_own_port_alone() {
    let namespace = Namespace::new();
    let resolver = Ipv4Addr::new(127, 0, 0, 11);
    namespace.run(|| {
        let udp = UdpSocket::bind((resolver, 0)).unwrap();
        let tcp = TcpListener::bind((resolver, 0)).unwrap();
        let nft = netlink::open(netlink::Protocol::Netfilter).unwrap();
        let ports = (udp.local_addr().unwrap().port(), tcp.local_addr().unwrap().port());
        // Written again, as after a new start of the resolver, the rules are the same.
        for _ in 0..2 {
            redirect_dns(nft.as_fd(), resolver, ports.0, ports.1).unwrap();
        }
        let own = UdpSocket::bind("0.0.0.0:53").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect((resolver, 53)).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.send(b"question").unwrap();
        let mut buffer = [0; 64];
        udp.set_read_timeout(Some(PATIENCE)).unwrap();
        let (length, from) = udp.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"question");
        udp.send_to(b"answer", from).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), 6);
        // By TCP, with more than one segment of data.
        let mut stream = TcpStream::connect((resolver, 53)).unwrap();
        let (mut accepted, _) = tcp.accept().unwrap();
        let sent = vec![7_u8; 200_000];
        let expected = sent.clone();
        let writer = std::thread::spawn(move || std::io::Write::write_all(&mut accepted, &sent).unwrap());
        let mut received = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut received).unwrap();
        writer.join().unwrap();
        assert_eq!(received, expected);
        // The container's own server on all its addresses.
        client.connect("127.0.0.1:53").unwrap();
        client.send(b"own").unwrap();
        own.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(own.recv_from(&mut buffer).unwrap().0, 3);
    });
}
