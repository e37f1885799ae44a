//! A context described without the bytes of its files: what a client tells of its directory before it sends anything,
//! and what an engine notes of the contexts it keeps.
//!
//! ```text
//! 1 byte    the version of the form
//! number    how many entries there are
//! entries   1 byte of kind and marks · mode · bytes shared with the path before · the rest of the path · time ·
//!           then by the marks: length, link, inode and device and time of change, capability
//! ```
//! Numbers are as short as they can be (LEB128); times, inodes and devices are told by how they differ from those before,
//! so that an entry takes some 25 bytes. The same entries make the same bytes.

use std::fmt;

/// What an entry of a context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    Directory,
    File {
        bytes: u64,
    },
    /// The same file as an earlier entry's.
    HardLink(String),
    Symlink(String),
    Fifo,
}

/// What a kernel knows of a file beside its name, and changes whenever the file changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileIdentity {
    /// Nanoseconds since 1970 of the last change of content or attributes; no program can set it.
    pub changed_ns: i64,
    pub inode: u64,
    pub device: u64,
}

/// A context's entry, as its client describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextEntry {
    /// Below the context, without a leading slash.
    pub path: String,
    pub kind: EntryKind,
    /// Permissions alone.
    pub mode: u32,
    /// Nanoseconds since 1970.
    pub modified_ns: i64,
    /// Of files, where the client can tell.
    pub identity: Option<FileIdentity>,
    /// The file may change without its times telling: it has changed a moment ago, and clocks have a grain.
    pub is_recent: bool,
    /// `security.capability`, as the kernel writes it.
    pub capability: Vec<u8>,
}

/// The version of the form.
const FORM: u8 = 1;

/// What all paths of a listing may take together. Shared beginnings would let few bytes stand for many.
const PATHS_BYTES_MAX: usize = 256 << 20;

const KIND_MASK: u8 = 0b111;
const HAS_IDENTITY: u8 = 1 << 3;
const IS_RECENT: u8 = 1 << 4;
const HAS_CAPABILITY: u8 = 1 << 5;

/// A listing that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListingError {
    /// Of another version, or none at all.
    Form,
    TooLong,
    /// It ends, or says something that cannot be, in this entry.
    Entry(usize),
}

impl fmt::Display for ListingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => f.write_str("the listing of the context is of a form that is not known here"),
            Self::TooLong => f.write_str("the listing of the context has too many entries or too long paths"),
            Self::Entry(number) => write!(f, "the listing of the context is damaged at its entry {number}"),
        }
    }
}

impl std::error::Error for ListingError {}

/// What differences are told against.
#[derive(Default)]
struct Before<'a> {
    path: &'a [u8],
    modified_ns: i64,
    inode: u64,
    device: u64,
}

/// Writes a listing.
pub fn encode<'a>(entries: impl ExactSizeIterator<Item = &'a ContextEntry>) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + 32 * entries.len());
    out.push(FORM);
    put_number(&mut out, entries.len() as u64);
    let mut before = Before::default();
    for entry in entries {
        put_entry(&mut out, entry, &mut before);
    }
    out
}

fn put_entry<'a>(out: &mut Vec<u8>, entry: &'a ContextEntry, before: &mut Before<'a>) {
    let mut marks = match entry.kind {
        EntryKind::Directory => 0,
        EntryKind::File { .. } => 1,
        EntryKind::HardLink(_) => 2,
        EntryKind::Symlink(_) => 3,
        EntryKind::Fifo => 4,
    };
    for (is_so, mark) in [
        (entry.identity.is_some(), HAS_IDENTITY),
        (entry.is_recent, IS_RECENT),
        (!entry.capability.is_empty(), HAS_CAPABILITY),
    ] {
        marks |= if is_so { mark } else { 0 };
    }
    out.push(marks);
    put_number(out, u64::from(entry.mode));
    let path = entry.path.as_bytes();
    let shared = path
        .iter()
        .zip(before.path)
        .take_while(|(one, other)| one == other)
        .count();
    put_number(out, shared as u64);
    put_bytes(out, &path[shared..]);
    put_difference(out, entry.modified_ns, before.modified_ns);
    match &entry.kind {
        EntryKind::File { bytes } => put_number(out, *bytes),
        EntryKind::HardLink(link) | EntryKind::Symlink(link) => put_bytes(out, link.as_bytes()),
        EntryKind::Directory | EntryKind::Fifo => {}
    }
    if let Some(identity) = entry.identity {
        put_difference(out, identity.changed_ns, entry.modified_ns);
        put_difference(out, identity.inode as i64, before.inode as i64);
        put_difference(out, identity.device as i64, before.device as i64);
        (before.inode, before.device) = (identity.inode, identity.device);
    }
    if !entry.capability.is_empty() {
        put_bytes(out, &entry.capability);
    }
    (before.path, before.modified_ns) = (path, entry.modified_ns);
}

/// Reads a listing; of more than so many entries none. Paths are text, and nothing else is sure of them.
pub fn decode(listing: &[u8], entries_max: usize) -> Result<Vec<ContextEntry>, ListingError> {
    let mut reader = Reader { left: listing };
    if reader.byte() != Some(FORM) {
        return Err(ListingError::Form);
    }
    let count = reader.number().ok_or(ListingError::Form)?;
    let count = usize::try_from(count).map_err(|_| ListingError::TooLong)?;
    if count > entries_max {
        return Err(ListingError::TooLong);
    }
    // An entry has six bytes at least.
    let mut entries: Vec<ContextEntry> = Vec::with_capacity(count.min(listing.len() / 6));
    let (mut inode, mut device, mut paths_bytes) = (0, 0, 0);
    for number in 0..count {
        let before = entries.last().map_or(Before::default(), |entry| Before {
            path: entry.path.as_bytes(),
            modified_ns: entry.modified_ns,
            inode,
            device,
        });
        let entry = reader.entry(&before).ok_or(ListingError::Entry(number))?;
        if let Some(identity) = entry.identity {
            (inode, device) = (identity.inode, identity.device);
        }
        paths_bytes += entry.path.len();
        if paths_bytes > PATHS_BYTES_MAX {
            return Err(ListingError::TooLong);
        }
        entries.push(entry);
    }
    if !reader.left.is_empty() {
        return Err(ListingError::Entry(count));
    }
    Ok(entries)
}

/// Writes a number, seven bits a byte, the lowest first.
pub fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Writes bytes, their number before them.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_difference(out: &mut Vec<u8>, value: i64, before: i64) {
    let difference = value.wrapping_sub(before);
    put_number(out, (difference << 1 ^ difference >> 63) as u64);
}

/// Reads what the functions above have written.
#[derive(Debug)]
pub struct Reader<'a> {
    pub left: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn byte(&mut self) -> Option<u8> {
        let (first, left) = self.left.split_first()?;
        self.left = left;
        Some(*first)
    }

    pub fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    pub fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, left) = self.left.split_at_checked(length)?;
        self.left = left;
        Some(taken)
    }

    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn difference(&mut self, before: i64) -> Option<i64> {
        let number = self.number()?;
        let difference = (number >> 1) as i64 ^ -((number & 1) as i64);
        Some(before.wrapping_add(difference))
    }

    fn entry(&mut self, before: &Before) -> Option<ContextEntry> {
        let marks = self.byte()?;
        let mode = u32::try_from(self.number()?).ok()?;
        let shared = usize::try_from(self.number()?).ok()?;
        let path = [before.path.get(..shared)?, self.bytes()?].concat();
        let modified_ns = self.difference(before.modified_ns)?;
        let kind = match marks & KIND_MASK {
            0 => EntryKind::Directory,
            1 => EntryKind::File {
                bytes: self.number()?,
            },
            2 => EntryKind::HardLink(self.text()?),
            3 => EntryKind::Symlink(self.text()?),
            4 => EntryKind::Fifo,
            _ => return None,
        };
        let identity = if marks & HAS_IDENTITY == 0 {
            None
        } else {
            Some(FileIdentity {
                changed_ns: self.difference(modified_ns)?,
                inode: self.difference(before.inode as i64)? as u64,
                device: self.difference(before.device as i64)? as u64,
            })
        };
        let capability = if marks & HAS_CAPABILITY == 0 {
            Vec::new()
        } else {
            self.bytes()?.to_vec()
        };
        Some(ContextEntry {
            path: String::from_utf8(path).ok()?,
            kind,
            mode,
            modified_ns,
            identity,
            is_recent: marks & IS_RECENT != 0,
            capability,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: EntryKind) -> ContextEntry {
        ContextEntry {
            path: path.to_owned(),
            kind,
            mode: 0o4755,
            modified_ns: 1_700_000_000_123_456_789,
            identity: None,
            is_recent: false,
            capability: Vec::new(),
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let mut entries = vec![
            entry("a", EntryKind::Directory),
            entry("a/ä", EntryKind::File { bytes: u64::MAX }),
            entry("a/ö", EntryKind::HardLink("a/ä".to_owned())),
            entry("b", EntryKind::Symlink("/etc/x".to_owned())),
            entry("c", EntryKind::Fifo),
        ];
        entries[1].identity = Some(FileIdentity {
            changed_ns: i64::MIN,
            inode: u64::MAX,
            device: 7,
        });
        entries[2].identity = Some(FileIdentity {
            changed_ns: i64::MAX,
            inode: 1,
            device: 0,
        });
        (entries[1].is_recent, entries[2].capability) = (true, vec![1, 2, 3]);
        entries[3].modified_ns = -1;
        let listing = encode(entries.iter());
        assert_eq!(decode(&listing, 5), Ok(entries));
        assert_eq!(decode(&listing, 4), Err(ListingError::TooLong));
        for end in 0..listing.len() {
            assert!(decode(&listing[..end], 5).is_err(), "{end}");
        }
        assert!(decode(&[&listing[..], b"x"].concat(), 5).is_err());
        assert_eq!(decode(&encode([].iter()), 0), Ok(Vec::new()));
    }
}
