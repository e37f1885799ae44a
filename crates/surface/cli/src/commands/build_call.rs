//! `build --call`: a Dockerfile read here, and nothing built. What is probably not meant in it (`check`), what its target can
//! be given (`outline`), which targets it has (`targets`).
//!
//! Of the engine only the environments of base images are asked, for a check, where it has them.

use super::build::{Origin, Place, find_dockerfile, read_ignore};
use super::build_extras::{is_address, names_of_contexts};
use crate::error::{CliError, Result};
use crate::http::escape_reference;
use crate::{Arguments, Session, output};
use naru_build::check::{self, Facts};
use naru_build::ignore::Ignore;
use naru_build::stages::{self, PlanOptions};
use naru_build::{Dockerfile, DockerfileError, excerpt, outline, parse};
use naru_oci::Platform;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

/// A Dockerfile that is here.
struct Read {
    text: Vec<u8>,
    /// What people call it.
    name: String,
    /// What its context leaves out, where it has one.
    ignore: Option<Ignore>,
}

/// Answers instead of building, if that was asked for.
pub fn call(session: &Session, arguments: &Arguments) -> Result<Option<u8>> {
    let method = arguments.text("call").unwrap_or("build");
    let method = if arguments.is_set("check") {
        "check"
    } else {
        method
    };
    match method {
        "build" => Ok(None),
        "check" | "lint" => check(session, arguments).map(Some),
        "outline" => show(arguments, |file| {
            let given = build_arguments(arguments);
            let platform = arguments.text("platform").and_then(Platform::parse);
            let options = PlanOptions {
                target: arguments.text("target"),
                build_arguments: given.clone(),
                platform_arguments: stages::platform_arguments(platform.as_ref()),
                contexts: names_of_contexts(arguments),
            };
            let plan = stages::plan(file, &options)?;
            Ok(outline::shown(&outline::outline(file, &plan, &given)?))
        }),
        "targets" => show(arguments, |file| {
            Ok(outline::shown_targets(&outline::targets(file)))
        }),
        other => Err(CliError::message(format!(
            "--call={other} is not supported: use build, check, outline or targets"
        ))),
    }
}

/// Those that have a value here: of the others the environment's.
fn build_arguments(arguments: &Arguments) -> BTreeMap<String, String> {
    let given = arguments.list("build-arg");
    let pair = |argument: &str| match argument.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => Some((argument.to_owned(), std::env::var(argument).ok()?)),
    };
    given.filter_map(pair).collect()
}

fn show(
    arguments: &Arguments,
    tell: impl FnOnce(&Dockerfile) -> Result<String, DockerfileError>,
) -> Result<Option<u8>> {
    let read = read(arguments, "--call")?;
    let told = parse(&read.text).and_then(|file| tell(&file));
    output::print(&told.map_err(|error| read.located(&error))?)?;
    Ok(Some(0))
}

fn read(arguments: &Arguments, option: &str) -> Result<Read> {
    let source = &arguments.positional[0];
    match source.as_str() {
        "-" => {
            let mut text = Vec::new();
            std::io::stdin()
                .read_to_end(&mut text)
                .map_err(|error| CliError::message(format!("read the standard input: {error}")))?;
            Ok(Read {
                text,
                name: "Dockerfile".to_owned(),
                ignore: None,
            })
        }
        address if is_address(address) => Err(CliError::message(format!(
            "{option} reads a Dockerfile that is here: fetch {address} first"
        ))),
        path => {
            let (root, place) = find_dockerfile(Path::new(path), arguments.text("file"))?;
            let (_, ignore) = read_ignore(&root, &place)?;
            let (text, name) = match place {
                Place::Outside(text, Origin::StandardInput) => (text, "Dockerfile".to_owned()),
                Place::Outside(text, Origin::File(path)) => (text, path.display().to_string()),
                Place::Inside(name) => {
                    let whole = root.join(&name);
                    let text = std::fs::read(&whole)
                        .map_err(|error| CliError::message(format!("read {}: {error}", whole.display())))?;
                    (text, name)
                }
            };
            Ok(Read {
                text,
                name,
                ignore: Some(ignore),
            })
        }
    }
}

impl Read {
    fn located(&self, error: &DockerfileError) -> CliError {
        let text = String::from_utf8_lossy(&self.text);
        CliError::message(excerpt::locate(
            &error.to_string(),
            &self.name,
            &text,
            error.place,
        ))
    }
}

fn check(session: &Session, arguments: &Arguments) -> Result<u8> {
    let read = read(arguments, "--check")?;
    let environment = |name: &str| {
        let path = format!("/images/{}/json", escape_reference(name));
        let image = session.client.get(&path).ok()?;
        let entries = image.at(&["Config", "Env"]).items();
        Some(entries.iter().map(|entry| entry.text().to_owned()).collect())
    };
    let given = arguments.list("build-arg");
    let directive = given
        .filter_map(|argument| argument.strip_prefix("BUILDKIT_DOCKERFILE_CHECK="))
        .last();
    let facts = Facts {
        environment: Some(&environment),
        ignore: read.ignore.as_ref(),
        contexts: names_of_contexts(arguments),
        directive,
    };
    let report = parse(&read.text).and_then(|parsed| check::check(&parsed, &facts));
    let report = report.map_err(|error| read.located(&error))?;
    let text = String::from_utf8_lossy(&read.text);
    output::print(&format!(
        "{}\n",
        check::shown(&report.findings, &read.name, &text)
    ))?;
    Ok(u8::from(!report.findings.is_empty()))
}
