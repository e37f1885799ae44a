//! Records: small JSON files, each replaced whole by an atomic rename.
//!
//! ```text
//! <directory>/<id>/record.json      {"format":1,"record":{…}}
//! ```
//!
//! What a record survives:
//! - the death of any process, at any moment, as soon as [`write`] has returned: the page cache keeps it;
//! - a power loss, once [`Syncer`] has synced it, which it does within [`SYNC_DELAY`]. A power loss before that may
//!   bring back the record before, or none: a container made within the last second may be forgotten, never half known.
//!
//! This crate never decides what a damaged record means; it says which file is damaged and how.

mod syncer;

use naru_sys::file::{self, FileError};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::path::{Path, PathBuf};

pub use syncer::{SYNC_DELAY, Syncer};

/// The version of the envelope; a file with a larger one was written by a newer Naru and is refused.
const FORMAT: u32 = 1;

/// Largest record read. A container with very many variables and mounts stays far below.
const RECORD_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("there is no record at {}", .0.display())]
    Missing(PathBuf),
    #[error("the record at {} is damaged: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("the record at {} has format {format}; this version reads up to {FORMAT}", path.display())]
    Newer { path: PathBuf, format: u32 },
    #[error(transparent)]
    File(#[from] FileError),
}

#[derive(Serialize)]
struct EnvelopeRef<'a, T> {
    format: u32,
    record: &'a T,
}

#[derive(Deserialize)]
struct Envelope<T> {
    record: T,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// Replaces the record at `path`.
pub fn write<T: Serialize>(path: &Path, record: &T) -> Result<(), StoreError> {
    let text = serde_json::to_vec(&EnvelopeRef {
        format: FORMAT,
        record,
    })
    .map_err(|error| StoreError::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(file::replace(path, &text)?)
}

/// Reads the record at `path`. An empty file is one whose text a power loss kept from the disk: no record.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, StoreError> {
    let text = file::read_bounded(path, RECORD_BYTES_MAX).map_err(|error| {
        if error.is_not_found() {
            StoreError::Missing(path.to_owned())
        } else {
            error.into()
        }
    })?;
    if text.is_empty() {
        return Err(StoreError::Missing(path.to_owned()));
    }
    let damaged = |error: serde_json::Error| StoreError::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let Format { format } = serde_json::from_slice(&text).map_err(damaged)?;
    if format > FORMAT {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            format,
        });
    }
    let Envelope { record } = serde_json::from_slice(&text).map_err(damaged)?;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_damage_is_named() {
        let directory = std::env::temp_dir().join(format!("naru-store-{}", std::process::id()));
        file::make_directories(&directory, 0o700).unwrap();
        let path = directory.join("record.json");
        assert!(matches!(read::<u32>(&path), Err(StoreError::Missing(_))));
        std::fs::write(&path, b"").unwrap();
        assert!(matches!(read::<u32>(&path), Err(StoreError::Missing(_))));
        write(&path, &7_u32).unwrap();
        assert_eq!(read::<u32>(&path).unwrap(), 7);
        std::fs::write(&path, b"{\"format\":1,\"rec").unwrap();
        assert!(matches!(read::<u32>(&path), Err(StoreError::Damaged { .. })));
        std::fs::write(&path, b"{\"format\":9,\"record\":{}}").unwrap();
        assert!(matches!(
            read::<u32>(&path),
            Err(StoreError::Newer { format: 9, .. })
        ));
        file::remove_tree(&directory).unwrap();
    }
}
