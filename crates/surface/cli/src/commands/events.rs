//! `events`: what happens, as it happens.

use super::{Arity, Command};
use crate::args::Kind::{List, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::{CliError, Result};
use crate::http::{Body, Query};
use crate::json::Value;
use crate::{Arguments, Session, output, table, units};
use std::io::{BufRead, BufReader};

const FLAGS: &[Flag] = &[
    flag(
        "filter",
        'f',
        List("filter"),
        "Filter output based on conditions provided",
    ),
    long("format", Text("string"), "Format output using a custom template"),
    long("since", Text("string"), "Show all events created since timestamp"),
    long("until", Text("string"), "Stream events until this timestamp"),
];

pub const COMMAND: Command = Command {
    names: &["system events", "events"],
    usage: "[OPTIONS]",
    about: "Get real time events from the server",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::None,
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let moment = |flag: &str| {
        arguments
            .text(flag)
            .map(units::parse_moment)
            .transpose()
            .map_err(CliError::Message)
    };
    let path = Query::new("/events")
        .set_some("since", moment("since")?.as_deref())
        .set_some("until", moment("until")?.as_deref())
        .set_some("filters", table::filters(arguments).as_deref())
        .build();
    let format = arguments.text("format").filter(|format| !format.is_empty());
    let template = format
        .filter(|format| *format != "json")
        .map(table::parse)
        .transpose()?;
    let response = session.client.send("GET", &path, Body::Empty)?;
    for line in BufReader::new(response).lines() {
        let line = line.map_err(CliError::Transport)?;
        if line.trim().is_empty() {
            continue;
        }
        let event = Value::parse(line.as_bytes()).map_err(|error| CliError::Protocol(error.to_string()))?;
        let text = match &template {
            Some(template) => table::render(template, &event)?,
            None if format.is_some() => event.to_json(),
            None => describe(&event),
        };
        output::print_line(&text)?;
    }
    Ok(0)
}

fn describe(event: &Value) -> String {
    let nanoseconds = event.get("timeNano").integer();
    let time = naru_base::Timestamp::from_parts(
        nanoseconds.div_euclid(1_000_000_000),
        nanoseconds.rem_euclid(1_000_000_000) as i32,
    );
    let time = time.to_string().replace('Z', "+00:00");
    let mut attributes: Vec<String> = event
        .at(&["Actor", "Attributes"])
        .entries()
        .iter()
        .map(|(key, value)| format!("{key}={}", value.text()))
        .collect();
    attributes.sort();
    let attributes = if attributes.is_empty() {
        String::new()
    } else {
        format!(" ({})", attributes.join(", "))
    };
    let text = |key: &str| event.get(key).text();
    format!(
        "{time} {} {} {}{attributes}",
        text("Type"),
        text("Action"),
        event.at(&["Actor", "ID"]).text()
    )
}
