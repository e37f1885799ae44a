//! `stats`: what containers use, once or again and again.

use super::{Arity, Command};
use crate::args::Kind::{Bool, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::{CliError, Result};
use crate::json::Value;
use crate::session_io::container_path;
use crate::table::{self, Column};
use crate::{Arguments, Session, output, units};
use std::io::IsTerminal;
use std::time::Duration;

const FLAGS: &[Flag] = &[
    flag(
        "all",
        'a',
        Bool,
        "Show all containers (default shows just running)",
    ),
    long("format", Text("string"), "Format output using a custom template"),
    long(
        "no-stream",
        Bool,
        "Disable streaming stats and only pull the first result",
    ),
    long("no-trunc", Bool, "Do not truncate output"),
];

pub const COMMAND: Command = Command {
    names: &["container stats", "stats"],
    usage: "[OPTIONS] [CONTAINER...]",
    about: "Display a live stream of container(s) resource usage statistics",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::AtLeast(0),
    run,
};

const COLUMNS: &[Column] = &[
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

const SHOWN: &[&str] = &[
    "ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs",
];

/// Time between two readings, over which the CPU's share is taken; Docker's.
const INTERVAL: Duration = Duration::from_secs(1);

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let once = arguments.is_set("no-stream");
    let mut before = read_all(session, arguments, true)?;
    loop {
        std::thread::sleep(INTERVAL);
        // Named ones must exist; of all that run, one that has gone is no longer shown.
        let now = read_all(session, arguments, false)?;
        if !once && std::io::stdout().is_terminal() {
            output::print("\x1b[H\x1b[J")?;
        }
        let rows = now.iter().map(|(name, stats)| {
            let earlier = before
                .iter()
                .find(|(_, other)| other.get("id") == stats.get("id"));
            row(
                name,
                stats,
                earlier.map_or(&Value::Null, |(_, stats)| stats),
                arguments.is_set("no-trunc"),
            )
        });
        table::print_rows(arguments.text("format"), COLUMNS, SHOWN, rows.collect())?;
        if once {
            return Ok(0);
        }
        before = now;
    }
}

/// One reading of each container, with the name it was asked for by.
fn read_all(session: &Session, arguments: &Arguments, must_exist: bool) -> Result<Vec<(String, Value)>> {
    let names = if arguments.positional.is_empty() {
        let all = if arguments.is_set("all") { "1" } else { "0" };
        let list = session.client.get(&format!("/containers/json?all={all}"))?;
        let ids = list
            .items()
            .iter()
            .map(|container| container.get("Id").text().to_owned());
        ids.collect()
    } else {
        arguments.positional.clone()
    };
    let mut readings = Vec::new();
    for name in names {
        let path = format!("{}/stats?stream=0&one-shot=1", container_path(&name));
        match session.client.get(&path) {
            Ok(stats) => readings.push((name, stats)),
            Err(CliError::Daemon { status: 404, .. }) if !must_exist || arguments.positional.is_empty() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(readings)
}

fn row(name: &str, now: &Value, before: &Value, full: bool) -> Value {
    let id = now.get("id").text();
    let short = |text: &str| {
        if full {
            text.to_owned()
        } else {
            text.get(..12).unwrap_or(text).to_owned()
        }
    };
    let asked = if name == id { short(name) } else { name.to_owned() };
    let used = memory_used(now);
    let limit = now.at(&["memory_stats", "limit"]).float();
    let (received, sent) = network_bytes(now);
    let (read, written) = block_bytes(now);
    let text = |key, text| (key, Value::Text(text));
    Value::object([
        text("Container", asked),
        text("ID", short(id)),
        text("Name", now.get("name").text().trim_start_matches('/').to_owned()),
        text("CPUPerc", format!("{:.2}%", cpu_percent(now, before))),
        text(
            "MemUsage",
            format!("{} / {}", units::binary_size(used), units::binary_size(limit)),
        ),
        text("MemPerc", format!("{:.2}%", percent(used, limit))),
        text("NetIO", in_and_out(received, sent)),
        text("BlockIO", in_and_out(read, written)),
        text("PIDs", now.at(&["pids_stats", "current"]).integer().to_string()),
    ])
}

fn in_and_out(first: f64, second: f64) -> String {
    format!("{} / {}", units::human_size(first), units::human_size(second))
}

fn percent(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole * 100.0 } else { 0.0 }
}

/// Hundred for one CPU fully used between the two readings.
fn cpu_percent(now: &Value, before: &Value) -> f64 {
    let total = |stats: &Value| stats.at(&["cpu_stats", "cpu_usage", "total_usage"]).float();
    let system = |stats: &Value| stats.at(&["cpu_stats", "system_cpu_usage"]).float();
    let cpus = now.at(&["cpu_stats", "online_cpus"]).float().max(1.0);
    let (used, passed) = (total(now) - total(before), system(now) - system(before));
    if used > 0.0 {
        percent(used, passed) * cpus
    } else {
        0.0
    }
}

/// Without the page cache that the kernel would give back at once, as Docker counts.
fn memory_used(stats: &Value) -> f64 {
    let memory = stats.get("memory_stats");
    let usage = memory.get("usage").float();
    // By its v1 name, then by its v2 name.
    let inactive = ["total_inactive_file", "inactive_file"]
        .iter()
        .find_map(|key| memory.get("stats").entry(key))
        .map_or(0.0, Value::float);
    if inactive < usage { usage - inactive } else { usage }
}

fn network_bytes(stats: &Value) -> (f64, f64) {
    let interfaces = stats.get("networks").entries();
    let sum = |key: &str| interfaces.iter().map(|(_, one)| one.get(key).float()).sum();
    (sum("rx_bytes"), sum("tx_bytes"))
}

fn block_bytes(stats: &Value) -> (f64, f64) {
    let entries = stats.at(&["blkio_stats", "io_service_bytes_recursive"]).items();
    let sum = |operation: &str| {
        let fitting = entries
            .iter()
            .filter(|entry| entry.get("op").text().eq_ignore_ascii_case(operation));
        fitting.map(|entry| entry.get("value").float()).sum()
    };
    (sum("read"), sum("write"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(cpu: u64, system: u64) -> Value {
        let text = format!(
            r#"{{"id":"0123456789abcdef","name":"/box","cpu_stats":{{"cpu_usage":{{"total_usage":{cpu}}},
            "system_cpu_usage":{system},"online_cpus":2}},"memory_stats":{{"usage":3145728,"limit":10485760,
            "stats":{{"total_inactive_file":1048576}}}},"networks":{{"eth0":{{"rx_bytes":1500,"tx_bytes":20}}}},
            "blkio_stats":{{"io_service_bytes_recursive":[{{"op":"Read","value":4096}}]}},"pids_stats":{{"current":3}}}}"#
        );
        Value::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_row_reads_as_dockers() {
        let row = row("box", &stats(1_500, 4_000), &stats(1_000, 2_000), false);
        let cell = |name: &str| row.get(name).text().to_owned();
        assert_eq!(cell("ID"), "0123456789ab");
        assert_eq!(cell("CPUPerc"), "50.00%");
        assert_eq!(cell("MemUsage"), "2MiB / 10MiB");
        assert_eq!(cell("MemPerc"), "20.00%");
        assert_eq!(cell("NetIO"), "1.5kB / 20B");
        assert_eq!(cell("BlockIO"), "4.1kB / 0B");
        assert_eq!(cell("PIDs"), "3");
    }
}
