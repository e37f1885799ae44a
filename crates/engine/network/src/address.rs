//! Which addresses a bridge and its containers get. Pure: nothing here talks to the kernel.

use crate::error::{NetworkError, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A range of IPv4 addresses in its canonical form: no bits below the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    pub network: Ipv4Addr,
    pub prefix_length: u8,
}

impl Subnet {
    pub fn containing(address: Ipv4Addr, prefix_length: u8) -> Self {
        let mask = mask(prefix_length);
        Self {
            network: Ipv4Addr::from_bits(address.to_bits() & mask),
            prefix_length,
        }
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix_length) == self.network.to_bits()
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    fn broadcast(self) -> u32 {
        self.network.to_bits() | !mask(self.prefix_length)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_length)
    }
}

impl FromStr for Subnet {
    type Err = NetworkError;
    /// `10.1.0.0/16`; bits below the prefix are an error.
    fn from_str(text: &str) -> Result<Self> {
        let parsed = text.split_once('/').and_then(|(address, length)| {
            let address: Ipv4Addr = address.parse().ok()?;
            let length: u8 = length.parse().ok().filter(|length| *length <= 32)?;
            Some((address, Self::containing(address, length)))
        });
        match parsed {
            Some((address, subnet)) if subnet.network == address => Ok(subnet),
            Some((_, subnet)) => Err(NetworkError::InvalidOption(format!(
                "invalid subnet {text}: it should be {subnet}"
            ))),
            None => Err(NetworkError::InvalidOption(format!(
                "invalid subnet {text}: invalid CIDR block notation"
            ))),
        }
    }
}

pub(crate) fn mask(prefix_length: u8) -> u32 {
    u32::MAX
        .checked_shl(32 - u32::from(prefix_length.min(32)))
        .unwrap_or(0)
}

/// A range to cut networks from (`--default-address-pool`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetPool {
    pub base: Subnet,
    /// Prefix length of each network.
    pub size: u8,
}

impl SubnetPool {
    /// Docker's own: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/20 to 192.168.240.0/20.
    pub fn defaults() -> Vec<Self> {
        let pool = |[a, b]: [u8; 2], base: u8, size: u8| Self {
            base: Subnet::containing(Ipv4Addr::new(a, b, 0, 0), base),
            size,
        };
        let mut pools: Vec<_> = (17..=31).map(|second| pool([172, second], 16, 16)).collect();
        pools.push(pool([192, 168], 16, 20));
        pools
    }

    fn subnets(self) -> impl Iterator<Item = Subnet> {
        let step = 1_u64 << (32 - u32::from(self.size));
        let first = u64::from(self.base.network.to_bits());
        let last = u64::from(self.base.broadcast());
        (0..)
            .map(move |number| first + number * step)
            .take_while(move |network| *network <= last)
            .map(move |network| Subnet {
                network: Ipv4Addr::from_bits(network as u32),
                prefix_length: self.size,
            })
    }
}

/// The first range of the pools that none of `taken` overlaps.
pub fn choose_subnet(pools: &[SubnetPool], taken: &[Subnet]) -> Option<Subnet> {
    pools
        .iter()
        .flat_map(|pool| pool.subnets())
        .find(|candidate| !taken.iter().any(|other| other.overlaps(*candidate)))
}

/// Docker's rule for an address nobody asked to be different: `02:42` and the four bytes of the IPv4 address. A reused
/// address thus keeps its MAC address, and neighbours' ARP caches stay right.
pub fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}

/// The addresses of one bridge: each used once, the next free one after the last given out.
#[derive(Debug)]
pub struct AddressPool {
    subnet: Subnet,
    /// Where addresses are given out from; one asked for may lie anywhere in the subnet.
    range: Subnet,
    /// Never given out: the gateway and other machines'.
    reserved: HashSet<u32>,
    used: HashSet<u32>,
    last: u32,
}

impl AddressPool {
    pub fn new(subnet: Subnet, gateway: Ipv4Addr, range: Option<Subnet>, reserved: &[Ipv4Addr]) -> Self {
        let range = range.unwrap_or(subnet);
        Self {
            subnet,
            range,
            reserved: reserved
                .iter()
                .chain([&gateway])
                .map(|address| address.to_bits())
                .collect(),
            used: HashSet::new(),
            last: range.broadcast(),
        }
    }

    pub fn len(&self) -> usize {
        self.used.len()
    }

    /// The next free address. One that was given back is not given out again before all others have been.
    pub fn allocate(&mut self) -> Result<Ipv4Addr> {
        let (first, end) = (self.range.network.to_bits(), self.range.broadcast());
        let after = if self.last >= end { first } else { self.last + 1 };
        let found = (after..=end)
            .chain(first..after)
            .find(|bits| self.is_usable(*bits) && !self.used.contains(bits) && !self.reserved.contains(bits))
            .ok_or(NetworkError::AddressesExhausted {
                subnet: self.range.network.into(),
                prefix_length: self.range.prefix_length,
            })?;
        self.last = found;
        self.used.insert(found);
        Ok(Ipv4Addr::from_bits(found))
    }

    fn is_usable(&self, bits: u32) -> bool {
        self.subnet.contains(Ipv4Addr::from_bits(bits))
            && bits != self.subnet.network.to_bits()
            && bits != self.subnet.broadcast()
    }

    /// Takes a particular address.
    pub fn take(&mut self, address: Ipv4Addr) -> Result<()> {
        let bits = address.to_bits();
        if !self.is_usable(bits) {
            return Err(NetworkError::AddressOutside {
                address: address.into(),
                subnet: self.subnet.network.into(),
                prefix_length: self.subnet.prefix_length,
            });
        }
        if self.reserved.contains(&bits) || !self.used.insert(bits) {
            return Err(NetworkError::AddressInUse(address.into()));
        }
        Ok(())
    }

    /// As [`Self::take`], for a container that has been running since before: allocation goes on after it.
    pub fn restore(&mut self, address: Ipv4Addr) -> Result<()> {
        self.take(address)?;
        if self.range.contains(address)
            && (self.last >= self.range.broadcast() || self.last < address.to_bits())
        {
            self.last = address.to_bits();
        }
        Ok(())
    }

    pub fn release(&mut self, address: Ipv4Addr) {
        self.used.remove(&address.to_bits());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        let (address, length) = text.split_once('/').unwrap();
        Subnet::containing(address.parse().unwrap(), length.parse().unwrap())
    }

    fn pool(gateway: [u8; 4], prefix_length: u8) -> AddressPool {
        let gateway = Ipv4Addr::from(gateway);
        AddressPool::new(Subnet::containing(gateway, prefix_length), gateway, None, &[])
    }

    #[test]
    fn ranges_routed_on_the_host_are_avoided() {
        let choose = |taken: &[Subnet]| choose_subnet(&SubnetPool::defaults(), taken);
        assert_eq!(choose(&[]), Some(subnet("172.17.0.0/16")));
        let taken = [subnet("172.17.5.0/24"), subnet("172.18.0.0/15")];
        assert_eq!(choose(&taken), Some(subnet("172.20.0.0/16")));
        assert_eq!(choose(&[subnet("172.16.0.0/12")]), Some(subnet("192.168.0.0/20")));
        assert_eq!(
            choose(&[subnet("172.16.0.0/12"), subnet("192.168.0.0/17")]),
            Some(subnet("192.168.128.0/20"))
        );
        assert_eq!(choose(&[subnet("172.16.0.0/12"), subnet("192.168.0.0/16")]), None);
    }

    #[test]
    fn own_pools_are_cut_to_size_up_to_the_end() {
        let pools = [SubnetPool {
            base: subnet("255.255.254.0/23"),
            size: 24,
        }];
        assert_eq!(choose_subnet(&pools, &[]), Some(subnet("255.255.254.0/24")));
        let taken = [subnet("255.255.254.0/24")];
        assert_eq!(choose_subnet(&pools, &taken), Some(subnet("255.255.255.0/24")));
        assert_eq!(choose_subnet(&pools, &[subnet("255.255.254.0/23")]), None);
    }

    #[test]
    fn a_range_and_reserved_addresses_limit_what_is_given_out() {
        let mut pool = AddressPool::new(
            subnet("10.1.0.0/16"),
            Ipv4Addr::new(10, 1, 5, 0),
            Some(subnet("10.1.5.0/30")),
            &[Ipv4Addr::new(10, 1, 5, 2)],
        );
        assert_eq!(pool.allocate().unwrap(), Ipv4Addr::new(10, 1, 5, 1));
        assert_eq!(pool.allocate().unwrap(), Ipv4Addr::new(10, 1, 5, 3));
        assert!(pool.allocate().is_err());
        pool.take(Ipv4Addr::new(10, 1, 9, 9)).unwrap();
        assert!(pool.take(Ipv4Addr::new(10, 1, 5, 2)).is_err());
    }

    #[test]
    fn subnets_are_written_canonically() {
        assert_eq!("10.1.0.0/16".parse::<Subnet>().unwrap(), subnet("10.1.0.0/16"));
        for text in ["10.1.0.1/16", "10.1.0.0", "10.1.0.0/33", "x/8", "10.1.0.0/-1"] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_come_one_after_another_and_none_twice() {
        let mut pool = pool([10, 0, 0, 1], 29);
        let given: Vec<u8> = (0..5).map(|_| pool.allocate().unwrap().octets()[3]).collect();
        assert_eq!(given, [2, 3, 4, 5, 6]);
        assert!(matches!(
            pool.allocate(),
            Err(NetworkError::AddressesExhausted { .. })
        ));
        pool.release(Ipv4Addr::new(10, 0, 0, 3));
        pool.release(Ipv4Addr::new(10, 0, 0, 5));
        assert_eq!(pool.allocate().unwrap().octets()[3], 3);
        assert_eq!(pool.allocate().unwrap().octets()[3], 5);
    }

    #[test]
    fn a_freed_address_is_not_the_next_one_given() {
        let mut pool = pool([172, 17, 0, 1], 16);
        let first = pool.allocate().unwrap();
        pool.release(first);
        assert_ne!(pool.allocate().unwrap(), first);
    }

    #[test]
    fn particular_addresses_are_checked() {
        let mut pool = pool([172, 17, 0, 1], 16);
        pool.take(Ipv4Addr::new(172, 17, 3, 4)).unwrap();
        for (address, is_conflict) in [
            ([172, 17, 3, 4], true),
            ([172, 17, 0, 1], true),
            ([172, 17, 255, 255], false),
            ([10, 0, 0, 1], false),
        ] {
            let error = pool.take(address.into()).unwrap_err();
            assert_eq!(
                matches!(error, NetworkError::AddressInUse(_)),
                is_conflict,
                "{error}"
            );
        }
    }
}
