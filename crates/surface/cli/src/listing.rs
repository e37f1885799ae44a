//! A directory as a build's context: listed at once, its files sent one by one to a daemon that wants them.
//!
//! It follows no link and opens no file before the daemon asks for it. What a listing cannot say (names that are no text,
//! devices) is for an archive.

use naru_build::ignore::Ignore;
use naru_build::listing::{self, ContextEntry, EntryKind, FileIdentity, put_bytes};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Within this a file may change without its times telling: FAT counts in steps of two seconds.
const GRAIN: Duration = Duration::from_secs(3);

const CAPABILITY: &str = "security.capability";

/// The kernel's attribute has 24 bytes at most.
const CAPABILITY_BYTES_MAX: usize = 64;

/// Read at once from a file.
const PIECE_BYTES: usize = 64 << 10;

pub struct Listing {
    root: OwnedFd,
    entries: Vec<ContextEntry>,
    pub bytes: Vec<u8>,
}

/// A directory being walked.
struct Level {
    fd: OwnedFd,
    /// Below the root; empty for the root's own.
    path: String,
    names: std::vec::IntoIter<String>,
    is_listed: bool,
}

struct Walk<'a> {
    ignore: &'a Ignore,
    /// What has changed since may change again unseen.
    recent_since_ns: i64,
    now_ns: i64,
    levels: Vec<Level>,
    entries: Vec<ContextEntry>,
    links: HashMap<(u64, u64), String>,
}

/// Why a walk ended early.
enum Stop {
    Failed(io::Error),
    /// There is something that no listing can say.
    Unsayable,
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno.into())
    }
}

impl Listing {
    /// `None` where only an archive will do.
    pub fn of(root: &Path, ignore: &Ignore) -> io::Result<Option<Self>> {
        let now = SystemTime::now();
        match Walk::new(ignore, now).run(root) {
            Ok((root, entries)) => {
                let bytes = listing::encode(entries.iter());
                Ok(Some(Self { root, entries, bytes }))
            }
            Err(Stop::Unsayable) => Ok(None),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    /// The digest that stands for the whole context; none while something may change unseen.
    pub fn state(&self) -> Option<String> {
        if self.entries.iter().any(|entry| entry.is_recent) {
            return None;
        }
        let digest = Sha256::digest(&self.bytes);
        let digits: Vec<String> = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(format!("sha256:{}", digits.concat()))
    }

    /// Writes a file as it is now. One that has become shorter, or is none any more, is an unexpected end.
    pub fn send(&self, number: usize, out: &mut impl Write) -> io::Result<()> {
        let entry = self.entries.get(number);
        let Some((path, EntryKind::File { bytes })) = entry.map(|entry| (&entry.path, &entry.kind)) else {
            return Err(io::Error::other("the daemon asked for a file that is not there"));
        };
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => io::ErrorKind::UnexpectedEof.into(),
            kind => io::Error::new(kind, format!("{path}: {error}")),
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.root, path.as_str(), flags, Mode::empty());
        let mut file = File::from(opened.map_err(|errno| failed(errno.into()))?);
        let mut capability = [0; CAPABILITY_BYTES_MAX];
        let length = rustix::fs::fgetxattr(&file, CAPABILITY, &mut capability[..]).unwrap_or(0);
        let mut head = Vec::new();
        put_bytes(&mut head, &capability[..length]);
        out.write_all(&head)?;
        let mut piece = vec![0; PIECE_BYTES.min(usize::try_from(*bytes).unwrap_or(PIECE_BYTES))];
        let mut left = *bytes;
        while left > 0 {
            let wanted = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            file.read_exact(&mut piece[..wanted]).map_err(failed)?;
            out.write_all(&piece[..wanted])?;
            left -= wanted as u64;
        }
        Ok(())
    }
}

impl<'a> Walk<'a> {
    fn new(ignore: &'a Ignore, now: SystemTime) -> Self {
        let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let nanoseconds = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        Self {
            ignore,
            recent_since_ns: nanoseconds(since_1970.saturating_sub(GRAIN)),
            now_ns: nanoseconds(since_1970),
            levels: Vec::new(),
            entries: Vec::new(),
            links: HashMap::new(),
        }
    }

    fn run(mut self, root: &Path) -> Result<(OwnedFd, Vec<ContextEntry>), Stop> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty())?;
        let first = Level::open(&root, ".", String::new(), true)?;
        self.levels.push(first);
        while let Some(level) = self.levels.last_mut() {
            match level.names.next() {
                Some(name) => self.visit(&name)?,
                None => drop(self.levels.pop()),
            }
        }
        Ok((root, self.entries))
    }

    fn visit(&mut self, name: &str) -> Result<(), Stop> {
        let Some(level) = self.levels.last() else {
            return Ok(());
        };
        let stat = match rustix::fs::statat(&level.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            // It went while its directory was read.
            Err(Errno::NOENT) => return Ok(()),
            stat => stat?,
        };
        let path = if level.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}/{name}", level.path)
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_directory = kind == FileType::Directory;
        let is_excluded = !self.ignore.is_empty() && self.ignore.excludes(&path);
        if is_excluded && !(is_directory && self.ignore.has_exceptions()) || kind == FileType::Socket {
            return Ok(());
        }
        let inner = if is_directory {
            Some(Level::open(&level.fd, name, path.clone(), !is_excluded)?)
        } else {
            None
        };
        if !is_excluded {
            let kind = self.kind_of(name, &path, &stat)?;
            self.list_directories_above();
            self.push(path, kind, &stat);
        }
        self.levels.extend(inner);
        Ok(())
    }

    fn kind_of(&mut self, name: &str, path: &str, stat: &Stat) -> Result<EntryKind, Stop> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => return Ok(EntryKind::Directory),
            FileType::RegularFile => EntryKind::File {
                bytes: u64::try_from(stat.st_size).unwrap_or(0),
            },
            FileType::Symlink => {
                let Some(level) = self.levels.last() else {
                    return Err(Stop::Unsayable);
                };
                let target = rustix::fs::readlinkat(&level.fd, name, Vec::new())?;
                return target
                    .into_string()
                    .map(EntryKind::Symlink)
                    .map_err(|_| Stop::Unsayable);
            }
            FileType::Fifo => return Ok(EntryKind::Fifo),
            _ => return Err(Stop::Unsayable),
        };
        if stat.st_nlink < 2 {
            return Ok(kind);
        }
        if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
            return Ok(EntryKind::HardLink(first.clone()));
        }
        self.links.insert((stat.st_dev, stat.st_ino), path.to_owned());
        Ok(kind)
    }

    /// Directories that are excluded themselves come along with what is let in below them, as in archives.
    fn list_directories_above(&mut self) {
        for level in self.levels.iter_mut().filter(|level| !level.is_listed) {
            level.is_listed = true;
            self.entries.push(ContextEntry {
                path: level.path.clone(),
                kind: EntryKind::Directory,
                mode: 0o755,
                modified_ns: 0,
                identity: None,
                is_recent: false,
                capability: Vec::new(),
            });
        }
    }

    fn push(&mut self, path: String, kind: EntryKind, stat: &Stat) {
        let nanoseconds =
            |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        let is_file = matches!(kind, EntryKind::File { .. });
        let changed_ns = nanoseconds(stat.st_ctime, stat.st_ctime_nsec as i64);
        let modified_ns = nanoseconds(stat.st_mtime, stat.st_mtime_nsec as i64);
        // A time of modification far ahead was set by somebody; it tells nothing of now.
        let is_now = |time: i64| time >= self.recent_since_ns;
        let is_recent = is_now(changed_ns) || is_now(modified_ns) && modified_ns <= self.now_ns;
        self.entries.push(ContextEntry {
            path,
            mode: stat.st_mode & 0o7777,
            // Those of directories change with every file that comes and goes, and no image has them.
            modified_ns: if kind == EntryKind::Directory {
                0
            } else {
                modified_ns
            },
            identity: is_file.then_some(FileIdentity {
                changed_ns,
                inode: stat.st_ino,
                device: stat.st_dev,
            }),
            is_recent: is_file && is_recent,
            capability: Vec::new(),
            kind,
        });
    }
}

impl Level {
    fn open(parent: &OwnedFd, name: &str, path: String, is_listed: bool) -> Result<Self, Stop> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let failed = |errno: Errno| {
            let error = io::Error::from(errno);
            Stop::Failed(io::Error::new(error.kind(), format!("{path}: {error}")))
        };
        let fd = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(failed)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            match entry.file_name().to_str() {
                Ok("." | "..") => {}
                Ok(name) => names.push(name.to_owned()),
                Err(_) => return Err(Stop::Unsayable),
            }
        }
        names.sort_unstable();
        Ok(Self {
            fd,
            path,
            names: names.into_iter(),
            is_listed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(root: &Path, ignore: &str) -> Vec<String> {
        let listing = Listing::of(root, &Ignore::parse(ignore).unwrap())
            .unwrap()
            .unwrap();
        let told = |entry: &ContextEntry| format!("{} {:?} {:o}", entry.path, entry.kind, entry.mode);
        listing.entries.iter().map(told).collect()
    }

    #[test]
    fn a_directory_is_listed_in_order_with_its_links() {
        use std::os::unix::fs::PermissionsExt;
        let base = tempfile::tempdir().unwrap();
        let root = base.path();
        for (path, text) in [
            ("b/x", "12"),
            ("b-c", "1"),
            ("skipped/in", ""),
            ("skipped/out", ""),
        ] {
            std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            std::fs::write(root.join(path), text).unwrap();
        }
        std::fs::hard_link(root.join("b/x"), root.join("z")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("soft")).unwrap();
        for path in ["b", "b/x", "b-c", "skipped", "skipped/in"] {
            std::fs::set_permissions(root.join(path), std::fs::Permissions::from_mode(0o700)).unwrap();
        }
        let expected = [
            "b Directory 700",
            "b/x File { bytes: 2 } 700",
            "b-c File { bytes: 1 } 700",
            "skipped Directory 755",
            "skipped/in File { bytes: 0 } 700",
            "soft Symlink(\"/etc\") 777",
            "z HardLink(\"b/x\") 700",
        ];
        assert_eq!(told(root, "skipped\n!skipped/in\n"), expected);
        assert_eq!(told(root, "b*\nskipped\n").len(), 2);
        let listing = Listing::of(root, &Ignore::default()).unwrap().unwrap();
        assert_eq!(listing.state(), None, "everything has just changed");
        let mut sent = Vec::new();
        listing.send(1, &mut sent).unwrap();
        assert_eq!(sent, b"\x0012");
        std::fs::write(root.join("b/x"), "1").unwrap();
        let cut = listing.send(1, &mut Vec::new()).unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
    }
}
