//! A version of a context in a file, for the next daemon.
//!
//! ```text
//! "naru context 2\n" · boot id · number of the pack · state · listing · of each plain file: place, SHA-256, capability
//! SHA-256 of all that
//! ```
//! A file that ends early, is damaged, of another version or of another boot of the machine is none: contents are not
//! synced, so only the boot that wrote them knows that they are there.

use super::pack::Pack;
use super::update::ENTRIES_MAX;
use super::{Content, Held, Version};
use crate::error::Result;
use naru_base::Digest;
use naru_build::listing::{self, EntryKind, Reader, put_bytes, put_number};
use naru_sys::file;
use sha2::{Digest as _, Sha256};
use std::path::Path;
use std::sync::{Arc, OnceLock};

const MAGIC: &[u8] = b"naru context 2\n";

/// Largest index read: a million files with long names.
const BYTES_MAX: u64 = 512 << 20;

const HASH_BYTES: usize = 32;

pub(super) fn write(directory: &Path, version: &Version) -> Result<()> {
    let mut out = MAGIC.to_vec();
    put_bytes(&mut out, boot_id().as_bytes());
    put_number(&mut out, version.pack.number);
    let state = version.state.as_ref().map(Digest::to_sha256);
    put_bytes(&mut out, state.as_ref().map_or(&[], |state| &state[..]));
    let entries = version.entries.iter().map(|held| &held.entry);
    put_bytes(&mut out, &listing::encode(entries));
    for content in version.entries.iter().filter_map(|held| held.content.as_ref()) {
        put_number(&mut out, content.at);
        out.extend_from_slice(&content.hash);
        put_bytes(&mut out, &content.capability);
    }
    let hash = Sha256::digest(&out);
    out.extend_from_slice(&hash);
    Ok(file::replace(&directory.join("index"), &out)?)
}

/// `None` where there is none to trust.
pub(super) fn read(directory: &Path) -> Option<Version> {
    let text = file::read_bounded(&directory.join("index"), BYTES_MAX).ok()?;
    let (text, hash) = text.split_at_checked(text.len().checked_sub(HASH_BYTES)?)?;
    if Sha256::digest(text)[..] != *hash {
        return None;
    }
    let mut reader = Reader {
        left: text.strip_prefix(MAGIC)?,
    };
    if reader.bytes()? != boot_id().as_bytes() {
        return None;
    }
    let pack = Pack::open(directory, reader.number()?).ok()?;
    let state = reader.bytes()?;
    let listed = listing::decode(reader.bytes()?, ENTRIES_MAX).ok()?;
    let mut entries = Vec::with_capacity(listed.len());
    for entry in listed {
        let content = match entry.kind {
            EntryKind::File { bytes } => Some(read_content(&mut reader, bytes, pack.end())?),
            _ => None,
        };
        entries.push(Held { entry, content });
    }
    Some(Version {
        state: state.try_into().ok().map(Digest::from_sha256),
        entries,
        pack: Arc::new(pack),
        tree: OnceLock::new(),
    })
}

fn read_content(reader: &mut Reader, bytes: u64, pack_end: u64) -> Option<Content> {
    let at = reader.number()?;
    let hash = reader.take(HASH_BYTES)?.try_into().ok()?;
    let capability = reader.bytes()?.to_vec();
    let is_there = at.checked_add(bytes).is_some_and(|end| end <= pack_end);
    is_there.then_some(Content { at, hash, capability })
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}
