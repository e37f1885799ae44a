//! The processes of a container, read from /proc: no helper program is run.

use crate::Engine;
use crate::error::{EngineError, Result};
use crate::views::Top;
use naru_base::ErrorKind;
use std::fs;

/// Clock ticks a second in `/proc/<pid>/stat`, fixed for every architecture.
const TICKS_PER_SECOND: u64 = 100;

impl Engine {
    /// Columns of `ps -ef` by default; `ps_args` may be `-o` (or `o`, `-eo`) with a list of columns, `-ef` or `aux`.
    pub async fn top_container(&self, name: &str, ps_args: Option<String>) -> Result<Top> {
        let container = self.registry.find(name)?;
        if !container.record().is_running() {
            return Err(EngineError::conflict(format!(
                "container {} is not running",
                container.id
            )));
        }
        let columns = parse_columns(ps_args.as_deref().unwrap_or_default())?;
        let processes = {
            let run = super::lock(&container.run);
            let run = run
                .as_ref()
                .ok_or_else(|| EngineError::conflict(format!("container {} is not running", container.id)))?;
            run.cgroup
                .process_ids()
                .map_err(|error| EngineError::new(error.kind(), error.to_string()))?
        };
        let rows = processes
            .into_iter()
            .filter(|&pid| !is_helper(pid))
            .filter_map(Process::read)
            .map(|process| columns.iter().map(|column| process.cell(column)).collect());
        Ok(Top {
            titles: columns.iter().map(|column| title(column).to_owned()).collect(),
            processes: rows.collect(),
        })
    }
}

/// The titles of the engine's own processes in a container's cgroup.
const HELPERS: [&[u8]; 2] = [b"naru-exec", b"naru-stem"];

/// Whether a process in a container's cgroup is one that waits there for the engine.
pub(super) fn is_helper(pid: i32) -> bool {
    let title =
        naru_sys::file::read_bounded(format!("/proc/{pid}/cmdline").as_ref(), 1 << 21).unwrap_or_default();
    HELPERS.iter().any(|helper| title.starts_with(helper))
        // The daemon's own program runs from memory; a container's of that name would come from its files.
        && fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.to_string_lossy().starts_with("/memfd:"))
}

fn parse_columns(args: &str) -> Result<Vec<String>> {
    let words: Vec<&str> = args.split_whitespace().collect();
    let list = |names: &str| {
        names
            .split(',')
            .map(|name| name.trim().to_ascii_lowercase())
            .collect::<Vec<_>>()
    };
    let columns = match words.as_slice() {
        [] | ["-ef"] => list("user,pid,ppid,c,stime,tty,time,cmd"),
        ["aux" | "-aux"] => list("user,pid,%cpu,%mem,vsz,rss,tty,stat,start,time,command"),
        [selection, names] if is_selection(selection) => list(names),
        _ => {
            return Err(EngineError::new(
                ErrorKind::NotImplemented,
                format!("not supported: ps arguments {args:?}; use -ef, aux or -o with a list of columns"),
            ));
        }
    };
    match columns.iter().find(|column| title(column).is_empty()) {
        Some(unknown) => Err(EngineError::invalid(format!("unknown ps column {unknown:?}"))),
        None => Ok(columns),
    }
}

/// `-o`, `-eo`, `axo`: whatever is selected, all of a container's processes are shown.
fn is_selection(word: &str) -> bool {
    let letters = word.strip_prefix('-').unwrap_or(word).strip_suffix('o');
    letters.is_some_and(|letters| letters.chars().all(|letter| "aAexw".contains(letter)))
}

fn title(column: &str) -> &'static str {
    match column {
        "user" | "uid" | "uname" => "UID",
        "pid" => "PID",
        "ppid" => "PPID",
        "c" => "C",
        "stime" => "STIME",
        "start" => "START",
        "tty" | "tt" => "TTY",
        "time" => "TIME",
        "cmd" => "CMD",
        "command" | "args" => "COMMAND",
        "comm" => "COMM",
        "%cpu" | "pcpu" => "%CPU",
        "%mem" | "pmem" => "%MEM",
        "vsz" => "VSZ",
        "rss" => "RSS",
        "stat" | "s" => "STAT",
        _ => "",
    }
}

struct Process {
    pid: i32,
    uid: u32,
    /// Fields of `/proc/<pid>/stat` after the command's name, the first being the state.
    stat: Vec<String>,
    command_line: String,
    name: String,
}

impl Process {
    /// `None` for a process that has ended meanwhile.
    fn read(pid: i32) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (head, tail) = stat.rsplit_once(')')?;
        let name = head.split_once('(')?.1.to_owned();
        let raw = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<_> = raw
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(String::from_utf8_lossy)
            .collect();
        let command_line = if words.is_empty() {
            format!("[{name}]")
        } else {
            words.join(" ")
        };
        let uid = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
        Some(Self {
            pid,
            uid,
            stat: tail.split_whitespace().map(str::to_owned).collect(),
            command_line,
            name,
        })
    }

    /// Field of `/proc/<pid>/stat` by its number in proc(5), from 3 on.
    fn field(&self, number: usize) -> u64 {
        self.stat
            .get(number - 3)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    }

    fn cell(&self, column: &str) -> String {
        let cpu_seconds = (self.field(14) + self.field(15)) / TICKS_PER_SECOND;
        match column {
            "user" | "uid" | "uname" => user_name(self.uid),
            "pid" => self.pid.to_string(),
            "ppid" => self.field(4).to_string(),
            "c" => self.percent_of_cpu().to_string(),
            "%cpu" | "pcpu" => format!("{}.0", self.percent_of_cpu()),
            "%mem" | "pmem" => "0.0".to_owned(),
            "stime" | "start" => self.started_at(),
            "tty" | "tt" => terminal_name(self.field(7)),
            "time" => format!(
                "{:02}:{:02}:{:02}",
                cpu_seconds / 3600,
                cpu_seconds / 60 % 60,
                cpu_seconds % 60
            ),
            "vsz" => (self.field(23) / 1024).to_string(),
            "rss" => (self.field(24) * 4).to_string(),
            "stat" | "s" => self.stat.first().cloned().unwrap_or_default(),
            "comm" => self.name.clone(),
            _ => self.command_line.clone(),
        }
    }

    fn percent_of_cpu(&self) -> u64 {
        let elapsed = super::derive_started_at(self.field(22)).elapsed().as_secs();
        ((self.field(14) + self.field(15)) * 100 / TICKS_PER_SECOND)
            .checked_div(elapsed)
            .unwrap_or(0)
    }

    fn started_at(&self) -> String {
        let text = super::derive_started_at(self.field(22)).to_string();
        text.get(11..16).unwrap_or_default().to_owned()
    }
}

fn terminal_name(device: u64) -> String {
    match (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00) {
        (136..=143, minor) => format!("pts/{minor}"),
        _ => "?".to_owned(),
    }
}

fn user_name(uid: u32) -> String {
    let passwd =
        naru_sys::file::read_bounded(std::path::Path::new("/etc/passwd"), 1 << 20).unwrap_or_default();
    let text = String::from_utf8_lossy(&passwd);
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| uid.to_string())
}
