//! `exec`: runs a command in a running container.

use super::{Arity, Command};
use crate::args::Kind::{Bool, List, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::{CliError, Result};
use crate::http::Body;
use crate::json::Value;
use crate::options::plan_environment;
use crate::session_io::{Attached, check_terminal, container_path};
use crate::stream::Ended;
use crate::{Arguments, Session};

const FLAGS: &[Flag] = &[
    flag(
        "detach",
        'd',
        Bool,
        "Detached mode: run command in the background",
    ),
    long(
        "detach-keys",
        Text("string"),
        "Override the key sequence for detaching a container",
    ),
    flag("env", 'e', List("list"), "Set environment variables"),
    long(
        "env-file",
        List("list"),
        "Read in a file of environment variables",
    ),
    flag("interactive", 'i', Bool, "Keep STDIN open even if not attached"),
    long("privileged", Bool, "Give extended privileges to the command"),
    flag("tty", 't', Bool, "Allocate a pseudo-TTY"),
    flag(
        "user",
        'u',
        Text("string"),
        "Username or UID (format: \"<name|uid>[:<group|gid>]\")",
    ),
    flag(
        "workdir",
        'w',
        Text("string"),
        "Working directory inside the container",
    ),
];

pub const COMMAND: Command = Command {
    names: &["container exec", "exec"],
    usage: "[OPTIONS] CONTAINER COMMAND [ARG...]",
    about: "Execute a command in a running container",
    flags: &[FLAGS],
    order: Order::FlagsFirst,
    arity: Arity::AtLeast(2),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let detached = arguments.is_set("detach");
    let terminal = arguments.is_set("tty");
    let stdin = arguments.is_set("interactive") && !detached;
    check_terminal(stdin, terminal)?;
    let text = |flag: &str| Value::from(arguments.text(flag).unwrap_or_default());
    let body = Value::object([
        ("User", text("user")),
        ("Privileged", Value::Bool(arguments.is_set("privileged"))),
        ("Tty", Value::Bool(terminal)),
        ("AttachStdin", Value::Bool(stdin)),
        ("AttachStdout", Value::Bool(!detached)),
        ("AttachStderr", Value::Bool(!detached)),
        ("Detach", Value::Bool(detached)),
        ("DetachKeys", text("detach-keys")),
        (
            "Env",
            Value::from(plan_environment(arguments).map_err(CliError::Message)?),
        ),
        ("WorkingDir", text("workdir")),
        ("Cmd", Value::from(arguments.positional[1..].to_vec())),
    ]);
    let path = format!("{}/exec", container_path(&arguments.positional[0]));
    let created = session.client.json("POST", &path, Body::Json(&body))?;
    let exec = format!("/exec/{}", created.get("Id").text());
    let start = Value::object([("Detach", Value::Bool(detached)), ("Tty", Value::Bool(terminal))]);
    if detached {
        session
            .client
            .call("POST", &format!("{exec}/start"), Body::Json(&start))?;
        return Ok(0);
    }
    run_attached(session, arguments, &exec, &start, stdin)
}

fn run_attached(
    session: &Session,
    arguments: &Arguments,
    exec: &str,
    start: &Value,
    stdin: bool,
) -> Result<u8> {
    let attached = Attached {
        path: exec,
        terminal: arguments.is_set("tty"),
        stdin,
        detach_keys: arguments.text("detach-keys"),
        proxies_signals: false,
    };
    let signals = attached.catch_signals()?;
    let hijacked = session.client.hijack(&format!("{exec}/start"), Some(start))?;
    if attached.run(session, hijacked, signals)? == Ended::Detached {
        return Err(CliError::message("read escape sequence"));
    }
    let view = session.client.get(&format!("{exec}/json"))?;
    Ok(view.get("ExitCode").integer() as u8)
}
