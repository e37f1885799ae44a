//! `create`: makes a container without starting it.

use super::{Arity, Command};
use crate::args::Order;
use crate::error::{CliError, Result};
use crate::http::{Body, Query};
use crate::json::Value;
use crate::options::{self, CreatePlan, PullPolicy, plan_create};
use crate::{Arguments, Session, output, reference};
use std::fs::File;
use std::io::Write;

pub const COMMAND: Command = Command {
    names: &["container create", "create"],
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    about: "Create a new container",
    flags: &[options::FLAGS, options::LIMITS, options::CONTAINER_LIMITS],
    order: Order::FlagsFirst,
    arity: Arity::AtLeast(1),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    check_daemon_kind(session, arguments)?;
    let command = format!("{} create", session.program);
    // Docker's create plans as if attached, so that a later `start -ai` finds its streams.
    let plan = plan_create(arguments, false).map_err(|message| CliError::Usage { message, command })?;
    output::print_line(&create(session, &plan)?)?;
    Ok(0)
}

/// Flags of Windows containers: where the daemon has others, nothing is made, and the exit code is 1 for `run` too, as
/// with Docker.
pub fn check_daemon_kind(session: &Session, arguments: &Arguments) -> Result<()> {
    const WINDOWS_ONLY: [&str; 4] = ["cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops"];
    let Some(flag) = WINDOWS_ONLY.iter().find(|flag| arguments.is_given(flag)) else {
        return Ok(());
    };
    let version = session.client.get("/version")?;
    let kind = version.get("Os").text();
    if kind == "windows" {
        return Ok(());
    }
    Err(CliError::message(format!(
        "\"--{flag}\" is only supported on a Docker daemon running on windows, but the Docker daemon is running on {kind}"
    )))
}

/// Creates the container, pulling its image where the policy says so; gives its id.
pub fn create(session: &Session, plan: &CreatePlan) -> Result<String> {
    let mut cidfile = plan.cidfile.as_deref().map(open_cidfile).transpose()?;
    let outcome = create_with_image(session, plan);
    match (&outcome, &mut cidfile, &plan.cidfile) {
        (Ok(id), Some(file), _) => {
            file.write_all(id.as_bytes())
                .map_err(|error| CliError::message(format!("write the container ID file: {error}")))?;
        }
        // Nothing was made, so no file stays to say so; a file that is gone already is as good.
        (Err(_), Some(_), Some(path)) => drop(std::fs::remove_file(path)),
        _ => {}
    }
    outcome
}

fn open_cidfile(path: &str) -> Result<File> {
    File::create_new(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => CliError::message(format!(
            "container ID file found, make sure the other container isn't running or delete {path}"
        )),
        _ => CliError::message(format!(
            "failed to create the container ID file: open {path}: {error}"
        )),
    })
}

fn create_with_image(session: &Session, plan: &CreatePlan) -> Result<String> {
    if plan.pull == PullPolicy::Always {
        super::pull::pull_for_run(session, plan)?;
    }
    match request(session, plan) {
        Err(CliError::Daemon { status: 404, message })
            if plan.pull == PullPolicy::Missing && message.to_ascii_lowercase().contains("no such image") =>
        {
            if !plan.is_quiet {
                crate::output::tell!(
                    "Unable to find image '{}' locally",
                    reference::familiar(&plan.image)
                );
            }
            super::pull::pull_for_run(session, plan)?;
            request(session, plan)
        }
        outcome => outcome,
    }
}

fn request(session: &Session, plan: &CreatePlan) -> Result<String> {
    let path = Query::new("/containers/create")
        .set_some("name", plan.name.as_deref())
        .set_some("platform", plan.platform.as_deref())
        .build();
    let answer = session.client.json("POST", &path, Body::Json(&plan.body))?;
    for warning in answer.get("Warnings").items() {
        crate::output::tell!("WARNING: {}", warning.text());
    }
    match answer.get("Id") {
        Value::Text(id) => Ok(id.clone()),
        _ => Err(CliError::Protocol("create answered without an id".to_owned())),
    }
}
