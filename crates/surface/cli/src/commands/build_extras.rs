//! What `build` gives along that `POST /build` has no place for: secrets and further contexts, in a header of Naru's own.
//! Directories among the contexts travel in front of the context, in its archive.

use super::build::read_ignore_file;
use super::build_agents::Agents;
use super::build_attest::Attestations;
use super::build_caches::{Caches, From};
use crate::Arguments;
use crate::error::{CliError, Result};
use crate::json::Value;
use crate::tarball::Pack;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

/// What a daemon reads of a request's head is bounded; secrets are keys and passwords, not files.
const SECRETS_BYTES_MAX: usize = 128 << 10;

/// Where directories of further contexts are in the archive.
const PLACE: &str = ".naru-contexts";

#[derive(Default)]
pub struct Extras {
    /// With their content in base64.
    secrets: Vec<(String, Value)>,
    contexts: Vec<(String, Value)>,
    directories: Vec<PathBuf>,
    /// What else is wanted: names that the engine knows.
    wishes: Vec<&'static str>,
    no_cache_stages: Vec<Value>,
    entitlements: Vec<Value>,
    cache_from: Vec<Value>,
    cache_to: Vec<Value>,
    /// What is to be attested, annotations, and agents that are lent.
    further: Vec<(String, Value)>,
}

/// Whether the engine fetches this context.
pub fn is_address(source: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@"]
        .iter()
        .any(|scheme| source.starts_with(scheme))
}

/// Reads `--secret`, `--build-context`, `--no-cache-filter` and `--allow`.
pub fn read(arguments: &Arguments) -> Result<Extras> {
    let stages = arguments.list("no-cache-filter");
    let stages = stages.flat_map(|text| text.split(','));
    let mut extras = Extras {
        wishes: read_wishes(arguments)?,
        no_cache_stages: stages.map(Value::from).collect(),
        entitlements: arguments.list("allow").map(Value::from).collect(),
        ..Extras::default()
    };
    let mut bytes = 0;
    for text in arguments.list("secret") {
        let (id, content) = read_secret(text)?;
        bytes += content.len();
        if bytes > SECRETS_BYTES_MAX {
            return Err(CliError::message(format!(
                "the secrets are longer than {SECRETS_BYTES_MAX} bytes together"
            )));
        }
        extras
            .secrets
            .push((id, Value::from(BASE64_STANDARD.encode(content).as_str())));
    }
    for text in arguments.list("build-context") {
        let (name, value) = text.split_once('=').ok_or_else(|| {
            CliError::message(format!(
                "invalid build context {text:?}: it must be NAME=DIRECTORY, NAME=docker-image://IMAGE or NAME=URL"
            ))
        })?;
        let told = if is_address(value) || value.starts_with("docker-image://") {
            value.to_owned()
        } else {
            extras.add_directory(name, Path::new(value))?
        };
        extras
            .contexts
            .push((name.to_owned(), Value::from(told.as_str())));
    }
    Ok(extras)
}

fn read_wishes(arguments: &Arguments) -> Result<Vec<&'static str>> {
    let mut wishes = Vec::new();
    if arguments.is_set("enter") {
        wishes.push("keep_failed");
    }
    if arguments.is_set("check-reproducible") {
        wishes.push("check_reproducible");
    }
    match arguments.text("timestamps") {
        None | Some("normalized") => {}
        Some("real") => wishes.push("real_times"),
        Some(other) => {
            return Err(CliError::message(format!(
                "--timestamps={other}: it must be normalized or real"
            )));
        }
    }
    Ok(wishes)
}

/// `id=ID`, then `src=FILE` or `env=VARIABLE`; with neither a variable of that name, else a file.
fn read_secret(text: &str) -> Result<(String, Vec<u8>)> {
    let (mut id, mut file, mut variable) = (None, None, None);
    for field in text.split(',') {
        let (key, value) = field.split_once('=').ok_or_else(|| {
            CliError::message(format!(
                "invalid field {field:?} of --secret: it must be key=value"
            ))
        })?;
        match key {
            "id" => id = Some(value),
            "src" | "source" => file = Some(value),
            "env" => variable = Some(value),
            "type" if ["file", "env"].contains(&value) => {}
            _ => {
                return Err(CliError::message(format!(
                    "unexpected key {key:?} in --secret {text}: use id, src, env and type"
                )));
            }
        }
    }
    let id = id
        .or(file)
        .or(variable)
        .ok_or_else(|| CliError::message(format!("--secret {text}: it has no id")))?;
    let of_variable = |name: &str| std::env::var_os(name).map(std::os::unix::ffi::OsStringExt::into_vec);
    let content =
        match (file, variable) {
            (Some(file), _) => std::fs::read(file)
                .map_err(|error| CliError::message(format!("secret {id}: {file}: {error}")))?,
            (None, Some(name)) => of_variable(name)
                .ok_or_else(|| CliError::message(format!("secret {id}: the variable {name} is not set")))?,
            (None, None) => match of_variable(id) {
                Some(content) => content,
                None => std::fs::read(id)
                    .map_err(|error| CliError::message(format!("secret {id}: {id}: {error}")))?,
            },
        };
    Ok((id.to_owned(), content))
}

impl Extras {
    /// Directories among the caches travel as those of contexts do.
    pub fn set_caches(&mut self, caches: &Caches) -> Result<()> {
        for from in &caches.from {
            let told = match from {
                From::Registry(name) => name.clone(),
                From::Image => continue,
                From::Directory(directory) if !directory.join("index.json").is_file() => {
                    crate::output::tell!("there is no cache in {} yet", directory.display());
                    continue;
                }
                From::Directory(directory) => self.add_directory("the cache", directory)?,
            };
            self.cache_from.push(Value::from(told.as_str()));
        }
        self.cache_to = caches.targets();
        if caches.is_inline() {
            self.wishes.push("inline_cache");
        }
        Ok(())
    }

    /// What is to be attested, and what statements call the image.
    pub fn set_attestations(&mut self, attestations: &Attestations, names: &[&str]) {
        if !attestations.is_empty() {
            let names = names.iter().map(|name| Value::from(*name)).collect();
            self.further.push(("attest".to_owned(), attestations.to_value()));
            self.further.push(("attest_names".to_owned(), Value::List(names)));
        }
    }

    pub fn set_annotations(&mut self, annotations: &BTreeMap<String, String>) {
        if !annotations.is_empty() {
            let all = annotations.iter();
            let all = all.map(|(attribute, value)| (attribute.clone(), Value::from(value.as_str())));
            self.further.push(("annotations".to_owned(), Value::object(all)));
        }
    }

    pub fn set_agents(&mut self, agents: &Agents) {
        let lent = agents.to_value();
        self.further.extend(lent.map(|lent| ("agents".to_owned(), lent)));
    }

    pub fn has_directories(&self) -> bool {
        !self.directories.is_empty()
    }

    pub fn set_unlisted(&mut self, unlisted: bool) {
        if unlisted {
            self.wishes.push("unlisted");
        }
    }

    fn add_directory(&mut self, name: &str, directory: &Path) -> Result<String> {
        let found = directory.canonicalize().ok().filter(|found| found.is_dir());
        let Some(found) = found else {
            return Err(CliError::message(format!(
                "build context {name}: {} is not a directory",
                directory.display()
            )));
        };
        self.directories.push(found);
        Ok(format!("archive:{}", place_of(self.directories.len())))
    }

    /// The header's value; empty where there is nothing to tell.
    pub fn header(&self) -> String {
        self.header_with(None)
    }

    /// As [`Self::header`], with a Dockerfile that is not in the context.
    pub fn header_with(&self, dockerfile: Option<&[u8]>) -> String {
        if self.secrets.is_empty()
            && self.contexts.is_empty()
            && self.wishes.is_empty()
            && self.no_cache_stages.is_empty()
            && self.entitlements.is_empty()
            && self.cache_from.is_empty()
            && self.cache_to.is_empty()
            && self.further.is_empty()
            && dockerfile.is_none()
        {
            return String::new();
        }
        let wishes = self.wishes.iter();
        let mut all: Vec<(String, Value)> = wishes
            .map(|wish| ((*wish).to_owned(), Value::from(true)))
            .collect();
        all.push(("secrets".to_owned(), Value::object(self.secrets.clone())));
        all.push(("contexts".to_owned(), Value::object(self.contexts.clone())));
        all.push((
            "no_cache_stages".to_owned(),
            Value::List(self.no_cache_stages.clone()),
        ));
        all.push(("entitlements".to_owned(), Value::List(self.entitlements.clone())));
        all.push(("cache_from".to_owned(), Value::List(self.cache_from.clone())));
        all.push(("cache_to".to_owned(), Value::List(self.cache_to.clone())));
        all.extend(self.further.iter().cloned());
        if let Some(text) = dockerfile {
            let encoded = BASE64_STANDARD.encode(text);
            all.push(("dockerfile".to_owned(), Value::from(encoded.as_str())));
        }
        BASE64_STANDARD.encode(Value::object(all).to_json())
    }

    /// Directories travel with the context, so there must be one.
    pub fn check_fetched(&self, address: &str) -> Result<()> {
        if self.directories.is_empty() {
            return Ok(());
        }
        Err(CliError::message(format!(
            "the engine fetches the context {address} itself, so no directory can be given along with --build-context"
        )))
    }

    /// The directories' archives, and the context after them.
    pub fn before(&mut self, context: Box<dyn Read>) -> Result<Box<dyn Read>> {
        let mut all: Box<dyn Read> = Box::new(std::io::empty());
        for (index, directory) in self.directories.iter().enumerate() {
            let place = place_of(index + 1);
            let pack = Pack::new(directory, Some(Path::new(&place))).map_err(|error| {
                CliError::message(format!("build context {}: {error}", directory.display()))
            })?;
            let ignore = read_ignore_file(&directory.join(".dockerignore"))?;
            all = Box::new(all.chain(pack.without(ignore).without_end()));
        }
        Ok(Box::new(all.chain(context)))
    }
}

fn place_of(number: usize) -> String {
    format!("{PLACE}/{number}")
}

/// The names that `--build-context` gives.
pub fn names_of_contexts(arguments: &Arguments) -> BTreeSet<String> {
    let contexts = arguments.list("build-context");
    contexts
        .filter_map(|text| Some(text.split_once('=')?.0.to_owned()))
        .collect()
}
