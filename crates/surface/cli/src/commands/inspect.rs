//! `inspect` and its kin: what the daemon knows of a thing, as JSON or through a template.

use super::{Arity, Command};
use crate::args::Kind::{Bool, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::{CliError, Result};
use crate::http::{Query, escape_reference};
use crate::json::{Value, indent_json};
use crate::template::Template;
use crate::{Arguments, Session, output, table};

const FORMAT: Flag = flag(
    "format",
    'f',
    Text("string"),
    "Format output using a custom template",
);
const SIZE: Flag = flag(
    "size",
    's',
    Bool,
    "Display total file sizes if the type is container",
);
const TYPE: Flag = long("type", Text("string"), "Only inspect objects of the given type");
const PLATFORM: Flag = long(
    "platform",
    Text("string"),
    "Inspect a specific platform of the multi-platform image",
);
const VERBOSE: Flag = flag("verbose", 'v', Bool, "Verbose output for diagnostics");

pub const COMMAND: Command = Command {
    names: &["inspect"],
    usage: "[OPTIONS] NAME|ID [NAME|ID...]",
    about: "Return low-level information on Docker objects",
    flags: &[&[FORMAT, SIZE, TYPE]],
    order: Order::Mixed,
    arity: Arity::AtLeast(1),
    run: |session, arguments| inspect(session, arguments, arguments.text("type").unwrap_or_default()),
};
pub const CONTAINER: Command = Command {
    names: &["container inspect"],
    about: "Display detailed information on one or more containers",
    flags: &[&[FORMAT, SIZE]],
    run: |session, arguments| inspect(session, arguments, "container"),
    ..COMMAND
};
pub const IMAGE: Command = Command {
    names: &["image inspect"],
    about: "Display detailed information on one or more images",
    flags: &[&[FORMAT, PLATFORM]],
    run: |session, arguments| inspect(session, arguments, "image"),
    ..COMMAND
};
pub const VOLUME: Command = Command {
    names: &["volume inspect"],
    about: "Display detailed information on one or more volumes",
    flags: &[&[FORMAT]],
    run: |session, arguments| inspect(session, arguments, "volume"),
    ..COMMAND
};
pub const NETWORK: Command = Command {
    names: &["network inspect"],
    about: "Display detailed information on one or more networks",
    flags: &[&[FORMAT, VERBOSE]],
    run: |session, arguments| inspect(session, arguments, "network"),
    ..COMMAND
};

/// Kinds in the order in which `inspect` tries them.
const KINDS: [&str; 4] = ["container", "image", "network", "volume"];

fn inspect(session: &Session, arguments: &Arguments, kind: &str) -> Result<u8> {
    let kinds: &[&str] = match KINDS.iter().position(|known| *known == kind) {
        Some(at) => &KINDS[at..=at],
        None if kind.is_empty() => &KINDS,
        None => {
            return Err(CliError::message(format!(
                "{kind:?} is not a valid value for --type"
            )));
        }
    };
    let format = arguments.text("format").filter(|format| !format.is_empty());
    let template = format
        .filter(|format| *format != "json")
        .map(table::parse)
        .transpose()?;
    let mut shown = Vec::new();
    let mut errors = Vec::new();
    for name in &arguments.positional {
        let found = fetch(session, kinds, name, arguments);
        match found.and_then(|text| show(&text, template.as_ref())) {
            Ok(text) => shown.push(text),
            Err(error @ CliError::Connect { .. }) => return Err(error),
            Err(error) => errors.push(error),
        }
    }
    let text = match format {
        Some("json") => format!("[{}]\n", shown.join(",")),
        Some(_) => shown.iter().map(|text| format!("{text}\n")).collect(),
        None => format!("{}\n", indent_json(&format!("[{}]", shown.join(",")), "    ")),
    };
    output::print(&text)?;
    for error in &errors {
        crate::output::tell!("{error}");
    }
    Ok(u8::from(!errors.is_empty()))
}

fn show(text: &str, template: Option<&Template>) -> Result<String> {
    let Some(template) = template else {
        return Ok(text.trim().to_owned());
    };
    let value = Value::parse(text.as_bytes()).map_err(|error| CliError::Protocol(error.to_string()))?;
    table::render(template, &value)
}

/// What the daemon says of a name, as the first kind that knows it.
fn fetch(session: &Session, kinds: &[&str], name: &str, arguments: &Arguments) -> Result<String> {
    for kind in kinds {
        let name = escape_reference(name);
        let path = match *kind {
            "container" => Query::new(&format!("/containers/{name}/json"))
                .set_if(arguments.is_set("size"), "size", "1")
                .build(),
            "image" => Query::new(&format!("/images/{name}/json"))
                .set_some("platform", arguments.text("platform"))
                .build(),
            "network" => format!("/networks/{name}"),
            _ => format!("/volumes/{name}"),
        };
        match session.client.get_bytes(&path) {
            Ok(bytes) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.status() == Some(404) && kinds.len() > 1 => {}
            // A name that cannot be of one kind may be of the next.
            Err(error) if error.status() == Some(400) && kinds.len() > 1 => {}
            Err(error) => return Err(error),
        }
    }
    Err(CliError::message(format!("Error: No such object: {name}")))
}
