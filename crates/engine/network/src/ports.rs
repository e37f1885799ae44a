//! Which host ports are taken, and by whom.
//!
//! Each published port is also held by a bound socket of this process, as Docker's proxy holds it: a program of the
//! host, or another engine, that wants the port is told so. The socket never serves: the map rewrites every connection
//! before a local socket is looked for. It begins to listen only after the map has the port, so that no client is ever
//! connected to it; and it dies with the daemon, while the port keeps working.

use crate::error::{NetworkError, Result};
use crate::{Protocol, PublishRequest, Published, PublishedEntry};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrV4, SocketFlags, SocketType, sockopt};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

#[derive(Debug)]
struct Holder {
    host_ip: Option<Ipv4Addr>,
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
    /// Chooses a port for the request and takes it.
    pub fn take(
        &mut self,
        container: &str,
        request: &PublishRequest,
        ephemeral: (u16, u16),
    ) -> Result<Published> {
        let host_ip = request.host_ip.filter(|address| !address.is_unspecified());
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
            match self.take_one(container, request.protocol, host_ip, host_port) {
                Ok(()) => {
                    if request.host_ports.is_none() {
                        self.cursor = offset + 1;
                    }
                    return Ok(Published {
                        container_port: request.container_port,
                        protocol: request.protocol,
                        host_ip,
                        host_port,
                    });
                }
                // Another port of the range may do, but an address that is not the host's never will.
                Err(error) if error.is_port_in_use() && count > 1 => refusal = Some(error),
                Err(error) => return Err(error),
            }
        }
        tracing::debug!(?refusal, "a range of ports is taken");
        let host_ip = host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
        Err(NetworkError::NoPortFree {
            host_ip,
            protocol: request.protocol,
            first,
            last,
        })
    }

    fn take_one(
        &mut self,
        container: &str,
        protocol: Protocol,
        host_ip: Option<Ipv4Addr>,
        port: u16,
    ) -> Result<()> {
        let holders = self.holders.entry((protocol, port)).or_default();
        let overlapping = holders
            .iter()
            .find(|holder| holder.host_ip.is_none() || host_ip.is_none() || holder.host_ip == host_ip);
        let address = host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
        if let Some(holder) = overlapping {
            let container = holder.container.clone();
            return Err(NetworkError::PortAllocated {
                host_ip: address,
                port,
                protocol,
                container,
            });
        }
        match bind(protocol, address, port) {
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
                Err(in_use(protocol, address, port, errno))
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
        let socket = bind(protocol, host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED), host_port)
            .and_then(|socket| listen(protocol, &socket).map(|()| socket))
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
            let address = port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
            listen(port.protocol, socket)
                .map_err(|errno| in_use(port.protocol, address, port.host_port, errno))?;
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

fn bind(protocol: Protocol, address: Ipv4Addr, port: u16) -> std::result::Result<OwnedFd, Errno> {
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?;
    if protocol == Protocol::Tcp {
        // Connections of an earlier user of the port may still be in TIME_WAIT.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &SocketAddrV4::new(address, port))?;
    Ok(socket)
}

fn listen(protocol: Protocol, socket: &OwnedFd) -> std::result::Result<(), Errno> {
    match protocol {
        Protocol::Tcp => rustix::net::listen(socket, 0),
        Protocol::Udp => Ok(()),
    }
}

fn in_use(protocol: Protocol, host_ip: Ipv4Addr, port: u16, errno: Errno) -> NetworkError {
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
