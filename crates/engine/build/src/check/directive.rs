//! `# check=skip=RULE,…;error=true;experimental=all`: what a file says of its own checks.

use crate::dockerfile::Dockerfile;
use crate::error::{DockerfileError, Place, Result, nearest};
use std::collections::BTreeSet;

/// Rules that find much in good files: they are asked for by name, or by `all`.
const EXPERIMENTAL: &[&str] = &["InvalidDefinitionDescription"];

const KEYS: &[&str] = &["skip", "error", "experimental"];

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directive {
    /// In lower case; `all` is a word like others.
    skipped: BTreeSet<String>,
    experimental: BTreeSet<String>,
    pub is_error: bool,
}

impl Directive {
    /// The file's own, or `given` in its place.
    pub(super) fn read(file: &Dockerfile, given: Option<&str>) -> Result<Self> {
        let own = file.check.as_ref();
        let (text, place) = match (given, own) {
            (Some(text), _) => (text, Place::default()),
            (None, Some(line)) => (line.value.as_str(), line.place),
            (None, None) => return Ok(Self::default()),
        };
        Self::parse(text).map_err(|message| DockerfileError::new(place, message))
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let mut directive = Self::default();
        for field in text.split(';').map(str::trim).filter(|field| !field.is_empty()) {
            let (key, value) = field.split_once('=').unwrap_or((field, ""));
            let words = || {
                let words = value.split(',').map(|word| word.trim().to_ascii_lowercase());
                words.filter(|word| !word.is_empty()).collect()
            };
            match key.trim() {
                "skip" => directive.skipped = words(),
                "experimental" => directive.experimental = words(),
                "error" => {
                    directive.is_error = match value.trim().to_ascii_lowercase().as_str() {
                        "true" | "1" => true,
                        "false" | "0" => false,
                        other => {
                            return Err(format!(
                                "error={other} of the check directive must be true or false"
                            ));
                        }
                    }
                }
                other => {
                    let near = super::meant(nearest(other, KEYS), "");
                    return Err(format!("unknown word {other} in the check directive{near}"));
                }
            }
        }
        Ok(directive)
    }

    pub(super) fn wants(&self, rule: &str) -> bool {
        let has =
            |words: &BTreeSet<String>| words.contains("all") || words.contains(&rule.to_ascii_lowercase());
        !has(&self.skipped) && (!EXPERIMENTAL.contains(&rule) || has(&self.experimental))
    }
}
