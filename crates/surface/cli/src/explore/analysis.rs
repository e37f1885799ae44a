//! What each layer changes, and how many bytes lie in an image that nobody can see: files that a later layer replaces or
//! removes. Pure.

use super::archive::{Kind, Layer};
use naru_sbom::Told;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Added,
    Replaced,
    Removed,
}

/// A path that a layer touches. Directories are left out: they weigh nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    pub path: String,
    pub bytes: u64,
    pub change: Change,
    /// A later layer hides it.
    pub is_hidden: bool,
    /// What the file tells of packages, as the archive's reader found it.
    pub told: Option<Told>,
}

#[derive(Debug, Default)]
pub struct LayerReport {
    pub digest: String,
    pub created_by: String,
    /// Of the files in it.
    pub bytes: u64,
    /// Of those that a later layer hides.
    pub hidden_bytes: u64,
    pub touched: Vec<Touched>,
}

/// A path whose earlier contents are still in the image.
#[derive(Debug, PartialEq, Eq)]
pub struct Wasted {
    pub path: String,
    pub bytes: u64,
    /// How many layers hold it.
    pub copies: usize,
}

#[derive(Debug, Default)]
pub struct Report {
    pub layers: Vec<LayerReport>,
    /// The most bytes first.
    pub wasted: Vec<Wasted>,
    pub bytes: u64,
    pub wasted_bytes: u64,
}

impl Report {
    /// How much of the image cannot be seen, in percent.
    pub fn wasted_percent(&self) -> f64 {
        if self.bytes == 0 {
            return 0.0;
        }
        self.wasted_bytes as f64 / self.bytes as f64 * 100.0
    }
}

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

/// Where a path's present contents lie: layer and place in its list.
type Visible = BTreeMap<String, (usize, usize)>;

pub fn analyse(layers: Vec<Layer>) -> Report {
    let mut visible = Visible::new();
    let mut reports: Vec<LayerReport> = Vec::new();
    for layer in layers {
        let mut report = LayerReport {
            digest: layer.digest,
            created_by: layer.created_by,
            ..LayerReport::default()
        };
        // Whiteouts speak of the layers below, wherever they stand among the entries.
        let (whiteouts, files): (Vec<_>, Vec<_>) = layer
            .entries
            .into_iter()
            .partition(|entry| name_of(&entry.path).starts_with(WHITEOUT));
        for entry in whiteouts {
            let (folder, name) = split(&entry.path);
            let removed = match name {
                OPAQUE => below(&visible, folder),
                name => {
                    let path = join(folder, &name[WHITEOUT.len()..]);
                    let mut removed = below(&visible, &path);
                    removed.extend(visible.contains_key(&path).then_some(path));
                    removed
                }
            };
            for path in removed {
                if let Some(place) = visible.remove(&path) {
                    hide(&mut reports, place);
                }
                report.touched.push(Touched {
                    path,
                    bytes: 0,
                    change: Change::Removed,
                    is_hidden: false,
                    told: None,
                });
            }
        }
        let number = reports.len();
        for entry in files.into_iter().filter(|entry| entry.kind != Kind::Directory) {
            // What was a directory and is a file now takes all below with it.
            for path in below(&visible, &entry.path) {
                if let Some(place) = visible.remove(&path).filter(|place| place.0 != number) {
                    hide(&mut reports, place);
                }
            }
            let before = visible.insert(entry.path.clone(), (number, report.touched.len()));
            match before {
                Some(place) if place.0 == number => {
                    // Twice in one layer: the last one counts.
                    report.touched[place.1].is_hidden = true;
                    report.hidden_bytes += report.touched[place.1].bytes;
                }
                Some(place) => hide(&mut reports, place),
                None => {}
            }
            report.bytes += entry.bytes;
            report.touched.push(Touched {
                change: if before.is_some() {
                    Change::Replaced
                } else {
                    Change::Added
                },
                path: entry.path,
                bytes: entry.bytes,
                is_hidden: false,
                told: entry.told,
            });
        }
        reports.push(report);
    }
    sum_up(reports)
}

fn hide(reports: &mut [LayerReport], (layer, place): (usize, usize)) {
    let report = &mut reports[layer];
    let touched = &mut report.touched[place];
    touched.is_hidden = true;
    report.hidden_bytes += touched.bytes;
}

fn sum_up(layers: Vec<LayerReport>) -> Report {
    let mut by_path: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    for touched in layers
        .iter()
        .flat_map(|layer| &layer.touched)
        .filter(|one| one.change != Change::Removed)
    {
        let sum = by_path.entry(&touched.path).or_default();
        sum.1 += 1;
        if touched.is_hidden {
            sum.0 += touched.bytes;
        }
    }
    let mut wasted: Vec<Wasted> = by_path
        .into_iter()
        .filter(|(_, (bytes, _))| *bytes > 0)
        .map(|(path, (bytes, copies))| Wasted {
            path: path.to_owned(),
            bytes,
            copies,
        })
        .collect();
    wasted.sort_by(|left, right| {
        right
            .bytes
            .cmp(&left.bytes)
            .then_with(|| left.path.cmp(&right.path))
    });
    Report {
        bytes: layers.iter().map(|layer| layer.bytes).sum(),
        wasted_bytes: layers.iter().map(|layer| layer.hidden_bytes).sum(),
        layers,
        wasted,
    }
}

/// Everything visible in this directory.
fn below(visible: &Visible, folder: &str) -> Vec<String> {
    let prefix = if folder.is_empty() {
        String::new()
    } else {
        format!("{folder}/")
    };
    visible
        .range(prefix.clone()..)
        .map(|(path, _)| path)
        .take_while(|path| path.starts_with(&prefix))
        .cloned()
        .collect()
}

fn name_of(path: &str) -> &str {
    split(path).1
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::archive::Entry;
    use super::*;

    fn layer(files: &[(&str, u64)]) -> Layer {
        let entry = |(path, bytes): &(&str, u64)| Entry {
            path: (*path).to_owned(),
            bytes: *bytes,
            kind: if path.ends_with("dir") {
                Kind::Directory
            } else {
                Kind::File
            },
            told: None,
        };
        Layer {
            digest: String::new(),
            created_by: String::new(),
            tar_bytes: 0,
            entries: files.iter().map(entry).collect(),
        }
    }

    #[test]
    fn what_later_layers_hide_is_wasted() {
        let report = analyse(vec![
            layer(&[("a", 100), ("d/x", 10), ("d/y", 20), ("e/z", 5), ("dir", 0)]),
            layer(&[("a", 30), ("d/.wh.x", 0), ("new", 1)]),
            layer(&[("d/.wh..wh..opq", 0), ("d/w", 2), (".wh.e", 0), ("a", 30)]),
        ]);
        assert_eq!(report.bytes, 135 + 31 + 32);
        assert_eq!(report.wasted_bytes, 100 + 30 + 10 + 20 + 5);
        let wasted: Vec<(&str, u64, usize)> = report
            .wasted
            .iter()
            .map(|one| (one.path.as_str(), one.bytes, one.copies))
            .collect();
        assert_eq!(
            wasted,
            [("a", 130, 3), ("d/y", 20, 1), ("d/x", 10, 1), ("e/z", 5, 1)]
        );
        let changes = |number: usize| {
            report.layers[number]
                .touched
                .iter()
                .map(|one| (one.path.as_str(), one.change))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            changes(1),
            [
                ("d/x", Change::Removed),
                ("a", Change::Replaced),
                ("new", Change::Added)
            ]
        );
        assert!(
            changes(2).contains(&("d/y", Change::Removed)) && changes(2).contains(&("e/z", Change::Removed))
        );
    }

    #[test]
    fn a_directory_replaced_by_a_file_and_doubles_in_one_layer() {
        let report = analyse(vec![
            layer(&[("d/x", 10)]),
            layer(&[("d", 1), ("b", 3), ("b", 4)]),
        ]);
        assert_eq!((report.bytes, report.wasted_bytes), (18, 13));
        assert!(analyse(Vec::new()).wasted_percent().abs() < f64::EPSILON);
    }
}
