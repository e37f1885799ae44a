//! `image explore`: layers, files and wasted bytes of an image; for people, and with a limit for CI.

use super::{Arity, Command};
use crate::args::Kind::{Bool, Int, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::{CliError, Result};
use crate::explore::analysis::{Change, LayerReport, Report, Touched, analyse};
use crate::explore::archive::{Look, read_image};
use crate::http::{Body, escape_reference};
use crate::json::{Value, indent_json};
use crate::{Arguments, Session, output, table, units};

const FLAGS: &[Flag] = &[
    flag(
        "files",
        'f',
        Bool,
        "Show what each layer adds, replaces and removes",
    ),
    long(
        "format",
        Text("string"),
        "\"json\", or a template for the same object",
    ),
    flag(
        "layer",
        'l',
        Int,
        "Show this layer alone, counted from 1 at the bottom",
    ),
    long(
        "path",
        Text("string"),
        "Show what lies at or below this path alone",
    ),
    flag("top", 'n', Int, "How many wasted paths to show (default 10)"),
    long(
        "wasted-max",
        Text("limit"),
        "Exit with 1 when more is wasted: bytes (20MB) or a share (5%)",
    ),
];

pub const COMMAND: Command = Command {
    names: &["image explore"],
    usage: "[OPTIONS] IMAGE",
    about: "Show an image's layers and files, and what of it is wasted",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::Exactly(1),
    run,
};

const TOP_DEFAULT: usize = 10;

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let limit = arguments.text("wasted-max").map(parse_limit).transpose()?;
    let image = &arguments.positional[0];
    let path = format!("/images/{}/get", escape_reference(image));
    let image_read = read_image(session.client.send("GET", &path, Body::Empty)?, Look::Names)?;
    let report = analyse(image_read.layers);
    let view = View::new(arguments, &report)?;
    let text = match arguments.text("format").filter(|format| !format.is_empty()) {
        None => view.text(image),
        Some("json") => indent_json(&view.json(image).to_json(), "  ") + "\n",
        Some(template) => table::render(&table::parse(template)?, &view.json(image))? + "\n",
    };
    output::print(&text)?;
    match limit {
        Some(limit) if limit.is_exceeded(&report) => {
            crate::output::tell!(
                "{} of {image} are wasted ({:.1}%), more than --wasted-max {}",
                units::human_size(report.wasted_bytes as f64),
                report.wasted_percent(),
                arguments.text("wasted-max").unwrap_or_default()
            );
            Ok(1)
        }
        _ => Ok(0),
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Limit {
    Bytes(u64),
    Percent(f64),
}

impl Limit {
    fn is_exceeded(self, report: &Report) -> bool {
        match self {
            Self::Bytes(limit) => report.wasted_bytes > limit,
            Self::Percent(limit) => report.wasted_percent() > limit,
        }
    }
}

fn parse_limit(text: &str) -> Result<Limit> {
    let wrong = || {
        CliError::message(format!(
            "--wasted-max: {text:?} is neither a size (20MB) nor a share (5%)"
        ))
    };
    if let Some(share) = text.strip_suffix('%') {
        let share = share
            .trim()
            .parse::<f64>()
            .ok()
            .filter(|share| (0.0..=100.0).contains(share));
        return share.map(Limit::Percent).ok_or_else(wrong);
    }
    let bytes = units::parse_ram_bytes(text)
        .ok()
        .and_then(|bytes| u64::try_from(bytes).ok());
    bytes.map(Limit::Bytes).ok_or_else(wrong)
}

/// The part of a report that was asked for.
struct View<'a> {
    report: &'a Report,
    layers: Vec<(usize, &'a LayerReport)>,
    path: String,
    with_files: bool,
    top: usize,
}

impl<'a> View<'a> {
    fn new(arguments: &Arguments, report: &'a Report) -> Result<Self> {
        let mut layers: Vec<(usize, &LayerReport)> = report
            .layers
            .iter()
            .enumerate()
            .map(|(at, layer)| (at + 1, layer))
            .collect();
        if let Some(wanted) = arguments.int("layer") {
            layers.retain(|(number, _)| i64::try_from(*number) == Ok(wanted));
            if layers.is_empty() {
                return Err(CliError::message(format!(
                    "--layer: the image has layers 1 to {}, not {wanted}",
                    report.layers.len()
                )));
            }
        }
        Ok(Self {
            report,
            layers,
            path: arguments
                .text("path")
                .unwrap_or_default()
                .trim_matches('/')
                .to_owned(),
            with_files: arguments.is_set("files")
                || arguments.is_given("layer")
                || arguments.is_given("path"),
            top: arguments
                .int("top")
                .and_then(|top| usize::try_from(top).ok())
                .unwrap_or(TOP_DEFAULT),
        })
    }

    fn shows(&self, path: &str) -> bool {
        let rest = path.strip_prefix(&self.path);
        rest.is_some_and(|rest| self.path.is_empty() || rest.is_empty() || rest.starts_with('/'))
    }

    fn touched(&self, layer: &'a LayerReport) -> impl Iterator<Item = &'a Touched> {
        layer.touched.iter().filter(|touched| self.shows(&touched.path))
    }

    fn text(&self, image: &str) -> String {
        let size = |bytes: u64| units::human_size(bytes as f64);
        let report = self.report;
        let mut text = format!(
            "Image    {image}\nSize     {} of files in {} layers\nWasted   {} ({:.1}%)\n\n",
            size(report.bytes),
            report.layers.len(),
            size(report.wasted_bytes),
            report.wasted_percent()
        );
        let heading = [
            "LAYER",
            "SIZE",
            "WASTED",
            "ADDED",
            "REPLACED",
            "REMOVED",
            "CREATED BY",
        ];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        rows.extend(self.layers.iter().map(|(number, layer)| {
            let count = |change| {
                layer
                    .touched
                    .iter()
                    .filter(|one| one.change == change)
                    .count()
                    .to_string()
            };
            vec![
                number.to_string(),
                size(layer.bytes),
                size(layer.hidden_bytes),
                count(Change::Added),
                count(Change::Replaced),
                count(Change::Removed),
                shorten(&layer.created_by),
            ]
        }));
        text += &table::align(&rows);
        if self.with_files {
            text += &self.files_text();
        }
        let wasted: Vec<Vec<String>> = report
            .wasted
            .iter()
            .filter(|wasted| self.shows(&wasted.path))
            .take(self.top)
            .map(|wasted| vec![size(wasted.bytes), wasted.copies.to_string(), clean(&wasted.path)])
            .collect();
        if !wasted.is_empty() {
            let mut rows = vec![["WASTED", "LAYERS", "PATH"].map(str::to_owned).to_vec()];
            rows.extend(wasted);
            text = text + "\n" + &table::align(&rows);
        }
        text
    }

    fn files_text(&self) -> String {
        let mut text = String::new();
        for (number, layer) in &self.layers {
            text += &format!("\nLayer {number}\n");
            let mut rows: Vec<Vec<String>> = self
                .touched(layer)
                .map(|one| {
                    let hidden = if one.is_hidden { " (hidden later)" } else { "" };
                    let size = units::human_size(one.bytes as f64);
                    vec![mark(one.change).to_owned(), size, clean(&one.path) + hidden]
                })
                .collect();
            rows.sort_by(|left, right| left[2].cmp(&right[2]));
            text += &table::align_to(&rows, 4);
        }
        text
    }

    fn json(&self, image: &str) -> Value {
        let number = |bytes: u64| Value::Integer(i64::try_from(bytes).unwrap_or(i64::MAX));
        let file = |one: &Touched| {
            Value::object([
                ("Path", Value::from(one.path.as_str())),
                ("Change", Value::from(word(one.change))),
                ("Size", number(one.bytes)),
                ("Hidden", Value::Bool(one.is_hidden)),
            ])
        };
        let layers = self.layers.iter().map(|(at, layer)| {
            let mut entries = vec![
                ("Layer".to_owned(), number(*at as u64)),
                ("DiffID".to_owned(), Value::from(layer.digest.as_str())),
                ("CreatedBy".to_owned(), Value::from(layer.created_by.as_str())),
                ("Size".to_owned(), number(layer.bytes)),
                ("WastedSize".to_owned(), number(layer.hidden_bytes)),
            ];
            if self.with_files {
                entries.push((
                    "Files".to_owned(),
                    Value::List(self.touched(layer).map(file).collect()),
                ));
            }
            Value::Map(entries)
        });
        let wasted = self
            .report
            .wasted
            .iter()
            .filter(|wasted| self.shows(&wasted.path))
            .map(|wasted| {
                Value::object([
                    ("Path", Value::from(wasted.path.as_str())),
                    ("Size", number(wasted.bytes)),
                    ("Layers", number(wasted.copies as u64)),
                ])
            });
        Value::object([
            ("Image", Value::from(image)),
            ("Size", number(self.report.bytes)),
            ("WastedSize", number(self.report.wasted_bytes)),
            (
                "WastedPercent",
                Value::Float((self.report.wasted_percent() * 100.0).round() / 100.0),
            ),
            ("Layers", Value::List(layers.collect())),
            ("Wasted", Value::List(wasted.collect())),
        ])
    }
}

fn mark(change: Change) -> &'static str {
    match change {
        Change::Added => "+",
        Change::Replaced => "~",
        Change::Removed => "-",
    }
}

fn word(change: Change) -> &'static str {
    match change {
        Change::Added => "added",
        Change::Replaced => "replaced",
        Change::Removed => "removed",
    }
}

/// An instruction in a column.
fn shorten(text: &str) -> String {
    const COLUMNS: usize = 60;
    let line = clean(&text.split_whitespace().collect::<Vec<_>>().join(" "));
    if line.chars().count() <= COLUMNS {
        return line;
    }
    line.chars().take(COLUMNS - 1).collect::<String>() + "…"
}

/// What an image says must not move the terminal's cursor.
fn clean(text: &str) -> String {
    text.chars()
        .map(|character| {
            if character.is_control() {
                '\u{fffd}'
            } else {
                character
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_sizes_or_shares() {
        assert_eq!(parse_limit("5%").unwrap(), Limit::Percent(5.0));
        assert_eq!(parse_limit("2k").unwrap(), Limit::Bytes(2048));
        for text in ["", "much", "101%", "-1", "%"] {
            assert!(parse_limit(text).is_err(), "{text:?}");
        }
    }
}
