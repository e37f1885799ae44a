//! Network namespaces for tests: each test thread leaves the host's own for good before it does anything.

#![allow(dead_code, reason = "each test file uses a part of it")]

use naru_base::ContainerId;
use naru_network::{Endpoint, Network, NetworkError, NetworkOptions, PublishRequest, Published, Target};
use naru_sys::netlink;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use tempfile::TempDir;

/// A network namespace, entered by threads.
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// A new one with `lo` up. The calling thread stays where it is.
    pub fn new() -> Self {
        let file = std::thread::spawn(|| {
            unshare_network();
            run("ip link set lo up");
            File::open("/proc/thread-self/ns/net").unwrap()
        })
        .join()
        .unwrap();
        Self { file }
    }

    /// Runs `work` in the namespace, on a thread of its own.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    rustix::thread::move_into_link_name_space(
                        self.file.as_fd(),
                        Some(LinkNameSpaceType::Network),
                    )
                    .unwrap();
                    work()
                })
                .join()
                .unwrap()
        })
    }

    pub fn fd(&self) -> &File {
        &self.file
    }

    pub fn route_socket(&self) -> OwnedFd {
        self.run(|| netlink::open(netlink::Protocol::Route).unwrap())
    }
}

#[expect(
    deprecated,
    reason = "the replacement is unsafe only for flags that share file descriptors"
)]
fn unshare_network() {
    rustix::thread::unshare(UnshareFlags::NEWNET).unwrap();
}

/// Runs a shell command in the calling thread's namespaces and returns what it printed.
pub fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub fn is_installed(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output()
        .unwrap();
    if !found.status.success() {
        println!("skipped: {program} is not installed");
    }
    found.status.success()
}

/// A host of its own with an engine's network on it, and a machine outside at 203.0.113.2 (the host is .1).
pub struct Host {
    pub namespace: Namespace,
    pub outside: Namespace,
    pub directory: TempDir,
}

impl Host {
    pub fn new() -> Self {
        let host = Self {
            namespace: Namespace::new(),
            outside: Namespace::new(),
            directory: TempDir::new().unwrap(),
        };
        let outside = format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(host.outside.fd())
        );
        let pid = std::process::id();
        let outside = outside.replace("self", &pid.to_string());
        host.namespace.run(|| {
            run(&format!(
                "ip link add uplink type veth peer name eth0 netns {outside}"
            ));
            run("ip addr add 203.0.113.1/24 dev uplink && ip link set uplink up");
        });
        host.outside.run(|| {
            run("ip addr add 203.0.113.2/24 dev eth0 && ip link set eth0 up && ip route add default via 203.0.113.1");
        });
        host
    }

    pub fn options(&self) -> NetworkOptions {
        NetworkOptions::new(
            "naru0".to_owned(),
            "naru".to_owned(),
            self.directory.path().join("network.json"),
        )
    }

    /// Publishes in the host's namespace, where the ports are bound.
    pub fn publish(
        &self,
        network: &Network,
        id: &ContainerId,
        name: &str,
        target: impl Into<Target> + Send,
        requests: &[PublishRequest],
    ) -> Result<Vec<Published>, NetworkError> {
        self.namespace
            .run(|| network.publish(id, name, target.into(), requests))
    }

    pub fn open(&self) -> Network {
        self.namespace.run(|| Network::open(self.options()).unwrap())
    }
}

/// A container as far as the network is concerned.
pub struct Container {
    pub id: ContainerId,
    pub namespace: Namespace,
    pub endpoint: Endpoint,
}

impl Container {
    pub fn attach(network: &Network) -> Self {
        let (id, namespace) = (ContainerId::generate(), Namespace::new());
        let socket = namespace.route_socket();
        let endpoint = network
            .attach(&id, namespace.fd().as_fd(), socket.as_fd(), None, None)
            .unwrap();
        Self {
            id,
            namespace,
            endpoint,
        }
    }

    pub fn address(&self) -> Ipv4Addr {
        self.endpoint.address
    }
}
