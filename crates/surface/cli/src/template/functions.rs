//! The functions of templates: Go's own and those Docker adds.

use super::{is_truth, show};
use crate::json::Value;
use std::cmp::Ordering;

pub const NAMES: &[&str] = &[
    "and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "index", "len", "print", "println", "printf",
    "slice", "json", "join", "split", "lower", "upper", "title", "pad", "truncate",
];

/// Widest column a template may ask for: no terminal is wider, and no width may use up the memory.
const COLUMNS_MAX: usize = 10_000;

pub fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let needs = |count: usize| {
        if arguments.len() >= count {
            Ok(())
        } else {
            Err(format!(
                "wrong number of args for {name}: want {count} got {}",
                arguments.len()
            ))
        }
    };
    match name {
        "print" | "println" | "printf" => {}
        "eq" | "ne" | "lt" | "le" | "gt" | "ge" | "join" | "split" | "truncate" => needs(2)?,
        "pad" => needs(3)?,
        _ => needs(1)?,
    }
    let text = |at: usize| arguments.get(at).map(show).unwrap_or_default();
    let number = |at: usize| usize::try_from(arguments[at].integer()).unwrap_or(0);
    Ok(match name {
        "and" => arguments
            .iter()
            .find(|value| !is_truth(value))
            .unwrap_or(&arguments[arguments.len() - 1])
            .clone(),
        "or" => arguments
            .iter()
            .find(|value| is_truth(value))
            .unwrap_or(&arguments[arguments.len() - 1])
            .clone(),
        "not" => Value::Bool(!is_truth(&arguments[0])),
        "eq" => Value::Bool(
            arguments[1..]
                .iter()
                .any(|other| order(&arguments[0], other) == Ordering::Equal),
        ),
        "ne" => Value::Bool(order(&arguments[0], &arguments[1]) != Ordering::Equal),
        "lt" => Value::Bool(order(&arguments[0], &arguments[1]).is_lt()),
        "le" => Value::Bool(order(&arguments[0], &arguments[1]).is_le()),
        "gt" => Value::Bool(order(&arguments[0], &arguments[1]).is_gt()),
        "ge" => Value::Bool(order(&arguments[0], &arguments[1]).is_ge()),
        "index" => return index(arguments),
        "len" => Value::Integer(length(&arguments[0])? as i64),
        "print" => Value::Text(arguments.iter().map(show).collect::<Vec<_>>().join(" ")),
        "println" => Value::Text(arguments.iter().map(show).collect::<Vec<_>>().join(" ") + "\n"),
        "printf" => Value::Text(print_formatted(arguments)),
        "slice" => {
            let whole = text(0);
            let start = if arguments.len() > 1 { number(1) } else { 0 };
            let end = if arguments.len() > 2 {
                number(2)
            } else {
                whole.len()
            };
            Value::from(
                whole
                    .get(start..end)
                    .ok_or_else(|| format!("slice index out of range: {end}"))?,
            )
        }
        "json" => Value::Text(arguments[0].to_json()),
        "join" => Value::Text(
            arguments[0]
                .items()
                .iter()
                .map(show)
                .collect::<Vec<_>>()
                .join(&text(1)),
        ),
        "split" => Value::from(
            text(0)
                .split(&text(1))
                .map(str::to_owned)
                .collect::<Vec<String>>(),
        ),
        "lower" => Value::Text(text(0).to_lowercase()),
        "upper" => Value::Text(text(0).to_uppercase()),
        "title" => Value::Text(title(&text(0))),
        "pad" => Value::Text(format!(
            "{}{}{}",
            " ".repeat(number(1).min(COLUMNS_MAX)),
            text(0),
            " ".repeat(number(2).min(COLUMNS_MAX))
        )),
        "truncate" => Value::Text(text(0).chars().take(number(1)).collect()),
        _ => return Err(format!("function {name:?} not defined")),
    })
}

fn order(left: &Value, right: &Value) -> Ordering {
    match (left, right) {
        (Value::Text(_), _) | (_, Value::Text(_)) => show(left).cmp(&show(right)),
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        (Value::Null, Value::Null) => Ordering::Equal,
        _ => left.float().partial_cmp(&right.float()).unwrap_or(Ordering::Less),
    }
}

fn length(value: &Value) -> Result<usize, String> {
    match value {
        Value::Text(text) => Ok(text.len()),
        Value::List(items) => Ok(items.len()),
        Value::Map(entries) => Ok(entries.len()),
        Value::Null => Ok(0),
        other => Err(format!("error calling len: len of {}", show(other))),
    }
}

fn index(arguments: &[Value]) -> Result<Value, String> {
    let mut value = arguments[0].clone();
    for key in &arguments[1..] {
        value = match &value {
            Value::List(items) => {
                let at = usize::try_from(key.integer()).ok().filter(|at| *at < items.len());
                items[at.ok_or_else(|| format!("error calling index: index out of range: {}", show(key)))?]
                    .clone()
            }
            // A map of texts answers an absent key with its zero value.
            Value::Map(entries) => match value.entry(&show(key)) {
                Some(entry) => entry.clone(),
                None if entries.iter().all(|(_, entry)| matches!(entry, Value::Text(_))) => Value::from(""),
                None => Value::Null,
            },
            Value::Null => return Err("error calling index: index of untyped nil".to_owned()),
            other => {
                return Err(format!(
                    "error calling index: can't index item of {}",
                    show(other)
                ));
            }
        };
    }
    Ok(value)
}

fn title(text: &str) -> String {
    let mut at_start = true;
    text.chars()
        .map(|character| {
            let shown = if at_start {
                character.to_ascii_uppercase()
            } else {
                character
            };
            at_start = character.is_whitespace();
            shown
        })
        .collect()
}

/// `%s`, `%v`, `%d`, `%q`, `%x` and `%%`, with a width.
fn print_formatted(arguments: &[Value]) -> String {
    let format = arguments.first().map(show).unwrap_or_default();
    let mut values = arguments.iter().skip(1);
    let mut text = String::new();
    let mut characters = format.chars().peekable();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        let mut width = String::new();
        while let Some(digit) = characters.next_if(|c| c.is_ascii_digit() || *c == '-' || *c == '.') {
            width.push(digit);
        }
        match characters.next() {
            Some(verb) if verb != '%' => {
                let value = values.next().cloned().unwrap_or_default();
                let shown = match verb {
                    'q' => format!("{:?}", show(&value)),
                    'x' => format!("{:x}", value.integer()),
                    _ => show(&value),
                };
                let columns = width
                    .trim_start_matches('-')
                    .parse()
                    .unwrap_or(0)
                    .min(COLUMNS_MAX);
                text.push_str(&if width.starts_with('-') {
                    format!("{shown:columns$}")
                } else {
                    format!("{shown:>columns$}")
                });
            }
            _ => text.push('%'),
        }
    }
    text
}
