//! What a container uses, as its cgroup and its network namespace count it.

use super::{Container, lock};
use crate::Engine;
use crate::error::{EngineError, Result};
use crate::record::ContainerRecord;
use crate::spec::NetworkMode;
use crate::views::{ContainerStats, InterfaceStats, Usage};
use naru_base::Timestamp;
use naru_sys::file;
use std::collections::BTreeMap;
use std::path::Path;

/// Longest `/proc/stat` and `/proc/<pid>/net/dev` read, in bytes: a line for each CPU or interface.
const TABLE_BYTES_MAX: u64 = 1 << 20;

/// The kernel tells times in `/proc/stat` in hundredths of a second on every architecture (`USER_HZ`).
const TICK_NS: u64 = 10_000_000;

impl Engine {
    /// One reading. A container that does not run uses nothing.
    pub async fn container_stats(&self, name: &str) -> Result<ContainerStats> {
        let container = self.registry.find(name)?;
        let record = container.record();
        let usage = if record.is_running() {
            read_usage(&container, &record)?
        } else {
            None
        };
        Ok(ContainerStats {
            id: record.id.clone(),
            name: record.name.clone(),
            read_at: Timestamp::now(),
            usage,
        })
    }
}

/// `None` for one that ended in the meantime.
fn read_usage(container: &Container, record: &ContainerRecord) -> Result<Option<Usage>> {
    let (cgroup, helpers) = match lock(&container.run).as_ref() {
        Some(run) => (run.cgroup.stats(), count_helpers(container, &run.cgroup)),
        None => return Ok(None),
    };
    let cgroup = match cgroup {
        Ok(mut stats) => {
            stats.pids.current = stats.pids.current.saturating_sub(helpers);
            stats
        }
        Err(_) if !container.record().is_running() => return Ok(None),
        Err(error) => return Err(EngineError::system(error.to_string())),
    };
    let stat = read_table(Path::new("/proc/stat"));
    let networks = match (&record.spec.network, record.pid()) {
        (NetworkMode::Host | NetworkMode::None, _) | (_, None) => BTreeMap::new(),
        (_, Some(pid)) => parse_interfaces(&read_table(Path::new(&format!("/proc/{pid}/net/dev")))),
    };
    Ok(Some(Usage {
        cgroup,
        networks,
        system_cpu_ns: parse_system_cpu(&stat),
        online_cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        host_memory_bytes: host_memory_bytes(),
    }))
}

/// One that waits for another exec is none of the container's own processes.
fn count_helpers(container: &Container, cgroup: &naru_cgroup::Cgroup) -> u64 {
    if lock(&container.execs).is_empty() {
        return 0;
    }
    let processes = cgroup.process_ids().unwrap_or_default();
    processes
        .into_iter()
        .filter(|&pid| super::top::is_helper(pid))
        .count() as u64
}

fn read_table(path: &Path) -> String {
    let bytes = file::read_bounded(path, TABLE_BYTES_MAX).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn host_memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram * u64::from(info.mem_unit.max(1))
}

/// The time all CPUs together have spent, idle or not: the first seven numbers of the first line (proc_stat(5)), those
/// that Docker adds up.
fn parse_system_cpu(stat: &str) -> u64 {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let numbers = line.unwrap_or_default().split_whitespace().take(7);
    numbers
        .filter_map(|number| number.parse::<u64>().ok())
        .sum::<u64>()
        * TICK_NS
}

/// The lines of proc_pid_net(5) `dev`, but for the loopback's.
fn parse_interfaces(table: &str) -> BTreeMap<String, InterfaceStats> {
    let parse = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers
            .split_whitespace()
            .map_while(|number| number.parse().ok())
            .collect();
        let [rx_bytes, rx_packets, rx_errors, rx_dropped, ..] = numbers[..] else {
            return None;
        };
        let [tx_bytes, tx_packets, tx_errors, tx_dropped, ..] = *numbers.get(8..)? else {
            return None;
        };
        let stats = InterfaceStats {
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
        };
        Some((name.trim().to_owned(), stats))
    };
    let interfaces = table.lines().filter_map(parse);
    interfaces.filter(|(name, _)| name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_without_the_loopback() {
        let table = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes\n\
                    \x20   lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n  eth0: 100 2 1 3 0 0 0 0 200 4 5 6 0 0 0 0\n";
        let interfaces = parse_interfaces(table);
        assert_eq!(interfaces.len(), 1);
        let eth0 = &interfaces["eth0"];
        assert_eq!(
            (eth0.rx_bytes, eth0.rx_packets, eth0.rx_errors, eth0.rx_dropped),
            (100, 2, 1, 3)
        );
        assert_eq!(
            (eth0.tx_bytes, eth0.tx_packets, eth0.tx_errors, eth0.tx_dropped),
            (200, 4, 5, 6)
        );
    }

    #[test]
    fn system_time_is_the_sum_of_seven() {
        let stat = "cpu  1 2 3 4 5 6 7 100 100\ncpu0 1 2 3 4 5 6 7 100 100\n";
        assert_eq!(parse_system_cpu(stat), 28 * TICK_NS);
        assert_eq!(parse_system_cpu(""), 0);
    }
}
