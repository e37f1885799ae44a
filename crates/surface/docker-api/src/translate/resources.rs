//! Limits: memory, CPU, block I/O, pids, rlimits, devices. Numbers are checked here, in Docker's words.

use super::create::HostFacts;
use crate::error::{ApiError, ApiResult};
use naru_docker_wire::types::{HostConfig, ThrottleDevice, WeightDevice};
use naru_engine::spec::{DeviceSpec, ResourcesSpec, RlimitSpec, ThrottleSpec, WeightSpec};
use std::path::PathBuf;

/// Docker's `linuxMinMemory`, 6 MiB: a container with less cannot be started.
const MEMORY_BYTES_MIN: i64 = 6 * 1024 * 1024;

const RLIMITS: [&str; 16] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
    "as",
];

fn check(is_right: bool, message: impl Into<String>) -> ApiResult<()> {
    if is_right {
        Ok(())
    } else {
        Err(ApiError::invalid(message))
    }
}

fn non_zero(value: i64) -> Option<i64> {
    Some(value).filter(|value| *value != 0)
}

pub fn limits(host: &HostConfig, facts: HostFacts, warnings: &mut Vec<String>) -> ApiResult<ResourcesSpec> {
    check_memory(host)?;
    check_cpu(host, facts)?;
    if host.kernel_memory != 0 || host.kernel_memory_tcp != 0 {
        warnings.push("Specifying a kernel memory limit is deprecated: the kernel no longer has it. Limitation discarded.".to_owned());
    }
    let oom_kill_disable = host.oom_kill_disable.unwrap_or(false);
    if oom_kill_disable && host.memory == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system \
             running out of resources."
                .to_owned(),
        );
    }
    check_weight(host.blkio_weight)?;
    Ok(ResourcesSpec {
        memory_bytes: non_zero(host.memory),
        memory_swap_bytes: non_zero(host.memory_swap),
        memory_reservation_bytes: non_zero(host.memory_reservation),
        memory_swappiness: host.memory_swappiness.and_then(|value| u64::try_from(value).ok()),
        oom_kill_disable,
        nano_cpus: non_zero(host.nano_cpus),
        cpu_shares: non_zero(host.cpu_shares).map(i64::unsigned_abs),
        cpu_quota_us: non_zero(host.cpu_quota),
        cpu_period_us: non_zero(host.cpu_period).map(i64::unsigned_abs),
        cpu_realtime_runtime_us: non_zero(host.cpu_realtime_runtime),
        cpu_realtime_period_us: non_zero(host.cpu_realtime_period).map(i64::unsigned_abs),
        cpuset_cpus: Some(host.cpuset_cpus.clone()).filter(|text| !text.is_empty()),
        cpuset_mems: Some(host.cpuset_mems.clone()).filter(|text| !text.is_empty()),
        pids_max: host
            .pids_limit
            .filter(|limit| *limit != 0)
            .map(|limit| limit.max(-1)),
        blkio_weight: Some(host.blkio_weight as u16).filter(|weight| *weight > 0),
        blkio_weight_devices: weights(host.blkio_weight_device.as_ref())?,
        blkio_read_bps: throttles(host.blkio_device_read_bps.as_ref())?,
        blkio_write_bps: throttles(host.blkio_device_write_bps.as_ref())?,
        blkio_read_iops: throttles(host.blkio_device_read_iops.as_ref())?,
        blkio_write_iops: throttles(host.blkio_device_write_iops.as_ref())?,
    })
}

fn check_memory(host: &HostConfig) -> ApiResult<()> {
    let (memory, swap, reservation) = (host.memory, host.memory_swap, host.memory_reservation);
    check(
        memory == 0 || memory >= MEMORY_BYTES_MIN,
        "Minimum memory limit allowed is 6MB",
    )?;
    check(
        memory == 0 || swap <= 0 || swap >= memory,
        "Minimum memoryswap limit should be larger than memory limit, see usage",
    )?;
    check(
        swap >= -1,
        "Minimum memoryswap limit should be larger than memory limit, see usage",
    )?;
    check(
        memory != 0 || swap <= 0,
        "You should always set the Memory limit when using Memoryswap limit, see usage",
    )?;
    if let Some(swappiness) = host.memory_swappiness {
        check(
            (-1..=100).contains(&swappiness),
            format!("Invalid value: {swappiness}, valid memory swappiness range is 0-100"),
        )?;
    }
    check(
        reservation == 0 || reservation >= MEMORY_BYTES_MIN,
        "Minimum memory reservation allowed is 6MB",
    )?;
    check(
        memory == 0 || reservation <= memory,
        "Minimum memory limit can not be less than memory reservation limit, see usage",
    )
}

fn check_cpu(host: &HostConfig, facts: HostFacts) -> ApiResult<()> {
    if host.nano_cpus != 0 {
        check(
            host.cpu_period == 0,
            "Conflicting options: Nano CPUs and CPU Period cannot both be set",
        )?;
        check(
            host.cpu_quota == 0,
            "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
        )?;
        let cpus = facts.cpus;
        let most = i64::try_from(cpus)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000_000_000);
        // Less than a hundredth of a CPU is a quota the kernel refuses.
        check(
            (10_000_000..=most).contains(&host.nano_cpus),
            format!("range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"),
        )?;
    }
    check(
        host.cpu_period == 0 || (1_000..=1_000_000).contains(&host.cpu_period),
        "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
    )?;
    check(
        host.cpu_quota <= 0 || host.cpu_quota >= 1_000,
        "CPU cfs quota can not be less than 1ms (i.e. 1000)",
    )?;
    let (runtime, period) = (host.cpu_realtime_runtime, host.cpu_realtime_period);
    check(
        runtime >= 0 && period >= 0,
        "CPU real-time runtime and period cannot be negative",
    )?;
    check(
        period == 0 || runtime <= period,
        "cpu real-time runtime cannot be higher than cpu real-time period",
    )?;
    check(
        host.cpu_shares >= 0,
        format!(
            "invalid CPU shares ({}): value must be a positive integer",
            host.cpu_shares
        ),
    )?;
    check_cpuset("cpus", &host.cpuset_cpus, Some(facts.cpus))?;
    check_cpuset("mems", &host.cpuset_mems, None)
}

fn check_cpuset(kind: &str, text: &str, count: Option<usize>) -> ApiResult<()> {
    if text.is_empty() {
        return Ok(());
    }
    let mut highest = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
            (Ok(first), Ok(last)) if first <= last => highest = highest.max(last),
            _ => {
                return Err(ApiError::invalid(format!(
                    "Invalid value {text} for cpuset {kind}"
                )));
            }
        }
    }
    match count {
        Some(count) if highest >= count => Err(ApiError::invalid(format!(
            "Requested CPUs are not available - requested {text}, available: 0-{}",
            count.saturating_sub(1)
        ))),
        _ => Ok(()),
    }
}

fn throttles(wire: Option<&Vec<ThrottleDevice>>) -> ApiResult<Vec<ThrottleSpec>> {
    let throttles = wire.into_iter().flatten().map(|throttle| {
        Ok(ThrottleSpec {
            device: device_path(&throttle.path)?,
            rate: throttle.rate,
        })
    });
    throttles.collect()
}

fn weights(wire: Option<&Vec<WeightDevice>>) -> ApiResult<Vec<WeightSpec>> {
    let weights = wire.into_iter().flatten().map(|device| {
        check_weight(device.weight)?;
        Ok(WeightSpec {
            device: device_path(&device.path)?,
            weight: device.weight as u16,
        })
    });
    weights
        .filter(|weight| !matches!(weight, Ok(WeightSpec { weight: 0, .. })))
        .collect()
}

fn check_weight(weight: u64) -> ApiResult<()> {
    check(
        weight == 0 || (10..=1000).contains(&weight),
        "Range of blkio weight is from 10 to 1000",
    )
}

fn device_path(text: &str) -> ApiResult<PathBuf> {
    check(
        text.starts_with("/dev/"),
        format!("bad format for device path: {text}"),
    )?;
    Ok(PathBuf::from(text))
}

pub fn rlimits(host: &HostConfig) -> ApiResult<Vec<RlimitSpec>> {
    host.ulimits
        .iter()
        .flatten()
        .map(|limit| {
            check(
                RLIMITS.contains(&limit.name.as_str()),
                format!("invalid ulimit type: {}", limit.name),
            )?;
            let is_unlimited = limit.hard == -1;
            check(
                is_unlimited || (limit.soft != -1 && limit.soft <= limit.hard),
                format!(
                    "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                    limit.soft, limit.hard
                ),
            )?;
            Ok(RlimitSpec {
                name: limit.name.clone(),
                soft: limit.soft,
                hard: limit.hard,
            })
        })
        .collect()
}

pub fn devices(host: &HostConfig) -> ApiResult<Vec<DeviceSpec>> {
    host.devices
        .iter()
        .flatten()
        .map(|device| {
            let permissions = if device.cgroup_permissions.is_empty() {
                "rwm"
            } else {
                device.cgroup_permissions.as_str()
            };
            check(
                permissions.bytes().all(|byte| b"rwm".contains(&byte)),
                format!("invalid device cgroup permissions: {permissions}"),
            )?;
            check(
                device.path_on_host.starts_with('/'),
                format!("{} is not an absolute path", device.path_on_host),
            )?;
            let inside = if device.path_in_container.is_empty() {
                &device.path_on_host
            } else {
                &device.path_in_container
            };
            check(
                inside.starts_with('/'),
                format!("{inside} is not an absolute path"),
            )?;
            Ok(DeviceSpec {
                host_path: PathBuf::from(&device.path_on_host),
                container_path: PathBuf::from(inside),
                permissions: permissions.to_owned(),
            })
        })
        .collect()
}

/// `c 1:3 rwm`, with `*` for any number.
pub fn device_rules(host: &HostConfig) -> ApiResult<Vec<String>> {
    let rules = host.device_cgroup_rules.clone().unwrap_or_default();
    match rules.iter().find(|rule| !is_device_rule(rule)) {
        Some(rule) => Err(ApiError::invalid(format!(
            "invalid device cgroup rule format: '{rule}'"
        ))),
        None => Ok(rules),
    }
}

fn is_device_rule(rule: &str) -> bool {
    let is_number = |text: &str| text == "*" || text.parse::<u32>().is_ok();
    let parts: Vec<&str> = rule.split(' ').collect();
    let [kind, numbers, permissions] = parts.as_slice() else {
        return false;
    };
    let Some((major, minor)) = numbers.split_once(':') else {
        return false;
    };
    matches!(*kind, "a" | "b" | "c")
        && is_number(major)
        && is_number(minor)
        && (1..=3).contains(&permissions.len())
        && permissions.bytes().all(|byte| b"rwm".contains(&byte))
}

pub fn oom_score(value: i64) -> ApiResult<Option<i32>> {
    check(
        (-1000..=1000).contains(&value),
        format!("Invalid value {value}, range for oom score adj is [-1000, 1000]"),
    )?;
    Ok(Some(value as i32).filter(|value| *value != 0))
}
