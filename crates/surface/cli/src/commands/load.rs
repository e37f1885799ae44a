//! `load`: images from an archive.

use super::{Arity, Command};
use crate::args::Kind::{Bool, List, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::{CliError, Result};
use crate::http::{Body, Query};
use crate::progress::{Sink, show};
use crate::{Arguments, Session, terminal};
use std::fs::File;
use std::io::{self, Read};

const FLAGS: &[Flag] = &[
    flag(
        "input",
        'i',
        Text("string"),
        "Read from tar archive file, instead of STDIN",
    ),
    long("platform", List("list"), "Load only the given platform(s)"),
    flag("quiet", 'q', Bool, "Suppress the load output"),
];

pub const COMMAND: Command = Command {
    names: &["image load", "load"],
    usage: "[OPTIONS]",
    about: "Load an image from a tar archive or STDIN",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::None,
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let mut input: Box<dyn Read> = match arguments.text("input").filter(|path| !path.is_empty()) {
        Some(path) => Box::new(File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CliError::message(format!("open {path}: no such file or directory")),
            _ => CliError::message(format!("open {path}: {error}")),
        })?),
        None if terminal::stdin_is_terminal() => {
            return Err(CliError::message("requested load from stdin, but stdin is empty"));
        }
        None => Box::new(io::stdin()),
    };
    let mut sink = Sink::standard_output();
    let is_quiet = arguments.is_set("quiet") || matches!(sink, Sink::Lines(_));
    let path = Query::new("/images/load")
        .set("quiet", if is_quiet { "1" } else { "0" })
        .set_some("platform", arguments.text("platform"))
        .build();
    let response = session
        .client
        .send("POST", &path, Body::Stream(&mut *input, "application/x-tar"))?;
    show(response, &mut sink)?;
    Ok(0)
}
