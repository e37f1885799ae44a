//! `GET /containers/json`: entries, and which of them the filters let through.

use super::filters::Filters;
use super::inspect::{EngineFacts, command_line, has_own_network, mount_point, network_name, protocol_word};
use super::network::endpoints;
use super::pattern::NamePatterns;
use super::status::{state_word, status_text};
use crate::error::{ApiError, ApiResult};
use naru_base::Timestamp;
use naru_docker_wire::types::{ContainerSummary, Port, SummaryHostConfig, SummaryNetworkSettings};
use naru_engine::record::{ContainerRecord, ContainerState};
use naru_engine::spec::NetworkMode;
use naru_engine::{HealthStatus, ListedContainer};

/// The filters Docker knows here.
pub const FILTERS: [&str; 16] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
    "label!",
];

const STATES: [&str; 7] = [
    "created",
    "running",
    "paused",
    "restarting",
    "removing",
    "exited",
    "dead",
];
const HEALTH: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];

/// `sizes` are read-write and root filesystem bytes, where they are asked for.
pub fn container_summary(
    container: &ListedContainer,
    sizes: Option<(u64, u64)>,
    facts: &EngineFacts,
    now: Timestamp,
) -> ContainerSummary {
    let record = &*container.record;
    ContainerSummary {
        id: record.id.as_str().to_owned(),
        names: names(container),
        image: record.spec.image.clone(),
        image_id: record.resolved.image_id.as_str().to_owned(),
        command: command_text(record),
        created: record.created_at.as_second(),
        ports: ports(record),
        // Nothing written is left out here, as Docker does; an inspect shows it.
        size_rw: sizes
            .map(|(written, _)| written as i64)
            .filter(|written| *written > 0),
        size_root_fs: sizes.map(|(_, whole)| whole as i64),
        labels: record.resolved.labels.clone(),
        state: state_word(&record.state).to_owned(),
        status: status_text(&record.state, container.health, now),
        host_config: SummaryHostConfig {
            network_mode: network_mode_text(record),
            annotations: None,
        },
        network_settings: SummaryNetworkSettings {
            networks: endpoints(record, &facts.network_ids),
        },
        mounts: record.resolved.mounts.iter().map(mount_point).collect(),
    }
}

/// Its own and those that links give it, in the order of Docker's index of names.
fn names(container: &ListedContainer) -> Vec<String> {
    let mut names = vec![format!("/{}", container.record.name)];
    if !container.linked_names.is_empty() {
        names.extend(container.linked_names.iter().cloned());
        names.sort_unstable();
    }
    names
}

fn network_mode_text(record: &ContainerRecord) -> String {
    match &record.spec.network {
        NetworkMode::Bridge => record
            .spec
            .origin
            .host_config
            .get("NetworkMode")
            .and_then(serde_json::Value::as_str)
            .filter(|text| !text.is_empty())
            .unwrap_or("default")
            .to_owned(),
        NetworkMode::Container(name) => format!("container:{name}"),
        mode => network_name(mode).unwrap_or_default().to_owned(),
    }
}

/// Program and arguments in one line, words with spaces in quotes, as Docker joins them.
fn command_text(record: &ContainerRecord) -> String {
    let (program, arguments) = command_line(record);
    let mut text = program;
    for argument in arguments {
        text.push(' ');
        if argument.contains(' ') {
            text.push('\'');
            text.push_str(&argument);
            text.push('\'');
        } else {
            text.push_str(&argument);
        }
    }
    text
}

fn ports(record: &ContainerRecord) -> Vec<Port> {
    let Some(run) = record.run.as_ref().filter(|_| record.is_running()) else {
        return Vec::new();
    };
    let mut ports: Vec<Port> = run
        .published
        .iter()
        .map(|published| Port {
            ip: published.host_ip.to_string(),
            private_port: published.container_port.port,
            public_port: published.host_port,
            kind: protocol_word(published.container_port.protocol).to_owned(),
        })
        .collect();
    for port in &record.resolved.exposed_ports {
        let is_published = run
            .published
            .iter()
            .any(|published| published.container_port == *port);
        if !is_published && has_own_network(&record.spec.network) {
            let kind = protocol_word(port.protocol).to_owned();
            ports.push(Port {
                private_port: port.port,
                kind,
                ..Port::default()
            });
        }
    }
    ports
}

/// Wrong filter values are refused before anything is listed.
pub fn check_filters(filters: &Filters) -> ApiResult<()> {
    for status in filters.values("status") {
        if !STATES.contains(&status.as_str()) {
            return Err(ApiError::invalid(format!(
                "Unrecognised filter value for status: {status}"
            )));
        }
    }
    for health in filters.values("health") {
        if !HEALTH.contains(&health.as_str()) {
            return Err(ApiError::invalid(format!(
                "Unrecognised filter value for health: {health}"
            )));
        }
    }
    for code in filters.values("exited") {
        code.parse::<i32>()
            .map_err(|_| ApiError::invalid(format!("invalid filter 'exited={code}'")))?;
    }
    for name in ["publish", "expose"] {
        if let Some(port) = filters.values(name).iter().find(|port| !is_port(port)) {
            return Err(ApiError::invalid(format!("invalid filter '{name}={port}'")));
        }
    }
    filters.boolean("is-task").map(drop)
}

/// `80`, `80/udp`, `8000-8010/tcp`.
fn is_port(text: &str) -> bool {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let is_range =
        matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if first <= last);
    is_range
        && ["tcp", "udp", "sctp"]
            .iter()
            .any(|known| protocol.eq_ignore_ascii_case(known))
}

/// Whether the filters ask for containers that do not run, as `all` does.
pub fn implies_all(filters: &Filters) -> bool {
    filters.has("status") || filters.has("exited")
}

/// `has_ancestor` tells whether the container's image is, or is built on, one of those that the filter names.
pub fn matches(
    container: &ListedContainer,
    filters: &Filters,
    names: &NamePatterns,
    facts: &EngineFacts,
    has_ancestor: impl FnOnce() -> bool,
) -> bool {
    let record = &*container.record;
    filters.any("status", |status| state_word(&record.state) == status)
        && names.fit(&record.name)
        && filters.any("id", |id| record.id.as_str().starts_with(id))
        && filters.labels_match(&record.resolved.labels)
        && filters.any("exited", |code| exited_with(record, code))
        && filters.any("volume", |volume| has_volume(record, volume))
        && filters.any("network", |network| is_on_network(record, network, facts))
        && filters.any("publish", |port| is_published(record, port))
        && filters.any("expose", |port| is_exposed(record, port))
        && filters.any("health", |wanted| health_word(container) == wanted)
        && has_ancestor()
        && filters
            .boolean("is-task")
            .is_ok_and(|wanted| wanted != Some(true))
}

/// By the network's name or its id.
fn is_on_network(record: &ContainerRecord, wanted: &str, facts: &EngineFacts) -> bool {
    let attached = record.spec.attachments.iter();
    let mut names = network_name(&record.spec.network)
        .into_iter()
        .chain(attached.map(|attachment| attachment.network.as_str()));
    names.any(|name| name == wanted || facts.network_ids.get(name).is_some_and(|id| id == wanted))
}

fn health_word(container: &ListedContainer) -> &'static str {
    container.health.map_or("none", HealthStatus::word)
}

fn exited_with(record: &ContainerRecord, code: &str) -> bool {
    match &record.state {
        ContainerState::Exited { exit } => code.parse() == Ok(exit.exit_code),
        _ => false,
    }
}

fn has_volume(record: &ContainerRecord, volume: &str) -> bool {
    record
        .resolved
        .mounts
        .iter()
        .any(|mount| mount.volume.as_deref() == Some(volume) || mount.target == volume)
}

/// `80`, `80/udp`, `8000-8010/tcp`.
fn port_in(text: &str, port: u16, protocol: &str) -> bool {
    let (range, wanted) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if (first..=last).contains(&port))
        && wanted.eq_ignore_ascii_case(protocol)
}

fn is_published(record: &ContainerRecord, text: &str) -> bool {
    let wanted = |binding: &naru_engine::spec::PortBinding| {
        let (first, last) = binding.host_ports.unwrap_or((0, 0));
        (first..=last)
            .any(|port| port != 0 && port_in(text, port, protocol_word(binding.container_port.protocol)))
    };
    let now = |port: &naru_engine::record::PublishedPort| {
        port_in(text, port.host_port, protocol_word(port.container_port.protocol))
    };
    record.run.iter().flat_map(|run| &run.published).any(now) || record.spec.ports.iter().any(wanted)
}

fn is_exposed(record: &ContainerRecord, text: &str) -> bool {
    record
        .resolved
        .exposed_ports
        .iter()
        .any(|port| port_in(text, port.port, protocol_word(port.protocol)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_filters_take_ranges() {
        assert!(port_in("80", 80, "tcp"));
        assert!(port_in("8000-8010/udp", 8005, "udp"));
        assert!(!port_in("80/udp", 80, "tcp"));
        assert!(!port_in("nonsense", 80, "tcp"));
        assert!(is_port("80") && is_port("8000-8010/UDP"));
        for text in ["", "x", "99999", "80/nosuch", "9-8", "80/"] {
            assert!(!is_port(text), "{text}");
        }
    }
}
