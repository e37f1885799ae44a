//! `network ls`.

use super::{Arity, Command};
use crate::args::Kind::{Bool, List, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::Result;
use crate::http::Query;
use crate::json::Value;
use crate::table::{self, Column};
use crate::{Arguments, Session};

const FLAGS: &[Flag] = &[
    flag(
        "filter",
        'f',
        List("filter"),
        "Provide filter values (e.g. \"driver=bridge\")",
    ),
    long("format", Text("string"), "Format output using a custom template"),
    long("no-trunc", Bool, "Do not truncate the output"),
    flag("quiet", 'q', Bool, "Only display network IDs"),
];

pub const LIST: Command = Command {
    names: &["network ls", "network list"],
    usage: "[OPTIONS]",
    about: "List networks",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::None,
    run,
};

const COLUMNS: &[Column] = &[
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("CreatedAt", "CREATED AT"),
];

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let path = Query::new("/networks")
        .set_some("filters", table::filters(arguments)?.as_deref())
        .build();
    let answer = session.client.get(&path)?;
    let mut networks: Vec<&Value> = answer.items().iter().collect();
    networks.sort_by(|left, right| left.get("Name").text().cmp(right.get("Name").text()));
    let full = arguments.is_set("no-trunc");
    let row = |network: &&Value| {
        let id = network.get("Id").text();
        let labels: Vec<String> = network
            .get("Labels")
            .entries()
            .iter()
            .map(|(key, value)| format!("{key}={}", value.text()))
            .collect();
        let fact = |key: &str| Value::Text(network.get(key).is_true().to_string());
        Value::object([
            (
                "ID",
                Value::from(if full { id } else { id.get(..12).unwrap_or(id) }),
            ),
            ("Name", network.get("Name").clone()),
            ("Driver", network.get("Driver").clone()),
            ("Scope", network.get("Scope").clone()),
            ("IPv6", fact("EnableIPv6")),
            ("Internal", fact("Internal")),
            ("Labels", Value::Text(labels.join(","))),
            ("CreatedAt", network.get("Created").clone()),
        ])
    };
    let rows: Vec<Value> = networks.iter().map(row).collect();
    if arguments.is_set("quiet") && arguments.text("format").is_none() {
        table::print_field(&rows, "ID")?;
        return Ok(0);
    }
    table::print_rows(
        arguments.text("format"),
        COLUMNS,
        &["ID", "Name", "Driver", "Scope"],
        rows,
    )?;
    Ok(0)
}
