//! Limits in the words of the OCI runtime specification.

use crate::error::{EngineError, Result};
use crate::spec::{ResourcesSpec, ThrottleSpec, WeightSpec};
use oci_spec::runtime as oci;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Up to this limit of processes one more or less makes a difference to a program.
const PIDS_TIGHT: i64 = 16;

/// A limit of processes that the stem of a start would take a part of: it is set by the keeper when the stem is gone.
pub fn plan_tight_pids(wanted: &ResourcesSpec) -> Option<i64> {
    wanted.pids_max.filter(|max| (1..=PIDS_TIGHT).contains(max))
}

/// The limits that are set before a start: with room for its stem.
pub fn plan_first_resources(wanted: &ResourcesSpec) -> Result<Option<oci::LinuxResources>> {
    match plan_tight_pids(wanted) {
        None => plan_resources(wanted),
        Some(max) => plan_resources(&ResourcesSpec {
            pids_max: Some(max + 1),
            ..wanted.clone()
        }),
    }
}

/// The limits in OCI's words; `None` when nothing is limited, so that nothing need be written.
pub fn plan_resources(wanted: &ResourcesSpec) -> Result<Option<oci::LinuxResources>> {
    if *wanted == ResourcesSpec::default() {
        return Ok(None);
    }
    let mut resources = oci::LinuxResources::default();
    resources.set_devices(None);
    resources.set_memory(plan_memory(wanted));
    resources.set_cpu(plan_cpu(wanted));
    resources.set_pids(wanted.pids_max.filter(|max| *max != 0).map(|max| {
        let mut pids = oci::LinuxPids::default();
        pids.set_limit(max);
        pids
    }));
    resources.set_block_io(plan_block_io(wanted)?);
    Ok(Some(resources))
}

fn plan_memory(wanted: &ResourcesSpec) -> Option<oci::LinuxMemory> {
    let limit = wanted.memory_bytes.filter(|bytes| *bytes != 0);
    // Docker's rule: without a swap limit a container may swap as much as it may use memory.
    let swap = wanted.memory_swap_bytes.filter(|bytes| *bytes != 0).or(limit
        .filter(|bytes| *bytes > 0)
        .map(|bytes| bytes.saturating_mul(2)));
    let is_set = limit.is_some()
        || swap.is_some()
        || wanted.memory_reservation_bytes.is_some()
        || wanted.memory_swappiness.is_some()
        || wanted.oom_kill_disable;
    is_set.then(|| {
        let mut memory = oci::LinuxMemory::default();
        memory.set_limit(limit);
        memory.set_swap(swap);
        memory.set_reservation(wanted.memory_reservation_bytes.filter(|bytes| *bytes != 0));
        memory.set_swappiness(wanted.memory_swappiness);
        memory.set_disable_oom_killer(wanted.oom_kill_disable.then_some(true));
        memory
    })
}

/// The period Docker uses for `--cpus`, in microseconds.
const CPU_PERIOD_US: u64 = 100_000;

fn plan_cpu(wanted: &ResourcesSpec) -> Option<oci::LinuxCpu> {
    let (quota, period) = match wanted.nano_cpus.filter(|nano| *nano > 0) {
        Some(nano) => (
            Some(nano / (1_000_000_000 / CPU_PERIOD_US as i64)),
            Some(CPU_PERIOD_US),
        ),
        None => (
            wanted.cpu_quota_us.filter(|quota| *quota != 0),
            wanted.cpu_period_us.filter(|period| *period != 0),
        ),
    };
    let shares = wanted.cpu_shares.filter(|shares| *shares != 0);
    let text = |list: &Option<String>| list.clone().filter(|text| !text.is_empty());
    let (cpus, mems) = (text(&wanted.cpuset_cpus), text(&wanted.cpuset_mems));
    let runtime = wanted.cpu_realtime_runtime_us.filter(|runtime| *runtime != 0);
    let runtime_period = wanted.cpu_realtime_period_us.filter(|period| *period != 0);
    let is_set = quota.is_some()
        || period.is_some()
        || shares.is_some()
        || cpus.is_some()
        || mems.is_some()
        || runtime.is_some()
        || runtime_period.is_some();
    is_set.then(|| {
        let mut cpu = oci::LinuxCpu::default();
        cpu.set_realtime_runtime(runtime);
        cpu.set_realtime_period(runtime_period);
        cpu.set_quota(quota);
        cpu.set_period(period);
        cpu.set_shares(shares);
        cpu.set_cpus(cpus);
        cpu.set_mems(mems);
        cpu
    })
}

fn plan_block_io(wanted: &ResourcesSpec) -> Result<Option<oci::LinuxBlockIo>> {
    let throttles = |list: &[ThrottleSpec]| -> Result<Option<Vec<oci::LinuxThrottleDevice>>> {
        let list = list.iter().map(plan_throttle).collect::<Result<Vec<_>>>()?;
        Ok((!list.is_empty()).then_some(list))
    };
    let mut block_io = oci::LinuxBlockIo::default();
    let weights = wanted.blkio_weight_devices.iter().map(plan_weight);
    let weights = weights.collect::<Result<Vec<_>>>()?;
    block_io.set_weight(wanted.blkio_weight.filter(|weight| *weight != 0));
    block_io.set_weight_device((!weights.is_empty()).then_some(weights));
    block_io.set_throttle_read_bps_device(throttles(&wanted.blkio_read_bps)?);
    block_io.set_throttle_write_bps_device(throttles(&wanted.blkio_write_bps)?);
    block_io.set_throttle_read_iops_device(throttles(&wanted.blkio_read_iops)?);
    block_io.set_throttle_write_iops_device(throttles(&wanted.blkio_write_iops)?);
    Ok((block_io != oci::LinuxBlockIo::default()).then_some(block_io))
}

fn plan_weight(weight: &WeightSpec) -> Result<oci::LinuxWeightDevice> {
    let (major, minor) = block_device(&weight.device)?;
    oci::LinuxWeightDeviceBuilder::default()
        .major(major)
        .minor(minor)
        .weight(weight.weight)
        .build()
        .map_err(|error| EngineError::invalid(error.to_string()))
}

/// Its major and minor number.
fn block_device(path: &Path) -> Result<(i64, i64)> {
    let shown = path.display();
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        // In these words Docker's client knows it, and ends with 127.
        std::io::ErrorKind::NotFound => EngineError::invalid(format!("{shown}: no such file or directory")),
        _ => EngineError::invalid(format!("{shown}: {error}")),
    })?;
    if !metadata.file_type().is_block_device() {
        return Err(EngineError::invalid(format!("{shown} is not a block device")));
    }
    let device = metadata.rdev();
    Ok((
        i64::from(rustix::fs::major(device)),
        i64::from(rustix::fs::minor(device)),
    ))
}

fn plan_throttle(throttle: &ThrottleSpec) -> Result<oci::LinuxThrottleDevice> {
    let (major, minor) = block_device(&throttle.device)?;
    oci::LinuxThrottleDeviceBuilder::default()
        .major(major)
        .minor(minor)
        .rate(throttle.rate)
        .build()
        .map_err(|error| EngineError::invalid(error.to_string()))
}
