//! The daemon's options for networks and names, with dockerd's words.

use naru_engine::NetworkDefaults;
use naru_engine::network::{Subnet, SubnetPool};
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr};

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
    ];
    let taken = own
        .into_iter()
        .filter_map(|key| Some((key.to_owned(), all.remove(key)?)));
    let taken: serde_json::Map<String, serde_json::Value> = taken.collect();
    serde_json::from_value(taken.into())
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
    Ok(NetworkDefaults {
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
        pools: if pools.is_empty() {
            SubnetPool::defaults()
        } else {
            pools
        },
    })
}

fn parse_server(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map_err(|_| format!("invalid --dns {text:?}: {text} is not an ip address"))
}

fn parse_address(option: &str, text: Option<String>) -> Result<Option<Ipv4Addr>, String> {
    text.map(|text| {
        text.parse()
            .map_err(|_| format!("invalid {option} {text:?}: expected an IPv4 address"))
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
