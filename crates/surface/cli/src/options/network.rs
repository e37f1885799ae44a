//! `--network` and what belongs to it: addresses, aliases, extra hosts.

use super::mount::split_fields;
use super::{Object, Outcome, put, texts};
use crate::args::Arguments;
use crate::json::Value;

/// One network to join.
#[derive(Debug, Default)]
struct Attachment {
    name: String,
    aliases: Vec<String>,
    ip: Option<String>,
    ip6: Option<String>,
    mac_address: Option<String>,
    link_local: Vec<String>,
    driver_options: Vec<(String, Value)>,
    priority: Option<i64>,
}

/// Sets the mode and gives the `NetworkingConfig`, when one is needed.
pub fn plan_network(arguments: &Arguments, config: &mut Object, host: &mut Object) -> Outcome<Option<Value>> {
    host.set_list("ExtraHosts", extra_hosts(arguments)?);
    let mut attachments = arguments
        .list("network")
        .chain(arguments.list("net"))
        .map(|text| {
            parse_attachment(text)
                .map_err(|reason| format!("invalid argument {text:?} for \"--network\" flag: {reason}"))
        })
        .collect::<Outcome<Vec<_>>>()?;
    if attachments.is_empty() {
        attachments.push(Attachment {
            name: "default".to_owned(),
            ..Attachment::default()
        });
    }
    let first = &mut attachments[0];
    first.aliases.extend(texts(arguments, "network-alias"));
    first.aliases.extend(texts(arguments, "net-alias"));
    first.link_local.extend(texts(arguments, "link-local-ip"));
    first.ip = arguments.text("ip").map(str::to_owned).or(first.ip.take());
    first.ip6 = arguments.text("ip6").map(str::to_owned).or(first.ip6.take());
    if let Some(address) = arguments.text("mac-address") {
        if !is_mac_address(address) {
            return Err(format!("{address} is not a valid mac address"));
        }
        config.set("MacAddress", address);
        first.mac_address = Some(address.to_owned());
    }
    let mode = if first.name.is_empty() {
        "default"
    } else {
        &first.name
    };
    host.set("NetworkMode", mode);
    let is_plain = attachments.len() == 1 && endpoint(&attachments[0]).0.is_empty();
    if is_plain {
        return Ok(None);
    }
    let mut endpoints = Vec::new();
    for attachment in &attachments {
        if !attachment.aliases.is_empty() && !is_user_defined(&attachment.name) {
            return Err("network-scoped aliases are only supported for user-defined networks".to_owned());
        }
        if endpoints.iter().any(|(name, _)| *name == attachment.name) {
            return Err(format!(
                "network {:?} is specified multiple times",
                attachment.name
            ));
        }
        endpoints.push((attachment.name.clone(), Value::Map(endpoint(attachment).0)));
    }
    Ok(Some(Value::object([("EndpointsConfig", Value::Map(endpoints))])))
}

/// A network that somebody made, by its name.
fn is_user_defined(mode: &str) -> bool {
    !matches!(mode, "" | "default" | "bridge" | "host" | "none") && !mode.starts_with("container:")
}

fn endpoint(attachment: &Attachment) -> Object {
    let mut addresses = Object::default();
    addresses.set_some("IPv4Address", attachment.ip.as_deref());
    addresses.set_some("IPv6Address", attachment.ip6.as_deref());
    addresses.set_list("LinkLocalIPs", attachment.link_local.clone());
    let mut endpoint = Object::default();
    endpoint.set_map("IPAMConfig", addresses.0);
    endpoint.set_list("Aliases", attachment.aliases.clone());
    endpoint.set_some("MacAddress", attachment.mac_address.as_deref());
    endpoint.set_map("DriverOpts", attachment.driver_options.clone());
    endpoint.set_some("GwPriority", attachment.priority);
    endpoint
}

fn parse_attachment(text: &str) -> Outcome<Attachment> {
    if !text.contains('=') {
        return Ok(Attachment {
            name: text.to_owned(),
            ..Attachment::default()
        });
    }
    let mut attachment = Attachment::default();
    for field in split_fields(text) {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| format!("invalid field {field}"))?;
        match key.to_ascii_lowercase().as_str() {
            "name" => value.clone_into(&mut attachment.name),
            "alias" => attachment.aliases.push(value.to_owned()),
            "ip" => attachment.ip = Some(value.to_owned()),
            "ip6" => attachment.ip6 = Some(value.to_owned()),
            "mac-address" => attachment.mac_address = Some(value.to_owned()),
            "link-local-ip" => attachment.link_local.push(value.to_owned()),
            "driver-opt" => {
                let (name, option) = value
                    .split_once('=')
                    .ok_or("invalid key value pair format in driver options")?;
                put(&mut attachment.driver_options, name, Value::from(option));
            }
            "gw-priority" => {
                attachment.priority = Some(
                    value
                        .parse()
                        .map_err(|_| format!("invalid gw-priority ({value})"))?,
                );
            }
            other => return Err(format!("invalid field key {other}")),
        }
    }
    if attachment.name.is_empty() {
        return Err("network name/id is not specified".to_owned());
    }
    Ok(attachment)
}

/// `host:ip` or `host=ip`, sent as `host:ip`.
fn extra_hosts(arguments: &Arguments) -> Outcome<Vec<String>> {
    arguments
        .list("add-host")
        .map(|text| {
            let bad = |reason: String| format!("invalid argument {text:?} for \"--add-host\" flag: {reason}");
            let pair = text.split_once('=').or_else(|| text.split_once(':'));
            let (name, address) = pair.ok_or_else(|| bad(format!("bad format for add-host: {text:?}")))?;
            if name.is_empty() || address.is_empty() {
                return Err(bad(format!("bad format for add-host: {text:?}")));
            }
            let address = address.trim_start_matches('[').trim_end_matches(']');
            if address != "host-gateway" && address.parse::<std::net::IpAddr>().is_err() {
                return Err(bad(format!("invalid IP address in add-host: {address:?}")));
            }
            Ok(format!("{name}:{address}"))
        })
        .collect()
}

fn is_mac_address(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    parts.len() == 6
        && parts
            .iter()
            .all(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
}
