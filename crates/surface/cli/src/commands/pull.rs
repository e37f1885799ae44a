//! `pull`, and pulling an image that a container needs.

use super::{Arity, Command};
use crate::args::Kind::{Bool, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::{CliError, Result};
use crate::http::{Body, Query};
use crate::options::CreatePlan;
use crate::{Arguments, Session, credentials, output, progress, reference};

const FLAGS: &[Flag] = &[
    flag(
        "all-tags",
        'a',
        Bool,
        "Download all tagged images in the repository",
    ),
    long(
        "disable-content-trust",
        Bool,
        "Skip image verification (default true)",
    ),
    long(
        "platform",
        Text("string"),
        "Set platform if server is multi-platform capable",
    ),
    flag("quiet", 'q', Bool, "Suppress verbose output"),
];

pub const COMMAND: Command = Command {
    names: &["image pull", "pull"],
    usage: "[OPTIONS] NAME[:TAG|@DIGEST]",
    about: "Download an image from a registry",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::Exactly(1),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let image = &arguments.positional[0];
    let (name, tag) = reference::split_tag(image);
    let has_all_tags = arguments.is_set("all-tags");
    if has_all_tags && tag.is_some() {
        return Err(CliError::message("tag can't be used with --all-tags/-a"));
    }
    if !arguments.bool("disable-content-trust").unwrap_or(true) {
        return Err(CliError::message(
            "content trust is not supported: pull by digest to be sure of what comes",
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
    let mut sink = if is_quiet {
        progress::Sink::Silent
    } else {
        progress::Sink::standard_output()
    };
    pull(session, name, tag, arguments.text("platform"), &mut sink)?;
    output::print_line(&canonical(name, tag))?;
    Ok(0)
}

fn pull(
    session: &Session,
    name: &str,
    tag: Option<&str>,
    platform: Option<&str>,
    sink: &mut progress::Sink,
) -> Result<()> {
    let path = Query::new("/images/create")
        .set("fromImage", name)
        .set_some("tag", tag)
        .set_some("platform", platform)
        .build();
    let header = credentials::header_for(&session.config, name)?;
    let response = session.client.send("POST", &path, Body::Credentials(&header))?;
    progress::show(response, sink)
}

/// The whole name, as Docker's client ends a pull or push with.
pub fn canonical(name: &str, tag: Option<&str>) -> String {
    let whole = match name.split_once('/') {
        _ if credentials::registry_of(name) != credentials::HUB => name.to_owned(),
        Some(("docker.io" | "index.docker.io", rest)) if rest.contains('/') => format!("docker.io/{rest}"),
        Some(("docker.io" | "index.docker.io", rest)) => format!("docker.io/library/{rest}"),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    };
    match tag {
        Some(digest) if digest.contains(':') => format!("{whole}@{digest}"),
        Some(tag) => format!("{whole}:{tag}"),
        None => whole,
    }
}

/// Pulls the image of a container to be; progress goes to standard error, which keeps the container's output clean.
pub fn pull_for_run(session: &Session, plan: &CreatePlan) -> Result<()> {
    let familiar = reference::familiar(&plan.image);
    let (name, tag) = reference::split_tag(&familiar);
    let mut sink = if plan.is_quiet {
        progress::Sink::Silent
    } else {
        progress::Sink::standard_error()
    };
    pull(session, name, tag, plan.platform.as_deref(), &mut sink)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ended_with_as_docker_does() {
        assert_eq!(canonical("debian", Some("1")), "docker.io/library/debian:1");
        assert_eq!(
            canonical("docker.io/debian", Some("1")),
            "docker.io/library/debian:1"
        );
        assert_eq!(canonical("u/a", None), "docker.io/u/a");
        assert_eq!(canonical("h:1/a", Some("sha256:0")), "h:1/a@sha256:0");
    }
}
