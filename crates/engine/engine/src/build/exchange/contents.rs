//! What is in cache mounts, on its way to other engines: an archive each, as layers are.
//!
//! Taken over only where there is no such mount yet, and whole or not at all. The archive is unpacked as every archive
//! is: nothing in it leads outside.

use super::document::CacheMount;
use crate::Engine;
use crate::archive::tape::Tape;
use crate::archive::walk::{Form, Walk};
use crate::build::cache::HashWriter;
use crate::build::context::{nameless_file, open_directory};
use crate::error::{EngineError, Result};
use crate::images::ArtifactFile;
use flate2::Compression;
use flate2::write::GzEncoder;
use naru_base::Digest;
use naru_oci::media_type;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;

const BUFFER_BYTES: usize = 256 << 10;

/// Packs the contents of a cache mount; nothing where there is no such mount. Blocking; waits for a step that has locked it.
pub(super) fn pack(engine: &Engine, name: &str) -> Result<Option<(CacheMount, ArtifactFile)>> {
    let directory = engine.builds_directory().join("mounts").join(name);
    let _used = engine.builds.in_use.mount(name);
    let _turn = engine.builds.mount(name).blocking_lock_owned();
    if !directory.is_dir() {
        return Ok(None);
    }
    let failed = |error: io::Error| {
        EngineError::system(format!(
            "cannot read the cache mount {}: {error}",
            directory.display()
        ))
    };
    let root = open_directory(&directory)?;
    let file = nameless_file(&engine.builds_directory().join("running"))?;
    let mut packed = Counted {
        inner: BufWriter::with_capacity(BUFFER_BYTES, file),
        hash: HashWriter::default(),
        bytes: 0,
    };
    let mut gzip = GzEncoder::new(&mut packed, Compression::fast());
    let mut tape = Tape::new(&mut gzip);
    let mut walk = Walk::new(&mut tape, Form::Plain);
    walk.write_directory(&root, b"", None).map_err(failed)?;
    tape.finish().map_err(failed)?;
    gzip.finish().map_err(failed)?;
    let file = packed
        .inner
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    let mount = CacheMount {
        name: name.to_owned(),
        blob: packed.hash.finish(),
        media_type: media_type::OCI_LAYER_GZIP.to_owned(),
        size: packed.bytes,
    };
    let file = ArtifactFile {
        descriptor: mount.descriptor(),
        file: Arc::new(file),
    };
    Ok(Some((mount, file)))
}

/// Unpacks the contents of a mount into a new directory, which is gone again unless they are what was told. Blocking.
pub(super) fn unpack(mount: &CacheMount, content: impl Read, directory: &Path) -> Result<()> {
    let unpacked = unpack_checked(mount, content, directory);
    if unpacked.is_err() {
        naru_sys::file::remove_tree(directory)?;
    }
    unpacked
}

fn unpack_checked(mount: &CacheMount, content: impl Read, directory: &Path) -> Result<()> {
    naru_sys::file::make_directories(directory, 0o700)?;
    let root = open_directory(directory)?;
    let mut content = Checked {
        // More than was announced is as wrong as less.
        inner: content.take(mount.size.saturating_add(1)),
        hash: HashWriter::default(),
    };
    crate::archive::unpack_into(&root, &mut content)?;
    let rest = io::copy(&mut content, &mut io::sink());
    rest.map_err(|error| EngineError::invalid(format!("it cannot be read: {error}")))?;
    let found: Digest = content.hash.finish();
    if found != mount.blob {
        return Err(EngineError::invalid(format!(
            "its digest is {found}, not {} as the cache says",
            mount.blob
        )));
    }
    Ok(())
}

/// Hashes and counts what is written.
struct Counted<W> {
    inner: W,
    hash: HashWriter,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.write_all(&bytes[..written])?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Hashes what is read.
struct Checked<R> {
    inner: R,
    hash: HashWriter,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(target)?;
        self.hash.write_all(&target[..length])?;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount_of(bytes: &[u8]) -> CacheMount {
        let mut hash = HashWriter::default();
        hash.write_all(bytes).unwrap();
        CacheMount {
            name: "m".to_owned(),
            blob: hash.finish(),
            media_type: String::new(),
            size: bytes.len() as u64,
        }
    }

    fn archive_of(name: &[u8], link: Option<&str>) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_mode(0o640);
        header.set_size(0);
        if let Some(link) = link {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_link_name(link).unwrap();
        }
        header.set_cksum();
        let mut builder = tar::Builder::new(Vec::new());
        builder.append(&header, io::empty()).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn contents_are_taken_whole_or_not_at_all() {
        let parent = tempfile::tempdir().unwrap();
        let at = parent.path().join("m");
        let good = archive_of(b"a/b", None);
        unpack(&mount_of(&good), &good[..], &at).unwrap();
        assert!(at.join("a/b").is_file());
        naru_sys::file::remove_tree(&at).unwrap();
        let mut other = mount_of(&good);
        other.blob = mount_of(b"other").blob;
        assert!(unpack(&other, &good[..], &at).is_err());
        assert!(!at.exists());
    }

    #[test]
    fn nothing_leads_outside() {
        let parent = tempfile::tempdir().unwrap();
        let at = parent.path().join("m");
        let up = archive_of(b"../../outside", None);
        drop(unpack(&mount_of(&up), &up[..], &at));
        assert!(
            !parent.path().join("outside").exists()
                && !parent.path().parent().unwrap().join("outside").exists()
        );
        let mut through = archive_of(b"up", Some(parent.path().to_str().unwrap()));
        // Without the end of the first archive the second goes on where it was.
        through.truncate(512);
        through.extend(archive_of(b"up/outside", None));
        drop(unpack(&mount_of(&through), &through[..], &at));
        assert!(!parent.path().join("outside").exists());
    }
}
