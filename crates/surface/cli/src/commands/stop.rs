//! `stop` and `restart`: end containers in order.

use super::{Arity, Command};
use crate::args::Kind::{Int, Text};
use crate::args::{Flag, Order, flag};
use crate::error::Result;
use crate::http::Query;
use crate::output::{for_each_name, print_line};
use crate::session_io::container_path;
use crate::{Arguments, Session};

const FLAGS: &[Flag] = &[
    flag("signal", 's', Text("string"), "Signal to send to the container"),
    flag(
        "timeout",
        't',
        Int,
        "Seconds to wait before killing the container",
    ),
    crate::args::long("time", Int, "Seconds to wait before killing the container"),
];

pub const COMMAND: Command = Command {
    names: &["container stop", "stop"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Stop one or more running containers",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::AtLeast(1),
    run: |session, arguments| run(session, arguments, "stop"),
};

pub const RESTART: Command = Command {
    names: &["container restart", "restart"],
    about: "Restart one or more containers",
    run: |session, arguments| run(session, arguments, "restart"),
    ..COMMAND
};

fn run(session: &Session, arguments: &Arguments, action: &str) -> Result<u8> {
    for_each_name(&arguments.positional, |name| {
        let path = Query::new(&format!("{}/{action}", container_path(name)))
            .set_some("t", arguments.text("timeout").or(arguments.text("time")))
            .set_some("signal", arguments.text("signal"))
            .build();
        session.client.post(&path)?;
        print_line(name)
    })
}
