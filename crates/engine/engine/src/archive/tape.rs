//! Writing tar archives, as Docker's daemon writes them: the POSIX form, whole seconds, extended records only where
//! the old header has no room. The same files make the same bytes.

use super::ids::Ids;
use rustix::fs::{FileType, Stat};
use std::io::{self, Write};

const BLOCK: usize = 512;
/// Eleven octal digits.
const SIZE_MAX: u64 = 0o777_7777_7777;
/// Seven octal digits.
const ID_MAX: u32 = 0o777_7777;

/// One member of an archive, but for its content.
#[derive(Debug, Clone)]
pub struct Member {
    /// A directory's ends in a slash.
    pub name: Vec<u8>,
    pub kind: tar::EntryType,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub bytes: u64,
    /// Seconds since the epoch.
    pub modified_at: i64,
    pub link: Vec<u8>,
    pub device: (u32, u32),
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Member {
    /// From what the kernel says of a file. `None` for a socket, which archives cannot hold.
    pub fn of(name: Vec<u8>, stat: &Stat) -> Option<Self> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => tar::EntryType::Regular,
            FileType::Directory => tar::EntryType::Directory,
            FileType::Symlink => tar::EntryType::Symlink,
            FileType::CharacterDevice => tar::EntryType::Char,
            FileType::BlockDevice => tar::EntryType::Block,
            FileType::Fifo => tar::EntryType::Fifo,
            _ => return None,
        };
        Some(Self {
            name,
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            bytes: if kind == tar::EntryType::Regular {
                u64::try_from(stat.st_size).unwrap_or(0)
            } else {
                0
            },
            modified_at: stat.st_mtime,
            link: Vec::new(),
            device: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
            attributes: Vec::new(),
        })
    }

    /// An empty file, for marks.
    pub fn empty(name: Vec<u8>) -> Self {
        Self {
            name,
            kind: tar::EntryType::Regular,
            mode: 0,
            uid: 0,
            gid: 0,
            bytes: 0,
            modified_at: 0,
            link: Vec::new(),
            device: (0, 0),
            attributes: Vec::new(),
        }
    }

    /// What the old header cannot say.
    fn extended_records(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let is_awkward = |text: &[u8], room: usize| text.len() > room || !text.is_ascii();
        if is_awkward(&self.name, 100) {
            push_record(&mut records, b"path", &self.name);
        }
        if is_awkward(&self.link, 100) {
            push_record(&mut records, b"linkpath", &self.link);
        }
        if self.bytes > SIZE_MAX {
            push_record(&mut records, b"size", self.bytes.to_string().as_bytes());
        }
        if self.uid > ID_MAX {
            push_record(&mut records, b"uid", self.uid.to_string().as_bytes());
        }
        if self.gid > ID_MAX {
            push_record(&mut records, b"gid", self.gid.to_string().as_bytes());
        }
        let has_room = u64::try_from(self.modified_at).is_ok_and(|seconds| seconds <= SIZE_MAX);
        if !has_room {
            push_record(&mut records, b"mtime", self.modified_at.to_string().as_bytes());
        }
        for (key, value) in &self.attributes {
            push_record(&mut records, &[b"SCHILY.xattr.", &key[..]].concat(), value);
        }
        records
    }

    fn header(&self) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(self.kind);
        header.set_mode(self.mode);
        header.set_uid(u64::from(self.uid.min(ID_MAX)));
        header.set_gid(u64::from(self.gid.min(ID_MAX)));
        header.set_size(self.bytes.min(SIZE_MAX));
        let seconds = u64::try_from(self.modified_at).unwrap_or(0);
        header.set_mtime(seconds.min(SIZE_MAX));
        if matches!(self.kind, tar::EntryType::Char | tar::EntryType::Block) {
            // Set on headers of this form only, which it is.
            let _ = header.set_device_major(self.device.0);
            let _ = header.set_device_minor(self.device.1);
        }
        let fields = header.as_old_mut();
        copy_cut(&mut fields.name, &self.name);
        copy_cut(&mut fields.linkname, &self.link);
        header.set_cksum();
        header
    }
}

fn copy_cut(field: &mut [u8], text: &[u8]) {
    let length = field.len().min(text.len());
    field[..length].copy_from_slice(&text[..length]);
}

/// `length key=value\n`, where the length counts itself.
fn push_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// The times that members get, in seconds since the epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Times {
    #[default]
    AsTheyAre,
    /// None later than this.
    AtMost(i64),
}

/// An archive being written.
pub struct Tape<W> {
    output: W,
    /// Files come with the host's ids.
    ids: Option<Ids>,
    times: Times,
}

impl<W: Write> Tape<W> {
    pub fn new(output: W) -> Self {
        Self {
            output,
            ids: None,
            times: Times::default(),
        }
    }

    /// Gives members the ids that a container has for them.
    pub fn with_ids(self, ids: Option<Ids>) -> Self {
        Self { ids, ..self }
    }

    /// Gives members these times instead of their own.
    pub fn with_times(self, times: Times) -> Self {
        Self { times, ..self }
    }

    /// Writes a member without content.
    pub fn push(&mut self, member: &Member) -> io::Result<()> {
        if self.ids.is_none() && self.times == Times::AsTheyAre {
            return self.push_as_it_is(member);
        }
        let mut changed = member.clone();
        if let Some(ids) = &self.ids {
            (changed.uid, changed.gid) = ids.to_container(member.uid, member.gid);
        }
        changed.modified_at = match self.times {
            Times::AsTheyAre => member.modified_at,
            Times::AtMost(latest) => member.modified_at.min(latest),
        };
        self.push_as_it_is(&changed)
    }

    fn push_as_it_is(&mut self, member: &Member) -> io::Result<()> {
        let records = member.extended_records();
        if !records.is_empty() {
            let mut extension = Member::empty([b"PaxHeaders.0/", base_name(&member.name)].concat());
            extension.name.truncate(100);
            extension.name.iter_mut().for_each(|byte| {
                if !byte.is_ascii() {
                    *byte = b'_';
                }
            });
            extension.kind = tar::EntryType::XHeader;
            extension.mode = 0o644;
            extension.bytes = records.len() as u64;
            self.output.write_all(extension.header().as_bytes())?;
            self.output.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        self.output.write_all(member.header().as_bytes())
    }

    /// Writes a member and as many bytes of `content` as it says. A file that has become shorter meanwhile is filled up
    /// with zeros, as other archivers do: the archive stays whole.
    pub fn push_file(&mut self, member: &Member, content: &mut impl io::Read) -> io::Result<()> {
        self.push(member)?;
        let mut left = member.bytes;
        let mut buffer = vec![0; 64 << 10];
        let mut has_ended = false;
        while left > 0 {
            let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let length = if has_ended {
                buffer[..wanted].fill(0);
                wanted
            } else {
                match content.read(&mut buffer[..wanted]) {
                    Ok(0) => {
                        has_ended = true;
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    result => result?,
                }
            };
            self.output.write_all(&buffer[..length])?;
            left -= length as u64;
        }
        self.pad(member.bytes)
    }

    fn pad(&mut self, bytes: u64) -> io::Result<()> {
        let over = (bytes % BLOCK as u64) as usize;
        if over == 0 {
            return Ok(());
        }
        self.output.write_all(&[0; BLOCK][over..])
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<()> {
        self.output.write_all(&[0; 2 * BLOCK])?;
        self.output.flush()
    }
}

fn base_name(name: &[u8]) -> &[u8] {
    let trimmed = name.strip_suffix(b"/").unwrap_or(name);
    trimmed.rsplit(|byte| *byte == b'/').next().unwrap_or(trimmed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use naru_content::tarball::{EntryKind, NoTap, TarReader};

    #[test]
    fn what_is_written_is_read_again() {
        let long = [b"d/".repeat(80), "ü".as_bytes().to_vec()].concat();
        let mut bytes = Vec::new();
        let mut tape = Tape::new(&mut bytes);
        let mut member = Member::empty(long.clone());
        (member.mode, member.uid, member.gid) = (0o4755, 3_000_000_000, 7);
        (member.bytes, member.modified_at) = (5, -1);
        member.attributes = vec![(b"user.a".to_vec(), vec![0, 255, b'\n'])];
        tape.push_file(&member, &mut &b"abc"[..]).unwrap();
        let mut link = Member::empty(b"link".to_vec());
        (link.kind, link.link) = (tar::EntryType::Symlink, b"../x".to_vec());
        tape.push(&link).unwrap();
        tape.finish().unwrap();

        let mut archive = TarReader::new(&bytes[..], NoTap);
        let first = archive.next_entry().unwrap().unwrap();
        assert_eq!(first.name, long);
        assert_eq!((first.mode, first.uid, first.gid), (0o4755, 3_000_000_000, 7));
        assert_eq!(first.mtime, (-1, 0));
        assert_eq!(first.xattrs, [(b"user.a".to_vec(), vec![0, 255, b'\n'])]);
        assert_eq!(archive.content().unwrap(), b"abc\0\0");
        let second = archive.next_entry().unwrap().unwrap();
        assert_eq!(
            (second.kind, &second.link[..]),
            (EntryKind::Symlink, &b"../x"[..])
        );
        assert!(archive.next_entry().unwrap().is_none());
    }

    #[test]
    fn a_record_counts_its_own_length() {
        let mut records = Vec::new();
        push_record(&mut records, b"k", &[b'v'; 94]);
        assert_eq!(records.len(), 101);
        assert!(records.starts_with(b"101 k="));
        records.clear();
        push_record(&mut records, b"k", &[b'v'; 93]);
        assert_eq!(records.len(), 99);
    }
}
