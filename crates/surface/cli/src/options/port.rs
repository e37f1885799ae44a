//! `--publish` and `--expose`: `[[ip:]host:]container[/protocol]`, with ranges.

use super::{Outcome, put};
use crate::args::Arguments;
use crate::json::Value;

#[derive(Debug, Default)]
pub struct Ports {
    pub exposed: Vec<(String, Value)>,
    pub bindings: Vec<(String, Value)>,
}

pub fn plan_ports(arguments: &Arguments) -> Outcome<Ports> {
    let mut ports = Ports::default();
    for text in arguments.list("publish") {
        let text = if text.contains('=') {
            short_form(text)?
        } else {
            text.to_owned()
        };
        publish(&text, &mut ports)?;
    }
    for text in arguments.list("expose") {
        if text.contains(':') {
            return Err(format!("invalid port format for --expose: {text}"));
        }
        let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = parse_range(range)
            .ok_or_else(|| format!("invalid range format for --expose: {text}, error: invalid port"))?;
        for port in first..=last {
            put(
                &mut ports.exposed,
                &format!("{port}/{protocol}"),
                Value::Map(Vec::new()),
            );
        }
    }
    Ok(ports)
}

/// `target=80,published=8080,protocol=udp` as `8080:80/udp`.
fn short_form(text: &str) -> Outcome<String> {
    let (mut target, mut published, mut protocol) = ("", "", "tcp");
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("target", value)) => target = value,
            Some(("published", value)) => published = value,
            Some(("protocol", value)) => protocol = value,
            Some(("mode", _)) => {}
            _ => {
                return Err(format!(
                    "invalid publish opts format (should be name=value but got '{field}')"
                ));
            }
        }
    }
    Ok(format!("{published}:{target}/{protocol}"))
}

fn publish(text: &str, ports: &mut Ports) -> Outcome<()> {
    let (address, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let (ip, host, container) = split_address(address);
    if container.is_empty() {
        return Err(format!("no port specified: {text}<empty>"));
    }
    let ip = ip.trim_start_matches('[').trim_end_matches(']');
    if !ip.is_empty() && ip.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("invalid IP address: {ip}"));
    }
    let (first, last) =
        parse_range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    let host_range = if host.is_empty() {
        None
    } else {
        Some(parse_range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?)
    };
    if let Some((host_first, host_last)) = host_range
        && host_last - host_first != last - first
        && first != last
    {
        return Err(format!(
            "invalid ranges specified for container and host Ports: {container} and {host}"
        ));
    }
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(format!("invalid proto: {protocol}"));
    }
    for offset in 0..=last - first {
        let host_port = match host_range {
            None => String::new(),
            // One port of the container to any free one of a range of the host.
            Some((host_first, host_last)) if first == last && host_first != host_last => host.to_owned(),
            Some((host_first, _)) => (host_first + offset).to_string(),
        };
        let key = format!("{}/{protocol}", first + offset);
        put(&mut ports.exposed, &key, Value::Map(Vec::new()));
        let binding = Value::object([("HostIp", Value::from(ip)), ("HostPort", Value::from(host_port))]);
        match ports.bindings.iter_mut().find(|(name, _)| *name == key) {
            Some((_, Value::List(bindings))) => bindings.push(binding),
            _ => ports.bindings.push((key, Value::List(vec![binding]))),
        }
    }
    Ok(())
}

/// The last two colons divide address, host port and container port.
fn split_address(text: &str) -> (&str, &str, &str) {
    let Some((rest, container)) = text.rsplit_once(':') else {
        return ("", "", text);
    };
    match rest.rsplit_once(':') {
        // `[::1]:80` has no host port of its own to divide off.
        Some((ip, host)) if !host.ends_with(']') => (ip, host, container),
        Some(_) => (rest, "", container),
        None if rest.contains('.') => (rest, "", container),
        None => ("", rest, container),
    }
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}
