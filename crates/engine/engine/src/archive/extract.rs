//! Unpacking an archive into a container's tree.
//!
//! Every name is looked up anew in the tree, with the container's root as its ceiling; what stands in the way of a file
//! is removed, never written through. Links are made as they are written: they mean the container's paths.

use super::ids::Ids;
use super::place::{clean, open};
use crate::error::{EngineError, Result};
use naru_base::ErrorKind;
use naru_content::tarball::{Entry, EntryKind, NoTap, TarReader};
use naru_content::{Compression, LayerError};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How an archive is put into a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtractOptions {
    /// A directory never takes the place of something else, nor something else that of a directory.
    pub keep_kinds: bool,
    /// Everything gets this owner instead of the archive's.
    pub owner: Option<(u32, u32)>,
    /// The host's ids for those of the archive, where the container is in a user namespace of its own.
    pub ids: Option<Ids>,
}

/// A tree to put files into, and the directory in it where the archive's root goes.
pub struct Target<'a> {
    pub root: &'a OwnedFd,
    pub directory: PathBuf,
}

/// An archive whose entries are read one by one.
type Archive<'a> = TarReader<BufReader<Box<dyn Read + 'a>>, NoTap>;

/// Reads an archive, plain or compressed, and makes what is in it.
pub fn extract(archive: impl Read, target: &Target<'_>, options: ExtractOptions) -> Result<()> {
    let plain = decompress(archive).map_err(|error| bad_archive(&error))?;
    let mut archive: Archive<'_> = TarReader::new(BufReader::with_capacity(64 << 10, plain), NoTap);
    let mut extraction = Extraction {
        target,
        options,
        parent: None,
        directories: Vec::new(),
    };
    while let Some(entry) = archive.next_entry().map_err(|error| bad_archive(&error))? {
        extraction.place(&entry, &mut archive)?;
    }
    extraction.finish_directories();
    Ok(())
}

pub fn bad_archive(error: &impl std::fmt::Display) -> EngineError {
    EngineError::invalid(format!("Error processing tar file: {error}"))
}

/// Reads an archive's plain form, however it is compressed.
pub fn decompress<'a>(archive: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut input = BufReader::with_capacity(64 << 10, archive);
    let head = input.fill_buf()?;
    match head {
        [b'B', b'Z', b'h', ..] => Ok(Box::new(bzip2::bufread::MultiBzDecoder::new(input))),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Ok(Box::new(lzma_rust2::XzReader::new(input, true))),
        _ => {
            let compression = Compression::of(head);
            naru_content::decompress(input, compression)
        }
    }
}

struct Extraction<'a> {
    target: &'a Target<'a>,
    options: ExtractOptions,
    /// The directory of the last entry: most entries are in the same one as the one before.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Directories whose time is set at the end, when nothing is made in them any more.
    directories: Vec<(PathBuf, Timestamps)>,
}

/// What of an entry's header is needed to make it.
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    times: Timestamps,
    extended: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Extraction<'_> {
    fn place(&mut self, entry: &Entry, archive: &mut Archive<'_>) -> Result<()> {
        let name = member_path(&entry.name)?;
        let attributes = self.attributes(entry)?;
        let is_directory = entry.kind == EntryKind::Directory;
        let Some(base) = name.file_name().map(OsStr::to_owned) else {
            return self.place_root(is_directory);
        };
        let directory = name.parent().unwrap_or(Path::new("/")).to_owned();
        let parent = self.open_parent(&directory).map_err(self.at("open", &name))?;
        if let Ok(stat) = rustix::fs::statat(&parent, &base, AtFlags::SYMLINK_NOFOLLOW) {
            let stands_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            self.check_kinds(&name, stands_directory, is_directory)?;
            if !(stands_directory && is_directory) {
                remove(&parent, &base).map_err(self.at("unlinkat", &name))?;
                self.parent = None;
            }
        }
        let special = |kind: FileType, device: u64| {
            let mode = Mode::from_raw_mode(attributes.mode);
            rustix::fs::mknodat(&parent, &base, kind, mode, device).map_err(self.at("mknod", &name))?;
            self.finish_special(&parent, &base, &name, &attributes, false)
        };
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        match entry.kind {
            EntryKind::CharacterDevice => special(FileType::CharacterDevice, device),
            EntryKind::BlockDevice => special(FileType::BlockDevice, device),
            EntryKind::Fifo => special(FileType::Fifo, 0),
            EntryKind::HardLink => self.place_hard_link(&parent, &base, &name, &entry.link),
            EntryKind::Directory => self.place_directory(&parent, &base, &name, &attributes),
            EntryKind::File => self.place_file(&parent, &base, &name, &attributes, entry, archive),
            EntryKind::Symlink => {
                rustix::fs::symlinkat(&entry.link[..], &parent, &base).map_err(self.at("symlink", &name))?;
                self.finish_special(&parent, &base, &name, &attributes, true)
            }
        }
    }

    fn check_kinds(&self, name: &Path, stands_directory: bool, is_directory: bool) -> Result<()> {
        if !self.options.keep_kinds || stands_directory == is_directory {
            return Ok(());
        }
        let (old, new) = if stands_directory {
            ("directory", "non-directory")
        } else {
            ("non-directory", "directory")
        };
        let place = self.inside(name);
        Err(EngineError::invalid(format!(
            "cannot overwrite {old} {:?} with {new} {:?}",
            place.display().to_string(),
            self.target.directory.display().to_string()
        )))
    }

    fn attributes(&self, entry: &Entry) -> Result<Attributes> {
        // Ids the kernel cannot hold would wrap around to root's, or mean "no change".
        let id = |id: u64| {
            let id = u32::try_from(id).ok().filter(|id| *id != u32::MAX);
            id.ok_or_else(|| bad_archive(&"an owner is out of range"))
        };
        let (uid, gid) = match self.options.owner {
            Some(owner) => owner,
            None => (id(entry.uid)?, id(entry.gid)?),
        };
        let (uid, gid) = match &self.options.ids {
            None => (uid, gid),
            Some(ids) => ids.to_host(uid, gid).ok_or_else(|| {
                bad_archive(&format!(
                    "the container's user namespace has no owner {uid}:{gid}"
                ))
            })?,
        };
        let time = Timespec {
            tv_sec: entry.mtime.0,
            tv_nsec: entry.mtime.1.into(),
        };
        Ok(Attributes {
            mode: entry.mode & 0o7777,
            uid,
            gid,
            times: Timestamps {
                last_access: time,
                last_modification: time,
            },
            extended: entry.xattrs.clone(),
        })
    }

    /// The entry for the archive's own root. The directory that is copied into stays as it is, as with Docker.
    fn place_root(&self, is_directory: bool) -> Result<()> {
        if is_directory {
            return Ok(());
        }
        let place = self.target.directory.display().to_string();
        Err(EngineError::invalid(format!(
            "cannot overwrite directory {place:?} with non-directory {place:?}"
        )))
    }

    fn place_directory(
        &mut self,
        parent: &OwnedFd,
        base: &OsStr,
        name: &Path,
        attributes: &Attributes,
    ) -> Result<()> {
        match rustix::fs::mkdirat(parent, base, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(self.at("mkdir", name)(errno)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(parent, base, flags, Mode::empty()).map_err(self.at("open", name))?;
        self.finish_open(&made, name, attributes)?;
        self.directories.push((name.to_owned(), attributes.times.clone()));
        Ok(())
    }

    fn place_file(
        &mut self,
        parent: &OwnedFd,
        base: &OsStr,
        name: &Path,
        attributes: &Attributes,
        entry: &Entry,
        archive: &mut Archive<'_>,
    ) -> Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, base, flags, Mode::from_raw_mode(0o600))
            .map_err(self.at("open", name))?;
        let mut file = std::fs::File::from(file);
        write_content(&mut file, entry, archive).map_err(|failed| match failed {
            WriteFailed::Archive(error) => bad_archive(&error),
            WriteFailed::File(error) => {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                file_error("write", &self.inside(name), errno)
            }
        })?;
        let file = OwnedFd::from(file);
        self.finish_open(&file, name, attributes)?;
        rustix::fs::futimens(&file, &attributes.times).map_err(self.at("set the time of", name))
    }

    /// Owner, mode, extended attributes, in the order in which none undoes another.
    fn finish_open(&self, fd: &OwnedFd, name: &Path, attributes: &Attributes) -> Result<()> {
        let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
        rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(self.at("lchown", name))?;
        rustix::fs::fchmod(fd, Mode::from_raw_mode(attributes.mode)).map_err(self.at("chmod", name))?;
        for (key, value) in attributes.extended.iter().filter(|(key, _)| may_set(key)) {
            match rustix::fs::fsetxattr(fd, &key[..], value, XattrFlags::empty()) {
                // A file system without them: Docker goes on too.
                Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
                Err(errno) => return Err(self.at("lsetxattr", name)(errno)),
            }
        }
        Ok(())
    }

    fn finish_special(
        &self,
        parent: &OwnedFd,
        base: &OsStr,
        name: &Path,
        attributes: &Attributes,
        is_link: bool,
    ) -> Result<()> {
        let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(parent, base, Some(uid), Some(gid), flags).map_err(self.at("lchown", name))?;
        if !is_link {
            // By its descriptor: the name could have become a link since it was made.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made =
                rustix::fs::openat(parent, base, flags, Mode::empty()).map_err(self.at("open", name))?;
            let path = format!("/proc/self/fd/{}", made.as_raw_fd());
            rustix::fs::chmod(path, Mode::from_raw_mode(attributes.mode)).map_err(self.at("chmod", name))?;
        }
        rustix::fs::utimensat(parent, base, &attributes.times, flags)
            .map_err(self.at("set the time of", name))
    }

    fn place_hard_link(&mut self, parent: &OwnedFd, base: &OsStr, name: &Path, link: &[u8]) -> Result<()> {
        let target = member_path(link)?;
        let no_target = || {
            EngineError::invalid(format!(
                "invalid hardlink {:?} -> {:?}",
                name.display().to_string(),
                target.display().to_string()
            ))
        };
        let file = target.file_name().ok_or_else(no_target)?;
        let directory = self.inside(target.parent().unwrap_or(Path::new("/")));
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let directory = open(self.target.root, &directory, flags).map_err(|_| no_target())?;
        match rustix::fs::linkat(&directory, file, parent, base, AtFlags::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR) => Err(no_target()),
            result => result.map_err(self.at("link", name)),
        }
    }

    /// The place in the tree that a name of the archive means.
    fn inside(&self, name: &Path) -> PathBuf {
        self.target.directory.join(name.strip_prefix("/").unwrap_or(name))
    }

    /// Opens the directory an entry goes into, and makes what of it is missing.
    fn open_parent(&mut self, name: &Path) -> rustix::io::Result<OwnedFd> {
        if let Some((known, fd)) = &self.parent
            && known == name
        {
            return fd
                .try_clone()
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let place = self.inside(name);
        let fd = match open(self.target.root, &place, flags) {
            Err(Errno::NOENT) => make_directories(self.target.root, &place)?,
            result => result?,
        };
        let copy = fd
            .try_clone()
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))?;
        self.parent = Some((name.to_owned(), copy));
        Ok(fd)
    }

    fn finish_directories(&mut self) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        for (name, times) in std::mem::take(&mut self.directories).into_iter().rev() {
            // One that has gone meanwhile needs no time.
            if let Ok(directory) = open(self.target.root, &self.inside(&name), flags) {
                let _ = rustix::fs::futimens(&directory, &times);
            }
        }
    }

    fn at(&self, action: &'static str, name: &Path) -> impl FnOnce(Errno) -> EngineError + use<> {
        let place = self.inside(name);
        move |errno| file_error(action, &place, errno)
    }
}

enum WriteFailed {
    Archive(LayerError),
    File(io::Error),
}

/// Writes an entry's content, with holes where a sparse file has them.
fn write_content(
    file: &mut std::fs::File,
    entry: &Entry,
    archive: &mut Archive<'_>,
) -> std::result::Result<(), WriteFailed> {
    use std::io::{Seek, SeekFrom};
    let whole = [(0, entry.bytes)];
    let segments = entry.sparse.as_deref().unwrap_or(&whole);
    for (offset, length) in segments {
        file.seek(SeekFrom::Start(*offset)).map_err(WriteFailed::File)?;
        let mut left = *length;
        while left > 0 {
            let piece = archive.content().map_err(WriteFailed::Archive)?;
            if piece.is_empty() {
                return Err(WriteFailed::Archive(LayerError::Truncated));
            }
            let length = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            file.write_all(&piece[..length]).map_err(WriteFailed::File)?;
            archive.consume(length);
            left -= length as u64;
        }
    }
    if entry.sparse.is_some() {
        file.set_len(entry.bytes).map_err(WriteFailed::File)?;
    }
    Ok(())
}

/// What went wrong with a file in a container, in Go's words: `open /x: no such file or directory`.
pub fn file_error(action: &str, place: &Path, errno: Errno) -> EngineError {
    let kind = match errno {
        Errno::NOENT => ErrorKind::NotFound,
        Errno::EXIST | Errno::NOTDIR | Errno::ISDIR | Errno::LOOP | Errno::NAMETOOLONG => {
            ErrorKind::InvalidParameter
        }
        // The kernel takes no name with a zero byte.
        Errno::INVAL if place.as_os_str().as_bytes().contains(&0) => ErrorKind::InvalidParameter,
        Errno::ROFS => ErrorKind::Forbidden,
        _ => ErrorKind::System,
    };
    let words = io::Error::from(errno).to_string();
    let words = words
        .split(" (os error")
        .next()
        .unwrap_or_default()
        .to_lowercase();
    EngineError::new(kind, format!("{action} {}: {words}", place.display()))
}

/// `mkdir -p` in the tree, links on the way followed inside it.
pub fn make_directories(root: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut reached = PathBuf::from("/");
    let mut here = open(root, &reached, flags)?;
    for component in path.components() {
        let std::path::Component::Normal(name) = component else {
            continue;
        };
        reached.push(name);
        here = match open(root, &reached, flags) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&here, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) => open(root, &reached, flags)?,
                    // Made meanwhile; or a link to something that is not there.
                    Err(Errno::EXIST) => open(root, &reached, flags).map_err(|_| Errno::EXIST)?,
                    Err(errno) => return Err(errno),
                }
            }
            result => result?,
        };
    }
    Ok(here)
}

/// A member's path below the archive's root; one that leads out of it is refused.
pub fn member_path(name: &[u8]) -> Result<PathBuf> {
    let path = Path::new(OsStr::from_bytes(name));
    let mut depth = 0_usize;
    for component in path.components() {
        match component {
            std::path::Component::Normal(_) => depth += 1,
            std::path::Component::ParentDir => {
                depth = depth.checked_sub(1).ok_or_else(|| {
                    EngineError::invalid(format!(
                        "{:?} is outside of {:?}",
                        path.display().to_string(),
                        "/"
                    ))
                })?;
            }
            _ => {}
        }
    }
    if name.contains(&0) {
        return Err(EngineError::invalid(
            "Error processing tar file: a name holds a zero byte",
        ));
    }
    Ok(clean(path))
}

/// Attributes that an archive may bring: the others mean the host's affairs.
pub fn may_set(key: &[u8]) -> bool {
    !key.contains(&0) && (key == b"security.capability" || key.starts_with(b"user."))
}

/// Removes a name with everything below it, by descriptors, links not followed.
pub fn remove(parent: &OwnedFd, base: &OsStr) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(parent, base, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        result => return result,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, base, flags, Mode::empty())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/.", directory.as_raw_fd()));
    let entries =
        std::fs::read_dir(path).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    for entry in entries {
        let entry = entry.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        remove(&directory, &entry.file_name())?;
    }
    rustix::fs::unlinkat(parent, base, AtFlags::REMOVEDIR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tape::{Member, Tape};
    use std::os::unix::fs::symlink;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("naru-extract-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(path.join("root/dest")).unwrap();
            Self(path)
        }

        fn put(&self, archive: &[u8], keep_kinds: bool) -> Result<()> {
            let root = rustix::fs::open(self.0.join("root"), OFlags::PATH, Mode::empty()).unwrap();
            let target = Target {
                root: &root,
                directory: PathBuf::from("/dest"),
            };
            let owner = rustix::process::geteuid().as_raw();
            let options = ExtractOptions {
                keep_kinds,
                owner: Some((owner, rustix::process::getegid().as_raw())),
                ids: None,
            };
            extract(archive, &target, options)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn archive(members: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut tape = Tape::new(&mut bytes);
        for (name, kind, content) in members {
            let mut member = Member::empty(name.as_bytes().to_vec());
            (member.kind, member.mode) = (*kind, 0o755);
            if *kind == tar::EntryType::Regular {
                member.bytes = content.len() as u64;
                tape.push_file(&member, &mut content.as_bytes()).unwrap();
            } else {
                member.link = content.as_bytes().to_vec();
                tape.push(&member).unwrap();
            }
        }
        tape.finish().unwrap();
        bytes
    }

    const FILE: tar::EntryType = tar::EntryType::Regular;
    const FOLDER: tar::EntryType = tar::EntryType::Directory;
    const SYMLINK: tar::EntryType = tar::EntryType::Symlink;
    const LINK: tar::EntryType = tar::EntryType::Link;

    #[test]
    fn files_land_where_their_names_say() {
        let scratch = Scratch::new("land");
        let bytes = archive(&[("./a/b", FILE, "1"), ("a/l", LINK, "a/b"), ("s", SYMLINK, "/etc")]);
        scratch.put(&bytes, true).unwrap();
        let dest = scratch.0.join("root/dest");
        assert_eq!(std::fs::read_to_string(dest.join("a/l")).unwrap(), "1");
        assert_eq!(std::fs::read_link(dest.join("s")).unwrap(), Path::new("/etc"));
    }

    #[test]
    fn nothing_lands_outside() {
        let scratch = Scratch::new("outside");
        assert!(scratch.put(&archive(&[("../x", FILE, "1")]), true).is_err());
        assert!(
            scratch
                .put(&archive(&[("l", LINK, "../../outside")]), true)
                .is_err()
        );
        // Through a link that leads out, made by the archive or found there: inside the root all the same.
        let out = scratch.0.join("out");
        std::fs::create_dir(&out).unwrap();
        let text = out.to_str().unwrap();
        let bytes = archive(&[("way", SYMLINK, text), ("way/file", FILE, "1")]);
        assert!(scratch.put(&bytes, true).is_err());
        let inside = scratch.0.join("root").join(out.strip_prefix("/").unwrap());
        std::fs::create_dir_all(&inside).unwrap();
        scratch.put(&bytes, true).unwrap();
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
        assert_eq!(std::fs::read_to_string(inside.join("file")).unwrap(), "1");
    }

    #[test]
    fn a_file_replaces_a_link_and_never_writes_through_it() {
        let scratch = Scratch::new("replace");
        let victim = scratch.0.join("victim");
        std::fs::write(&victim, "kept").unwrap();
        symlink(&victim, scratch.0.join("root/dest/x")).unwrap();
        scratch.put(&archive(&[("x", FILE, "new")]), true).unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "kept");
        assert_eq!(
            std::fs::read_to_string(scratch.0.join("root/dest/x")).unwrap(),
            "new"
        );
    }

    #[test]
    fn kinds_are_kept_when_asked_for() {
        let scratch = Scratch::new("kinds");
        std::fs::create_dir_all(scratch.0.join("root/dest/d/in")).unwrap();
        std::fs::write(scratch.0.join("root/dest/f"), "").unwrap();
        let message = |bytes: &[u8]| scratch.put(bytes, true).unwrap_err().message;
        assert!(
            message(&archive(&[("d", FILE, "1")]))
                .starts_with("cannot overwrite directory \"/dest/d\" with non-directory")
        );
        assert!(message(&archive(&[("f/", FOLDER, "")])).starts_with("cannot overwrite non-directory"));
        scratch
            .put(&archive(&[("d", FILE, "1"), ("f/", FOLDER, "")]), false)
            .unwrap();
        assert!(scratch.0.join("root/dest/f").is_dir() && scratch.0.join("root/dest/d").is_file());
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        let scratch = Scratch::new("nonsense");
        assert!(scratch.put(&[7; 2000], true).is_err());
        let whole = archive(&[("a", FILE, "content")]);
        assert!(scratch.put(&whole[..515], true).is_err());
        assert!(
            scratch
                .put(b"BZh9aaaaaaaaaaaa", true)
                .unwrap_err()
                .message
                .contains("bzip2")
        );
    }
}
