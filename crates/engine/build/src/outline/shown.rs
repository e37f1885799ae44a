//! Outlines and targets as people read them, in the words of BuildKit's frontend.

use super::{Asked, Outline, Target};
use std::fmt::Write;

/// What a target takes; a table for each kind of it.
pub fn shown(outline: &Outline) -> String {
    let mut text = String::new();
    if !outline.name.is_empty() || !outline.description.is_empty() {
        let name = if outline.name.is_empty() {
            "(default)"
        } else {
            &outline.name
        };
        let mut rows = vec![["TARGET:".to_owned(), name.to_owned()]];
        if !outline.description.is_empty() {
            rows.push(["DESCRIPTION:".to_owned(), outline.description.clone()]);
        }
        text += &(table(&rows, 1) + "\n");
    }
    if !outline.arguments.is_empty() {
        let mut rows = vec![["BUILD ARG", "VALUE", "DESCRIPTION"].map(str::to_owned)];
        let arguments = outline.arguments.iter();
        rows.extend(arguments.map(|one| [one.name.clone(), one.value.clone(), one.description.clone()]));
        text += &(table(&rows, 3) + "\n");
    }
    for (title, list) in [("SECRET", &outline.secrets), ("SSH", &outline.agents)] {
        if !list.is_empty() {
            let mut rows = vec![[title, "REQUIRED"].map(str::to_owned)];
            let required = |one: &Asked| if one.is_required { "true" } else { "" }.to_owned();
            rows.extend(list.iter().map(|one| [one.name.clone(), required(one)]));
            text += &(table(&rows, 3) + "\n");
        }
    }
    text
}

/// The targets there are.
pub fn shown_targets(targets: &[Target]) -> String {
    let mut rows = vec![["TARGET", "DESCRIPTION"].map(str::to_owned)];
    rows.extend(targets.iter().map(|one| {
        let note = if one.is_default { " (default)" } else { "" };
        let name = one.name.clone() + note;
        [name.trim_start().to_owned(), one.description.clone()]
    }));
    table(&rows, 1)
}

/// Columns as wide as their longest word, with spaces between; the last one ends where its words do.
pub fn table<const N: usize>(rows: &[[String; N]], spaces: usize) -> String {
    let longest = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| longest(column).unwrap_or(0) + spaces);
    let mut text = String::new();
    for row in rows {
        for (column, word) in row.iter().enumerate() {
            let width = if column + 1 < N { widths[column] } else { 0 };
            let _ = write!(text, "{word:width$}");
        }
        text.push('\n');
    }
    text
}
