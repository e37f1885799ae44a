//! Checks the arrows between crates against the table in `docs/architecture.md`.
//!
//! The table is any run of lines `| crate | may depend on |` below the heading "Arrows"; the second cell lists
//! crates of this workspace separated by commas, or a dash.

use crate::run;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Crate name to the workspace crates it depends on, or may.
type Arrows = BTreeMap<String, BTreeSet<String>>;

/// The layers from the bottom up: a crate in one of these folders never depends on a later one.
const LAYERS: &[&str] = &["crates/foundation/", "crates/engine/", "crates/surface/", "app/"];

pub fn check() -> Result<Vec<String>, String> {
    let path = run::root().join("docs/architecture.md");
    let document = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let metadata = run::read_output(run::cargo(&[
        "metadata",
        "--format-version",
        "1",
        "--no-deps",
        "--offline",
    ]))
    .or_else(|_| run::read_output(run::cargo(&["metadata", "--format-version", "1", "--no-deps"])))?;
    let metadata: Value =
        serde_json::from_str(&metadata).map_err(|error| format!("cargo metadata: {error}"))?;
    let (actual, folders) = read_metadata(&metadata);
    Ok(compare(&parse_table(&document), &actual, &folders))
}

fn read_metadata(metadata: &Value) -> (Arrows, BTreeMap<String, String>) {
    let packages = metadata["packages"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let root = run::root();
    let mut actual = Arrows::new();
    let mut folders = BTreeMap::new();
    for package in packages {
        let Some(name) = package["name"].as_str() else {
            continue;
        };
        let dependencies = package["dependencies"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        // What only tests use may point anywhere; what ships may not.
        let inside = dependencies
            .iter()
            .filter(|one| one["path"].is_string() && one["kind"].as_str() != Some("dev"));
        actual.insert(
            name.to_owned(),
            inside
                .filter_map(|one| one["name"].as_str())
                .map(str::to_owned)
                .collect(),
        );
        let manifest = package["manifest_path"].as_str().unwrap_or_default();
        let folder = manifest
            .trim_start_matches(&*root.to_string_lossy())
            .trim_start_matches('/');
        folders.insert(name.to_owned(), folder.to_owned());
    }
    (actual, folders)
}

fn parse_table(document: &str) -> Arrows {
    let is_heading = |line: &str| line.starts_with('#');
    let lines = document
        .lines()
        .skip_while(|line| !(is_heading(line) && line.to_lowercase().contains("arrows")))
        .skip(1)
        .take_while(|line| !line.starts_with("# ") && !line.starts_with("## "));
    let mut table = Arrows::new();
    for line in lines.filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let &[name, allowed, ..] = cells.as_slice() else {
            continue;
        };
        let name = name.trim_matches('`');
        if name.eq_ignore_ascii_case("crate") || name.starts_with('-') || name.starts_with(':') {
            continue;
        }
        let allowed = allowed
            .split(',')
            .map(|one| one.trim().trim_matches('`'))
            .filter(|one| !one.is_empty() && !one.chars().all(|letter| matches!(letter, '-' | '–' | '—')));
        table.insert(name.to_owned(), allowed.map(str::to_owned).collect());
    }
    table
}

fn compare(table: &Arrows, actual: &Arrows, folders: &BTreeMap<String, String>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, dependencies) in actual {
        let Some(allowed) = table.get(name) else {
            found.push(format!(
                "docs/architecture.md: the arrow table has no row for `{name}`"
            ));
            continue;
        };
        for dependency in dependencies.difference(allowed) {
            found.push(format!("`{name}` depends on `{dependency}`, which the arrow table does not allow; drop the dependency or justify the arrow there"));
        }
        for dependency in dependencies {
            if layer(folders, name) < layer(folders, dependency) {
                found.push(format!(
                    "`{name}` depends on `{dependency}`, which is in a higher layer"
                ));
            }
        }
    }
    for name in table.keys().chain(table.values().flatten()) {
        if !actual.contains_key(name) {
            found.push(format!(
                "docs/architecture.md: the arrow table names `{name}`, which is not in the workspace"
            ));
        }
    }
    found
}

fn layer(folders: &BTreeMap<String, String>, name: &str) -> usize {
    let folder = folders.get(name).map(String::as_str).unwrap_or_default();
    LAYERS
        .iter()
        .position(|prefix| folder.starts_with(prefix))
        .unwrap_or(LAYERS.len())
}

#[cfg(test)]
mod tests {
    use super::{Arrows, compare, parse_table};
    use std::collections::BTreeMap;

    const DOCUMENT: &str = "# A\n| x | y |\n## Arrows\ntext\n| crate | may depend on |\n|---|---|\n| `low` | – |\n| `high` | `low` |\n## Next\n| z | z |\n";

    fn arrows(rows: &[(&str, &[&str])]) -> Arrows {
        rows.iter()
            .map(|(name, to)| {
                (
                    (*name).to_owned(),
                    to.iter().map(|one| (*one).to_owned()).collect(),
                )
            })
            .collect()
    }

    #[test]
    fn table_is_read_below_its_heading() {
        assert_eq!(parse_table(DOCUMENT), arrows(&[("low", &[]), ("high", &["low"])]));
    }

    #[test]
    fn arrow_against_the_table_is_found() {
        let table = parse_table(DOCUMENT);
        let folders = BTreeMap::new();
        assert!(compare(&table, &arrows(&[("low", &[]), ("high", &["low"])]), &folders).is_empty());
        assert_eq!(
            compare(&table, &arrows(&[("low", &["high"]), ("high", &[])]), &folders).len(),
            1
        );
        assert_eq!(
            compare(
                &table,
                &arrows(&[("low", &[]), ("high", &[]), ("new", &[])]),
                &folders
            )
            .len(),
            1
        );
    }
}
