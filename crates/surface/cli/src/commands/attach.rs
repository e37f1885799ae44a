//! `attach`.

use super::{Arity, Command};
use crate::args::Kind::{Bool, Text};
use crate::args::{Flag, Order, long};
use crate::error::{CliError, Result};
use crate::options::Attach;
use crate::session_io::{Attached, attach_path, begin_wait, check_terminal, container_path, read_exit_code};
use crate::stream::Ended;
use crate::{Arguments, Session};

const FLAGS: &[Flag] = &[
    long(
        "detach-keys",
        Text("string"),
        "Override the key sequence for detaching a container",
    ),
    long("no-stdin", Bool, "Do not attach STDIN"),
    long(
        "sig-proxy",
        Bool,
        "Proxy all received signals to the process (default true)",
    ),
];

pub const COMMAND: Command = Command {
    names: &["container attach", "attach"],
    usage: "[OPTIONS] CONTAINER",
    about: "Attach local standard input, output, and error streams to a running container",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::Exactly(1),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let view = session
        .client
        .get(&format!("{}/json", container_path(&arguments.positional[0])))?;
    let state = view.get("State");
    for (fact, message) in [
        (
            !state.get("Running").is_true(),
            "cannot attach to a stopped container, start it first",
        ),
        (
            state.get("Paused").is_true(),
            "cannot attach to a paused container, unpause it first",
        ),
        (
            state.get("Restarting").is_true(),
            "cannot attach to a restarting container, wait until it is running",
        ),
    ] {
        if fact {
            return Err(CliError::message(message));
        }
    }
    let container = container_path(view.get("Id").text());
    let terminal = view.at(&["Config", "Tty"]).is_true();
    let stdin = !arguments.is_set("no-stdin") && view.at(&["Config", "OpenStdin"]).is_true();
    check_terminal(stdin, terminal)?;
    let detach_keys = arguments.text("detach-keys");
    let proxies_signals = arguments.bool("sig-proxy").unwrap_or(true) && !terminal;
    let attached = Attached {
        path: &container,
        terminal,
        stdin,
        detach_keys,
        proxies_signals,
    };
    let signals = attached.catch_signals()?;
    let streams = Attach {
        stdin,
        stdout: true,
        stderr: true,
    };
    let waiting = begin_wait(session, &container, "not-running")?;
    let hijacked = session
        .client
        .hijack(&attach_path(&container, streams, detach_keys, false), None)?;
    let wait = session.client.finish(waiting)?;
    if attached.run(session, hijacked, signals)? == Ended::Detached {
        return Err(CliError::message("read escape sequence"));
    }
    read_exit_code(wait)
}
