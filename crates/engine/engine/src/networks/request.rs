//! Checks a wanted network and says which bridge it needs. Pure.

use super::record::{IpamPool, NetworkSpec};
use crate::error::{EngineError, Result};
use naru_base::{ErrorKind, NetworkId};
use naru_network::{BridgeRequest, Ipv6Request, Subnet, Subnet6};
use std::str::FromStr;

/// Names that are taken in every engine.
pub const PREDEFINED: [&str; 4] = ["bridge", "host", "none", "default"];
const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const ENABLE_ICC: &str = "com.docker.network.bridge.enable_icc";
const ENABLE_MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
pub const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const GATEWAY_MODE: &str = "com.docker.network.bridge.gateway_mode_ipv4";
const GATEWAY_MODE6: &str = "com.docker.network.bridge.gateway_mode_ipv6";
const MTU: &str = "com.docker.network.driver.mtu";
pub const INTERFACE_PREFIX: &str = "com.docker.network.container_iface_prefix";
/// An IPv4 packet of the smallest size that every host takes (RFC 791), and the largest there is.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 68..=65535;
/// Room for a gateway and one container.
const PREFIX_LENGTH_MAX: u8 = 30;

/// The bridge for a network, with what its creator left open.
pub fn plan_bridge(id: &NetworkId, spec: &NetworkSpec) -> Result<BridgeRequest> {
    check_name(&spec.name)?;
    check_drivers(spec)?;
    let (pools6, pools): (Vec<_>, Vec<_>) = spec.pools.iter().cloned().partition(IpamPool::is_ipv6);
    let pool = only(pools)?;
    let option = |name: &str| {
        spec.options
            .get(name)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    };
    if let Some(text) = option(HOST_BINDING) {
        parse_address::<std::net::IpAddr>("host binding", text)?;
    }
    let subnet = optional(&pool.subnet, parse_subnet)?;
    if subnet.is_none() && !(pool.range.is_empty() && pool.gateway.is_empty() && pool.reserved.is_empty()) {
        return Err(EngineError::invalid(
            "invalid network config: every ip-range, gateway or auxiliary address must have a corresponding subnet",
        ));
    }
    if let Some(subnet) = subnet.filter(|subnet| subnet.prefix_length > PREFIX_LENGTH_MAX) {
        return Err(EngineError::invalid(format!(
            "invalid network config: subnet {subnet} is too small for a gateway and a container"
        )));
    }
    Ok(BridgeRequest {
        name: option(BRIDGE_NAME).map_or_else(|| format!("br-{}", id.short()), ToOwned::to_owned),
        subnet,
        gateway: optional(&pool.gateway, |text| parse_address("gateway", text))?,
        range: optional(&pool.range, parse_subnet)?,
        reserved: pool
            .reserved
            .values()
            .map(|text| parse_address("auxiliary", text))
            .collect::<Result<_>>()?,
        mtu: option(MTU).map(parse_mtu).transpose()?,
        is_internal: spec.is_internal,
        allows_between: flag(spec, ENABLE_ICC)?,
        masquerades: flag(spec, ENABLE_MASQUERADE)? && is_nat(option(GATEWAY_MODE))?,
        ipv6: if spec.enable_ipv6 && is_nat(option(GATEWAY_MODE6))? {
            Some(plan_ipv6(&only(pools6)?)?)
        } else {
            // As with Docker, which passes over an IPv6 subnet then.
            None
        },
    })
}

fn only(pools: Vec<IpamPool>) -> Result<IpamPool> {
    let mut pools = pools.into_iter();
    match (pools.next(), pools.next()) {
        (pool, None) => Ok(pool.unwrap_or_default()),
        _ => Err(unsupported(
            "a network with several subnets of one family",
            "name one IPv4 subnet and one IPv6 subnet",
        )),
    }
}

fn plan_ipv6(pool: &IpamPool) -> Result<Ipv6Request> {
    let parse_subnet6 = |text: &str| text.parse::<Subnet6>().map_err(super::network_error);
    Ok(Ipv6Request {
        subnet: optional(&pool.subnet, parse_subnet6)?,
        gateway: optional(&pool.gateway, |text| parse_address("gateway", text))?,
        range: optional(&pool.range, parse_subnet6)?,
        reserved: pool
            .reserved
            .values()
            .map(|text| parse_address("auxiliary", text))
            .collect::<Result<_>>()?,
    })
}

fn check_name(name: &str) -> Result<()> {
    if PREDEFINED.contains(&name) {
        return Err(EngineError::new(
            ErrorKind::Forbidden,
            format!("operation is not permitted on predefined {name} network"),
        ));
    }
    let is_word = |byte: u8| byte.is_ascii_alphanumeric();
    let is_good = name.bytes().next().is_some_and(is_word)
        && name
            .bytes()
            .all(|byte| is_word(byte) || matches!(byte, b'_' | b'.' | b'-'));
    if is_good {
        Ok(())
    } else {
        Err(EngineError::invalid(format!(
            "invalid network name ({name}): only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )))
    }
}

fn check_drivers(spec: &NetworkSpec) -> Result<()> {
    match spec.driver.as_str() {
        "" | "bridge" => {}
        name @ ("host" | "null") => {
            return Err(EngineError::new(
                ErrorKind::Forbidden,
                format!("only one instance of \"{name}\" network is allowed"),
            ));
        }
        "overlay" => {
            return Err(EngineError::new(
                ErrorKind::Unavailable,
                "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this \
                 node to swarm and try again.",
            ));
        }
        name @ ("macvlan" | "ipvlan") => {
            return Err(unsupported(&format!("driver {name}"), "use driver bridge"));
        }
        name => return Err(EngineError::not_found(format!("plugin \"{name}\" not found"))),
    }
    if !matches!(spec.ipam_driver.as_str(), "" | "default") {
        return Err(EngineError::not_found(format!(
            "plugin \"{}\" not found",
            spec.ipam_driver
        )));
    }
    Ok(())
}

fn unsupported(what: &str, instead: &str) -> EngineError {
    EngineError::new(
        ErrorKind::NotImplemented,
        format!("{what} is not supported yet: {instead}"),
    )
}

fn parse_subnet(text: &str) -> Result<Subnet> {
    text.parse().map_err(super::network_error)
}

fn optional<T>(text: &str, parse: impl FnOnce(&str) -> Result<T>) -> Result<Option<T>> {
    if text.is_empty() {
        return Ok(None);
    }
    Ok(Some(parse(text)?))
}

/// An address, with or without a prefix length.
fn parse_address<A: FromStr>(what: &str, text: &str) -> Result<A> {
    let address = text.split('/').next().unwrap_or_default();
    address
        .parse()
        .map_err(|_| EngineError::invalid(format!("invalid {what} address: {text}")))
}

fn parse_mtu(text: &str) -> Result<u32> {
    let mtu = text.parse().ok();
    mtu.filter(|mtu| MTU_RANGE.contains(mtu))
        .ok_or_else(|| EngineError::invalid(format!("invalid value for '{MTU}': {text}")))
}

/// On unless it says otherwise.
fn flag(spec: &NetworkSpec, name: &str) -> Result<bool> {
    match spec.options.get(name).map(String::as_str) {
        None | Some("true" | "1" | "t" | "T" | "TRUE" | "True") => Ok(true),
        Some("false" | "0" | "f" | "F" | "FALSE" | "False") => Ok(false),
        Some(text) => Err(EngineError::invalid(format!(
            "failed to parse {name} value: {text}: invalid syntax"
        ))),
    }
}

fn is_nat(mode: Option<&str>) -> Result<bool> {
    match mode {
        None | Some("nat") => Ok(true),
        Some(mode) => Err(unsupported(&format!("gateway mode {mode}"), "leave it at nat")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn spec(name: &str) -> NetworkSpec {
        NetworkSpec {
            name: name.to_owned(),
            ..NetworkSpec::default()
        }
    }

    fn plan(spec: &NetworkSpec) -> Result<BridgeRequest> {
        plan_bridge(&NetworkId::generate(), spec)
    }

    #[test]
    fn a_bare_name_is_enough() {
        let request = plan(&spec("blue")).unwrap();
        assert!(request.name.starts_with("br-") && request.name.len() == 15);
        assert!(request.allows_between && request.masquerades && !request.is_internal);
        assert_eq!((request.subnet, request.mtu), (None, None));
    }

    #[test]
    fn every_wish_arrives() {
        let mut wanted = spec("blue");
        wanted.pools = vec![IpamPool {
            subnet: "10.1.0.0/16".to_owned(),
            range: "10.1.5.0/24".to_owned(),
            gateway: "10.1.0.254".to_owned(),
            reserved: [("router".to_owned(), "10.1.5.7".to_owned())].into(),
        }];
        for (name, value) in [
            (BRIDGE_NAME, "blue0"),
            (ENABLE_ICC, "false"),
            (ENABLE_MASQUERADE, "0"),
            (MTU, "1400"),
        ] {
            wanted.options.insert(name.to_owned(), value.to_owned());
        }
        let request = plan(&wanted).unwrap();
        assert_eq!(request.name, "blue0");
        assert_eq!(request.subnet.unwrap().to_string(), "10.1.0.0/16");
        assert_eq!(request.reserved, [Ipv4Addr::new(10, 1, 5, 7)]);
        assert_eq!(request.mtu, Some(1400));
        assert!(!request.allows_between && !request.masquerades);
    }

    #[test]
    fn nonsense_is_refused_with_its_kind() {
        let kind = |change: &dyn Fn(&mut NetworkSpec)| {
            let mut wanted = spec("blue");
            change(&mut wanted);
            plan(&wanted).unwrap_err().kind
        };
        let pool = |subnet: &str, gateway: &str| {
            vec![IpamPool {
                subnet: subnet.to_owned(),
                gateway: gateway.to_owned(),
                ..IpamPool::default()
            }]
        };
        for name in ["", "a b", "../x", "container:x", "-x"] {
            assert_eq!(
                kind(&|spec| spec.name = name.to_owned()),
                ErrorKind::InvalidParameter
            );
        }
        assert_eq!(kind(&|spec| spec.name = "host".to_owned()), ErrorKind::Forbidden);
        assert_eq!(
            kind(&|spec| spec.driver = "host".to_owned()),
            ErrorKind::Forbidden
        );
        assert_eq!(
            kind(&|spec| spec.driver = "macvlan".to_owned()),
            ErrorKind::NotImplemented
        );
        assert_eq!(
            kind(&|spec| spec.driver = "nonsense".to_owned()),
            ErrorKind::NotFound
        );
        assert_eq!(
            kind(&|spec| spec.pools = pool("10.1.0.0", "")),
            ErrorKind::InvalidParameter
        );
        assert_eq!(
            kind(&|spec| spec.pools = pool("", "10.1.0.1")),
            ErrorKind::InvalidParameter
        );
        assert_eq!(
            kind(&|spec| spec.pools = pool("10.1.0.0/32", "")),
            ErrorKind::InvalidParameter
        );
        assert_eq!(
            kind(&|spec| {
                spec.options.insert(MTU.to_owned(), "9999999".to_owned());
            }),
            ErrorKind::InvalidParameter
        );
    }
}
