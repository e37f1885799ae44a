//! `build --check`: what is probably not meant in a Dockerfile. The file is read here and nothing is built; of the engine
//! only the environments of base images are asked, where it has them.

use super::build::{Place, find_dockerfile, read_ignore};
use super::build_extras::{is_address, names_of_contexts};
use crate::error::{CliError, Result};
use crate::http::escape_reference;
use crate::{Arguments, Session, output};
use naru_build::check::{self, Facts};
use naru_build::{excerpt, parse};
use std::io::Read;
use std::path::Path;

pub fn check(session: &Session, arguments: &Arguments) -> Result<u8> {
    let source = &arguments.positional[0];
    let (text, file, ignore) = match source.as_str() {
        "-" => {
            let mut text = Vec::new();
            std::io::stdin()
                .read_to_end(&mut text)
                .map_err(|error| CliError::message(format!("read the standard input: {error}")))?;
            (text, "Dockerfile".to_owned(), None)
        }
        address if is_address(address) => {
            return Err(CliError::message(format!(
                "--check reads a Dockerfile that is here: fetch {address} first"
            )));
        }
        path => {
            let (root, place) = find_dockerfile(Path::new(path), arguments.text("file"))?;
            match place {
                Place::Outside(text, name) => (text, name, Some(read_ignore(&root, "Dockerfile")?.1)),
                Place::Inside(name) => {
                    let whole = root.join(&name);
                    let text = std::fs::read(&whole)
                        .map_err(|error| CliError::message(format!("read {}: {error}", whole.display())))?;
                    let (_, ignore) = read_ignore(&root, &name)?;
                    (text, name, Some(ignore))
                }
            }
        }
    };
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
        ignore: ignore.as_ref(),
        contexts: names_of_contexts(arguments),
        directive,
    };
    let shown = String::from_utf8_lossy(&text);
    let report = parse(&text).and_then(|parsed| check::check(&parsed, &facts));
    let report = report.map_err(|error| {
        CliError::message(excerpt::locate(&error.to_string(), &file, &shown, error.place))
    })?;
    output::print(&format!("{}\n", check::shown(&report.findings, &file, &shown)))?;
    Ok(u8::from(!report.findings.is_empty()))
}
