//! Python's compiled files beside sources whose times are normalised.
//!
//! A `.pyc` that goes by its source's time has that time, and the source's size, in its head; Python throws away one
//! that does not agree. A step's sources get the time of the image, so what was compiled from them would be stale, and
//! have a time of the build in its bytes. A head that agreed with its source is made to agree again; any other is left.
//!
//! ```text
//!  0       4       8             12           16
//!  | magic | flags | source time | source size | code …     flags 0: by time; others go by the source's content
//! ```

use std::fs::{self, DirEntry, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

const HEAD_BYTES: usize = 16;

/// Puts right the files of a layer whose times are going to be no later than `latest`, in seconds since the epoch. Nobody
/// else may have the layer; links in it are not followed.
pub(super) fn settle(layer: &Path, latest: i64) -> io::Result<()> {
    let Ok(latest_in_head) = u32::try_from(latest) else {
        return Ok(());
    };
    let mut directories = vec![layer.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file()
                && entry
                    .path()
                    .extension()
                    .is_some_and(|extension| extension == "pyc")
            {
                settle_file(&entry, latest, latest_in_head)?;
            }
        }
    }
    Ok(())
}

fn settle_file(compiled: &DirEntry, latest: i64, latest_in_head: u32) -> io::Result<()> {
    let path = compiled.path();
    let Some(source) = source_of(&path) else {
        return Ok(());
    };
    // One that is not in this layer has its time already.
    let Ok(source) = fs::symlink_metadata(source) else {
        return Ok(());
    };
    if !source.is_file() || source.mtime() <= latest {
        return Ok(());
    }
    let file = File::options().read(true).write(true).open(&path)?;
    let mut head = [0; HEAD_BYTES];
    if file.read_exact_at(&mut head, 0).is_err() {
        return Ok(());
    }
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    // As Python writes them: what does not fit is cut.
    let agrees = word(8) == source.mtime() as u32 && word(12) == source.size() as u32;
    if word(4) == 0 && agrees {
        file.write_all_at(&latest_in_head.to_le_bytes(), 8)?;
    }
    Ok(())
}

/// `d/__pycache__/m.cpython-311.pyc` and `d/m.pyc` are made of `d/m.py`.
fn source_of(compiled: &Path) -> Option<PathBuf> {
    let directory = compiled.parent()?;
    let stem = compiled.file_stem()?.to_str()?;
    if directory.file_name().is_some_and(|name| name == "__pycache__") {
        let module = stem.split('.').next()?;
        return Some(directory.parent()?.join(format!("{module}.py")));
    }
    Some(directory.join(format!("{stem}.py")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    fn head(flags: u32, time: u32, size: u32) -> Vec<u8> {
        [0x0a0d_0da7, flags, time, size]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect()
    }

    #[test]
    fn only_heads_that_agreed_are_changed() {
        let layer = std::env::temp_dir().join(format!("naru-pyc-{}", std::process::id()));
        let cache = layer.join("lib/__pycache__");
        fs::create_dir_all(&cache).unwrap();
        for (name, seconds) in [("new", 5000), ("old", 10), ("plain", 5000)] {
            let file = File::create(layer.join(format!("lib/{name}.py"))).unwrap();
            file.set_len(7).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
                .unwrap();
        }
        let cases = [
            (
                "lib/__pycache__/new.cpython-311.pyc",
                head(0, 5000, 7),
                head(0, 1000, 7),
            ),
            (
                "lib/__pycache__/new.cpython-311.opt-1.pyc",
                head(0, 5000, 7),
                head(0, 1000, 7),
            ),
            ("lib/plain.pyc", head(0, 5000, 7), head(0, 1000, 7)),
            ("lib/new.pyc", head(0, 4999, 7), head(0, 4999, 7)),
            ("lib/__pycache__/new.a.pyc", head(0, 5000, 8), head(0, 5000, 8)),
            ("lib/__pycache__/new.b.pyc", head(3, 5000, 7), head(3, 5000, 7)),
            ("lib/__pycache__/old.pyc", head(0, 10, 7), head(0, 10, 7)),
            ("lib/__pycache__/gone.pyc", head(0, 5000, 7), head(0, 5000, 7)),
            ("lib/short.pyc", vec![1], vec![1]),
        ];
        for (path, before, _) in &cases {
            fs::write(layer.join(path), before).unwrap();
        }
        std::os::unix::fs::symlink("/nowhere", layer.join("lib/link.pyc")).unwrap();
        settle(&layer, 1000).unwrap();
        for (path, _, after) in &cases {
            assert_eq!(&fs::read(layer.join(path)).unwrap(), after, "{path}");
        }
        fs::remove_dir_all(&layer).unwrap();
    }
}
