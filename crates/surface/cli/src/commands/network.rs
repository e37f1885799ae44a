//! `network create`, `ls`, `rm`, `connect` and `disconnect`.

use super::{Arity, Command};
use crate::args::Kind::{Bool, Int, Link, List, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::{CliError, Result};
use crate::http::{Body, Query, escape};
use crate::json::Value;
use crate::output::{for_each_name, print_line};
use crate::table::{self, Column};
use crate::{Arguments, Session};
use std::net::IpAddr;

const CREATE_FLAGS: &[Flag] = &[
    long("attachable", Bool, "Enable manual container attachment"),
    long(
        "aux-address",
        List("map"),
        "Auxiliary addresses used by the network driver",
    ),
    long(
        "config-from",
        Text("string"),
        "The network from which to copy the configuration",
    ),
    long("config-only", Bool, "Create a configuration only network"),
    flag(
        "driver",
        'd',
        Text("string"),
        "Driver to manage the network (default \"bridge\")",
    ),
    long("gateway", List("strings"), "IPv4 gateway of the subnet"),
    long("ingress", Bool, "Create swarm routing-mesh network"),
    long("internal", Bool, "Restrict external access to the network"),
    long(
        "ip-range",
        List("strings"),
        "Allocate container addresses from a part of the subnet",
    ),
    long(
        "ipam-driver",
        Text("string"),
        "Address management driver (default \"default\")",
    ),
    long("ipam-opt", List("map"), "Set address management driver options"),
    long("ipv4", Bool, "Enable or disable IPv4 address assignment"),
    long("ipv6", Bool, "Enable or disable IPv6 address assignment"),
    long("label", List("list"), "Set metadata on the network"),
    flag("opt", 'o', List("map"), "Set driver specific options"),
    long("scope", Text("string"), "Control the network's scope"),
    long("subnet", List("strings"), "Subnet in CIDR format"),
];
const CONNECT_FLAGS: &[Flag] = &[
    long(
        "alias",
        List("strings"),
        "Add network-scoped alias for the container",
    ),
    long("driver-opt", List("strings"), "Driver options for the network"),
    long(
        "gw-priority",
        Int,
        "Of the container's networks the one with the highest leads out",
    ),
    long("ip", Text("ip"), "IPv4 address (e.g., \"172.30.100.104\")"),
    long("ip6", Text("ip"), "IPv6 address (e.g., \"2001:db8::33\")"),
    long("link", Link, "Add link to another container"),
    long(
        "link-local-ip",
        List("strings"),
        "Add a link-local address for the container",
    ),
];

pub const CREATE: Command = Command {
    names: &["network create"],
    usage: "[OPTIONS] NETWORK",
    about: "Create a network",
    flags: &[CREATE_FLAGS],
    order: Order::Mixed,
    arity: Arity::Exactly(1),
    run: create,
};
pub const CONNECT: Command = Command {
    names: &["network connect"],
    usage: "[OPTIONS] NETWORK CONTAINER",
    about: "Connect a container to a network",
    flags: &[CONNECT_FLAGS],
    order: Order::Mixed,
    arity: Arity::Exactly(2),
    run: connect,
};
pub const DISCONNECT: Command = Command {
    names: &["network disconnect"],
    usage: "[OPTIONS] NETWORK CONTAINER",
    about: "Disconnect a container from a network",
    flags: &[&[flag(
        "force",
        'f',
        Bool,
        "Force the container to disconnect from a network",
    )]],
    order: Order::Mixed,
    arity: Arity::Exactly(2),
    run: disconnect,
};
pub const REMOVE: Command = Command {
    names: &["network rm", "network remove"],
    usage: "[OPTIONS] NETWORK [NETWORK...]",
    about: "Remove one or more networks",
    flags: &[&[flag(
        "force",
        'f',
        Bool,
        "Do not error if the network does not exist",
    )]],
    order: Order::Mixed,
    arity: Arity::AtLeast(1),
    run: remove,
};

const FLAGS: &[Flag] = &[
    flag(
        "filter",
        'f',
        List("filter"),
        "Provide filter values (e.g. \"driver=bridge\")",
    ),
    long("format", Text("string"), "Format output using a custom template"),
    long("no-trunc", Bool, "Do not truncate the output"),
    flag("quiet", 'q', Bool, "Only display network IDs"),
];

pub const LIST: Command = Command {
    names: &["network ls", "network list"],
    usage: "[OPTIONS]",
    about: "List networks",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::None,
    run: list,
};

const COLUMNS: &[Column] = &[
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv4", "IPV4"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("CreatedAt", "CREATED AT"),
];

fn list(session: &Session, arguments: &Arguments) -> Result<u8> {
    let path = Query::new("/networks")
        .set_some("filters", table::filters(arguments).as_deref())
        .build();
    let answer = session.client.get(&path)?;
    let mut networks: Vec<&Value> = answer.items().iter().collect();
    networks.sort_by(|left, right| left.get("Name").text().cmp(right.get("Name").text()));
    let full = arguments.is_set("no-trunc");
    let row = |network: &&Value| {
        let id = network.get("Id").text();
        let labels: Vec<String> = network
            .get("Labels")
            .entries()
            .iter()
            .map(|(key, value)| format!("{key}={}", value.text()))
            .collect();
        let fact = |key: &str| Value::Text(network.get(key).is_true().to_string());
        Value::object([
            (
                "ID",
                Value::from(if full { id } else { id.get(..12).unwrap_or(id) }),
            ),
            ("Name", network.get("Name").clone()),
            ("Driver", network.get("Driver").clone()),
            ("Scope", network.get("Scope").clone()),
            // Engines before 28 do not say it, and know nothing else.
            (
                "IPv4",
                Value::from(if network.entry("EnableIPv4").is_none() {
                    "true".to_owned()
                } else {
                    network.get("EnableIPv4").is_true().to_string()
                }),
            ),
            ("IPv6", fact("EnableIPv6")),
            ("Internal", fact("Internal")),
            ("Labels", Value::Text(labels.join(","))),
            ("CreatedAt", Value::Text(go_time(network.get("Created").text()))),
        ])
    };
    let rows: Vec<Value> = networks.iter().map(row).collect();
    if arguments.is_set("quiet") && arguments.text("format").is_none() {
        table::print_field(&rows, "ID")?;
        return Ok(0);
    }
    table::print_rows(
        arguments.text("format"),
        COLUMNS,
        &["ID", "Name", "Driver", "Scope"],
        rows,
    )?;
    Ok(0)
}

/// A moment as Go prints it: `2026-01-02 03:04:05.678 +0000 UTC`. One that is not in UTC is left as it is.
fn go_time(text: &str) -> String {
    let Some((date, time)) = text.strip_suffix('Z').and_then(|text| text.split_once('T')) else {
        return text.to_owned();
    };
    let time = match time.split_once('.') {
        Some((whole, fraction)) => match fraction.trim_end_matches('0') {
            "" => whole.to_owned(),
            fraction => format!("{whole}.{fraction}"),
        },
        None => time.to_owned(),
    };
    format!("{date} {time} +0000 UTC")
}

fn pairs(arguments: &Arguments, flag: &str) -> Value {
    Value::object(arguments.list(flag).map(|text| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_owned(), Value::from(value))
    }))
}

fn create(session: &Session, arguments: &Arguments) -> Result<u8> {
    let text = |flag: &str, default: &str| Value::from(arguments.text(flag).unwrap_or(default));
    let ipam = Value::object([
        ("Driver", text("ipam-driver", "default")),
        ("Options", pairs(arguments, "ipam-opt")),
        ("Config", Value::List(pools(arguments)?)),
    ]);
    let config_from = arguments.text("config-from").map_or(Value::Null, |network| {
        Value::object([("Network", Value::from(network))])
    });
    let body = Value::object([
        ("Name", Value::from(arguments.positional[0].as_str())),
        ("CheckDuplicate", Value::Bool(true)),
        ("Driver", text("driver", "bridge")),
        ("Scope", text("scope", "")),
        // Left out where it was not said: the daemon may have defaults of its own.
        (
            "EnableIPv4",
            arguments.bool("ipv4").map_or(Value::Null, Value::Bool),
        ),
        (
            "EnableIPv6",
            arguments.bool("ipv6").map_or(Value::Null, Value::Bool),
        ),
        ("IPAM", ipam),
        ("Internal", Value::Bool(arguments.is_set("internal"))),
        ("Attachable", Value::Bool(arguments.is_set("attachable"))),
        ("Ingress", Value::Bool(arguments.is_set("ingress"))),
        ("ConfigOnly", Value::Bool(arguments.is_set("config-only"))),
        ("ConfigFrom", config_from),
        ("Options", pairs(arguments, "opt")),
        ("Labels", pairs(arguments, "label")),
    ]);
    let made = session
        .client
        .json("POST", "/networks/create", Body::Json(&body))?;
    print_line(made.get("Id").text())?;
    Ok(0)
}

/// One entry for each subnet; a range, gateway or auxiliary address belongs to the subnet that contains it.
fn pools(arguments: &Arguments) -> Result<Vec<Value>> {
    let subnets: Vec<&str> = arguments.list("subnet").collect();
    let mut pools: Vec<Vec<(String, Value)>> = subnets
        .iter()
        .map(|subnet| vec![("Subnet".to_owned(), Value::from(*subnet))])
        .collect();
    let mut place = |key: &str, address: &str, value: Value| {
        let position = subnets.iter().position(|subnet| contains(subnet, address));
        let pool = position
            .and_then(|position| pools.get_mut(position))
            .ok_or_else(|| {
                CliError::message(if subnets.is_empty() {
                    "every ip-range, gateway or auxiliary address must have a corresponding subnet".to_owned()
                } else {
                    format!("no matching subnet for {key} {address}")
                })
            })?;
        match pool.iter_mut().find(|(known, _)| known == key) {
            None => pool.push((key.to_owned(), value)),
            Some((_, Value::Map(known))) => known.extend(value.entries().iter().cloned()),
            Some(_) => {
                return Err(CliError::message(format!(
                    "cannot configure multiple addresses ({key}) on the same subnet: {address}"
                )));
            }
        }
        Ok(())
    };
    for (key, flag) in [("IPRange", "ip-range"), ("Gateway", "gateway")] {
        for text in arguments.list(flag) {
            place(key, text, Value::from(text))?;
        }
    }
    for (name, address) in pairs(arguments, "aux-address").entries() {
        let entry = Value::object([(name.as_str(), address.clone())]);
        place("AuxiliaryAddresses", address.text(), entry)?;
    }
    Ok(pools.into_iter().map(Value::Map).collect())
}

/// Whether an address, or the first one of a range, is in a subnet. What is no address is the daemon's to refuse: it
/// belongs to the first subnet of any kind.
fn contains(subnet: &str, address: &str) -> bool {
    let parse = |text: &str| text.split('/').next().unwrap_or(text).parse::<IpAddr>();
    let length: u32 = subnet
        .split_once('/')
        .and_then(|(_, length)| length.parse().ok())
        .unwrap_or(0);
    match (parse(subnet), parse(address)) {
        (Ok(IpAddr::V4(subnet)), Ok(IpAddr::V4(address))) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(length)).unwrap_or(0);
            (subnet.to_bits() ^ address.to_bits()) & mask == 0
        }
        (Ok(IpAddr::V6(subnet)), Ok(IpAddr::V6(address))) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(length)).unwrap_or(0);
            (subnet.to_bits() ^ address.to_bits()) & mask == 0
        }
        (Ok(_), Ok(_)) => false,
        _ => true,
    }
}

fn connect(session: &Session, arguments: &Arguments) -> Result<u8> {
    let list =
        |flag: &'static str| Value::from(arguments.list(flag).map(ToOwned::to_owned).collect::<Vec<_>>());
    let text = |flag: &str| Value::from(arguments.text(flag).unwrap_or_default());
    let ipam = Value::object([
        ("IPv4Address", text("ip")),
        ("IPv6Address", text("ip6")),
        ("LinkLocalIPs", list("link-local-ip")),
    ]);
    let endpoint = Value::object([
        ("IPAMConfig", ipam),
        ("Links", list("link")),
        ("Aliases", list("alias")),
        ("DriverOpts", pairs(arguments, "driver-opt")),
        (
            "GwPriority",
            Value::Integer(arguments.int("gw-priority").unwrap_or(0)),
        ),
    ]);
    let body = Value::object([
        ("Container", Value::from(arguments.positional[1].as_str())),
        ("EndpointConfig", endpoint),
    ]);
    let path = format!("/networks/{}/connect", escape(&arguments.positional[0]));
    session.client.call("POST", &path, Body::Json(&body))?;
    Ok(0)
}

fn disconnect(session: &Session, arguments: &Arguments) -> Result<u8> {
    let body = Value::object([
        ("Container", Value::from(arguments.positional[1].as_str())),
        ("Force", Value::Bool(arguments.is_set("force"))),
    ]);
    let path = format!("/networks/{}/disconnect", escape(&arguments.positional[0]));
    session.client.call("POST", &path, Body::Json(&body))?;
    Ok(0)
}

fn remove(session: &Session, arguments: &Arguments) -> Result<u8> {
    for_each_name(&arguments.positional, |name| {
        let path = format!("/networks/{}", escape(name));
        match session.client.call("DELETE", &path, Body::Empty) {
            Err(error) if arguments.is_set("force") && error.status() == Some(404) => Ok(()),
            result => result.and_then(|_| print_line(name)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_belong_to_the_subnet_that_has_them() {
        assert!(contains("10.1.0.0/16", "10.1.5.0/24"));
        assert!(!contains("10.1.0.0/16", "10.2.0.1"));
        assert!(contains("fd00:1::/64", "fd00:1::f"));
        assert!(!contains("fd00:1::/64", "fd00:2::f"));
        assert!(!contains("10.1.0.0/16", "fd00:1::f"));
        assert!(contains("0.0.0.0/0", "9.9.9.9"));
    }

    #[test]
    fn moments_are_written_as_go_writes_them() {
        assert_eq!(
            go_time("2026-01-02T03:04:05.670Z"),
            "2026-01-02 03:04:05.67 +0000 UTC"
        );
        assert_eq!(go_time("2026-01-02T03:04:05Z"), "2026-01-02 03:04:05 +0000 UTC");
        assert_eq!(go_time("2026-01-02T03:04:05+02:00"), "2026-01-02T03:04:05+02:00");
    }
}
