//! `search`: repositories of a registry.

use super::{Arity, Command};
use crate::args::Kind::{Bool, Int, List, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::Result;
use crate::http::{Body, Query};
use crate::json::Value;
use crate::table::{self, Column};
use crate::{Arguments, Session, credentials};

const FLAGS: &[Flag] = &[
    flag(
        "filter",
        'f',
        List("filter"),
        "Filter output based on conditions provided",
    ),
    long(
        "format",
        Text("string"),
        "Pretty-print search using a Go template",
    ),
    long("limit", Int, "Max number of search results"),
    long("no-trunc", Bool, "Don't truncate output"),
];

pub const COMMAND: Command = Command {
    names: &["search"],
    usage: "[OPTIONS] TERM",
    about: "Search Docker Hub for images",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::Exactly(1),
    run,
};

const COLUMNS: &[Column] = &[
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("StarCount", "STARS"),
    ("IsOfficial", "OFFICIAL"),
    ("IsAutomated", "AUTOMATED"),
];

/// Docker's client shortens descriptions to this.
const DESCRIPTION_CHARACTERS_MAX: usize = 45;

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let term = &arguments.positional[0];
    let filters = table::filters(arguments);
    let path = Query::new("/images/search")
        .set("term", term)
        .set_some("limit", arguments.text("limit"))
        .set_some("filters", filters.as_deref())
        .build();
    let header = credentials::header_for(&session.config, term)?;
    let found = session.client.json("GET", &path, Body::Credentials(&header))?;
    let is_whole = arguments.is_set("no-trunc");
    let rows: Vec<Value> = found.items().iter().map(|one| row(one, is_whole)).collect();
    let columns = &["Name", "Description", "StarCount", "IsOfficial"];
    table::print_rows(arguments.text("format"), COLUMNS, columns, rows)?;
    Ok(0)
}

fn row(one: &Value, is_whole: bool) -> Value {
    let text = one.get("description").text().replace(['\n', '\r'], " ");
    let description = if is_whole || text.chars().count() <= DESCRIPTION_CHARACTERS_MAX {
        text
    } else {
        let short: String = text.chars().take(DESCRIPTION_CHARACTERS_MAX - 1).collect();
        format!("{short}…")
    };
    let mark = |key: &str| Value::from(if one.get(key).is_true() { "[OK]" } else { "" });
    Value::object([
        ("Name", Value::from(one.get("name").text())),
        ("Description", Value::from(description)),
        (
            "StarCount",
            Value::from(one.get("star_count").integer().to_string()),
        ),
        ("IsOfficial", mark("is_official")),
        ("IsAutomated", mark("is_automated")),
    ])
}
