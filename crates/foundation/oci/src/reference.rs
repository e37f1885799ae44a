//! Names of images, read as Docker reads them (the grammar of `distribution/reference`).
//!
//! `debian` is short for `docker.io/library/debian:latest`; the long form is canonical and what is stored, the short
//! one is familiar and what people see. Error texts are Docker's.

use crate::Platform;
use naru_base::Digest;
use std::fmt;
use std::str::FromStr;

const DEFAULT_DOMAIN: &str = "docker.io";
/// What Docker's hub called itself at first; still read as [`DEFAULT_DOMAIN`].
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
pub const DEFAULT_TAG: &str = "latest";
/// Limit of the grammar on domain and path together.
const NAME_BYTES_MAX: usize = 255;
/// Limit of the grammar on a tag.
const TAG_BYTES_MAX: usize = 128;

/// Why a text is not an image reference; the messages are Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("invalid reference format")]
    InvalidFormat,
    #[error("invalid reference format: repository name must be lowercase")]
    Uppercase,
    #[error("repository name must have at least one component")]
    Empty,
    #[error("repository name must not be more than 255 characters")]
    TooLong,
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
    #[error("invalid tag format")]
    InvalidTag,
    #[error("unsupported digest algorithm")]
    UnsupportedDigest,
    #[error("invalid checksum digest length")]
    InvalidDigestLength,
}

/// A normalised image name with an optional tag and digest. Without either it names a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// What a person may mean by an image: an id, or a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnyReference {
    /// A whole id, with or without `sha256:`.
    Id(Digest),
    Named(Reference),
}

impl AnyReference {
    /// Reads a whole id or a name. A prefix of an id reads as a name; the caller tries both.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if is_hex64(text)
            && let Ok(digest) = format!("sha256:{text}").parse()
        {
            return Ok(Self::Id(digest));
        }
        match text.parse() {
            Ok(digest) => Ok(Self::Id(digest)),
            Err(_) => Reference::parse(text).map(Self::Named),
        }
    }
}

impl Reference {
    /// Reads a name as people write it and normalises it; adds no tag.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if is_hex64(text) {
            return Err(ReferenceError::LooksLikeId(text.to_owned()));
        }
        if text.is_empty() {
            return Err(ReferenceError::InvalidFormat);
        }
        let (domain, remainder) = split_domain(text);
        let (rest, digest) = match remainder.split_once('@') {
            Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
            None => (remainder, None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase);
        }
        if !is_domain(domain) || !path.split('/').all(is_path_component) || !tag.is_none_or(is_tag) {
            return Err(ReferenceError::InvalidFormat);
        }
        let official = domain == DEFAULT_DOMAIN && !path.contains('/');
        let path = if official {
            format!("{OFFICIAL_PREFIX}{path}")
        } else {
            path.to_owned()
        };
        if domain.len() + 1 + path.len() > NAME_BYTES_MAX {
            return Err(ReferenceError::TooLong);
        }
        Ok(Self {
            domain: domain.to_owned(),
            path,
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// The registry's host name, perhaps with a port.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry: `library/debian`.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Domain and path: `docker.io/library/debian`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// Domain and path as people see them: `debian`.
    pub fn familiar_repository(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        match self.path.strip_prefix(OFFICIAL_PREFIX) {
            Some(short) if !short.contains('/') => short.to_owned(),
            // Without its domain the path's beginning would be taken for one.
            _ if split_domain(&self.path).1 != self.path => self.repository(),
            _ => self.path.clone(),
        }
    }

    /// The whole reference as people see it: `debian:latest`.
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_repository())
    }

    /// With the tag `latest` when there is neither tag nor digest.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same repository with this tag and no digest.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::InvalidTag);
        }
        Ok(Self {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    /// The same repository with this digest and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The image's package URL (<https://github.com/package-url/purl-spec>, type `docker`), which attestations call it by:
    /// `pkg:docker/debian@12?platform=linux%2Famd64`.
    pub fn package_url(&self, platform: &Platform) -> String {
        // Of what a name may hold, only the brackets of an address are written otherwise.
        let name = self.familiar_repository().replace('[', "%5B").replace(']', "%5D");
        let tag = self.tag.as_ref().map(|tag| format!("@{tag}")).unwrap_or_default();
        let digest = self.digest.as_ref().map(|digest| format!("digest={digest}&"));
        let platform = platform.to_string().replace('/', "%2F");
        format!(
            "pkg:docker/{name}{tag}?{}platform={platform}",
            digest.unwrap_or_default()
        )
    }

    fn with_suffix(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest.as_str());
        }
        text
    }
}

impl fmt::Display for Reference {
    /// The canonical form: `docker.io/library/debian:latest`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(self.repository()))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

/// Whether the text is a valid tag.
pub fn is_tag(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= TAG_BYTES_MAX
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

/// The first component is a registry when it cannot be a plain repository component.
fn split_domain(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (
                if first == LEGACY_DEFAULT_DOMAIN {
                    DEFAULT_DOMAIN
                } else {
                    first
                },
                rest,
            )
        }
        _ => (DEFAULT_DOMAIN, text),
    }
}

fn is_hex64(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            if !is_ipv6(address) {
                return false;
            }
            return rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    host.split('.').all(is_domain_component) && port.is_none_or(is_port)
}

fn is_ipv6(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b':')
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_domain_component(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Runs of lowercase letters and digits, joined by one `.`, one or two `_`, or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends_plain = |end: Option<&u8>| end.is_some_and(|b| is_plain(*b));
    if !ends_plain(bytes.first()) || !ends_plain(bytes.last()) {
        return false;
    }
    text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

fn parse_digest(text: &str) -> Result<Digest, ReferenceError> {
    let Some((algorithm, hex)) = text.split_once(':') else {
        return Err(ReferenceError::InvalidFormat);
    };
    let well_formed = hex.len() >= 32
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
        && algorithm.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && algorithm
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'+' | b'.'));
    if !well_formed {
        return Err(ReferenceError::InvalidFormat);
    }
    if algorithm != "sha256" {
        return Err(ReferenceError::UnsupportedDigest);
    }
    text.parse().map_err(|_| ReferenceError::InvalidDigestLength)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        Reference::parse(text).unwrap().to_string()
    }

    #[test]
    fn a_path_like_a_domain_keeps_its_domain() {
        let reference = Reference::parse("docker.io/quay.io/a/b:1").unwrap();
        assert_eq!(reference.familiar(), "docker.io/quay.io/a/b:1");
        assert_eq!(Reference::parse(&reference.familiar()), Ok(reference));
    }

    #[test]
    fn package_urls_name_images_as_people_do() {
        let platform = Platform::parse("linux/arm/v7").unwrap();
        for (name, url) in [
            ("debian:12", "pkg:docker/debian@12?platform=linux%2Farm%2Fv7"),
            (
                "[::1]:5000/a/b:c",
                "pkg:docker/%5B::1%5D:5000/a/b@c?platform=linux%2Farm%2Fv7",
            ),
        ] {
            assert_eq!(Reference::parse(name).unwrap().package_url(&platform), url);
        }
    }

    #[test]
    fn names_are_normalised_as_docker_does() {
        let cases = [
            ("debian", "docker.io/library/debian"),
            ("debian:12", "docker.io/library/debian:12"),
            ("user/app", "docker.io/user/app"),
            ("docker.io/debian", "docker.io/library/debian"),
            ("index.docker.io/library/debian", "docker.io/library/debian"),
            ("localhost/app", "localhost/app"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("registry.example.com/a/b/c", "registry.example.com/a/b/c"),
            ("LOCAL/app", "LOCAL/app"),
            ("a__b.c--d", "docker.io/library/a__b.c--d"),
            ("[::1]:5000/app", "[::1]:5000/app"),
        ];
        for (text, expected) in cases {
            assert_eq!(canonical(text), expected);
        }
    }

    #[test]
    fn the_familiar_form_is_what_people_wrote() {
        for text in [
            "debian:12",
            "user/app:x",
            "localhost:5000/app:v1",
            "library/a/b:c",
        ] {
            assert_eq!(Reference::parse(text).unwrap().familiar(), text);
        }
        assert_eq!(
            Reference::parse("docker.io/library/debian")
                .unwrap()
                .or_latest()
                .familiar(),
            "debian:latest"
        );
        let digest = format!("debian@sha256:{}", "a".repeat(64));
        assert_eq!(Reference::parse(&digest).unwrap().or_latest().familiar(), digest);
    }

    #[test]
    fn wrong_names_get_dockers_words() {
        let invalid = [
            "",
            ":",
            "a//b",
            "-a",
            "a..b",
            "a___b",
            "a/",
            "a:",
            "a:-x",
            "a b",
            "a@sha256:12",
            "../x",
            "é",
        ];
        for text in invalid {
            let error = Reference::parse(text).unwrap_err();
            assert_eq!(error.to_string(), "invalid reference format", "{text:?}");
        }
        assert!(
            Reference::parse("Debian")
                .unwrap_err()
                .to_string()
                .contains("repository name must be lowercase")
        );
        assert!(matches!(
            Reference::parse(&"a".repeat(64)),
            Err(ReferenceError::LooksLikeId(_))
        ));
        assert_eq!(
            Reference::parse("a/".repeat(130).trim_end_matches('/')),
            Err(ReferenceError::TooLong)
        );
        assert!(Reference::parse(&format!("a:{}", "t".repeat(129))).is_err());
    }

    #[test]
    fn ids_and_names_are_told_apart() {
        assert!(matches!(
            AnyReference::parse(&"a".repeat(64)),
            Ok(AnyReference::Id(_))
        ));
        assert!(matches!(
            AnyReference::parse(&format!("sha256:{}", "a".repeat(64))),
            Ok(AnyReference::Id(_))
        ));
        assert!(matches!(
            AnyReference::parse("abc123"),
            Ok(AnyReference::Named(_))
        ));
    }
}
