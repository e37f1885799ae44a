//! `start`: starts containers, or one and attaches to it.

use super::{Arity, Command};
use crate::args::Kind::{Bool, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::{CliError, Result};
use crate::http::Query;
use crate::options::Attach;
use crate::output::{for_each_name, print_line};
use crate::session_io::{Attached, attach_path, begin_wait, check_terminal, container_path, read_exit_code};
use crate::stream::Ended;
use crate::{Arguments, Session};

const FLAGS: &[Flag] = &[
    flag("attach", 'a', Bool, "Attach STDOUT/STDERR and forward signals"),
    long("checkpoint", Text("string"), "Restore from this checkpoint"),
    long(
        "checkpoint-dir",
        Text("string"),
        "Use a custom checkpoint storage directory",
    ),
    long(
        "detach-keys",
        Text("string"),
        "Override the key sequence for detaching a container",
    ),
    flag("interactive", 'i', Bool, "Attach container's STDIN"),
];

pub const COMMAND: Command = Command {
    names: &["container start", "start"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Start one or more stopped containers",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::AtLeast(1),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let names = &arguments.positional;
    if arguments.is_set("attach") || arguments.is_set("interactive") {
        if names.len() > 1 {
            return Err(CliError::message(
                "you cannot start and attach multiple containers at once",
            ));
        }
        return start_attached(session, arguments, &names[0]);
    }
    let code = for_each_name(names, |name| {
        let path = Query::new(&format!("{}/start", container_path(name)))
            .set_some("checkpoint", arguments.text("checkpoint"))
            .set_some("checkpoint-dir", arguments.text("checkpoint-dir"))
            .build();
        session.client.post(&path)?;
        print_line(name)
    })?;
    if code != 0 {
        crate::output::tell!("Error: failed to start containers: {}", names.join(", "));
    }
    Ok(code)
}

fn start_attached(session: &Session, arguments: &Arguments, name: &str) -> Result<u8> {
    let view = session.client.get(&format!("{}/json", container_path(name)))?;
    let container = container_path(view.get("Id").text());
    let config = view.get("Config");
    let terminal = config.get("Tty").is_true();
    let stdin = arguments.is_set("interactive") && config.get("OpenStdin").is_true();
    check_terminal(stdin, terminal)?;
    let detach_keys = arguments.text("detach-keys");
    let attached = Attached {
        path: &container,
        terminal,
        stdin,
        detach_keys,
        proxies_signals: !terminal,
    };
    let signals = attached.catch_signals()?;
    let streams = Attach {
        stdin,
        stdout: arguments.is_set("attach") || config.get("AttachStdout").is_true(),
        stderr: arguments.is_set("attach") || config.get("AttachStderr").is_true(),
    };
    let attaching = session
        .client
        .begin_hijack(&attach_path(&container, streams, detach_keys, false), None)?;
    let removes = view.at(&["HostConfig", "AutoRemove"]).is_true();
    let waiting = begin_wait(session, &container, if removes { "removed" } else { "next-exit" })?;
    let hijacked = session.client.finish_hijack(attaching)?;
    let wait = session.client.finish(waiting)?;
    session.client.post(&format!("{container}/start"))?;
    if attached.run(session, hijacked, signals)? == Ended::Detached {
        return Ok(0);
    }
    read_exit_code(wait)
}
