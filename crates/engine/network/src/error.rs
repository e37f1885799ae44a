//! What can go wrong, in Docker's words where Docker has any.

use crate::Protocol;
use crate::address::Subnet;
use naru_base::ErrorKind;
use naru_sys::netlink::Refusal;
use std::net::Ipv4Addr;
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
    #[error("Bind for {host_ip}:{port} failed: port is already allocated")]
    PortAllocated {
        host_ip: Ipv4Addr,
        port: u16,
        protocol: Protocol,
        container: String,
    },
    /// A process of the host has the port, or the address is not the host's.
    #[error("listen {protocol}4 {host_ip}:{port}: bind: {reason}")]
    PortInUse {
        host_ip: Ipv4Addr,
        port: u16,
        protocol: Protocol,
        reason: String,
    },
    #[error("no port of {first} to {last} is free on {host_ip} for {protocol}")]
    NoPortFree {
        host_ip: Ipv4Addr,
        protocol: Protocol,
        first: u16,
        last: u16,
    },
    #[error("invalid port request: {0}")]
    InvalidPort(String),
    #[error("no available IPv4 addresses on this network's address pool: {subnet}/{prefix_length}")]
    AddressesExhausted { subnet: Ipv4Addr, prefix_length: u8 },
    #[error("Address already in use: {0}")]
    AddressInUse(Ipv4Addr),
    #[error("Pool overlaps with other one on this address space: {0}")]
    SubnetOverlaps(Subnet),
    #[error(
        "{subnet} overlaps the host's own address {address}: its neighbours could not be reached any more"
    )]
    SubnetOfHost { subnet: Subnet, address: Ipv4Addr },
    #[error("an interface {0} exists already on the host; choose another com.docker.network.bridge.name")]
    InterfaceExists(String),
    #[error("address {address} does not belong to {subnet}/{prefix_length} or is reserved there")]
    AddressOutside {
        address: Ipv4Addr,
        subnet: Ipv4Addr,
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
    #[error("{0}: IPv6 is not supported yet")]
    Ipv6NotSupported(String),
}

impl NetworkError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidPort(_) | Self::InvalidOption(_) | Self::AddressOutside { .. } => {
                ErrorKind::InvalidParameter
            }
            Self::Ipv6NotSupported(_) => ErrorKind::NotImplemented,
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

/// Names the step that the kernel refused.
pub(crate) fn refused(what: impl Into<String>) -> impl FnOnce(Refusal) -> NetworkError {
    let what = what.into();
    move |source| NetworkError::Kernel { what, source }
}
