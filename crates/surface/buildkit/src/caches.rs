//! Caches that a build is to use and to make, in BuildKit's words as the engine's: pure translation.
//!
//! ```text
//!  registry   ref=NAME                    a name in a registry; where it is used, an image here comes first
//!  local      src=DIRECTORY,digest=…      a store of the client's (see `store`); dest= where one is made
//!  inline                                 the image carries it
//! ```

use crate::error::{KitError, Result};
use crate::wire::control;
use naru_engine::{BuildRequest, CachePlace, CacheSource, CacheTarget, EngineError};
use serde::Deserialize;
use std::collections::HashMap;

/// What clients call the stores of their directories.
const LOCAL: &str = "local:";

/// A cache in the frontend's options: Go's form of the message.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    r#type: String,
    #[serde(default)]
    attrs: HashMap<String, String>,
}

/// Adds what a solve asks for.
pub fn add_caches(build: &mut BuildRequest, options: Option<&control::CacheOptions>) -> Result<()> {
    let Some(options) = options else { return Ok(()) };
    for entry in &options.imports {
        add_source(build, read_source(&entry.r#type, &entry.attrs)?);
    }
    for entry in &options.exports {
        if entry.r#type == "inline" {
            check_inline(&entry.attrs)?;
            build.carries_cache = true;
        } else {
            build.cache_to.push(read_target(&entry.r#type, &entry.attrs)?);
        }
    }
    Ok(())
}

/// Adds the caches of the option `cache-imports`; clients tell the same ones in a solve too, or only here.
pub fn add_imports(build: &mut BuildRequest, text: &str) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let wrong = |error| EngineError::invalid(format!("invalid cache-imports: {error}"));
    let entries: Vec<Entry> = serde_json::from_str(text).map_err(wrong)?;
    for entry in entries {
        add_source(build, read_source(&entry.r#type, &entry.attrs)?);
    }
    Ok(())
}

/// A name in a registry, as older clients tell it.
pub fn add_named(build: &mut BuildRequest, name: &str) {
    add_source(build, CacheSource::Named(name.to_owned()));
}

fn add_source(build: &mut BuildRequest, source: CacheSource) {
    if !build.cache_from.contains(&source) {
        build.cache_from.push(source);
    }
}

fn need<'a>(attributes: &'a HashMap<String, String>, key: &str, what: &str) -> Result<&'a str> {
    let given = attributes.get(key).filter(|value| !value.is_empty());
    let missing = || EngineError::invalid(format!("{what} needs {key}=…"));
    Ok(given.ok_or_else(missing)?)
}

fn read_source(kind: &str, attributes: &HashMap<String, String>) -> Result<CacheSource> {
    let what = format!("a cache of type={kind}");
    match kind {
        "registry" => Ok(CacheSource::Named(need(attributes, "ref", &what)?.to_owned())),
        "local" => {
            let digest = need(attributes, "digest", &what)?;
            let wrong = |_| EngineError::invalid(format!("{what}: {digest:?} is no digest"));
            Ok(CacheSource::Client {
                store: format!("{LOCAL}{}", need(attributes, "src", &what)?),
                manifest: digest.parse().map_err(wrong)?,
            })
        }
        _ => Err(not_supported(what)),
    }
}

fn read_target(kind: &str, attributes: &HashMap<String, String>) -> Result<CacheTarget> {
    let what = format!("a cache of type={kind}");
    let place = match kind {
        "registry" => CachePlace::Registry(need(attributes, "ref", &what)?.to_owned()),
        "local" => CachePlace::Client(format!("{LOCAL}{}", need(attributes, "dest", &what)?)),
        _ => return Err(not_supported(what)),
    };
    let is = |key: &str, value: &str| attributes.get(key).is_some_and(|given| given == value);
    Ok(CacheTarget {
        place,
        has_all: is("mode", "max"),
        has_mounts: is("cache-mounts", "true"),
        ignores_errors: is("ignore-error", "true"),
    })
}

fn check_inline(attributes: &HashMap<String, String>) -> Result<()> {
    for (key, value) in [("mode", "max"), ("cache-mounts", "true")] {
        if attributes.get(key).is_some_and(|given| given == value) {
            return Err(KitError::NotSupported(
                format!("{key}={value} of type=inline"),
                "an image carries the steps that it stands on alone: use type=registry",
            ));
        }
    }
    Ok(())
}

fn not_supported(what: String) -> KitError {
    KitError::NotSupported(what, "there are registry, local and inline")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: &str, attributes: &[(&str, &str)]) -> control::CacheOptionsEntry {
        let attributes = attributes
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        control::CacheOptionsEntry {
            r#type: kind.to_owned(),
            attrs: attributes.collect(),
        }
    }

    fn add(
        imports: Vec<control::CacheOptionsEntry>,
        exports: Vec<control::CacheOptionsEntry>,
    ) -> Result<BuildRequest> {
        let mut build = BuildRequest::default();
        let options = control::CacheOptions {
            imports,
            exports,
            ..control::CacheOptions::default()
        };
        add_caches(&mut build, Some(&options)).map(|()| build)
    }

    #[test]
    fn caches_are_read_and_the_rest_is_refused_by_name() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let imports = vec![
            entry("registry", &[("ref", "r/c")]),
            entry("local", &[("src", "/d"), ("digest", &digest)]),
        ];
        let exports = vec![
            entry("inline", &[("mode", "min")]),
            entry(
                "local",
                &[("dest", "/d"), ("mode", "max"), ("cache-mounts", "true")],
            ),
        ];
        let mut build = add(imports, exports).unwrap();
        let of_client = CacheSource::Client {
            store: "local:/d".to_owned(),
            manifest: digest.parse().unwrap(),
        };
        let named = CacheSource::Named("r/c".to_owned());
        assert_eq!(build.cache_from, [named.clone(), of_client.clone()]);
        let target = CacheTarget {
            place: CachePlace::Client("local:/d".to_owned()),
            has_all: true,
            has_mounts: true,
            ignores_errors: false,
        };
        assert_eq!((build.carries_cache, &build.cache_to[..]), (true, &[target][..]));
        // What is told twice is one cache.
        add_imports(&mut build, r#"[{"Type":"registry","Attrs":{"ref":"r/c"}}]"#).unwrap();
        assert_eq!(build.cache_from, [named, of_client]);
        assert!(add_imports(&mut build, "x").is_err());
        for (imports, exports, word) in [
            (vec![entry("gha", &[])], vec![], "gha"),
            (vec![entry("registry", &[])], vec![], "ref"),
            (vec![entry("local", &[("src", "/d")])], vec![], "digest"),
            (
                vec![entry("local", &[("src", "/d"), ("digest", "x")])],
                vec![],
                "digest",
            ),
            (vec![], vec![entry("s3", &[])], "s3"),
            (vec![], vec![entry("local", &[])], "dest"),
            (vec![], vec![entry("inline", &[("mode", "max")])], "inline"),
        ] {
            let error = add(imports, exports).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
