//! The list itself, as it is shown and pushed. Pure.

use super::{Entry, Platform};
use crate::error::{CliError, Result};
use crate::json::{Value, indent_json};
use naru_oci::media_type;

/// A list as a registry is to have it.
#[derive(Debug, PartialEq, Eq)]
pub struct ManifestList {
    pub media_type: &'static str,
    pub text: String,
}

impl ManifestList {
    /// Writes the list as Docker's client does, so that both make the same digest of the same images.
    pub fn of(entries: &[Entry]) -> Self {
        let media_type = match entries.first() {
            Some(first) if first.media_type == media_type::OCI_MANIFEST => media_type::OCI_INDEX,
            _ => media_type::DOCKER_MANIFEST_LIST,
        };
        let manifests: Vec<Value> = entries.iter().map(descriptor).collect();
        let list = Value::object([
            ("schemaVersion", Value::Integer(2)),
            ("mediaType", Value::from(media_type)),
            ("manifests", Value::from(manifests)),
        ]);
        Self {
            media_type,
            text: indent_json(&list.to_escaped_json(), "   "),
        }
    }
}

/// Refuses a list with an image that no client would find by its platform.
pub fn check_complete(entries: &[Entry]) -> Result<()> {
    let lacking = entries
        .iter()
        .find(|entry| entry.platform.os.is_empty() || entry.platform.architecture.is_empty());
    match lacking {
        None => Ok(()),
        Some(entry) => Err(CliError::message(format!(
            "manifest {} must have an OS and Architecture to be pushed to a registry; say them with `manifest annotate`",
            entry.reference
        ))),
    }
}

fn descriptor(entry: &Entry) -> Value {
    let mut members = vec![
        ("mediaType", Value::from(entry.media_type.as_str())),
        ("size", Value::Unsigned(entry.size)),
        ("digest", Value::from(entry.digest.as_str())),
    ];
    if !entry.platform.is_empty() {
        members.push(("platform", entry.platform.to_value()));
    }
    Value::object(members)
}

/// Operating systems with the architectures that images are made for, in Go's words.
const PLATFORMS: &[(&str, &[&str])] = &[
    ("aix", &["ppc64"]),
    ("android", &["386", "amd64", "arm", "arm64"]),
    ("darwin", &["386", "amd64", "arm", "arm64"]),
    ("dragonfly", &["amd64"]),
    ("freebsd", &["386", "amd64", "arm", "arm64", "riscv64"]),
    ("illumos", &["amd64"]),
    ("js", &["wasm"]),
    (
        "linux",
        &[
            "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64",
            "ppc64le", "riscv64", "s390x",
        ],
    ),
    ("netbsd", &["386", "amd64", "arm", "arm64"]),
    ("openbsd", &["386", "amd64", "arm", "arm64"]),
    ("plan9", &["386", "amd64", "arm"]),
    ("solaris", &["amd64"]),
    ("wasip1", &["wasm"]),
    ("windows", &["386", "amd64", "arm", "arm64"]),
];

/// Refuses a pair that no image is made for: a mistyped architecture would be found by no client.
pub fn check_platform(platform: &Platform) -> Result<()> {
    let (os, architecture) = (platform.os.as_str(), platform.architecture.as_str());
    let is_known = PLATFORMS
        .iter()
        .any(|(name, architectures)| *name == os && architectures.contains(&architecture));
    if is_known {
        return Ok(());
    }
    Err(CliError::message(format!(
        "manifest entry for image has unsupported os/arch combination: {os}/{architecture}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::entry::tests::entry;

    fn platform(os: &str, architecture: &str) -> Platform {
        Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            ..Platform::default()
        }
    }

    #[test]
    fn a_list_is_of_the_kind_of_its_first_image() {
        let oci = entry("a", media_type::OCI_MANIFEST, platform("linux", "amd64"));
        let docker = entry("b", media_type::DOCKER_MANIFEST, platform("linux", "arm64"));
        let list = ManifestList::of(&[oci.clone(), docker.clone()]);
        assert_eq!(list.media_type, media_type::OCI_INDEX);
        assert!(
            list.text
                .starts_with("{\n   \"schemaVersion\": 2,\n   \"mediaType\"")
        );
        let list = ManifestList::of(&[docker, oci]);
        assert_eq!(list.media_type, media_type::DOCKER_MANIFEST_LIST);
    }

    #[test]
    fn an_image_without_a_platform_is_named() {
        let bare = entry("h/a:b", media_type::OCI_MANIFEST, Platform::default());
        let error = check_complete(&[bare]).unwrap_err().to_string();
        assert!(error.contains("manifest h/a:b must have an OS"), "{error}");
    }

    #[test]
    fn platforms_that_nobody_has_are_refused() {
        assert!(check_platform(&platform("linux", "riscv64")).is_ok());
        for (os, architecture) in [("linux", "bogus"), ("", "amd64"), ("windows", "s390x")] {
            assert!(check_platform(&platform(os, architecture)).is_err());
        }
    }
}
