//! What a build is to give: images, archives and files, asked for in BuildKit's words.
//!
//! ```text
//!  moby, image, registry          an image in the list, under names; pushed where that is asked for
//!  docker, oci                    an archive that the client writes; `docker` of the session form: an image
//!  tar                            the image's files as an archive
//!  local                          the image's files, entry by entry (see `filesend`)
//! ```

use crate::error::{KitError, Result};
use naru_engine::{AnnotateRequest, EngineError};
use std::collections::HashMap;

/// One output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub kind: OutputKind,
    /// The client's number for it, where it has several.
    pub number: Option<usize>,
    /// What the image's documents are annotated with.
    pub annotate: AnnotateRequest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputKind {
    Image {
        names: Vec<String>,
        is_pushed: bool,
    },
    /// An archive of the image, by which another engine has it.
    Archive {
        names: Vec<String>,
    },
    Files,
    FilesArchive,
}

impl Output {
    /// Reads an output's type and attributes; what cannot be done is refused by its name.
    pub fn read(kind: &str, attributes: &HashMap<String, String>, number: Option<usize>) -> Result<Self> {
        let mut names = Vec::new();
        let mut is_pushed = kind == "registry";
        let mut annotate = AnnotateRequest::default();
        for (key, value) in attributes {
            let is_image = matches!(kind, "moby" | "image" | "registry" | "docker" | "oci");
            match key.as_str() {
                "name" if is_image => names.extend(list(value)),
                "push" if matches!(kind, "image" | "registry") => is_pushed = read_truth(key, value)?,
                key if is_image && AnnotateRequest::is_meant(key) => annotate.add(key, value)?,
                // How it is made here anyway.
                "oci-mediatypes" if is_image => {}
                "store" | "unpack" | "tar" | "rewrite-timestamp" | "platform-split" => {
                    let meant = key != "platform-split";
                    if read_truth(key, value)? != meant {
                        return Err(not_supported(kind, key, value));
                    }
                }
                "compression" if is_image && value == "gzip" => {}
                "force-compression" | "buildinfo" if value == "false" => {}
                // Where the client writes it is its own business.
                "dest" | "type" => {}
                _ => return Err(not_supported(kind, key, value)),
            }
        }
        let kind = match kind {
            "moby" | "image" | "registry" => {
                if is_pushed && names.is_empty() {
                    return Err(EngineError::invalid(format!(
                        "the output type={kind} needs a name to be pushed by: name=…"
                    ))
                    .into());
                }
                OutputKind::Image { names, is_pushed }
            }
            "docker" | "oci" => OutputKind::Archive { names },
            "tar" => OutputKind::FilesArchive,
            "local" => OutputKind::Files,
            other => {
                return Err(KitError::NotSupported(
                    format!("the output type={other}"),
                    "there are local, tar, oci, docker, image and registry",
                ));
            }
        };
        Ok(Self {
            kind,
            number,
            annotate,
        })
    }

    /// Whether the image is to be in the list.
    pub fn is_image(&self) -> bool {
        matches!(self.kind, OutputKind::Image { .. })
    }
}

/// Every name that the image gets somewhere, as what is attested calls it.
pub fn all_names_of(outputs: &[Output]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for output in outputs {
        let (OutputKind::Image { names, .. } | OutputKind::Archive { names }) = &output.kind else {
            continue;
        };
        for name in names {
            if !all.contains(name) {
                all.push(name.clone());
            }
        }
    }
    all
}

/// The names that an image gets by its outputs.
pub fn names_of(outputs: &[Output]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for output in outputs {
        if let OutputKind::Image { names: own, .. } = &output.kind {
            names.extend(
                own.iter()
                    .filter(|name| !names.contains(name))
                    .cloned()
                    .collect::<Vec<_>>(),
            );
        }
    }
    names
}

fn list(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
}

fn read_truth(key: &str, value: &str) -> Result<bool> {
    match value {
        "true" | "1" | "" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(EngineError::invalid(format!(
            "invalid value {other:?} of {key}: true or false is meant"
        ))
        .into()),
    }
}

fn not_supported(kind: &str, key: &str, value: &str) -> KitError {
    KitError::NotSupported(format!("{key}={value} of the output type={kind}"), "leave it out")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: &str, attributes: &[(&str, &str)]) -> Result<Output> {
        let attributes = attributes
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Output::read(kind, &attributes.collect(), None)
    }

    #[test]
    fn outputs_are_read_and_the_rest_is_refused_by_name() {
        let image = read("image", &[("name", "a,b"), ("push", "true")]).unwrap();
        assert_eq!(
            image.kind,
            OutputKind::Image {
                names: vec!["a".to_owned(), "b".to_owned()],
                is_pushed: true
            }
        );
        assert_eq!(names_of(&[image.clone(), image]), ["a", "b"]);
        assert_eq!(read("local", &[]).unwrap().kind, OutputKind::Files);
        assert_eq!(
            read("tar", &[("dest", "-")]).unwrap().kind,
            OutputKind::FilesArchive
        );
        for (kind, key, value) in [
            ("registry", "push", "true"),
            ("local", "annotation.k", "v"),
            ("image", "annotation-nosuch.k", "v"),
            ("local", "name", "x"),
            ("image", "compression", "zstd"),
            ("image", "push", "maybe"),
            ("oci", "tar", "false"),
            ("local", "platform-split", "true"),
            ("nosuch", "dest", "x"),
        ] {
            let error = read(kind, &[(key, value)]).unwrap_err().to_string();
            assert!(error.contains(kind) || error.contains(key), "{error}");
        }
    }
}
