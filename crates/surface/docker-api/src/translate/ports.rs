//! `ExposedPorts` and `PortBindings`: `"80/tcp"`, ranges on either side, and their host addresses.

use crate::error::{ApiError, ApiResult};
use naru_docker_wire::types::{PortMap, PortSet};
use naru_engine::spec::{ContainerPort, PortBinding, Protocol};
use std::net::IpAddr;

/// The ports of `ExposedPorts`; a key may be a range, `8000-8010/tcp`.
pub fn exposed(wire: &PortSet) -> ApiResult<Vec<ContainerPort>> {
    let mut ports = Vec::with_capacity(wire.len());
    for key in wire.keys() {
        let (first, last, protocol) = parse_key(key)?;
        ports.extend((first..=last).map(|port| ContainerPort { port, protocol }));
    }
    Ok(ports)
}

pub fn bindings(wire: Option<&PortMap>) -> ApiResult<Vec<PortBinding>> {
    let mut bindings = Vec::new();
    for (key, hosts) in wire.into_iter().flatten() {
        let (first, last, protocol) = parse_key(key)?;
        for container_port in (first..=last).map(|port| ContainerPort { port, protocol }) {
            for host in hosts.iter().flatten() {
                bindings.push(PortBinding {
                    container_port,
                    host_ip: parse_host_ip(&host.host_ip)?,
                    host_ports: parse_host_ports(&host.host_port)?,
                });
            }
        }
    }
    Ok(bindings)
}

/// First port, last port, protocol.
fn parse_key(key: &str) -> ApiResult<(u16, u16, Protocol)> {
    let invalid = || ApiError::invalid(format!("invalid port specification: \"{key}\""));
    let (ports, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
    let (first, last) = parse_range(ports)
        .filter(|(first, _)| *first > 0)
        .ok_or_else(invalid)?;
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => {
            return Err(ApiError::not_supported(
                "publishing SCTP ports",
                "only TCP and UDP are forwarded",
            ));
        }
        _ => {
            return Err(ApiError::invalid(format!(
                "invalid port specification: \"{key}\": invalid proto"
            )));
        }
    };
    Ok((first, last, protocol))
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let parse = |part: &str| {
        part.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| part.parse().ok())
            .flatten()
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (parse(first)?, parse(last)?),
        None => (parse(text)?, parse(text)?),
    };
    (first <= last).then_some((first, last))
}

fn parse_host_ip(text: &str) -> ApiResult<Option<IpAddr>> {
    match text.trim_matches(['[', ']']) {
        "" => Ok(None),
        address => address
            .parse()
            .map(Some)
            .map_err(|_| ApiError::invalid(format!("invalid IP address: {text}"))),
    }
}

fn parse_host_ports(text: &str) -> ApiResult<Option<(u16, u16)>> {
    match text {
        "" | "0" => Ok(None),
        text => parse_range(text)
            .map(Some)
            .ok_or_else(|| ApiError::invalid(format!("invalid port specification: \"{text}\""))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naru_docker_wire::types::PortBinding as Wire;

    fn bind(key: &str, ip: &str, port: &str) -> ApiResult<Vec<PortBinding>> {
        let host = Wire {
            host_ip: ip.to_owned(),
            host_port: port.to_owned(),
        };
        bindings(Some(&PortMap::from([(key.to_owned(), Some(vec![host]))])))
    }

    #[test]
    fn bindings_are_read() {
        let binding = &bind("80/tcp", "127.0.0.1", "8080").unwrap()[0];
        assert_eq!(
            binding.container_port,
            ContainerPort {
                port: 80,
                protocol: Protocol::Tcp
            }
        );
        assert_eq!(binding.host_ip, "127.0.0.1".parse().ok());
        assert_eq!(binding.host_ports, Some((8080, 8080)));
        assert_eq!(bind("53/udp", "", "").unwrap()[0].host_ports, None);
        assert_eq!(
            bind("53/UDP", "::1", "8000-8010").unwrap()[0].host_ports,
            Some((8000, 8010))
        );
        assert_eq!(bind("80-82", "", "").unwrap().len(), 3);
    }

    #[test]
    fn nonsense_is_refused_in_dockers_words() {
        for key in [
            "",
            "x",
            "0/tcp",
            "65536/tcp",
            "80/icmp",
            "90-80/tcp",
            "+80/tcp",
            "80-",
            "-80",
        ] {
            let message = bind(key, "", "").unwrap_err().message;
            assert!(
                message.starts_with("invalid port specification"),
                "{key}: {message}"
            );
        }
        assert!(bind("80/tcp", "localhost", "").is_err());
        assert!(bind("80/tcp", "", "99999").is_err());
        assert!(bind("80/tcp", "", "a-b").is_err());
    }
}
