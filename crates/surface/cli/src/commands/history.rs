//! `history`: the layers of an image.

use super::{Arity, Command};
use crate::args::Kind::{Bool, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::Result;
use crate::http::{Query, escape_reference};
use crate::json::Value;
use crate::table::{self, Column};
use crate::{Arguments, Session, units};

const FLAGS: &[Flag] = &[
    long("format", Text("string"), "Format output using a custom template"),
    flag(
        "human",
        'H',
        Bool,
        "Print sizes and dates in human readable format (default true)",
    ),
    long("platform", Text("string"), "Show history for the given platform"),
    long("no-trunc", Bool, "Don't truncate output"),
    flag("quiet", 'q', Bool, "Only show image IDs"),
];

pub const COMMAND: Command = Command {
    names: &["image history", "history"],
    usage: "[OPTIONS] IMAGE",
    about: "Show the history of an image",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::Exactly(1),
    run,
};

const COLUMNS: &[Column] = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let path = format!("/images/{}/history", escape_reference(&arguments.positional[0]));
    let path = Query::new(&path).set_some("platform", arguments.text("platform"));
    let history = session.client.get(&path.build())?;
    let full = arguments.is_set("no-trunc");
    let human = arguments.bool("human").unwrap_or(true);
    let rows: Vec<Value> = history
        .items()
        .iter()
        .map(|layer| row(layer, full, human))
        .collect();
    if arguments.is_set("quiet") && arguments.text("format").is_none() {
        table::print_field(&rows, "ID")?;
        return Ok(0);
    }
    let created = if human { "CreatedSince" } else { "CreatedAt" };
    table::print_rows(
        arguments.text("format"),
        COLUMNS,
        &["ID", created, "CreatedBy", "Size", "Comment"],
        rows,
    )?;
    Ok(0)
}

fn row(layer: &Value, full: bool, human: bool) -> Value {
    const COMMAND_CHARS_MAX: usize = 45;
    let id = layer.get("Id").text();
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    let created = layer.get("Created").integer();
    let command = layer.get("CreatedBy").text().replace('\t', " ");
    let command = if full || command.chars().count() <= COMMAND_CHARS_MAX {
        command
    } else {
        command.chars().take(COMMAND_CHARS_MAX - 1).collect::<String>() + "…"
    };
    let size = layer.get("Size");
    let time = naru_base::Timestamp::from_parts(created, 0).to_string();
    Value::object([
        (
            "ID",
            Value::from(if full { id } else { hex.get(..12).unwrap_or(hex) }),
        ),
        ("CreatedSince", Value::Text(units::human_age(created))),
        ("CreatedAt", Value::Text(format!("{}Z", &time[..19]))),
        ("CreatedBy", Value::Text(command)),
        (
            "Size",
            Value::Text(if human {
                units::human_size(size.float())
            } else {
                size.integer().to_string()
            }),
        ),
        ("Comment", layer.get("Comment").clone()),
    ])
}
