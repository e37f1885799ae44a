//! The metadata of an installed Python distribution (<https://packaging.python.org/specifications/core-metadata/>): the
//! form of a mail's head, ended by an empty line.

use crate::{Ecosystem, Package};

/// The file lies where `pip` and its like put it.
pub fn is_metadata(path: &str) -> bool {
    let folder = path.rsplit('/').nth(1).unwrap_or_default();
    folder.ends_with(".dist-info") || folder.ends_with(".egg-info")
}

pub fn package(text: &str) -> Option<Package> {
    let head = text.split("\n\n").next().unwrap_or(text);
    let field = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let mut package = Package::new(Ecosystem::Python, field("Name")?, field("Version")?);
    package.license = field("License-Expression")
        .or_else(|| field("License"))
        .filter(|license| !license.is_empty() && *license != "UNKNOWN")
        .map(str::to_owned);
    (!package.name.is_empty()).then_some(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_alone_counts() {
        let found = package("Metadata-Version: 2.1\nName: Flask_Login\nVersion: 0.6\nLicense: UNKNOWN\nLicense-Expression: MIT\n\nName: another\n").unwrap();
        assert_eq!(
            (
                found.name.as_str(),
                found.version.as_str(),
                found.license.as_deref()
            ),
            ("Flask_Login", "0.6", Some("MIT"))
        );
        assert_eq!(package("Name: a\n\nVersion: 1\n"), None);
    }
}
