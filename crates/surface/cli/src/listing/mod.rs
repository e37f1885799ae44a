//! A directory as a build's context: listed at once, its files sent one by one to a daemon that wants them.
//!
//! It follows no link and opens no file before the daemon asks for it. What a listing cannot say (names that are no text,
//! devices) is for an archive.

mod walk;

use naru_build::ignore::Ignore;
use naru_build::listing::{self, ContextEntry, EntryKind, put_bytes};
use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use walk::Stop;

const CAPABILITY: &str = "security.capability";

/// The kernel's attribute has 24 bytes at most.
const CAPABILITY_BYTES_MAX: usize = 64;

/// Read at once from a file.
const PIECE_BYTES: usize = 64 << 10;

pub struct Listing {
    root: Arc<OwnedFd>,
    entries: Vec<ContextEntry>,
    pub bytes: Vec<u8>,
}

impl Listing {
    /// `None` where only an archive will do.
    pub fn of(root: &Path, ignore: &Ignore) -> io::Result<Option<Self>> {
        match walk::read(root, ignore) {
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
        let opened = rustix::fs::openat(&*self.root, path.as_str(), flags, Mode::empty());
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

    #[test]
    fn several_workers_find_one_order() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path();
        let mut expected = Vec::new();
        for outer in 0..10 {
            for inner in 0..10 {
                let path = format!("{outer}/{inner}/deep");
                std::fs::create_dir_all(root.join(&path)).unwrap();
                for name in ["one", "two"] {
                    std::fs::write(root.join(&path).join(name), "").unwrap();
                }
                expected.extend(["/one", "/two"].map(|name| path.clone() + name));
            }
        }
        // The first name is the one of the first directory, whoever came upon it first.
        for link in (1..10).map(|outer| format!("{outer}/0/deep/link")) {
            std::fs::hard_link(root.join("0/9/deep/two"), root.join(link)).unwrap();
        }
        let ignore = Ignore::parse("*/*/deep/one\n").unwrap();
        for _ in 0..20 {
            let listing = Listing::of(root, &ignore).unwrap().unwrap();
            let entries = listing.entries.iter();
            let (links, files): (Vec<_>, Vec<_>) = entries
                .filter(|entry| entry.kind != EntryKind::Directory)
                .partition(|entry| entry.path.ends_with("/link"));
            assert!(
                files
                    .iter()
                    .map(|entry| &entry.path)
                    .eq(expected.iter().filter(|path| path.ends_with("two")))
            );
            assert_eq!(links.len(), 9);
            assert!(
                links
                    .iter()
                    .all(|entry| entry.kind == EntryKind::HardLink("0/9/deep/two".to_owned()))
            );
        }
    }
}
