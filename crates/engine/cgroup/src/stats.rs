//! What a cgroup has used: one set of numbers for both versions.

use crate::cgroup::Cgroup;
use crate::error::Result;
use crate::hierarchy::{Root, Version, join};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::str::FromStr;

/// A controller that is not there leaves its numbers at their defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub cpu: CpuStats,
    pub memory: MemoryStats,
    pub pids: PidsStats,
    pub blkio: BlkioStats,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuStats {
    pub usage_ns: u64,
    pub user_ns: u64,
    pub system_ns: u64,
    /// Empty on v2, which does not count it.
    pub per_cpu_usage_ns: Vec<u64>,
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_ns: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStats {
    pub usage_bytes: u64,
    /// `None`: as much as the host has.
    pub limit_bytes: Option<u64>,
    /// The highest usage so far; 0 where the kernel does not keep it (v2 before 5.19).
    pub max_usage_bytes: u64,
    /// How often the limit was hit.
    pub limit_hits: u64,
    /// `memory.stat`, by the names of the host's version.
    pub details: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidsStats {
    pub current: u64,
    pub limit: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlkioStats {
    pub service_bytes: Vec<IoEntry>,
    pub serviced: Vec<IoEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoEntry {
    pub major: u64,
    pub minor: u64,
    /// `Read`, `Write`, `Sync`, `Async`, `Discard` or `Total`.
    pub operation: String,
    pub value: u64,
}

/// v1 writes "no limit" as the largest number of whole pages; a real limit is never so large.
const V1_UNLIMITED_BYTES: u64 = 1 << 62;

impl Cgroup {
    /// Reads everything the cgroup counts.
    pub fn stats(&self) -> Result<Stats> {
        let files = |controllers: [&str; 2]| {
            let hierarchy = self.hierarchy();
            let root = controllers.iter().find_map(|name| hierarchy.root_with(name));
            root.map(|root| Files { cgroup: self, root })
        };
        let mut stats = Stats::default();
        if let Some(files) = files(["cpuacct", "cpu"]) {
            // Asked first and strictly: of a cgroup that does not exist nothing can be said.
            self.read(files.root, "cgroup.procs")?;
        }
        if let Some(files) = files(["cpu", "cpu"]) {
            files.read_cpu(&mut stats.cpu);
        }
        if let Some(files) = files(["cpuacct", "cpuacct"]) {
            files.read_cpu_accounting(&mut stats.cpu);
        }
        if let Some(files) = files(["memory", "memory"]) {
            files.read_memory(&mut stats.memory);
        }
        if let Some(files) = files(["pids", "pids"]) {
            stats.pids = PidsStats {
                current: files.number("pids.current"),
                limit: files.limit("pids.max"),
            };
        }
        if let Some(files) = files(["blkio", "io"]) {
            files.read_io(&mut stats.blkio);
        }
        Ok(stats)
    }
}

/// The files of a cgroup in one hierarchy; a file that is not there reads as empty.
struct Files<'a> {
    cgroup: &'a Cgroup,
    root: &'static Root,
}

impl Files<'_> {
    fn text(&self, name: &str) -> String {
        self.root
            .read(&join(self.cgroup.relative(), name))
            .unwrap_or_default()
    }

    fn number(&self, name: &str) -> u64 {
        parse(self.text(name).trim())
    }

    /// `max` and a file that is not there are no limit.
    fn limit(&self, name: &str) -> Option<u64> {
        self.text(name).trim().parse().ok()
    }

    fn pairs(&self, name: &str) -> BTreeMap<String, u64> {
        parse_pairs(&self.text(name))
    }

    fn read_cpu(&self, cpu: &mut CpuStats) {
        let pairs = self.pairs("cpu.stat");
        let get = |key: &str| pairs.get(key).copied().unwrap_or(0);
        cpu.periods = get("nr_periods");
        cpu.throttled_periods = get("nr_throttled");
        match self.root.version() {
            Version::V1 => cpu.throttled_ns = get("throttled_time"),
            Version::V2 => {
                cpu.throttled_ns = get("throttled_usec") * 1000;
                cpu.usage_ns = get("usage_usec") * 1000;
                cpu.user_ns = get("user_usec") * 1000;
                cpu.system_ns = get("system_usec") * 1000;
            }
        }
    }

    fn read_cpu_accounting(&self, cpu: &mut CpuStats) {
        cpu.usage_ns = self.number("cpuacct.usage");
        cpu.user_ns = self.number("cpuacct.usage_user");
        cpu.system_ns = self.number("cpuacct.usage_sys");
        cpu.per_cpu_usage_ns = self
            .text("cpuacct.usage_percpu")
            .split_whitespace()
            .map(parse)
            .collect();
    }

    fn read_memory(&self, memory: &mut MemoryStats) {
        memory.details = self.pairs("memory.stat");
        match self.root.version() {
            Version::V1 => {
                memory.usage_bytes = self.number("memory.usage_in_bytes");
                memory.max_usage_bytes = self.number("memory.max_usage_in_bytes");
                memory.limit_hits = self.number("memory.failcnt");
                memory.limit_bytes = self
                    .limit("memory.limit_in_bytes")
                    .filter(|limit| *limit < V1_UNLIMITED_BYTES);
            }
            Version::V2 => {
                memory.usage_bytes = self.number("memory.current");
                memory.max_usage_bytes = self.number("memory.peak");
                memory.limit_hits = self.pairs("memory.events").get("max").copied().unwrap_or(0);
                memory.limit_bytes = self.limit("memory.max");
            }
        }
    }

    fn read_io(&self, blkio: &mut BlkioStats) {
        match self.root.version() {
            Version::V1 => {
                blkio.service_bytes = parse_blkio(&self.text("blkio.throttle.io_service_bytes_recursive"));
                blkio.serviced = parse_blkio(&self.text("blkio.throttle.io_serviced_recursive"));
            }
            Version::V2 => *blkio = parse_io_stat(&self.text("io.stat")),
        }
    }
}

fn parse<T: FromStr + Default>(text: &str) -> T {
    text.parse().unwrap_or_default()
}

fn parse_pairs(text: &str) -> BTreeMap<String, u64> {
    let pair = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

fn parse_device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Lines of `8:0 Read 4096`, and a last one of `Total 4096` that names no device.
fn parse_blkio(text: &str) -> Vec<IoEntry> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = parse_device(words.next()?)?;
        let operation = words.next()?.to_owned();
        Some(IoEntry {
            major,
            minor,
            operation,
            value: words.next()?.parse().ok()?,
        })
    };
    text.lines().filter_map(entry).collect()
}

/// Lines of `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
fn parse_io_stat(text: &str) -> BlkioStats {
    let mut stats = BlkioStats::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(parse_device) else {
            continue;
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (entries, operation) = match key {
                "rbytes" => (&mut stats.service_bytes, "Read"),
                "wbytes" => (&mut stats.service_bytes, "Write"),
                "dbytes" => (&mut stats.service_bytes, "Discard"),
                "rios" => (&mut stats.serviced, "Read"),
                "wios" => (&mut stats.serviced, "Write"),
                "dios" => (&mut stats.serviced, "Discard"),
                _ => continue,
            };
            entries.push(IoEntry {
                major,
                minor,
                operation: operation.to_owned(),
                value: parse(value),
            });
        }
    }
    stats
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_is_read_in_both_forms() {
        let v1 = parse_blkio("8:0 Read 4096\n8:0 Write 0\n8:0 Total 4096\nTotal 4096\n");
        assert_eq!(v1.len(), 3);
        assert_eq!(
            v1[0],
            IoEntry {
                major: 8,
                minor: 0,
                operation: "Read".to_owned(),
                value: 4096
            }
        );
        let v2 = parse_io_stat("254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\nnonsense\n");
        assert_eq!((v2.service_bytes.len(), v2.serviced[1].value), (3, 4));
    }
}
