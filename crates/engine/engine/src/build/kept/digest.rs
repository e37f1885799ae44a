//! What a context's files are, told by its index: nothing is read again for a digest.

use super::{Held, KeptContext, KeptKind, path_order};
use std::io::{self, Write};
use std::path::Path;

impl KeptContext {
    /// Writes all that a copy of `path` would bring to a hash: names, permissions, contents, never times. Says no where
    /// only the files can tell: behind a link, or where a hard link leads out of what is copied.
    pub(in crate::build) fn describe_path(
        &self,
        hash: &mut impl Write,
        path: &Path,
        mode: Option<u32>,
    ) -> io::Result<bool> {
        let Some(path) = path.to_str() else {
            return Ok(false);
        };
        let path = path.trim_start_matches('/');
        if path.is_empty() {
            return describe(hash, &self.entries, "", mode);
        }
        let begin = self
            .entries
            .partition_point(|held| path_order(&held.entry.path, path).is_lt());
        let Some(first) = self.entries.get(begin).filter(|held| held.entry.path == path) else {
            return Ok(false);
        };
        match first.entry.kind {
            KeptKind::Directory => {
                let below = format!("{path}/");
                let inside = &self.entries[begin + 1..];
                let end = inside.partition_point(|held| held.entry.path.starts_with(&below));
                describe(hash, &inside[..end], &below, mode)
            }
            KeptKind::File { .. } => {
                let directory = path.rfind('/').map_or("", |slash| &path[..=slash]);
                describe(hash, &self.entries[begin..=begin], directory, mode)
            }
            _ => Ok(false),
        }
    }
}

fn describe(hash: &mut impl Write, entries: &[Held], below: &str, mode: Option<u32>) -> io::Result<bool> {
    for held in entries {
        let entry = &held.entry;
        let name = &entry.path[below.len()..];
        let (kind, detail) = match &entry.kind {
            KeptKind::Directory => ('d', ""),
            KeptKind::File { .. } => ('f', held.content.as_str()),
            KeptKind::Symlink(target) => ('l', target.as_str()),
            KeptKind::Fifo => ('p', ""),
            KeptKind::HardLink(target) => match target.strip_prefix(below) {
                Some(target) => ('h', target),
                None => return Ok(false),
            },
        };
        // A link has no permissions of its own.
        let mode = if kind == 'l' {
            0
        } else {
            mode.unwrap_or(entry.mode)
        };
        write!(hash, "{kind}{mode:o}\0{name}\0{detail}\0")?;
        hash.write_all(&entry.capability)?;
        hash.write_all(b"\n")?;
    }
    Ok(true)
}
