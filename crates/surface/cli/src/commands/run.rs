//! `run`: creates a container, attaches, waits, starts, in Docker's order.

use super::create::{check_daemon_kind, create};
use super::{Arity, Command};
use crate::args::Kind::{Bool, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::{CliError, Result};
use crate::http::Response;
use crate::json::Value;
use crate::options::{self, CreatePlan, plan_create};
use crate::session_io::{Attached, attach_path, begin_wait, check_terminal, read_exit_code};
use crate::stream::Ended;
use crate::{Arguments, Session, output, terminal};

const FLAGS: &[Flag] = &[
    flag(
        "detach",
        'd',
        Bool,
        "Run container in background and print container ID",
    ),
    long(
        "detach-keys",
        Text("string"),
        "Override the key sequence for detaching a container",
    ),
    long(
        "sig-proxy",
        Bool,
        "Proxy received signals to the process (default true)",
    ),
];

pub const COMMAND: Command = Command {
    names: &["container run", "run"],
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    about: "Create and run a new container from an image",
    flags: &[FLAGS, options::FLAGS, options::LIMITS, options::CONTAINER_LIMITS],
    order: Order::FlagsFirst,
    arity: Arity::AtLeast(1),
    run,
};

/// Exit codes Docker gives for what its client or engine could not do.
const ENGINE_FAILED: u8 = 125;
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    check_daemon_kind(session, arguments)?;
    let detached = arguments.is_set("detach");
    let mut plan =
        plan_create(arguments, detached).map_err(|message| refused(session, &CliError::Message(message)))?;
    if !detached {
        check_terminal(plan.attach.stdin, plan.terminal)?;
    }
    if plan.terminal
        && let Some((rows, columns)) = terminal::size()
    {
        set_console_size(&mut plan.body, rows, columns);
    }
    let id = create(session, &plan).map_err(|error| refused(session, &error))?;
    if plan.attach.any() {
        return run_attached(session, arguments, &plan, &id);
    }
    let container = format!("/containers/{id}");
    session
        .client
        .post(&format!("{container}/start"))
        .map_err(|error| start_failed(session, &error))?;
    output::print_line(&id)?;
    Ok(0)
}

fn set_console_size(body: &mut Value, rows: u16, columns: u16) {
    if let Value::Map(entries) = body
        && let Some((_, Value::Map(host))) = entries.iter_mut().find(|(key, _)| key == "HostConfig")
    {
        let size = vec![Value::Integer(rows.into()), Value::Integer(columns.into())];
        host.push(("ConsoleSize".to_owned(), Value::List(size)));
    }
}

fn run_attached(session: &Session, arguments: &Arguments, plan: &CreatePlan, id: &str) -> Result<u8> {
    let container = format!("/containers/{id}");
    let detach_keys = arguments.text("detach-keys");
    let attached = Attached {
        path: &container,
        terminal: plan.terminal,
        stdin: plan.attach.stdin,
        detach_keys,
        proxies_signals: arguments.bool("sig-proxy").unwrap_or(true) && !plan.terminal,
    };
    let signals = attached.catch_signals()?;
    // Both requests are on their way before either answer is awaited.
    let attaching = session
        .client
        .begin_hijack(&attach_path(&container, plan.attach, detach_keys, false), None)?;
    let condition = if plan.auto_remove { "removed" } else { "next-exit" };
    let waiting = begin_wait(session, &container, condition)?;
    // A refused attach, for keys that there are not say, ends with 1 as with Docker.
    let hijacked = session.client.finish_hijack(attaching)?;
    let wait = session
        .client
        .finish(waiting)
        .map_err(|error| refused(session, &error))?;
    if let Err(error) = session.client.post(&format!("{container}/start")) {
        let failure = start_failed(session, &error);
        drop(hijacked);
        return finish_failed_start(plan, wait, failure);
    }
    let ended = attached.run(session, hijacked, signals)?;
    if ended == Ended::Detached {
        return Ok(0);
    }
    read_exit_code(wait)
}

/// With `--rm` the container is being removed; its name is free again only then.
fn finish_failed_start(plan: &CreatePlan, wait: Response, failure: CliError) -> Result<u8> {
    if plan.auto_remove {
        // What matters is that it is gone; its exit code does not.
        let _ = read_exit_code(wait);
    }
    Err(failure)
}

/// Reports in Docker's frame that nothing was run, and gives the exit code.
fn refused(session: &Session, error: &CliError) -> CliError {
    if matches!(error, CliError::Status(_)) {
        return CliError::Status(ENGINE_FAILED);
    }
    let program = &session.program;
    let text = error.to_string();
    crate::output::tell!(
        "{program}: {}.\nSee '{program} run --help'.",
        text.trim_end_matches('.')
    );
    tell_hint(session, error);
    // What the daemon says of a create counts like what it says of a start; a wrong flag is always 125.
    CliError::Status(match error {
        CliError::Daemon { .. } => start_exit_code(&text),
        _ => ENGINE_FAILED,
    })
}

fn start_failed(session: &Session, error: &CliError) -> CliError {
    let text = error.to_string();
    crate::output::tell!("{}: {}.", session.program, text.trim_end_matches('.'));
    tell_hint(session, error);
    CliError::Status(start_exit_code(&text))
}

fn tell_hint(session: &Session, error: &CliError) {
    if let Some(hint) = error.hint(&session.program) {
        crate::output::tell!("hint: {hint}");
    }
}

/// 127 for a command that does not exist, 126 for one that cannot be run, told apart by the words of the error as
/// Docker's client does.
fn start_exit_code(text: &str) -> u8 {
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if has(&[
        "executable file not found",
        "no such file or directory",
        "system cannot find the file specified",
    ]) {
        NOT_FOUND
    } else if has(&["permission denied", "is a directory"]) {
        CANNOT_RUN
    } else {
        ENGINE_FAILED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_missing_from_unusable_commands() {
        assert_eq!(
            start_exit_code("exec: \"x\": executable file not found in $PATH"),
            127
        );
        assert_eq!(
            start_exit_code("exec: \"/x\": stat /x: no such file or directory"),
            127
        );
        assert_eq!(start_exit_code("exec: \"/etc/passwd\": permission denied"), 126);
        assert_eq!(start_exit_code("port is already allocated"), 125);
        assert_eq!(start_exit_code("mount /m: not a directory"), 125);
    }
}
