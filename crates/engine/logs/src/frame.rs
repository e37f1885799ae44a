//! Entries as `docker logs` sends them.

use crate::entry::Entry;

/// What a client of the log is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameStyle {
    /// The container has a terminal: bytes go out as they are, without frames.
    pub terminal: bool,
    /// Each message starts with its time and a space.
    pub timestamps: bool,
    /// Before each message, with a space, even when it is empty, as Docker does.
    pub details: Option<String>,
}

/// Appends one entry: raw, or in a frame of stream number, three zero bytes and the length as big-endian u32.
pub fn append_frame(out: &mut Vec<u8>, entry: &Entry, style: &FrameStyle) {
    let mut prefix = String::new();
    if style.timestamps {
        prefix = format!("{} ", entry.time);
    }
    if let Some(details) = &style.details {
        prefix = prefix + details + " ";
    }
    if !style.terminal {
        out.extend_from_slice(&[entry.stream.number(), 0, 0, 0]);
        out.extend_from_slice(&((prefix.len() + entry.bytes.len()) as u32).to_be_bytes());
    }
    out.extend_from_slice(prefix.as_bytes());
    out.extend_from_slice(&entry.bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stream;

    #[test]
    fn frames_carry_stream_and_length() {
        let time = "2026-01-02T03:04:05.000000006Z";
        let entry = Entry {
            stream: Stream::Stderr,
            time: time.parse().unwrap(),
            bytes: b"hi\n".to_vec(),
        };
        let mut out = Vec::new();
        append_frame(
            &mut out,
            &entry,
            &FrameStyle {
                terminal: false,
                timestamps: false,
                details: None,
            },
        );
        assert_eq!(out, b"\x02\0\0\0\0\0\0\x03hi\n");
        out.clear();
        append_frame(
            &mut out,
            &entry,
            &FrameStyle {
                terminal: true,
                timestamps: true,
                details: Some("a=b".to_owned()),
            },
        );
        assert_eq!(out, format!("{time} a=b hi\n").as_bytes());
    }
}
