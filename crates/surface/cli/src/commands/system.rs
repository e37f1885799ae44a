//! `system df` and `system stop`.

use super::{Arity, Command};
use crate::args::Kind::{Bool, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::{CliError, Result};
use crate::json::Value;
use crate::table::{self, Column};
use crate::{Arguments, Session, output, units};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::time::{Duration, Instant};

const DF_FLAGS: &[Flag] = &[
    long("format", Text("string"), "Format output using a custom template"),
    flag("verbose", 'v', Bool, "Show detailed information on space usage"),
];

pub const DISK_USAGE: Command = Command {
    names: &["system df"],
    usage: "[OPTIONS]",
    about: "Show disk usage",
    flags: &[DF_FLAGS],
    order: Order::Mixed,
    arity: Arity::None,
    run: disk_usage,
};
pub const STOP: Command = Command {
    names: &["system stop"],
    usage: "",
    about: "Stop the daemon; containers keep running",
    flags: &[],
    order: Order::Mixed,
    arity: Arity::None,
    run: stop,
};

const COLUMNS: &[Column] = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];

/// Longer than a daemon needs to end its parked processes.
const STOP_SECONDS_MAX: u64 = 20;

fn disk_usage(session: &Session, arguments: &Arguments) -> Result<u8> {
    let usage = session.client.get("/system/df")?;
    let sum = |items: &[Value], size: &dyn Fn(&Value) -> f64| items.iter().map(size).sum::<f64>();
    let row = |name: &str, count: usize, active: usize, size: f64, free: f64| {
        let percent = if size > 0.0 {
            format!(" ({:.0}%)", free / size * 100.0)
        } else {
            String::new()
        };
        Value::object([
            ("Type", Value::from(name)),
            ("TotalCount", Value::Text(count.to_string())),
            ("Active", Value::Text(active.to_string())),
            ("Size", Value::Text(units::human_size(size))),
            (
                "Reclaimable",
                Value::Text(format!("{}{percent}", units::human_size(free))),
            ),
        ])
    };
    let images = usage.get("Images").items();
    let is_used = |image: &&Value| image.get("Containers").integer() > 0;
    let layers = usage.get("LayersSize").float();
    let used = sum(images, &|image| {
        if is_used(&image) {
            image.get("Size").float() - image.get("SharedSize").float().max(0.0)
        } else {
            0.0
        }
    });
    let containers = usage.get("Containers").items();
    let is_running =
        |container: &&Value| matches!(container.get("State").text(), "running" | "paused" | "restarting");
    let written = |container: &Value| container.get("SizeRw").float();
    let volumes = usage.get("Volumes").items();
    let volume_size = |volume: &Value| volume.at(&["UsageData", "Size"]).float().max(0.0);
    let in_use = |volume: &&Value| volume.at(&["UsageData", "RefCount"]).integer() > 0;
    let rows = vec![
        row(
            "Images",
            images.len(),
            images.iter().filter(is_used).count(),
            layers,
            (layers - used).max(0.0),
        ),
        row(
            "Containers",
            containers.len(),
            containers.iter().filter(is_running).count(),
            sum(containers, &written),
            sum(containers, &|container| {
                if is_running(&container) {
                    0.0
                } else {
                    written(container)
                }
            }),
        ),
        row(
            "Local Volumes",
            volumes.len(),
            volumes.iter().filter(in_use).count(),
            sum(volumes, &volume_size),
            sum(volumes, &|volume| {
                if in_use(&volume) { 0.0 } else { volume_size(volume) }
            }),
        ),
        row("Build Cache", 0, 0, 0.0, 0.0),
    ];
    table::print_rows(
        arguments.text("format"),
        COLUMNS,
        &["Type", "TotalCount", "Active", "Size", "Reclaimable"],
        rows,
    )?;
    Ok(0)
}

fn stop(session: &Session, _: &Arguments) -> Result<u8> {
    let pidfile = session.config.exec_root.join("naru.pid");
    let Ok(text) = std::fs::read_to_string(&pidfile) else {
        return output::print_line("no daemon is running").map(|()| 0);
    };
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| CliError::message(format!("{} holds no process id", pidfile.display())))?;
    if !is_daemon(pid) {
        return output::print_line("no daemon is running").map(|()| 0);
    }
    kill_process(pid, Signal::TERM)
        .map_err(|error| CliError::message(format!("stop the daemon (process {}): {error}", text.trim())))?;
    let deadline = Instant::now() + Duration::from_secs(STOP_SECONDS_MAX);
    while test_kill_process(pid).is_ok() && is_daemon(pid) {
        if Instant::now() >= deadline {
            return Err(CliError::message(format!(
                "the daemon (process {}) has not ended after {STOP_SECONDS_MAX} s",
                text.trim()
            )));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(0)
}

/// Whether the process is a daemon of this program: a stale pidfile may name a stranger.
fn is_daemon(pid: Pid) -> bool {
    let command = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    command
        .split(|byte| *byte == 0)
        .take(3)
        .any(|word| word == b"daemon")
}
