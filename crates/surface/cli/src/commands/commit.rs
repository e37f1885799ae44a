//! `commit`: an image made from a container.

use super::{Arity, Command};
use crate::args::Kind::{Bool, List, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::{CliError, Result};
use crate::http::{Body, Query};
use crate::output::print_line;
use crate::{Arguments, Session};

const FLAGS: &[Flag] = &[
    flag(
        "author",
        'a',
        Text("string"),
        "Author (e.g., \"John Hannibal Smith <hannibal@a-team.com>\")",
    ),
    flag(
        "change",
        'c',
        List("list"),
        "Apply Dockerfile instruction to the created image",
    ),
    flag("message", 'm', Text("string"), "Commit message"),
    long("no-pause", Bool, "Disable pausing container during commit"),
    flag("pause", 'p', Bool, "Pause container during commit (default true)"),
];

pub const COMMAND: Command = Command {
    names: &["container commit", "commit"],
    usage: "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    about: "Create a new image from a container's changes",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::Between(1, 2),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let pause = arguments.bool("pause").unwrap_or(true) && !arguments.is_set("no-pause");
    let (repository, tag) = split_reference(arguments.positional.get(1).map_or("", String::as_str))?;
    let mut query = Query::new("/commit")
        .set("container", &arguments.positional[0])
        .set_some("repo", repository)
        .set_some("tag", tag)
        .set_some("comment", arguments.text("message"))
        .set_some("author", arguments.text("author"))
        .set_if(!pause, "pause", "0");
    for change in arguments.list("change") {
        query = query.set("changes", change);
    }
    let answer = session.client.json("POST", &query.build(), Body::Empty)?;
    print_line(answer.get("Id").text())?;
    Ok(0)
}

/// `name` and `tag`; a colon before a slash belongs to a port.
fn split_reference(text: &str) -> Result<(Option<&str>, Option<&str>)> {
    if text.is_empty() {
        return Ok((None, None));
    }
    if text.contains('@') {
        return Err(CliError::message(
            "refusing to create a tag with a digest reference",
        ));
    }
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => Ok((Some(name), Some(tag))),
        _ => Ok((Some(text), None)),
    }
}
