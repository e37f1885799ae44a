//! Manifests and indexes, OCI's and Docker's, and how to tell one from the other.
//!
//! The same bytes must never be read as a manifest by one program and as an index by another (CVE-2021-41190):
//! [`ManifestDocument::parse`] refuses a document that has members of both, or that says it is something else than
//! its members or its descriptor do.

use crate::media_type;
use naru_base::Digest;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Why a document is not a manifest or index that is safe to use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    #[error("not a manifest: {0}")]
    Malformed(String),
    #[error("unsupported manifest schema version {0}")]
    SchemaVersion(u64),
    #[error("ambiguous manifest: it has both {0:?} and {1:?}")]
    Ambiguous(&'static str, &'static str),
    #[error("manifest says it is {found:?} but is used as {expected:?}")]
    MediaType { expected: String, found: String },
    #[error("unsupported manifest media type {0:?}")]
    UnknownMediaType(String),
}

/// A pointer to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default, deserialize_with = "null_default")]
    pub media_type: String,
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub urls: Vec<String>,
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// Of a blob, and nothing more.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
        }
    }
}

/// What a manifest in an index is for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    #[serde(deserialize_with = "null_default")]
    pub architecture: String,
    #[serde(deserialize_with = "null_default")]
    pub os: String,
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// Reads `os/architecture/variant`, `os/architecture` or an architecture alone, as `--platform` has it. `None`
    /// where it is none of them.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts.as_slice() {
            [os, architecture, variant] => (*os, *architecture, *variant),
            [os, architecture] => (*os, *architecture, ""),
            ["linux"] => ("linux", "", ""),
            [architecture] => ("linux", *architecture, ""),
            _ => return None,
        };
        let is_word = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        if !parts.iter().all(is_word) {
            return None;
        }
        let (architecture, variant) = match (architecture, variant) {
            ("", _) => (Self::host().architecture, ""),
            ("x86_64" | "x86-64", variant) => ("amd64".to_owned(), variant),
            // Version 8 is the only one there is, and images say it or not.
            ("aarch64" | "arm64", "v8" | "8") => ("arm64".to_owned(), ""),
            ("aarch64", variant) => ("arm64".to_owned(), variant),
            ("i386", variant) => ("386".to_owned(), variant),
            (other, variant) => (other.to_owned(), variant),
        };
        Some(Self {
            architecture,
            os: os.to_owned(),
            variant: variant.to_owned(),
        })
    }

    /// Whether what is `found` will do for this one, which may leave the variant open.
    pub fn fits(&self, found: &Self) -> bool {
        let is_variant = self.variant.is_empty() || self.variant == found.variant;
        self.os == found.os && self.architecture == found.architecture && is_variant
    }

    /// What this machine runs, in Go's words for architectures.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            other => other,
        };
        Self {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
            variant: String::new(),
        }
    }
}

/// `linux/arm64/v8`.
impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() {
            return Ok(());
        }
        write!(formatter, "/{}", self.variant)
    }
}

/// One image: its configuration and its layers, bottom first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u64,
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub media_type: String,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// What it says it is; OCI's need not say so.
    pub fn own_type(&self) -> &str {
        match self.media_type.as_str() {
            "" => media_type::OCI_MANIFEST,
            told => told,
        }
    }
}

/// A list of manifests: one image for several platforms, or the content of an OCI layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    pub schema_version: u64,
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub media_type: String,
    pub manifests: Vec<Descriptor>,
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// The manifest for `platform`: the first that fits; else, when the index names no platforms, its only one.
    pub fn choose(&self, platform: &Platform) -> Option<&Descriptor> {
        let fits = |descriptor: &&Descriptor| {
            descriptor
                .platform
                .as_ref()
                .is_some_and(|offered| platform.fits(offered))
        };
        self.manifests
            .iter()
            .find(fits)
            .or(match self.manifests.as_slice() {
                [only] if only.platform.is_none() => Some(only),
                _ => None,
            })
    }
}

/// A document that is surely one or the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestDocument {
    Manifest(Manifest),
    Index(Index),
}

/// Which members a document has, before any of them is believed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl ManifestDocument {
    /// Reads a document. `expected` is the media type its descriptor or the `Content-Type` header gave, if any.
    pub fn parse(bytes: &[u8], expected: Option<&str>) -> Result<Self, DocumentError> {
        let malformed = |error: serde_json::Error| DocumentError::Malformed(error.to_string());
        let outline: Outline = serde_json::from_slice(bytes).map_err(malformed)?;
        let is_index = check_outline(&outline)?;
        check_media_type(outline.media_type.as_deref(), expected, is_index)?;
        if is_index {
            serde_json::from_slice(bytes).map(Self::Index).map_err(malformed)
        } else {
            serde_json::from_slice(bytes)
                .map(Self::Manifest)
                .map_err(malformed)
        }
    }
}

/// Tells whether the members are an index's (true) or a manifest's.
fn check_outline(outline: &Outline) -> Result<bool, DocumentError> {
    match outline.schema_version {
        Some(2) => {}
        Some(version) => return Err(DocumentError::SchemaVersion(version)),
        None => return Err(DocumentError::Malformed("schemaVersion is missing".to_owned())),
    }
    let manifest_member = match (&outline.config, &outline.layers, &outline.fs_layers) {
        (Some(_), ..) => Some("config"),
        (_, Some(_), _) => Some("layers"),
        (.., Some(_)) => Some("fsLayers"),
        _ => None,
    };
    match (manifest_member, &outline.manifests) {
        (Some(member), Some(_)) => Err(DocumentError::Ambiguous("manifests", member)),
        (None, None) => Err(DocumentError::Malformed(
            "it has neither layers nor manifests".to_owned(),
        )),
        (_, manifests) => Ok(manifests.is_some()),
    }
}

fn check_media_type(
    found: Option<&str>,
    expected: Option<&str>,
    is_index: bool,
) -> Result<(), DocumentError> {
    let found = found.filter(|text| !text.is_empty());
    let expected = expected.filter(|text| !text.is_empty());
    if let (Some(found), Some(expected)) = (found, expected)
        && found != expected
    {
        return Err(DocumentError::MediaType {
            expected: expected.to_owned(),
            found: found.to_owned(),
        });
    }
    let Some(stated) = found.or(expected) else {
        return Ok(());
    };
    let (said_index, said_manifest) = (media_type::is_index(stated), media_type::is_manifest(stated));
    if !said_index && !said_manifest {
        return Err(DocumentError::UnknownMediaType(stated.to_owned()));
    }
    if said_index != is_index {
        let actual = if is_index {
            media_type::OCI_INDEX
        } else {
            media_type::OCI_MANIFEST
        };
        return Err(DocumentError::MediaType {
            expected: actual.to_owned(),
            found: stated.to_owned(),
        });
    }
    Ok(())
}

fn null_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor() -> String {
        format!(
            r#"{{"mediaType":"x","digest":"sha256:{}","size":2}}"#,
            "0".repeat(64)
        )
    }

    #[test]
    fn a_manifest_and_an_index_are_told_apart() {
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{0},"layers":[{0}]}}"#,
            descriptor()
        );
        assert!(matches!(
            ManifestDocument::parse(manifest.as_bytes(), None),
            Ok(ManifestDocument::Manifest(_))
        ));
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, descriptor());
        let parsed = ManifestDocument::parse(index.as_bytes(), Some(media_type::OCI_INDEX));
        assert!(matches!(parsed, Ok(ManifestDocument::Index(_))));
    }

    #[test]
    fn a_document_that_is_both_is_refused() {
        let both = format!(
            r#"{{"schemaVersion":2,"manifests":[],"config":{0},"layers":[]}}"#,
            descriptor()
        );
        assert_eq!(
            ManifestDocument::parse(both.as_bytes(), None),
            Err(DocumentError::Ambiguous("manifests", "config"))
        );
    }

    #[test]
    fn a_document_that_lies_about_its_type_is_refused() {
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{1}","config":{0},"layers":[]}}"#,
            descriptor(),
            media_type::OCI_INDEX
        );
        assert!(matches!(
            ManifestDocument::parse(text.as_bytes(), None),
            Err(DocumentError::MediaType { .. })
        ));
        let honest = text.replace(media_type::OCI_INDEX, media_type::OCI_MANIFEST);
        assert!(ManifestDocument::parse(honest.as_bytes(), Some(media_type::OCI_MANIFEST)).is_ok());
        assert!(matches!(
            ManifestDocument::parse(honest.as_bytes(), Some(media_type::DOCKER_MANIFEST)),
            Err(DocumentError::MediaType { .. })
        ));
    }

    #[test]
    fn garbage_is_a_typed_error() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"schemaVersion":1}"#,
            r#"{"schemaVersion":2}"#,
            "\u{0}",
        ] {
            assert!(
                ManifestDocument::parse(text.as_bytes(), None).is_err(),
                "{text:?}"
            );
        }
    }

    #[test]
    fn an_index_gives_the_manifest_of_the_platform() {
        let entry = |arch: &str, digit: &str| {
            let digest = digit.repeat(64);
            format!(
                r#"{{"digest":"sha256:{digest}","size":1,"platform":{{"os":"linux","architecture":"{arch}"}}}}"#
            )
        };
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#,
            entry("arm64", "1"),
            entry("amd64", "2")
        );
        let Ok(ManifestDocument::Index(index)) = ManifestDocument::parse(text.as_bytes(), None) else {
            panic!()
        };
        let wanted = Platform {
            architecture: "amd64".into(),
            os: "linux".into(),
            variant: String::new(),
        };
        assert!(index.choose(&wanted).unwrap().digest.hex().starts_with('2'));
    }
}
