//! Limits: from the OCI runtime specification's `linux.resources` to the kernel's files.
//!
//! [`plan_limits`] is pure: it says which files get which values, in order, and touches nothing. Values are given in v1
//! terms by the specification; v2 has other scales, and the translations are those that runc and Docker use, so that
//! the same request means the same on both.

use crate::cgroup::Cgroup;
use crate::error::{CgroupError, Result};
use crate::hierarchy::{Root, Version, join, levels};
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};
use rustix::io::Errno;

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Write {
    /// The controller, by the name its own version gives it.
    controller: &'static str,
    file: String,
    value: String,
    if_refused: IfRefused,
}

/// What to do when the kernel refuses a value at this point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IfRefused {
    Fail,
    /// The next value may have to come first: a raised memory limit must not pass memory+swap, a changed CPU period
    /// must not contradict the quota. A fresh cgroup never needs it, so the order is not looked up beforehand.
    NextFirst,
}

impl Cgroup {
    /// Writes the limits that are set and leaves all others as they are. Devices are not limits: see
    /// [`Cgroup::apply_devices`].
    pub fn apply(&self, resources: &LinuxResources) -> Result<()> {
        let version_of = |v1: &str, v2: &str| {
            let hierarchy = self.hierarchy();
            hierarchy
                .root_with(v1)
                .or_else(|| hierarchy.root_with(v2))
                .map(crate::Root::version)
        };
        let writes = plan_limits(resources, version_of)?;
        let mut index = 0;
        while let Some(write) = writes.get(index) {
            match (self.write_limit(write), writes.get(index + 1)) {
                (Ok(()), _) => index += 1,
                (Err(CgroupError::Refused { .. }), Some(next))
                    if write.if_refused == IfRefused::NextFirst =>
                {
                    self.write_limit(next)?;
                    self.write_limit(write)?;
                    index += 2;
                }
                (Err(error), _) => return Err(error),
            }
        }
        Ok(())
    }

    fn write_limit(&self, write: &Write) -> Result<()> {
        let root = self
            .hierarchy()
            .root_with(write.controller)
            .ok_or_else(|| CgroupError::Unsupported {
                limit: write.file.clone(),
                needs: format!("controller {}", write.controller),
            })?;
        let file = join(self.relative(), &write.file);
        let mut written = root.write(&file, &write.value);
        if written == Err(Errno::INVAL) && write.file == REALTIME_RUNTIME {
            raise_realtime_runtime(root, self.relative(), &write.value);
            written = root.write(&file, &write.value);
        }
        if written == Err(Errno::NOENT)
            && let Some(file) = bfq_file(&write.file)
        {
            written = root.write(&join(self.relative(), &file), &write.value);
        }
        written.map_err(|error| match error {
            Errno::NOENT if root.exists(self.relative()) => CgroupError::Unsupported {
                limit: write.file.clone(),
                needs: format!("file {}", write.file),
            },
            error => CgroupError::Refused {
                cgroup: self.path(),
                file: write.file.clone(),
                value: write.value.clone(),
                source: error.into(),
            },
        })
    }
}

/// Under this name since Linux 5.0, where the scheduler BFQ is the one that knows weights.
fn bfq_file(file: &str) -> Option<String> {
    let name = file.strip_prefix("blkio.weight")?;
    Some(format!("blkio.bfq.weight{name}"))
}

const REALTIME_RUNTIME: &str = "cpu.rt_runtime_us";
const REALTIME_PERIOD: &str = "cpu.rt_period_us";

/// A cgroup of version 1 has of its parent's realtime runtime what it asks for, and a new one has none to give: those
/// above get so much more. Top down, so that what the machine has no room for changes nothing.
fn raise_realtime_runtime(root: &Root, relative: &str, wanted_us: &str) {
    let number = |cgroup: &str, file: &str| -> Option<i64> {
        root.read(&join(cgroup, file)).ok()?.trim().parse().ok()
    };
    let (Ok(wanted_us), Some(period_us)) = (wanted_us.parse::<i64>(), number(relative, REALTIME_PERIOD))
    else {
        return;
    };
    for level in levels(relative).filter(|level| *level != relative && !level.is_empty()) {
        let (Some(runtime_us), Some(level_period_us)) =
            (number(level, REALTIME_RUNTIME), number(level, REALTIME_PERIOD))
        else {
            return;
        };
        let share_us = i128::from(wanted_us) * i128::from(level_period_us) / i128::from(period_us.max(1));
        let raised_us = i128::from(runtime_us.max(0)) + share_us + 1;
        if root
            .write(&join(level, REALTIME_RUNTIME), &raised_us.to_string())
            .is_err()
        {
            return;
        }
    }
}

/// Collects writes for one resource.
struct Writes(Vec<Write>);

impl Writes {
    fn set(&mut self, controller: &'static str, file: impl Into<String>, value: impl std::fmt::Display) {
        let (file, value) = (file.into(), format!("{value}"));
        self.0.push(Write {
            controller,
            file,
            value,
            if_refused: IfRefused::Fail,
        });
    }

    /// Two values that must not contradict each other at any moment.
    fn set_pair(&mut self, controller: &'static str, first: (&str, String), second: (&str, String)) {
        self.set(controller, first.0, first.1);
        if let Some(write) = self.0.last_mut() {
            write.if_refused = IfRefused::NextFirst;
        }
        self.set(controller, second.0, second.1);
    }
}

/// `version_of` says in which version a controller exists here, by its v1 and its v2 name; `None` where it does not,
/// which is no concern until a limit needs it.
fn plan_limits(
    resources: &LinuxResources,
    version_of: impl Fn(&str, &str) -> Option<Version>,
) -> Result<Vec<Write>> {
    let mut writes = Writes(Vec::new());
    let is_v1 = |v1: &str, v2: &str| version_of(v1, v2) == Some(Version::V1);
    if let Some(cpu) = resources.cpu() {
        plan_cpuset(&mut writes, cpu);
        if is_v1("cpu", "cpu") {
            plan_cpu_v1(&mut writes, cpu);
        } else {
            plan_cpu_v2(&mut writes, cpu)?;
        }
    }
    if let Some(memory) = resources.memory() {
        check_memory(memory)?;
        if is_v1("memory", "memory") {
            plan_memory_v1(&mut writes, memory);
        } else {
            plan_memory_v2(&mut writes, memory)?;
        }
    }
    if let Some(limit) = resources
        .pids()
        .as_ref()
        .map(oci_spec::runtime::LinuxPids::limit)
        .filter(|limit| *limit != 0)
    {
        writes.set(
            "pids",
            "pids.max",
            if limit < 0 {
                "max".to_owned()
            } else {
                limit.to_string()
            },
        );
    }
    if let Some(block) = resources.block_io() {
        if is_v1("blkio", "io") {
            plan_blkio_v1(&mut writes, block);
        } else {
            plan_io_v2(&mut writes, block);
        }
    }
    for page in resources.hugepage_limits().iter().flatten() {
        if page.page_size().contains(['/', '.']) {
            return Err(invalid(format!("huge page size {:?}", page.page_size())));
        }
        let suffix = if is_v1("hugetlb", "hugetlb") {
            "limit_in_bytes"
        } else {
            "max"
        };
        writes.set(
            "hugetlb",
            format!("hugetlb.{}.{suffix}", page.page_size()),
            page.limit(),
        );
    }
    plan_unified(&mut writes, resources, is_v1("cpu", "cpu"))?;
    Ok(writes.0)
}

fn invalid(reason: impl Into<String>) -> CgroupError {
    CgroupError::InvalidLimit {
        reason: reason.into(),
    }
}

/// The files of both versions have the same names and forms.
fn plan_cpuset(writes: &mut Writes, cpu: &LinuxCpu) {
    for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            writes.set("cpuset", file, value);
        }
    }
}

fn plan_cpu_v1(writes: &mut Writes, cpu: &LinuxCpu) {
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        writes.set("cpu", "cpu.shares", shares);
    }
    plan_pair_v1(
        writes,
        ("cpu.cfs_period_us", cpu.period()),
        ("cpu.cfs_quota_us", cpu.quota()),
    );
    if let Some(burst) = cpu.burst() {
        writes.set("cpu", "cpu.cfs_burst_us", burst);
    }
    let (period, runtime) = (cpu.realtime_period(), cpu.realtime_runtime());
    plan_pair_v1(
        writes,
        ("cpu.rt_period_us", period),
        ("cpu.rt_runtime_us", runtime),
    );
    if let Some(idle) = cpu.idle() {
        writes.set("cpu", "cpu.idle", idle);
    }
}

fn plan_pair_v1(
    writes: &mut Writes,
    period: (&'static str, Option<u64>),
    quota: (&'static str, Option<i64>),
) {
    match (
        period.1.filter(|value| *value != 0),
        quota.1.filter(|value| *value != 0),
    ) {
        (Some(period_us), Some(quota_us)) => {
            writes.set_pair(
                "cpu",
                (period.0, period_us.to_string()),
                (quota.0, quota_us.to_string()),
            );
        }
        (Some(period_us), None) => writes.set("cpu", period.0, period_us),
        (None, Some(quota_us)) => writes.set("cpu", quota.0, quota_us),
        (None, None) => {}
    }
}

fn plan_cpu_v2(writes: &mut Writes, cpu: &LinuxCpu) -> Result<()> {
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        writes.set("cpu", "cpu.weight", weight_from_shares(shares));
    }
    let period = cpu.period().filter(|period| *period != 0);
    if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
        let quota = if quota < 0 {
            "max".to_owned()
        } else {
            quota.to_string()
        };
        let period = period.unwrap_or(CPU_PERIOD_DEFAULT_US);
        writes.set("cpu", "cpu.max", format!("{quota} {period}"));
    } else if let Some(period) = period {
        writes.set("cpu", "cpu.max", format!("max {period}"));
    }
    if let Some(burst) = cpu.burst() {
        writes.set("cpu", "cpu.max.burst", burst);
    }
    if let Some(idle) = cpu.idle() {
        writes.set("cpu", "cpu.idle", idle);
    }
    if cpu.realtime_runtime().is_some_and(|runtime| runtime != 0) {
        return Err(CgroupError::Unsupported {
            limit: "real-time CPU time".to_owned(),
            needs: "version 1 of controller cpu".to_owned(),
        });
    }
    Ok(())
}

/// The kernel's default in both versions.
const CPU_PERIOD_DEFAULT_US: u64 = 100_000;

/// v1's 2..=262144 onto v2's 1..=10000, linearly.
fn weight_from_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

/// v1's 10..=1000 onto v2's 1..=10000, linearly.
fn io_weight_from_blkio(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1_000)) - 10) * 9_999 / 990
}

/// -1 is no limit and 0 is none asked for.
fn set_bytes(limit: Option<i64>) -> Option<i64> {
    limit.filter(|limit| *limit != 0)
}

fn check_memory(memory: &LinuxMemory) -> Result<()> {
    let (limit, swap) = (set_bytes(memory.limit()), set_bytes(memory.swap()));
    match (limit, swap) {
        (Some(limit), Some(swap)) if limit > 0 && swap > 0 && swap < limit => Err(invalid(format!(
            "memory+swap ({swap} bytes) is less than memory ({limit} bytes)"
        ))),
        (None, Some(swap)) if swap > 0 => Err(invalid(
            "a limit of memory+swap needs a limit of memory".to_owned(),
        )),
        (Some(limit), _) if limit < -1 => Err(invalid(format!("memory of {limit} bytes"))),
        (_, Some(swap)) if swap < -1 => Err(invalid(format!("memory+swap of {swap} bytes"))),
        _ => Ok(()),
    }
}

fn plan_memory_v1(writes: &mut Writes, memory: &LinuxMemory) {
    let limit = set_bytes(memory.limit());
    // Without a limit of memory there is none of memory+swap, or the first could not be lifted.
    let swap = set_bytes(memory.swap()).or(limit.filter(|limit| *limit == -1));
    match (limit, swap) {
        (Some(limit), Some(swap)) => writes.set_pair(
            "memory",
            ("memory.limit_in_bytes", limit.to_string()),
            ("memory.memsw.limit_in_bytes", swap.to_string()),
        ),
        (Some(limit), None) => writes.set("memory", "memory.limit_in_bytes", limit),
        (None, Some(swap)) => writes.set("memory", "memory.memsw.limit_in_bytes", swap),
        (None, None) => {}
    }
    if let Some(reservation) = set_bytes(memory.reservation()) {
        writes.set("memory", "memory.soft_limit_in_bytes", reservation);
    }
    if let Some(limit) = set_bytes(memory.kernel_tcp()) {
        writes.set("memory", "memory.kmem.tcp.limit_in_bytes", limit);
    }
    if let Some(swappiness) = memory.swappiness() {
        writes.set("memory", "memory.swappiness", swappiness);
    }
    if memory.disable_oom_killer() == Some(true) {
        writes.set("memory", "memory.oom_control", 1);
    }
}

/// Swappiness, the kernel's TCP memory and a disabled out-of-memory killer do not exist in v2. As with runc they are
/// passed over here; the API tells the client when it asks for them.
fn plan_memory_v2(writes: &mut Writes, memory: &LinuxMemory) -> Result<()> {
    let bytes = |limit: i64| {
        if limit == -1 {
            "max".to_owned()
        } else {
            limit.to_string()
        }
    };
    let limit = set_bytes(memory.limit());
    match set_bytes(memory.swap()).or(limit.filter(|limit| *limit == -1)) {
        Some(-1) => writes.set("memory", "memory.swap.max", "max"),
        Some(both) => match limit {
            Some(limit) if limit > 0 => writes.set("memory", "memory.swap.max", both - limit),
            _ => {
                return Err(invalid(
                    "a limit of memory+swap needs a limit of memory".to_owned(),
                ));
            }
        },
        None => {}
    }
    if let Some(limit) = limit {
        writes.set("memory", "memory.max", bytes(limit));
    }
    if let Some(reservation) = set_bytes(memory.reservation()) {
        writes.set("memory", "memory.low", bytes(reservation));
    }
    Ok(())
}

fn plan_blkio_v1(writes: &mut Writes, block: &LinuxBlockIo) {
    if let Some(weight) = block.weight().filter(|weight| *weight != 0) {
        writes.set("blkio", "blkio.weight", weight);
    }
    for device in block.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            let value = format!("{}:{} {weight}", device.major(), device.minor());
            writes.set("blkio", "blkio.weight_device", value);
        }
    }
    for (key, devices) in throttles(block) {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            writes.set("blkio", format!("blkio.throttle.{}_device", key.v1), value);
        }
    }
}

fn plan_io_v2(writes: &mut Writes, block: &LinuxBlockIo) {
    if let Some(weight) = block.weight().filter(|weight| *weight != 0) {
        writes.set(
            "io",
            "io.weight",
            format!("default {}", io_weight_from_blkio(weight)),
        );
    }
    for device in block.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            let weight = io_weight_from_blkio(weight);
            writes.set(
                "io",
                "io.weight",
                format!("{}:{} {weight}", device.major(), device.minor()),
            );
        }
    }
    for (key, devices) in throttles(block) {
        for device in devices.iter().flatten() {
            let value = format!(
                "{}:{} {}={}",
                device.major(),
                device.minor(),
                key.v2,
                device.rate()
            );
            writes.set("io", "io.max", value);
        }
    }
}

struct ThrottleKey {
    v1: &'static str,
    v2: &'static str,
}

fn throttles(block: &LinuxBlockIo) -> [(ThrottleKey, &Option<Vec<LinuxThrottleDevice>>); 4] {
    [
        (
            ThrottleKey {
                v1: "read_bps",
                v2: "rbps",
            },
            block.throttle_read_bps_device(),
        ),
        (
            ThrottleKey {
                v1: "write_bps",
                v2: "wbps",
            },
            block.throttle_write_bps_device(),
        ),
        (
            ThrottleKey {
                v1: "read_iops",
                v2: "riops",
            },
            block.throttle_read_iops_device(),
        ),
        (
            ThrottleKey {
                v1: "write_iops",
                v2: "wiops",
            },
            block.throttle_write_iops_device(),
        ),
    ]
}

/// Files given by name, for v2 only. A name must be one file of the cgroup itself.
fn plan_unified(writes: &mut Writes, resources: &LinuxResources, is_v1: bool) -> Result<()> {
    let Some(unified) = resources.unified() else {
        return Ok(());
    };
    if is_v1 && !unified.is_empty() {
        return Err(CgroupError::Unsupported {
            limit: "files of version 2 (unified)".to_owned(),
            needs: "version 2".to_owned(),
        });
    }
    let mut entries: Vec<_> = unified.iter().collect();
    entries.sort();
    for (file, value) in entries {
        let controller = V2_FILE_CONTROLLERS.iter().find(|name| {
            file.strip_prefix(**name)
                .is_some_and(|rest| rest.starts_with('.'))
                && !file.contains('/')
        });
        let controller = controller.ok_or_else(|| invalid(format!("unified file {file:?}")))?;
        writes.set(controller, file.as_str(), value);
    }
    Ok(())
}

/// Controllers whose files may be set by name; `cgroup.*` moves processes and is not for a specification to write.
const V2_FILE_CONTROLLERS: [&str; 7] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma"];

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{
        LinuxBlockIoBuilder, LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResourcesBuilder,
        LinuxThrottleDeviceBuilder,
    };

    fn plan(version: Version, resources: &LinuxResources) -> Vec<String> {
        let writes = plan_limits(resources, |_, _| Some(version)).unwrap();
        writes
            .into_iter()
            .map(|write| format!("{} = {}", write.file, write.value))
            .collect()
    }

    fn resources() -> LinuxResourcesBuilder {
        LinuxResourcesBuilder::default()
    }

    #[test]
    fn nothing_set_writes_nothing() {
        let empty = resources().build().unwrap();
        assert!(plan(Version::V1, &empty).is_empty());
        assert!(plan(Version::V2, &empty).is_empty());
    }

    #[test]
    fn memory_and_swap_are_translated() {
        let memory = LinuxMemoryBuilder::default()
            .limit(64i64 << 20)
            .swap(96i64 << 20)
            .reservation(1i64 << 20);
        let wanted = resources().memory(memory.build().unwrap()).build().unwrap();
        assert_eq!(
            plan(Version::V1, &wanted),
            [
                "memory.limit_in_bytes = 67108864",
                "memory.memsw.limit_in_bytes = 100663296",
                "memory.soft_limit_in_bytes = 1048576"
            ]
        );
        assert_eq!(
            plan(Version::V2, &wanted),
            [
                "memory.swap.max = 33554432",
                "memory.max = 67108864",
                "memory.low = 1048576"
            ]
        );
    }

    #[test]
    fn unlimited_memory_lifts_swap_too() {
        let memory = LinuxMemoryBuilder::default().limit(-1i64).build().unwrap();
        let wanted = resources().memory(memory).build().unwrap();
        assert_eq!(
            plan(Version::V1, &wanted),
            ["memory.limit_in_bytes = -1", "memory.memsw.limit_in_bytes = -1"]
        );
        assert_eq!(
            plan(Version::V2, &wanted),
            ["memory.swap.max = max", "memory.max = max"]
        );
    }

    #[test]
    fn swap_below_memory_is_refused() {
        let memory = LinuxMemoryBuilder::default()
            .limit(64i64 << 20)
            .swap(1i64 << 20)
            .build()
            .unwrap();
        let wanted = resources().memory(memory).build().unwrap();
        let error = plan_limits(&wanted, |_, _| Some(Version::V1)).unwrap_err();
        assert!(matches!(error, CgroupError::InvalidLimit { .. }), "{error}");
    }

    #[test]
    fn cpu_is_translated() {
        let cpu = LinuxCpuBuilder::default()
            .shares(1024u64)
            .quota(150_000i64)
            .cpus("0-1".to_owned());
        let wanted = resources().cpu(cpu.build().unwrap()).build().unwrap();
        assert_eq!(
            plan(Version::V1, &wanted),
            [
                "cpuset.cpus = 0-1",
                "cpu.shares = 1024",
                "cpu.cfs_quota_us = 150000"
            ]
        );
        assert_eq!(
            plan(Version::V2, &wanted),
            ["cpuset.cpus = 0-1", "cpu.weight = 39", "cpu.max = 150000 100000"]
        );
    }

    #[test]
    fn shares_and_weights_keep_their_ends() {
        assert_eq!((weight_from_shares(2), weight_from_shares(262_144)), (1, 10_000));
        assert_eq!((weight_from_shares(0), weight_from_shares(u64::MAX)), (1, 10_000));
        assert_eq!(
            (io_weight_from_blkio(10), io_weight_from_blkio(1000)),
            (1, 10_000)
        );
    }

    #[test]
    fn throttles_and_pids_are_translated() {
        let device = LinuxThrottleDeviceBuilder::default()
            .major(8)
            .minor(0)
            .rate(1u64 << 20)
            .build()
            .unwrap();
        let block = LinuxBlockIoBuilder::default()
            .throttle_read_bps_device(vec![device])
            .build()
            .unwrap();
        let pids = LinuxPidsBuilder::default().limit(-1).build().unwrap();
        let wanted = resources().block_io(block).pids(pids).build().unwrap();
        assert_eq!(
            plan(Version::V1, &wanted),
            ["pids.max = max", "blkio.throttle.read_bps_device = 8:0 1048576"]
        );
        assert_eq!(
            plan(Version::V2, &wanted),
            ["pids.max = max", "io.max = 8:0 rbps=1048576"]
        );
    }

    #[test]
    fn unified_files_stay_inside_the_cgroup() {
        for file in ["../memory.max", "memory./../x", "cgroup.procs", "memory"] {
            let unified = std::collections::HashMap::from([(file.to_owned(), "1".to_owned())]);
            let wanted = resources().unified(unified).build().unwrap();
            assert!(plan_limits(&wanted, |_, _| Some(Version::V2)).is_err(), "{file}");
        }
    }
}
