//! What the kernel's log (`/dev/kmsg`) tells of processes that it ended.
//!
//! Read only when something has been ended that the log may explain. Nothing in it can be relied on to be there: it is a
//! ring that is written over, it may be closed to this process, and of many faults in a row the kernel leaves some out.
//! What is not found is therefore unknown, and never taken for something else.

use crate::cause::{OomScope, OomVictim};
use naru_cgroup::Cgroup;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// The longest record that the kernel hands out (`PRINTK_MESSAGE_MAX`, with room to spare).
const RECORD_BYTES_MAX: usize = 8192;

/// Victims remembered of one run.
const VICTIMS_MAX: usize = 16;

/// The log's clock and the monotonic one run apart by less than this between two boots.
const CLOCK_SLACK_US: u64 = 10_000_000;

/// The present moment on (nearly) the clock of the log: microseconds since the boot, times asleep left out.
pub fn now_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1000
}

/// Processes of this cgroup that were ended for want of memory since then; of `pids` it is known that they are its own.
pub fn oom_victims(cgroup: &Cgroup, pids: &[i32], since_us: u64) -> Vec<OomVictim> {
    let path = cgroup.path();
    let mut finder = VictimFinder::new(&path, pids);
    scan(since_us, |text| finder.take(text));
    finder.victims
}

/// What the log has of a fault of this process since then.
pub fn fault_of(pid: i32, since_us: u64) -> Option<String> {
    let mut found = None;
    scan(since_us, |text| {
        if tells_of_fault(text, pid) {
            found = Some(text.to_owned());
        }
    });
    found
}

/// Calls `each` with the text of every record from then on. A log that cannot be read has none.
fn scan(since_us: u64, mut each: impl FnMut(&str)) {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(log) = rustix::fs::open("/dev/kmsg", flags, Mode::empty()) else {
        return;
    };
    let since_us = since_us.saturating_sub(CLOCK_SLACK_US);
    let mut record = vec![0; RECORD_BYTES_MAX];
    loop {
        match rustix::io::read(&log, &mut record) {
            Ok(0) => return,
            Ok(length) => {
                let text = String::from_utf8_lossy(&record[..length]);
                if let Some((_, text)) = parse_record(&text).filter(|(time, _)| *time >= since_us) {
                    each(text);
                }
            }
            // Written over while it was read: the next one is there.
            Err(Errno::PIPE | Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Time and text of `6,1234,5678901,-;text`, whose continuation lines are left out.
fn parse_record(record: &str) -> Option<(u64, &str)> {
    let (head, text) = record.split_once(';')?;
    let time = head.split(',').nth(2)?.parse().ok()?;
    Some((time, text.lines().next().unwrap_or_default()))
}

/// `name[7]: segfault at …`, `traps: name[7] general protection …`, and seccomp's `audit: type=1326 … pid=7 …`.
fn tells_of_fault(text: &str, pid: i32) -> bool {
    let is_trap = text.contains("]: segfault at ") || text.starts_with("traps: ");
    let is_seccomp = text.contains("type=1326 ");
    is_trap && text.contains(&format!("[{pid}]")) || is_seccomp && text.contains(&format!(" pid={pid} "))
}

/// Follows the log's two lines of a kill: `oom-kill:…,task_memcg=/naru/x,task=tail,pid=7,uid=0`, which the kernel leaves
/// out of many in a row, then `… out of memory: Killed process 7 (tail) total-vm:9kB, anon-rss:8kB, …`.
struct VictimFinder<'a> {
    cgroup: &'a str,
    pids: &'a [i32],
    /// Said to be in the cgroup.
    chosen: Option<i32>,
    victims: Vec<OomVictim>,
}

impl<'a> VictimFinder<'a> {
    fn new(cgroup: &'a str, pids: &'a [i32]) -> Self {
        Self {
            cgroup,
            pids,
            chosen: None,
            victims: Vec::new(),
        }
    }

    fn take(&mut self, text: &str) {
        if let Some(summary) = text.strip_prefix("oom-kill:") {
            self.chosen = chosen_in(summary, self.cgroup);
        } else if let Some(victim) = parse_victim(text) {
            let is_own = self.pids.contains(&victim.pid) || self.chosen == Some(victim.pid);
            if is_own && self.victims.len() < VICTIMS_MAX {
                self.victims.push(victim);
            }
        }
    }
}

/// The process chosen, if it is in this cgroup or below it.
fn chosen_in(summary: &str, cgroup: &str) -> Option<i32> {
    let value = |key: &str| summary.split(',').find_map(|part| part.strip_prefix(key));
    let path = value("task_memcg=")?;
    let below = format!("{cgroup}/");
    (path.ends_with(cgroup) || path.contains(&below))
        .then(|| value("pid=")?.parse().ok())
        .flatten()
}

fn parse_victim(text: &str) -> Option<OomVictim> {
    let (before, rest) = text.split_once("Killed process ")?;
    let (pid, rest) = rest.split_once(" (")?;
    // A name may hold brackets itself.
    let (name, rest) = rest.split_once(") total-vm:")?;
    let kilobytes: u64 = rest.split_once("anon-rss:")?.1.split_once("kB")?.0.parse().ok()?;
    Some(OomVictim {
        pid: pid.parse().ok()?,
        name: name.to_owned(),
        scope: if before.starts_with("Memory cgroup") {
            OomScope::Limit
        } else {
            OomScope::Host
        },
        memory_bytes: kilobytes.saturating_mul(1024),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUMMARY: &str = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=x,mems_allowed=0,\
                           oom_memcg=/naru/abc,task_memcg=/naru/abc,task=tail,pid=71,uid=0";
    const KILLED: &str = "Memory cgroup out of memory: Killed process 71 (tail) total-vm:36000kB, anon-rss:32000kB, \
                          file-rss:4kB, shmem-rss:0kB, UID:0 pgtables:104kB oom_score_adj:0";

    fn found(lines: &[&str], cgroup: &str, pids: &[i32]) -> Vec<OomVictim> {
        let mut finder = VictimFinder::new(cgroup, pids);
        for line in lines {
            finder.take(line);
        }
        finder.victims
    }

    #[test]
    fn victims_are_known_by_their_cgroup_or_their_pid() {
        let victims = found(&[SUMMARY, KILLED], "/naru/abc", &[]);
        assert_eq!((victims[0].pid, victims[0].name.as_str()), (71, "tail"));
        assert_eq!(victims[0].memory_bytes, 32_000 * 1024);
        assert_eq!(victims[0].scope, OomScope::Limit);
        assert_eq!(found(&[KILLED], "/naru/abc", &[71]).len(), 1);
        assert!(found(&[KILLED], "/naru/abc", &[]).is_empty());
        assert!(found(&[SUMMARY, KILLED], "/naru/other", &[]).is_empty());
    }

    #[test]
    fn a_name_with_brackets_and_a_host_without_memory_are_read() {
        let line =
            "Out of memory: Killed process 5 (a (b) c) total-vm:1kB, anon-rss:2kB, file-rss:0kB, UID:0";
        let victims = found(&[line], "/x", &[5]);
        assert_eq!(victims[0].name, "a (b) c");
        assert_eq!(victims[0].scope, OomScope::Host);
    }

    #[test]
    fn faults_are_those_of_the_process() {
        let line = "python3[324]: segfault at 0 ip 00007f86aad85ad8 sp 00007fff27467da8 error 4 in libc.so.6";
        assert!(tells_of_fault(line, 324));
        assert!(!tells_of_fault(line, 32));
        assert!(tells_of_fault(
            "traps: x[9] trap invalid opcode ip:1 sp:2 error:0",
            9
        ));
        let audit =
            "audit: type=1326 audit(1.2:3): auid=0 uid=0 gid=0 ses=1 pid=9 comm=\"x\" sig=31 syscall=83";
        assert!(tells_of_fault(audit, 9) && !tells_of_fault(audit, 3));
    }

    #[test]
    fn records_have_a_time_and_a_first_line() {
        assert_eq!(
            parse_record("6,1,5678,-;text; more\n SUBSYSTEM=x\n"),
            Some((5678, "text; more"))
        );
        for broken in ["", "6,1", "6,1,x,-;text", ";", "6;text"] {
            assert_eq!(parse_record(broken), None, "{broken}");
        }
    }
}
