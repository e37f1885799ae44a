//! `images`: lists images.

use super::image_tree;
use super::ps::local_time;
use super::{Arity, Command};
use crate::args::Kind::{Bool, List, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::Result;
use crate::http::Query;
use crate::json::Value;
use crate::table::{self, Column};
use crate::{Arguments, Session, reference, units};

const FLAGS: &[Flag] = &[
    flag(
        "all",
        'a',
        Bool,
        "Show all images (default hides intermediate images)",
    ),
    long("digests", Bool, "Show digests"),
    flag(
        "filter",
        'f',
        List("filter"),
        "Filter output based on conditions provided",
    ),
    long("format", Text("string"), "Format output using a custom template"),
    long("no-trunc", Bool, "Don't truncate output"),
    flag("quiet", 'q', Bool, "Only show image IDs"),
    long(
        "tree",
        Bool,
        "List each image with its names, its platform and what it has to itself",
    ),
];

pub const COMMAND: Command = Command {
    names: &["image ls", "image list", "images"],
    usage: "[OPTIONS] [REPOSITORY[:TAG]]",
    about: "List images",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::AtMost(1),
    run,
};

pub const COLUMNS: &[Column] = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("VirtualSize", "VIRTUAL SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
];

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let mut filters = table::filter_entries(arguments);
    if let Some(name) = arguments.positional.first() {
        filters.push(("reference".to_owned(), Value::from(vec![name.clone()])));
    }
    let filters = (!filters.is_empty()).then(|| Value::Map(filters).to_json());
    let path = Query::new("/images/json")
        .set_if(arguments.is_set("all"), "all", "1")
        .set_some("filters", filters.as_deref())
        .build();
    if arguments.is_set("tree") {
        return image_tree::print(session, arguments, &path);
    }
    let images = session.client.get(&path)?;
    let full = arguments.is_set("no-trunc");
    let format = arguments.text("format");
    let digests = arguments.is_set("digests") || format.is_some_and(|format| format.contains(".Digest"));
    let rows: Vec<Value> = images
        .items()
        .iter()
        .flat_map(|image| rows(image, full, digests))
        .collect();
    if arguments.is_set("quiet") && format.is_none() {
        table::print_field(&rows, "ID")?;
        return Ok(0);
    }
    let shown: &[&str] = if arguments.is_set("digests") {
        &["Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"]
    } else {
        &["Repository", "Tag", "ID", "CreatedSince", "Size"]
    };
    table::print_rows(format, COLUMNS, shown, rows)?;
    Ok(0)
}

/// One row for each name of an image, or one without a name.
pub fn rows(image: &Value, full: bool, digests: bool) -> Vec<Value> {
    const NONE: &str = "<none>";
    let texts = |key: &str| {
        image
            .get(key)
            .items()
            .iter()
            .map(Value::text)
            .filter(|text| !text.starts_with(NONE))
            .collect()
    };
    let (tags, by_digest): (Vec<&str>, Vec<&str>) = (texts("RepoTags"), texts("RepoDigests"));
    let digest_of = |name: &str| {
        by_digest
            .iter()
            .filter_map(|text| text.split_once('@'))
            .find(|(owner, _)| *owner == name)
            .map_or(NONE, |pair| pair.1)
    };
    let mut rows: Vec<Value> = tags
        .iter()
        .map(|tag| {
            let (name, tag) = reference::split_tag(tag);
            row(image, name, tag.unwrap_or(NONE), digest_of(name), full)
        })
        .collect();
    if rows.is_empty() {
        let name = by_digest.first().and_then(|text| text.split_once('@'));
        let (name, digest) = name.unwrap_or((NONE, NONE));
        rows.push(row(image, name, NONE, if digests { digest } else { NONE }, full));
    }
    rows
}

fn row(image: &Value, name: &str, tag: &str, digest: &str, full: bool) -> Value {
    let id = image.get("Id").text();
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    let created = image.get("Created").integer();
    let size = units::human_size(image.get("Size").float());
    // Only `system df` counts it.
    let shared = Some(image.get("SharedSize"))
        .filter(|size| !size.is_null())
        .map(Value::float);
    let shared = shared.filter(|size| *size >= 0.0);
    let counted = |key: &str| match image.get(key).integer() {
        number if number < 0 || image.get(key).is_null() => Value::from("N/A"),
        number => Value::Text(number.to_string()),
    };
    Value::object([
        (
            "ID",
            Value::from(if full { id } else { hex.get(..12).unwrap_or(hex) }),
        ),
        ("Repository", Value::from(name)),
        ("Tag", Value::from(tag)),
        ("Digest", Value::from(digest)),
        (
            "CreatedSince",
            Value::Text(if created > 0 {
                units::human_age(created)
            } else {
                "N/A".to_owned()
            }),
        ),
        ("CreatedAt", Value::Text(local_time(created))),
        ("Size", Value::Text(size)),
        ("Containers", counted("Containers")),
        (
            "VirtualSize",
            Value::Text(units::precise_size(image.get("Size").float())),
        ),
        (
            "SharedSize",
            Value::Text(shared.map_or_else(|| "N/A".to_owned(), units::precise_size)),
        ),
        (
            "UniqueSize",
            Value::Text(shared.map_or_else(
                || "N/A".to_owned(),
                |shared| units::precise_size(image.get("Size").float() - shared),
            )),
        ),
    ])
}
