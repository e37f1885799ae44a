//! Checks that the tests `docs/incidents.md` names exist. A test is named `path::function` between backticks.

use crate::run;

pub fn check() -> Result<Vec<String>, String> {
    let root = run::root();
    let path = root.join("docs/incidents.md");
    let document = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(missing(&document, |file| {
        std::fs::read_to_string(root.join(file)).ok()
    }))
}

/// What the document names and `read` does not find, and rows that name neither a test nor who will bring one.
fn missing(document: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in document.lines().enumerate() {
        let tests: Vec<(&str, &str)> = line.split('`').skip(1).step_by(2).filter_map(test_name).collect();
        let is_row = line.starts_with("| ") && !line.starts_with("| mechanism");
        if is_row && tests.is_empty() && !line.contains("not yet: ") {
            found.push(format!(
                "docs/incidents.md:{}: name a test, or write \"not yet: \" and the part that will bring it",
                number + 1
            ));
        }
        for (file, test) in tests {
            let text = read(file).unwrap_or_default();
            if !text.contains(&format!("def {test}(")) && !text.contains(&format!("fn {test}(")) {
                found.push(format!(
                    "docs/incidents.md:{}: there is no test {test} in {file}; name the one that took its place",
                    number + 1
                ));
            }
        }
    }
    found
}

fn test_name(quoted: &str) -> Option<(&str, &str)> {
    quoted
        .split_once("::")
        .filter(|(file, _)| file.contains('/') && file.contains('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_are_gone_and_rows_without_a_test_are_found() {
        let read = |file: &str| (file == "tests/a.py").then(|| "def test_it(api):".to_owned());
        let row = |cell: &str| format!("| mechanism | attack |\n|---|---|\n| it | {cell} |\n");
        assert!(missing(&row("`tests/a.py::test_it`"), read).is_empty());
        assert!(missing(&row("not yet: build"), read).is_empty());
        assert_eq!(missing(&row("`tests/a.py::test_other`"), read).len(), 1);
        assert_eq!(missing(&row("`tests/b.py::test_it`"), read).len(), 1);
        assert_eq!(missing(&row("somebody will see to it"), read).len(), 1);
    }
}
