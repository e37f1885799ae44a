//! Two builds of the same inputs beside each other: which paths differ, and how.

use super::solve::Builder;
use crate::archive::blocking;
use crate::error::{EngineError, Result};
use naru_base::Digest;
use naru_content::Image;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Paths that are named; of more their number is told.
const PATHS_MAX: usize = 100;

/// Read at once from each of two files.
const PIECE_BYTES: usize = 64 << 10;

/// Refuses two images that are not the same, and says where they differ.
pub(super) async fn compare(builder: &Builder, first: Digest, second: Digest) -> Result<()> {
    if first == second {
        return Ok(());
    }
    let content = Arc::clone(&builder.engine.content);
    let found = blocking(move || {
        let image = |id: &Digest| content.image(id.as_str()).map_err(crate::images::error);
        let (first, second) = (image(&first)?, image(&second)?);
        let layers = |image: &Arc<Image>| {
            let mut layers = content.image_layers(image);
            layers.reverse();
            layers
        };
        let pairs = first
            .layers
            .iter()
            .zip(&second.layers)
            .zip(layers(&first).into_iter().zip(layers(&second)));
        let mut found = Vec::new();
        for ((first_layer, second_layer), (one, other)) in pairs {
            if first_layer != second_layer {
                let failed =
                    |error: io::Error| EngineError::system(format!("cannot compare the layers: {error}"));
                found.extend(differences(&one, &other).map_err(failed)?);
            }
        }
        if first.layers.len() != second.layers.len() {
            let (one, other) = (first.layers.len(), second.layers.len());
            found.push(format!("{one} layers in the first build, {other} in the second"));
        } else if found.is_empty() {
            found.push("the images' configurations".to_owned());
        }
        Ok(found)
    })
    .await?;
    let more = found.len().saturating_sub(PATHS_MAX);
    let mut lines: Vec<String> = found.into_iter().take(PATHS_MAX).collect();
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    Err(EngineError::invalid(format!(
        "the build is not reproducible: its second run made something else\n    {}",
        lines.join("\n    ")
    )))
}

/// What differs between two layers, a line for each path.
fn differences(first: &Path, second: &Path) -> io::Result<Vec<String>> {
    let (first_paths, second_paths) = (paths_in(first)?, paths_in(second)?);
    let all: BTreeSet<&PathBuf> = first_paths.keys().chain(second_paths.keys()).collect();
    let mut found = Vec::new();
    for path in all {
        let ways = match (first_paths.get(path), second_paths.get(path)) {
            (Some(one), Some(other)) => {
                let mut ways = attributes_apart(one, other);
                if one.file_type() == other.file_type() {
                    ways.extend(content_apart(&first.join(path), &second.join(path), one, other)?);
                }
                ways
            }
            (Some(_), None) => vec!["only in the first".to_owned()],
            _ => vec!["only in the second".to_owned()],
        };
        if !ways.is_empty() {
            found.push(format!("/{}: {}", path.display(), ways.join(", ")));
        }
    }
    Ok(found)
}

/// All that is below a directory, links not followed.
fn paths_in(top: &Path) -> io::Result<BTreeMap<PathBuf, Metadata>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(top.join(&directory))? {
            let entry = entry?;
            let path = directory.join(entry.file_name());
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                directories.push(path.clone());
            }
            found.insert(path, metadata);
        }
    }
    Ok(found)
}

fn attributes_apart(one: &Metadata, other: &Metadata) -> Vec<String> {
    let mut ways = Vec::new();
    if one.file_type() != other.file_type() {
        ways.push("another kind of file".to_owned());
    }
    let (mode, other_mode) = (one.mode() & 0o7777, other.mode() & 0o7777);
    if mode != other_mode {
        ways.push(format!("mode {mode:o} and {other_mode:o}"));
    }
    let owner = |metadata: &Metadata| format!("{}:{}", metadata.uid(), metadata.gid());
    if owner(one) != owner(other) {
        ways.push(format!("owner {} and {}", owner(one), owner(other)));
    }
    if one.mtime() != other.mtime() {
        ways.push(format!("time {} and {}", one.mtime(), other.mtime()));
    }
    if one.rdev() != other.rdev() {
        ways.push("another device".to_owned());
    }
    ways
}

fn content_apart(
    first: &Path,
    second: &Path,
    one: &Metadata,
    other: &Metadata,
) -> io::Result<Option<String>> {
    if one.is_symlink() {
        let (to, other_to) = (fs::read_link(first)?, fs::read_link(second)?);
        return Ok((to != other_to).then(|| format!("a link to {} and {}", to.display(), other_to.display())));
    }
    if !one.is_file() {
        return Ok(None);
    }
    if one.len() != other.len() {
        return Ok(Some(format!("{} bytes and {}", one.len(), other.len())));
    }
    let at = first_difference(File::open(first)?, File::open(second)?)?;
    Ok(at.map(|at| format!("bytes from {at} of {}", one.len())))
}

fn first_difference(one: File, other: File) -> io::Result<Option<u64>> {
    let reader = |file| BufReader::with_capacity(PIECE_BYTES, file).bytes();
    for (at, (one, other)) in reader(one).zip(reader(other)).enumerate() {
        if one? != other? {
            return Ok(Some(at as u64));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn each_way_to_differ_is_named() {
        let top = std::env::temp_dir().join(format!("naru-differ-{}", std::process::id()));
        let sides = ["one", "other"].map(|side| top.join(side));
        for (side, text) in sides.iter().zip(["abcd", "abXd"]) {
            fs::create_dir_all(side.join("d")).unwrap();
            fs::write(side.join("d/same"), "x").unwrap();
            fs::write(side.join("bytes"), text).unwrap();
            fs::write(side.join("mode"), "").unwrap();
            fs::write(side.join(format!("only-{text}")), "").unwrap();
            symlink(text, side.join("link")).unwrap();
            for name in ["d/same", "bytes", "mode", "d"] {
                let time = std::time::SystemTime::UNIX_EPOCH;
                File::open(side.join(name)).unwrap().set_modified(time).unwrap();
            }
        }
        fs::set_permissions(sides[0].join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(sides[1].join("mode"), fs::Permissions::from_mode(0o644)).unwrap();
        let mut found = differences(&sides[0], &sides[1]).unwrap();
        // Links cannot be given a time here.
        for line in &mut found {
            *line = line.split(", time").next().unwrap().to_owned();
        }
        found.retain(|line| !line.starts_with("/link: time"));
        assert_eq!(
            found,
            [
                "/bytes: bytes from 2 of 4",
                "/link: a link to abcd and abXd",
                "/mode: mode 600 and 644",
                "/only-abXd: only in the second",
                "/only-abcd: only in the first",
            ]
        );
        fs::remove_dir_all(&top).unwrap();
    }
}
