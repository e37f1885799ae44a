//! `why`: why a container ended, was restarted or did not start, as it was recorded when it happened.

use super::{Arity, Command};
use crate::args::Kind::Text;
use crate::args::{Order, flag};
use crate::error::{CliError, Result};
use crate::http::escape;
use crate::json::Value;
use crate::{Arguments, Session, output, table};

pub const COMMAND: Command = Command {
    names: &["container why", "why"],
    usage: "[OPTIONS] CONTAINER",
    about: "Tell why a container ended, was restarted or did not start",
    flags: &[&[flag(
        "format",
        'f',
        Text("string"),
        "Format output: json, or a Go template",
    )]],
    order: Order::Mixed,
    arity: Arity::Exactly(1),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let path = format!("/naru/containers/{}/why", escape(&arguments.positional[0]));
    let bytes = session.client.get_bytes(&path)?;
    let text = match arguments.text("format").filter(|format| !format.is_empty()) {
        Some("json") => String::from_utf8_lossy(&bytes).trim_end().to_owned(),
        Some(format) => table::render(&table::parse(format)?, &parse(&bytes)?)?,
        None => tell(&parse(&bytes)?),
    };
    output::print(&format!("{text}\n"))?;
    Ok(0)
}

fn parse(bytes: &[u8]) -> Result<Value> {
    Value::parse(bytes).map_err(|error| CliError::Protocol(error.to_string()))
}

/// The sentence that sums it up, then the others.
fn tell(view: &Value) -> String {
    let details = view.get("Details");
    let sentences = details.items().iter().map(Value::text);
    let all: Vec<&str> = std::iter::once(view.get("Summary").text())
        .chain(sentences)
        .collect();
    all.join("\n")
}
