//! `pause` and `unpause`.

use super::{Arity, Command};
use crate::args::Order;
use crate::error::Result;
use crate::output::{for_each_name, print_line};
use crate::session_io::container_path;
use crate::{Arguments, Session};

pub const COMMAND: Command = Command {
    names: &["container pause", "pause"],
    usage: "CONTAINER [CONTAINER...]",
    about: "Pause all processes within one or more containers",
    flags: &[],
    order: Order::Mixed,
    arity: Arity::AtLeast(1),
    run: |session, arguments| run(session, arguments, "pause"),
};

pub const UNPAUSE: Command = Command {
    names: &["container unpause", "unpause"],
    about: "Unpause all processes within one or more containers",
    run: |session, arguments| run(session, arguments, "unpause"),
    ..COMMAND
};

fn run(session: &Session, arguments: &Arguments, action: &str) -> Result<u8> {
    for_each_name(&arguments.positional, |name| {
        session
            .client
            .post(&format!("{}/{action}", container_path(name)))?;
        print_line(name)
    })
}
