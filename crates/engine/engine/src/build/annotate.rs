//! What the documents of a build's result are to be annotated with, in BuildKit's words for it. Pure.
//!
//! ```text
//!  annotation.KEY                          the image's manifest
//!  annotation-manifest-descriptor.KEY      where that is listed; `-index`, `-index-descriptor` likewise
//!  annotation-manifest[linux/amd64].KEY    for one platform
//! ```

use super::BuildRequest;
use crate::error::{EngineError, Result};
use naru_content::Annotations;
use naru_oci::Platform;
use std::collections::BTreeMap;

const PREFIX: &str = "annotation";

/// Annotations that a build is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnnotateRequest(Vec<Wanted>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    document: Document,
    platform: Option<Platform>,
    key: String,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Document {
    Manifest,
    ManifestDescriptor,
    Index,
    IndexDescriptor,
}

impl Document {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "" | "manifest" => Some(Self::Manifest),
            "manifest-descriptor" => Some(Self::ManifestDescriptor),
            "index" => Some(Self::Index),
            "index-descriptor" => Some(Self::IndexDescriptor),
            _ => None,
        }
    }

    fn of(self, annotations: &mut Annotations) -> &mut BTreeMap<String, String> {
        match self {
            Self::Manifest => &mut annotations.manifest,
            Self::ManifestDescriptor => &mut annotations.manifest_descriptor,
            Self::Index => &mut annotations.index,
            Self::IndexDescriptor => &mut annotations.index_descriptor,
        }
    }
}

impl BuildRequest {
    /// Decides what the result gets. An annotation with no place in it is an error.
    pub(super) fn annotations(&self) -> Result<Annotations> {
        let platform = self.platform.clone().unwrap_or_else(Platform::host);
        self.annotate.settle(&platform, !self.attest.is_empty())
    }
}

impl AnnotateRequest {
    /// Whether this attribute of an output asks for an annotation.
    pub fn is_meant(attribute: &str) -> bool {
        let rest = attribute.strip_prefix(PREFIX);
        rest.is_some_and(|rest| rest.starts_with(['.', '-', '[']))
    }

    /// Adds what an attribute asks for; of one key the last counts.
    pub fn add(&mut self, attribute: &str, value: &str) -> Result<()> {
        let wrong =
            |what: &str| EngineError::invalid(format!("invalid annotation {attribute}={value}: {what}"));
        let rest = attribute.strip_prefix(PREFIX).unwrap_or_default();
        let place_ends = rest.find(']').unwrap_or(0);
        let (place, key) = rest
            .match_indices('.')
            .find(|(at, _)| *at >= place_ends)
            .map(|(at, _)| (&rest[..at], &rest[at + 1..]))
            .filter(|(_, key)| !key.is_empty())
            .ok_or_else(|| wrong("it has no key"))?;
        let (document, platform) = match place.strip_suffix(']').and_then(|place| place.split_once('[')) {
            Some((document, platform)) => {
                let platform = Platform::parse(platform);
                (
                    document,
                    Some(platform.ok_or_else(|| wrong("there is no such platform"))?),
                )
            }
            None => (place, None),
        };
        let document = Document::parse(document.strip_prefix('-').unwrap_or(document)).ok_or_else(|| {
            wrong("there are manifest, manifest-descriptor, index and index-descriptor to annotate")
        })?;
        self.0.push(Wanted {
            document,
            platform,
            key: key.to_owned(),
            value: value.to_owned(),
        });
        Ok(())
    }

    /// Adds what another output asks for: an image has its annotations wherever it goes.
    pub fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    fn settle(&self, platform: &Platform, is_attested: bool) -> Result<Annotations> {
        let mut annotations = Annotations::default();
        for wanted in &self.0 {
            let key = &wanted.key;
            if let Some(other) = wanted.platform.as_ref().filter(|other| !other.fits(platform)) {
                return Err(EngineError::invalid(format!(
                    "cannot annotate with {key} for the platform {other}: the build is for {platform}"
                )));
            }
            if !is_attested && matches!(wanted.document, Document::Index | Document::IndexDescriptor) {
                return Err(EngineError::invalid(format!(
                    "cannot annotate an index with {key}: an image for one platform has one only where something is \
                     attested of it; annotate its manifest, or ask for --provenance or --sbom"
                )));
            }
            let place = wanted.document.of(&mut annotations);
            place.insert(key.clone(), wanted.value.clone());
        }
        Ok(annotations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(attributes: &[&str], is_attested: bool) -> Result<Annotations> {
        let mut request = AnnotateRequest::default();
        for attribute in attributes {
            request.add(attribute, "v")?;
        }
        request.settle(&Platform::parse("linux/amd64").unwrap(), is_attested)
    }

    #[test]
    fn attributes_name_their_document() {
        let found = settled(
            &[
                "annotation.org.example.title",
                "annotation-manifest[linux/amd64].b",
                "annotation-manifest-descriptor.c.d",
                "annotation-index.e",
                "annotation-index-descriptor.f",
            ],
            true,
        );
        let found = found.unwrap();
        let keys = |map: &BTreeMap<String, String>| map.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&found.manifest), ["b", "org.example.title"]);
        assert_eq!(keys(&found.manifest_descriptor), ["c.d"]);
        assert_eq!(
            (keys(&found.index), keys(&found.index_descriptor)),
            (vec!["e".to_owned()], vec!["f".to_owned()])
        );
        assert!(
            AnnotateRequest::is_meant("annotation[linux/amd64].x")
                && !AnnotateRequest::is_meant("annotations")
        );
    }

    #[test]
    fn what_has_no_place_is_refused_with_its_reason() {
        for (attribute, words) in [
            ("annotation", "no key"),
            ("annotation.", "no key"),
            ("annotation-nosuch.k", "index-descriptor to annotate"),
            ("annotation-manifest[a/b/c/d].k", "no such platform"),
            (
                "annotation-manifest[linux/arm64].k",
                "linux/arm64: the build is for linux/amd64",
            ),
            ("annotation-index.k", "--provenance"),
        ] {
            let error = settled(&[attribute], false).unwrap_err().to_string();
            assert!(error.contains(words), "{attribute}: {error}");
        }
    }
}
