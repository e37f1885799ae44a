//! The database of `dpkg`: stanzas of `Field: value`, one for each package, an empty line between.

use crate::{Ecosystem, Package};

pub fn packages(text: &str) -> Vec<Package> {
    text.split("\n\n").filter_map(package).collect()
}

fn package(stanza: &str) -> Option<Package> {
    let field = |name: &str| {
        stanza.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    // Removed packages stay in the list while their configuration stays. Pieces below status.d state no status.
    if field("Status").is_some_and(|status| !status.ends_with(" installed")) {
        return None;
    }
    let mut package = Package::new(Ecosystem::Debian, field("Package")?, field("Version")?);
    package.architecture = field("Architecture").map(str::to_owned);
    // "Source: glibc (2.36-9)" where the version differs too.
    package.origin = field("Source")
        .and_then(|source| source.split_whitespace().next())
        .map(str::to_owned);
    (!package.name.is_empty()).then_some(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_counts_and_what_was_removed_does_not() {
        let text = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc (2.36-9)\nVersion: 2.36-9+deb12u10\nDescription: GNU C Library\n Version: 9 in a continued line\n\n\
            Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\nPackage: half\nStatus: install ok half-configured\nVersion: 1\n\nPackage: tzdata\nVersion: 2024a-0+deb12u1\n";
        let found = packages(text);
        let names: Vec<_> = found
            .iter()
            .map(|one| (one.name.as_str(), one.version.as_str()))
            .collect();
        assert_eq!(
            names,
            [("libc6", "2.36-9+deb12u10"), ("tzdata", "2024a-0+deb12u1")]
        );
        assert_eq!(
            (found[0].architecture.as_deref(), found[0].origin.as_deref()),
            (Some("amd64"), Some("glibc"))
        );
    }
}
