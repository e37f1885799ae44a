//! A container's record as `GET /containers/{}/json` shows it.

use super::network::endpoints;
use super::status::state_word;
use naru_base::Timestamp;
use naru_docker_wire::types::{
    ContainerConfig, ContainerInspect, ContainerState as WireState, GraphDriver, Health, HealthResult,
    Healthcheck, HostConfig, MountPoint, NetworkSettings, PortBinding, PortMap, StringOrList,
};
use naru_engine::ContainerView;
use naru_engine::record::{
    ContainerRecord, ContainerState, MountKind, PublishedPort, ResolvedMount, RunRecord,
};
use naru_engine::spec::{NamespaceMode, NetworkMode, Protocol};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// What inspect shows of the engine rather than of the container.
#[derive(Debug, Clone, Default)]
pub struct EngineFacts {
    pub cgroup_version: u8,
    /// Network name to id.
    pub network_ids: BTreeMap<String, String>,
}

/// Docker's default set (`oci/defaults.go`), shown when a container took it.
const MASKED_PATHS: [&str; 9] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
];
const READ_ONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Docker's size of /dev/shm, 64 MiB.
const SHM_BYTES: i64 = 64 * 1024 * 1024;

pub fn container_inspect(view: &ContainerView, facts: &EngineFacts) -> ContainerInspect {
    let record = &*view.record;
    let (path, args) = command_line(record);
    ContainerInspect {
        id: record.id.to_string(),
        created: record.created_at.to_string(),
        path,
        args,
        state: WireState {
            health: view.health.as_ref().map(health),
            ..state(record)
        },
        image: record.resolved.image_id.to_string(),
        resolv_conf_path: path_text(&view.run_directory.join("resolv.conf")),
        hostname_path: path_text(&view.run_directory.join("hostname")),
        hosts_path: path_text(&view.run_directory.join("hosts")),
        log_path: view.log_path.as_deref().map(path_text).unwrap_or_default(),
        name: format!("/{}", record.name),
        restart_count: i64::from(record.restart_count),
        driver: "overlay2".to_owned(),
        platform: "linux".to_owned(),
        exec_ids: Some(view.exec_ids.iter().map(ToString::to_string).collect())
            .filter(|ids: &Vec<_>| !ids.is_empty()),
        host_config: host_config(view, facts),
        graph_driver: GraphDriver {
            data: Some(BTreeMap::new()),
            name: "overlay2".to_owned(),
        },
        size_rw: view.sizes.map(|(written, _)| written as i64),
        size_root_fs: view.sizes.map(|(_, whole)| whole as i64),
        mounts: record.resolved.mounts.iter().map(mount_point).collect(),
        config: config(record),
        network_settings: network_settings(record, facts),
        ..ContainerInspect::default()
    }
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// `Path` and `Args`: the program and its arguments.
pub fn command_line(record: &ContainerRecord) -> (String, Vec<String>) {
    let mut words = record
        .resolved
        .entrypoint
        .iter()
        .chain(&record.resolved.command)
        .cloned();
    (words.next().unwrap_or_default(), words.collect())
}

fn state(record: &ContainerRecord) -> WireState {
    let zero = Timestamp::ZERO.to_owned();
    let mut wire = WireState {
        status: state_word(&record.state).to_owned(),
        started_at: zero.clone(),
        finished_at: zero,
        ..WireState::default()
    };
    match &record.state {
        ContainerState::Created => {}
        ContainerState::Removing => wire.dead = true,
        ContainerState::Running { pid, started_at, .. } | ContainerState::Paused { pid, started_at, .. } => {
            wire.running = true;
            wire.paused = matches!(record.state, ContainerState::Paused { .. });
            wire.pid = i64::from(*pid);
            wire.started_at = started_at.to_string();
        }
        ContainerState::Restarting { exit } | ContainerState::Exited { exit } => {
            // Docker calls a container that waits for its next start running and restarting.
            wire.restarting = matches!(record.state, ContainerState::Restarting { .. });
            wire.running = wire.restarting;
            wire.exit_code = i64::from(exit.exit_code);
            wire.oom_killed = exit.oom_killed;
            wire.error.clone_from(&exit.error);
            wire.finished_at = exit.finished_at.to_string();
            if let Some(started_at) = exit.started_at {
                wire.started_at = started_at.to_string();
            }
        }
    }
    if let Some(failed) = &record.failed_start {
        wire.exit_code = i64::from(failed.exit_code);
        wire.error.clone_from(&failed.message);
    }
    wire
}

fn wire_check(spec: &naru_engine::spec::HealthcheckSpec) -> Healthcheck {
    Healthcheck {
        test: Some(spec.test.clone()),
        interval: spec.interval_ns,
        timeout: spec.timeout_ns,
        start_period: spec.start_period_ns,
        start_interval: spec.start_interval_ns,
        retries: spec.retries,
    }
}

fn health(view: &naru_engine::HealthView) -> Health {
    let result = |probe: &naru_engine::ProbeView| HealthResult {
        start: probe.begun_at.to_string(),
        end: probe.ended_at.to_string(),
        exit_code: probe.exit_code,
        output: probe.output.clone(),
    };
    Health {
        status: view.status.word().to_owned(),
        failing_streak: view.failing_streak,
        log: view.log.iter().map(result).collect(),
    }
}

fn origin<T: DeserializeOwned + Default>(value: &Value) -> T {
    T::deserialize(value).unwrap_or_default()
}

/// What was asked for, with what the image added.
fn config(record: &ContainerRecord) -> ContainerConfig {
    let resolved = &record.resolved;
    let asked: ContainerConfig = origin(&record.spec.origin.config);
    let list = |words: &[String]| Some(StringOrList(words.to_vec())).filter(|list| !list.0.is_empty());
    let set = |keys: Vec<String>| -> Option<BTreeMap<_, _>> {
        Some(
            keys.into_iter()
                .map(|key| (key, Some(naru_docker_wire::types::Empty {})))
                .collect::<BTreeMap<_, _>>(),
        )
        .filter(|set| !set.is_empty())
    };
    ContainerConfig {
        hostname: resolved.hostname.clone(),
        user: resolved.user.clone(),
        env: Some(resolved.env.clone()),
        cmd: list(&resolved.command),
        entrypoint: list(&resolved.entrypoint),
        image: record.spec.image.clone(),
        working_dir: resolved.working_dir.clone(),
        labels: Some(resolved.labels.clone()),
        exposed_ports: set(resolved.exposed_ports.iter().map(ToString::to_string).collect()),
        volumes: set(resolved.volumes.iter().cloned().collect()),
        healthcheck: resolved
            .healthcheck
            .as_ref()
            .map(wire_check)
            .or(asked.healthcheck),
        ..asked
    }
}

/// What was asked for, with Docker's defaults where nothing was.
fn host_config(view: &ContainerView, facts: &EngineFacts) -> HostConfig {
    let spec = &view.record.spec;
    let mut wire: HostConfig = origin(&spec.origin.host_config);
    fill(&mut wire.network_mode, "default");
    fill(&mut wire.log_config.kind, &spec.log.driver);
    fill(&mut wire.restart_policy.name, "no");
    fill(&mut wire.ipc_mode, "private");
    fill(&mut wire.runtime, "runc");
    let own_cgroup = facts.cgroup_version == 2 && !spec.privileged;
    let default_cgroup = if own_cgroup || spec.cgroup_namespace != NamespaceMode::Host {
        "private"
    } else {
        "host"
    };
    fill(&mut wire.cgroupns_mode, default_cgroup);
    if wire.memory > 0 && wire.memory_swap == 0 {
        // What the limit means without one for swap.
        wire.memory_swap = wire.memory.saturating_mul(2);
    }
    if wire.shm_size == 0 {
        wire.shm_size = SHM_BYTES;
    }
    wire.port_bindings.get_or_insert_default();
    wire.console_size.get_or_insert_with(|| vec![0, 0]);
    wire.oom_kill_disable.get_or_insert(false);
    wire.dns.get_or_insert_default();
    wire.dns_options.get_or_insert_default();
    wire.dns_search.get_or_insert_default();
    wire.devices.get_or_insert_default();
    wire.blkio_weight_device.get_or_insert_default();
    wire.links = Some(view.links.clone()).filter(|links| !links.is_empty());
    if !spec.privileged {
        let texts = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
        let masked = || spec.masked_paths.clone().unwrap_or_else(|| texts(&MASKED_PATHS));
        let read_only = || {
            spec.read_only_paths
                .clone()
                .unwrap_or_else(|| texts(&READ_ONLY_PATHS))
        };
        wire.masked_paths.get_or_insert_with(masked);
        wire.readonly_paths.get_or_insert_with(read_only);
    }
    wire
}

fn fill(field: &mut String, default: &str) {
    if field.is_empty() {
        default.clone_into(field);
    }
}

pub fn protocol_word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

pub fn mount_point(mount: &ResolvedMount) -> MountPoint {
    let kind = match mount.kind {
        MountKind::Bind => "bind",
        MountKind::Volume => "volume",
        MountKind::Tmpfs => "tmpfs",
        MountKind::Image => "image",
    };
    // Docker shows the options as they were written with -v; `z` is what it shows for a volume.
    let mode = match (mount.kind, mount.read_only) {
        (MountKind::Image, _) => "",
        (_, true) => "ro",
        (MountKind::Volume, false) => "z",
        _ => "",
    };
    MountPoint {
        kind: kind.to_owned(),
        name: mount
            .volume
            .as_ref()
            .or(mount.image.as_ref().map(|image| &image.name))
            .cloned()
            .unwrap_or_default(),
        source: path_text(&mount.source),
        destination: mount.target.clone(),
        driver: if mount.kind == MountKind::Volume {
            "local".to_owned()
        } else {
            String::new()
        },
        mode: mode.to_owned(),
        rw: !mount.read_only,
        propagation: mount.propagation.clone(),
    }
}

/// The name a container's network has in `NetworkSettings.Networks`; none of its own when it shares another's.
pub fn network_name(mode: &NetworkMode) -> Option<&str> {
    match mode {
        NetworkMode::Bridge => Some("bridge"),
        NetworkMode::Host => Some("host"),
        NetworkMode::None => Some("none"),
        NetworkMode::Named(name) => Some(name),
        NetworkMode::Container(_) => None,
    }
}

/// Whether its exposed ports are its own.
pub fn has_own_network(mode: &NetworkMode) -> bool {
    matches!(mode, NetworkMode::Bridge | NetworkMode::Named(_))
}

fn running(record: &ContainerRecord) -> Option<&RunRecord> {
    record.run.as_ref().filter(|_| record.is_running())
}

fn network_settings(record: &ContainerRecord, facts: &EngineFacts) -> NetworkSettings {
    let networks = endpoints(record, &facts.network_ids);
    let mut wire = NetworkSettings::default();
    if let Some(run) = running(record) {
        wire.sandbox_id = record.id.to_string();
        wire.sandbox_key = record
            .pid()
            .map(|pid| format!("/proc/{pid}/ns/net"))
            .unwrap_or_default();
        wire.ports = port_map(record, run);
    }
    if let Some(endpoint) = networks.get("bridge") {
        wire.endpoint_id.clone_from(&endpoint.endpoint_id);
        wire.gateway.clone_from(&endpoint.gateway);
        wire.ip_address.clone_from(&endpoint.ip_address);
        wire.ipv6_gateway.clone_from(&endpoint.ipv6_gateway);
        wire.global_ipv6_address.clone_from(&endpoint.global_ipv6_address);
        wire.global_ipv6_prefix_len = endpoint.global_ipv6_prefix_len;
        wire.ip_prefix_len = endpoint.ip_prefix_len;
        wire.mac_address.clone_from(&endpoint.mac_address);
    }
    wire.networks = networks;
    wire
}

fn port_map(record: &ContainerRecord, run: &RunRecord) -> PortMap {
    let mut ports: PortMap = BTreeMap::new();
    if has_own_network(&record.spec.network) {
        ports.extend(
            record
                .resolved
                .exposed_ports
                .iter()
                .map(|port| (port.to_string(), None)),
        );
    }
    for published in &run.published {
        ports
            .entry(published.container_port.to_string())
            .or_default()
            .get_or_insert_default()
            .push(host_binding(published));
    }
    ports
}

fn host_binding(published: &PublishedPort) -> PortBinding {
    PortBinding {
        host_ip: published.host_ip.to_string(),
        host_port: published.host_port.to_string(),
    }
}
