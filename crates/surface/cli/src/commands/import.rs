//! `import`: an image from a file system's archive.

use super::{Arity, Command};
use crate::args::Kind::{List, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::{CliError, Result};
use crate::http::{Body, Query};
use crate::{Arguments, Session, progress, reference};
use std::fs::File;
use std::io::{self, Read};

const FLAGS: &[Flag] = &[
    flag(
        "change",
        'c',
        List("list"),
        "Apply Dockerfile instruction to the created image",
    ),
    flag(
        "message",
        'm',
        Text("string"),
        "Set commit message for imported image",
    ),
    long(
        "platform",
        Text("string"),
        "Set platform if server is multi-platform capable",
    ),
];

pub const COMMAND: Command = Command {
    names: &["image import", "import"],
    usage: "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
    about: "Import the contents from a tarball to create a filesystem image",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::Between(1, 2),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let source = &arguments.positional[0];
    let is_url = source.starts_with("http://") || source.starts_with("https://");
    let (repository, tag) = match arguments.positional.get(1) {
        Some(name) => {
            let (name, tag) = reference::split_tag(name);
            (Some(name), tag)
        }
        None => (None, None),
    };
    let mut query = Query::new("/images/create")
        .set("fromSrc", if is_url { source } else { "-" })
        .set_some("repo", repository)
        .set_some("tag", tag)
        .set_some("message", arguments.text("message"))
        .set_some("platform", arguments.text("platform"));
    for change in arguments.list("change") {
        query = query.set("changes", change);
    }
    let mut input: Box<dyn Read> = match source.as_str() {
        "-" => Box::new(io::stdin()),
        _ if is_url => Box::new(io::empty()),
        path => {
            Box::new(File::open(path).map_err(|error| CliError::message(format!("open {path}: {error}")))?)
        }
    };
    let response = session.client.send(
        "POST",
        &query.build(),
        Body::Stream(&mut *input, "application/x-tar"),
    )?;
    progress::show(response, &mut progress::Sink::standard_output())?;
    Ok(0)
}
