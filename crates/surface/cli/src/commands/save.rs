//! `save`: images as one archive.

use super::export;
use super::{Arity, Command};
use crate::args::Kind::{List, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::{CliError, Result};
use crate::http::{Body, Query};
use crate::{Arguments, Session};
use std::io::{self, IsTerminal};

const FLAGS: &[Flag] = &[
    flag(
        "output",
        'o',
        Text("string"),
        "Write to a file, instead of STDOUT",
    ),
    long("platform", List("list"), "Save only the given platform(s)"),
];

pub const COMMAND: Command = Command {
    names: &["image save", "save"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    about: "Save one or more images to a tar archive (streamed to STDOUT by default)",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::AtLeast(1),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let output = arguments.text("output").filter(|path| !path.is_empty());
    if output.is_none() && io::stdout().is_terminal() {
        return Err(CliError::message(
            "cowardly refusing to save to a terminal. Use the -o flag or redirect",
        ));
    }
    let mut query = Query::new("/images/get").set_some("platform", arguments.text("platform"));
    for name in &arguments.positional {
        query = query.set("names", name);
    }
    export::save(session.client.send("GET", &query.build(), Body::Empty)?, output)
}
