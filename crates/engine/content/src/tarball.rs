//! Reads tar archives as a stream: v7, ustar, GNU (long names, sparse) and PAX.
//!
//! It only decodes. Names come out as the archive has them, however hostile; see `unpack` for what becomes of them.
//! Every byte that is not the content of a plain file can be handed to a [`Tap`], which is how a layer's archive is
//! kept reproducible bit for bit without keeping its files twice.

use crate::error::LayerError;
use std::io::BufRead;

pub(crate) const BLOCK_BYTES: usize = 512;
/// Limit on one extended header: Go's, which Docker inherits.
const EXTENDED_BYTES_MAX: u64 = 1 << 20;
/// What may follow the end marker. GNU tar pads to 10 KiB, some writers to 1 MiB; beyond that it is a bomb.
const TRAILING_BYTES_MAX: u64 = 64 << 20;
/// Data segments in one sparse file; a bound on memory.
const SPARSE_SEGMENTS_MAX: usize = 1 << 20;

/// Receives the bytes of an archive that are not content of plain files.
pub trait Tap {
    fn raw(&mut self, bytes: &[u8]) -> Result<(), LayerError>;
}

/// Receives nothing.
#[derive(Debug)]
pub struct NoTap;

impl Tap for NoTap {
    fn raw(&mut self, _bytes: &[u8]) -> Result<(), LayerError> {
        Ok(())
    }
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    File,
    HardLink,
    Symlink,
    CharacterDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// One member of an archive.
#[derive(Debug, Clone)]
pub struct Entry {
    pub kind: EntryKind,
    pub name: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: (i64, u32),
    /// Size of the file once unpacked.
    pub bytes: u64,
    pub device: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Offset and length of each data segment of a sparse file, in the archive's order.
    pub sparse: Option<Vec<(u64, u64)>>,
}

/// What PAX and GNU headers say about the entry that follows them.
#[derive(Default)]
struct Overrides {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    bytes: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse_name: Option<Vec<u8>>,
    sparse_bytes: Option<u64>,
    sparse_numbers: Option<Vec<u64>>,
    sparse_major: u64,
}

/// An archive being read, entry by entry.
#[derive(Debug)]
pub struct TarReader<R, T> {
    input: R,
    pub(crate) tap: T,
    /// Content of the current entry not read yet, as it is in the archive.
    remaining: u64,
    padding: usize,
    is_done: bool,
}

impl<R: BufRead, T: Tap> TarReader<R, T> {
    pub fn new(input: R, tap: T) -> Self {
        Self {
            input,
            tap,
            remaining: 0,
            padding: 0,
            is_done: false,
        }
    }

    /// Skips what is left of the current entry and decodes the next; `None` at the end of the archive, after
    /// everything behind the end marker was read too.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, LayerError> {
        let mut overrides = Overrides::default();
        loop {
            self.finish_entry()?;
            let Some(header) = self.read_header()? else {
                return Ok(None);
            };
            let bytes = parse_number(&header[124..136])?;
            match header[156] {
                b'x' => parse_pax(&self.read_extended(bytes)?, &mut overrides)?,
                b'g' => drop(self.read_extended(bytes)?),
                b'L' => overrides.name = Some(until_nul(&self.read_extended(bytes)?).to_vec()),
                b'K' => overrides.link = Some(until_nul(&self.read_extended(bytes)?).to_vec()),
                flag => return self.build_entry(&header, flag, bytes, overrides).map(Some),
            }
        }
    }

    /// The next piece of the current entry's content; empty at its end. Follow with [`Self::consume`].
    pub fn content(&mut self) -> Result<&[u8], LayerError> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let buffer = self.input.fill_buf().map_err(LayerError::Read)?;
        if buffer.is_empty() {
            return Err(LayerError::Truncated);
        }
        let length = buffer
            .len()
            .min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        Ok(&buffer[..length])
    }

    /// Passes over what has been used of the piece.
    pub fn consume(&mut self, length: usize) {
        self.input.consume(length);
        self.remaining -= length as u64;
    }

    /// Fills `target` from the current entry's content and hands it to the tap.
    pub(crate) fn read_tapped(&mut self, target: &mut [u8]) -> Result<(), LayerError> {
        let mut filled = 0;
        while filled < target.len() {
            let piece = self.content()?;
            if piece.is_empty() {
                return Err(LayerError::Corrupt(
                    "an entry is shorter than its own map".to_owned(),
                ));
            }
            let length = piece.len().min(target.len() - filled);
            target[filled..filled + length].copy_from_slice(&piece[..length]);
            self.consume(length);
            filled += length;
        }
        self.tap.raw(target)
    }

    /// Bytes of the current entry's content still to be read.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    fn finish_entry(&mut self) -> Result<(), LayerError> {
        while self.remaining > 0 {
            let buffer = self.input.fill_buf().map_err(LayerError::Read)?;
            if buffer.is_empty() {
                return Err(LayerError::Truncated);
            }
            let length = buffer
                .len()
                .min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
            self.tap.raw(&buffer[..length])?;
            self.consume(length);
        }
        let mut block = [0; BLOCK_BYTES];
        let padding = std::mem::take(&mut self.padding);
        // Some writers leave out the padding of the very last entry; Go's reader accepts that, and so does this.
        let length = self.fill(&mut block[..padding])?;
        self.tap.raw(&block[..length])
    }

    /// Reads until `target` is full or the input ends; returns how much it read.
    fn fill(&mut self, target: &mut [u8]) -> Result<usize, LayerError> {
        let mut filled = 0;
        while filled < target.len() {
            let buffer = self.input.fill_buf().map_err(LayerError::Read)?;
            if buffer.is_empty() {
                break;
            }
            let length = buffer.len().min(target.len() - filled);
            target[filled..filled + length].copy_from_slice(&buffer[..length]);
            self.input.consume(length);
            filled += length;
        }
        Ok(filled)
    }

    fn read_block(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>, LayerError> {
        let mut block = [0; BLOCK_BYTES];
        let length = self.fill(&mut block)?;
        self.tap.raw(&block[..length])?;
        match length {
            0 => Ok(None),
            BLOCK_BYTES => Ok(Some(block)),
            _ => Err(LayerError::Truncated),
        }
    }

    fn read_header(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>, LayerError> {
        if self.is_done {
            return Ok(None);
        }
        let Some(block) = self.read_block()? else {
            self.is_done = true;
            return Ok(None);
        };
        if block.iter().all(|b| *b == 0) {
            self.is_done = true;
            self.read_trailing()?;
            return Ok(None);
        }
        if !has_valid_checksum(&block) {
            return Err(LayerError::Corrupt("a header's checksum is wrong".to_owned()));
        }
        Ok(Some(block))
    }

    fn read_trailing(&mut self) -> Result<(), LayerError> {
        let mut total = 0;
        loop {
            let buffer = self.input.fill_buf().map_err(LayerError::Read)?;
            if buffer.is_empty() {
                return Ok(());
            }
            let length = buffer.len();
            total += length as u64;
            if total > TRAILING_BYTES_MAX {
                return Err(LayerError::TooMany("bytes after the end of the archive"));
            }
            self.tap.raw(buffer)?;
            self.input.consume(length);
        }
    }

    fn read_extended(&mut self, bytes: u64) -> Result<Vec<u8>, LayerError> {
        if bytes > EXTENDED_BYTES_MAX {
            return Err(LayerError::TooMany("bytes in an extended header"));
        }
        self.set_content(bytes);
        let mut data = vec![0; bytes as usize];
        self.read_tapped(&mut data)?;
        Ok(data)
    }

    fn set_content(&mut self, bytes: u64) {
        self.remaining = bytes;
        self.padding = (BLOCK_BYTES - (bytes % BLOCK_BYTES as u64) as usize) % BLOCK_BYTES;
    }

    fn build_entry(
        &mut self,
        header: &[u8; BLOCK_BYTES],
        flag: u8,
        bytes: u64,
        overrides: Overrides,
    ) -> Result<Entry, LayerError> {
        let name = overrides
            .sparse_name
            .clone()
            .or(overrides.name.clone())
            .unwrap_or_else(|| header_name(header));
        let kind = entry_kind(flag, &name)?;
        let stored = if kind == EntryKind::File {
            overrides.bytes.unwrap_or(bytes)
        } else {
            0
        };
        let mut entry = Entry {
            kind,
            name,
            link: overrides
                .link
                .clone()
                .unwrap_or_else(|| until_nul(&header[157..257]).to_vec()),
            mode: parse_number(&header[100..108])? as u32 & 0o7777,
            uid: overrides
                .uid
                .map_or_else(|| parse_number(&header[108..116]), Ok)?,
            gid: overrides
                .gid
                .map_or_else(|| parse_number(&header[116..124]), Ok)?,
            mtime: overrides
                .mtime
                .map_or_else(|| parse_signed(&header[136..148]).map(|s| (s, 0)), Ok)?,
            bytes: stored,
            device: (0, 0),
            xattrs: overrides.xattrs.clone(),
            sparse: None,
        };
        if matches!(kind, EntryKind::CharacterDevice | EntryKind::BlockDevice) {
            let number = |field: &[u8]| -> Result<u32, LayerError> {
                u32::try_from(parse_number(field)?).map_err(|_| corrupt("a device number is too large"))
            };
            entry.device = (number(&header[329..337])?, number(&header[337..345])?);
        }
        let gnu_map = if flag == b'S' {
            Some(self.read_gnu_sparse(header)?)
        } else {
            None
        };
        self.set_content(stored);
        if let Some((map, real_bytes)) = gnu_map {
            entry.sparse = Some(map);
            entry.bytes = real_bytes;
        } else if kind == EntryKind::File {
            self.read_pax_sparse(&mut entry, &overrides)?;
        }
        self.check_sparse(&entry)?;
        Ok(entry)
    }

    /// The map in an old GNU sparse header and its extension blocks, and the file's real size.
    fn read_gnu_sparse(&mut self, header: &[u8]) -> Result<(Vec<(u64, u64)>, u64), LayerError> {
        let mut map = Vec::new();
        push_gnu_segments(&header[386..482], &mut map)?;
        let real_bytes = parse_number(&header[483..495])?;
        let mut is_extended = header[482] != 0;
        while is_extended {
            let block = self.read_block()?.ok_or(LayerError::Truncated)?;
            push_gnu_segments(&block[..504], &mut map)?;
            is_extended = block[504] != 0;
            if map.len() > SPARSE_SEGMENTS_MAX {
                return Err(LayerError::TooMany("segments in a sparse file"));
            }
        }
        Ok((map, real_bytes))
    }

    fn read_pax_sparse(&mut self, entry: &mut Entry, overrides: &Overrides) -> Result<(), LayerError> {
        let numbers = if overrides.sparse_major == 1 {
            Some(self.read_sparse_map()?)
        } else {
            overrides.sparse_numbers.clone()
        };
        let Some(numbers) = numbers else { return Ok(()) };
        if numbers.len() % 2 != 0 {
            return Err(corrupt("a sparse map is incomplete"));
        }
        entry.bytes = overrides
            .sparse_bytes
            .ok_or_else(|| corrupt("a sparse file has no size"))?;
        entry.sparse = Some(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect());
        Ok(())
    }

    /// The map of PAX sparse format 1.0: decimal lines at the start of the content, padded to a block.
    fn read_sparse_map(&mut self) -> Result<Vec<u64>, LayerError> {
        let mut numbers = Vec::new();
        let mut line = Vec::new();
        let mut expected = None;
        loop {
            let mut block = [0; BLOCK_BYTES];
            self.read_tapped(&mut block)?;
            for byte in block {
                if byte != b'\n' {
                    line.push(byte);
                    continue;
                }
                let number = parse_decimal(&std::mem::take(&mut line))?;
                match expected {
                    None if number > SPARSE_SEGMENTS_MAX as u64 => {
                        return Err(LayerError::TooMany("segments in a sparse file"));
                    }
                    None => expected = Some(number as usize * 2),
                    Some(_) => numbers.push(number),
                }
                if expected == Some(numbers.len()) {
                    return Ok(numbers);
                }
            }
            if line.len() > 32 {
                return Err(corrupt("a sparse map is not numbers"));
            }
        }
    }

    fn check_sparse(&self, entry: &Entry) -> Result<(), LayerError> {
        let Some(map) = &entry.sparse else { return Ok(()) };
        let mut end = 0_u64;
        let mut stored = 0_u64;
        for (offset, length) in map {
            if *offset < end {
                return Err(corrupt("a sparse map overlaps itself"));
            }
            end = offset
                .checked_add(*length)
                .ok_or_else(|| corrupt("a sparse map overflows"))?;
            stored += length;
        }
        if end > entry.bytes || stored > self.remaining {
            return Err(corrupt("a sparse map is larger than its file"));
        }
        Ok(())
    }
}

fn corrupt(text: &str) -> LayerError {
    LayerError::Corrupt(text.to_owned())
}

fn entry_kind(flag: u8, name: &[u8]) -> Result<EntryKind, LayerError> {
    Ok(match flag {
        0 if name.ends_with(b"/") => EntryKind::Directory,
        0 | b'0' | b'7' | b'S' => EntryKind::File,
        b'1' => EntryKind::HardLink,
        b'2' => EntryKind::Symlink,
        b'3' => EntryKind::CharacterDevice,
        b'4' => EntryKind::BlockDevice,
        b'5' => EntryKind::Directory,
        b'6' => EntryKind::Fifo,
        other => {
            return Err(LayerError::EntryType(
                String::from_utf8_lossy(name).into_owned(),
                other as char,
            ));
        }
    })
}

/// Whether a block can be a tar header: its checksum, summed unsigned or (as old Suns did) signed, is right.
pub(crate) fn has_valid_checksum(block: &[u8]) -> bool {
    let Ok(stated) = parse_number(&block[148..156]) else {
        return false;
    };
    let is_sum = |index: usize| (148..156).contains(&index);
    let unsigned: u64 = block
        .iter()
        .enumerate()
        .map(|(i, b)| if is_sum(i) { 32 } else { u64::from(*b) })
        .sum();
    let signed: i64 = block
        .iter()
        .enumerate()
        .map(|(i, b)| if is_sum(i) { 32 } else { i64::from(*b as i8) })
        .sum();
    stated == unsigned || i64::try_from(stated) == Ok(signed)
}

fn until_nul(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|b| *b == 0).unwrap_or(field.len())]
}

fn header_name(header: &[u8; BLOCK_BYTES]) -> Vec<u8> {
    let name = until_nul(&header[..100]);
    let prefix = if &header[257..263] == b"ustar\0" {
        until_nul(&header[345..500])
    } else {
        &[]
    };
    if prefix.is_empty() {
        name.to_vec()
    } else {
        [prefix, b"/", name].concat()
    }
}

/// An octal field, or a base-256 one (GNU), that is not negative.
fn parse_number(field: &[u8]) -> Result<u64, LayerError> {
    u64::try_from(parse_signed(field)?).map_err(|_| corrupt("a number in a header is negative"))
}

fn parse_signed(field: &[u8]) -> Result<i64, LayerError> {
    let wrong = || corrupt("a number in a header is wrong");
    if field[0] & 0x80 != 0 {
        // Base 256: two's complement, big endian, with the marker in the top bit.
        let is_negative = field[0] & 0x40 != 0;
        let mut value: i128 = if is_negative { -1 } else { 0 };
        for (index, byte) in field.iter().enumerate() {
            let byte = if index == 0 && !is_negative {
                byte & 0x7f
            } else {
                *byte
            };
            value = (value << 8) | i128::from(byte);
        }
        return i64::try_from(value).map_err(|_| wrong());
    }
    let text: &[u8] = until_nul(field).trim_ascii();
    text.iter().try_fold(0_i64, |value, byte| match byte {
        b'0'..=b'7' => value
            .checked_mul(8)
            .and_then(|v| v.checked_add(i64::from(byte - b'0')))
            .ok_or_else(wrong),
        _ => Err(wrong()),
    })
}

fn parse_decimal(text: &[u8]) -> Result<u64, LayerError> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .ok_or_else(|| corrupt("a number in an extended header is wrong"))
}

/// `seconds[.fraction]`, perhaps negative.
fn parse_time(text: &[u8]) -> Result<(i64, u32), LayerError> {
    let wrong = || corrupt("a time in an extended header is wrong");
    let text = std::str::from_utf8(text).map_err(|_| wrong())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| wrong())?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanoseconds: u32 = digits.parse().map_err(|_| wrong())?;
    if text.starts_with('-') && nanoseconds > 0 {
        return Ok((seconds.saturating_sub(1), 1_000_000_000 - nanoseconds));
    }
    Ok((seconds, nanoseconds))
}

fn push_gnu_segments(area: &[u8], map: &mut Vec<(u64, u64)>) -> Result<(), LayerError> {
    for pair in area.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        map.push((parse_number(&pair[..12])?, parse_number(&pair[12..])?));
    }
    Ok(())
}

/// Reads PAX records: `<length> <key>=<value>\n`, the length counting itself.
fn parse_pax(mut data: &[u8], overrides: &mut Overrides) -> Result<(), LayerError> {
    while !data.is_empty() && data[0] != 0 {
        let space = data
            .iter()
            .position(|b| *b == b' ')
            .ok_or_else(|| corrupt("a PAX record has no length"))?;
        let length = usize::try_from(parse_decimal(&data[..space])?).unwrap_or(usize::MAX);
        if length > data.len() || length <= space + 1 || data[length - 1] != b'\n' {
            return Err(corrupt("a PAX record has a wrong length"));
        }
        let record = &data[space + 1..length - 1];
        let equals = record
            .iter()
            .position(|b| *b == b'=')
            .ok_or_else(|| corrupt("a PAX record has no key"))?;
        apply_pax(&record[..equals], &record[equals + 1..], overrides)?;
        data = &data[length..];
    }
    Ok(())
}

fn apply_pax(key: &[u8], value: &[u8], overrides: &mut Overrides) -> Result<(), LayerError> {
    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
        overrides.xattrs.push((name.to_vec(), value.to_vec()));
        return Ok(());
    }
    // An empty value takes back what an earlier header said.
    let has_value = !value.is_empty();
    let text = || has_value.then(|| value.to_vec());
    let number = || {
        if has_value {
            parse_decimal(value).map(Some)
        } else {
            Ok(None)
        }
    };
    match key {
        b"path" => overrides.name = text(),
        b"linkpath" => overrides.link = text(),
        b"size" => overrides.bytes = number()?,
        b"uid" => overrides.uid = number()?,
        b"gid" => overrides.gid = number()?,
        b"mtime" if has_value => overrides.mtime = Some(parse_time(value)?),
        b"GNU.sparse.name" => overrides.sparse_name = text(),
        b"GNU.sparse.size" | b"GNU.sparse.realsize" => overrides.sparse_bytes = number()?,
        b"GNU.sparse.major" => overrides.sparse_major = number()?.unwrap_or(0),
        b"GNU.sparse.map" => {
            let numbers: Result<Vec<u64>, _> = value.split(|b| *b == b',').map(parse_decimal).collect();
            overrides.sparse_numbers = Some(numbers?);
        }
        b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
            overrides
                .sparse_numbers
                .get_or_insert_default()
                .push(parse_decimal(value)?);
        }
        _ => {}
    }
    Ok(())
}
