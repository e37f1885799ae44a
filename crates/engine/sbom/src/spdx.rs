//! The list of packages as an SPDX 2.3 document in JSON (<https://spdx.github.io/spdx-spec/v2.3/>). The same packages of
//! the same image give the same bytes.

use crate::{Distribution, Ecosystem, Package};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fmt::Write;

const NO_ASSERTION: &str = "NOASSERTION";
const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const IMAGE: &str = "SPDXRef-Image";

/// The image that the packages were found in.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// As the user named it.
    pub name: &'a str,
    /// `sha256:…` of its configuration.
    pub digest: &'a str,
    /// RFC 3339, in UTC.
    pub created: &'a str,
    pub distribution: Option<&'a Distribution>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    spdx_version: &'static str,
    data_license: &'static str,
    #[serde(rename = "SPDXID")]
    id: &'static str,
    name: &'a str,
    #[serde(rename = "documentNamespace")]
    namespace: String,
    creation_info: CreationInfo,
    packages: Vec<Entry<'a>>,
    relationships: Vec<Relationship<'a>>,
}

#[derive(Serialize)]
struct CreationInfo {
    created: String,
    creators: [String; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    #[serde(rename = "SPDXID")]
    id: String,
    name: &'a str,
    version_info: &'a str,
    download_location: &'static str,
    files_analyzed: bool,
    license_concluded: &'static str,
    license_declared: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    license_comments: Option<String>,
    copyright_text: &'static str,
    primary_package_purpose: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_info: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    external_refs: Vec<ExternalReference>,
}

#[derive(Serialize)]
struct ExternalReference {
    #[serde(rename = "referenceCategory")]
    category: &'static str,
    #[serde(rename = "referenceType")]
    kind: &'static str,
    #[serde(rename = "referenceLocator")]
    locator: String,
}

#[derive(Serialize)]
struct Relationship<'a> {
    #[serde(rename = "spdxElementId")]
    from: &'static str,
    #[serde(rename = "relationshipType")]
    kind: &'static str,
    #[serde(rename = "relatedSpdxElement")]
    to: &'a str,
}

/// The document, indented, for packages in order and without doubles.
pub fn document(subject: Subject<'_>, packages: &[Package]) -> String {
    let entries: Vec<Entry<'_>> = std::iter::once(image_entry(subject))
        .chain(
            packages
                .iter()
                .map(|package| entry(package, subject.distribution)),
        )
        .collect();
    let ids: Vec<String> = entries.iter().map(|entry| entry.id.clone()).collect();
    let relationships = ids.iter().enumerate().map(|(at, id)| Relationship {
        from: if at == 0 { DOCUMENT } else { IMAGE },
        kind: if at == 0 { "DESCRIBES" } else { "CONTAINS" },
        to: id,
    });
    let document = Document {
        spdx_version: "SPDX-2.3",
        data_license: "CC0-1.0",
        id: DOCUMENT,
        name: subject.name,
        // Only a name: one for each image.
        namespace: format!(
            "https://spdx.org/spdxdocs/naru-{}",
            subject.digest.replace(':', "-")
        ),
        creation_info: CreationInfo {
            created: whole_seconds(subject.created),
            creators: [format!("Tool: naru-{}", env!("CARGO_PKG_VERSION"))],
        },
        relationships: relationships.collect(),
        packages: entries,
    };
    serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"
}

/// SPDX has no fractions of a second.
fn whole_seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None if time.is_empty() => "1970-01-01T00:00:00Z".to_owned(),
        None => time.to_owned(),
    }
}

fn image_entry(subject: Subject<'_>) -> Entry<'_> {
    Entry {
        id: IMAGE.to_owned(),
        name: subject.name,
        version_info: subject.digest,
        download_location: NO_ASSERTION,
        files_analyzed: false,
        license_concluded: NO_ASSERTION,
        license_declared: NO_ASSERTION,
        license_comments: None,
        copyright_text: NO_ASSERTION,
        primary_package_purpose: "CONTAINER",
        source_info: None,
        external_refs: Vec::new(),
    }
}

fn entry<'a>(package: &'a Package, distribution: Option<&Distribution>) -> Entry<'a> {
    let purl = package_url(package, distribution);
    let stated = package.license.as_deref();
    let valid = stated.filter(|text| spdx::Expression::parse(text).is_ok());
    Entry {
        id: format!(
            "SPDXRef-Package-{}-{}",
            package.ecosystem.purl_type(),
            short_digest(&purl)
        ),
        name: &package.name,
        version_info: &package.version,
        download_location: NO_ASSERTION,
        files_analyzed: false,
        license_concluded: NO_ASSERTION,
        license_declared: valid.unwrap_or(NO_ASSERTION),
        license_comments: stated
            .filter(|_| valid.is_none())
            .map(|text| format!("the package states: {text}")),
        copyright_text: NO_ASSERTION,
        primary_package_purpose: "LIBRARY",
        source_info: package
            .origin
            .as_ref()
            .map(|origin| format!("built from the source package {origin}")),
        external_refs: vec![ExternalReference {
            category: "PACKAGE-MANAGER",
            kind: "purl",
            locator: purl,
        }],
    }
}

fn short_digest(text: &str) -> String {
    let mut short = String::new();
    for byte in &Sha256::digest(text)[..8] {
        let _ = write!(short, "{byte:02x}");
    }
    short
}

/// `pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12`
pub fn package_url(package: &Package, distribution: Option<&Distribution>) -> String {
    let name = match package.ecosystem {
        Ecosystem::Python => package.name.to_lowercase().replace('_', "-"),
        _ => package.name.clone(),
    };
    let kind = package.ecosystem.purl_type();
    let namespace = match (package.ecosystem, distribution) {
        (Ecosystem::Debian, None) => "debian",
        (Ecosystem::Alpine, None) => "alpine",
        (Ecosystem::Debian | Ecosystem::Alpine, Some(distribution)) => &distribution.id,
        _ => "",
    };
    let mut url = format!("pkg:{kind}/");
    if !namespace.is_empty() {
        let _ = write!(url, "{}/", escape(namespace));
    }
    // The scope of a module is its namespace.
    let parts: Vec<String> = name.split('/').map(escape).collect();
    let _ = write!(url, "{}@{}", parts.join("/"), escape(&package.version));
    if !namespace.is_empty() {
        let mut qualifiers = Vec::new();
        qualifiers.extend(
            package
                .architecture
                .as_ref()
                .map(|arch| format!("arch={}", escape(arch))),
        );
        qualifiers.extend(distribution.map(|system| {
            let separator = if system.version.is_empty() { "" } else { "-" };
            format!(
                "distro={}{separator}{}",
                escape(&system.id),
                escape(&system.version)
            )
        }));
        if !qualifiers.is_empty() {
            let _ = write!(url, "?{}", qualifiers.join("&"));
        }
    }
    url
}

fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' | b':' => {
                escaped.push(char::from(byte));
            }
            _ => {
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(ecosystem: Ecosystem, name: &str, version: &str) -> Package {
        Package::new(ecosystem, name, version)
    }

    #[test]
    fn package_urls_follow_their_specification() {
        let debian = Distribution::parse("ID=debian\nVERSION_ID=\"12\"\n").unwrap();
        let mut libstdcxx = package(Ecosystem::Debian, "libstdc++6", "1:12.2.0-14");
        libstdcxx.architecture = Some("amd64".to_owned());
        assert_eq!(
            package_url(&libstdcxx, Some(&debian)),
            "pkg:deb/debian/libstdc%2B%2B6@1:12.2.0-14?arch=amd64&distro=debian-12"
        );
        let cases = [
            (
                package(Ecosystem::Node, "@babel/core", "7.0.0"),
                "pkg:npm/%40babel/core@7.0.0",
            ),
            (
                package(Ecosystem::Python, "Flask_Login", "0.6"),
                "pkg:pypi/flask-login@0.6",
            ),
            (
                package(Ecosystem::Rust, "serde", "1.0.0+x"),
                "pkg:cargo/serde@1.0.0%2Bx",
            ),
        ];
        for (package, url) in cases {
            assert_eq!(package_url(&package, Some(&debian)), url);
        }
    }

    #[test]
    fn licences_are_declared_only_where_spdx_knows_them() {
        let mut known = package(Ecosystem::Alpine, "a", "1");
        known.license = Some("MIT AND BSD-2-Clause".to_owned());
        let mut unknown = package(Ecosystem::Python, "b", "1");
        unknown.license = Some("BSD, see file".to_owned());
        let subject = Subject {
            name: "x:1",
            digest: "sha256:ab",
            created: "2024-05-06T07:08:09.123456789Z",
            distribution: None,
        };
        let text = document(subject, &[known, unknown]);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["packages"][1]["licenseDeclared"], "MIT AND BSD-2-Clause");
        assert_eq!(value["packages"][2]["licenseDeclared"], "NOASSERTION");
        assert_eq!(
            value["packages"][2]["licenseComments"],
            "the package states: BSD, see file"
        );
        assert_eq!(value["creationInfo"]["created"], "2024-05-06T07:08:09Z");
        assert_eq!(value["relationships"][0]["relationshipType"], "DESCRIBES");
        assert_eq!(
            value["relationships"][2]["relatedSpdxElement"],
            value["packages"][2]["SPDXID"]
        );
    }
}
