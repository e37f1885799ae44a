//! What can go wrong, in Docker's words where Docker has any.

use crate::Protocol;
use naru_base::ErrorKind;
use naru_sys::netlink::Refusal;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

pub type Result<T> = std::result::Result<T, NetworkError>;

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("{what}: {source}")]
    Kernel { what: String, source: Refusal },
    #[error("{what} {path}: {source}", path = .path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    /// Another container has the port. `container` is what is known of it: its id or the start of it.
    #[error("Bind for {} failed: port is already allocated", SocketAddr::new(*.host_ip, *.port))]
    PortAllocated {
        host_ip: IpAddr,
        port: u16,
        protocol: Protocol,
        container: String,
    },
    /// A process of the host has the port, or the address is not the host's.
    #[error("listen {protocol}{} {}: bind: {reason}", family(*.host_ip), SocketAddr::new(*.host_ip, *.port))]
    PortInUse {
        host_ip: IpAddr,
        port: u16,
        protocol: Protocol,
        reason: String,
    },
    #[error("no port of {first} to {last} is free on {host_ip} for {protocol}")]
    NoPortFree {
        host_ip: IpAddr,
        protocol: Protocol,
        first: u16,
        last: u16,
    },
    #[error("invalid port request: {0}")]
    InvalidPort(String),
    #[error("no available IPv{} addresses on this network's address pool: {subnet}/{prefix_length}", family(*.subnet))]
    AddressesExhausted { subnet: IpAddr, prefix_length: u8 },
    #[error("Address already in use: {0}")]
    AddressInUse(IpAddr),
    #[error("Pool overlaps with other one on this address space: {0}")]
    SubnetOverlaps(String),
    #[error(
        "{subnet} overlaps the host's own address {address}: its neighbours could not be reached any more"
    )]
    SubnetOfHost { subnet: String, address: IpAddr },
    #[error("an interface {0} exists already on the host; choose another com.docker.network.bridge.name")]
    InterfaceExists(String),
    #[error("address {address} does not belong to {subnet}/{prefix_length} or is reserved there")]
    AddressOutside {
        address: IpAddr,
        subnet: IpAddr,
        prefix_length: u8,
    },
    #[error("bridge {bridge} is full: a bridge takes {max} containers", max = crate::BRIDGE_PORTS_MAX)]
    BridgeFull { bridge: String },
    #[error(
        "could not find an available, non-overlapping IPv4 address pool for bridge {bridge}; name a subnet, or widen --default-address-pool"
    )]
    NoFreeSubnet { bridge: String },
    #[error("invalid network option: {0}")]
    InvalidOption(String),
    #[error("cannot publish on {0}: {1}")]
    CannotPublish(IpAddr, &'static str),
    #[error("{0} needs IPv6, which this host's kernel does not have")]
    NoIpv6(String),
}

impl NetworkError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidPort(_) | Self::InvalidOption(_) | Self::AddressOutside { .. } => {
                ErrorKind::InvalidParameter
            }
            Self::CannotPublish(..) | Self::NoIpv6(_) => ErrorKind::NotImplemented,
            Self::BridgeFull { .. } | Self::AddressesExhausted { .. } => ErrorKind::Unavailable,
            Self::AddressInUse(_) | Self::SubnetOverlaps(_) | Self::SubnetOfHost { .. } => {
                ErrorKind::Forbidden
            }
            Self::InterfaceExists(_) => ErrorKind::Conflict,
            // Docker answers 500 when a port is taken at start.
            Self::PortAllocated { .. }
            | Self::PortInUse { .. }
            | Self::NoPortFree { .. }
            | Self::Kernel { .. }
            | Self::File { .. }
            | Self::NoFreeSubnet { .. } => ErrorKind::System,
        }
    }

    /// A port that was asked for is not free.
    pub fn is_port_in_use(&self) -> bool {
        matches!(
            self,
            Self::PortAllocated { .. } | Self::PortInUse { .. } | Self::NoPortFree { .. }
        )
    }
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 4 } else { 6 }
}

/// Names the step that the kernel refused.
pub(crate) fn refused(what: impl Into<String>) -> impl FnOnce(Refusal) -> NetworkError {
    let what = what.into();
    move |source| NetworkError::Kernel { what, source }
}
