//! The frame of a layer: everything its archive has besides the content of plain files.
//!
//! With the unpacked files it makes the archive again, bit for bit, so that a layer can be saved, pushed or unpacked
//! a second time without its compressed blob being kept.
//!
//! ```text
//! frame.zst, decompressed, is a sequence of
//!   0x00 length:u32le bytes…                raw bytes of the archive
//!   0x01 size:u64le length:u32le path…      the content of the file at `path` in the layer
//! ```
//! A file that a later entry of the same archive replaced was moved to `displaced/<n>`; see [`Displacement`].

use crate::error::LayerError;
use crate::tarball::Tap;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const TAG_RAW: u8 = 0;
const TAG_FILE: u8 = 1;
/// Raw bytes gathered before they become one record.
const RAW_BYTES_MAX: usize = 64 << 10;
/// The paths in a frame come from the kernel's own limit on a path.
const PATH_BYTES_MAX: usize = 1 << 16;

/// A file or directory of the layer that a later entry took the place of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Displacement {
    /// Content records before this number, at or below `path`, are now at or below `displaced/<place>`.
    pub before: u64,
    pub path: Vec<u8>,
    pub place: usize,
}

/// Writes a frame while its layer is unpacked.
pub(crate) struct FrameWriter {
    encoder: zstd::Encoder<'static, BufWriter<File>>,
    raw: Vec<u8>,
    pub(crate) files: u64,
}

fn write_error(source: io::Error) -> LayerError {
    LayerError::Io {
        name: "frame.zst".to_owned(),
        action: "write",
        source,
    }
}

impl FrameWriter {
    pub(crate) fn new(file: File) -> Result<Self, LayerError> {
        // Level 1: headers are so repetitive that more effort buys nothing.
        let encoder = zstd::Encoder::new(BufWriter::new(file), 1).map_err(write_error)?;
        Ok(Self {
            encoder,
            raw: Vec::with_capacity(RAW_BYTES_MAX),
            files: 0,
        })
    }

    /// Notes that the content of the plain file at `path` comes here.
    pub(crate) fn file(&mut self, bytes: u64, path: &[u8]) -> Result<(), LayerError> {
        self.flush_raw()?;
        let mut record = Vec::with_capacity(13 + path.len());
        record.push(TAG_FILE);
        record.extend_from_slice(&bytes.to_le_bytes());
        record.extend_from_slice(&(path.len() as u32).to_le_bytes());
        record.extend_from_slice(path);
        self.files += 1;
        self.encoder.write_all(&record).map_err(write_error)
    }

    pub(crate) fn finish(mut self) -> Result<(), LayerError> {
        self.flush_raw()?;
        let mut file = self.encoder.finish().map_err(write_error)?;
        file.flush().map_err(write_error)
    }

    fn flush_raw(&mut self) -> Result<(), LayerError> {
        if self.raw.is_empty() {
            return Ok(());
        }
        let mut head = [TAG_RAW; 5];
        head[1..].copy_from_slice(&(self.raw.len() as u32).to_le_bytes());
        self.encoder
            .write_all(&head)
            .and_then(|()| self.encoder.write_all(&self.raw))
            .map_err(write_error)?;
        self.raw.clear();
        Ok(())
    }
}

impl Tap for FrameWriter {
    fn raw(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        for piece in bytes.chunks(RAW_BYTES_MAX) {
            if self.raw.len() + piece.len() > RAW_BYTES_MAX {
                self.flush_raw()?;
            }
            self.raw.extend_from_slice(piece);
        }
        Ok(())
    }
}

/// The archive of an unpacked layer, made again. Its reader compares the digest.
pub(crate) struct FrameReader {
    frame: zstd::Decoder<'static, BufReader<File>>,
    layer: OwnedFd,
    displaced: Vec<Displacement>,
    files: u64,
    part: Part,
}

enum Part {
    None,
    Raw(u64),
    File(File, u64),
}

impl FrameReader {
    /// `directory` is the layer's own, with `diff/` and `frame.zst` in it.
    pub(crate) fn open(directory: &Path, displaced: Vec<Displacement>) -> io::Result<Self> {
        let frame = zstd::Decoder::new(File::open(directory.join("frame.zst"))?)?;
        let layer = rustix::fs::open(
            directory,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Self {
            frame,
            layer,
            displaced,
            files: 0,
            part: Part::None,
        })
    }

    /// The length of the whole archive, by reading the frame alone.
    pub(crate) fn archive_bytes(mut self) -> io::Result<u64> {
        let mut bytes = 0;
        let mut tag = [0];
        while self.frame.read(&mut tag)? > 0 {
            let skipped = match tag[0] {
                TAG_RAW => {
                    let length = u64::from(u32::from_le_bytes(self.read_number()?));
                    bytes += length;
                    length
                }
                TAG_FILE => {
                    bytes += u64::from_le_bytes(self.read_number()?);
                    u64::from(u32::from_le_bytes(self.read_number()?))
                }
                _ => return Err(io::Error::from(io::ErrorKind::InvalidData)),
            };
            let mut rest = (&mut self.frame).take(skipped);
            if io::copy(&mut rest, &mut io::sink())? < skipped {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
        }
        Ok(bytes)
    }

    fn read_number<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.frame.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Starts the next record; false at the end.
    fn advance(&mut self) -> io::Result<bool> {
        let mut tag = [0];
        if self.frame.read(&mut tag)? == 0 {
            return Ok(false);
        }
        self.part = match tag[0] {
            TAG_RAW => Part::Raw(u64::from(u32::from_le_bytes(self.read_number()?))),
            TAG_FILE => {
                let bytes = u64::from_le_bytes(self.read_number()?);
                let length = u32::from_le_bytes(self.read_number()?) as usize;
                if length > PATH_BYTES_MAX {
                    return Err(io::Error::from(io::ErrorKind::InvalidData));
                }
                let mut path = vec![0; length];
                self.frame.read_exact(&mut path)?;
                let file = self.open_file(&path)?;
                self.files += 1;
                Part::File(file, bytes)
            }
            _ => return Err(io::Error::from(io::ErrorKind::InvalidData)),
        };
        Ok(true)
    }

    fn open_file(&self, path: &[u8]) -> io::Result<File> {
        let path = self.place_of(path);
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat2(&self.layer, &path[..], flags, Mode::empty(), resolve)?.into())
    }

    fn place_of(&self, path: &[u8]) -> Vec<u8> {
        let rest_below = |base: &[u8]| match path.strip_prefix(base) {
            Some(rest) if rest.is_empty() || rest[0] == b'/' => Some(rest.to_vec()),
            _ => None,
        };
        for displaced in self
            .displaced
            .iter()
            .filter(|displaced| displaced.before > self.files)
        {
            if let Some(rest) = rest_below(&displaced.path) {
                return [format!("displaced/{}", displaced.place).as_bytes(), &rest].concat();
            }
        }
        [b"diff/", path].concat()
    }
}

impl Read for FrameReader {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        if target.is_empty() {
            return Ok(0);
        }
        while self.part.is_used_up() {
            if !self.advance()? {
                return Ok(0);
            }
        }
        let length = target.len();
        let limit = |left: u64| length.min(usize::try_from(left).unwrap_or(usize::MAX));
        let (read, left) = match &mut self.part {
            Part::None => return Ok(0),
            Part::Raw(left) => (self.frame.read(&mut target[..limit(*left)])?, left),
            Part::File(file, left) => (file.read(&mut target[..limit(*left)])?, left),
        };
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        *left -= read as u64;
        Ok(read)
    }
}

impl Part {
    fn is_used_up(&self) -> bool {
        match self {
            Self::None => true,
            Self::Raw(left) | Self::File(_, left) => *left == 0,
        }
    }
}

/// The bytes of a path, for a frame.
pub(crate) fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}
