//! What builds fetch themselves: files and archives from web servers, repositories of git.
//!
//! A file that was fetched before is kept, and its server asked whether it is still the same.

use super::account::note_use;
use super::attest::Sum;
use super::cache;
use super::git::{GitAddress, fetch_repository, head_commit};
use super::redact::{redact_address, redact_text};
use super::solve::Builder;
use super::transfer::{Item, Selection, find_items};
use super::tree::{Root, SourceTree};
use crate::Engine;
use crate::archive::{Chunks, blocking, directory_archive};
use crate::error::{EngineError, Result};
use naru_base::Digest;
use naru_build::ignore::Ignore;
use naru_registry::Validators;
use naru_sys::file;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::AsyncWriteExt;

/// Tells apart what one daemon fetches at once.
static ORDINAL: AtomicU64 = AtomicU64::new(0);

/// What is known of a file that was fetched.
#[derive(Debug, Serialize, Deserialize)]
struct FetchedRecord {
    etag: Option<String>,
    last_modified: Option<String>,
    digest: Digest,
}

/// Whether a source of `ADD`, or a context, is fetched.
pub(super) fn is_remote(text: &str) -> bool {
    is_web(text) || GitAddress::parse(text).is_some()
}

fn is_web(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

impl Builder {
    /// A source of `ADD` that is somewhere else.
    pub(super) async fn fetch_item(
        &self,
        address: &str,
        checksum: Option<&str>,
        keeps_git: bool,
    ) -> Result<Item> {
        let ordinal = ORDINAL.fetch_add(1, Ordering::Relaxed);
        let directory = self.context.own_file(&format!("fetched-{ordinal}"));
        file::make_directories(&directory, 0o700)?;
        if let Some(git) = GitAddress::parse(address) {
            if checksum.is_some() {
                return Err(EngineError::invalid("a checksum can only be given for a file"));
            }
            fetch_repository(&git, &directory).await?;
            self.gather_fetched(address, commit_of(&directory));
            return git_item(directory, git, keeps_git).await;
        }
        let name = file_name(address)?;
        let digest = self.engine.fetch_file(address, &directory.join(&name)).await?;
        self.gather_fetched(address, Some(sum_of(&digest)));
        if let Some(wanted) = checksum {
            let wanted: Digest = wanted
                .parse()
                .map_err(|_| EngineError::invalid(format!("{wanted:?} is no checksum: give sha256:…")))?;
            if wanted != digest {
                return Err(EngineError::invalid(format!(
                    "digest mismatch {digest}: {wanted} was expected of {}",
                    redact_address(address)
                )));
            }
        }
        item_of(directory, &name, Ignore::default()).await
    }

    /// A context that is fetched: a repository or an archive.
    pub(super) async fn fetch_tree(&self, address: &str) -> Result<Chunks> {
        let ordinal = ORDINAL.fetch_add(1, Ordering::Relaxed);
        let directory = self.context.own_file(&format!("fetched-{ordinal}"));
        let fetched = self
            .engine
            .fetch_context(address, directory, self.request.keeps_git())
            .await?;
        self.gather_fetched(address, fetched.sum);
        Ok(fetched.archive)
    }
}

/// A context that was fetched.
pub(super) struct FetchedContext {
    pub archive: Chunks,
    /// There is a Dockerfile in it, and nothing else.
    pub is_lone: bool,
    /// Of the file, or the repository's commit.
    pub sum: Option<Sum>,
}

fn sum_of(digest: &Digest) -> Sum {
    ("sha256", digest.hex().to_owned())
}

fn commit_of(directory: &Path) -> Option<Sum> {
    let commit = head_commit(directory)?;
    // Repositories by SHA-256 are the other kind there is.
    let algorithm = if commit.len() == 40 { "sha1" } else { "sha256" };
    Some((algorithm, commit))
}

impl Engine {
    /// Fetches a context as an archive.
    ///
    /// What git keeps of a repository tells when it was fetched, so it is no part of the context unless that is asked for.
    pub(super) async fn fetch_context(
        &self,
        address: &str,
        directory: PathBuf,
        keeps_git: bool,
    ) -> Result<FetchedContext> {
        file::make_directories(&directory, 0o700)?;
        if let Some(git) = GitAddress::parse(address) {
            fetch_repository(&git, &directory).await?;
            let sum = commit_of(&directory);
            if !keeps_git {
                file::remove_tree(&directory.join(".git"))?;
            }
            let root = super::context::open_directory(&directory)?;
            let wanted = PathBuf::from("/").join(git.directory.trim_start_matches('/'));
            let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
            let root = crate::archive::place::open(&root, &wanted, flags).map_err(|errno| {
                EngineError::invalid(format!("the repository's directory {}: {errno}", git.directory))
            })?;
            return Ok(FetchedContext {
                archive: directory_archive(root),
                is_lone: false,
                sum,
            });
        }
        if !is_web(address) {
            return Err(EngineError::invalid(format!(
                "{:?} is no context: give a directory, an http(s) URL or a git repository",
                redact_address(address)
            )));
        }
        let path = directory.join("Dockerfile");
        let sum = Some(sum_of(&self.fetch_file(address, &path).await?));
        let at = path.clone();
        let is_archive = blocking(move || is_archive_file(&at)).await?;
        if is_archive {
            return Ok(FetchedContext {
                archive: read_file(path),
                is_lone: false,
                sum,
            });
        }
        let root = super::context::open_directory(&directory)?;
        Ok(FetchedContext {
            archive: directory_archive(root),
            is_lone: true,
            sum,
        })
    }

    /// Fetches a file to a path, or takes what was fetched before if the server says that it is the same.
    async fn fetch_file(&self, url: &str, path: &Path) -> Result<Digest> {
        let kept = self
            .builds_directory()
            .join("fetched")
            .join(cache::key_of(&url).hex());
        let told = redact_address(url);
        let (record_path, content_path) = (kept.join("record"), kept.join("content"));
        let use_path = kept.join("use");
        let known: Option<FetchedRecord> = naru_store::read(&record_path).ok();
        let validators =
            known
                .as_ref()
                .filter(|_| content_path.is_file())
                .map_or_else(Validators::default, |known| Validators {
                    etag: known.etag.clone(),
                    last_modified: known.last_modified.clone(),
                });
        let download = naru_registry::download_unless_same(&self.options.registry, url, &validators);
        // What cannot be had under this name is a fault of the name, as far as the engine can tell.
        let download = download.await.map_err(|error| {
            let reason = redact_text(&error.to_string());
            EngineError::invalid(format!("cannot fetch {told}: {reason}"))
        })?;
        let Some(download) = download else {
            let from = content_path.clone();
            let to = path.to_owned();
            let digest = blocking(move || copy_and_hash(&from, &to)).await?;
            // Whoever changed it is not asked: it is fetched again.
            if known.is_some_and(|known| known.digest == digest) {
                note_use(&use_path, || format!("fetched from {told}"));
                return Ok(digest);
            }
            file::remove_tree(&kept)?;
            return Err(EngineError::system(format!(
                "what was kept of {told} has changed on the disk; build again to fetch it anew"
            )));
        };
        let validators = download.validators.clone();
        let digest = write_download(download, path).await?;
        if !validators.is_empty() {
            let record = FetchedRecord {
                etag: validators.etag,
                last_modified: validators.last_modified,
                digest: digest.clone(),
            };
            let from = path.to_owned();
            let description = format!("fetched from {told}");
            blocking(move || {
                file::remove_tree(&kept)?;
                file::make_directories(&kept, 0o700)?;
                copy_and_hash(&from, &content_path)?;
                note_use(&use_path, || description);
                Ok(naru_store::write(&record_path, &record)?)
            })
            .await?;
        }
        Ok(digest)
    }
}

/// The last part of a URL's path; a file needs a name.
fn file_name(url: &str) -> Result<String> {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    let name = path.split_once('/').and_then(|(_, path)| path.rsplit('/').next());
    let name = name.filter(|name| !name.is_empty() && *name != "." && *name != "..");
    name.map(str::to_owned).ok_or_else(|| {
        EngineError::invalid(format!(
            "cannot determine filename from url: {}: its path ends in no name",
            redact_address(url)
        ))
    })
}

fn failed_at<'a>(action: &'a str, path: &'a Path) -> impl Fn(std::io::Error) -> EngineError + use<'a> {
    move |error| EngineError::system(format!("{action} {}: {error}", path.display()))
}

async fn write_download(mut download: naru_registry::Download, path: &Path) -> Result<Digest> {
    let failed = failed_at("write", path);
    // As Docker has it: what is fetched is for its owner.
    let mut options = tokio::fs::OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o600).open(path).await;
    let mut output = opened.map_err(&failed)?;
    let mut hash = Sha256::new();
    while let Some(piece) = download.next().await? {
        hash.update(&piece);
        output.write_all(&piece).await.map_err(&failed)?;
    }
    output.flush().await.map_err(&failed)?;
    Ok(Digest::from_sha256(hash.finalize().into()))
}

fn copy_and_hash(from: &Path, to: &Path) -> Result<Digest> {
    use std::io::{Read, Write};
    use std::os::unix::fs::OpenOptionsExt;
    let mut input = std::fs::File::open(from).map_err(failed_at("open", from))?;
    let mut options = std::fs::OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o600).open(to);
    let mut output = opened.map_err(failed_at("create", to))?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 128 << 10]);
    loop {
        let length = input.read(&mut piece).map_err(failed_at("read", from))?;
        if length == 0 {
            return Ok(Digest::from_sha256(hash.finalize().into()));
        }
        hash.update(&piece[..length]);
        output
            .write_all(&piece[..length])
            .map_err(failed_at("write", to))?;
    }
}

fn is_archive_file(path: &Path) -> Result<bool> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(failed_at("open", path))?;
    let Ok(mut plain) = crate::archive::extract::decompress(file) else {
        return Ok(false);
    };
    let mut first = [0; 512];
    let is_whole = plain.read_exact(&mut first).is_ok();
    Ok(is_whole && first[257..].starts_with(b"ustar"))
}

fn read_file(path: PathBuf) -> Chunks {
    crate::archive::stream(move |output| {
        let mut file = std::fs::File::open(&path)?;
        std::io::copy(&mut file, output).map(drop)
    })
}

async fn item_of(directory: PathBuf, name: &str, excludes: Ignore) -> Result<Item> {
    let selection = Selection {
        sources: vec![name.to_owned()],
        excludes,
        ..Selection::default()
    };
    blocking(move || {
        let tree = Arc::new(SourceTree {
            root: Root::Directory(super::context::open_directory(&directory)?),
            name: "what was fetched".to_owned(),
            keeps_owners: false,
        });
        let mut items = find_items(&tree, &selection)?;
        items
            .pop()
            .ok_or_else(|| EngineError::system("what was fetched is not there"))
    })
    .await
}

async fn git_item(directory: PathBuf, git: GitAddress, keeps_git: bool) -> Result<Item> {
    let mut excludes = Ignore::default();
    if !keeps_git {
        excludes.push(".git", false).map_err(EngineError::invalid)?;
    }
    let wanted = format!("/{}", git.directory.trim_matches('/'));
    item_of(directory, &wanted, excludes).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_names() {
        assert_eq!(file_name("http://h/a/b.tar.gz?x=/y#z").unwrap(), "b.tar.gz");
        for url in ["http://h", "http://h/", "http://h/a/", "http://h/.."] {
            assert!(file_name(url).is_err(), "{url}");
        }
    }
}
