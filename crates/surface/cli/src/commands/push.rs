//! `push`: an image to a registry.

use super::pull::canonical;
use super::{Arity, Command};
use crate::args::Kind::{Bool, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::{CliError, Result};
use crate::http::{Body, Query, escape_reference};
use crate::{Arguments, Session, credentials, output, progress, reference};

const FLAGS: &[Flag] = &[
    flag(
        "all-tags",
        'a',
        Bool,
        "Push all tags of an image to the repository",
    ),
    long("disable-content-trust", Bool, "Skip image signing (default true)"),
    long("platform", Text("string"), "Push a platform-specific manifest"),
    flag("quiet", 'q', Bool, "Suppress verbose output"),
];

pub const COMMAND: Command = Command {
    names: &["image push", "push"],
    usage: "[OPTIONS] NAME[:TAG]",
    about: "Upload an image to a registry",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::Exactly(1),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let (name, tag) = reference::split_tag(&arguments.positional[0]);
    let has_all_tags = arguments.is_set("all-tags");
    if has_all_tags && tag.is_some() {
        return Err(CliError::message("tag can't be used with --all-tags/-a"));
    }
    if !arguments.bool("disable-content-trust").unwrap_or(true) {
        return Err(CliError::message(
            "content trust is not supported: sign the digest with a tool of your choice",
        ));
    }
    let is_quiet = arguments.is_set("quiet");
    if tag.is_none() && !has_all_tags && !is_quiet {
        output::print_line("Using default tag: latest")?;
    }
    let tag = if has_all_tags {
        None
    } else {
        tag.or(Some("latest"))
    };
    let path = Query::new(&format!("/images/{}/push", escape_reference(name)))
        .set_some("tag", tag)
        .set_some("platform", arguments.text("platform"))
        .build();
    let header = credentials::header_for(&session.config, name)?;
    let response = session.client.send("POST", &path, Body::Credentials(&header))?;
    let mut sink = if is_quiet {
        progress::Sink::Silent
    } else {
        progress::Sink::standard_output()
    };
    progress::show(response, &mut sink)?;
    if is_quiet {
        output::print_line(&canonical(name, tag))?;
    }
    Ok(0)
}
