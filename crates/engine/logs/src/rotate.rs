//! Full files: their names, their order, and their compression, a slice at a time.
//!
//! ```text
//!  log         being written
//!  log.1       the newest full one        log.1.gz   the same, compressed; `.1` goes once `.1.gz` is whole
//!  log.1.gz.part   a compression under way; one that is found at the start is thrown away
//! ```
//! A compressed file remembers in its comment which file it was, so that a reader who had that one open does not take
//! it for another; and each file remembers how many bytes of the log came before it, so that a reader who was too slow
//! can say how many it missed.

use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::fs::XattrFlags;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// When a log is full and how many files are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// `None` for no limit.
    pub bytes_max: Option<u64>,
    /// All files together, the one being written included; at least 1.
    pub files_max: u32,
    /// Full files are compressed with gzip.
    pub compress: bool,
}

/// Compressed between two writes: several times what was written, so that a file is done long before the next one is
/// full, and a few milliseconds' work, so that the container's output does not wait.
const SLICE_BYTES: usize = 256 * 1024;

/// The extended attribute of a file that says how many bytes of the log came before it.
const BEFORE_ATTRIBUTE: &str = "user.naru.before";

/// The name of the `number`th newest full file.
pub(crate) fn rotated_path(path: &Path, number: u32) -> PathBuf {
    with_suffix(path, &format!(".{number}"))
}

pub(crate) fn compressed_path(path: &Path, number: u32) -> PathBuf {
    with_suffix(path, &format!(".{number}.gz"))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Gives every full file the next name; the oldest goes. The one being written becomes `.1`, or goes when it is the
/// only one kept.
pub(crate) fn shift(path: &Path, files_max: u32) -> io::Result<()> {
    if files_max < 2 {
        return Ok(rustix::fs::unlink(path)?);
    }
    for name in [rotated_path, compressed_path] {
        // The oldest is replaced by the one before it, which may have the other name.
        let _ = rustix::fs::unlink(name(path, files_max - 1));
    }
    for number in (1..files_max - 1).rev() {
        for name in [rotated_path, compressed_path] {
            let _ = rustix::fs::rename(name(path, number), name(path, number + 1));
        }
    }
    Ok(rustix::fs::rename(path, rotated_path(path, 1))?)
}

pub(crate) fn set_bytes_before(file: impl AsFd, bytes: u64) {
    // A filesystem without such attributes costs the number, not the log.
    let _ = rustix::fs::fsetxattr(
        file,
        BEFORE_ATTRIBUTE,
        bytes.to_string().as_bytes(),
        XattrFlags::empty(),
    );
}

pub(crate) fn bytes_before(file: impl AsFd) -> Option<u64> {
    let mut value = [0_u8; 24];
    let length = rustix::fs::fgetxattr(file, BEFORE_ATTRIBUTE, &mut value).ok()?;
    std::str::from_utf8(value.get(..length)?).ok()?.parse().ok()
}

/// What a compressed file's comment says of the file it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Device and inode.
    pub identity: (u64, u64),
    /// When it was last written, in nanoseconds since 1970: an inode number is soon given to another file.
    pub written_at: i128,
    pub bytes_before: Option<u64>,
}

impl Origin {
    pub fn parse(comment: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(comment)
            .ok()?
            .strip_prefix("naru ")?
            .split(' ');
        let identity = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Self {
            identity,
            written_at: words.next()?.parse().ok()?,
            bytes_before: words.next().and_then(|word| word.parse().ok()),
        })
    }

    fn comment(self) -> String {
        let before = self
            .bytes_before
            .map_or(String::new(), |bytes| format!(" {bytes}"));
        format!(
            "naru {} {} {}{before}",
            self.identity.0, self.identity.1, self.written_at
        )
    }
}

pub(crate) fn written_at(state: &std::fs::Metadata) -> i128 {
    use std::os::unix::fs::MetadataExt;
    i128::from(state.mtime()) * 1_000_000_000 + i128::from(state.mtime_nsec())
}

/// The newest full file on its way to being compressed. One that is given up leaves the file as it was.
#[derive(Debug)]
pub(crate) struct Compressing {
    path: PathBuf,
    from: File,
    to: GzEncoder<File>,
}

impl Compressing {
    /// Begins with the `.1` of the log at `path`.
    pub fn start(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
        let from = File::open(rotated_path(path, 1))?;
        let state = from.metadata()?;
        let origin = Origin {
            identity: (state.dev(), state.ino()),
            written_at: written_at(&state),
            bytes_before: bytes_before(&from),
        };
        let to = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o640)
            .open(part_path(path))?;
        let to = flate2::GzBuilder::new()
            .comment(origin.comment())
            .write(to, Compression::fast());
        Ok(Self {
            path: path.to_owned(),
            from,
            to,
        })
    }

    /// Compresses the next slice; `true` when the file is done.
    pub fn step(&mut self) -> io::Result<bool> {
        let mut slice = Vec::with_capacity(SLICE_BYTES);
        let count = (&mut self.from)
            .take(SLICE_BYTES as u64)
            .read_to_end(&mut slice)?;
        if count > 0 {
            self.to.write_all(&slice)?;
            return Ok(false);
        }
        self.to.try_finish()?;
        std::fs::rename(part_path(&self.path), compressed_path(&self.path, 1))?;
        std::fs::remove_file(rotated_path(&self.path, 1))?;
        Ok(true)
    }

    /// Compresses the rest.
    pub fn run(mut self) -> io::Result<()> {
        while !self.step()? {}
        Ok(())
    }
}

fn part_path(path: &Path) -> PathBuf {
    with_suffix(path, ".1.gz.part")
}

/// Removes what a compression that was cut short has left.
pub(crate) fn remove_part(path: &Path) {
    let _ = rustix::fs::unlink(part_path(path));
}
