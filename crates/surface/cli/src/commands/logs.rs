//! `logs`.

use super::{Arity, Command};
use crate::args::Kind::{Bool, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::{CliError, Result};
use crate::http::{Body, Query};
use crate::session_io::container_path;
use crate::stream::Output;
use crate::{Arguments, Session, units};
use std::io::Read;

const FLAGS: &[Flag] = &[
    long("details", Bool, "Show extra details provided to logs"),
    flag("follow", 'f', Bool, "Follow log output"),
    long(
        "since",
        Text("string"),
        "Show logs since timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\" for 42 minutes)",
    ),
    flag(
        "tail",
        'n',
        Text("string"),
        "Number of lines to show from the end of the logs (default \"all\")",
    ),
    flag("timestamps", 't', Bool, "Show timestamps"),
    long(
        "until",
        Text("string"),
        "Show logs before a timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\" for 42 minutes)",
    ),
];

pub const COMMAND: Command = Command {
    names: &["container logs", "logs"],
    usage: "[OPTIONS] CONTAINER",
    about: "Fetch the logs of a container",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::Exactly(1),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let container = container_path(&arguments.positional[0]);
    let moment = |flag: &str| {
        let read = |text| {
            units::parse_moment(text)
                .map_err(|error| CliError::message(format!("invalid value for {flag:?}: {error}")))
        };
        arguments.text(flag).map(read).transpose()
    };
    let (since, until) = (moment("since")?, moment("until")?);
    let view = session.client.get(&format!("{container}/json"))?;
    let terminal = view.at(&["Config", "Tty"]).is_true();
    let path = Query::new(&format!("{container}/logs"))
        .set("stdout", "1")
        .set("stderr", "1")
        .set_if(arguments.is_set("follow"), "follow", "1")
        .set_if(arguments.is_set("timestamps"), "timestamps", "1")
        .set_if(arguments.is_set("details"), "details", "1")
        .set("tail", arguments.text("tail").unwrap_or("all"))
        .set_some("since", since.as_deref())
        .set_some("until", until.as_deref())
        .build();
    let mut response = session.client.send("GET", &path, Body::Empty)?;
    let mut output = Output::new(terminal);
    let mut buffer = vec![0_u8; 32 * 1024];
    loop {
        match response.read(&mut buffer).map_err(CliError::Transport)? {
            0 => return Ok(0),
            length => output.accept(&buffer[..length])?,
        }
    }
}
