//! An update request: what it names changes, the rest of the limits stays as it was.

use super::create::{HostFacts, restart_policy};
use super::resources;
use crate::error::{ApiError, ApiResult};
use hyper::StatusCode;
use naru_docker_wire::types::HostConfig;
use naru_engine::spec::ContainerSpec;
use serde::Deserialize;

/// The body has the limits and the restart policy of a `HostConfig`; zero and empty mean no change.
pub fn update_spec(
    spec: &mut ContainerSpec,
    wanted: &HostConfig,
    facts: HostFacts,
    warnings: &mut Vec<String>,
) -> ApiResult<()> {
    let mut merged = <HostConfig as Deserialize>::deserialize(&spec.origin.host_config).unwrap_or_default();
    check_conflicts(&merged, wanted)?;
    if merged.memory > 0 && merged.memory_swap == 0 {
        // The swap limit that went without saying stays what it was.
        merged.memory_swap = merged.memory.saturating_mul(2);
    }
    merge_limits(&mut merged, wanted);
    spec.resources = resources::limits(&merged, facts, warnings)?;
    if !wanted.restart_policy.name.is_empty() {
        merged.restart_policy = wanted.restart_policy.clone();
        if spec.auto_remove && wanted.restart_policy.name != "no" {
            return Err(conflict(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            ));
        }
        spec.restart = restart_policy(&merged)?;
    }
    spec.origin.host_config =
        serde_json::to_value(&merged).map_err(|error| ApiError::invalid(error.to_string()))?;
    Ok(())
}

fn conflict(message: &str) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, message)
}

/// What an update cannot set beside what is set, in Docker's words.
fn check_conflicts(present: &HostConfig, wanted: &HostConfig) -> ApiResult<()> {
    let clashes = [
        (
            wanted.nano_cpus > 0 && present.cpu_period > 0,
            "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set",
        ),
        (
            wanted.nano_cpus > 0 && present.cpu_quota > 0,
            "Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set",
        ),
        (
            wanted.cpu_period != 0 && present.nano_cpus > 0,
            "Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set",
        ),
        (
            wanted.cpu_quota != 0 && present.nano_cpus > 0,
            "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set",
        ),
    ];
    if let Some((_, message)) = clashes.iter().find(|(clash, _)| *clash) {
        return Err(conflict(message));
    }
    let swap = match present.memory_swap {
        0 => present.memory.saturating_mul(2),
        swap => swap,
    };
    if wanted.memory_swap == 0 && swap > 0 && wanted.memory > swap {
        return Err(conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ));
    }
    Ok(())
}

fn merge_limits(merged: &mut HostConfig, wanted: &HostConfig) {
    fn take<T: Clone + Default + PartialEq>(target: &mut T, wanted: &T) {
        if *wanted != T::default() {
            target.clone_from(wanted);
        }
    }
    take(&mut merged.blkio_weight, &wanted.blkio_weight);
    take(&mut merged.blkio_weight_device, &wanted.blkio_weight_device);
    take(&mut merged.blkio_device_read_bps, &wanted.blkio_device_read_bps);
    take(&mut merged.blkio_device_write_bps, &wanted.blkio_device_write_bps);
    take(&mut merged.blkio_device_read_iops, &wanted.blkio_device_read_iops);
    take(
        &mut merged.blkio_device_write_iops,
        &wanted.blkio_device_write_iops,
    );
    take(&mut merged.cpu_shares, &wanted.cpu_shares);
    take(&mut merged.cpu_period, &wanted.cpu_period);
    take(&mut merged.cpu_quota, &wanted.cpu_quota);
    take(&mut merged.cpu_realtime_period, &wanted.cpu_realtime_period);
    take(&mut merged.cpu_realtime_runtime, &wanted.cpu_realtime_runtime);
    take(&mut merged.nano_cpus, &wanted.nano_cpus);
    take(&mut merged.cpuset_cpus, &wanted.cpuset_cpus);
    take(&mut merged.cpuset_mems, &wanted.cpuset_mems);
    take(&mut merged.memory, &wanted.memory);
    take(&mut merged.memory_swap, &wanted.memory_swap);
    take(&mut merged.memory_reservation, &wanted.memory_reservation);
    // Zero is a wish here, for no limit; only absence means no change.
    if let Some(limit) = wanted.pids_limit {
        merged.pids_limit = Some(if limit <= 0 { -1 } else { limit });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naru_engine::spec::RestartPolicy;

    fn host(json: &str) -> HostConfig {
        serde_json::from_str(json).unwrap()
    }

    fn updated(before: &str, wanted: &str) -> ApiResult<ContainerSpec> {
        let mut spec = ContainerSpec::default();
        spec.origin.host_config = serde_json::from_str(before).unwrap();
        update_spec(&mut spec, &host(wanted), HostFacts { cpus: 2 }, &mut Vec::new())?;
        Ok(spec)
    }

    #[test]
    fn what_is_not_named_stays() {
        let spec = updated(
            r#"{"Memory":67108864,"CpuShares":512,"PidsLimit":7}"#,
            r#"{"CpuShares":256,"PidsLimit":0,"RestartPolicy":{"Name":"always"}}"#,
        )
        .unwrap();
        assert_eq!(spec.resources.memory_bytes, Some(64 << 20));
        assert_eq!(spec.resources.memory_swap_bytes, Some(128 << 20));
        assert_eq!(spec.resources.cpu_shares, Some(256));
        assert_eq!(spec.resources.pids_max, Some(-1));
        assert_eq!(spec.restart, RestartPolicy::Always);
        assert_eq!(spec.origin.host_config["CpuShares"], 256);
    }

    #[test]
    fn contradictions_are_refused_in_dockers_words() {
        let message = |before: &str, wanted: &str| updated(before, wanted).unwrap_err().message;
        assert!(
            message(r#"{"Memory":67108864}"#, r#"{"Memory":268435456}"#).contains("update the memoryswap")
        );
        assert!(message(r#"{"CpuQuota":50000}"#, r#"{"NanoCpus":1000000000}"#).contains("CPU Quota has"));
        assert!(message("{}", r#"{"Memory":1}"#).contains("Minimum memory limit"));
    }
}
