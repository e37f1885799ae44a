//! Which addresses a bridge and its containers get. Pure: nothing here talks to the kernel.

use crate::error::{NetworkError, Result};
use std::collections::HashSet;
use std::net::Ipv4Addr;

/// A range of IPv4 addresses in its canonical form: no bits below the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

pub(crate) fn mask(prefix_length: u8) -> u32 {
    u32::MAX
        .checked_shl(32 - u32::from(prefix_length.min(32)))
        .unwrap_or(0)
}

/// The gateway address and prefix length of the first range that none of `taken` overlaps, in Docker's order of
/// preference: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/20 to 192.168.240.0/20.
pub fn choose_subnet(taken: &[Subnet]) -> Option<(Ipv4Addr, u8)> {
    let large = (17..=31).map(|second| Subnet {
        network: Ipv4Addr::new(172, second, 0, 0),
        prefix_length: 16,
    });
    let small = (0..16).map(|part| Subnet {
        network: Ipv4Addr::new(192, 168, part * 16, 0),
        prefix_length: 20,
    });
    large
        .chain(small)
        .find(|candidate| !taken.iter().any(|other| other.overlaps(*candidate)))
        .map(|subnet| {
            (
                Ipv4Addr::from_bits(subnet.network.to_bits() + 1),
                subnet.prefix_length,
            )
        })
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
    gateway: Ipv4Addr,
    used: HashSet<u32>,
    last: u32,
}

impl AddressPool {
    pub fn new(gateway: Ipv4Addr, prefix_length: u8) -> Self {
        let subnet = Subnet::containing(gateway, prefix_length);
        Self {
            subnet,
            gateway,
            used: HashSet::new(),
            last: subnet.network.to_bits(),
        }
    }

    pub fn len(&self) -> usize {
        self.used.len()
    }

    /// The next free address. One that was given back is not given out again before all others have been.
    pub fn allocate(&mut self) -> Result<Ipv4Addr> {
        let first = self.subnet.network.to_bits() + 1;
        let end = self.subnet.broadcast();
        let after = if self.last + 1 >= end {
            first
        } else {
            self.last + 1
        };
        let found = (after..end)
            .chain(first..after)
            .find(|bits| !self.used.contains(bits) && *bits != self.gateway.to_bits())
            .ok_or(NetworkError::AddressesExhausted {
                subnet: self.subnet.network,
                prefix_length: self.subnet.prefix_length,
            })?;
        self.last = found;
        self.used.insert(found);
        Ok(Ipv4Addr::from_bits(found))
    }

    /// Takes a particular address.
    pub fn take(&mut self, address: Ipv4Addr) -> Result<()> {
        let bits = address.to_bits();
        let is_usable = self.subnet.contains(address)
            && bits != self.subnet.network.to_bits()
            && bits != self.subnet.broadcast();
        if !is_usable {
            let Subnet {
                network: subnet,
                prefix_length,
            } = self.subnet;
            return Err(NetworkError::AddressOutside {
                address,
                subnet,
                prefix_length,
            });
        }
        if address == self.gateway || !self.used.insert(bits) {
            return Err(NetworkError::AddressInUse(address));
        }
        Ok(())
    }

    /// As [`Self::take`], for a container that has been running since before: allocation goes on after it.
    pub fn restore(&mut self, address: Ipv4Addr) -> Result<()> {
        self.take(address)?;
        self.last = self.last.max(address.to_bits());
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

    #[test]
    fn ranges_routed_on_the_host_are_avoided() {
        assert_eq!(choose_subnet(&[]), Some((Ipv4Addr::new(172, 17, 0, 1), 16)));
        let taken = [subnet("172.17.5.0/24"), subnet("172.18.0.0/15")];
        assert_eq!(choose_subnet(&taken), Some((Ipv4Addr::new(172, 20, 0, 1), 16)));
        assert_eq!(
            choose_subnet(&[subnet("172.16.0.0/12")]),
            Some((Ipv4Addr::new(192, 168, 0, 1), 20))
        );
        let all = [subnet("172.16.0.0/12"), subnet("192.168.0.0/16")];
        assert_eq!(choose_subnet(&all), None);
    }

    #[test]
    fn addresses_come_one_after_another_and_none_twice() {
        let mut pool = AddressPool::new(Ipv4Addr::new(10, 0, 0, 1), 29);
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
        let mut pool = AddressPool::new(Ipv4Addr::new(172, 17, 0, 1), 16);
        let first = pool.allocate().unwrap();
        pool.release(first);
        assert_ne!(pool.allocate().unwrap(), first);
    }

    #[test]
    fn particular_addresses_are_checked() {
        let mut pool = AddressPool::new(Ipv4Addr::new(172, 17, 0, 1), 16);
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
