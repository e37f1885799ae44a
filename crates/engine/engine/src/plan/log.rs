//! Where a container's output is recorded, in which form, and how much of it is kept.
//!
//! | driver | kept by default | with `max-size` alone |
//! |---|---|---|
//! | `json-file`, the default | 5 files of 20 MiB, not compressed | 1 file of that size |
//! | `local` | 5 files of 20 MiB, full ones compressed | 5 files of that size |
//! | `none` | nothing, and nothing can be read | – |
//! | `journald`, `syslog`, `fluentd`, `gelf` | beside what is sent, as `local`, by `cache-…`; see `ship` | – |
//!
//! Docker's json-file has no bound; here no log fills the disk unless `max-size=-1` asks for it.

use super::ship;
use crate::error::{EngineError, Result};
use crate::record::ContainerRecord;
use crate::spec::LogSpec;
use naru_keeper::protocol::{LogCache, LogPlan};
use naru_logs::{Format, Rotation};
use regex::Regex;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const BYTES_MAX_DEFAULT: u64 = 20 << 20;
const FILES_MAX_DEFAULT: u32 = 5;

/// The container's log and its format; `None` where nothing is kept here.
pub fn log_place(record: &ContainerRecord, directory: &Path) -> Option<(PathBuf, Format)> {
    let format = format_of(&record.spec.log)?;
    let kind = match format {
        Format::JsonFile => "json",
        Format::Local => "local",
    };
    Some((directory.join(format!("{}-{kind}.log", record.id)), format))
}

fn format_of(log: &LogSpec) -> Option<Format> {
    match log.driver.as_str() {
        "none" => None,
        "local" => Some(Format::Local),
        driver if ship::is_shipped(driver) => (!is_cache_disabled(log)).then_some(Format::Local),
        _ => Some(Format::JsonFile),
    }
}

fn is_cache_disabled(log: &LogSpec) -> bool {
    let disabled = log.options.get("cache-disabled");
    disabled.is_some_and(|text| parse_truth("cache-disabled", text).unwrap_or(false))
}

/// What bounds the log on disk: for one that goes elsewhere, its cache's options.
fn bounds(log: &LogSpec) -> LogSpec {
    if !ship::is_shipped(&log.driver) {
        return log.clone();
    }
    let options = log.options.iter();
    LogSpec {
        driver: "local".to_owned(),
        options: options
            .filter_map(|(name, value)| Some((name.strip_prefix("cache-")?.to_owned(), value.clone())))
            .collect(),
    }
}

/// `receiver`: the address that the receiver's host stands for, where the driver has one.
pub(super) fn plan_log(
    record: &ContainerRecord,
    directory: &Path,
    receiver: Option<SocketAddr>,
) -> Result<LogPlan> {
    let place = log_place(record, directory);
    if ship::is_shipped(&record.spec.log.driver) {
        let rotation = plan_rotation(&bounds(&record.spec.log), Format::Local)?;
        return Ok(LogPlan::Ship {
            plan: Box::new(ship::plan_ship(record, receiver)?),
            cache: place.map(|(path, _)| LogCache { path, rotation }),
        });
    }
    let Some((path, format)) = place else {
        return Ok(LogPlan::None);
    };
    Ok(LogPlan::File {
        path,
        format,
        rotation: plan_rotation(&record.spec.log, format)?,
    })
}

/// Refuses, when a container is created, the options that its start could not carry out.
pub fn check_log(log: &LogSpec) -> Result<()> {
    if let Some(text) = log.options.get("cache-disabled") {
        parse_truth("cache-disabled", text)?;
    }
    if let Some(format) = format_of(log) {
        plan_rotation(&bounds(log), format)?;
    }
    if ship::is_shipped(&log.driver) {
        ship::check(log)?;
    }
    for option in ["labels-regex", "env-regex"] {
        log.options
            .get(option)
            .map_or(Ok(None), |text| parse_regex(option, text).map(Some))?;
    }
    log.options
        .get("tag")
        .map_or(Ok(()), |tag| expand_tag(tag, &|_| Some(String::new())).map(drop))
}

fn invalid(option: &str, reason: &str) -> EngineError {
    EngineError::invalid(format!("log option {option}: {reason}"))
}

fn plan_rotation(log: &LogSpec, format: Format) -> Result<Rotation> {
    let option = |name: &str| log.options.get(name).map(String::as_str);
    let bytes_max = option("max-size").map(parse_size).transpose()?;
    let files_max = match option("max-file") {
        Some(text) => text
            .parse()
            .ok()
            .filter(|files| *files > 0)
            .ok_or_else(|| invalid("max-file", &format!("{text:?} is not a number of at least 1")))?,
        None if bytes_max.is_some() && format == Format::JsonFile => 1,
        None => FILES_MAX_DEFAULT,
    };
    let compress = match option("compress") {
        None => format == Format::Local && files_max > 1,
        Some(text) => parse_truth("compress", text)?,
    };
    if option("compress").is_some()
        && compress
        && (files_max < 2 || bytes_max.is_some_and(|max| max.is_none()))
    {
        return Err(invalid(
            "compress",
            "cannot be true when max-file is less than 2 or max-size is not set",
        ));
    }
    Ok(Rotation {
        bytes_max: bytes_max.unwrap_or(Some(BYTES_MAX_DEFAULT)),
        files_max,
        compress,
    })
}

/// Go's words for true and false.
pub(super) fn parse_truth(option: &str, text: &str) -> Result<bool> {
    match text {
        "true" | "1" | "t" | "T" | "TRUE" | "True" => Ok(true),
        "false" | "0" | "f" | "F" | "FALSE" | "False" => Ok(false),
        _ => Err(invalid(option, &format!("{text:?} is neither true nor false"))),
    }
}

fn parse_regex(option: &str, text: &str) -> Result<Regex> {
    Regex::new(text).map_err(|error| invalid(option, &error.to_string()))
}

/// Docker's log sizes: a number with an optional unit `k`, `m` or `g`, in powers of 1024; `None` for -1, without limit.
pub(super) fn parse_size(text: &str) -> Result<Option<u64>> {
    let lower = text.trim().to_ascii_lowercase();
    if lower == "-1" {
        return Ok(None);
    }
    let digits = lower.trim_end_matches('b').trim_end_matches(['k', 'm', 'g']);
    let shift = match lower.trim_end_matches('b').chars().last() {
        Some('k') => 10,
        Some('m') => 20,
        Some('g') => 30,
        _ => 0,
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| invalid("max-size", &format!("{text:?} is not a size")))?;
    number
        .checked_shl(shift)
        .filter(|bytes| bytes >> shift == number && *bytes > 0)
        .map(Some)
        .ok_or_else(|| invalid("max-size", &format!("{text:?} is out of range")))
}

/// What the options `labels`, `env` and `tag` have told with every message to those who ask for details.
pub fn log_attributes(record: &ContainerRecord) -> Vec<(String, String)> {
    let option = |name: &str| record.spec.log.options.get(name).map(String::as_str);
    let mut found = Vec::new();
    for label in option("labels").unwrap_or_default().split(',') {
        if let Some(value) = record.resolved.labels.get(label) {
            found.push((label.to_owned(), value.clone()));
        }
    }
    let matching = |name: &str| option(name).and_then(|text| parse_regex(name, text).ok());
    if let Some(regex) = matching("labels-regex") {
        let labels = record.resolved.labels.iter();
        found.extend(
            labels
                .filter(|(key, _)| regex.is_match(key))
                .map(|(key, value)| (key.clone(), value.clone())),
        );
    }
    if let Some(regex) = matching("env-regex") {
        let variables = record.resolved.env.iter().filter_map(|text| text.split_once('='));
        found.extend(
            variables
                .filter(|(key, _)| regex.is_match(key))
                .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
    }
    for name in option("env").unwrap_or_default().split(',') {
        let mut variables = record
            .resolved
            .env
            .iter()
            .filter_map(|variable| variable.split_once('='));
        if let Some((_, value)) = variables.rfind(|(key, _)| *key == name) {
            found.push((name.to_owned(), value.to_owned()));
        }
    }
    if let Some(Ok(tag)) = option("tag").map(|tag| expand_tag(tag, &|field| tag_field(record, field))) {
        found.push(("tag".to_owned(), tag));
    }
    found.sort();
    found.dedup_by(|other, first| other.0 == first.0);
    found
}

fn tag_field(record: &ContainerRecord, field: &str) -> Option<String> {
    Some(match field {
        ".ID" => record.id.short().to_owned(),
        ".FullID" => record.id.to_string(),
        ".Name" => record.name.clone(),
        ".ImageName" => record.spec.image.clone(),
        ".ImageFullID" => record.resolved.image_id.to_string(),
        ".ImageID" => record.resolved.image_id.hex().chars().take(12).collect(),
        ".DaemonName" => "docker".to_owned(),
        _ => return None,
    })
}

/// The option `tag`, with the container's own values.
pub(super) fn expand(record: &ContainerRecord, tag: &str) -> Result<String> {
    expand_tag(tag, &|field| tag_field(record, field))
}

/// Fields alone, without functions: `{{.Name}}/{{.ID}}`.
fn expand_tag(tag: &str, field: &dyn Fn(&str) -> Option<String>) -> Result<String> {
    const FIELDS: [&str; 7] = [
        ".ID",
        ".FullID",
        ".Name",
        ".ImageName",
        ".ImageFullID",
        ".ImageID",
        ".DaemonName",
    ];
    let mut text = String::new();
    let mut rest = tag;
    while let Some((before, after)) = rest.split_once("{{") {
        let (inner, after) = after
            .split_once("}}")
            .ok_or_else(|| invalid("tag", "unclosed action"))?;
        let name = inner.trim();
        let value = field(name).filter(|_| FIELDS.contains(&name));
        text.push_str(before);
        text.push_str(&value.ok_or_else(|| {
            invalid(
                "tag",
                &format!("{{{{{name}}}}} is not one of {}", FIELDS.join(", ")),
            )
        })?);
        rest = after;
    }
    Ok(text + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(driver: &str, options: &[(&str, &str)]) -> LogSpec {
        LogSpec {
            driver: driver.to_owned(),
            options: options
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn every_log_is_bounded_unless_asked_not_to_be() {
        let rotation = |log: &LogSpec| {
            let rotation = plan_rotation(log, format_of(log).unwrap()).unwrap();
            (rotation.bytes_max, rotation.files_max, rotation.compress)
        };
        let megabytes = |count: u64| Some(count << 20);
        assert_eq!(rotation(&log("json-file", &[])), (megabytes(20), 5, false));
        assert_eq!(rotation(&log("local", &[])), (megabytes(20), 5, true));
        assert_eq!(
            rotation(&log("json-file", &[("max-size", "1m")])),
            (megabytes(1), 1, false)
        );
        assert_eq!(
            rotation(&log("local", &[("max-size", "1m")])),
            (megabytes(1), 5, true)
        );
        assert_eq!(
            rotation(&log("local", &[("max-file", "1")])),
            (megabytes(20), 1, false)
        );
        assert_eq!(
            rotation(&log("json-file", &[("max-size", "-1")])),
            (None, 1, false)
        );
        let all = [("max-size", "2k"), ("max-file", "3"), ("compress", "true")];
        assert_eq!(rotation(&log("json-file", &all)), (Some(2048), 3, true));
    }

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        assert_eq!(parse_size("10m").unwrap(), Some(10 << 20));
        assert_eq!(parse_size("1KB").unwrap(), Some(1024));
        assert_eq!(parse_size("7").unwrap(), Some(7));
    }

    #[test]
    fn options_that_cannot_be_kept_are_refused() {
        for options in [
            &[("max-size", "much")][..],
            &[("max-size", "0")],
            &[("max-size", "99999999999g")],
            &[("max-file", "0")],
            &[("compress", "perhaps")],
            &[("compress", "true"), ("max-size", "1m")],
            &[("labels-regex", "(")],
            &[("tag", "{{.Nosuch}}")],
            &[("tag", "{{.ID")],
        ] {
            assert!(check_log(&log("json-file", options)).is_err(), "{options:?}");
        }
        check_log(&log("none", &[])).unwrap();
        check_log(&log(
            "json-file",
            &[("tag", "{{.Name}}/{{ .ID }}"), ("labels", "a,b")],
        ))
        .unwrap();
    }
}
