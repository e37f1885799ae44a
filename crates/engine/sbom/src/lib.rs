//! Which packages a file of an image tells of, and their list as an SPDX document. Pure: whoever walks the image gives
//! each file's path and bytes.
//!
//! ```text
//!  path ──▶ Source::of ──▶ bytes ──▶ Source::read ──▶ Told: packages, distribution ──▶ spdx::document
//! ```
//! Only what says of itself that it is installed counts: the databases of `dpkg` and `apk`, the metadata that `pip`,
//! `npm` and `cargo install` leave, and the list that `cargo auditable` puts into programs. A file that is broken tells
//! of what can be read before the break; none makes this fail.

mod alpine;
mod debian;
mod distribution;
mod node;
mod python;
mod rust;
pub mod spdx;

pub use distribution::Distribution;

/// One installed package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    pub ecosystem: Ecosystem,
    pub name: String,
    pub version: String,
    /// The processor architecture in the ecosystem's own word.
    pub architecture: Option<String>,
    /// The source package it was built from, where that has another name.
    pub origin: Option<String>,
    /// As the package itself states it.
    pub license: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ecosystem {
    Debian,
    Alpine,
    Python,
    Node,
    Rust,
}

impl Ecosystem {
    /// The type in a package URL (<https://github.com/package-url/purl-spec>).
    pub fn purl_type(self) -> &'static str {
        match self {
            Self::Debian => "deb",
            Self::Alpine => "apk",
            Self::Python => "pypi",
            Self::Node => "npm",
            Self::Rust => "cargo",
        }
    }
}

impl Package {
    fn new(ecosystem: Ecosystem, name: &str, version: &str) -> Self {
        Self {
            ecosystem,
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: None,
            origin: None,
            license: None,
        }
    }
}

/// A kind of file that tells of packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `/var/lib/dpkg/status`, and its pieces in images without a package manager.
    DpkgStatus,
    /// `/lib/apk/db/installed`.
    ApkInstalled,
    /// `METADATA` or `PKG-INFO` of an installed distribution.
    PythonMetadata,
    /// `package.json` of a module in `node_modules`.
    NodeModule,
    /// `.crates2.json` of `cargo install`.
    CargoInstalls,
    /// A program, which may hold the list of what it was built from.
    Program,
    /// `/etc/os-release`, and the file it links to.
    OsRelease,
}

/// What one file tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    pub packages: Vec<Package>,
    pub distribution: Option<Distribution>,
}

/// More than this of one file is not looked at.
pub const FILE_BYTES_MAX: u64 = 256 << 20;

impl Source {
    /// From a file's path without a leading slash, and its mode.
    pub fn of(path: &str, mode: u32) -> Option<Self> {
        let name = path.rsplit('/').next().unwrap_or(path);
        match path {
            "var/lib/dpkg/status" => return Some(Self::DpkgStatus),
            "etc/os-release" | "usr/lib/os-release" => return Some(Self::OsRelease),
            "lib/apk/db/installed" | "usr/lib/apk/db/installed" => return Some(Self::ApkInstalled),
            _ => {}
        }
        if path.starts_with("var/lib/dpkg/status.d/") && !name.ends_with(".md5sums") {
            return Some(Self::DpkgStatus);
        }
        match name {
            "METADATA" | "PKG-INFO" if python::is_metadata(path) => Some(Self::PythonMetadata),
            _ if name.ends_with(".egg-info") => Some(Self::PythonMetadata),
            "package.json" if node::is_module(path) => Some(Self::NodeModule),
            ".crates2.json" => Some(Self::CargoInstalls),
            _ if mode & 0o111 != 0 => Some(Self::Program),
            _ => None,
        }
    }

    /// Whether the file is of use, as far as its first bytes tell: most programs need not be read whole.
    pub fn may_tell(self, head: &[u8]) -> bool {
        self != Self::Program || head.starts_with(b"\x7fELF")
    }

    pub fn read(self, bytes: &[u8]) -> Told {
        let text = || String::from_utf8_lossy(bytes);
        let packages = match self {
            Self::DpkgStatus => debian::packages(&text()),
            Self::ApkInstalled => alpine::packages(&text()),
            Self::PythonMetadata => python::package(&text()).into_iter().collect(),
            Self::NodeModule => node::package(bytes).into_iter().collect(),
            Self::CargoInstalls => rust::installs(bytes),
            Self::Program => rust::built_in(bytes),
            Self::OsRelease => {
                return Told {
                    distribution: Distribution::parse(&text()),
                    ..Told::default()
                };
            }
        };
        Told {
            packages,
            distribution: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_tell_are_known_by_path_and_mode() {
        let cases = [
            ("var/lib/dpkg/status", 0o644, Some(Source::DpkgStatus)),
            ("var/lib/dpkg/status-old", 0o644, None),
            (
                "var/lib/dpkg/status.d/base-files",
                0o644,
                Some(Source::DpkgStatus),
            ),
            ("var/lib/dpkg/status.d/base-files.md5sums", 0o644, None),
            ("lib/apk/db/installed", 0o644, Some(Source::ApkInstalled)),
            (
                "usr/lib/python3/dist-packages/six-1.16.0.egg-info/PKG-INFO",
                0o644,
                Some(Source::PythonMetadata),
            ),
            (
                "usr/lib/python3/dist-packages/six-1.16.0.egg-info",
                0o644,
                Some(Source::PythonMetadata),
            ),
            (
                "opt/venv/lib/python3.11/site-packages/flask-3.0.dist-info/METADATA",
                0o644,
                Some(Source::PythonMetadata),
            ),
            ("srv/METADATA", 0o644, None),
            (
                "app/node_modules/@scope/name/package.json",
                0o644,
                Some(Source::NodeModule),
            ),
            ("app/node_modules/name/lib/package.json", 0o644, None),
            ("app/package.json", 0o644, None),
            (
                "usr/local/cargo/.crates2.json",
                0o644,
                Some(Source::CargoInstalls),
            ),
            ("usr/bin/true", 0o755, Some(Source::Program)),
            ("etc/passwd", 0o644, None),
        ];
        for (path, mode, source) in cases {
            assert_eq!(Source::of(path, mode), source, "{path}");
        }
        assert!(Source::Program.may_tell(b"\x7fELF\x02") && !Source::Program.may_tell(b"#!/bin/sh"));
    }

    #[test]
    fn fuzzed_files_never_fail() {
        let seeds: [&[u8]; 4] = [
            b"Package: a\nStatus: install ok installed\nVersion: 1\n\nPackage: b\n",
            b"P:a\nV:1\nA:x86_64\nL:MIT\no:b\n\n",
            b"Metadata-Version: 2.1\nName: a\nVersion: 1\nLicense: MIT\n\nText",
            br#"{"name":"@a/b","version":"1","license":{"type":"MIT"},"installs":{"a 1.0.0 (registry+x)":{}}}"#,
        ];
        naru_fuzz::feed(&seeds, |bytes| {
            for source in [
                Source::DpkgStatus,
                Source::ApkInstalled,
                Source::PythonMetadata,
                Source::NodeModule,
                Source::CargoInstalls,
                Source::Program,
                Source::OsRelease,
            ] {
                let told = source.read(bytes);
                assert!(told.packages.iter().all(|package| !package.name.is_empty()));
            }
        });
    }
}
