//! `info`.

use super::{Arity, Command};
use crate::args::Kind::Text;
use crate::args::{Order, flag};
use crate::error::Result;
use crate::json::Value;
use crate::{Arguments, Session, output, table, units};

pub const COMMAND: Command = Command {
    names: &["system info", "info"],
    usage: "[OPTIONS]",
    about: "Display system-wide information",
    flags: &[&[flag(
        "format",
        'f',
        Text("string"),
        "Format output using a custom template",
    )]],
    order: Order::Mixed,
    arity: Arity::None,
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let info = session.client.get("/info")?;
    match arguments.text("format").filter(|format| !format.is_empty()) {
        Some("json") => output::print_line(&info.to_json())?,
        Some(format) => output::print_line(&table::render(&table::parse(format)?, &info)?)?,
        None => output::print(&describe(&info))?,
    }
    Ok(0)
}

fn describe(info: &Value) -> String {
    let mut text = format!("Client:\n Version:    {}\n\nServer:\n", env!("CARGO_PKG_VERSION"));
    let mut line = |indent: usize, name: &str, value: &str| {
        text.push_str(&format!("{}{name}: {value}\n", " ".repeat(indent)));
    };
    let number = |key: &str| info.get(key).integer().to_string();
    line(1, "Containers", &number("Containers"));
    line(2, "Running", &number("ContainersRunning"));
    line(2, "Paused", &number("ContainersPaused"));
    line(2, "Stopped", &number("ContainersStopped"));
    line(1, "Images", &number("Images"));
    line(1, "Server Version", info.get("ServerVersion").text());
    line(1, "Storage Driver", info.get("Driver").text());
    for pair in info.get("DriverStatus").items() {
        if let [name, value] = pair.items() {
            line(2, name.text(), value.text());
        }
    }
    for (name, key) in [
        ("Logging Driver", "LoggingDriver"),
        ("Cgroup Driver", "CgroupDriver"),
        ("Cgroup Version", "CgroupVersion"),
        ("Default Runtime", "DefaultRuntime"),
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("OSType", "OSType"),
        ("Architecture", "Architecture"),
    ] {
        line(1, name, info.get(key).text());
    }
    line(1, "CPUs", &number("NCPU"));
    line(
        1,
        "Total Memory",
        &units::binary_size(info.get("MemTotal").float()),
    );
    for (name, key) in [
        ("Name", "Name"),
        ("ID", "ID"),
        ("Docker Root Dir", "DockerRootDir"),
    ] {
        line(1, name, info.get(key).text());
    }
    line(
        1,
        "Live Restore Enabled",
        &info.get("LiveRestoreEnabled").is_true().to_string(),
    );
    for warning in info.get("Warnings").items() {
        crate::output::tell!("{}", warning.text());
    }
    text
}
