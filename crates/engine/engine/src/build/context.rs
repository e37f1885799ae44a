//! A build's own directory, and its context: packed, as it came, or kept from the client's builds before.
//!
//! A context is hostile. Its paths are never the host's: see `packed`.

use super::packed::PackedTree;
use super::{BuildClient, KeptContext};
use crate::archive::{ChunkReader, Chunks, blocking};
use crate::error::{EngineError, Result};
use naru_build::ignore::Ignore;
use naru_sys::file;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::OnceCell;

/// A Dockerfile is text for people.
const DOCKERFILE_BYTES_MAX: u64 = 16 << 20;

/// Gone, with everything in it, when it is dropped.
#[derive(Debug)]
pub(super) struct WorkDirectory(PathBuf);

impl Drop for WorkDirectory {
    fn drop(&mut self) {
        let _ = file::remove_tree(&self.0);
    }
}

#[derive(Debug)]
pub(super) struct Context {
    work: WorkDirectory,
    tree: OnceCell<Arc<PackedTree>>,
    /// Who has the files that did not come with the request.
    client: Option<Arc<dyn BuildClient>>,
}

impl WorkDirectory {
    pub(super) fn make(path: PathBuf) -> Result<Self> {
        let work = Self(path);
        file::make_directories(&work.0, 0o700)?;
        Ok(work)
    }

    /// A file without a name: it goes when nobody has it open.
    pub(super) fn new_pack(&self) -> Result<File> {
        nameless_file(&self.0)
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Context {
    /// Reads an archive, plain or compressed; and further contexts that came in it. The Dockerfile's text is told where
    /// it is no part of the context.
    pub(super) async fn receive(
        work: WorkDirectory,
        archive: Chunks,
        directories: &BTreeMap<String, String>,
        dockerfile: &str,
    ) -> Result<(Self, HashMap<String, Arc<PackedTree>>, Option<Vec<u8>>)> {
        let pack = work.new_pack()?;
        let tree = blocking(move || PackedTree::receive(ChunkReader::new(archive), pack));
        let tree = tree.await.map_err(|error| {
            EngineError::new(
                error.kind,
                format!("cannot read the build context: {}", error.message),
            )
        })?;
        let mut tree = tree;
        let mut parts = HashMap::new();
        for (name, directory) in directories {
            parts.insert(name.clone(), Arc::new(tree.split_off(directory)));
        }
        let text = leave_out(&mut tree, dockerfile);
        let context = Self {
            work,
            tree: OnceCell::from(Arc::new(tree)),
            client: None,
        };
        Ok((context, parts, text))
    }

    /// A context that is here already.
    pub(super) async fn of_kept(work: WorkDirectory, kept: KeptContext) -> Result<Self> {
        let tree = blocking(move || Ok(kept.tree())).await?;
        Ok(Self {
            work,
            tree: OnceCell::from(tree),
            client: None,
        })
    }

    /// A context whose files are asked for when a step needs any.
    pub(super) fn of_client(work: WorkDirectory, client: Option<Arc<dyn BuildClient>>) -> Self {
        Self {
            work,
            tree: OnceCell::new(),
            client,
        }
    }

    pub(super) fn new_pack(&self) -> Result<File> {
        self.work.new_pack()
    }

    pub(super) async fn tree(&self) -> Result<Arc<PackedTree>> {
        let bring = || async {
            let Some(client) = &self.client else {
                return Ok(Arc::new(PackedTree::empty()));
            };
            let kept = client.context().await?;
            blocking(move || Ok(kept.tree())).await
        };
        self.tree.get_or_try_init(bring).await.cloned()
    }

    /// Where this build may put a file of its own.
    pub(super) fn own_file(&self, name: &str) -> PathBuf {
        self.work.file(name)
    }

    pub(super) async fn read_dockerfile(&self, name: &str) -> Result<Vec<u8>> {
        let name = if name.is_empty() { "Dockerfile" } else { name }.to_owned();
        let tree = self.tree().await?;
        blocking(move || {
            let read = tree.read_file(Path::new(&name), DOCKERFILE_BYTES_MAX + 1);
            read.map_err(|errno| match errno {
                Errno::INVAL | Errno::ISDIR => {
                    EngineError::invalid(format!("the Dockerfile {name} is not a plain file"))
                }
                Errno::IO => EngineError::system(format!("cannot read {name}: {errno}")),
                _ => EngineError::invalid(format!("Cannot locate specified Dockerfile: {name}")),
            })
        })
        .await
    }
}

/// Takes away what a client sends for the daemon alone, as dockerd does: patterns and Dockerfile where the patterns leave
/// them out, and a Dockerfile from elsewhere, which has a name of the client's making. Gives the Dockerfile's text.
fn leave_out(tree: &mut PackedTree, dockerfile: &str) -> Option<Vec<u8>> {
    const PATTERNS: &str = ".dockerignore";
    let patterns = tree.read_file(Path::new(PATTERNS), DOCKERFILE_BYTES_MAX);
    let patterns = patterns.unwrap_or_default();
    let ignore = Ignore::parse(&String::from_utf8_lossy(&patterns)).unwrap_or_default();
    let dockerfile = if dockerfile.is_empty() {
        "Dockerfile"
    } else {
        dockerfile
    };
    let mut text = None;
    if dockerfile.starts_with(".dockerfile.") || ignore.excludes(dockerfile) {
        text = tree.read_file(Path::new(dockerfile), DOCKERFILE_BYTES_MAX).ok();
        tree.remove_file(dockerfile);
    }
    if ignore.excludes(PATTERNS) {
        tree.remove_file(PATTERNS);
    }
    text
}

/// A file that is gone when nobody has it open any more.
pub(super) fn nameless_file(directory: &Path) -> Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(directory, flags, Mode::from_raw_mode(0o600))
        .map(File::from)
        .map_err(|errno| EngineError::system(format!("keep files in {}: {errno}", directory.display())))
}

pub(super) fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| EngineError::system(format!("cannot open {}: {errno}", path.display())))
}
