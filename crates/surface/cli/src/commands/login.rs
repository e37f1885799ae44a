//! `login`: tries credentials at a registry, by way of the daemon, and keeps them.

use super::{Arity, Command};
use crate::args::Kind::{Bool, Text};
use crate::args::{Flag, Order, flag, long};
use crate::credentials::{self, Credentials, HUB};
use crate::error::{CliError, Result};
use crate::http::Body;
use crate::{Arguments, Session, output, terminal};
use std::io::{self, BufRead, Read, Write};

const FLAGS: &[Flag] = &[
    flag(
        "password",
        'p',
        Text("string"),
        "Password or Personal Access Token (PAT)",
    ),
    long(
        "password-stdin",
        Bool,
        "Take the Password or Personal Access Token (PAT) from stdin",
    ),
    flag("username", 'u', Text("string"), "Username"),
];

pub const COMMAND: Command = Command {
    names: &["login"],
    usage: "[OPTIONS] [SERVER]",
    about: "Authenticate to a registry",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::AtMost(1),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let registry = server(arguments);
    let known = credentials::find(&session.config, &registry)?;
    let given = gather(arguments, known)?;
    let body = given.to_value(&registry);
    let answer = session.client.json("POST", "/auth", Body::Json(&body))?;
    let kept = Credentials {
        identity_token: answer.get("IdentityToken").text().to_owned(),
        ..given
    };
    if let Some(path) = credentials::store(&session.config, &registry, &kept)? {
        crate::output::tell!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to remove this \
             warning.\n",
            path.display()
        );
    }
    output::print_line(match answer.get("Status").text() {
        "" => "Login Succeeded",
        status => status,
    })?;
    Ok(0)
}

/// The registry that is meant, as the configuration file calls it.
pub fn server(arguments: &Arguments) -> String {
    let named = arguments.positional.first().map_or("", String::as_str);
    let host = named.split_once("://").map_or(named, |(_, rest)| rest);
    match host.trim_end_matches('/') {
        "" | "docker.io" | "index.docker.io" | "index.docker.io/v1" | "registry-1.docker.io" => {
            HUB.to_owned()
        }
        host => host.split('/').next().unwrap_or(host).to_owned(),
    }
}

fn gather(arguments: &Arguments, known: Option<Credentials>) -> Result<Credentials> {
    let username = arguments.text("username").unwrap_or_default();
    let password = arguments.text("password").unwrap_or_default();
    if arguments.is_set("password-stdin") {
        if !password.is_empty() {
            return Err(CliError::message(
                "--password and --password-stdin are mutually exclusive",
            ));
        }
        if username.is_empty() {
            return Err(CliError::message("Must provide --username with --password-stdin"));
        }
        let mut text = String::new();
        io::stdin()
            .read_to_string(&mut text)
            .map_err(CliError::Transport)?;
        return Ok(with_password(username, text.trim_end_matches(['\r', '\n'])));
    }
    if !password.is_empty() {
        crate::output::tell!("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
        if !username.is_empty() {
            return Ok(with_password(username, password));
        }
    } else if let (Some(known), true) = (known, username.is_empty()) {
        return Ok(known);
    }
    if !terminal::stdin_is_terminal() {
        return Err(CliError::message(
            "Error: Cannot perform an interactive login from a non TTY device",
        ));
    }
    let username = if username.is_empty() {
        ask("Username: ")?
    } else {
        username.to_owned()
    };
    let password = if password.is_empty() {
        let _quiet = terminal::Quiet::enter().map_err(CliError::Transport)?;
        let typed = ask("Password: ")?;
        crate::output::tell!();
        typed
    } else {
        password.to_owned()
    };
    if username.is_empty() || password.is_empty() {
        return Err(CliError::message("username and password are required"));
    }
    Ok(with_password(&username, &password))
}

fn with_password(username: &str, password: &str) -> Credentials {
    Credentials {
        username: username.to_owned(),
        password: password.to_owned(),
        ..Credentials::default()
    }
}

fn ask(prompt: &str) -> Result<String> {
    // Without a standard error nobody is asked; the answer may be there all the same.
    let _ = write!(io::stderr(), "{prompt}");
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(CliError::Transport)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
