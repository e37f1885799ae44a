//! GELF 1.1: a JSON object a message; over UDP compressed and cut into chunks, over TCP ended by a zero byte.

use super::lines::Line;
use super::plan::{Address, Compression, GelfPlan};
use crate::entry::Stream;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::{Map, Value};
use std::io::Write;

/// A packet's size, its head included (go-gelf's `ChunkSize`).
const CHUNK_BYTES: usize = 1420;
/// Magic, id, number and count of chunks.
const CHUNK_HEAD_BYTES: usize = 12;
/// More the specification does not allow.
const CHUNKS_MAX: usize = 128;

pub(super) fn encode(plan: &GelfPlan, line: &Line<'_>) -> Vec<Vec<u8>> {
    // The specification wants a message; Docker leaves empty lines out.
    if line.bytes.is_empty() {
        return Vec::new();
    }
    let mut object = describe(plan, line).to_string().into_bytes();
    if !matches!(plan.address, Address::Udp(_)) {
        object.push(0);
        return vec![object];
    }
    let packed = compress(&object, plan.compression).unwrap_or(object);
    if packed.len() <= CHUNK_BYTES {
        return vec![packed];
    }
    cut(&packed)
}

fn describe(plan: &GelfPlan, line: &Line<'_>) -> Value {
    let mut object = Map::new();
    let mut set = |name: &str, value: Value| object.insert(name.to_owned(), value);
    set("version", "1.1".into());
    set("host", plan.hostname.as_str().into());
    set("short_message", String::from_utf8_lossy(line.bytes).into());
    // Milliseconds, as Docker has them.
    let milliseconds = (line.time.as_nanosecond() / 1_000_000) as f64;
    set("timestamp", (milliseconds / 1000.0).into());
    set(
        "level",
        match line.stream {
            Stream::Stdout => 6,
            Stream::Stderr => 3,
        }
        .into(),
    );
    for (name, value) in &plan.fields {
        set(name, value.as_str().into());
    }
    Value::Object(object)
}

fn compress(bytes: &[u8], compression: Compression) -> std::io::Result<Vec<u8>> {
    let level = |level: i8| {
        u32::try_from(level).map_or_else(|_| flate2::Compression::default(), flate2::Compression::new)
    };
    match compression {
        Compression::None => Ok(bytes.to_vec()),
        Compression::Gzip { level: wanted } => {
            let mut encoder = GzEncoder::new(Vec::new(), level(wanted));
            encoder.write_all(bytes)?;
            encoder.finish()
        }
        Compression::Zlib { level: wanted } => {
            let mut encoder = ZlibEncoder::new(Vec::new(), level(wanted));
            encoder.write_all(bytes)?;
            encoder.finish()
        }
    }
}

/// A message that does not fit is not sent at all: a part of it nobody could read.
fn cut(packed: &[u8]) -> Vec<Vec<u8>> {
    let pieces: Vec<&[u8]> = packed.chunks(CHUNK_BYTES - CHUNK_HEAD_BYTES).collect();
    let Some(count) = u8::try_from(pieces.len())
        .ok()
        .filter(|count| usize::from(*count) <= CHUNKS_MAX)
    else {
        return Vec::new();
    };
    let name = naru_base::ContainerId::generate();
    let id = &name.as_str().as_bytes()[..8];
    let head = |number: u8| [&[0x1e, 0x0f], id, &[number, count]].concat();
    (0..)
        .zip(pieces)
        .map(|(number, piece)| [head(number).as_slice(), piece].concat())
        .collect()
}
