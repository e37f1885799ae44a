//! `update`: changes limits and the restart policy of containers.

use super::{Arity, Command};
use crate::args::Kind::Text;
use crate::args::{Flag, Order, long};
use crate::error::{CliError, Result};
use crate::http::Body;
use crate::options::{CONTAINER_LIMITS, LIMITS, plan_update};
use crate::session_io::container_path;
use crate::{Arguments, Session, output};

const FLAGS: &[Flag] = &[long(
    "restart",
    Text("string"),
    "Restart policy to apply when a container exits",
)];

pub const COMMAND: Command = Command {
    names: &["container update", "update"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Update configuration of one or more containers",
    flags: &[FLAGS, LIMITS, CONTAINER_LIMITS],
    order: Order::Mixed,
    arity: Arity::AtLeast(1),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let mut flags = COMMAND.flags.iter().copied().flatten();
    if !flags.any(|flag| arguments.is_given(flag.long)) {
        return Err(CliError::message(
            "you must provide one or more flags when using this command",
        ));
    }
    let body = plan_update(arguments).map_err(CliError::Message)?;
    output::for_each_name(&arguments.positional, |name| {
        let path = format!("{}/update", container_path(name));
        let answer = session.client.json("POST", &path, Body::Json(&body))?;
        for warning in answer.get("Warnings").items() {
            crate::output::tell!("{}", warning.text());
        }
        output::print_line(name)
    })
}
