//! The daemon's options for networks and names, with dockerd's words.

use naru_engine::NetworkDefaults;
use naru_engine::network::{Ipv6Request, Subnet, Subnet6, SubnetPool};
use serde::Deserialize;
use std::net::{IpAddr, Ipv6Addr};

/// An IPv4 packet of the smallest size that every host takes (RFC 791), and the largest there is.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 68..=65535;

#[derive(Debug, Default, clap::Args)]
pub struct NetworkArguments {
    /// Name server of containers without their own; may be given more than once
    #[arg(long)]
    dns: Vec<String>,
    /// Search domain of containers without their own; may be given more than once
    #[arg(long)]
    dns_search: Vec<String>,
    /// Resolver option of containers without their own; may be given more than once
    #[arg(long = "dns-opt", alias = "dns-option")]
    dns_options: Vec<String>,
    /// What host-gateway means in --add-host [default: the default bridge's own address]
    #[arg(long)]
    host_gateway_ip: Option<String>,
    /// Where ports are published that name no address of the host [default: 0.0.0.0]
    #[arg(long)]
    ip: Option<String>,
    /// Ranges that networks take theirs from, base=10.10.0.0/16,size=24; may be given more than once
    #[arg(long = "default-address-pool")]
    default_address_pools: Vec<String>,
    /// The part of the default bridge's subnet from which addresses are given out
    #[arg(long)]
    fixed_cidr: Option<String>,
    /// The default bridge's MTU
    #[arg(long)]
    mtu: Option<u32>,
    /// Whether containers on the default bridge reach each other [default: true]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    icc: Option<bool>,
    /// Whether what leaves the default bridge takes the host's address [default: true]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    ip_masq: Option<bool>,
    /// Have the host forward packets, if it does not yet [default: true]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    ip_forward: Option<bool>,
    /// Whether the default bridge has IPv6 [default: false]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    ipv6: Option<bool>,
    /// The default bridge's own IPv6 address with its prefix length, fd00:17::1/64
    #[arg(long)]
    bip6: Option<String>,
    /// The IPv6 subnet of the default bridge, or the part of --bip6 from which addresses are given out
    #[arg(long)]
    fixed_cidr_v6: Option<String>,
    /// Whether IPv6 is translated, published and kept apart by rules, as IPv4 is [default: true]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    ip6tables: Option<bool>,
}

/// The same in the configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct NetworkConfig {
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_opts: Vec<String>,
    pub host_gateway_ip: Option<String>,
    pub ip: Option<String>,
    pub default_address_pools: Vec<PoolConfig>,
    pub fixed_cidr: Option<String>,
    pub mtu: Option<u32>,
    pub icc: Option<bool>,
    pub ip_masq: Option<bool>,
    pub ip_forward: Option<bool>,
    pub ipv6: Option<bool>,
    pub bip6: Option<String>,
    pub fixed_cidr_v6: Option<String>,
    pub ip6tables: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolConfig {
    base: String,
    size: u8,
}

/// Takes its keys out of the file, whose other keys are somebody else's.
pub fn take(all: &mut serde_json::Map<String, serde_json::Value>) -> serde_json::Result<NetworkConfig> {
    let own = [
        "dns",
        "dns-search",
        "dns-opts",
        "host-gateway-ip",
        "ip",
        "default-address-pools",
        "fixed-cidr",
        "mtu",
        "icc",
        "ip-masq",
        "ip-forward",
        "ipv6",
        "bip6",
        "fixed-cidr-v6",
        "ip6tables",
    ];
    crate::options::take_keys(all, &own)
}

/// The command line over the file, checked.
pub fn resolve(arguments: NetworkArguments, file: NetworkConfig) -> Result<NetworkDefaults, String> {
    let given = |own: Vec<String>, file: Vec<String>| if own.is_empty() { file } else { own };
    let pools = if arguments.default_address_pools.is_empty() {
        let pools = file.default_address_pools.iter();
        pools
            .map(|pool| check_pool(&pool.base, pool.size))
            .collect::<Result<Vec<_>, _>>()?
    } else {
        let pools = arguments.default_address_pools.iter();
        pools.map(|text| parse_pool(text)).collect::<Result<_, _>>()?
    };
    let subnet = arguments.fixed_cidr.or(file.fixed_cidr);
    let mtu = arguments.mtu.or(file.mtu).filter(|mtu| *mtu != 0);
    if let Some(mtu) = mtu.filter(|mtu| !MTU_RANGE.contains(mtu)) {
        return Err(format!("invalid --mtu {mtu}: expected 68 to 65535"));
    }
    let ipv6 = plan_ipv6(
        arguments.ipv6.or(file.ipv6).unwrap_or(false),
        arguments.bip6.or(file.bip6),
        arguments.fixed_cidr_v6.or(file.fixed_cidr_v6),
    )?;
    Ok(NetworkDefaults {
        ipv6,
        rules_ipv6: arguments.ip6tables.or(file.ip6tables).unwrap_or(true),
        dns: given(arguments.dns, file.dns)
            .iter()
            .map(|text| parse_server(text))
            .collect::<Result<_, _>>()?,
        dns_search: given(arguments.dns_search, file.dns_search),
        dns_options: given(arguments.dns_options, file.dns_opts),
        host_gateway: parse_address(
            "--host-gateway-ip",
            arguments.host_gateway_ip.or(file.host_gateway_ip),
        )?,
        publish_on: parse_address("--ip", arguments.ip.or(file.ip))?,
        range: subnet
            .map(|text| {
                text.parse::<Subnet>()
                    .map_err(|error| format!("--fixed-cidr: {error}"))
            })
            .transpose()?,
        mtu,
        allows_between: arguments.icc.or(file.icc).unwrap_or(true),
        masquerades: arguments.ip_masq.or(file.ip_masq).unwrap_or(true),
        turns_on_forwarding: arguments.ip_forward.or(file.ip_forward).unwrap_or(true),
        pools: if pools.is_empty() {
            SubnetPool::defaults()
        } else {
            pools
        },
    })
}

/// The default bridge's IPv6 side.
fn plan_ipv6(
    is_wanted: bool,
    bip6: Option<String>,
    fixed_cidr: Option<String>,
) -> Result<Option<Ipv6Request>, String> {
    if !is_wanted {
        return match bip6.map(|_| "--bip6").or(fixed_cidr.map(|_| "--fixed-cidr-v6")) {
            Some(option) => Err(format!("{option} needs --ipv6")),
            None => Ok(None),
        };
    }
    let range = fixed_cidr
        .map(|text| {
            text.parse::<Subnet6>()
                .map_err(|error| format!("--fixed-cidr-v6: {error}"))
        })
        .transpose()?;
    let Some(text) = bip6 else {
        return Ok(Some(Ipv6Request {
            subnet: range,
            ..Ipv6Request::default()
        }));
    };
    let wrong =
        || format!("invalid --bip6 {text:?}: expected an address and prefix length such as fd00:17::1/64");
    let (address, length) = text.split_once('/').ok_or_else(wrong)?;
    let gateway: Ipv6Addr = address.parse().map_err(|_| wrong())?;
    let length = length.parse().map_err(|_| wrong())?;
    let subnet = Subnet6::containing(gateway, length);
    // Read again, since not every range can be a network's.
    let subnet: Subnet6 = subnet.to_string().parse().map_err(|_| wrong())?;
    if subnet.network == gateway {
        return Err(wrong());
    }
    let request = Ipv6Request {
        subnet: Some(subnet),
        gateway: Some(gateway),
        range,
        reserved: Vec::new(),
    };
    request
        .decide(subnet)
        .map_err(|error| format!("--fixed-cidr-v6: {error}"))?;
    Ok(Some(request))
}

fn parse_server(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map_err(|_| format!("invalid --dns {text:?}: {text} is not an ip address"))
}

fn parse_address<A: std::str::FromStr>(option: &str, text: Option<String>) -> Result<Option<A>, String> {
    text.map(|text| {
        text.parse()
            .map_err(|_| format!("invalid {option} {text:?}: expected an address"))
    })
    .transpose()
}

/// `base=10.10.0.0/16,size=24`.
fn parse_pool(text: &str) -> Result<SubnetPool, String> {
    let wrong = || {
        format!("invalid --default-address-pool {text:?}: expected base=ADDRESS/PREFIX,size=PREFIX of IPv4")
    };
    let (mut base, mut size) = (None, None);
    for field in text.split(',') {
        match field.trim().split_once('=').ok_or_else(wrong)? {
            ("base", value) => base = Some(value),
            ("size", value) => size = value.parse().ok(),
            _ => return Err(wrong()),
        }
    }
    check_pool(base.ok_or_else(wrong)?, size.ok_or_else(wrong)?)
}

fn check_pool(base: &str, size: u8) -> Result<SubnetPool, String> {
    let subnet: Subnet = base
        .parse()
        .map_err(|error| format!("default address pool {base}: {error}"))?;
    if !(subnet.prefix_length..=30).contains(&size) {
        return Err(format!(
            "default address pool {base}: size {size} is not between {} and 30",
            subnet.prefix_length
        ));
    }
    Ok(SubnetPool { base: subnet, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_read_and_checked() {
        let pool = parse_pool("base=10.10.0.0/16,size=24").unwrap();
        assert_eq!((pool.base.to_string().as_str(), pool.size), ("10.10.0.0/16", 24));
        for text in [
            "10.10.0.0/16",
            "base=10.10.0.0/16",
            "base=10.10.0.0/16,size=8",
            "base=10.10.0.0/16,size=31",
            "base=10.10.0.1/16,size=24",
            "base=fd00::/64,size=80",
            "base=10.10.0.0/16,size=24,x=y",
        ] {
            assert!(parse_pool(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_ipv6_side_of_the_default_bridge_is_checked() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(plan_ipv6(false, None, None), Ok(None));
        assert_eq!(plan_ipv6(true, None, None), Ok(Some(Ipv6Request::default())));
        let bridge = plan_ipv6(true, text("fd00:17::9/64"), text("fd00:17::5:0/112"))
            .unwrap()
            .unwrap();
        assert_eq!(bridge.gateway.unwrap().to_string(), "fd00:17::9");
        assert!(
            plan_ipv6(false, None, text("fd00::/64"))
                .unwrap_err()
                .contains("needs --ipv6")
        );
        for (bip6, fixed) in [
            (Some("fd00::/64"), None),
            (Some("10.0.0.1/8"), None),
            (Some("fd00::1"), None),
            (Some("fe80::1/64"), None),
            (Some("fd00::1/64"), Some("fd01::/80")),
            (None, Some("fd00::1/64")),
        ] {
            let bip6 = bip6.map(str::to_owned);
            assert!(
                plan_ipv6(true, bip6.clone(), fixed.map(str::to_owned)).is_err(),
                "{bip6:?}"
            );
        }
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let arguments = NetworkArguments {
            dns: vec!["1.1.1.1".to_owned()],
            icc: Some(false),
            ..NetworkArguments::default()
        };
        let file: NetworkConfig =
            serde_json::from_str(r#"{"dns":["9.9.9.9"],"icc":true,"mtu":1400,"dns-opts":["ndots:2"]}"#)
                .unwrap();
        let options = resolve(arguments, file).unwrap();
        assert_eq!(options.dns, [IpAddr::from([1, 1, 1, 1])]);
        assert_eq!(options.dns_options, ["ndots:2"]);
        assert!(!options.allows_between && options.mtu == Some(1400));
    }
}
