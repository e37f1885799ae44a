//! `package.json` of an installed module.

use crate::{Ecosystem, Package};
use serde::Deserialize;

#[derive(Deserialize)]
struct Module {
    name: String,
    version: String,
    license: Option<License>,
}

/// Old modules state an object.
#[derive(Deserialize)]
#[serde(untagged)]
enum License {
    Expression(String),
    Object {
        #[serde(rename = "type")]
        kind: String,
    },
    Other(serde::de::IgnoredAny),
}

/// `node_modules/NAME/package.json` or `node_modules/@SCOPE/NAME/package.json`; a deeper one belongs to the module.
pub fn is_module(path: &str) -> bool {
    let mut parts = path.rsplit('/').skip(2);
    let parent = parts.next().unwrap_or_default();
    parent == "node_modules" || parent.starts_with('@') && parts.next() == Some("node_modules")
}

pub fn package(bytes: &[u8]) -> Option<Package> {
    let module: Module = serde_json::from_slice(bytes).ok()?;
    let mut package = Package::new(Ecosystem::Node, &module.name, &module.version);
    package.license = match module.license {
        Some(License::Expression(text) | License::Object { kind: text }) => Some(text),
        Some(License::Other(_)) | None => None,
    };
    (!package.name.is_empty()).then_some(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_come_in_two_forms() {
        let license = |text: &str| {
            let text = format!(r#"{{"name":"a","version":"1","license":{text}}}"#);
            package(text.as_bytes()).unwrap().license
        };
        assert_eq!(license(r#""MIT""#).as_deref(), Some("MIT"));
        assert_eq!(license(r#"{"type":"ISC","url":"x"}"#).as_deref(), Some("ISC"));
        assert_eq!(license("[1]"), None);
        assert_eq!(package(br#"{"name":"a"}"#), None);
    }
}
