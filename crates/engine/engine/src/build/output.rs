//! What a build gives besides an image in the list: its files, as an archive or entry by entry.
//!
//! An entry is told as it is in the image. Whoever writes it somewhere decides what of it may be taken over; links are
//! never followed here.

use super::in_use::Uses;
use crate::Engine;
use crate::archive::channel::pipe;
use crate::archive::place::{open_plain, read_attributes, status};
use crate::archive::tape::{Member, Tape};
use crate::archive::walk::{Form, Walk, descriptor_path, sorted_names};
use crate::archive::{Chunks, blocking, stream};
use crate::error::{EngineError, Result};
use naru_base::Digest;
use naru_oci::Reference;
use naru_runtime::view::{self, View};
use rustix::fs::{FileType, OFlags, Stat};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is gathered of an archive before it is handed on.
const PIECE_BYTES: usize = 128 << 10;

/// A build's result; nothing prunes it as long as this is there.
#[derive(Debug, Clone)]
pub struct Built {
    pub id: Digest,
    /// Something was to be attested of it, and is kept with it.
    pub is_attested: bool,
    pub(super) _uses: Arc<Uses>,
}

/// What is attested of an image, to be written among its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestedFile {
    /// In the root.
    pub name: String,
    pub bytes: Vec<u8>,
    /// Seconds since the epoch.
    pub modified_at: i64,
}

/// The root file system of an image, to be read.
#[derive(Debug)]
pub struct ImageTree(Option<View>);

/// One name in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// Below the root, without a leading slash.
    pub path: PathBuf,
    /// Kind and permissions, as the kernel has them.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub bytes: u64,
    pub modified_ns: i64,
    /// Where a symbolic link leads; or the earlier entry that is the same file.
    pub link: Option<PathBuf>,
    pub device: (u32, u32),
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Engine {
    /// An image's files; blocking while it is opened.
    pub async fn image_tree(&self, id: &Digest) -> Result<ImageTree> {
        let image = self.content.image(id.as_str()).map_err(crate::images::error)?;
        let layers = self.content.image_layers(&image);
        if layers.is_empty() {
            return Ok(ImageTree(None));
        }
        let opened = blocking(move || {
            let view = view::on_own_thread(|| view::layers(&layers));
            view.map_err(|failure| EngineError::system(failure.message))
        });
        Ok(ImageTree(Some(opened.await?)))
    }

    /// An image's files as an archive, with their owners; and with what is attested of it.
    pub async fn export_image(&self, id: &Digest, attested: Vec<AttestedFile>) -> Result<Chunks> {
        let tree = self.image_tree(id).await?;
        Ok(stream(move |output| {
            let mut tape = Tape::new(output);
            if let Some(view) = &tree.0 {
                Walk::new(&mut tape, Form::Plain).write_directory(&view.root, b"", None)?;
            }
            for file in attested {
                let member = Member {
                    mode: 0o644,
                    bytes: file.bytes.len() as u64,
                    modified_at: file.modified_at,
                    ..Member::empty(file.name.into_bytes())
                };
                tape.push_file(&member, &mut file.bytes.as_slice())?;
            }
            tape.finish()
        }))
    }

    /// An image as an archive that `docker load` reads and that is an OCI layout too, under these names.
    pub fn save_built(self: &Arc<Self>, id: &Digest, names: &[String]) -> Result<Chunks> {
        let parse = |name: &String| Reference::parse(name).map(Reference::or_latest);
        let names = names.iter().map(parse).collect::<Result<Vec<_>, _>>();
        let names = names.map_err(|error| EngineError::invalid(error.to_string()))?;
        let plan = self
            .content
            .plan_save_as(id, names)
            .map_err(crate::images::error)?;
        let (engine, (writer, chunks)) = (Arc::clone(self), pipe());
        tokio::task::spawn_blocking(move || {
            let mut output = BufWriter::with_capacity(PIECE_BYTES, writer);
            let saved = engine.save_images(&plan, &mut output);
            let saved = saved.map_err(|error| io::Error::other(error.message));
            if let Err(error) = saved.and_then(|()| output.flush()) {
                let (writer, _) = output.into_parts();
                writer.fail(error);
            }
        });
        Ok(chunks)
    }
}

impl ImageTree {
    /// Shows every entry, directory by directory, names in the order of their bytes; blocking.
    pub fn walk(&self, mut visit: impl FnMut(TreeEntry) -> io::Result<()>) -> io::Result<()> {
        let Some(view) = &self.0 else { return Ok(()) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let root = open_plain(&view.root, Path::new("."), flags)?;
        let mut links = HashMap::new();
        let mut levels: Vec<(OwnedFd, PathBuf, std::vec::IntoIter<OsString>)> = Vec::new();
        let names = sorted_names(&root)?;
        levels.push((root, PathBuf::new(), names));
        while let Some((directory, path, names)) = levels.last_mut() {
            let Some(name) = names.next() else {
                levels.pop();
                continue;
            };
            let stat = status(&*directory, &name)?;
            let mut entry = entry_of(path.join(&name), &stat);
            entry.attributes = read_attributes(&descriptor_path(directory, Some(&name)));
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::Symlink {
                let target = rustix::fs::readlinkat(&*directory, &name, Vec::new())?;
                entry.link = Some(OsString::from_vec(target.into_bytes()).into());
            } else if kind != FileType::Directory && stat.st_nlink > 1 {
                let first = links
                    .entry((stat.st_dev, stat.st_ino))
                    .or_insert_with(|| entry.path.clone());
                entry.link = (*first != entry.path).then(|| first.clone());
            }
            let below = (kind == FileType::Directory).then(|| entry.path.clone());
            let opened =
                below.map(|path| open_plain(&*directory, Path::new(&name), flags).map(|fd| (fd, path)));
            visit(entry)?;
            if let Some((fd, path)) = opened.transpose()? {
                let names = sorted_names(&fd)?;
                levels.push((fd, path, names));
            }
        }
        Ok(())
    }

    /// Opens a plain file of it.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        let view = self.0.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Ok(open_plain(&view.root, path, OFlags::RDONLY | OFlags::NONBLOCK)?.into())
    }
}

fn entry_of(path: PathBuf, stat: &Stat) -> TreeEntry {
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    TreeEntry {
        path,
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        bytes: if is_file { stat.st_size.cast_unsigned() } else { 0 },
        modified_ns: stat.st_mtime * 1_000_000_000 + stat.st_mtime_nsec as i64,
        link: None,
        device: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
        attributes: Vec::new(),
    }
}
