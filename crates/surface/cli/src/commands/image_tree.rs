//! `images --tree`: each image once, with all its names; below it its platform, as the only one an image here has.

use crate::error::{CliError, Result};
use crate::http::escape_reference;
use crate::json::Value;
use crate::table::{self, Column};
use crate::{Arguments, Session, units};

const COLUMNS: &[Column] = &[
    ("Image", "IMAGE"),
    ("ID", "ID"),
    ("DiskUsage", "DISK USAGE"),
    ("InUse", "IN USE"),
];
const SHOWN: [&str; 4] = ["Image", "ID", "DiskUsage", "InUse"];

/// `path` is that of the list, with its filters.
pub fn print(session: &Session, arguments: &Arguments, path: &str) -> Result<u8> {
    for other in ["quiet", "no-trunc", "digests", "format"] {
        if arguments.is_given(other) {
            return Err(CliError::Message(format!(
                "--{other} is not yet supported with --tree"
            )));
        }
    }
    let images = session.client.get(path)?;
    let mut rows = Vec::new();
    for image in images.items() {
        let inspected = format!("/images/{}/json", escape_reference(image.get("Id").text()));
        match session.client.get(&inspected) {
            Ok(details) => rows.extend(rows_of(image, &details)),
            // It was removed meanwhile.
            Err(error) if error.status() == Some(404) => {}
            Err(error) => return Err(error),
        }
    }
    table::print_rows(None, COLUMNS, &SHOWN, rows)?;
    Ok(0)
}

fn rows_of(image: &Value, details: &Value) -> [Value; 2] {
    let id = image.get("Id").text();
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    let short = hex.get(..12).unwrap_or(hex);
    let names: Vec<&str> = image
        .get("RepoTags")
        .items()
        .iter()
        .map(Value::text)
        .filter(|name| *name != "<none>:<none>")
        .collect();
    let names = if names.is_empty() {
        "<untagged>".to_owned()
    } else {
        names.join(", ")
    };
    let platform: Vec<&str> = ["Os", "Architecture", "Variant"]
        .iter()
        .map(|key| details.get(key).text())
        .filter(|part| !part.is_empty())
        .collect();
    let size = units::human_size(image.get("Size").float());
    let in_use = if image.get("Containers").integer() > 0 {
        "yes"
    } else {
        ""
    };
    let row = |name: String| {
        Value::object([
            ("Image", Value::Text(name)),
            ("ID", Value::from(short)),
            ("DiskUsage", Value::Text(size.clone())),
            ("InUse", Value::from(in_use)),
        ])
    };
    [row(names), row(format!("└─ {}", platform.join("/")))]
}
