//! A reading of what a container uses, as `GET /containers/{}/stats` shows it.

use naru_base::Timestamp;
use naru_docker_wire::types::{
    BlkioEntry, BlkioStats, CpuStats, CpuUsage, MemoryStats, NetworkStats, PidsStats, StatsResponse,
    ThrottlingData,
};
use naru_engine::{ContainerStats, InterfaceStats, IoEntry, Usage};

/// `before` is the reading that clients compare this one with; without one their percentages begin at zero.
pub fn stats_response(now: &ContainerStats, before: Option<&ContainerStats>) -> StatsResponse {
    let mut wire = StatsResponse {
        name: format!("/{}", now.name),
        id: now.id.to_string(),
        read: now.read_at.to_string(),
        preread: before.map_or_else(|| Timestamp::ZERO.to_owned(), |before| before.read_at.to_string()),
        precpu_stats: before
            .and_then(|before| before.usage.as_ref())
            .map(cpu)
            .unwrap_or_default(),
        ..StatsResponse::default()
    };
    let Some(usage) = &now.usage else {
        // What does not run was not read: Docker's zero time.
        Timestamp::ZERO.clone_into(&mut wire.read);
        return wire;
    };
    wire.cpu_stats = cpu(usage);
    wire.memory_stats = memory(usage);
    wire.pids_stats = PidsStats {
        current: usage.cgroup.pids.current,
        limit: usage.cgroup.pids.limit.unwrap_or(0),
    };
    wire.blkio_stats = BlkioStats {
        io_service_bytes_recursive: Some(entries(&usage.cgroup.blkio.service_bytes)),
        io_serviced_recursive: Some(entries(&usage.cgroup.blkio.serviced)),
        ..BlkioStats::default()
    };
    let networks = usage.networks.iter();
    wire.networks = networks
        .map(|(name, stats)| (name.clone(), network(stats)))
        .collect();
    wire
}

fn cpu(usage: &Usage) -> CpuStats {
    let cpu = &usage.cgroup.cpu;
    CpuStats {
        cpu_usage: CpuUsage {
            total_usage: cpu.usage_ns,
            percpu_usage: cpu.per_cpu_usage_ns.clone(),
            usage_in_kernelmode: cpu.system_ns,
            usage_in_usermode: cpu.user_ns,
        },
        system_cpu_usage: usage.system_cpu_ns,
        online_cpus: u32::try_from(usage.online_cpus).unwrap_or(u32::MAX),
        throttling_data: ThrottlingData {
            periods: cpu.periods,
            throttled_periods: cpu.throttled_periods,
            throttled_time: cpu.throttled_ns,
        },
    }
}

fn memory(usage: &Usage) -> MemoryStats {
    let memory = &usage.cgroup.memory;
    MemoryStats {
        usage: memory.usage_bytes,
        max_usage: memory.max_usage_bytes,
        stats: memory.details.clone(),
        failcnt: memory.limit_hits,
        limit: memory.limit_bytes.unwrap_or(usage.host_memory_bytes),
    }
}

fn entries(list: &[IoEntry]) -> Vec<BlkioEntry> {
    let wire = |entry: &IoEntry| BlkioEntry {
        major: entry.major,
        minor: entry.minor,
        op: entry.operation.clone(),
        value: entry.value,
    };
    list.iter().map(wire).collect()
}

fn network(stats: &InterfaceStats) -> NetworkStats {
    NetworkStats {
        rx_bytes: stats.rx_bytes,
        rx_packets: stats.rx_packets,
        rx_errors: stats.rx_errors,
        rx_dropped: stats.rx_dropped,
        tx_bytes: stats.tx_bytes,
        tx_packets: stats.tx_packets,
        tx_errors: stats.tx_errors,
        tx_dropped: stats.tx_dropped,
    }
}
