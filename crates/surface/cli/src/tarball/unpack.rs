//! Unpacking what a container sent. Its names are not trusted: every directory is opened below the destination, by the
//! kernel, which refuses what leads out of it; what stands in a file's way is removed, never written through.

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// The first element of every name, and what it becomes.
#[derive(Debug, Clone)]
pub struct Rename {
    pub from: Vec<u8>,
    pub to: Vec<u8>,
}

impl Rename {
    fn apply(&self, name: &[u8]) -> Vec<u8> {
        let Some(at) = name
            .windows(self.from.len().max(1))
            .position(|part| part == self.from)
        else {
            return name.to_vec();
        };
        [&name[..at], &self.to[..], &name[at + self.from.len()..]].concat()
    }
}

/// Unpacks an archive into a directory; a directory never takes the place of something else, nor the other way round.
pub fn unpack(archive: impl Read, destination: &Path, rename: Option<&Rename>) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(destination, flags, Mode::empty())?;
    let mut unpacking = Unpacking {
        root,
        destination,
        directories: Vec::new(),
    };
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        unpacking.place(entry?, rename)?;
    }
    unpacking.finish();
    // What follows the end mark belongs to the answer too.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop)
}

struct Unpacking<'a> {
    root: OwnedFd,
    destination: &'a Path,
    directories: Vec<(PathBuf, u32, Timestamps)>,
}

impl Unpacking<'_> {
    fn place(&mut self, mut entry: tar::Entry<'_, impl Read>, rename: Option<&Rename>) -> io::Result<()> {
        let renamed = |name: &[u8]| rename.map_or_else(|| name.to_vec(), |rename| rename.apply(name));
        let name = relative(&renamed(&entry.path_bytes()))?;
        let header = entry.header();
        let (kind, mode) = (header.entry_type(), header.mode()? & 0o7777);
        let times = times(header.mtime()?);
        let Some(base) = name.file_name().map(OsStr::to_owned) else {
            return Ok(());
        };
        let parent = self.open_parent(name.parent().unwrap_or(Path::new("")))?;
        let is_directory = kind == tar::EntryType::Directory;
        if let Ok(stat) = rustix::fs::statat(&parent, &base, AtFlags::SYMLINK_NOFOLLOW) {
            let stands_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            self.check(&name, stands_directory, is_directory)?;
            if !is_directory {
                rustix::fs::unlinkat(&parent, &base, AtFlags::empty())?;
            }
        }
        let make_node = |kind: FileType, device: u64| {
            rustix::fs::mknodat(&parent, &base, kind, Mode::from_raw_mode(mode), device)
        };
        let device = || -> io::Result<u64> {
            let number = |number: io::Result<Option<u32>>| number.map(Option::unwrap_or_default);
            Ok(rustix::fs::makedev(
                number(header.device_major())?,
                number(header.device_minor())?,
            ))
        };
        match kind {
            tar::EntryType::Directory => {
                match rustix::fs::mkdirat(&parent, &base, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                // One that was there and that the caller may not read keeps what it has.
                if let Ok(opened) = rustix::fs::openat(&parent, &base, flags, Mode::empty()) {
                    set_attributes(&mut entry, &opened)?;
                }
                self.directories.push((name, mode, times));
                return Ok(());
            }
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                let flags =
                    OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&parent, &base, flags, Mode::from_raw_mode(0o600))?;
                let mut file = File::from(file);
                io::copy(&mut entry, &mut file)?;
                set_attributes(&mut entry, &file)?;
                rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
                rustix::fs::futimens(&file, &times)?;
                return Ok(());
            }
            tar::EntryType::Link => {
                let target = relative(&renamed(&entry.link_name_bytes().unwrap_or_default()))?;
                let file = target.file_name().ok_or(io::ErrorKind::InvalidData)?;
                let directory = self.open(target.parent().unwrap_or(Path::new("")))?;
                rustix::fs::linkat(&directory, file, &parent, &base, AtFlags::empty())?;
                return Ok(());
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                rustix::fs::symlinkat(&target[..], &parent, &base)?;
            }
            tar::EntryType::Fifo => make_node(FileType::Fifo, 0)?,
            tar::EntryType::Char => make_node(FileType::CharacterDevice, device()?)?,
            tar::EntryType::Block => make_node(FileType::BlockDevice, device()?)?,
            _ => return Ok(()),
        }
        rustix::fs::utimensat(&parent, &base, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    fn check(&self, name: &Path, stands_directory: bool, is_directory: bool) -> io::Result<()> {
        let (old, new) = match (stands_directory, is_directory) {
            (true, false) => ("directory", "non-directory"),
            (false, true) => ("non-directory", "directory"),
            _ => return Ok(()),
        };
        Err(io::Error::other(format!(
            "cannot overwrite {old} {:?} with {new} {:?}",
            self.destination.join(name).display().to_string(),
            self.destination.display().to_string()
        )))
    }

    fn open(&self, directory: &Path) -> rustix::io::Result<OwnedFd> {
        let path = if directory.as_os_str().is_empty() {
            Path::new(".")
        } else {
            directory
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)
    }

    fn open_parent(&self, directory: &Path) -> rustix::io::Result<OwnedFd> {
        match self.open(directory) {
            Err(Errno::NOENT) => {}
            result => return result,
        }
        let mut reached = PathBuf::new();
        for component in directory.components() {
            let here = self.open(&reached)?;
            reached.push(component);
            match rustix::fs::mkdirat(&here, component.as_os_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        self.open(directory)
    }

    /// Modes and times of directories, when nothing is made in them any more.
    fn finish(&self) {
        for (name, mode, times) in self.directories.iter().rev() {
            if let Ok(directory) = self.open(name) {
                let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
                let _ = rustix::fs::chmod(&path, Mode::from_raw_mode(*mode));
                let _ = rustix::fs::utimensat(rustix::fs::CWD, &path, times, AtFlags::empty());
            }
        }
    }
}

/// Gives a file the attributes that the archive has for it, as far as the caller may and the file system can.
fn set_attributes(entry: &mut tar::Entry<'_, impl Read>, file: impl AsFd + Copy) -> io::Result<()> {
    let Some(extensions) = entry.pax_extensions()? else {
        return Ok(());
    };
    for extension in extensions.flatten() {
        if let Some(name) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.") {
            let _ = rustix::fs::fsetxattr(file, name, extension.value_bytes(), XattrFlags::empty());
        }
    }
    Ok(())
}

fn times(seconds: u64) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds.cast_signed(),
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// A member's name below the destination.
fn relative(name: &[u8]) -> io::Result<PathBuf> {
    let mut path = PathBuf::new();
    for component in Path::new(&std::ffi::OsString::from_vec(name.to_vec())).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "the archive holds a name that leads out of it: {}",
                        OsStr::from_bytes(name).display()
                    ),
                ));
            }
            _ => {}
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(members: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, content) in members {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            let data = if *kind == tar::EntryType::Regular {
                content.as_bytes()
            } else {
                header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
                b""
            };
            header.set_size(data.len() as u64);
            header.set_cksum();
            builder.append(&header, data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    const FILE: tar::EntryType = tar::EntryType::Regular;

    #[test]
    fn names_are_replaced_and_kinds_are_kept() {
        let base = tempfile::tempdir().unwrap();
        let bytes = archive(&[("d/", tar::EntryType::Directory, ""), ("d/x", FILE, "1")]);
        let rename = Rename {
            from: b"d".to_vec(),
            to: b"new".to_vec(),
        };
        unpack(&bytes[..], base.path(), Some(&rename)).unwrap();
        assert_eq!(std::fs::read_to_string(base.path().join("new/x")).unwrap(), "1");
        let failed = unpack(&archive(&[("new", FILE, "1")])[..], base.path(), None).unwrap_err();
        assert!(failed.to_string().starts_with("cannot overwrite directory"));
    }

    #[test]
    fn nothing_lands_outside() {
        let base = tempfile::tempdir().unwrap();
        let (inside, outside) = (base.path().join("in"), base.path().join("out"));
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        let out = outside.to_str().unwrap();
        for members in [
            vec![("../out/x", FILE, "1")],
            vec![("l", tar::EntryType::Symlink, out), ("l/x", FILE, "1")],
            vec![("m", tar::EntryType::Symlink, "../out"), ("m/x", FILE, "1")],
            vec![("h", tar::EntryType::Link, "../out/h")],
        ] {
            assert!(
                unpack(&archive(&members)[..], &inside, None).is_err(),
                "{members:?}"
            );
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }
}
