//! fluentd's forward protocol, message mode: `[tag, time, record, option]` in MessagePack.

use super::lines::Line;
use super::msgpack;
use super::plan::{FluentdPlan, Message};
use std::sync::atomic::{AtomicU32, Ordering};

/// Tells the messages of one keeper apart.
static ORDINAL: AtomicU32 = AtomicU32::new(0);

pub(super) fn encode(plan: &FluentdPlan, line: &Line<'_>) -> Message {
    let mut out = Vec::with_capacity(line.bytes.len() + 512);
    msgpack::array(&mut out, 4);
    msgpack::string(&mut out, plan.tag.as_bytes());
    let seconds = line.time.as_second().max(0);
    if plan.is_precise {
        let nanoseconds = line.time.as_nanosecond().rem_euclid(1_000_000_000);
        msgpack::event_time(&mut out, seconds as u32, nanoseconds as u32);
    } else {
        msgpack::unsigned(&mut out, seconds as u64);
    }
    let part = line.part.as_ref();
    let of_part = part.map_or(0, |part| if part.is_last { 3 } else { 4 });
    msgpack::map(&mut out, plan.fields.len() + 2 + of_part);
    let mut field = |name: &str, value: &[u8]| {
        msgpack::string(&mut out, name.as_bytes());
        msgpack::string(&mut out, value);
    };
    for (name, value) in &plan.fields {
        field(name, value.as_bytes());
    }
    field("source", line.stream.name().as_bytes());
    field("log", line.bytes);
    if let Some(part) = part {
        if !part.is_last {
            field("partial_message", b"true");
        }
        field("partial_id", part.id.as_bytes());
        field("partial_ordinal", part.ordinal.to_string().as_bytes());
        field("partial_last", part.is_last.to_string().as_bytes());
    }
    let chunk = plan.asks_for_ack.then(|| new_chunk(line));
    msgpack::map(&mut out, usize::from(chunk.is_some()));
    if let Some(chunk) = &chunk {
        msgpack::string(&mut out, b"chunk");
        msgpack::string(&mut out, chunk.as_bytes());
    }
    Message { bytes: out, chunk }
}

/// As long as the 128 bits that the protocol wants, and not had by another message.
fn new_chunk(line: &Line<'_>) -> String {
    let nanoseconds = line.time.as_nanosecond() as u64;
    let ordinal = ORDINAL.fetch_add(1, Ordering::Relaxed);
    format!("{nanoseconds:016x}{:08x}{ordinal:08x}", std::process::id())
}
