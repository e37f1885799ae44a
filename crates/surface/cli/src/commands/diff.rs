//! `diff`: what a container changed in its file system.

use super::{Arity, Command};
use crate::args::Order;
use crate::error::{CliError, Result};
use crate::session_io::container_path;
use crate::{Arguments, Session, output};

pub const COMMAND: Command = Command {
    names: &["container diff", "diff"],
    usage: "CONTAINER",
    about: "Inspect changes to files or directories on a container's filesystem",
    flags: &[],
    order: Order::Mixed,
    arity: Arity::Exactly(1),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let name = &arguments.positional[0];
    if name.is_empty() {
        return Err(CliError::message("Container name cannot be empty"));
    }
    let changes = session.client.get(&format!("{}/changes", container_path(name)))?;
    let mut lines = String::new();
    for change in changes.items() {
        let letter = match change.get("Kind").integer() {
            0 => 'C',
            1 => 'A',
            _ => 'D',
        };
        lines.push(letter);
        lines.push(' ');
        lines.push_str(change.get("Path").text());
        lines.push('\n');
    }
    output::print(&lines)?;
    Ok(0)
}
