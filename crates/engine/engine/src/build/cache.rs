//! What a step made before, found by everything that could change it.
//!
//! A key is the digest of a step's inputs: the layers it stands on, what it does, the words and files it does it with. A
//! record names the step's image; one whose image is gone is no record. Nothing here is synced: after a power loss the
//! content store has forgotten the images too.

use crate::Engine;
use crate::error::Result;
use naru_base::{Digest, Timestamp};
use naru_content::Image;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::io::{self, Write};
use std::sync::Arc;

/// What is known of one step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CacheRecord {
    pub image: Digest,
    pub description: String,
    pub made_at: Timestamp,
}

/// The digest of a step's inputs.
pub(super) fn key_of(inputs: &impl Serialize) -> Digest {
    let mut hash = HashWriter::default();
    // A hash takes everything, and these inputs are plain data.
    let _ = serde_json::to_writer(&mut hash, inputs);
    hash.finish()
}

impl Engine {
    pub(super) fn cached_step(&self, key: &Digest) -> Option<Arc<Image>> {
        let path = self.builds_directory().join("cache").join(key.hex());
        let record: CacheRecord = naru_store::read(&path).ok()?;
        self.content.image(record.image.as_str()).ok()
    }

    pub(super) fn note_step(&self, key: &Digest, image: &Digest, description: &str) -> Result<()> {
        let record = CacheRecord {
            image: image.clone(),
            description: description.to_owned(),
            made_at: Timestamp::now(),
        };
        let path = self.builds_directory().join("cache").join(key.hex());
        Ok(naru_store::write(&path, &record)?)
    }

    /// Deletes what builds keep; returns the keys of the records and the bytes of layers that are gone.
    pub async fn prune_builds(self: &Arc<Self>) -> Result<(Vec<String>, u64)> {
        let engine = Arc::clone(self);
        crate::archive::blocking(move || {
            let mut keys = Vec::new();
            let records = engine.builds_directory().join("cache");
            for entry in std::fs::read_dir(&records).into_iter().flatten().flatten() {
                if std::fs::remove_file(entry.path()).is_ok() {
                    keys.push(entry.file_name().to_string_lossy().into_owned());
                }
            }
            let steps: Vec<Digest> = engine
                .content
                .step_images()
                .iter()
                .map(|image| image.id.clone())
                .collect();
            let bytes = engine
                .content
                .forget_steps(&steps)
                .map_err(crate::images::error)?;
            Ok((keys, bytes))
        })
        .await
    }
}

/// Hashes what is written to it.
#[derive(Default)]
pub(super) struct HashWriter(Sha256);

impl HashWriter {
    pub(super) fn finish(self) -> Digest {
        Digest::from_sha256(self.0.finalize().into())
    }
}

impl Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
