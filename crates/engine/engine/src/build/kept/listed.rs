//! Bringing a context up to date for a client that lists all of it at once, then sends what is wanted in one stream.
//!
//! ```text
//!  listing (see naru_build::listing)  ──▶
//!                                     ◀──  which files are wanted
//!  of each, in order:                 ──▶  length of its capability · capability · as many bytes as it was listed with
//! ```
//! The digest of such a listing stands for the whole context, as long as nothing in it has changed a moment before: what
//! the kernel says of a file changes with it.

use super::update::ENTRIES_MAX;
use super::{KeptContext, Update};
use crate::Engine;
use crate::error::{EngineError, Result};
use naru_base::Digest;
use naru_build::listing::{self, EntryKind};
use sha2::{Digest as _, Sha256};
use std::io::{self, Read};

/// The kernel's attribute has 24 bytes at most.
const CAPABILITY_BYTES_MAX: u8 = 64;

/// Read at once from the client.
const PIECE_BYTES: u64 = 64 << 10;

/// A context whose listing is here.
#[derive(Debug)]
pub struct ListedUpdate {
    update: Update,
    state: Digest,
    /// Numbers and lengths of files.
    wanted: Vec<(u32, u64)>,
}

impl Engine {
    /// Begins to bring a context up to date by its listing.
    pub fn update_listed_context(&self, key: &str, listing: &[u8]) -> Result<ListedUpdate> {
        ListedUpdate::begin(self.update_kept_context(key)?, listing)
    }
}

impl ListedUpdate {
    pub(super) fn begin(mut update: Update, listing: &[u8]) -> Result<Self> {
        let entries =
            listing::decode(listing, ENTRIES_MAX).map_err(|error| EngineError::invalid(error.to_string()))?;
        let mut wanted = Vec::new();
        for entry in entries {
            let bytes = match entry.kind {
                EntryKind::File { bytes } => bytes,
                _ => 0,
            };
            wanted.extend(update.offer(entry)?.map(|number| (number, bytes)));
        }
        update.end_of_entries();
        Ok(Self {
            update,
            state: Digest::from_sha256(Sha256::digest(listing).into()),
            wanted,
        })
    }

    /// The numbers of the entries whose files are wanted: the first of a row, and how many there are in it.
    pub fn wanted(&self) -> Vec<(u32, u32)> {
        let mut rows: Vec<(u32, u32)> = Vec::new();
        for (number, _) in &self.wanted {
            match rows.last_mut() {
                Some((first, count)) if *first + *count == *number => *count += 1,
                _ => rows.push((*number, 1)),
            }
        }
        rows
    }

    /// Takes the wanted files.
    pub fn receive(mut self, mut contents: impl Read) -> Result<KeptContext> {
        let left =
            |error: io::Error| EngineError::invalid(format!("the context did not come to its end: {error}"));
        let mut piece = Vec::new();
        for (number, bytes) in std::mem::take(&mut self.wanted) {
            let mut length = [0];
            contents.read_exact(&mut length).map_err(left)?;
            if length[0] > CAPABILITY_BYTES_MAX {
                return Err(EngineError::invalid("a file's capability is too long"));
            }
            let mut capability = vec![0; usize::from(length[0])];
            contents.read_exact(&mut capability).map_err(left)?;
            self.update.set_capability(number, capability);
            let mut remaining = bytes;
            while remaining > 0 {
                piece.resize(remaining.min(PIECE_BYTES) as usize, 0);
                contents.read_exact(&mut piece).map_err(left)?;
                self.update.receive(number, &piece)?;
                remaining -= piece.len() as u64;
            }
            self.update.receive(number, &[])?;
        }
        self.update.finish(Some(self.state))
    }
}
