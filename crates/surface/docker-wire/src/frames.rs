//! Docker's multiplexed stream: frames of one stream number, three zero bytes, a big-endian length, and the bytes.

/// Bytes of a frame's header.
const HEADER_BYTES: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    Stdin,
    Stdout,
    Stderr,
}

/// One frame.
pub fn encode(kind: StreamKind, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.extend_from_slice(&[kind as u8, 0, 0, 0]);
    frame.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_carry_stream_and_length() {
        assert_eq!(encode(StreamKind::Stderr, b"ab"), *b"\x02\0\0\0\0\0\0\x02ab");
    }
}
