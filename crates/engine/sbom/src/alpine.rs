//! The database of `apk`: stanzas of a letter, a colon and a value.

use crate::{Ecosystem, Package};

pub fn packages(text: &str) -> Vec<Package> {
    text.split("\n\n").filter_map(package).collect()
}

fn package(stanza: &str) -> Option<Package> {
    let field = |letter: &str| {
        stanza
            .lines()
            .find_map(|line| line.strip_prefix(letter)?.strip_prefix(':'))
            .map(str::trim)
    };
    let mut package = Package::new(Ecosystem::Alpine, field("P")?, field("V")?);
    package.architecture = field("A").map(str::to_owned);
    package.license = field("L").map(str::to_owned);
    package.origin = field("o")
        .filter(|origin| *origin != package.name)
        .map(str::to_owned);
    (!package.name.is_empty()).then_some(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stanza_is_a_package() {
        let found = packages(
            "C:Q1abc=\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\no:musl\nF:lib\nR:libc.so\n\nP:musl-utils\nV:1.2.5-r0\nA:x86_64\nL:MIT AND BSD-2-Clause\no:musl\n\n",
        );
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].origin.as_deref(), found[1].origin.as_deref()),
            (None, Some("musl"))
        );
        assert_eq!(found[1].license.as_deref(), Some("MIT AND BSD-2-Clause"));
    }
}
