//! A local file or tree as an archive, made while it is read: no thread, and no more than one file open.

use naru_build::ignore::Ignore;
use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

const BLOCK: u64 = 512;

/// The one extended attribute that archives carry, as Docker's do.
const CAPABILITY: &str = "security.capability";

/// The kernel's attribute has 24 bytes at most.
const CAPABILITY_BYTES_MAX: usize = 64;

/// Reads as the archive of one file or directory.
pub struct Pack {
    /// What is still to be packed: the file, and its name in the archive.
    pending: Vec<(PathBuf, PathBuf)>,
    file: Option<Content>,
    header: Vec<u8>,
    used: usize,
    links: HashMap<(u64, u64), PathBuf>,
    ignore: Ignore,
    /// What every name in the archive begins with.
    prefix: PathBuf,
    is_finished: bool,
}

/// A file's content on its way, as long as its header said.
struct Content {
    file: File,
    left: u64,
    padding: u64,
    has_ended: bool,
}

impl Pack {
    /// `name` is what the archive calls it; without one a directory's content comes without the directory.
    pub fn new(source: &Path, name: Option<&Path>) -> io::Result<Self> {
        let mut pack = Self {
            pending: Vec::new(),
            file: None,
            header: Vec::new(),
            used: 0,
            links: HashMap::new(),
            ignore: Ignore::default(),
            prefix: name.map(Path::to_owned).unwrap_or_default(),
            is_finished: false,
        };
        match name {
            Some(name) => pack.pending.push((source.to_owned(), name.to_owned())),
            None => pack.push_children(source, Path::new(""))?,
        }
        Ok(pack)
    }

    /// Leaves out what the patterns say.
    pub fn without(self, ignore: Ignore) -> Self {
        Self { ignore, ..self }
    }

    /// Without the mark of its end: another archive follows.
    pub fn without_end(self) -> Self {
        Self {
            is_finished: true,
            ..self
        }
    }

    /// By its name below the directory that is packed; that itself is never left out.
    fn is_excluded(&self, name: &Path) -> bool {
        let below = name.strip_prefix(&self.prefix).unwrap_or(name);
        !below.as_os_str().is_empty() && self.ignore.excludes(&below.to_string_lossy())
    }

    fn push_children(&mut self, directory: &Path, name: &Path) -> io::Result<()> {
        let entries = std::fs::read_dir(directory).map_err(named(directory))?;
        let mut names = entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<Vec<_>>>()
            .map_err(named(directory))?;
        names.sort();
        // The last is taken first.
        let children = names.into_iter().rev();
        self.pending
            .extend(children.map(|child| (directory.join(&child), name.join(&child))));
        Ok(())
    }

    /// Prepares the next member; false at the end of the archive.
    fn advance(&mut self) -> io::Result<bool> {
        self.header.clear();
        self.used = 0;
        let Some((path, name)) = self.pending.pop() else {
            if self.is_finished {
                return Ok(false);
            }
            self.is_finished = true;
            self.header.resize(2 * BLOCK as usize, 0);
            return Ok(true);
        };
        let metadata = std::fs::symlink_metadata(&path).map_err(named(&path))?;
        let is_excluded = !self.ignore.is_empty() && self.is_excluded(&name);
        if is_excluded && metadata.is_dir() && self.ignore.has_exceptions() {
            self.push_children(&path, &name)?;
        }
        if is_excluded || metadata.file_type().is_socket() {
            // Nothing to read of it: on to the next.
            return Ok(true);
        }
        self.write_header(&path, &name, &metadata).map_err(named(&path))?;
        if metadata.is_dir() {
            self.push_children(&path, &name)?;
        }
        Ok(true)
    }

    fn write_header(&mut self, path: &Path, name: &Path, metadata: &Metadata) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_metadata_in_mode(metadata, tar::HeaderMode::Complete);
        let mut builder = tar::Builder::new(std::mem::take(&mut self.header));
        let first = (metadata.nlink() > 1 && !metadata.is_dir())
            .then(|| self.links.get(&(metadata.dev(), metadata.ino())))
            .flatten();
        if let Some(first) = first {
            header.set_entry_type(tar::EntryType::Link);
            header.set_size(0);
            builder.append_link(&mut header, name, first)?;
        } else if metadata.is_symlink() {
            header.set_size(0);
            builder.append_link(&mut header, name, std::fs::read_link(path)?)?;
        } else if metadata.is_file() {
            let file = File::open(path)?;
            let mut capability = [0; CAPABILITY_BYTES_MAX];
            let length = rustix::fs::fgetxattr(&file, CAPABILITY, &mut capability[..]).unwrap_or(0);
            if length > 0 {
                let record = format!("SCHILY.xattr.{CAPABILITY}");
                builder.append_pax_extensions([(record.as_str(), &capability[..length])])?;
            }
            builder.append_data(&mut header, name, io::empty())?;
            self.file = Some(Content {
                file,
                left: metadata.len(),
                padding: (BLOCK - metadata.len() % BLOCK) % BLOCK,
                has_ended: false,
            });
        } else {
            builder.append_data(&mut header, name, io::empty())?;
        }
        // Taken before the builder writes an end mark: the archive goes on.
        self.header = std::mem::take(builder.get_mut());
        if metadata.nlink() > 1 && !metadata.is_dir() {
            self.links
                .entry((metadata.dev(), metadata.ino()))
                .or_insert_with(|| name.to_owned());
        }
        Ok(())
    }
}

fn named(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let path = path.display().to_string();
    move |error| io::Error::new(error.kind(), format!("{path}: {error}"))
}

impl Content {
    /// Bytes of content, then of padding; 0 when both are done. A file that has become shorter is filled up with zeros.
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let length = target.len().min(self.padding as usize);
            target[..length].fill(0);
            self.padding -= length as u64;
            return Ok(length);
        }
        let wanted = target.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let mut length = if self.has_ended {
            0
        } else {
            self.file.read(&mut target[..wanted])?
        };
        if length == 0 {
            self.has_ended = true;
            target[..wanted].fill(0);
            length = wanted;
        }
        self.left -= length as u64;
        Ok(length)
    }
}

impl Read for Pack {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        if target.is_empty() {
            return Ok(0);
        }
        loop {
            if self.used < self.header.len() {
                let length = target.len().min(self.header.len() - self.used);
                target[..length].copy_from_slice(&self.header[self.used..self.used + length]);
                self.used += length;
                return Ok(length);
            }
            if let Some(content) = &mut self.file {
                let length = content.read(target)?;
                if length > 0 {
                    return Ok(length);
                }
                self.file = None;
            }
            if !self.advance()? {
                return Ok(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_packed_with_its_links() {
        let base = tempfile::tempdir().unwrap();
        let tree = base.path().join("tree");
        let long = "x".repeat(150);
        std::fs::create_dir_all(tree.join(&long)).unwrap();
        std::fs::write(tree.join(&long).join("file"), [7; 1000]).unwrap();
        std::fs::hard_link(tree.join(&long).join("file"), tree.join("zhard")).unwrap();
        std::os::unix::fs::symlink("/etc", tree.join("soft")).unwrap();
        let mut bytes = Vec::new();
        Pack::new(&tree, Some(Path::new("new")))
            .unwrap()
            .read_to_end(&mut bytes)
            .unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let names: Vec<(String, u8, u64)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let path = entry.path().unwrap().display().to_string();
                (path, entry.header().entry_type().as_byte(), entry.size())
            })
            .collect();
        assert_eq!(
            names,
            [
                ("new".to_owned(), b'5', 0),
                ("new/soft".to_owned(), b'2', 0),
                (format!("new/{long}"), b'5', 0),
                (format!("new/{long}/file"), b'0', 1000),
                ("new/zhard".to_owned(), b'1', 0),
            ]
        );
    }
}
