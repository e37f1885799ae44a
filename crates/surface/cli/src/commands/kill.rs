//! `kill`: sends a signal.

use super::{Arity, Command};
use crate::args::Kind::Text;
use crate::args::{Flag, Order, flag};
use crate::error::Result;
use crate::http::Query;
use crate::output::{for_each_name, print_line};
use crate::session_io::container_path;
use crate::{Arguments, Session};

const FLAGS: &[Flag] = &[flag(
    "signal",
    's',
    Text("string"),
    "Signal to send to the container",
)];

pub const COMMAND: Command = Command {
    names: &["container kill", "kill"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Kill one or more running containers",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::AtLeast(1),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    for_each_name(&arguments.positional, |name| {
        let path = Query::new(&format!("{}/kill", container_path(name)))
            .set_some("signal", arguments.text("signal"));
        session.client.post(&path.build())?;
        print_line(name)
    })
}
