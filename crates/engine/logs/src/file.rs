//! One file of a log, open for reading: plain or compressed, from its beginning or from its last messages.

use crate::format::{Cutter, Format};
use crate::local;
use crate::rotate::{self, Origin};
use flate2::bufread::GzDecoder;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// Bytes read at once.
const BLOCK_BYTES: usize = 64 * 1024;

/// Device and inode: a file that is open keeps its own.
type Identity = (u64, u64);

#[derive(Debug)]
pub(crate) struct LogFile {
    source: Source,
    identity: Identity,
    /// Which file a compressed one was before.
    was: Option<Origin>,
    /// Bytes read, once they are decompressed.
    pub offset: u64,
    /// Messages still to be passed over.
    pub skip: usize,
    /// What is written beyond this is not read.
    limit: Option<u64>,
}

#[derive(Debug)]
enum Source {
    Plain(File),
    Compressed(Box<GzDecoder<BufReader<File>>>),
}

impl LogFile {
    /// `None` where there is no such file.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        let Some((file, identity)) = open(path)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            source: Source::Plain(file),
            identity,
            was: None,
            offset: 0,
            skip: 0,
            limit: None,
        }))
    }

    pub fn open_compressed(path: &Path) -> io::Result<Option<Self>> {
        let Some((file, identity)) = open(path)? else {
            return Ok(None);
        };
        let decoder = GzDecoder::new(BufReader::new(file));
        let origin = decoder
            .header()
            .and_then(|header| header.comment())
            .and_then(Origin::parse);
        Ok(Some(Self {
            source: Source::Compressed(Box::new(decoder)),
            identity,
            was: origin,
            offset: 0,
            skip: 0,
            limit: None,
        }))
    }

    /// Whether both are the same file, or one is what the other has been compressed to.
    pub fn is(&self, other: &Self) -> bool {
        self.identity == other.identity || self.came_from(other) || other.came_from(self)
    }

    fn came_from(&self, other: &Self) -> bool {
        let (Some(was), Source::Plain(file)) = (self.was, &other.source) else {
            return false;
        };
        was.identity == other.identity
            && file
                .metadata()
                .is_ok_and(|state| rotate::written_at(&state) == was.written_at)
    }

    /// The next bytes; none at the present end.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let block = match &mut self.source {
            Source::Plain(file) => {
                let left = self
                    .limit
                    .map_or(u64::MAX, |limit| limit.saturating_sub(self.offset));
                let length = usize::try_from(left).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
                read_at(file, self.offset, length)?
            }
            Source::Compressed(decoder) => decompress_block(decoder)?,
        };
        self.offset += block.len() as u64;
        Ok(block)
    }

    /// Its present end is the last that is read.
    pub fn end_here(&mut self) -> io::Result<()> {
        self.limit = self.size()?;
        Ok(())
    }

    /// More has been written to it than was read.
    pub fn has_more(&self) -> io::Result<bool> {
        Ok(self.size()?.is_some_and(|size| size > self.offset))
    }

    /// Bytes of the log before this file, where that is known. Asked anew each time: a file that has just been made is
    /// told a moment later.
    pub fn bytes_before(&self) -> Option<u64> {
        match &self.source {
            Source::Plain(file) => rotate::bytes_before(file),
            Source::Compressed(_) => self.was.and_then(|origin| origin.bytes_before),
        }
    }

    /// Where its bytes end, as far as is known: of a compressed file what was read of it.
    pub fn end(&self) -> io::Result<u64> {
        Ok(self.size()?.unwrap_or(self.offset))
    }

    /// The writer has taken back what a full disk had torn: the position goes back with it.
    pub fn step_back(&mut self) -> io::Result<bool> {
        match self.size()? {
            Some(size) if size < self.offset => {
                self.offset = size;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// `None` for a compressed file, which no longer changes.
    fn size(&self) -> io::Result<Option<u64>> {
        match &self.source {
            Source::Plain(file) => {
                let size = file.metadata()?.len();
                Ok(Some(self.limit.map_or(size, |limit| size.min(limit))))
            }
            Source::Compressed(_) => Ok(None),
        }
    }

    /// Goes to the last `wanted` messages of what is there now; gives how many there are, `wanted` at most.
    pub fn seek_tail(&mut self, format: Format, wanted: usize) -> io::Result<usize> {
        let (start, found) = match (&self.source, format) {
            (Source::Compressed(_), _) => return self.skip_to_tail(format, wanted),
            (Source::Plain(file), Format::JsonFile) => find_lines(file, file.metadata()?.len(), wanted)?,
            (Source::Plain(file), Format::Local) => find_records(file, file.metadata()?.len(), wanted),
        };
        self.offset = start;
        Ok(found)
    }

    /// What is compressed can only be read forward: once to count, and again.
    fn skip_to_tail(&mut self, format: Format, wanted: usize) -> io::Result<usize> {
        let Source::Compressed(decoder) = &mut self.source else {
            return Ok(0);
        };
        let file = decoder.get_ref().get_ref().try_clone()?;
        let (mut count, mut cutter) = (0, Cutter::new(format));
        loop {
            let block = decompress_block(decoder)?;
            if block.is_empty() {
                break;
            }
            cutter.push(&block, &mut |_| count += 1);
        }
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
        self.source = Source::Compressed(Box::new(GzDecoder::new(BufReader::new(file))));
        let found = wanted.min(count);
        self.skip = count - found;
        Ok(found)
    }
}

fn decompress_block(decoder: &mut GzDecoder<BufReader<File>>) -> io::Result<Vec<u8>> {
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    decoder
        .by_ref()
        .take(BLOCK_BYTES as u64)
        .read_to_end(&mut block)?;
    Ok(block)
}

fn open(path: &Path) -> io::Result<Option<(File, Identity)>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let state = file.metadata()?;
    Ok(Some((file, (state.dev(), state.ino()))))
}

/// Where the last `lines` lines of the first `size` bytes begin, and how many there are (at most `lines`). A last line
/// without its newline is still being written, or torn, and does not count.
fn find_lines(file: &File, size: u64, lines: usize) -> io::Result<(u64, usize)> {
    let mut position = size;
    // The newline that ends the last line is followed by no line.
    let mut newlines = 0;
    let mut last_newline = None;
    while position > 0 {
        let start = position.saturating_sub(BLOCK_BYTES as u64);
        let block = read_at(file, start, (position - start) as usize)?;
        for (index, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            if newlines == lines {
                return Ok((start + index as u64 + 1, lines));
            }
            newlines += 1;
            last_newline.get_or_insert(start + index as u64 + 1);
        }
        position = start;
    }
    Ok((
        if lines == 0 { last_newline.unwrap_or(0) } else { 0 },
        newlines.min(lines),
    ))
}

/// As [`find_lines`], by the lengths that end each record. Where none ends, there is nothing to go back over.
fn find_records(file: &File, size: u64, records: usize) -> (u64, usize) {
    let (mut position, mut found) = (size, 0);
    while found < records
        && let Some(start) = local::last_record(file, position)
    {
        position = start;
        found += 1;
    }
    (position, found)
}

/// The bytes at `offset`: `length` of them, or fewer at the end of the file.
fn read_at(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut block = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut block[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    block.truncate(filled);
    Ok(block)
}
