//! Beside other programs' firewalls: their dropping FORWARD chain, their reloads, and Debian's Docker. Needs root.

mod support;

use naru_network::{Protocol, PublishRequest};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Container, Host, Namespace, is_installed, run};

/// Several retransmissions of a first packet, which a link that has just come up may lose.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

fn can_connect(from: &Namespace, target: &str) -> bool {
    let target: SocketAddr = target.parse().unwrap();
    from.run(|| TcpStream::connect_timeout(&target, CONNECT_TIMEOUT).is_ok())
}

/// All ways that a dropping FORWARD chain can break: between containers, out, and in by a published port.
fn check_traffic(host: &Host, first: &Container, second: &Container) {
    let listeners = [
        second.namespace.run(|| TcpListener::bind("0.0.0.0:80").unwrap()),
        host.outside.run(|| TcpListener::bind("0.0.0.0:80").unwrap()),
    ];
    assert!(
        can_connect(&first.namespace, &format!("{}:80", second.address())),
        "between containers"
    );
    assert!(can_connect(&first.namespace, "203.0.113.2:80"), "out");
    assert!(
        can_connect(&host.outside, "203.0.113.1:8080"),
        "in by a published port"
    );
    assert!(can_connect(&second.namespace, "203.0.113.1:8080"), "hairpin");
    assert!(can_connect(&host.namespace, "127.0.0.1:8080"), "from the host");
    drop(listeners);
}

fn request() -> PublishRequest {
    PublishRequest {
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
        host_ports: Some((8080, 8080)),
    }
}

fn set_bridge_netfilter(value: u8) {
    run(&format!(
        "echo {value} > /proc/sys/net/bridge/bridge-nf-call-iptables 2>/dev/null || true"
    ));
}

#[test]
fn a_forward_chain_that_drops_lets_containers_through() {
    if !is_installed("iptables-nft") {
        return;
    }
    for (with_docker_user, bridge_netfilter) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
        let host = Host::new();
        host.namespace.run(|| {
            set_bridge_netfilter(bridge_netfilter);
            run("iptables-nft -P FORWARD DROP");
            if with_docker_user {
                run("iptables-nft -N DOCKER-USER && iptables-nft -A DOCKER-USER -j RETURN");
                run("iptables-nft -I FORWARD -j DOCKER-USER");
            }
        });
        let network = host.open();
        let (first, second) = (Container::attach(&network), Container::attach(&network));
        host.publish(&network, &second.id, "web", second.address(), &[request()])
            .unwrap();
        check_traffic(&host, &first, &second);

        let printed = host.namespace.run(|| run("iptables-nft -S"));
        let chain = if with_docker_user {
            "DOCKER-USER"
        } else {
            "FORWARD"
        };
        for direction in ["-i", "-o"] {
            let rule = printed
                .lines()
                .find(|line| line.starts_with(&format!("-A {chain} {direction} naru0 ")));
            assert!(rule.is_some_and(|rule| rule.ends_with("-j ACCEPT")), "{printed}");
        }
        println!("{printed}");
        host.namespace.run(|| network.close().unwrap());
        let printed = host.namespace.run(|| run("iptables-nft -S"));
        assert!(!printed.contains("naru"), "{printed}");
    }
}

#[test]
fn a_firewall_reload_is_noticed_and_repaired() {
    if !is_installed("iptables-nft") {
        return;
    }
    let host = Host::new();
    host.namespace.run(|| run("iptables-nft -P FORWARD DROP"));
    let network = host.open();
    let watch = host.namespace.run(|| network.watch_rulesets().unwrap());
    let (first, second) = (Container::attach(&network), Container::attach(&network));
    host.publish(&network, &second.id, "web", second.address(), &[request()])
        .unwrap();
    assert!(!watch.drain(), "a published port wakes nobody");
    host.namespace.run(|| run("iptables-nft -F FORWARD"));
    assert!(watch.drain());
    network.ensure_foreign_accept().unwrap();
    check_traffic(&host, &first, &second);
    assert!(watch.drain(), "our own repair");
    network.ensure_foreign_accept().unwrap();
    assert!(!watch.drain(), "which needs no other");
    // Docker comes later: the rules move to the chain it leaves to others.
    host.namespace
        .run(|| run("iptables-nft -N DOCKER-USER && iptables-nft -I FORWARD -j DOCKER-USER"));
    assert!(watch.drain());
    network.ensure_foreign_accept().unwrap();
    let printed = host.namespace.run(|| run("iptables-nft -S"));
    assert_eq!(printed.matches("-A DOCKER-USER").count(), 2, "{printed}");
    assert_eq!(
        printed.matches("naru0").count(),
        2 + printed.matches("comment \"naru naru0\"").count(),
        "{printed}"
    );
    check_traffic(&host, &first, &second);
    // `systemctl restart nftables` takes everything, our own table too.
    host.namespace.run(|| run("nft flush ruleset"));
    assert!(watch.drain());
    network.ensure_foreign_accept().unwrap();
    check_traffic(&host, &first, &second);
}

#[test]
fn firewalld_s_own_table_gets_the_accept_too() {
    if !is_installed("nft") {
        return;
    }
    let host = Host::new();
    host.namespace.run(|| {
        run("nft add table inet firewalld");
        run("nft 'add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; policy accept; }'");
        run("nft add rule inet firewalld filter_FORWARD ct state established,related accept");
        run("nft add rule inet firewalld filter_FORWARD reject");
    });
    let network = host.open();
    let (first, second) = (Container::attach(&network), Container::attach(&network));
    host.publish(&network, &second.id, "web", second.address(), &[request()])
        .unwrap();
    check_traffic(&host, &first, &second);
}

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

#[test]
fn beside_debians_docker() {
    if !is_installed("dockerd") || !is_installed("iptables-nft") {
        return;
    }
    let host = Host::new();
    let directory = host.directory.path().to_owned();
    let network = host.open();
    let (first, second) = (Container::attach(&network), Container::attach(&network));
    host.publish(&network, &second.id, "web", second.address(), &[request()])
        .unwrap();
    let socket = directory.join("docker.sock");
    let daemon = host.namespace.run(|| {
        let log = std::fs::File::create(directory.join("docker.log")).unwrap();
        Command::new("dockerd")
            .args(["--data-root", &format!("{}/data", directory.display())])
            .args(["--exec-root", &format!("{}/exec", directory.display())])
            .args(["--pidfile", &format!("{}/docker.pid", directory.display())])
            .args(["-H", &format!("unix://{}", socket.display())])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
    });
    let _daemon = Daemon(daemon.unwrap());
    if !is_docker_ready(&socket) {
        println!(
            "skipped: dockerd did not start: {}",
            run(&format!("tail -3 {}/docker.log", directory.display()))
        );
        return;
    }
    // Docker has set FORWARD to drop, and chosen its own range.
    let printed = host.namespace.run(|| run("iptables -S FORWARD; ip -o -4 addr"));
    assert!(printed.contains("docker0"), "{printed}");
    network.ensure_foreign_accept().unwrap();
    check_traffic(&host, &first, &second);
    host.namespace.run(|| run("iptables -P FORWARD DROP"));
    check_traffic(&host, &first, &second);
    println!("{}", host.namespace.run(|| run("iptables -S; ip -o -4 addr")));
}

fn is_docker_ready(socket: &std::path::Path) -> bool {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        if let Ok(mut stream) = std::os::unix::net::UnixStream::connect(socket) {
            let mut answer = [0; 12];
            let _ = stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n");
            if stream.read_exact(&mut answer).is_ok() && answer.ends_with(b"200") {
                return true;
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    false
}
