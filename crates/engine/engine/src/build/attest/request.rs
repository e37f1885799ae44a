//! What is to be attested of a build's result, as clients ask for it: a type, and `key=value` fields. Pure.

use crate::error::{EngineError, Result};
use naru_base::ErrorKind;

/// What the provenance is called among an image's files.
const PROVENANCE_FILE: &str = "provenance.json";

/// What a build is asked to attest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttestRequest {
    /// What the statements call the image; the build's own names, where there are none.
    pub names: Vec<String>,
    /// Which packages are in it.
    pub has_packages: bool,
    /// How it was built.
    pub provenance: Option<ProvenanceRequest>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenanceRequest {
    /// With the Dockerfile, the values of arguments and labels, and the ids of secrets and agents.
    pub is_full: bool,
    pub version: SlsaVersion,
    /// A URI of whoever builds.
    pub builder_id: String,
    pub file_name: String,
    /// Goes with images alone, not with files.
    pub is_inline_only: bool,
    /// The client's word that the build is reproducible.
    pub is_reproducible: bool,
}

/// The versions of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlsaVersion {
    V02,
    V1,
}

/// As BuildKit has it where nothing is said.
impl Default for ProvenanceRequest {
    fn default() -> Self {
        Self {
            is_full: true,
            version: SlsaVersion::V02,
            builder_id: String::new(),
            file_name: PROVENANCE_FILE.to_owned(),
            is_inline_only: false,
            is_reproducible: false,
        }
    }
}

impl AttestRequest {
    pub fn is_empty(&self) -> bool {
        !self.has_packages && self.provenance.is_none()
    }

    /// Adds one by its type, `sbom` or `provenance`, and its fields: `mode=max,version=v1`.
    pub fn add(&mut self, kind: &str, fields: &str) -> Result<()> {
        let fields = read_fields(kind, fields)?;
        let is_disabled = fields
            .iter()
            .any(|(key, value)| key == "disabled" && is_true(value));
        match kind {
            "sbom" => {
                read_packages(&fields)?;
                self.has_packages = !is_disabled;
            }
            "provenance" => {
                let read = read_provenance(&fields)?;
                self.provenance = (!is_disabled).then_some(read);
            }
            other => {
                return Err(EngineError::invalid(format!(
                    "there is no attestation of type {other:?}: use sbom or provenance"
                )));
            }
        }
        Ok(())
    }
}

fn is_true(value: &str) -> bool {
    matches!(value, "true" | "1")
}

/// Splits at commas; what is quoted is kept together, as in CSV.
fn read_fields(kind: &str, text: &str) -> Result<Vec<(String, String)>> {
    let mut words = vec![String::new()];
    let mut is_quoted = false;
    for letter in text.chars() {
        match (letter, words.last_mut()) {
            ('"', _) => is_quoted = !is_quoted,
            (',', _) if !is_quoted => words.push(String::new()),
            (letter, Some(word)) => word.push(letter),
            (_, None) => {}
        }
    }
    let words = words.into_iter().filter(|word| !word.is_empty());
    words
        .map(|word| match word.split_once('=') {
            Some((key, value)) => Ok((key.trim().to_owned(), value.to_owned())),
            None => Err(EngineError::invalid(format!(
                "invalid field {word:?} of the attestation {kind}: it must be key=value"
            ))),
        })
        .collect()
}

fn unknown(kind: &str, key: &str, known: &str) -> EngineError {
    EngineError::invalid(format!(
        "unknown option {key:?} of the attestation {kind}: there are {known}"
    ))
}

fn read_truth(kind: &str, key: &str, value: &str) -> Result<bool> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(EngineError::invalid(format!(
            "invalid value {other:?} for {key} of the attestation {kind}: it must be true or false"
        ))),
    }
}

fn read_packages(fields: &[(String, String)]) -> Result<()> {
    for (key, value) in fields {
        match key.as_str() {
            "disabled" => drop(read_truth("sbom", key, value)?),
            "generator" => {
                return Err(EngineError::new(
                    ErrorKind::NotImplemented,
                    format!(
                        "SBOM generators are not supported ({value}): the engine lists the packages itself; leave \
                         generator= out"
                    ),
                ));
            }
            other => return Err(unknown("sbom", other, "disabled")),
        }
    }
    Ok(())
}

fn read_provenance(fields: &[(String, String)]) -> Result<ProvenanceRequest> {
    let kind = "provenance";
    let mut read = ProvenanceRequest::default();
    for (key, value) in fields {
        let wrong = |known: &str| {
            Err(EngineError::invalid(format!(
                "invalid {key} {value:?} of the attestation {kind}: use {known}"
            )))
        };
        match key.as_str() {
            "mode" => {
                read.is_full = match value.as_str() {
                    "max" | "full" => true,
                    "min" => false,
                    _ => return wrong("min or max"),
                }
            }
            "version" => {
                read.version = match value.as_str() {
                    "v0.2" => SlsaVersion::V02,
                    "v1" => SlsaVersion::V1,
                    _ => return wrong("v0.2 or v1"),
                }
            }
            "builder-id" => read.builder_id.clone_from(value),
            "filename" if value.contains('/') || matches!(value.as_str(), "" | "." | "..") => {
                return wrong("the name of a file, without a directory");
            }
            "filename" => read.file_name.clone_from(value),
            "inline-only" => read.is_inline_only = read_truth(kind, key, value)?,
            "reproducible" => read.is_reproducible = read_truth(kind, key, value)?,
            "disabled" => drop(read_truth(kind, key, value)?),
            other => {
                let known = "mode, version, builder-id, filename, inline-only, reproducible and disabled";
                return Err(unknown(kind, other, known));
            }
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(asked: &[(&str, &str)]) -> Result<AttestRequest> {
        let mut request = AttestRequest::default();
        for (kind, fields) in asked {
            request.add(kind, fields)?;
        }
        Ok(request)
    }

    #[test]
    fn options_are_read_as_buildkit_reads_them() {
        let request = read(&[("sbom", ""), ("provenance", "")]).unwrap();
        assert!(request.has_packages && request.provenance == Some(ProvenanceRequest::default()));
        let request = read(&[(
            "provenance",
            "mode=min,version=v1,\"builder-id=https://ci/1,2\",inline-only=true,filename=how.json",
        )]);
        let wanted = ProvenanceRequest {
            is_full: false,
            version: SlsaVersion::V1,
            builder_id: "https://ci/1,2".to_owned(),
            file_name: "how.json".to_owned(),
            is_inline_only: true,
            is_reproducible: false,
        };
        assert_eq!(request.unwrap().provenance, Some(wanted));
        let off = read(&[
            ("sbom", ""),
            ("sbom", "disabled=true"),
            ("provenance", "mode=max,disabled=true"),
        ]);
        assert!(off.unwrap().is_empty());
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (kind, fields, words) in [
            ("nosuch", "", "nosuch"),
            ("sbom", "generator=docker/scanner", "docker/scanner"),
            ("sbom", "mode=max", "mode"),
            ("provenance", "mode=most", "min or max"),
            ("provenance", "version=v2", "v0.2 or v1"),
            ("provenance", "filename=../x", "without a directory"),
            ("provenance", "inline-only=maybe", "true or false"),
            ("provenance", "max", "key=value"),
        ] {
            let error = read(&[(kind, fields)]).unwrap_err().to_string();
            assert!(error.contains(words), "{kind} {fields}: {error}");
        }
    }
}
