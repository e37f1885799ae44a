//! What can be seen of the isolation from inside: read afresh for every request, never from the outside.

use std::fs;

/// Everything the page shows. A fact that cannot be read is absent, not guessed.
pub struct Facts {
    pub hostname: String,
    pub kernel: String,
    pub pid: u32,
    pub user: String,
    pub visible_processes: usize,
    pub uptime_seconds: f64,
    pub host_uptime_seconds: f64,
    pub resident_bytes: u64,
    pub namespaces: Vec<Namespace>,
    pub addresses: Vec<String>,
    pub interfaces: Vec<String>,
    pub gateway: Option<String>,
    pub cgroup: Cgroup,
    pub capabilities: Vec<Capability>,
    pub seccomp: &'static str,
    pub seccomp_filters: u64,
    pub no_new_privileges: bool,
    pub root_filesystem: String,
    pub root_read_only: bool,
    pub layers: Vec<String>,
    pub mounts: Vec<Mount>,
}

pub struct Namespace {
    pub kind: &'static str,
    pub meaning: &'static str,
    pub id: String,
    /// The host's own, which the kernel made at boot.
    pub is_initial: bool,
}

pub struct Capability {
    pub name: &'static str,
    pub is_held: bool,
}

pub struct Mount {
    pub target: String,
    pub filesystem: String,
    pub is_read_only: bool,
}

/// Limits; `None` is none.
#[derive(Default)]
pub struct Cgroup {
    /// `1`, `2`, or 0 where none is visible.
    pub version: u8,
    pub memory_used_bytes: Option<u64>,
    pub memory_limit_bytes: Option<u64>,
    pub processes: Option<u64>,
    pub processes_limit: Option<u64>,
    /// In CPUs: a quota divided by its period.
    pub cpu_limit: Option<f64>,
    pub cpu_weight: Option<String>,
    pub cpus: Option<String>,
    pub cpu_used_seconds: Option<f64>,
}

/// Clock ticks a second in `/proc/<pid>/stat`: 100 on every Linux architecture that Naru runs on.
const TICKS_PER_SECOND: f64 = 100.0;

const NAMESPACES: [(&str, &str); 8] = [
    ("pid", "its own process table"),
    ("mnt", "its own file system tree"),
    ("net", "its own network stack"),
    ("ipc", "its own shared memory"),
    ("uts", "its own host name"),
    ("cgroup", "its own view of limits"),
    ("user", "who its users are outside"),
    ("time", "its own boot clock"),
];

/// Fixed numbers of the first namespaces: ipc, uts, user, pid, cgroup, time, net, mnt (linux/nsfs.h); kernels before
/// 6.18 fix all but the last two.
const INITIAL_IDS: [&str; 8] = [
    "4026531839",
    "4026531838",
    "4026531837",
    "4026531836",
    "4026531835",
    "4026531834",
    "4026531833",
    "4026531832",
];

/// Bit numbers of linux/capability.h.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

impl Facts {
    pub fn read() -> Self {
        let status = read("/proc/self/status");
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
                .unwrap_or("")
        };
        let mount_table = read("/proc/self/mountinfo");
        let root = mount_table
            .lines()
            .filter_map(MountLine::parse)
            .rfind(|mount| mount.target == "/");
        let uptime = first_number(&read("/proc/uptime"));
        let held = u64::from_str_radix(field("CapEff"), 16).unwrap_or(0);
        let last = read("/proc/sys/kernel/cap_last_cap")
            .trim()
            .parse()
            .unwrap_or(CAPABILITIES.len() - 1);
        Self {
            hostname: read("/proc/sys/kernel/hostname").trim().to_owned(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            pid: std::process::id(),
            user: field("Uid").split_whitespace().nth(1).unwrap_or("").to_owned(),
            visible_processes: count_processes(),
            uptime_seconds: (uptime - start_seconds()).max(0.0),
            host_uptime_seconds: uptime,
            resident_bytes: first_number(field("VmRSS")) as u64 * 1024,
            namespaces: read_namespaces(),
            addresses: read_addresses(),
            interfaces: read_interfaces(),
            gateway: read_gateway(),
            cgroup: Cgroup::read(),
            capabilities: CAPABILITIES
                .iter()
                .enumerate()
                .filter(|(bit, _)| *bit <= last)
                .map(|(bit, name)| Capability {
                    name,
                    is_held: held >> bit & 1 == 1,
                })
                .collect(),
            seccomp: match field("Seccomp") {
                "0" => "off",
                "1" => "strict",
                "2" => "filtering",
                _ => "unknown",
            },
            seccomp_filters: field("Seccomp_filters").parse().unwrap_or(0),
            no_new_privileges: field("NoNewPrivs") == "1",
            root_filesystem: root
                .as_ref()
                .map_or_else(String::new, |root| root.filesystem.to_owned()),
            root_read_only: root.as_ref().is_some_and(MountLine::is_read_only),
            layers: root
                .as_ref()
                .map_or_else(Vec::new, |root| layer_names(root.options)),
            mounts: read_mounts(&mount_table),
        }
    }
}

fn read(path: &str) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

fn first_number(text: &str) -> f64 {
    text.split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(0.0)
}

/// When this process started, in seconds since boot.
fn start_seconds() -> f64 {
    let stat = read("/proc/self/stat");
    // The name, in brackets, may contain anything; field 22 is the twentieth after it.
    let after_name = stat.rsplit(')').next().unwrap_or("");
    after_name
        .split_whitespace()
        .nth(19)
        .and_then(|ticks| ticks.parse::<f64>().ok())
        .unwrap_or(0.0)
        / TICKS_PER_SECOND
}

fn names_in(directory: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

fn count_processes() -> usize {
    names_in("/proc")
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .count()
}

fn read_namespaces() -> Vec<Namespace> {
    let namespace = |(kind, meaning): (&'static str, &'static str)| {
        let link = fs::read_link(format!("/proc/self/ns/{kind}")).ok()?;
        let id = link.to_str()?.split(['[', ']']).nth(1)?.to_owned();
        let is_initial = INITIAL_IDS.contains(&id.as_str());
        Some(Namespace {
            kind,
            meaning,
            id,
            is_initial,
        })
    };
    NAMESPACES.into_iter().filter_map(namespace).collect()
}

/// Interfaces in the kernel's order, loopback last of no interest.
fn read_interfaces() -> Vec<String> {
    let table = read("/proc/net/dev");
    let names = table
        .lines()
        .skip(2)
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    names.filter(|name| name != "lo").collect()
}

/// IPv4 from the routing trie, where a local address is the line before `/32 host LOCAL`; IPv6 from its own table.
fn read_addresses() -> Vec<String> {
    let mut addresses = Vec::new();
    let mut last = "";
    let trie = read("/proc/net/fib_trie");
    for line in trie.lines() {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address;
        } else if line.starts_with("/32 host LOCAL") && !last.starts_with("127.") {
            addresses.push(last.to_owned());
        }
    }
    for line in read("/proc/net/if_inet6").lines() {
        let mut words = line.split_whitespace();
        let (Some(digits), Some(scope)) = (words.next(), words.nth(2)) else {
            continue;
        };
        // Scope 10 is the loopback, 20 an address of the link only.
        if scope == "00"
            && let Ok(number) = u128::from_str_radix(digits, 16)
        {
            addresses.push(std::net::Ipv6Addr::from(number).to_string());
        }
    }
    addresses.sort();
    addresses.dedup();
    addresses
}

/// The default route: destination and mask zero; addresses are in the host's byte order.
fn read_gateway() -> Option<String> {
    read("/proc/net/route").lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_default = words.get(1) == Some(&"00000000") && words.get(7) == Some(&"00000000");
        let number = u32::from_str_radix(words.get(2)?, 16).ok()?;
        is_default.then(|| std::net::Ipv4Addr::from(number.to_ne_bytes()).to_string())
    })
}

impl Cgroup {
    fn read() -> Self {
        let number = |path: &str| read(path).trim().parse::<u64>().ok();
        let word = |path: &str| Some(read(path).trim().to_owned()).filter(|text| !text.is_empty());
        if fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap_or(false) {
            let path = |name: &str| format!("/sys/fs/cgroup/{name}");
            let cpu_max = read(&path("cpu.max"));
            let mut quota = cpu_max.split_whitespace().map(str::parse::<f64>);
            let used = read(&path("cpu.stat"));
            return Self {
                version: 2,
                memory_used_bytes: number(&path("memory.current")),
                memory_limit_bytes: number(&path("memory.max")),
                processes: number(&path("pids.current")),
                processes_limit: number(&path("pids.max")),
                cpu_limit: quota
                    .next()
                    .and_then(Result::ok)
                    .zip(quota.next().and_then(Result::ok))
                    .map(|(a, b)| a / b),
                cpu_weight: word(&path("cpu.weight")),
                cpus: word(&path("cpuset.cpus.effective")),
                cpu_used_seconds: used
                    .lines()
                    .find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse::<f64>().ok())
                    .map(|microseconds| microseconds / 1e6),
            };
        }
        if !fs::exists("/sys/fs/cgroup/memory").unwrap_or(false) {
            return Self::default();
        }
        let quota = read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
            .trim()
            .parse::<f64>()
            .ok()
            .filter(|quota| *quota > 0.0);
        let period = number("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
        Self {
            version: 1,
            memory_used_bytes: number("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
            // The kernel's way to say "none" is the largest number of whole pages.
            memory_limit_bytes: number("/sys/fs/cgroup/memory/memory.limit_in_bytes")
                .filter(|limit| *limit < 1 << 62),
            processes: number("/sys/fs/cgroup/pids/pids.current"),
            processes_limit: number("/sys/fs/cgroup/pids/pids.max"),
            cpu_limit: quota.zip(period).map(|(quota, period)| quota / period as f64),
            cpu_weight: word("/sys/fs/cgroup/cpu/cpu.shares"),
            cpus: word("/sys/fs/cgroup/cpuset/cpuset.effective_cpus"),
            cpu_used_seconds: number("/sys/fs/cgroup/cpuacct/cpuacct.usage").map(|ns| ns as f64 / 1e9),
        }
    }
}

/// One line of proc_pid_mountinfo(5).
struct MountLine<'a> {
    target: String,
    flags: &'a str,
    filesystem: &'a str,
    options: &'a str,
}

impl<'a> MountLine<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(4);
        let mut right = right.split(' ');
        let target = left
            .next()?
            .replace("\\040", " ")
            .replace("\\011", "\t")
            .replace("\\012", "\n");
        let flags = left.next()?;
        Some(Self {
            target,
            flags,
            filesystem: right.next()?,
            options: right.nth(1)?,
        })
    }

    fn is_read_only(&self) -> bool {
        self.flags.split(',').any(|flag| flag == "ro")
    }
}

fn read_mounts(table: &str) -> Vec<Mount> {
    let mounts = table.lines().filter_map(MountLine::parse);
    mounts
        .map(|mount| Mount {
            is_read_only: mount.is_read_only(),
            filesystem: mount.filesystem.to_owned(),
            target: mount.target,
        })
        .collect()
}

/// Names of an overlay's lower directories, the topmost first: `lowerdir=a:b` in the old form, `lowerdir+=a` each in
/// the new one.
fn layer_names(options: &str) -> Vec<String> {
    let values = options.split(',').filter_map(|option| {
        option
            .strip_prefix("lowerdir=")
            .or_else(|| option.strip_prefix("lowerdir+="))
    });
    values
        .flat_map(|value| value.split(':'))
        .filter(|path| !path.is_empty())
        .map(layer_name)
        .collect()
}

/// The part of the path that tells layers apart.
fn layer_name(path: &str) -> String {
    let mut parts = path.rsplit('/').filter(|part| !part.is_empty());
    let last = parts.next().unwrap_or(path);
    let name = if ["diff", "fs", "rootfs", "root"].contains(&last) {
        parts.next().unwrap_or(last)
    } else {
        last
    };
    let name = name
        .strip_prefix("sha256-")
        .or_else(|| name.strip_prefix("sha256:"))
        .unwrap_or(name);
    name.chars().take(12).collect()
}
