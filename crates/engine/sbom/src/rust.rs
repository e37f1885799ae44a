//! Crates: what `cargo install` wrote down, and the list that `cargo auditable` puts into a program.

use crate::{Ecosystem, Package};
use auditable_info::{Limits, json_from_slice};
use serde::Deserialize;

#[derive(Deserialize)]
struct Installs {
    /// "NAME VERSION (SOURCE)" each.
    installs: serde_json::Map<String, serde_json::Value>,
}

pub fn installs(bytes: &[u8]) -> Vec<Package> {
    let installs: Option<Installs> = serde_json::from_slice(bytes).ok();
    let names = installs.into_iter().flat_map(|all| all.installs);
    names
        .filter_map(|(text, _)| {
            let mut words = text.split(' ');
            let (name, version) = (words.next()?, words.next()?);
            (!name.is_empty()).then(|| Package::new(Ecosystem::Rust, name, version))
        })
        .collect()
}

/// What `cargo auditable` writes.
#[derive(Deserialize)]
struct BuiltIn {
    packages: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    version: String,
    /// `build` for one that is not in the program; stated only then.
    kind: Option<String>,
}

pub fn built_in(program: &[u8]) -> Vec<Package> {
    let limit = Limits::default().decompressed_json_size;
    let list: Option<BuiltIn> = json_from_slice(program, limit)
        .ok()
        .and_then(|json| serde_json::from_str(&json).ok());
    let all = list.into_iter().flat_map(|list| list.packages);
    all.filter(|one| one.kind.as_deref() != Some("build") && !one.name.is_empty())
        .map(|one| Package::new(Ecosystem::Rust, &one.name, &one.version))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_crates_have_name_and_version() {
        let found = installs(br#"{"installs":{"ripgrep 13.0.0 (registry+https://github.com/rust-lang/crates.io-index)":{"bins":["rg"]},"odd":{}}}"#);
        assert_eq!(found, [Package::new(Ecosystem::Rust, "ripgrep", "13.0.0")]);
        assert!(built_in(b"\x7fELF and nothing else").is_empty());
    }
}
