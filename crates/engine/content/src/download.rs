//! Layer blobs on their way from a registry, and images made of them.
//!
//! A blob is written to `downloads/<hex>` as it comes and unpacked from there at the same time, by a reader that waits
//! where the file ends so far. So the network never waits for the disk, a transfer that breaks goes on where it was,
//! in this daemon or the next, and whatever was written before is hashed again with the rest: nothing in a file that
//! was left by somebody is believed. The file goes when an image has the layer, or its digest turns out wrong.

use crate::archive::plan_image;
use crate::commit::{Ingest, mismatch};
use crate::error::ContentError;
use crate::image::LoadedImage;
use crate::recovery::remove_any;
use crate::stage::{HashingReader, Keep, StagedLayer, WRITEBACK_BYTES, stage_layer};
use crate::store::{ContentStore, chain_ids};
use naru_base::Digest;
use naru_oci::{Descriptor, ImageConfig, Reference};
use naru_sys::file::begin_writeback;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// A download nobody went on with for so long is deleted when the store is opened.
const DOWNLOAD_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// A blob that is being written. Dropped before [`Download::finish`], its reader fails and the file stays.
#[derive(Debug)]
pub struct Download {
    shared: Arc<Shared>,
    /// How far the disk was told to write.
    handed_bytes: u64,
}

#[derive(Debug)]
struct Shared {
    file: File,
    path: PathBuf,
    flow: Mutex<Flow>,
    changed: Condvar,
}

/// How far the writer is.
#[derive(Debug, Clone, Copy)]
struct Flow {
    bytes: u64,
    /// `Some(true)` after all of it, `Some(false)` when no more will come.
    is_complete: Option<bool>,
    is_read: bool,
    bytes_read: u64,
}

impl Shared {
    fn flow(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Download {
    /// Bytes written so far, those of earlier attempts included.
    pub fn bytes(&self) -> u64 {
        self.shared.flow().bytes
    }

    /// Whether the reader stopped early: what came is no layer.
    pub fn is_abandoned(&self) -> bool {
        !self.shared.flow().is_read
    }

    pub fn append(&mut self, piece: &[u8]) -> Result<(), ContentError> {
        let at = self.bytes();
        let written = self.shared.file.write_all_at(piece, at);
        written.map_err(|error| ContentError::io(&self.shared.path, error))?;
        let bytes = at + piece.len() as u64;
        self.shared.flow().bytes = bytes;
        self.shared.changed.notify_one();
        if bytes - self.handed_bytes >= WRITEBACK_BYTES {
            begin_writeback(&self.shared.file, self.handed_bytes, bytes - self.handed_bytes);
            self.handed_bytes = bytes;
        }
        Ok(())
    }

    /// Says that this was all.
    pub fn finish(self) {
        self.shared.flow().is_complete = Some(true);
    }

    /// The blob from its first byte, waiting for what is not there yet.
    pub fn reader(&self) -> DownloadReader {
        self.shared.flow().is_read = true;
        DownloadReader {
            shared: Arc::clone(&self.shared),
            position: 0,
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.shared.flow().is_complete.get_or_insert(false);
        self.shared.changed.notify_one();
    }
}

/// Reads a blob while it is written.
#[derive(Debug)]
pub struct DownloadReader {
    shared: Arc<Shared>,
    position: u64,
}

/// Tells how far a reader is.
#[derive(Debug)]
pub struct DownloadWatch(Arc<Shared>);

impl DownloadWatch {
    /// How many bytes were read so far.
    pub fn bytes_read(&self) -> u64 {
        let flow = self.0.flow();
        flow.bytes_read
    }
}

impl DownloadReader {
    pub fn watch(&self) -> DownloadWatch {
        DownloadWatch(Arc::clone(&self.shared))
    }
}

impl Read for DownloadReader {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let mut flow = self.shared.flow();
        flow.bytes_read = self.position;
        let available = loop {
            if flow.bytes > self.position {
                break flow.bytes - self.position;
            }
            match flow.is_complete {
                Some(true) => return Ok(0),
                Some(false) => return Err(io::Error::other("the download was given up")),
                None => {}
            }
            flow = self
                .shared
                .changed
                .wait(flow)
                .unwrap_or_else(PoisonError::into_inner);
        };
        drop(flow);
        let wanted = target.len().min(usize::try_from(available).unwrap_or(usize::MAX));
        let length = self.shared.file.read_at(&mut target[..wanted], self.position)?;
        if length == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        self.position += length as u64;
        Ok(length)
    }
}

impl Drop for DownloadReader {
    fn drop(&mut self) {
        self.shared.flow().is_read = false;
    }
}

impl ContentStore {
    /// Opens the download of a blob of so many bytes, with what is there of it. One caller at a time for a blob.
    pub fn open_download(&self, descriptor: &Descriptor) -> Result<Download, ContentError> {
        let path = self.layout.download(&descriptor.digest);
        let failed = |error| ContentError::io(&path, error);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        let mut bytes = file.metadata().map_err(failed)?.len();
        if bytes > descriptor.size {
            file.set_len(0).map_err(failed)?;
            bytes = 0;
        }
        let shared = Shared {
            file,
            path,
            flow: Mutex::new(Flow {
                bytes,
                is_complete: None,
                is_read: false,
                bytes_read: 0,
            }),
            changed: Condvar::new(),
        };
        Ok(Download {
            shared: Arc::new(shared),
            handed_bytes: bytes,
        })
    }

    /// Deletes what came of a blob.
    pub fn discard_download(&self, digest: &Digest) -> Result<(), ContentError> {
        remove_any(&self.layout.download(digest))
    }

    /// Compares a whole download with its digest; blocking.
    pub fn verify_download(&self, descriptor: &Descriptor) -> Result<(), ContentError> {
        let path = self.layout.download(&descriptor.digest);
        let failed = |error| ContentError::io(&path, error);
        let file = File::open(&path).map_err(failed)?;
        let (found, _) = HashingReader::new(file).finish().map_err(failed)?;
        if found != descriptor.digest {
            let label = format!("layer {}", descriptor.digest.short());
            return Err(mismatch(&label, &descriptor.digest, &found));
        }
        Ok(())
    }

    /// Unpacks a blob; blocking. Whether it is the right one is told by its digests, which
    /// [`Assembly::add`] compares.
    pub fn stage_download(&self, input: DownloadReader, label: &str) -> Result<StagedLayer, ContentError> {
        let shared = Arc::clone(&input.shared);
        stage_layer(input, self.layout.temporary(), Keep::File(&shared.path))
            .map_err(|source| self.layer_error(label, source))
    }

    /// Begins an image whose parts come one by one.
    pub fn assemble(&self) -> Assembly<'_> {
        Assembly {
            ingest: Ingest::new(self),
            downloads: Vec::new(),
        }
    }

    /// Deletes downloads that were given up long ago.
    pub(crate) fn sweep_downloads(&self) {
        let Ok(entries) = std::fs::read_dir(self.layout.root.join("downloads")) else {
            return;
        };
        let now = SystemTime::now();
        for entry in entries.flatten() {
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|time| now.duration_since(time).ok());
            if age.is_some_and(|age| age > DOWNLOAD_AGE_MAX) {
                // One more try at the next opening.
                drop(std::fs::remove_file(entry.path()));
            }
        }
    }
}

/// An image in the making. Dropped before [`Assembly::commit`], nothing of it stays but its downloads.
pub struct Assembly<'a> {
    ingest: Ingest<'a>,
    downloads: Vec<Digest>,
}

impl Assembly<'_> {
    /// Whether the store has this layer, in this chain or another; it then stays until this is dropped.
    pub fn find_layer(&mut self, diff_ids: &[Digest], index: usize) -> bool {
        let chain = chain_ids(&diff_ids[..=index]);
        chain.last().is_some_and(|chain| self.ingest.pin_chain(chain))
            || self.ingest.find_layer(&diff_ids[index]).is_some()
    }

    /// Takes a layer, if it is the one the manifest and the configuration speak of.
    pub fn add(
        &mut self,
        staged: StagedLayer,
        descriptor: &Descriptor,
        diff_id: &Digest,
    ) -> Result<(), ContentError> {
        let label = format!("layer {}", descriptor.digest.short());
        if staged.blob != descriptor.digest {
            return Err(mismatch(&label, &descriptor.digest, &staged.blob));
        }
        if staged.diff_id != *diff_id {
            return Err(mismatch(
                &format!("the archive in {label}"),
                diff_id,
                &staged.diff_id,
            ));
        }
        self.downloads.push(descriptor.digest.clone());
        self.ingest.adopt(staged);
        Ok(())
    }

    /// Makes the image; answers once it would survive a power loss. Its layers' diff ids are checked by
    /// [`parse_config`] and [`Assembly::add`].
    pub fn commit(
        self,
        raw_config: &[u8],
        manifest: &[u8],
        names: Vec<Reference>,
    ) -> Result<LoadedImage, ContentError> {
        let config = parse_config(raw_config)?;
        let mut plan = plan_image(raw_config, &config.rootfs.diff_ids, names)?;
        plan.manifest = Some(manifest.to_vec());
        let store = self.ingest.store();
        let mut loaded = self.ingest.commit(vec![plan])?;
        for digest in &self.downloads {
            store.discard_download(digest)?;
        }
        loaded
            .pop()
            .ok_or_else(|| ContentError::Config("no image was made".to_owned()))
    }
}

/// Reads an image's configuration.
pub fn parse_config(raw_config: &[u8]) -> Result<ImageConfig, ContentError> {
    serde_json::from_slice(raw_config).map_err(|error| ContentError::Config(error.to_string()))
}
