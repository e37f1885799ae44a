//! `wait`: prints exit codes.

use super::{Arity, Command};
use crate::args::Order;
use crate::error::{CliError, Result};
use crate::http::Body;
use crate::output::{for_each_name, print_line};
use crate::session_io::container_path;
use crate::{Arguments, Session};

pub const COMMAND: Command = Command {
    names: &["container wait", "wait"],
    usage: "CONTAINER [CONTAINER...]",
    about: "Block until one or more containers stop, then print their exit codes",
    flags: &[],
    order: Order::Mixed,
    arity: Arity::AtLeast(1),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    for_each_name(&arguments.positional, |name| {
        let answer = session
            .client
            .json("POST", &format!("{}/wait", container_path(name)), Body::Empty)?;
        let error = answer.at(&["Error", "Message"]).text();
        if !error.is_empty() {
            return Err(CliError::message(error));
        }
        print_line(&answer.get("StatusCode").integer().to_string())
    })
}
