//! `--env`, `--env-file`, `--label` and `--label-file`.

use super::{Outcome, put};
use crate::args::Arguments;
use crate::json::Value;

/// Variables from files first, then from flags, as they were given. A name alone takes the value of the client's own
/// environment; when that has none, a flag's name stays alone (the daemon then drops the image's variable) and a
/// file's is left out.
pub fn plan_environment(arguments: &Arguments) -> Outcome<Vec<String>> {
    read_variables(arguments, &|name| std::env::var(name).ok())
}

/// As [`plan_environment`], with the client's environment given.
pub fn read_variables(
    arguments: &Arguments,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Outcome<Vec<String>> {
    let mut variables = Vec::new();
    for path in arguments.list("env-file") {
        for line in read_lines(path)? {
            if line.contains('=') {
                variables.push(line);
            } else if let Some(value) = lookup(&line) {
                variables.push(format!("{line}={value}"));
            }
        }
    }
    for text in arguments.list("env") {
        if text.is_empty() || text.starts_with('=') {
            return Err(format!(
                "invalid argument {text:?} for \"-e, --env\" flag: invalid environment variable: {text}"
            ));
        }
        match lookup(text) {
            Some(value) if !text.contains('=') => variables.push(format!("{text}={value}")),
            _ => variables.push(text.to_owned()),
        }
    }
    Ok(variables)
}

pub fn plan_labels(arguments: &Arguments) -> Outcome<Vec<(String, Value)>> {
    let mut lines = Vec::new();
    for path in arguments.list("label-file") {
        // A name alone takes its value from the environment, which labels have none from.
        let read = read_lines(path)?.into_iter();
        lines.extend(read.filter(|line| line.contains('=')));
    }
    for text in arguments.list("label") {
        if text.is_empty() || text.starts_with('=') {
            return Err(format!(
                "invalid argument {text:?} for \"-l, --label\" flag: invalid label '{text}': empty name"
            ));
        }
        lines.push(text.to_owned());
    }
    let mut labels = Vec::new();
    for line in &lines {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        put(&mut labels, name, Value::from(value));
    }
    Ok(labels)
}

/// The lines of a file of variables, without comments and empty ones.
fn read_lines(path: &str) -> Outcome<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("open {path}: no such file or directory"),
        _ => format!("open {path}: {error}"),
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut lines = Vec::new();
    for line in text.lines().map(str::trim_start) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split_once('=').map_or(line, |(name, _)| name);
        if name.is_empty() {
            return Err(format!(
                "invalid env file ({path}): no variable name on line '{line}'"
            ));
        }
        // A name alone may have white space after it, never inside or before the `=`.
        let name = if line.contains('=') { name } else { name.trim_end() };
        if name.contains(char::is_whitespace) {
            return Err(format!(
                "invalid env file ({path}): variable '{name}' contains whitespaces"
            ));
        }
        lines.push(if line.contains('=') {
            line.to_owned()
        } else {
            name.to_owned()
        });
    }
    Ok(lines)
}
