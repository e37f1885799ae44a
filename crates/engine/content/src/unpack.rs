//! Unpacks one layer's archive into a directory of its own, in the form overlay wants.
//!
//! The archive is hostile. What keeps it inside: every parent is opened below the layer's root by `openat2`, which
//! resolves symbolic links with that root as `/`; the last component is only ever created, with `O_EXCL` and its
//! kin, never followed; whatever stands in its place is first moved out of the tree. Names that climb out with `..`
//! are refused, as Docker does. An honest archive may put a file below a symbolic link that it made before
//! (`lib -> usr/lib`, then `lib/x`): it lands where the link points, inside the root.
//!
//! ```text
//! <staging>/diff/             the tree; whiteouts are 0:0 character devices, opaque directories have the xattr
//! <staging>/frame.zst         see `frame`
//! <staging>/displaced/<n>     what a later entry of the same archive replaced
//! ```

use crate::error::LayerError;
use crate::frame::{Displacement, FrameWriter, path_bytes};
use crate::stage::WRITEBACK_BYTES;
use crate::tarball::{Entry, EntryKind, Tap, TarReader};
use naru_sys::file::begin_writeback;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Entries in one layer; a hundred times what the largest images in the field have.
const ENTRIES_MAX: u64 = 2_000_000;
/// Replaced entries in one layer that hold content. Honest archives have none.
const DISPLACED_MAX: usize = 10_000;
/// From this size on a file is compared with the free space before any of it is written.
const CHECKED_BYTES_MIN: u64 = 16 << 20;

/// Files, or ends of files, shorter than this are left to the sync at the end: telling the disk of each costs more
/// than it wins. Two thirds of an image's bytes are in longer ones.
const WRITEBACK_BYTES_MIN: u64 = 256 << 10;

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
/// What aufs kept for itself; Docker skips it.
const WHITEOUT_META_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// What a layer turned out to be.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    /// Content of plain files.
    pub bytes: u64,
    pub entries: u64,
    /// Directories made without an entry of their own, whose attributes come from the layers below.
    pub implied: Vec<Vec<u8>>,
    pub displaced: Vec<Displacement>,
}

/// A parent directory, opened.
struct Parent {
    /// As the archive names it.
    lexical: Vec<u8>,
    /// Where it really is below the root, no links on the way.
    physical: Vec<u8>,
    fd: OwnedFd,
}

pub(crate) struct Unpacker {
    staging: OwnedFd,
    root: OwnedFd,
    root_path: Vec<u8>,
    umask: u32,
    parent: Option<Parent>,
    /// Times of directories, set last because making files changes them.
    directories: Vec<(Vec<u8>, (i64, u32))>,
    /// Files whose content the frame refers to.
    content_records: u64,
    unpacked: Unpacked,
}

/// Unpacks the archive in `input` into `staging`, an empty directory.
pub(crate) fn unpack(input: impl BufRead, staging: &Path) -> Result<Unpacked, LayerError> {
    let mut unpacker = Unpacker::new(staging)?;
    let frame = rustix::fs::openat(
        &unpacker.staging,
        "frame.zst",
        OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o600),
    )
    .map_err(at(b"frame.zst", "create"))?;
    let mut reader = TarReader::new(input, FrameWriter::new(File::from(frame))?);
    while let Some(entry) = reader.next_entry()? {
        unpacker.apply(&entry, &mut reader)?;
    }
    unpacker.finish_directories()?;
    reader.tap.finish()?;
    Ok(unpacker.unpacked)
}

fn at<E: Into<io::Error>>(name: &[u8], action: &'static str) -> impl FnOnce(E) -> LayerError {
    let name = String::from_utf8_lossy(name).into_owned();
    move |source| LayerError::Io {
        name,
        action,
        source: source.into(),
    }
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

fn open_path(directory: impl AsFd, path: &[u8], resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    loop {
        // The kernel answers EAGAIN when something anywhere was renamed during a walk over `..`.
        match rustix::fs::openat2(
            &directory,
            path,
            flags,
            Mode::empty(),
            resolve | ResolveFlags::NO_MAGICLINKS,
        ) {
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
}

/// The path's components after resolving `.` and `..` by name alone; `None` when it climbs out of the root.
fn clean(name: &[u8]) -> Option<Vec<&[u8]>> {
    let is_absolute = name.first() == Some(&b'/');
    let mut components = Vec::new();
    for component in name.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                if components.pop().is_none() && !is_absolute {
                    return None;
                }
            }
            other => components.push(other),
        }
    }
    Some(components)
}

impl Unpacker {
    fn new(staging_path: &Path) -> Result<Self, LayerError> {
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).map_err(at(path_bytes(path), "open"))
        };
        let staging = open(staging_path)?;
        rustix::fs::mkdirat(&staging, "diff", Mode::from_raw_mode(0o755)).map_err(at(b"diff", "create"))?;
        let root = open(&staging_path.join("diff"))?;
        rustix::fs::fchmod(&root, Mode::from_raw_mode(0o755)).map_err(at(b"diff", "change the mode of"))?;
        let root_path = physical_path(&root)?;
        Ok(Self {
            staging,
            root,
            root_path,
            umask: current_umask(),
            parent: None,
            directories: Vec::new(),
            content_records: 0,
            unpacked: Unpacked::default(),
        })
    }

    fn apply<R: BufRead>(
        &mut self,
        entry: &Entry,
        reader: &mut TarReader<R, FrameWriter>,
    ) -> Result<(), LayerError> {
        self.unpacked.entries += 1;
        if self.unpacked.entries > ENTRIES_MAX {
            return Err(LayerError::TooMany("entries"));
        }
        if entry.name.contains(&0) || entry.link.contains(&0) {
            return Err(LayerError::Name(lossy(&entry.name)));
        }
        check_owner(entry)?;
        let components = clean(&entry.name).ok_or_else(|| LayerError::Outside(lossy(&entry.name)))?;
        let Some((base, parents)) = components.split_last() else {
            return self.apply_root(entry);
        };
        self.open_parent(parents, &entry.name)?;
        if base.starts_with(WHITEOUT_PREFIX) {
            return self.apply_whiteout(base, &entry.name);
        }
        match entry.kind {
            EntryKind::File => self.make_file(base, entry, reader),
            EntryKind::Directory => self.make_directory(base, entry),
            EntryKind::HardLink => self.make_hard_link(base, entry),
            _ => self.make_special(base, entry),
        }
    }

    fn apply_root(&mut self, entry: &Entry) -> Result<(), LayerError> {
        if entry.kind != EntryKind::Directory {
            return Err(LayerError::Name(lossy(&entry.name)));
        }
        let root = self.root.try_clone().map_err(at(&entry.name, "open"))?;
        set_directory_attributes(&root, entry)?;
        self.directories.push((Vec::new(), entry.mtime));
        Ok(())
    }

    /// Makes `self.parent` the directory of these components, making it where it is missing.
    fn open_parent(&mut self, components: &[&[u8]], name: &[u8]) -> Result<(), LayerError> {
        let lexical = components.join(&b'/');
        if self
            .parent
            .as_ref()
            .is_some_and(|parent| parent.lexical == lexical)
        {
            return Ok(());
        }
        self.parent = None;
        let (fd, physical) = match self.open_directory(&lexical) {
            Err(Errno::NOENT) => self.make_parents(components, name)?,
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(LayerError::ParentNotDirectory(lossy(name))),
            other => other.map_err(at(name, "open the parent of"))?,
        };
        self.parent = Some(Parent {
            lexical,
            physical,
            fd,
        });
        Ok(())
    }

    /// Opens a directory below the root and tells where it really is.
    fn open_directory(&self, lexical: &[u8]) -> Result<(OwnedFd, Vec<u8>), Errno> {
        if lexical.is_empty() {
            return Ok((rustix::io::fcntl_dupfd_cloexec(&self.root, 0)?, Vec::new()));
        }
        match open_path(
            &self.root,
            lexical,
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        ) {
            Err(Errno::LOOP) => {}
            other => return other.map(|fd| (fd, lexical.to_vec())),
        }
        let fd = open_path(&self.root, lexical, ResolveFlags::IN_ROOT)?;
        let path = physical_path(&fd).map_err(|_| Errno::IO)?;
        let below = path.strip_prefix(&self.root_path[..]).ok_or(Errno::XDEV)?;
        Ok((fd, below.strip_prefix(b"/").unwrap_or(below).to_vec()))
    }

    fn make_parents(&mut self, components: &[&[u8]], name: &[u8]) -> Result<(OwnedFd, Vec<u8>), LayerError> {
        let wrong = |errno| match errno {
            // A dangling or circular link, or something that is no directory.
            Errno::NOENT | Errno::EXIST | Errno::NOTDIR | Errno::LOOP => {
                LayerError::ParentNotDirectory(lossy(name))
            }
            other => at(name, "make the parent of")(other),
        };
        let mut present = self.open_directory(b"").map_err(wrong)?;
        for count in 1..=components.len() {
            let lexical = components[..count].join(&b'/');
            present = match self.open_directory(&lexical) {
                Err(Errno::NOENT) => {
                    let base = components[count - 1];
                    rustix::fs::mkdirat(&present.0, base, Mode::from_raw_mode(0o755)).map_err(wrong)?;
                    let made = self.open_directory(&lexical).map_err(wrong)?;
                    rustix::fs::chmodat(&present.0, base, Mode::from_raw_mode(0o755), AtFlags::empty())
                        .map_err(wrong)?;
                    self.unpacked.implied.push(made.1.clone());
                    made
                }
                other => other.map_err(wrong)?,
            };
        }
        Ok(present)
    }

    /// The open parent; [`Self::open_parent`] came before.
    fn parent_fd(&self) -> BorrowedFd<'_> {
        self.parent
            .as_ref()
            .map_or(self.root.as_fd(), |parent| parent.fd.as_fd())
    }

    /// Where `base` in the open parent really is.
    fn physical(&self, base: &[u8]) -> Vec<u8> {
        match &self.parent {
            Some(parent) if !parent.physical.is_empty() => [&parent.physical, &b"/"[..], base].concat(),
            _ => base.to_vec(),
        }
    }

    fn apply_whiteout(&mut self, base: &[u8], name: &[u8]) -> Result<(), LayerError> {
        if base == WHITEOUT_OPAQUE {
            let path = format!("/proc/self/fd/{}", self.parent_fd().as_raw_fd());
            return rustix::fs::setxattr(path, OPAQUE_XATTR, b"y", XattrFlags::empty())
                .map_err(at(name, "make opaque"));
        }
        if base.starts_with(WHITEOUT_META_PREFIX) {
            return Ok(());
        }
        let hidden = &base[WHITEOUT_PREFIX.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(LayerError::Name(lossy(name)));
        }
        self.create(hidden, name, |parent| {
            rustix::fs::mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)
        })
        .map(drop)
    }

    /// Makes something in the open parent; what stands there is moved out of the tree first.
    fn create<T>(
        &mut self,
        base: &[u8],
        name: &[u8],
        make: impl Fn(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T, LayerError> {
        match make(self.parent_fd()) {
            Err(Errno::EXIST) => {
                self.displace(base, name)?;
                make(self.parent_fd()).map_err(at(name, "create"))
            }
            other => other.map_err(at(name, "create")),
        }
    }

    /// Takes what an earlier entry made out of the tree: deleted if it has no content, else kept for the frame.
    /// Only `self.parent` stays valid, and only because a directory cannot be inside what it replaces.
    fn displace(&mut self, base: &[u8], name: &[u8]) -> Result<(), LayerError> {
        let stat = rustix::fs::statat(self.parent_fd(), base, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(at(name, "stat"))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let has_content = kind == FileType::Directory || (kind == FileType::RegularFile && stat.st_size > 0);
        if !has_content {
            return rustix::fs::unlinkat(self.parent_fd(), base, AtFlags::empty())
                .map_err(at(name, "replace"));
        }
        let place = self.unpacked.displaced.len();
        if place >= DISPLACED_MAX {
            return Err(LayerError::TooMany("entries that replace others"));
        }
        if place == 0 {
            rustix::fs::mkdirat(&self.staging, "displaced", Mode::from_raw_mode(0o700))
                .map_err(at(b"displaced", "create"))?;
        }
        rustix::fs::renameat(
            self.parent_fd(),
            base,
            &self.staging,
            format!("displaced/{place}"),
        )
        .map_err(at(name, "replace"))?;
        let path = self.physical(base);
        let is_below = |other: &[u8]| {
            other
                .strip_prefix(&path[..])
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        self.directories.retain(|(directory, _)| !is_below(directory));
        self.unpacked.implied.retain(|directory| !is_below(directory));
        self.unpacked.displaced.push(Displacement {
            before: self.content_records,
            path,
            place,
        });
        Ok(())
    }

    fn make_file<R: BufRead>(
        &mut self,
        base: &[u8],
        entry: &Entry,
        reader: &mut TarReader<R, FrameWriter>,
    ) -> Result<(), LayerError> {
        let stored = reader.remaining();
        self.check_space(entry, stored)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let file = self.create(base, &entry.name, |parent| {
            rustix::fs::openat(parent, base, flags, mode)
        })?;
        let mut file = File::from(file);
        if let Some(map) = &entry.sparse {
            write_sparse(&mut file, entry, map, reader)?;
        } else if stored > 0 {
            reader.tap.file(stored, &self.physical(base))?;
            self.content_records += 1;
            write_content(&mut file, entry, reader)?;
        }
        self.unpacked.bytes += stored;
        self.set_file_attributes(&file, entry)
    }

    /// Owner, mode, xattrs, times, in the one order in which none undoes another: writing and `chown` drop set-id
    /// bits and capabilities.
    fn set_file_attributes(&self, file: &File, entry: &Entry) -> Result<(), LayerError> {
        let (uid, gid) = owner(entry);
        if (uid.as_raw(), gid.as_raw()) != (0, 0) {
            rustix::fs::fchown(file, Some(uid), Some(gid)).map_err(at(&entry.name, "change the owner of"))?;
        }
        if entry.mode & (self.umask | 0o7000) != 0 {
            let mode = Mode::from_raw_mode(entry.mode);
            rustix::fs::fchmod(file, mode).map_err(at(&entry.name, "change the mode of"))?;
        }
        set_xattrs(entry, |key, value| {
            rustix::fs::fsetxattr(file, key, value, XattrFlags::empty())
        })?;
        rustix::fs::futimens(file, &times(entry.mtime)).map_err(at(&entry.name, "set the time of"))
    }

    fn make_directory(&mut self, base: &[u8], entry: &Entry) -> Result<(), LayerError> {
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let make = |parent: BorrowedFd<'_>| rustix::fs::mkdirat(parent, base, mode);
        let open = |parent: BorrowedFd<'_>| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(parent, base, flags, Mode::empty())
        };
        let mut hides_lower = false;
        match make(self.parent_fd()) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(self.parent_fd(), base, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(at(&entry.name, "stat"))?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    // Whatever the layers below have there was hidden, and must stay so.
                    hides_lower = true;
                    self.displace(base, &entry.name)?;
                    make(self.parent_fd()).map_err(at(&entry.name, "create"))?;
                }
            }
            Err(errno) => return Err(at(&entry.name, "create")(errno)),
        }
        let directory = open(self.parent_fd()).map_err(at(&entry.name, "open"))?;
        set_directory_attributes(&directory, entry)?;
        if hides_lower {
            rustix::fs::fsetxattr(&directory, OPAQUE_XATTR, b"y", XattrFlags::empty())
                .map_err(at(&entry.name, "make opaque"))?;
        }
        let physical = self.physical(base);
        self.unpacked.implied.retain(|implied| *implied != physical);
        self.directories.push((physical, entry.mtime));
        Ok(())
    }

    fn make_hard_link(&mut self, base: &[u8], entry: &Entry) -> Result<(), LayerError> {
        let no_target = || LayerError::LinkTarget {
            name: lossy(&entry.name),
            target: lossy(&entry.link),
        };
        let components = clean(&entry.link).ok_or_else(no_target)?;
        let (target, parents) = components.split_last().ok_or_else(no_target)?;
        let (directory, _) = self
            .open_directory(&parents.join(&b'/'))
            .map_err(|_| no_target())?;
        let link =
            |parent: BorrowedFd<'_>| rustix::fs::linkat(&directory, *target, parent, base, AtFlags::empty());
        match self.create(base, &entry.name, link) {
            Err(LayerError::Io { source, .. })
                if matches!(
                    Errno::from_io_error(&source),
                    Some(Errno::NOENT | Errno::PERM | Errno::NOTDIR)
                ) =>
            {
                Err(no_target())
            }
            other => other,
        }
    }

    /// Symbolic links, devices and fifos, which cannot be opened to be changed.
    fn make_special(&mut self, base: &[u8], entry: &Entry) -> Result<(), LayerError> {
        let mode = Mode::from_raw_mode(entry.mode & 0o7777);
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        self.create(base, &entry.name, |parent| match entry.kind {
            EntryKind::CharacterDevice => {
                rustix::fs::mknodat(parent, base, FileType::CharacterDevice, mode, device)
            }
            EntryKind::BlockDevice => rustix::fs::mknodat(parent, base, FileType::BlockDevice, mode, device),
            EntryKind::Fifo => rustix::fs::mknodat(parent, base, FileType::Fifo, mode, 0),
            _ => rustix::fs::symlinkat(&entry.link[..], parent, base),
        })?;
        let parent = self.parent_fd();
        let (uid, gid) = owner(entry);
        if (uid.as_raw(), gid.as_raw()) != (0, 0) {
            rustix::fs::chownat(parent, base, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(at(&entry.name, "change the owner of"))?;
        }
        if entry.kind != EntryKind::Symlink {
            rustix::fs::chmodat(parent, base, mode, AtFlags::empty())
                .map_err(at(&entry.name, "change the mode of"))?;
        }
        let path = [format!("/proc/self/fd/{}/", parent.as_raw_fd()).as_bytes(), base].concat();
        set_xattrs(entry, |key, value| {
            rustix::fs::lsetxattr(&path[..], key, value, XattrFlags::empty())
        })?;
        rustix::fs::utimensat(parent, base, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(at(&entry.name, "set the time of"))
    }

    fn check_space(&self, entry: &Entry, bytes: u64) -> Result<(), LayerError> {
        if bytes < CHECKED_BYTES_MIN {
            return Ok(());
        }
        let space = rustix::fs::fstatvfs(&self.root).map_err(at(&entry.name, "measure the space for"))?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if bytes > free {
            return Err(LayerError::TooLarge {
                name: lossy(&entry.name),
                bytes,
                free,
            });
        }
        Ok(())
    }

    /// Sets the directories' times, the deepest first, now that nothing is made in them any more.
    fn finish_directories(&mut self) -> Result<(), LayerError> {
        self.parent = None;
        for (path, mtime) in std::mem::take(&mut self.directories).into_iter().rev() {
            let done = if path.is_empty() {
                rustix::fs::futimens(&self.root, &times(mtime))
            } else {
                rustix::fs::utimensat(&self.root, &path[..], &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
            };
            done.map_err(at(&path, "set the time of"))?;
        }
        Ok(())
    }
}

/// Ids the kernel cannot hold, or that mean "no change" to `chown`, are refused: wrapped around they would be root.
fn check_owner(entry: &Entry) -> Result<(), LayerError> {
    if entry.uid >= u64::from(u32::MAX) || entry.gid >= u64::from(u32::MAX) {
        return Err(LayerError::Corrupt(format!(
            "{:?} has an impossible owner",
            lossy(&entry.name)
        )));
    }
    Ok(())
}

fn owner(entry: &Entry) -> (Uid, Gid) {
    (Uid::from_raw(entry.uid as u32), Gid::from_raw(entry.gid as u32))
}

fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn set_directory_attributes(directory: &OwnedFd, entry: &Entry) -> Result<(), LayerError> {
    let (uid, gid) = owner(entry);
    rustix::fs::fchown(directory, Some(uid), Some(gid)).map_err(at(&entry.name, "change the owner of"))?;
    rustix::fs::fchmod(directory, Mode::from_raw_mode(entry.mode))
        .map_err(at(&entry.name, "change the mode of"))?;
    set_xattrs(entry, |key, value| {
        rustix::fs::fsetxattr(directory, key, value, XattrFlags::empty())
    })
}

/// Sets what an image may bring. `trusted.overlay.*` would let a layer redirect the overlay it becomes part of, and
/// labels of the host's security modules are the host's.
fn set_xattrs(entry: &Entry, set: impl Fn(&[u8], &[u8]) -> Result<(), Errno>) -> Result<(), LayerError> {
    for (key, value) in &entry.xattrs {
        let is_allowed = key.starts_with(b"user.")
            || key == b"security.capability"
            || key == b"system.posix_acl_access"
            || key == b"system.posix_acl_default"
            || (key.starts_with(b"trusted.") && !key.starts_with(b"trusted.overlay."));
        if !is_allowed || key.contains(&0) {
            continue;
        }
        match set(key, value) {
            // A filesystem without them, or a kind of file that cannot have them: Docker goes on too.
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(errno) => return Err(at(&entry.name, "set an extended attribute of")(errno)),
        }
    }
    Ok(())
}

fn write_content<R: BufRead, T: Tap>(
    file: &mut File,
    entry: &Entry,
    reader: &mut TarReader<R, T>,
) -> Result<(), LayerError> {
    let (mut written, mut handed) = (0, 0);
    loop {
        let piece = reader.content()?;
        let length = piece.len();
        file.write_all(piece).map_err(at(&entry.name, "write"))?;
        reader.consume(length);
        written += length as u64;
        let is_end = length == 0;
        let waiting = written - handed;
        if waiting >= WRITEBACK_BYTES || (is_end && waiting >= WRITEBACK_BYTES_MIN) {
            begin_writeback(file, handed, waiting);
            handed = written;
        }
        if is_end {
            return Ok(());
        }
    }
}

fn write_sparse<R: BufRead, T: Tap>(
    file: &mut File,
    entry: &Entry,
    map: &[(u64, u64)],
    reader: &mut TarReader<R, T>,
) -> Result<(), LayerError> {
    use std::os::unix::fs::FileExt;
    file.set_len(entry.bytes)
        .map_err(at(&entry.name, "set the size of"))?;
    let mut buffer = vec![0; 64 << 10];
    for (offset, length) in map {
        let mut done = 0;
        while done < *length {
            let step = buffer
                .len()
                .min(usize::try_from(length - done).unwrap_or(usize::MAX));
            reader.read_tapped(&mut buffer[..step])?;
            file.write_all_at(&buffer[..step], offset + done)
                .map_err(at(&entry.name, "write"))?;
            done += step as u64;
        }
    }
    Ok(())
}

/// Where an open directory is, by the kernel's word.
fn physical_path(fd: &OwnedFd) -> Result<Vec<u8>, LayerError> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let path = rustix::fs::readlink(link, Vec::new()).map_err(at(b"/proc/self/fd", "read"))?;
    Ok(path.into_bytes())
}

/// The process's umask; changing it to learn it would disturb other threads.
fn current_umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    umask
        .and_then(|text| u32::from_str_radix(text.trim(), 8).ok())
        .unwrap_or(0o777)
}
