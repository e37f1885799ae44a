//! Files replaced whole, and directories of our own.
//!
//! Every error names the path it is about.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// An input/output error and the file it happened to.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}: {source}", path = path.display())]
pub struct FileError {
    /// A verb: `read`, `write`, `rename`, …
    pub action: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

impl FileError {
    /// For `map_err`: names the action and the path.
    pub fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self {
            action,
            path: path.to_owned(),
            source,
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Tells temporary files of one process apart; the process id tells processes apart.
static TEMPORARY_ORDINAL: AtomicU64 = AtomicU64::new(0);

/// Replaces `path` with `contents` by an atomic rename: readers see the old file or the new one, and so does whoever
/// comes after a killed process. Nothing is synced: after a power loss the old file may be back.
pub fn replace(path: &Path, contents: &[u8]) -> Result<(), FileError> {
    let temporary = temporary_beside(path);
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&temporary)
        .and_then(|mut file| file.write_all(contents));
    if let Err(error) = written.and_then(|()| fs::rename(&temporary, path)) {
        let _ = fs::remove_file(&temporary);
        return Err(FileError::at("write", path)(error));
    }
    Ok(())
}

/// Has the disk begin to write what was written to this part of a file, and does not wait for it: a sync later finds
/// less to do. It promises nothing, and whatever keeps it from happening is found by that sync.
pub fn begin_writeback(file: &fs::File, offset: u64, length: u64) {
    // SAFETY: the descriptor is open for as long as `file` is borrowed; no memory is passed.
    let _ = unsafe {
        libc::sync_file_range(
            file.as_raw_fd(),
            offset as libc::off64_t,
            length as libc::off64_t,
            libc::SYNC_FILE_RANGE_WRITE,
        )
    };
}

/// A name next to `path` that no other call returns.
fn temporary_beside(path: &Path) -> PathBuf {
    let ordinal = TEMPORARY_ORDINAL.fetch_add(1, Ordering::Relaxed);
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.{ordinal}.tmp", std::process::id()));
    path.with_file_name(name)
}

/// Reads a whole file of at most `bytes_max` bytes; a larger one is an error.
pub fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, FileError> {
    use io::Read;
    let read = || -> io::Result<Vec<u8>> {
        let mut contents = Vec::new();
        fs::File::open(path)?
            .take(bytes_max + 1)
            .read_to_end(&mut contents)?;
        if contents.len() as u64 > bytes_max {
            return Err(io::Error::other(format!("larger than {bytes_max} bytes")));
        }
        Ok(contents)
    };
    read().map_err(FileError::at("read", path))
}

/// Makes a directory and those above it, with mode 0711 below `/` only where they are new.
pub fn make_directories(path: &Path, mode: u32) -> Result<(), FileError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(FileError::at("make directory", path))
}

/// Removes a file or a whole tree; one that is not there is no error. Symbolic links are removed, never followed.
pub fn remove_tree(path: &Path) -> Result<(), FileError> {
    let result = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(FileError::at("remove", path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("naru-file-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn replace_leaves_one_file() {
        let directory = scratch("replace");
        let path = directory.join("record.json");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(read_bounded(&path, 3).unwrap(), b"two");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        remove_tree(&directory).unwrap();
        remove_tree(&directory).unwrap();
    }

    #[test]
    fn replace_that_fails_leaves_nothing() {
        let directory = scratch("fails");
        let path = directory.join("taken");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), b"x").unwrap();
        assert!(replace(&path, b"one").is_err());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        remove_tree(&directory).unwrap();
    }

    #[test]
    fn large_files_are_refused() {
        let directory = scratch("bounded");
        let path = directory.join("large");
        fs::write(&path, b"four").unwrap();
        assert!(read_bounded(&path, 3).is_err());
        remove_tree(&directory).unwrap();
    }

    #[test]
    fn remove_tree_does_not_follow_links() {
        let directory = scratch("links");
        let outside = directory.join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), b"x").unwrap();
        let inside = directory.join("inside");
        fs::create_dir(&inside).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        remove_tree(&inside).unwrap();
        assert!(outside.join("kept").exists());
        remove_tree(&directory).unwrap();
    }
}
