//! Archiving a file tree: names in order, each file opened by the directory it was found in, no link ever followed.

use super::place::{open_file, open_plain, read_attributes, status};
use super::tape::{Member, Tape};
use rustix::fs::{Dir, FileType, OFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Longest path below the start, in bytes: the kernel's own bound for one path (`PATH_MAX`).
const PATH_BYTES_MAX: usize = 4096;

/// What overlayfs and image layers write to say that something is not there.
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Whether a layer would take a file of this name for a note that another one is gone.
pub fn means_removal(name: &[u8]) -> bool {
    name.starts_with(WHITEOUT)
}

/// Says why a file, at this path below the root of an image, cannot be in a layer.
pub fn removal_refused(path: &Path) -> String {
    format!(
        "{:?} cannot be in an image: in a layer such a name means that something is removed",
        Path::new("/").join(path).display().to_string()
    )
}

/// How names in the tree become names in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As they are.
    Plain,
    /// The upper directory of an overlay, written as an image layer: what was removed becomes a whiteout.
    Layer,
}

/// Writes a tree, or a single file, to an archive.
pub struct Walk<'a, W> {
    pub tape: &'a mut Tape<W>,
    pub form: Form,
    links: HashMap<(u64, u64), Vec<u8>>,
}

/// A directory being read: itself, its path below the start, and the names still to come.
struct Level {
    fd: OwnedFd,
    path: PathBuf,
    names: std::vec::IntoIter<OsString>,
}

impl<'a, W: Write> Walk<'a, W> {
    pub fn new(tape: &'a mut Tape<W>, form: Form) -> Self {
        Self {
            tape,
            form,
            links: HashMap::new(),
        }
    }

    /// Writes everything in `root`, names beginning with `prefix`; the directory itself first where it is to have a name
    /// of its own.
    pub fn write_directory(&mut self, root: &OwnedFd, prefix: &[u8], own: Option<Vec<u8>>) -> io::Result<()> {
        let fd = open_plain(root, Path::new("."), OFlags::RDONLY | OFlags::DIRECTORY)?;
        if let Some(name) = own {
            let stat = rustix::fs::fstat(&fd)?;
            self.write_directory_member(&fd, name, &stat)?;
        }
        let names = sorted_names(&fd)?;
        let mut levels = vec![Level {
            fd,
            path: PathBuf::new(),
            names,
        }];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next() else {
                levels.pop();
                continue;
            };
            if let Some(below) = self.write_name(level, &name, prefix)? {
                levels.push(below);
            }
        }
        Ok(())
    }

    /// Writes one name; a directory is returned, to go on with.
    fn write_name(&mut self, level: &Level, name: &OsStr, prefix: &[u8]) -> io::Result<Option<Level>> {
        let stat = match status(&level.fd, name) {
            // Gone meanwhile, as if it had never been.
            Err(Errno::NOENT) => return Ok(None),
            result => result?,
        };
        let path = level.path.join(name);
        if self.form == Form::Layer && means_removal(name.as_bytes()) {
            return Err(io::Error::other(removal_refused(&path)));
        }
        if path.as_os_str().len() > PATH_BYTES_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        let member = [prefix, path.as_os_str().as_bytes()].concat();
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            self.write_file(&level.fd, name, member, &stat)?;
            return Ok(None);
        }
        let fd = match open_plain(&level.fd, Path::new(name), OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            result => result?,
        };
        self.write_directory_member(&fd, [&member[..], b"/"].concat(), &stat)?;
        if self.form == Form::Layer && is_opaque(&fd) {
            self.tape
                .push(&Member::empty([&member[..], b"/", OPAQUE].concat()))?;
        }
        let names = sorted_names(&fd)?;
        Ok(Some(Level { fd, path, names }))
    }

    fn write_directory_member(&mut self, fd: &OwnedFd, name: Vec<u8>, stat: &Stat) -> io::Result<()> {
        let Some(mut member) = Member::of(name, stat) else {
            return Ok(());
        };
        member.attributes = read_attributes(&descriptor_path(fd, None));
        self.tape.push(&member)
    }

    /// Writes what is no directory, under the name given.
    pub fn write_file(
        &mut self,
        directory: &OwnedFd,
        name: &OsStr,
        member: Vec<u8>,
        stat: &Stat,
    ) -> io::Result<()> {
        if self.form == Form::Layer && is_whiteout(stat) {
            let at = member.len() - name.len();
            let hidden = [&member[..at], WHITEOUT, name.as_bytes()].concat();
            return self.tape.push(&Member::empty(hidden));
        }
        let Some(mut written) = Member::of(member, stat) else {
            return Ok(());
        };
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                written.kind = tar::EntryType::Link;
                written.link.clone_from(first);
                written.bytes = 0;
                return self.tape.push(&written);
            }
            self.links
                .insert((stat.st_dev, stat.st_ino), written.name.clone());
        }
        written.attributes = read_attributes(&descriptor_path(directory, Some(name)));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => match open_file(directory, name) {
                Ok(Some((mut file, _))) => self.tape.push_file(&written, &mut file),
                // Replaced or removed since it was looked at.
                Ok(None) | Err(Errno::NOENT | Errno::LOOP) => Ok(()),
                Err(errno) => Err(errno.into()),
            },
            FileType::Symlink => {
                written.link = rustix::fs::readlinkat(directory, name, Vec::new())?.into_bytes();
                self.tape.push(&written)
            }
            _ => self.tape.push(&written),
        }
    }
}

pub fn descriptor_path(fd: &OwnedFd, name: Option<&OsStr>) -> PathBuf {
    let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    match name {
        Some(name) => path.join(name),
        // Through the link itself, to what it stands for.
        None => path.join("."),
    }
}

pub fn sorted_names(directory: &OwnedFd) -> io::Result<std::vec::IntoIter<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    names.sort();
    Ok(names.into_iter())
}

/// Overlayfs marks what was removed by a character device 0:0.
pub fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Overlayfs marks a directory that hides the one below it.
pub fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0; 2];
    rustix::fs::fgetxattr(directory, "trusted.overlay.opaque", &mut value[..])
        .is_ok_and(|length| &value[..length] == b"y")
}
