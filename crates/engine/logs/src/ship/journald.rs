//! journald's own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): a packet a message, a field a line.

use super::lines::Line;
use super::plan::JournaldPlan;
use crate::entry::Stream;

pub(super) fn encode(plan: &JournaldPlan, line: &Line<'_>) -> Vec<u8> {
    let mut packet = Vec::with_capacity(line.bytes.len() + 512);
    let priority: &[u8] = match line.stream {
        Stream::Stdout => b"6",
        Stream::Stderr => b"3",
    };
    append(&mut packet, "PRIORITY", priority);
    append(&mut packet, "MESSAGE", line.bytes);
    for (name, value) in &plan.fields {
        append(&mut packet, name, value.as_bytes());
    }
    if let Some(part) = &line.part {
        append(&mut packet, "CONTAINER_PARTIAL_ID", part.id.as_bytes());
        append(
            &mut packet,
            "CONTAINER_PARTIAL_ORDINAL",
            part.ordinal.to_string().as_bytes(),
        );
        append(
            &mut packet,
            "CONTAINER_PARTIAL_LAST",
            part.is_last.to_string().as_bytes(),
        );
        if !part.is_last {
            append(&mut packet, "CONTAINER_PARTIAL_MESSAGE", b"true");
        }
    }
    packet
}

/// A value with a newline is told with its length.
fn append(packet: &mut Vec<u8>, name: &str, value: &[u8]) {
    packet.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        packet.push(b'\n');
        packet.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        packet.push(b'=');
    }
    packet.extend_from_slice(value);
    packet.push(b'\n');
}
