//! `image sbom`: the packages in an image, as a table or as an SPDX document.

use super::{Arity, Command, export, image_provenance};
use crate::args::Kind::Text;
use crate::args::{Flag, Order, flag, long};
use crate::error::Result;
use crate::explore::archive::{Look, read_image};
use crate::explore::packages::{Installed, installed};
use crate::http::{Body, escape_reference};
use crate::json::{Value, indent_json};
use crate::table::{self, Column};
use crate::{Arguments, Session};
use naru_sbom::{Package, spdx};

const FLAGS: &[Flag] = &[
    long(
        "format",
        Text("string"),
        "\"spdx-json\", \"json\", \"table\", or a template for each package",
    ),
    flag(
        "output",
        'o',
        Text("string"),
        "Write an SPDX document to a file, instead of STDOUT",
    ),
];

pub const COMMAND: Command = Command {
    names: &["image sbom", "sbom"],
    usage: "[OPTIONS] IMAGE",
    about: "List the packages in an image, for people or as an SPDX document",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::Exactly(1),
    run,
};

/// The type of an attested list of packages.
const SPDX: &str = "https://spdx.dev/Document";

const COLUMNS: &[Column] = &[
    ("Name", "NAME"),
    ("Version", "VERSION"),
    ("Type", "TYPE"),
    ("License", "LICENSE"),
    ("PURL", "PURL"),
];

const DEFAULT: &[&str] = &["Name", "Version", "Type"];

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let name = &arguments.positional[0];
    let output = arguments.text("output").filter(|path| !path.is_empty());
    let format = arguments.text("format").filter(|format| !format.is_empty());
    let is_document = matches!(format, Some("spdx-json" | "spdx")) || (format.is_none() && output.is_some());
    // What is attested is what others see of the image.
    if is_document && let Some(attested) = image_provenance::attested(session, name, SPDX)? {
        let text = indent_json(&attested.to_json(), "  ") + "\n";
        return export::save(text.as_bytes(), output);
    }
    let path = format!("/images/{}/get", escape_reference(name));
    let image = read_image(session.client.send("GET", &path, Body::Empty)?, Look::Packages)?;
    let (digest, created) = (image.digest, image.created);
    let found = installed(image.layers);
    if !is_document {
        let rows = found.packages.iter().map(|package| row(package, &found));
        table::print_rows(format, COLUMNS, DEFAULT, rows.collect())?;
        return Ok(0);
    }
    let subject = spdx::Subject {
        name,
        digest: &digest,
        created: &created,
        distribution: found.distribution.as_ref(),
    };
    export::save(spdx::document(subject, &found.packages).as_bytes(), output)
}

fn row(package: &Package, found: &Installed) -> Value {
    let text = |text: &str| Value::Text(text.to_owned());
    Value::Map(vec![
        ("Name".into(), text(&package.name)),
        ("Version".into(), text(&package.version)),
        ("Type".into(), text(package.ecosystem.purl_type())),
        (
            "License".into(),
            text(package.license.as_deref().unwrap_or_default()),
        ),
        (
            "PURL".into(),
            Value::Text(spdx::package_url(package, found.distribution.as_ref())),
        ),
    ])
}
