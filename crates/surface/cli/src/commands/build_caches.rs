//! `build --cache-from` and `--cache-to`: steps of other engines, and this build's for them.
//!
//! The engine speaks to registries itself. A directory is the client's: it travels in front of the context, or is
//! written here when the build is done.

use crate::error::{CliError, Result};
use crate::http::{Body, Query, escape_reference};
use crate::json::Value;
use crate::tarball::unpack;
use crate::{Arguments, Session};
use std::path::{Path, PathBuf};

/// What `--cache-from` names.
#[derive(Debug, PartialEq, Eq)]
pub enum From {
    Registry(String),
    Directory(PathBuf),
    /// The image itself; of `--cache-to` alone.
    Image,
}

/// What `--cache-to` names.
#[derive(Debug, PartialEq, Eq)]
struct To {
    place: From,
    has_all: bool,
    has_mounts: bool,
    ignores_errors: bool,
}

#[derive(Debug, Default)]
pub struct Caches {
    pub from: Vec<From>,
    to: Vec<To>,
}

pub fn read(arguments: &Arguments) -> Result<Caches> {
    let from = arguments
        .list("cache-from")
        .map(|text| Ok(parse("cache-from", text)?.place));
    let to = arguments.list("cache-to").map(|text| parse("cache-to", text));
    Ok(Caches {
        from: from.collect::<Result<_>>()?,
        to: to.collect::<Result<_>>()?,
    })
}

/// `type=TYPE,key=value,…`, or a name in a registry.
fn parse(flag: &str, text: &str) -> Result<To> {
    let wrong = |what: String| CliError::message(format!("invalid --{flag} {text:?}: {what}"));
    let (mut kind, mut reference, mut directory) = ("registry", None, None);
    let (mut has_all, mut has_mounts, mut ignores_errors) = (false, false, false);
    if text.contains('=') {
        for field in text.split(',') {
            match field.split_once('=') {
                Some(("type", value)) => kind = value,
                Some(("ref", value)) => reference = Some(value),
                Some(("src", value)) if flag == "cache-from" => directory = Some(value),
                Some(("dest", value)) if flag == "cache-to" => directory = Some(value),
                Some(("mode", "min")) if flag == "cache-to" => has_all = false,
                Some(("mode", "max")) if flag == "cache-to" => has_all = true,
                Some(("cache-mounts", value)) if flag == "cache-to" => has_mounts = value == "true",
                Some(("ignore-error", value)) if flag == "cache-to" => ignores_errors = value == "true",
                Some(("image-manifest" | "oci-mediatypes", "true")) => {}
                _ => return Err(wrong(format!("{field:?} is not supported"))),
            }
        }
    } else {
        reference = Some(text);
    }
    let place = match (kind, reference, directory) {
        ("registry", Some(name), None) => From::Registry(name.to_owned()),
        ("registry", ..) => return Err(wrong("it needs a name: ref=…".to_owned())),
        ("local", None, Some(directory)) => From::Directory(directory.into()),
        ("local", ..) => {
            let key = if flag == "cache-from" { "src" } else { "dest" };
            return Err(wrong(format!("it needs a directory: {key}=…")));
        }
        ("inline", None, None) if flag == "cache-to" && !has_all && !has_mounts => From::Image,
        ("inline", ..) if flag == "cache-to" => {
            return Err(wrong(
                "an image carries the steps that it stands on, and nothing else: send more to type=registry"
                    .to_owned(),
            ));
        }
        ("inline", ..) => return Err(wrong("name the image: type=registry,ref=…".to_owned())),
        (other, ..) => {
            return Err(wrong(format!(
                "there is no type {other}; there are registry, local and inline"
            )));
        }
    };
    Ok(To {
        place,
        has_all,
        has_mounts,
        ignores_errors,
    })
}

impl Caches {
    /// What the engine sends to registries.
    pub fn targets(&self) -> Vec<Value> {
        let registries = self.to.iter().filter_map(|to| match &to.place {
            From::Registry(name) => Some(Value::object([
                ("reference".to_owned(), Value::from(name.as_str())),
                ("has_all".to_owned(), Value::from(to.has_all)),
                ("has_mounts".to_owned(), Value::from(to.has_mounts)),
                ("ignores_errors".to_owned(), Value::from(to.ignores_errors)),
            ])),
            From::Directory(_) | From::Image => None,
        });
        registries.collect()
    }

    /// Whether the image is to carry the cache.
    pub fn is_inline(&self) -> bool {
        self.to.iter().any(|to| to.place == From::Image)
    }

    /// Writes what goes to directories.
    pub fn deliver(&self, session: &Session, id: &str) -> Result<()> {
        for to in &self.to {
            let From::Directory(directory) = &to.place else {
                continue;
            };
            match fetch(session, id, to, directory) {
                Err(error) if to.ignores_errors => crate::output::tell!("{}: {error}", session.program),
                fetched => fetched?,
            }
        }
        Ok(())
    }
}

fn fetch(session: &Session, id: &str, to: &To, directory: &Path) -> Result<()> {
    let mode = if to.has_all { "max" } else { "min" };
    let mut path = Query::new(&format!("/images/{}/get", escape_reference(id))).set("cache", mode);
    if to.has_mounts {
        path = path.set("cache-mounts", "1");
    }
    let archive = session.client.send("GET", &path.build(), Body::Empty)?;
    let named = |error: std::io::Error| CliError::message(format!("{}: {error}", directory.display()));
    std::fs::create_dir_all(directory).map_err(named)?;
    unpack(archive, directory, None).map_err(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_read_as_docker_reads_them() {
        let to = parse("cache-to", "type=registry,ref=r/c:1,mode=max").unwrap();
        assert_eq!(
            (&to.place, to.has_all),
            (&From::Registry("r/c:1".to_owned()), true)
        );
        let from = parse("cache-from", "r/c").unwrap();
        assert_eq!(from.place, From::Registry("r/c".to_owned()));
        let local = parse("cache-from", "type=local,src=d").unwrap();
        assert_eq!(local.place, From::Directory("d".into()));
        let image = parse("cache-to", "type=inline").unwrap();
        assert_eq!(image.place, From::Image);
        let mounts = parse("cache-to", "type=local,dest=d,cache-mounts=true").unwrap();
        assert!(mounts.has_mounts && !to.has_mounts);
        for (flag, text) in [
            ("cache-to", "type=inline,mode=max"),
            ("cache-from", "type=inline"),
            ("cache-from", "type=registry,ref=x,cache-mounts=true"),
            ("cache-to", "type=local,src=d"),
            ("cache-from", "type=local"),
            ("cache-from", "type=registry"),
            ("cache-to", "type=registry,ref=x,mode=some"),
            ("cache-from", "type=gha"),
        ] {
            assert!(parse(flag, text).is_err(), "{flag} {text}");
        }
    }
}
