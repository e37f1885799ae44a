//! `version`: of the client and of the daemon.

use super::{Arity, Command};
use crate::args::Kind::Text;
use crate::args::{Order, flag};
use crate::error::Result;
use crate::json::Value;
use crate::{Arguments, Session, output, table};

pub const COMMAND: Command = Command {
    names: &["version"],
    usage: "[OPTIONS]",
    about: "Show the version information",
    flags: &[&[flag(
        "format",
        'f',
        Text("string"),
        "Format output using a custom template",
    )]],
    order: Order::Mixed,
    arity: Arity::None,
    run,
};

/// What `--version` prints.
pub fn one_line(program: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    if program == "docker" {
        // Scripts look for Docker's own line.
        return format!("Docker version {version}, build naru");
    }
    format!("{program} version {version}")
}

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let server = session.client.get("/version");
    let client = Value::object([
        ("Version", Value::from(env!("CARGO_PKG_VERSION"))),
        ("ApiVersion", Value::from("1.51")),
        ("DefaultAPIVersion", Value::from("1.51")),
        ("Os", Value::from(std::env::consts::OS)),
        (
            "Arch",
            Value::from(if cfg!(target_arch = "x86_64") {
                "amd64"
            } else {
                std::env::consts::ARCH
            }),
        ),
        ("Context", Value::from("default")),
    ]);
    let known = match &server {
        Ok(server) => server.clone(),
        Err(_) => Value::Null,
    };
    let both = Value::object([("Client", client.clone()), ("Server", known)]);
    match arguments.text("format").filter(|format| !format.is_empty()) {
        Some("json") => output::print_line(&both.to_json())?,
        Some(format) => output::print_line(&table::render(&table::parse(format)?, &both)?)?,
        None => output::print(&describe(&both))?,
    }
    server.map(|_| 0)
}

fn describe(both: &Value) -> String {
    let mut text = String::new();
    for (title, side) in [("Client:", both.get("Client")), ("\nServer:", both.get("Server"))] {
        if side.is_null() {
            continue;
        }
        text.push_str(&format!("{title}\n"));
        for (name, key) in [
            ("Version", "Version"),
            ("API version", "ApiVersion"),
            ("Minimum API version", "MinAPIVersion"),
            ("Git commit", "GitCommit"),
            ("Built", "BuildTime"),
            ("Kernel", "KernelVersion"),
        ] {
            let value = side.get(key).text();
            if !value.is_empty() {
                text.push_str(&format!(" {:21}{value}\n", format!("{name}:")));
            }
        }
        text.push_str(&format!(
            " {:21}{}/{}\n",
            "OS/Arch:",
            side.get("Os").text(),
            side.get("Arch").text()
        ));
    }
    text
}
