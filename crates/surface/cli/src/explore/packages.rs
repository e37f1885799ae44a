//! Which packages a container of the image would find: what its visible files tell, in order and without doubles. Pure.

use super::analysis::{Change, analyse};
use super::archive::Layer;
use naru_sbom::{Distribution, Package};
use std::collections::BTreeSet;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Installed {
    pub packages: Vec<Package>,
    pub distribution: Option<Distribution>,
}

pub fn installed(layers: Vec<Layer>) -> Installed {
    let mut packages = BTreeSet::new();
    let mut distribution = None;
    let touched = analyse(layers).layers.into_iter().flat_map(|layer| layer.touched);
    let visible = touched.filter(|file| !file.is_hidden && file.change != Change::Removed);
    for told in visible.filter_map(|file| file.told) {
        packages.extend(told.packages);
        distribution = told.distribution.or(distribution);
    }
    Installed {
        packages: packages.into_iter().collect(),
        distribution,
    }
}

#[cfg(test)]
mod tests {
    use super::super::archive::{Entry, Kind};
    use super::*;
    use naru_sbom::Source;

    fn layer(files: &[(&str, &str)]) -> Layer {
        let entry = |(path, text): &(&str, &str)| Entry {
            path: (*path).to_owned(),
            bytes: text.len() as u64,
            kind: Kind::File,
            told: Source::of(path, 0o644).map(|source| source.read(text.as_bytes())),
        };
        Layer {
            digest: String::new(),
            created_by: String::new(),
            tar_bytes: 0,
            entries: files.iter().map(entry).collect(),
        }
    }

    #[test]
    fn only_what_a_container_sees_counts() {
        let python = "opt/a-1.dist-info/METADATA";
        let layers = vec![
            layer(&[
                (
                    "var/lib/dpkg/status",
                    "Package: a\nVersion: 1\n\nPackage: b\nVersion: 1\n",
                ),
                (python, "Name: a\nVersion: 1\n"),
                ("usr/lib/os-release", "ID=debian\nVERSION_ID=12\n"),
            ]),
            layer(&[
                ("var/lib/dpkg/status", "Package: a\nVersion: 2\n"),
                ("opt/.wh.a-1.dist-info", ""),
            ]),
        ];
        let found = installed(layers);
        let names: Vec<_> = found
            .packages
            .iter()
            .map(|package| (package.name.as_str(), package.version.as_str()))
            .collect();
        assert_eq!(names, [("a", "2")]);
        assert_eq!(found.distribution.unwrap().version, "12");
    }
}
