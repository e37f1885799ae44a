//! Which host ports are taken, and by whom.
//!
//! Each published port is also held by a bound socket of this process, as Docker's proxy holds it: a program of the
//! host, or another engine, that wants the port is told so. The socket never serves: the map rewrites every connection
//! before a local socket is looked for. It begins to listen only after the map has the port, so that no client is ever
//! connected to it; and it dies with the daemon, while the port keeps working.

use crate::error::{NetworkError, Result};
use crate::{Protocol, PublishRequest, Published, PublishedEntry};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

#[derive(Debug)]
struct Holder {
    host_ip: IpAddr,
    container: String,
    /// What the map holds for it, once it does.
    entry: Option<PublishedEntry>,
    /// `None` when a port found in the kernel could not be bound again.
    socket: Option<OwnedFd>,
}

#[derive(Debug, Default)]
pub struct PortTable {
    /// Several containers may share a port number on different addresses.
    holders: HashMap<(Protocol, u16), Vec<Holder>>,
    /// Where the search for an ephemeral port goes on, as an offset into the range.
    cursor: usize,
}

impl PortTable {
    /// Chooses a port for the request and takes it on each of these addresses, which are the host's.
    pub fn take(
        &mut self,
        container: &str,
        request: &PublishRequest,
        host_ips: &[IpAddr],
        ephemeral: (u16, u16),
    ) -> Result<Vec<Published>> {
        let (first, last) = request.host_ports.unwrap_or(ephemeral);
        if request.container_port == 0 || first == 0 || first > last {
            return Err(NetworkError::InvalidPort(format!(
                "container port {}, host ports {first} to {last}",
                request.container_port
            )));
        }
        let count = usize::from(last - first) + 1;
        let start = if request.host_ports.is_none() {
            self.cursor % count
        } else {
            0
        };
        let mut refusal = None;
        for step in 0..count {
            let offset = (start + step) % count;
            let host_port = first + offset as u16;
            match self.take_all(container, request, host_ips, host_port) {
                Ok(published) => {
                    if request.host_ports.is_none() {
                        self.cursor = offset + 1;
                    }
                    return Ok(published);
                }
                // Another port of the range may do, but an address that is not the host's never will.
                Err(error) if error.is_port_in_use() && count > 1 => refusal = Some(error),
                Err(error) => return Err(error),
            }
        }
        tracing::debug!(?refusal, "a range of ports is taken");
        Err(NetworkError::NoPortFree {
            host_ip: host_ips.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
            protocol: request.protocol,
            first,
            last,
        })
    }

    /// One port on all of the addresses, or on none.
    fn take_all(
        &mut self,
        container: &str,
        request: &PublishRequest,
        host_ips: &[IpAddr],
        host_port: u16,
    ) -> Result<Vec<Published>> {
        let mut taken = Vec::with_capacity(host_ips.len());
        for host_ip in host_ips {
            if let Err(error) = self.take_one(container, request.protocol, *host_ip, host_port) {
                for published in &taken {
                    self.release(published);
                }
                return Err(error);
            }
            taken.push(Published {
                container_port: request.container_port,
                protocol: request.protocol,
                host_ip: *host_ip,
                host_port,
            });
        }
        Ok(taken)
    }

    fn take_one(&mut self, container: &str, protocol: Protocol, host_ip: IpAddr, port: u16) -> Result<()> {
        let holders = self.holders.entry((protocol, port)).or_default();
        if let Some(holder) = holders.iter().find(|holder| overlap(holder.host_ip, host_ip)) {
            let container = holder.container.clone();
            return Err(NetworkError::PortAllocated {
                host_ip,
                port,
                protocol,
                container,
            });
        }
        match bind(protocol, host_ip, port) {
            Ok(socket) => {
                holders.push(Holder {
                    host_ip,
                    container: container.to_owned(),
                    entry: None,
                    socket: Some(socket),
                });
                Ok(())
            }
            Err(errno) => {
                if holders.is_empty() {
                    self.holders.remove(&(protocol, port));
                }
                Err(in_use(protocol, host_ip, port, errno))
            }
        }
    }

    /// Takes a port that the kernel's map has already.
    pub fn restore(&mut self, entry: &PublishedEntry) {
        let Published {
            protocol,
            host_ip,
            host_port,
            ..
        } = entry.published;
        let socket = bind(protocol, host_ip, host_port)
            .and_then(|socket| listen(protocol, host_ip, &socket).map(|()| socket))
            .inspect_err(|errno| tracing::debug!(host_port, %errno, "a published port cannot be held again"))
            .ok();
        let holder = Holder {
            host_ip,
            container: entry.comment.clone(),
            entry: Some(entry.clone()),
            socket,
        };
        self.holders
            .entry((protocol, host_port))
            .or_default()
            .push(holder);
    }

    /// The port is in the map now; fails if a program of the host began to listen on it meanwhile.
    pub fn confirm(&mut self, entry: &PublishedEntry) -> Result<()> {
        let port = &entry.published;
        let holders = self.holders.get_mut(&(port.protocol, port.host_port));
        let holder =
            holders.and_then(|holders| holders.iter_mut().find(|holder| holder.host_ip == port.host_ip));
        let Some(holder) = holder else { return Ok(()) };
        if let Some(socket) = &holder.socket {
            listen(port.protocol, port.host_ip, socket)
                .map_err(|errno| in_use(port.protocol, port.host_ip, port.host_port, errno))?;
        }
        holder.entry = Some(entry.clone());
        Ok(())
    }

    /// What the map should hold.
    pub fn entries(&self) -> Vec<PublishedEntry> {
        self.holders
            .values()
            .flatten()
            .filter_map(|holder| holder.entry.clone())
            .collect()
    }

    pub fn release(&mut self, published: &Published) {
        let key = (published.protocol, published.host_port);
        if let Some(holders) = self.holders.get_mut(&key) {
            holders.retain(|holder| holder.host_ip != published.host_ip);
            if holders.is_empty() {
                self.holders.remove(&key);
            }
        }
    }
}

/// Whether a port on one of the addresses is a port on the other too. The families are apart: a container may have one
/// and another container the other.
fn overlap(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4() && (one == other || one.is_unspecified() || other.is_unspecified())
}

fn bind(protocol: Protocol, address: IpAddr, port: u16) -> std::result::Result<OwnedFd, Errno> {
    if address.is_ipv4() {
        // Connections of an earlier user of the port may still be in TIME_WAIT.
        return open_bound(protocol, address, port, protocol == Protocol::Tcp);
    }
    // A socket that never listens (see `listen`) keeps others out only where it does not share.
    match open_bound(protocol, address, port, false) {
        Err(Errno::ADDRINUSE) if protocol == Protocol::Tcp => open_bound(protocol, address, port, true),
        bound => bound,
    }
}

fn open_bound(
    protocol: Protocol,
    address: IpAddr,
    port: u16,
    shares: bool,
) -> std::result::Result<OwnedFd, Errno> {
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if shares {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &SocketAddr::new(address, port))?;
    Ok(socket)
}

/// Over IPv6 nothing listens: the kernel leads nothing from `::1` to another interface, so that such a connection would
/// be answered by the socket that only holds the port, and hang. Refused, a client goes on to 127.0.0.1.
fn listen(protocol: Protocol, address: IpAddr, socket: &OwnedFd) -> std::result::Result<(), Errno> {
    match (protocol, address) {
        (Protocol::Tcp, IpAddr::V4(_)) => rustix::net::listen(socket, 0),
        _ => Ok(()),
    }
}

/// The addresses of the host that a request means, for a container that has IPv6 or not.
pub fn host_addresses(request: &PublishRequest, has_ipv6: bool) -> Result<Vec<IpAddr>> {
    let (all, all6) = (
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    );
    match request.host_ip {
        None if has_ipv6 => Ok(vec![all, all6]),
        None => Ok(vec![all]),
        Some(address @ IpAddr::V4(_)) => Ok(vec![address]),
        Some(address) if !has_ipv6 => Err(NetworkError::CannotPublish(
            address,
            "the container has no IPv6 address; connect it to a network made with --ipv6",
        )),
        Some(address) if address.is_loopback() => Err(NetworkError::CannotPublish(
            address,
            "the kernel leads nothing from ::1 to a container; publish on 127.0.0.1",
        )),
        Some(address) => Ok(vec![address]),
    }
}

fn in_use(protocol: Protocol, host_ip: IpAddr, port: u16, errno: Errno) -> NetworkError {
    let reason = match errno {
        Errno::ADDRINUSE => "address already in use".to_owned(),
        Errno::ADDRNOTAVAIL => "cannot assign requested address".to_owned(),
        other => std::io::Error::from(other).to_string(),
    };
    NetworkError::PortInUse {
        host_ip,
        port,
        protocol,
        reason,
    }
}
