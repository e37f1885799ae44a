//! Command-line flags, read as Docker's own command line reads them (the rules of Go's pflag).
//!
//! Tables of [`Flag`] describe a command; nothing is built at start-up but the values that were given. Each value is
//! checked for its type here; what it means is the commands' business.

use crate::units;

/// The type of a flag's value, as its help names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bool,
    /// Text under the type name shown by help.
    Text(&'static str),
    /// May be given several times.
    List(&'static str),
    /// `container:alias`; may be given several times.
    Link,
    Int,
    Uint16,
    Uint,
    Bytes,
    /// As `Bytes`, and `-1` for unlimited.
    BytesOrMinusOne,
    Decimal,
    Duration,
}

#[derive(Debug, Clone, Copy)]
pub struct Flag {
    pub long: &'static str,
    pub short: Option<char>,
    pub kind: Kind,
    pub help: &'static str,
}

/// A flag without a short form.
pub const fn long(long: &'static str, kind: Kind, help: &'static str) -> Flag {
    Flag {
        long,
        short: None,
        kind,
        help,
    }
}

pub const fn flag(long: &'static str, short: char, kind: Kind, help: &'static str) -> Flag {
    Flag {
        long,
        short: Some(short),
        kind,
        help,
    }
}

/// Flags that were given and the arguments between and after them.
#[derive(Debug, Default)]
pub struct Arguments {
    values: Vec<(&'static str, String)>,
    pub positional: Vec<String>,
    pub wants_help: bool,
}

impl Arguments {
    pub fn is_given(&self, name: &str) -> bool {
        self.values.iter().any(|(flag, _)| *flag == name)
    }

    /// The last value given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values
            .iter()
            .rev()
            .find(|(flag, _)| *flag == name)
            .map(|(_, value)| value.as_str())
    }

    /// Every value given, in order.
    pub fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.values
            .iter()
            .filter(move |(flag, _)| *flag == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn is_set(&self, name: &str) -> bool {
        self.bool(name).unwrap_or(false)
    }

    pub fn bool(&self, name: &str) -> Option<bool> {
        self.text(name).and_then(parse_bool)
    }

    /// The number of a flag whose kind is a number; it has been checked when it was read.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.text(name).and_then(parse_int)
    }

    pub fn bytes(&self, name: &str) -> Option<i64> {
        self.text(name).and_then(|text| {
            if text == "-1" {
                Some(-1)
            } else {
                units::parse_ram_bytes(text).ok()
            }
        })
    }

    /// Nanoseconds.
    pub fn duration(&self, name: &str) -> Option<i64> {
        self.text(name)
            .and_then(|text| naru_base::parse_duration(text).ok())
    }
}

pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// A number as Go's `strconv.ParseInt(text, 0, 64)` reads it.
fn parse_int(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let number = if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        i64::from_str_radix(hex, 16)
    } else if digits.len() > 1 && digits.starts_with('0') {
        i64::from_str_radix(digits[1..].trim_start_matches('o'), 8)
    } else {
        digits.parse()
    };
    number.ok().map(|number| sign * number)
}

/// Whether flags may follow positional arguments (not so for `run`, whose command has flags of its own).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Mixed,
    FlagsFirst,
}

/// Reads `words` by the tables; the error is what to tell the user.
pub fn parse(tables: &[&'static [Flag]], order: Order, words: &[String]) -> Result<Arguments, String> {
    let mut arguments = Arguments::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            arguments.positional.extend(words.cloned());
            break;
        }
        if let Some(body) = word.strip_prefix("--") {
            parse_long(tables, body, &mut words, &mut arguments)?;
        } else if word.len() > 1 && word.starts_with('-') {
            parse_short(tables, &word[1..], &mut words, &mut arguments)?;
        } else {
            arguments.positional.push(word.clone());
            if order == Order::FlagsFirst {
                arguments.positional.extend(words.cloned());
                break;
            }
        }
        if arguments.wants_help {
            break;
        }
    }
    Ok(arguments)
}

fn find(tables: &[&'static [Flag]], matches: impl Fn(&Flag) -> bool) -> Option<&'static Flag> {
    tables
        .iter()
        .flat_map(|table| table.iter())
        .find(|flag| matches(flag))
}

fn parse_long(
    tables: &[&'static [Flag]],
    body: &str,
    words: &mut std::slice::Iter<String>,
    arguments: &mut Arguments,
) -> Result<(), String> {
    let (name, value) = match body.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (body, None),
    };
    if name.is_empty() || name.starts_with('-') {
        return Err(format!("bad flag syntax: --{body}"));
    }
    let Some(flag) = find(tables, |flag| flag.long == name) else {
        if name == "help" {
            arguments.wants_help = true;
            return Ok(());
        }
        return Err(format!("unknown flag: --{name}"));
    };
    let value = match (value, flag.kind) {
        (Some(value), _) => value.to_owned(),
        (None, Kind::Bool) => "true".to_owned(),
        (None, _) => words
            .next()
            .cloned()
            .ok_or_else(|| format!("flag needs an argument: --{name}"))?,
    };
    accept(flag, value, arguments)
}

fn parse_short(
    tables: &[&'static [Flag]],
    cluster: &str,
    words: &mut std::slice::Iter<String>,
    arguments: &mut Arguments,
) -> Result<(), String> {
    let mut rest = cluster;
    while let Some(letter) = rest.chars().next() {
        let after = &rest[letter.len_utf8()..];
        let Some(flag) = find(tables, |flag| flag.short == Some(letter)) else {
            if letter == 'h' {
                arguments.wants_help = true;
                return Ok(());
            }
            return Err(format!("unknown shorthand flag: {letter:?} in -{rest}"));
        };
        if let Some(value) = after.strip_prefix('=') {
            return accept(flag, value.to_owned(), arguments);
        }
        if flag.kind == Kind::Bool {
            accept(flag, "true".to_owned(), arguments)?;
            rest = after;
            continue;
        }
        let value = if after.is_empty() {
            words
                .next()
                .cloned()
                .ok_or_else(|| format!("flag needs an argument: {letter:?} in -{rest}"))?
        } else {
            after.to_owned()
        };
        return accept(flag, value, arguments);
    }
    Ok(())
}

fn accept(flag: &'static Flag, value: String, arguments: &mut Arguments) -> Result<(), String> {
    check_value(flag.kind, &value).map_err(|reason| {
        let short = flag
            .short
            .map(|letter| format!("-{letter}, "))
            .unwrap_or_default();
        format!(
            "invalid argument {value:?} for \"{short}--{}\" flag: {reason}",
            flag.long
        )
    })?;
    arguments.values.push((flag.long, value));
    Ok(())
}

fn check_value(kind: Kind, value: &str) -> Result<(), String> {
    let number = |function: &str, is_good: bool| {
        if is_good {
            Ok(())
        } else {
            Err(format!("strconv.{function}: parsing {value:?}: invalid syntax"))
        }
    };
    match kind {
        Kind::Link => check_link(value),
        Kind::List("filter") if !value.is_empty() && !value.contains('=') => {
            Err("bad format of filter (expected name=value)".to_owned())
        }
        Kind::Text(_) | Kind::List(_) => Ok(()),
        Kind::Bool => number("ParseBool", parse_bool(value).is_some()),
        Kind::Int => number("ParseInt", parse_int(value).is_some()),
        Kind::Uint => number("ParseUint", parse_int(value).is_some_and(|number| number >= 0)),
        Kind::Uint16 => number(
            "ParseUint",
            parse_int(value).is_some_and(|number| u16::try_from(number).is_ok()),
        ),
        Kind::BytesOrMinusOne if value == "-1" => Ok(()),
        Kind::Bytes | Kind::BytesOrMinusOne => units::parse_ram_bytes(value).map(drop),
        Kind::Decimal => units::parse_nano_cpus(value).map(drop),
        Kind::Duration => naru_base::parse_duration(value)
            .map(drop)
            .map_err(|error| error.to_string()),
    }
}

fn check_link(value: &str) -> Result<(), String> {
    if value.is_empty() {
        return Err("empty string specified for links".to_owned());
    }
    if value.split(':').count() > 2 {
        return Err(format!("bad format for links: {value}"));
    }
    Ok(())
}

/// The `Options:` part of a command's help.
pub fn describe_flags(tables: &[&'static [Flag]]) -> String {
    use std::fmt::Write;
    let mut flags: Vec<&Flag> = tables.iter().flat_map(|table| table.iter()).collect();
    flags.sort_by_key(|flag| flag.long);
    let heads: Vec<String> = flags.iter().map(|flag| flag_head(flag)).collect();
    let width = heads.iter().map(String::len).max().unwrap_or(0);
    let mut text = String::new();
    for (flag, head) in flags.iter().zip(&heads) {
        let _ = writeln!(text, "{head:width$}   {}", flag.help);
    }
    text
}

fn flag_head(flag: &Flag) -> String {
    let indent = if flag.short.is_none() { "    " } else { "" };
    format!("  {indent}{}", flag_words(flag))
}

/// `-m, --memory bytes`
pub fn flag_words(flag: &Flag) -> String {
    let short = flag
        .short
        .map_or_else(String::new, |letter| format!("-{letter}, "));
    let kind = match flag.kind {
        Kind::Bool => "",
        Kind::Text(name) | Kind::List(name) => name,
        Kind::Link => "list",
        Kind::Int => "int",
        Kind::Uint16 => "uint16",
        Kind::Uint => "uint",
        Kind::Bytes | Kind::BytesOrMinusOne => "bytes",
        Kind::Decimal => "decimal",
        Kind::Duration => "duration",
    };
    let space = if kind.is_empty() { "" } else { " " };
    format!("{short}--{}{space}{kind}", flag.long)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        flag("interactive", 'i', Kind::Bool, ""),
        flag("tty", 't', Kind::Bool, ""),
        flag("publish", 'p', Kind::List("list"), ""),
        flag("memory", 'm', Kind::Bytes, ""),
        long("rm", Kind::Bool, ""),
        long("name", Kind::Text("string"), ""),
        long("stop-timeout", Kind::Int, ""),
    ];

    fn read(line: &str, order: Order) -> Result<Arguments, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&[FLAGS], order, &words)
    }

    #[test]
    fn flags_are_read_in_every_form() {
        let arguments = read(
            "-it -p80:80 -p 81:81 -p=82 --name=x --rm image -it",
            Order::FlagsFirst,
        )
        .unwrap();
        assert!(arguments.is_set("interactive") && arguments.is_set("tty") && arguments.is_set("rm"));
        assert_eq!(
            arguments.list("publish").collect::<Vec<_>>(),
            ["80:80", "81:81", "82"]
        );
        assert_eq!(arguments.text("name"), Some("x"));
        assert_eq!(arguments.positional, ["image", "-it"]);
    }

    #[test]
    fn flags_may_follow_arguments_where_the_command_allows() {
        let arguments = read("a -i b -- -t", Order::Mixed).unwrap();
        assert_eq!(arguments.positional, ["a", "b", "-t"]);
        assert!(arguments.is_set("interactive") && !arguments.is_given("tty"));
    }

    #[test]
    fn wrong_flags_are_named_as_docker_names_them() {
        let message = |line| read(line, Order::FlagsFirst).unwrap_err();
        assert_eq!(message("--nope"), "unknown flag: --nope");
        assert_eq!(message("-ix"), "unknown shorthand flag: 'x' in -x");
        assert_eq!(message("--name"), "flag needs an argument: --name");
        assert_eq!(message("-ip"), "flag needs an argument: 'p' in -p");
        assert_eq!(
            message("-m 3x"),
            "invalid argument \"3x\" for \"-m, --memory\" flag: invalid size: '3x'"
        );
        assert_eq!(
            message("--stop-timeout a"),
            "invalid argument \"a\" for \"--stop-timeout\" flag: strconv.ParseInt: parsing \"a\": invalid syntax"
        );
        assert!(message("--rm=maybe").contains("strconv.ParseBool"));
    }
}
