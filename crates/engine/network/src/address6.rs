//! Which IPv6 addresses a bridge and its containers get. Pure.
//!
//! A subnet has more addresses than anybody counts: they are given out one after another and none is given again
//! before a restart of the engine, unless somebody asks for it.

use crate::error::{NetworkError, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// What a network without a subnet of its own takes: one link (RFC 4291, 2.5.4).
const LINK_PREFIX_LENGTH: u8 = 64;
/// Room for a gateway and one container.
const PREFIX_LENGTH_MAX: u8 = 126;

/// A range of IPv6 addresses in its canonical form: no bits below the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet6 {
    pub network: Ipv6Addr,
    pub prefix_length: u8,
}

impl Subnet6 {
    pub fn containing(address: Ipv6Addr, prefix_length: u8) -> Self {
        Self {
            network: Ipv6Addr::from_bits(address.to_bits() & mask(prefix_length)),
            prefix_length,
        }
    }

    /// A unique local subnet (RFC 4193): `fd`, 40 random bits, subnet 0.
    pub fn unique_local(random: u64) -> Self {
        let global = u128::from(random & 0xff_ffff_ffff);
        Self {
            network: Ipv6Addr::from_bits(0xfd << 120 | global << 80),
            prefix_length: LINK_PREFIX_LENGTH,
        }
    }

    pub fn contains(self, address: Ipv6Addr) -> bool {
        address.to_bits() & mask(self.prefix_length) == self.network.to_bits()
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    fn last(self) -> u128 {
        self.network.to_bits() | !mask(self.prefix_length)
    }
}

impl fmt::Display for Subnet6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_length)
    }
}

impl FromStr for Subnet6 {
    type Err = NetworkError;
    /// `fd00:1::/64`; bits below the prefix are an error.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = |reason: &str| NetworkError::InvalidOption(format!("invalid subnet {text}: {reason}"));
        let parsed = text.split_once('/').and_then(|(address, length)| {
            let address: Ipv6Addr = address.parse().ok()?;
            let length: u8 = length.parse().ok().filter(|length| *length <= 128)?;
            Some((address, Self::containing(address, length)))
        });
        let (address, subnet) = parsed.ok_or_else(|| wrong("invalid CIDR block notation"))?;
        if subnet.network != address {
            return Err(wrong(&format!("it should be {subnet}")));
        }
        if subnet.prefix_length > PREFIX_LENGTH_MAX {
            return Err(wrong("it is too small for a gateway and a container"));
        }
        if address.is_loopback()
            || address.is_multicast()
            || address.is_unspecified()
            || address.is_unicast_link_local()
        {
            return Err(wrong("containers cannot have such addresses"));
        }
        Ok(subnet)
    }
}

fn mask(prefix_length: u8) -> u128 {
    u128::MAX
        .checked_shl(128 - u32::from(prefix_length.min(128)))
        .unwrap_or(0)
}

/// The IPv6 side of a network as it is made: nothing is left to choose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv6Options {
    pub subnet: Subnet6,
    /// The bridge's own address.
    pub gateway: Ipv6Addr,
    /// The part of the subnet from which addresses are given out; `None` for all of it.
    pub range: Option<Subnet6>,
    /// Addresses of the subnet that are never given out.
    pub reserved: Vec<Ipv6Addr>,
}

/// The IPv6 side of a network to be made, with what its creator left open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ipv6Request {
    /// `None` takes a unique local one.
    pub subnet: Option<Subnet6>,
    /// `None` takes the first address of the range or subnet.
    pub gateway: Option<Ipv6Addr>,
    pub range: Option<Subnet6>,
    pub reserved: Vec<Ipv6Addr>,
}

impl Ipv6Request {
    /// Gateway, range and reserved addresses, checked against the subnet.
    pub fn decide(&self, subnet: Subnet6) -> Result<Ipv6Options> {
        let outside = |address: Ipv6Addr| NetworkError::AddressOutside {
            address: address.into(),
            subnet: subnet.network.into(),
            prefix_length: subnet.prefix_length,
        };
        if let Some(range) = self.range
            && (!subnet.contains(range.network) || range.prefix_length < subnet.prefix_length)
        {
            return Err(outside(range.network));
        }
        let first = self.range.unwrap_or(subnet).network.to_bits();
        let first = if first == subnet.network.to_bits() {
            first + 1
        } else {
            first
        };
        let gateway = self.gateway.unwrap_or(Ipv6Addr::from_bits(first));
        if let Some(address) = self
            .reserved
            .iter()
            .chain([&gateway])
            .find(|address| !subnet.contains(**address))
        {
            return Err(outside(*address));
        }
        Ok(Ipv6Options {
            subnet,
            gateway,
            range: self.range,
            reserved: self.reserved.clone(),
        })
    }
}

/// The addresses of one bridge.
#[derive(Debug)]
pub struct AddressPool6 {
    subnet: Subnet6,
    range: Subnet6,
    reserved: HashSet<u128>,
    used: HashSet<u128>,
    last: u128,
}

impl AddressPool6 {
    pub fn new(options: &Ipv6Options) -> Self {
        let range = options.range.unwrap_or(options.subnet);
        let reserved = options.reserved.iter().chain([&options.gateway]);
        Self {
            subnet: options.subnet,
            range,
            reserved: reserved.map(|address| address.to_bits()).collect(),
            used: HashSet::new(),
            last: range.last(),
        }
    }

    /// The next free address.
    pub fn allocate(&mut self) -> Result<Ipv6Addr> {
        let (first, end) = (self.range.network.to_bits(), self.range.last());
        let mut next = self.last;
        // Among one more than are taken there is a free one, if there is any.
        for _ in 0..=self.used.len() + self.reserved.len() + 1 {
            next = if next >= end { first } else { next + 1 };
            if self.is_free(next) {
                self.last = next;
                self.used.insert(next);
                return Ok(Ipv6Addr::from_bits(next));
            }
        }
        Err(NetworkError::AddressesExhausted {
            subnet: self.range.network.into(),
            prefix_length: self.range.prefix_length,
        })
    }

    /// The subnet's first address is that of all its routers (RFC 4291, 2.6.1).
    fn is_free(&self, bits: u128) -> bool {
        bits != self.subnet.network.to_bits() && !self.used.contains(&bits) && !self.reserved.contains(&bits)
    }

    /// Takes a particular address.
    pub fn take(&mut self, address: Ipv6Addr) -> Result<()> {
        if !self.subnet.contains(address) || address == self.subnet.network {
            return Err(NetworkError::AddressOutside {
                address: address.into(),
                subnet: self.subnet.network.into(),
                prefix_length: self.subnet.prefix_length,
            });
        }
        if !self.is_free(address.to_bits()) {
            return Err(NetworkError::AddressInUse(address.into()));
        }
        self.used.insert(address.to_bits());
        Ok(())
    }

    /// As [`Self::take`], for a container that has been running since before: allocation goes on after it.
    pub fn restore(&mut self, address: Ipv6Addr) -> Result<()> {
        self.take(address)?;
        let bits = address.to_bits();
        if self.range.contains(address) && (self.last >= self.range.last() || self.last < bits) {
            self.last = bits;
        }
        Ok(())
    }

    pub fn release(&mut self, address: Ipv6Addr) {
        self.used.remove(&address.to_bits());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(subnet: &str) -> AddressPool6 {
        let request = Ipv6Request::default();
        AddressPool6::new(&request.decide(subnet.parse().unwrap()).unwrap())
    }

    #[test]
    fn addresses_come_one_after_another_and_end() {
        let mut pool = pool("fd00:1::/126");
        let given: Vec<String> = (0..2).map(|_| pool.allocate().unwrap().to_string()).collect();
        assert_eq!(given, ["fd00:1::2", "fd00:1::3"]);
        assert!(pool.allocate().is_err());
        pool.release("fd00:1::2".parse().unwrap());
        assert_eq!(pool.allocate().unwrap().to_string(), "fd00:1::2");
    }

    #[test]
    fn particular_addresses_are_checked() {
        let mut pool = pool("fd00:1::/64");
        pool.take("fd00:1::99".parse().unwrap()).unwrap();
        for (address, is_conflict) in [
            ("fd00:1::99", true),
            ("fd00:1::1", true),
            ("fd00:1::", false),
            ("fd00:2::1", false),
        ] {
            let error = pool.take(address.parse().unwrap()).unwrap_err();
            assert_eq!(
                matches!(error, NetworkError::AddressInUse(_)),
                is_conflict,
                "{error}"
            );
        }
        pool.restore("fd00:1::7".parse().unwrap()).unwrap();
        assert_eq!(pool.allocate().unwrap().to_string(), "fd00:1::8");
    }

    #[test]
    fn subnets_are_written_canonically_and_nonsense_is_refused() {
        assert_eq!(
            "fd00:1::/64".parse::<Subnet6>().unwrap().to_string(),
            "fd00:1::/64"
        );
        for text in [
            "fd00:1::1/64",
            "fd00:1::",
            "fd00::/129",
            "fd00::/127",
            "fe80::/64",
            "ff02::/64",
            "::1/128",
            "10.0.0.0/8",
            "x/64",
        ] {
            assert!(text.parse::<Subnet6>().is_err(), "{text}");
        }
        let made = Subnet6::unique_local(0xab_1234_5678_9abc).to_string();
        assert_eq!(made, "fd34:5678:9abc::/64");
    }

    #[test]
    fn gateway_and_range_lie_in_the_subnet() {
        let subnet: Subnet6 = "fd00:1::/64".parse().unwrap();
        let decide = |gateway: &str, range: &str| {
            let request = Ipv6Request {
                gateway: gateway.parse().ok(),
                range: range.parse().ok(),
                ..Ipv6Request::default()
            };
            request.decide(subnet)
        };
        assert_eq!(decide("", "").unwrap().gateway.to_string(), "fd00:1::1");
        assert_eq!(
            decide("", "fd00:1::5:0/112").unwrap().gateway.to_string(),
            "fd00:1::5:0"
        );
        assert!(decide("fd00:2::1", "").is_err());
        assert!(decide("", "fd00:2::/80").is_err());
    }
}
