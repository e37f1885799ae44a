//! What a step made before, found by everything that could change it.
//!
//! A key is the digest of a step's inputs: the layers it stands on, what it does, the words and files it does it with. A
//! record names the step's image; one whose image is gone is no record. Each use adds a line end to it (see `account`).
//! Nothing here is synced: after a power loss the content store has forgotten the images too.

use super::account::add_use;
use super::exchange::Recent;
use super::in_use::{InUse, Uses};
use super::kept::Contexts;
use crate::Engine;
use crate::error::Result;
use crate::record::ContainerRecord;
use naru_base::{ContainerId, Digest, Timestamp};
use naru_content::Image;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// What is known of one step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CacheRecord {
    pub image: Digest,
    pub description: String,
    pub made_at: Timestamp,
}

/// Steps being made, by their keys.
#[derive(Default)]
pub(crate) struct Builds {
    pending: Turns<Digest>,
    /// Caches of `RUN --mount=type=cache` that not everybody may use at once.
    mounts: Turns<String>,
    pub(super) contexts: Contexts,
    /// Variables of steps' containers that are in no record.
    secrets: Mutex<HashMap<ContainerId, Vec<String>>>,
    pub(super) in_use: InUse,
    recent: Mutex<Recent>,
}

/// A lock for each key that somebody uses.
type Turns<K> = Mutex<HashMap<K, Weak<tokio::sync::Mutex<()>>>>;

fn turn<K: std::hash::Hash + Eq>(turns: &Turns<K>, key: K) -> Arc<tokio::sync::Mutex<()>> {
    let mut turns = turns.lock().unwrap_or_else(PoisonError::into_inner);
    turns.retain(|_, lock| lock.strong_count() > 0);
    let lock = turns.get(&key).and_then(Weak::upgrade).unwrap_or_default();
    turns.insert(key, Arc::downgrade(&lock));
    lock
}

impl Builds {
    /// Waits until nobody else makes the step.
    pub(super) async fn begin(&self, key: Digest) -> PendingStep {
        let lock = turn(&self.pending, key.clone());
        PendingStep {
            key,
            _turn: Some(lock.lock_owned().await),
        }
    }

    /// The lock of a cache that steps mount.
    pub(super) fn mount(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        turn(&self.mounts, name.to_owned())
    }

    /// Steps of builds that have ended, for whoever fetches their cache.
    pub(super) fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn secrets(&self) -> MutexGuard<'_, HashMap<ContainerId, Vec<String>>> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a step's container variables that only its process may see.
    pub(super) fn set_secrets(&self, container: &ContainerId, variables: Vec<String>) {
        if !variables.is_empty() {
            self.secrets().insert(container.clone(), variables);
        }
    }

    pub(super) fn forget_secrets(&self, container: &ContainerId) {
        self.secrets().remove(container);
    }

    /// The record to start a container by: a build step's own, with its secret variables.
    pub(crate) fn with_secrets(&self, record: Arc<ContainerRecord>) -> Arc<ContainerRecord> {
        if !record.spec.is_build_step {
            return record;
        }
        let Some(variables) = self.secrets().get(&record.id).cloned() else {
            return record;
        };
        let mut changed = ContainerRecord::clone(&record);
        changed.resolved.env.extend(variables);
        Arc::new(changed)
    }
}

/// A step about to be made; nobody else makes it as long as this is there.
#[derive(Debug)]
pub(super) struct PendingStep {
    pub key: Digest,
    _turn: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl PendingStep {
    /// Whatever others do.
    pub(super) fn alone(key: Digest) -> Self {
        Self { key, _turn: None }
    }
}

/// The digest of a step's inputs.
pub(super) fn key_of(inputs: &impl Serialize) -> Digest {
    let mut hash = HashWriter::default();
    // A hash takes everything, and these inputs are plain data.
    let _ = serde_json::to_writer(&mut hash, inputs);
    hash.finish()
}

impl Engine {
    /// What a step made before, held for the build that uses it.
    pub(super) fn cached_step(&self, key: &Digest, uses: &Uses) -> Option<Arc<Image>> {
        let path = self.builds_directory().join("cache").join(key.hex());
        let record: CacheRecord = naru_store::read(&path).ok()?;
        if !uses.hold(&record.image) {
            return None;
        }
        let image = self.content.image(record.image.as_str()).ok()?;
        add_use(&path);
        Some(image)
    }

    pub(super) fn note_step(&self, key: &Digest, image: &Digest, description: &str) -> Result<()> {
        let record = CacheRecord {
            image: image.clone(),
            description: description.to_owned(),
            made_at: Timestamp::now(),
        };
        let path = self.builds_directory().join("cache").join(key.hex());
        naru_store::write(&path, &record)?;
        add_use(&path);
        Ok(())
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
