//! `port`: published ports of a container.

use super::{Arity, Command};
use crate::args::Order;
use crate::error::{CliError, Result};
use crate::json::Value;
use crate::session_io::container_path;
use crate::{Arguments, Session, output};

pub const COMMAND: Command = Command {
    names: &["container port", "port"],
    usage: "CONTAINER [PRIVATE_PORT[/PROTO]]",
    about: "List port mappings or a specific mapping for the container",
    flags: &[],
    order: Order::Mixed,
    arity: Arity::Between(1, 2),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let name = &arguments.positional[0];
    let view = session.client.get(&format!("{}/json", container_path(name)))?;
    let ports = view.at(&["NetworkSettings", "Ports"]);
    if let Some(wanted) = arguments.positional.get(1) {
        let key = if wanted.contains('/') {
            wanted.clone()
        } else {
            format!("{wanted}/tcp")
        };
        let bindings = ports.get(&key);
        if bindings.items().is_empty() {
            return Err(CliError::message(format!(
                "Error: No public port '{key}' published for {name}"
            )));
        }
        let lines: String = bindings
            .items()
            .iter()
            .map(|binding| address(binding) + "\n")
            .collect();
        return output::print(&lines).map(|()| 0);
    }
    let mut lines: Vec<String> = ports
        .entries()
        .iter()
        .flat_map(|(port, bindings)| {
            bindings
                .items()
                .iter()
                .map(move |binding| format!("{port} -> {}\n", address(binding)))
        })
        .collect();
    lines.sort();
    output::print(&lines.concat())?;
    Ok(0)
}

fn address(binding: &Value) -> String {
    let ip = binding.get("HostIp").text();
    let port = binding.get("HostPort").text();
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}
