//! A create request becomes a `ContainerSpec`. Every field is mapped, refused, or answered with a warning:
//!
//! | fields | what happens |
//! |---|---|
//! | `Config.*` except the following | mapped |
//! | `Config.OnBuild`, `Shell`, `ArgsEscaped` | kept for `inspect`; they mean nothing to a running container |
//! | `HostConfig.ContainerIDFile`, `Annotations`, `VolumeDriver` `local` | kept for `inspect` |
//! | `Cgroup` | refused, 501 |
//! | `StorageOpt`, `DeviceRequests`, `CpuCount`, `CpuPercent`, `IOMaximum*` | refused, 400, unless empty or the default |
//! | `KernelMemory`, `KernelMemoryTCP` | warning: the kernel has dropped them |
//! | `NetworkingConfig` addresses and aliases | refused, 400, as Docker does on its default networks |
//! | everything else in `HostConfig` | mapped, see the modules beside this one |

use super::{log, modes, mounts, network, ports, resources, security};
use crate::error::{ApiError, ApiResult};
use naru_docker_wire::types::{ContainerConfig, CreateRequest, Healthcheck, HostConfig, StringOrList};
use naru_engine::spec::{ContainerSpec, HealthcheckSpec, NetworkMode, OriginSpec, RestartPolicy};
use serde_json::Value;

/// What translation must know of the machine.
#[derive(Debug, Clone, Copy)]
pub struct HostFacts {
    pub cpus: usize,
}

/// Longest host name the kernel takes (`sethostname(2)`).
const HOSTNAME_BYTES_MAX: usize = 64;

/// The wanted container, and warnings for its creator.
pub fn container_spec(request: CreateRequest, host: HostFacts) -> ApiResult<(ContainerSpec, Vec<String>)> {
    let mut warnings = Vec::new();
    let origin = OriginSpec {
        config: to_value(&request.config)?,
        host_config: to_value(&request.host_config)?,
        networking_config: to_value(&request.networking_config)?,
    };
    let mut spec = ContainerSpec {
        origin,
        ..ContainerSpec::default()
    };
    apply_host_config(&mut spec, &request.host_config, host, &mut warnings)?;
    apply_config(&mut spec, request.config)?;
    network::apply_networking(&mut spec, &request.networking_config, &request.host_config)?;
    modes::check_conflicts(&spec, &mut warnings)?;
    Ok((spec, warnings))
}

fn to_value<T: serde::Serialize>(value: &T) -> ApiResult<Value> {
    serde_json::to_value(value).map_err(|error| ApiError::invalid(error.to_string()))
}

fn apply_config(spec: &mut ContainerSpec, config: ContainerConfig) -> ApiResult<()> {
    if let Some(bad) = config
        .env
        .iter()
        .flatten()
        .find(|entry| entry.is_empty() || entry.starts_with('='))
    {
        return Err(ApiError::invalid(format!("invalid environment variable: {bad}")));
    }
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        let dir = config.working_dir;
        return Err(ApiError::invalid(format!(
            "the working directory '{dir}' is invalid, it needs to be an absolute path"
        )));
    }
    check_hostname(&config.hostname)?;
    if config.network_disabled {
        spec.network = NetworkMode::None;
    }
    if !config.mac_address.is_empty() {
        spec.mac_address = Some(check_mac_address(&config.mac_address)?);
    }
    spec.image = config.image;
    spec.entrypoint = config.entrypoint.map(clear_if_blank);
    spec.command = config
        .cmd
        .map(|command| command.0)
        .filter(|command| !command.is_empty());
    spec.env = config.env.unwrap_or_default();
    spec.working_dir = non_empty(config.working_dir);
    spec.user = non_empty(config.user);
    spec.labels = config.labels.unwrap_or_default();
    spec.anonymous_volumes = mounts::anonymous_volumes(config.volumes.unwrap_or_default())?;
    spec.exposed_ports
        .extend(ports::exposed(&config.exposed_ports.unwrap_or_default())?);
    spec.stop_signal = non_empty(config.stop_signal);
    spec.stop_timeout_seconds = config.stop_timeout;
    spec.hostname = non_empty(config.hostname);
    spec.domainname = config.domainname;
    spec.terminal = config.tty;
    spec.open_stdin = config.open_stdin;
    spec.stdin_once = config.stdin_once;
    spec.attach_stdin = config.attach_stdin;
    spec.attach_stdout = config.attach_stdout;
    spec.attach_stderr = config.attach_stderr;
    spec.healthcheck = config.healthcheck.map(healthcheck).transpose()?;
    Ok(())
}

/// `--entrypoint ""` arrives as one empty text and clears the image's.
fn clear_if_blank(entrypoint: StringOrList) -> Vec<String> {
    if entrypoint.0.len() == 1 && entrypoint.0[0].is_empty() {
        Vec::new()
    } else {
        entrypoint.0
    }
}

fn check_hostname(hostname: &str) -> ApiResult<()> {
    let is_valid = hostname.len() <= HOSTNAME_BYTES_MAX
        && !hostname.starts_with(['-', '.'])
        && hostname
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"/\\\"'`$&|;<>()".contains(&byte));
    if is_valid {
        Ok(())
    } else {
        Err(ApiError::invalid(format!("invalid hostname format: {hostname}")))
    }
}

pub fn check_mac_address(text: &str) -> ApiResult<String> {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let is_valid = parts.len() == 6
        && parts
            .iter()
            .all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if !is_valid {
        return Err(ApiError::invalid(format!(
            "invalid MAC address: address {text}: invalid MAC address"
        )));
    }
    Ok(parts.join(":").to_ascii_lowercase())
}

fn healthcheck(wire: Healthcheck) -> ApiResult<HealthcheckSpec> {
    // Docker's own lower bound (container.MinimumDuration).
    const DURATION_NS_MIN: i64 = 1_000_000;
    let durations = [
        ("Interval", wire.interval),
        ("Timeout", wire.timeout),
        ("StartPeriod", wire.start_period),
        ("StartInterval", wire.start_interval),
    ];
    if let Some((name, _)) = durations
        .iter()
        .find(|(_, value)| *value != 0 && *value < DURATION_NS_MIN)
    {
        return Err(ApiError::invalid(format!(
            "{name} in Healthcheck cannot be less than 1ms"
        )));
    }
    if wire.retries < 0 {
        return Err(ApiError::invalid("Retries in Healthcheck cannot be negative"));
    }
    let test = wire.test.unwrap_or_default();
    if !matches!(
        test.first().map(String::as_str),
        None | Some("" | "NONE" | "CMD" | "CMD-SHELL")
    ) {
        return Err(ApiError::invalid(format!(
            "Unknown healthcheck type '{}'",
            test[0]
        )));
    }
    Ok(HealthcheckSpec {
        test,
        interval_ns: wire.interval,
        timeout_ns: wire.timeout,
        start_period_ns: wire.start_period,
        start_interval_ns: wire.start_interval,
        retries: wire.retries,
    })
}

fn apply_host_config(
    spec: &mut ContainerSpec,
    host_config: &HostConfig,
    host: HostFacts,
    warnings: &mut Vec<String>,
) -> ApiResult<()> {
    refuse_unsupported(host_config)?;
    spec.auto_remove = host_config.auto_remove;
    spec.restart = restart_policy(host_config)?;
    spec.with_init = host_config.init;
    spec.log = log::log_spec(host_config)?;
    spec.console_size = console_size(host_config.console_size.as_deref())?;
    spec.ports = ports::bindings(host_config.port_bindings.as_ref())?;
    spec.exposed_ports = spec.ports.iter().map(|binding| binding.container_port).collect();
    spec.publish_all = host_config.publish_all_ports;
    modes::apply(spec, host_config)?;
    spec.mounts = mounts::mounts(host_config)?;
    spec.volumes_from = mounts::volumes_from(host_config)?;
    spec.read_only_rootfs = host_config.readonly_rootfs;
    security::apply(spec, host_config)?;
    spec.shm_bytes = match host_config.shm_size {
        0 => None,
        bytes => {
            Some(u64::try_from(bytes).map_err(|_| ApiError::invalid("SHM size can not be less than 0"))?)
        }
    };
    spec.resources = resources::limits(host_config, host, warnings)?;
    spec.rlimits = resources::rlimits(host_config)?;
    spec.devices = resources::devices(host_config)?;
    spec.device_cgroup_rules = resources::device_rules(host_config)?;
    spec.oom_score_adj = resources::oom_score(host_config.oom_score_adj)?;
    spec.cgroup_parent = cgroup_parent(&host_config.cgroup_parent)?;
    Ok(())
}

fn refuse_unsupported(host: &HostConfig) -> ApiResult<()> {
    if !host.cgroup.is_empty() {
        return Err(ApiError::not_supported(
            "HostConfig.Cgroup",
            "a container always has a cgroup of its own",
        ));
    }
    if host
        .storage_opt
        .as_ref()
        .is_some_and(|options| !options.is_empty())
    {
        return Err(ApiError::invalid(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
        ));
    }
    if host.device_requests.as_ref().is_some_and(|list| !list.is_empty()) {
        return Err(ApiError::invalid(
            "could not select device driver: device requests are not supported",
        ));
    }
    if host.cpu_count != 0
        || host.cpu_percent != 0
        || host.io_maximum_iops != 0
        || host.io_maximum_bandwidth != 0
    {
        return Err(ApiError::invalid(
            "CpuCount, CpuPercent, IOMaximumIOps and IOMaximumBandwidth apply to Windows containers only",
        ));
    }
    if !matches!(host.isolation.to_ascii_lowercase().as_str(), "" | "default") {
        return Err(ApiError::invalid(format!(
            "invalid isolation '{}': linux only supports 'default'",
            host.isolation
        )));
    }
    if !matches!(
        host.runtime.as_str(),
        "" | "runc" | "naru" | "io.containerd.runc.v2"
    ) {
        return Err(ApiError::invalid(format!(
            "unknown or invalid runtime name: {}",
            host.runtime
        )));
    }
    if !matches!(host.volume_driver.as_str(), "" | "local") {
        return Err(ApiError::not_found(format!(
            "plugin \"{}\" not found",
            host.volume_driver
        )));
    }
    Ok(())
}

pub fn restart_policy(host: &HostConfig) -> ApiResult<RestartPolicy> {
    let wire = &host.restart_policy;
    let retries_max = u32::try_from(wire.maximum_retry_count)
        .map_err(|_| ApiError::invalid("maximum retry count cannot be negative"))?;
    let policy = match wire.name.as_str() {
        "" | "no" => RestartPolicy::No,
        "always" => RestartPolicy::Always,
        "unless-stopped" => RestartPolicy::UnlessStopped,
        "on-failure" => RestartPolicy::OnFailure {
            retries_max: (retries_max > 0).then_some(retries_max),
        },
        other => return Err(ApiError::invalid(format!("invalid restart policy '{other}'"))),
    };
    if retries_max > 0 && !matches!(policy, RestartPolicy::OnFailure { .. }) {
        return Err(ApiError::invalid(format!(
            "maximum retry count cannot be used with restart policy '{}'",
            wire.name
        )));
    }
    if host.auto_remove && policy != RestartPolicy::No {
        return Err(ApiError::invalid(
            "can't create 'AutoRemove' container with restart policy",
        ));
    }
    Ok(policy)
}

/// `[rows, columns]`; zeros mean nothing is known.
pub fn console_size(wire: Option<&[u64]>) -> ApiResult<Option<(u16, u16)>> {
    match wire {
        None | Some([] | [0, 0]) => Ok(None),
        Some([rows, columns]) => match (u16::try_from(*rows), u16::try_from(*columns)) {
            (Ok(rows), Ok(columns)) => Ok(Some((rows, columns))),
            _ => Err(ApiError::invalid(
                "invalid console size: rows and columns must be below 65536",
            )),
        },
        Some(_) => Err(ApiError::invalid("invalid console size: expected two numbers")),
    }
}

/// A path below the root of every hierarchy, never one that climbs out of where it seems to lead.
fn cgroup_parent(text: &str) -> ApiResult<Option<String>> {
    let path = text.trim_matches('/');
    if path.is_empty() {
        return Ok(None);
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(ApiError::invalid(format!(
            "invalid CgroupParent {text:?}: it must not have empty, '.' or '..' parts"
        )));
    }
    Ok(Some(text.to_owned()))
}

pub fn non_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
#[path = "create_tests.rs"]
mod tests;
