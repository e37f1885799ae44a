//! Namespaces and names: which network, pid, ipc, uts and cgroup namespace, DNS, extra hosts, and their conflicts.

use crate::error::{ApiError, ApiResult};
use naru_docker_wire::types::HostConfig;
use naru_engine::spec::{ContainerSpec, NamespaceMode, NetworkMode};
use std::net::IpAddr;

pub fn apply(spec: &mut ContainerSpec, host: &HostConfig) -> ApiResult<()> {
    spec.network = network_mode(&host.network_mode)?;
    spec.pid_mode = namespace_mode("PID", &host.pid_mode, &[])?;
    spec.ipc_mode = namespace_mode("IPC", &host.ipc_mode, &["private", "none", "shareable"])?;
    spec.uts_mode = namespace_mode("UTS", &host.uts_mode, &[])?;
    spec.cgroup_namespace = namespace_mode("CGROUP", &host.cgroupns_mode, &["private"])?;
    if matches!(spec.uts_mode, NamespaceMode::Container(_)) {
        return Err(ApiError::invalid("invalid UTS mode"));
    }
    if matches!(spec.cgroup_namespace, NamespaceMode::Container(_)) {
        return Err(ApiError::invalid(format!(
            "invalid cgroup namespace mode: {}",
            host.cgroupns_mode
        )));
    }
    spec.user_mode = match host.userns_mode.as_str() {
        "" => NamespaceMode::Private,
        "host" => NamespaceMode::Host,
        other => return Err(ApiError::invalid(format!("invalid user namespace mode: {other}"))),
    };
    spec.dns = host
        .dns
        .iter()
        .flatten()
        .map(|text| parse_dns(text))
        .collect::<ApiResult<_>>()?;
    spec.dns_search = host.dns_search.clone().unwrap_or_default();
    spec.dns_options = host.dns_options.clone().unwrap_or_default();
    spec.extra_hosts = host.extra_hosts.clone().unwrap_or_default();
    spec.extra_hosts
        .iter()
        .try_for_each(|entry| check_extra_host(entry))
}

fn network_mode(text: &str) -> ApiResult<NetworkMode> {
    match text {
        "" | "default" | "bridge" => Ok(NetworkMode::Bridge),
        "host" => Ok(NetworkMode::Host),
        "none" => Ok(NetworkMode::None),
        other => match other.strip_prefix("container:") {
            Some("") => Err(ApiError::invalid(
                "Invalid network mode: invalid container format container:<name|id>",
            )),
            Some(name) => Ok(NetworkMode::Container(name.to_owned())),
            // Whether it exists is asked at the start: clients take a 404 from create for a missing image.
            None => Ok(NetworkMode::Named(other.to_owned())),
        },
    }
}

fn namespace_mode(kind: &str, text: &str, also: &[&str]) -> ApiResult<NamespaceMode> {
    match text {
        "" => Ok(NamespaceMode::Private),
        "host" => Ok(NamespaceMode::Host),
        "private" if also.contains(&"private") => Ok(NamespaceMode::Private),
        "none" if also.contains(&"none") => Ok(NamespaceMode::None),
        "shareable" if also.contains(&"shareable") => Ok(NamespaceMode::Shareable),
        other => match other.strip_prefix("container:") {
            Some(name) if !name.is_empty() => Ok(NamespaceMode::Container(name.to_owned())),
            _ => Err(ApiError::invalid(format!("Invalid {kind} mode: {other}"))),
        },
    }
}

fn parse_dns(text: &str) -> ApiResult<IpAddr> {
    text.parse()
        .map_err(|_| ApiError::invalid(format!("bad nameserver address: {text} is not an ip address")))
}

fn check_extra_host(entry: &str) -> ApiResult<()> {
    let invalid = || ApiError::invalid(format!("bad format for add-host: \"{entry}\""));
    let (name, address) = entry.split_once(':').ok_or_else(invalid)?;
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(invalid());
    }
    if address == "host-gateway" || address.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "invalid IP address in add-host: \"{address}\""
    )))
}

/// Wishes that exclude each other, in Docker's words.
pub fn check_conflicts(spec: &ContainerSpec, warnings: &mut Vec<String>) -> ApiResult<()> {
    let conflict = |what: &str| Err(ApiError::invalid(format!("conflicting options: {what}")));
    if spec.uts_mode == NamespaceMode::Host && spec.hostname.is_some() {
        return conflict("hostname and the UTS mode");
    }
    if matches!(spec.network, NetworkMode::Container(_)) {
        if spec.hostname.is_some() {
            return conflict("hostname and the network mode");
        }
        if !spec.dns.is_empty() {
            return conflict("dns and the network mode");
        }
        if !spec.extra_hosts.is_empty() {
            return conflict("custom host-to-IP mapping and the network mode");
        }
        if spec.mac_address.is_some() {
            return conflict("mac-address and the network mode");
        }
        if !spec.ports.is_empty() || spec.publish_all {
            return conflict("port publishing and the container type network mode");
        }
        if !spec.exposed_ports.is_empty() {
            return conflict("port exposing and the container type network mode");
        }
    }
    if spec.network == NetworkMode::Host {
        if spec.mac_address.is_some() {
            return conflict("mac-address and the network mode");
        }
        if !spec.ports.is_empty() {
            warnings.push("Published ports are discarded when using host network mode".to_owned());
        }
    }
    if spec.stdin_once && !spec.open_stdin {
        tracing::debug!("StdinOnce without OpenStdin has no effect");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_told_apart() {
        assert_eq!(network_mode("default"), Ok(NetworkMode::Bridge));
        assert_eq!(
            network_mode("container:web"),
            Ok(NetworkMode::Container("web".to_owned()))
        );
        assert_eq!(network_mode("blue"), Ok(NetworkMode::Named("blue".to_owned())));
    }

    #[test]
    fn extra_hosts_need_a_name_and_an_address() {
        for entry in ["db:10.0.0.1", "db:::1", "db:[::1]", "db:host-gateway"] {
            assert_eq!(check_extra_host(entry), Ok(()), "{entry}");
        }
        for entry in ["db", ":10.0.0.1", "db:somewhere", "a b:10.0.0.1"] {
            assert!(check_extra_host(entry).is_err(), "{entry}");
        }
    }
}
