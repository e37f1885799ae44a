//! The command line: parses flags, speaks the Engine API, prints.
//!
//! It never calls the engine but over its API, so it works with any Docker-compatible engine. It starts no runtime but
//! for `manifest`, which speaks to registries itself, and no thread but for `system dial-stdio`: the time of a command is
//! the daemon's, not the client's.

// Text is built for people, a line at a time: reading well counts for more than an allocation.
#![allow(clippy::format_push_string, clippy::format_collect)]

mod args;
mod commands;
mod connect;
mod contexts;
mod credentials;
mod error;
mod explore;
#[cfg(test)]
mod fuzz;
mod http;
mod json;
mod listing;
mod manifests;
mod options;
mod output;
mod progress;
mod reference;
mod session_io;
mod stream;
mod table;
mod tarball;
mod template;
mod terminal;
mod units;

use args::{Arguments, Flag, Kind, Order, flag, long};
use commands::Command;
use error::{CliError, Result};
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// What the command line needs of the program around it.
#[derive(Debug, Clone, Copy)]
pub struct Hooks {
    /// Starts a daemon, detached, whose socket and log will be in this exec-root; returns without waiting for it.
    pub start_daemon: fn(&Path) -> io::Result<()>,
}

/// One invocation: who is called and under which name.
pub struct Session {
    /// `naru`, or `docker` when invoked under that name.
    pub program: String,
    pub client: http::Client,
    pub config: connect::Global,
}

const GLOBAL_FLAGS: &[Flag] = &[
    long("config", Kind::Text("string"), "Location of client config files"),
    flag(
        "context",
        'c',
        Kind::Text("string"),
        "Name of the context to use to connect to the daemon",
    ),
    flag("debug", 'D', Kind::Bool, "Enable debug mode"),
    flag("host", 'H', Kind::List("list"), "Daemon socket to connect to"),
    flag("log-level", 'l', Kind::Text("string"), "Set the logging level"),
    long("tls", Kind::Bool, "Use TLS; implied by --tlsverify"),
    long(
        "tlscacert",
        Kind::Text("string"),
        "Trust certs signed only by this CA",
    ),
    long("tlscert", Kind::Text("string"), "Path to TLS certificate file"),
    long("tlskey", Kind::Text("string"), "Path to TLS key file"),
    long("tlsverify", Kind::Bool, "Use TLS and verify the remote"),
    flag("version", 'v', Kind::Bool, "Print version information and quit"),
];

/// Runs the command that `args` (program name first) names; gives its exit code.
pub fn main(args: Vec<OsString>, hooks: Hooks) -> ExitCode {
    let program = program_name(args.first());
    let code = match run(&program, args, hooks) {
        Ok(code) => code,
        Err(error) => report(&program, &error),
    };
    ExitCode::from(code)
}

fn program_name(first: Option<&OsString>) -> String {
    let name = first
        .and_then(|path| Path::new(path).file_name())
        .map(|name| name.to_string_lossy());
    if name.as_deref() == Some("docker") {
        "docker".to_owned()
    } else {
        "naru".to_owned()
    }
}

/// Words an error for people; gives the exit code.
fn report(program: &str, error: &CliError) -> u8 {
    match error {
        CliError::Status(_) => {}
        CliError::Output(cause) if cause.kind() == io::ErrorKind::BrokenPipe => {}
        CliError::Usage { .. } | CliError::Daemon { .. } => crate::output::tell!("{error}"),
        _ => crate::output::tell!("{program}: {error}"),
    }
    if let Some(hint) = error.hint(program) {
        crate::output::tell!("hint: {hint}");
    }
    error.exit_code()
}

fn run(program: &str, args: Vec<OsString>, hooks: Hooks) -> Result<u8> {
    let words = args
        .into_iter()
        .skip(1)
        .map(|word| {
            word.into_string().map_err(|word| {
                CliError::message(format!("argument {} is not UTF-8", word.to_string_lossy()))
            })
        })
        .collect::<Result<Vec<String>>>()?;
    let usage = |message| CliError::Usage {
        message,
        command: program.to_owned(),
    };
    let globals = args::parse(&[GLOBAL_FLAGS], Order::FlagsFirst, &words).map_err(usage)?;
    if globals.is_set("version") {
        output::print(&format!("{}\n", commands::version::one_line(program)))?;
        return Ok(0);
    }
    let rest = globals.positional.as_slice();
    if globals.wants_help || rest.is_empty() {
        output::print(&commands::describe_all(program, GLOBAL_FLAGS))?;
        return Ok(0);
    }
    if rest[0] == "help" {
        return help(program, &rest[1..]);
    }
    match commands::find(rest) {
        commands::Found::Command(command, path_words) => {
            let path = format!("{program} {}", rest[..path_words].join(" "));
            invoke(program, &globals, command, &path, &rest[path_words..], hooks)
        }
        commands::Found::Group(group) => {
            commands::describe_group(program, group, rest.get(1).map(String::as_str))
        }
        commands::Found::Unsupported(name) => Err(CliError::message(format!(
            "'{name}' is not supported yet: this version has no part that does it"
        ))),
        commands::Found::Nothing => {
            crate::output::tell!("{}", commands::unknown(program, &rest[0]));
            Err(CliError::Status(1))
        }
    }
}

fn help(program: &str, words: &[String]) -> Result<u8> {
    match commands::find(words) {
        commands::Found::Command(command, path_words) => {
            let path = format!("{program} {}", words[..path_words].join(" "));
            output::print(&commands::describe(command, &path))?;
            Ok(0)
        }
        commands::Found::Group(group) => commands::describe_group(program, group, None),
        _ => {
            output::print(&commands::describe_all(program, GLOBAL_FLAGS))?;
            Ok(0)
        }
    }
}

fn invoke(
    program: &str,
    globals: &Arguments,
    command: &Command,
    path: &str,
    words: &[String],
    hooks: Hooks,
) -> Result<u8> {
    let usage = |message| CliError::Usage {
        message,
        command: path.to_owned(),
    };
    let arguments = args::parse(command.flags, command.order, words).map_err(usage)?;
    if arguments.wants_help {
        output::print(&commands::describe(command, path))?;
        return Ok(0);
    }
    if let Some(complaint) = command.arity.complaint(arguments.positional.len()) {
        crate::output::tell!(
            "\"{path}\" {complaint}.\nSee '{path} --help'.\n\nUsage:  {path} {}\n\n{}",
            command.usage,
            command.about
        );
        return Err(CliError::Status(1));
    }
    // Contexts can be put right also when the chosen one cannot be used.
    let is_local = ["context", "completion", "man", "manifest"]
        .contains(&command.names[0].split(' ').next().unwrap_or_default());
    let session = if is_local {
        connect::open_offline(program, globals)
    } else {
        let hooks = Some(hooks).filter(|_| command.names[0] != "__complete");
        connect::open_session(program, globals, hooks)?
    };
    (command.run)(&session, &arguments)
}
