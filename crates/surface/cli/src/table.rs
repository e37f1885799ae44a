//! Listings: Docker's tables, and the same rows through `--format`.

use crate::error::{CliError, Result};
use crate::json::Value;
use crate::output;
use crate::template::Template;

/// Least width of a column and the space between two, as Docker's tables have them.
const COLUMN_WIDTH_MIN: usize = 10;
const COLUMN_SPACE: usize = 3;

/// What a listing can show: the name of a field and its heading.
pub type Column = (&'static str, &'static str);

/// Cells in columns; the last column is not padded.
pub fn align(rows: &[Vec<String>]) -> String {
    align_to(rows, COLUMN_WIDTH_MIN)
}

/// As [`align`], with another least width.
pub fn align_to(rows: &[Vec<String>], width_min: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|at| {
            let widest = rows
                .iter()
                .filter(|row| row.len() > at + 1)
                .map(|row| row[at].chars().count())
                .max();
            (widest.unwrap_or(0) + COLUMN_SPACE).max(width_min)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        for (at, cell) in row.iter().enumerate() {
            if at + 1 == row.len() {
                text.push_str(cell);
            } else {
                let width = widths[at];
                text.push_str(&format!("{cell:width$}"));
            }
        }
        text.push('\n');
    }
    text
}

/// Prints rows as the `--format` says: a table of the default columns, `table TEMPLATE`, `json` or a template for each.
pub fn print_rows(format: Option<&str>, all: &[Column], default: &[&str], rows: Vec<Value>) -> Result<()> {
    let text = match format.filter(|format| !format.is_empty() && *format != "table") {
        None => default_table(all, default, &rows),
        Some("json" | "{{json .}}") => rows
            .into_iter()
            .map(|row| sorted(row).to_escaped_json() + "\n")
            .collect(),
        Some(format) => {
            if let Some(template) = format.strip_prefix("table ") {
                templated_table(all, template, &rows)?
            } else {
                let template = parse(format)?;
                let lines = rows
                    .into_iter()
                    .map(|row| render(&template, &sorted(row)).map(|text| text + "\n"));
                lines.collect::<Result<_>>()?
            }
        }
    };
    output::print(&text)
}

fn default_table(all: &[Column], default: &[&str], rows: &[Value]) -> String {
    let heading = |name: &&str| {
        all.iter()
            .find(|column| column.0 == *name)
            .map_or("", |column| column.1)
            .to_owned()
    };
    let mut cells = vec![default.iter().map(heading).collect::<Vec<String>>()];
    cells.extend(rows.iter().map(|row| {
        default
            .iter()
            .map(|name| row.get(name).text().to_owned())
            .collect()
    }));
    align(&cells)
}

fn templated_table(all: &[Column], template: &str, rows: &[Value]) -> Result<String> {
    let template = parse(template)?;
    let headings = Value::object(all.iter().map(|(name, heading)| (*name, Value::from(*heading))));
    let mut lines = render(&template, &headings)? + "\n";
    for row in rows {
        lines.push_str(&(render(&template, row)? + "\n"));
    }
    let cells: Vec<Vec<String>> = lines
        .lines()
        .map(|line| line.split('\t').map(str::to_owned).collect())
        .collect();
    Ok(align(&cells))
}

pub fn parse(format: &str) -> Result<Template> {
    let format = format.replace("\\t", "\t").replace("\\n", "\n");
    Template::parse(&format)
        .map_err(|error| CliError::message(format!("template parsing error: template: :1: {error}")))
}

pub fn render(template: &Template, data: &Value) -> Result<String> {
    template
        .render(data)
        .map_err(|error| CliError::message(format!("template parsing error: template: :1: {error}")))
}

/// With its keys in order, as Go writes a map.
fn sorted(mut row: Value) -> Value {
    if let Value::Map(entries) = &mut row {
        entries.sort_by(|left, right| left.0.cmp(&right.0));
    }
    row
}

/// Prints one field of each row, for `--quiet`.
pub fn print_field(rows: &[Value], name: &str) -> Result<()> {
    let lines: String = rows
        .iter()
        .map(|row| format!("{}\n", row.get(name).text()))
        .collect();
    output::print(&lines)
}

/// Turns the `--filter` flags into the API's JSON; `None` without any.
pub fn filters(arguments: &crate::Arguments) -> Option<String> {
    let entries = filter_entries(arguments);
    (!entries.is_empty()).then(|| Value::Map(entries).to_json())
}

/// The `--filter` flags by key.
pub fn filter_entries(arguments: &crate::Arguments) -> Vec<(String, Value)> {
    let mut entries: Vec<(String, Value)> = Vec::new();
    for (key, value) in arguments.list("filter").filter_map(|text| text.split_once('=')) {
        let key = key.trim().to_ascii_lowercase();
        match entries.iter_mut().find(|(name, _)| *name == key) {
            Some((_, Value::List(values))) => values.push(Value::from(value)),
            _ => entries.push((key, Value::List(vec![Value::from(value)]))),
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_as_docker_aligns_them() {
        let rows = vec![
            vec!["ID".to_owned(), "NAMES".to_owned()],
            vec!["0123456789ab".to_owned(), "x".to_owned()],
        ];
        assert_eq!(align(&rows), "ID             NAMES\n0123456789ab   x\n");
    }
}
