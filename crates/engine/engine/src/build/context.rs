//! A build's context: the files it may copy, unpacked into a directory that only the daemon reaches.
//!
//! A context is hostile. Paths in it are resolved by the kernel with its root as their ceiling, its links included.

use crate::archive::extract::{ExtractOptions, Target, extract};
use crate::archive::place::{self, Asked};
use crate::archive::{ChunkReader, Chunks, blocking};
use crate::error::{EngineError, Result};
use naru_sys::file;
use rustix::fs::{FileType, Mode, OFlags};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A Dockerfile is text for people.
const DOCKERFILE_BYTES_MAX: u64 = 16 << 20;

/// Gone, with everything in it, when it is dropped.
#[derive(Debug)]
pub(super) struct Context {
    directory: PathBuf,
}

impl Drop for Context {
    fn drop(&mut self) {
        let _ = file::remove_tree(&self.directory);
    }
}

impl Context {
    /// Unpacks an archive, plain or compressed, into `directory`, which is made.
    pub(super) async fn receive(directory: PathBuf, archive: Chunks) -> Result<Self> {
        let context = Self { directory };
        let root = context.root();
        file::make_directories(&root, 0o700)?;
        blocking(move || {
            let root = open_directory(&root)?;
            let target = Target {
                root: &root,
                directory: "/".into(),
            };
            extract(ChunkReader::new(archive), &target, ExtractOptions::default()).map_err(|error| {
                EngineError::new(
                    error.kind,
                    format!("cannot read the build context: {}", error.message),
                )
            })
        })
        .await?;
        Ok(context)
    }

    pub(super) fn root(&self) -> PathBuf {
        self.directory.join("context")
    }

    /// Where this build may put a file of its own.
    pub(super) fn own_file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(super) async fn read_dockerfile(&self, name: &str) -> Result<Vec<u8>> {
        let name = if name.is_empty() { "Dockerfile" } else { name }.to_owned();
        let root = self.root();
        blocking(move || {
            let missing = || EngineError::invalid(format!("Cannot locate specified Dockerfile: {name}"));
            let root = open_directory(&root)?;
            let asked = Asked::parse(&name);
            let found =
                place::open(&root, &asked.path, OFlags::RDONLY | OFlags::NONBLOCK).map_err(|_| missing())?;
            let stat = rustix::fs::fstat(&found).map_err(|_| missing())?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(EngineError::invalid(format!(
                    "the Dockerfile {name} is not a plain file"
                )));
            }
            let mut text = Vec::new();
            File::from(found)
                .take(DOCKERFILE_BYTES_MAX + 1)
                .read_to_end(&mut text)
                .map_err(|error| EngineError::system(format!("cannot read {name}: {error}")))?;
            Ok(text)
        })
        .await
    }
}

pub(super) fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| EngineError::system(format!("cannot open {}: {errno}", path.display())))
}
