//! Turns one layer blob into an unpacked tree under `temporary/`, on two threads: this one reads, checks the blob's
//! digest and decompresses; the other checks the archive's digest and unpacks.

use crate::error::LayerError;
use crate::layout::KeptBlob;
use crate::unpack::{Unpacked, unpack};
use naru_base::Digest;
use naru_sys::file::begin_writeback;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// One piece on its way between the threads. Large enough that the channel costs nothing, small enough for a cache.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces under way at once: 2 MiB, the bound on memory.
const PIECES_MAX: usize = 8;
/// Written bytes of one file after which the disk is told to begin with them, so that the sync at the end does not
/// have to wait for everything: enough to be written in one go.
pub(crate) const WRITEBACK_BYTES: u64 = 8 << 20;
/// zstd windows beyond this are refused, as the zstd tool does by default (2^27 bytes).
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// An unpacked layer that no image has yet. Its files go when it is dropped, unless it was moved away.
#[derive(Debug)]
pub struct StagedLayer {
    pub(crate) path: PathBuf,
    pub(crate) diff_id: Digest,
    pub(crate) blob: Digest,
    pub(crate) blob_bytes: u64,
    /// Its compressed form, in `blob` below `path`.
    pub(crate) kept: Option<KeptBlob>,
    pub(crate) unpacked: Unpacked,
}

/// How a blob that comes compressed gets to `blob` in the layer's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep<'a> {
    Blob,
    /// It is being written to this file, which gets a second name.
    File(&'a Path),
    /// It is somewhere already, or can be made again.
    Nothing,
}

impl Drop for StagedLayer {
    fn drop(&mut self) {
        // Gone already when it became a layer. What cannot be deleted now is deleted when the store is next opened.
        drop(std::fs::remove_dir_all(&self.path));
    }
}

/// How a layer's archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// Tells the compression by the first bytes.
    pub fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// Reads the decompressed form of `input`.
pub fn decompress<'a>(input: impl BufRead + 'a, compression: Compression) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
    })
}

/// Hashes what is read through it.
pub(crate) struct HashingReader<R> {
    input: R,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self {
            input,
            hash: Sha256::new(),
            bytes: 0,
        }
    }

    /// Reads the rest and returns the digest and length of everything.
    pub(crate) fn finish(mut self) -> io::Result<(Digest, u64)> {
        let mut rest = [0; 16 << 10];
        while self.read(&mut rest)? > 0 {}
        Ok((Digest::from_sha256(self.hash.finalize().into()), self.bytes))
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read(target)?;
        self.hash.update(&target[..length]);
        self.bytes += length as u64;
        Ok(length)
    }
}

/// Fills a buffer as far as the input goes.
pub(crate) fn read_full(input: &mut impl Read, target: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < target.len() {
        match input.read(&mut target[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Unpacks the blob in `input` into `path`, which is made here and gone again if this fails.
pub(crate) fn stage_layer(
    input: impl Read,
    path: PathBuf,
    keep: Keep<'_>,
) -> Result<StagedLayer, LayerError> {
    let make = |source| LayerError::Io {
        name: path.display().to_string(),
        action: "create",
        source,
    };
    std::fs::create_dir(&path).map_err(make)?;
    match stage_into(input, &path, keep) {
        Ok((diff_id, (blob, blob_bytes), compression, unpacked)) => Ok(StagedLayer {
            diff_id,
            kept: path.join("blob").exists().then(|| KeptBlob {
                digest: blob.clone(),
                bytes: blob_bytes,
                compression,
            }),
            path,
            blob,
            blob_bytes,
            unpacked,
        }),
        Err(error) => {
            drop(std::fs::remove_dir_all(&path));
            Err(error)
        }
    }
}

/// Passes on what is read, and writes it to a file where there is one.
struct KeepingReader<R> {
    input: R,
    file: Option<File>,
    written: u64,
    handed: u64,
    /// Why the file could not be written; a decoder that reads from here takes it for bad input.
    failure: Option<io::Error>,
}

impl<R: Read> Read for KeepingReader<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read(target)?;
        if let Some(file) = &mut self.file {
            if let Err(failure) = file.write_all(&target[..length]) {
                let told = io::Error::new(failure.kind(), "the blob could not be kept");
                self.failure = Some(failure);
                return Err(told);
            }
            self.written += length as u64;
            let waiting = self.written - self.handed;
            if waiting >= WRITEBACK_BYTES {
                begin_writeback(file, self.handed, waiting);
                self.handed = self.written;
            }
        }
        Ok(length)
    }
}

type Staged = (Digest, (Digest, u64), Compression, Unpacked);

fn stage_into(mut input: impl Read, path: &Path, keep: Keep<'_>) -> Result<Staged, LayerError> {
    let mut head = [0; 4];
    let length = read_full(&mut input, &mut head).map_err(LayerError::Read)?;
    let compression = Compression::of(&head[..length]);
    let failed = |source| LayerError::Io {
        name: "blob".to_owned(),
        action: "write",
        source,
    };
    let kept = path.join("blob");
    let file = match keep {
        Keep::Blob if compression != Compression::None => Some(File::create_new(kept).map_err(failed)?),
        Keep::File(written) if compression != Compression::None => {
            match std::fs::hard_link(written, kept) {
                // Another pull has just made an image of it and has put the file away; then that one's is used.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                linked => linked.map_err(failed)?,
            }
            None
        }
        _ => None,
    };
    let input = KeepingReader {
        input: io::Cursor::new(head[..length].to_vec()).chain(input),
        file,
        written: 0,
        handed: 0,
        failure: None,
    };
    let mut input = BufReader::with_capacity(PIECE_BYTES, HashingReader::new(input));
    let (full_sender, full_receiver) = sync_channel(PIECES_MAX);
    let (empty_sender, empty_receiver) = sync_channel(PIECES_MAX);
    let is_compressed = compression != Compression::None;
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new()
            .name("unpack".to_owned())
            .spawn_scoped(scope, move || {
                let mut pieces = PieceReader::new(full_receiver, empty_sender, is_compressed);
                let unpacked = unpack(&mut pieces, path)?;
                Ok((unpacked, pieces.finish()))
            });
        let worker = worker.map_err(LayerError::Read)?;
        let fed = feed(&mut input, compression, &full_sender, &empty_receiver);
        drop(full_sender);
        let outcome: Result<(Unpacked, Option<Digest>), LayerError> = worker
            .join()
            .unwrap_or_else(|_| Err(LayerError::Corrupt("the unpacker failed".to_owned())));
        if let Some(failure) = input.get_mut().input.failure.take() {
            return Err(failed(failure));
        }
        // What broke the input is the cause; that the archive then ended early is only its effect.
        fed?;
        let (unpacked, diff_id) = outcome?;
        let buffered = input.buffer().len();
        input.consume(buffered);
        let blob = input.into_inner().finish().map_err(LayerError::Read)?;
        let diff_id = diff_id.unwrap_or_else(|| blob.0.clone());
        Ok((diff_id, blob, compression, unpacked))
    })
}

/// Decompresses `input` into pieces until it ends or nobody wants more.
fn feed(
    input: &mut impl BufRead,
    compression: Compression,
    full: &SyncSender<Vec<u8>>,
    empty: &Receiver<Vec<u8>>,
) -> Result<(), LayerError> {
    let failed = |error: io::Error| match (compression, error.kind()) {
        (Compression::None, _) => LayerError::Read(error),
        (_, io::ErrorKind::UnexpectedEof) => LayerError::Truncated,
        _ => LayerError::Compression(error),
    };
    let mut reader = decompress(input, compression).map_err(failed)?;
    loop {
        let mut piece = empty.try_recv().unwrap_or_default();
        piece.resize(PIECE_BYTES, 0);
        let length = read_full(&mut reader, &mut piece).map_err(failed)?;
        piece.truncate(length);
        if length == 0 || full.send(piece).is_err() {
            return Ok(());
        }
    }
}

/// The unpacking thread's end: pieces as one stream.
struct PieceReader {
    full: Receiver<Vec<u8>>,
    empty: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
    position: usize,
    hash: Option<Sha256>,
}

impl PieceReader {
    fn new(full: Receiver<Vec<u8>>, empty: SyncSender<Vec<u8>>, with_hash: bool) -> Self {
        Self {
            full,
            empty,
            piece: Vec::new(),
            position: 0,
            hash: with_hash.then(Sha256::new),
        }
    }

    fn finish(self) -> Option<Digest> {
        self.hash.map(|hash| Digest::from_sha256(hash.finalize().into()))
    }
}

impl BufRead for PieceReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.piece.len()
            && let Ok(piece) = self.full.recv()
        {
            let used = std::mem::replace(&mut self.piece, piece);
            self.position = 0;
            // The feeder may have finished already; then the buffer is simply freed.
            drop(self.empty.try_send(used));
            if let Some(hash) = &mut self.hash {
                hash.update(&self.piece);
            }
        }
        Ok(&self.piece[self.position..])
    }

    fn consume(&mut self, length: usize) {
        self.position += length;
    }
}

impl Read for PieceReader {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(target)?;
        self.consume(length);
        Ok(length)
    }
}
