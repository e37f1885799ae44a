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

/// Takes the frames away from a stream that comes in pieces cut anywhere.
#[derive(Debug, Default)]
pub struct Unframer {
    header: Vec<u8>,
    /// Bytes of the current frame that are yet to come.
    left: usize,
}

impl Unframer {
    /// The payload in the next piece.
    pub fn take(&mut self, mut piece: &[u8]) -> Vec<u8> {
        let mut payload = Vec::with_capacity(piece.len());
        while !piece.is_empty() {
            if self.left == 0 {
                let length = piece.len().min(HEADER_BYTES - self.header.len());
                self.header.extend_from_slice(&piece[..length]);
                piece = &piece[length..];
                if let [_, _, _, _, length @ ..] = self.header.as_slice()
                    && let Ok(length) = <[u8; 4]>::try_from(length)
                {
                    self.left = u32::from_be_bytes(length) as usize;
                    self.header.clear();
                }
                continue;
            }
            let length = piece.len().min(self.left);
            payload.extend_from_slice(&piece[..length]);
            self.left -= length;
            piece = &piece[length..];
        }
        payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_carry_stream_and_length() {
        assert_eq!(encode(StreamKind::Stderr, b"ab"), *b"\x02\0\0\0\0\0\0\x02ab");
    }

    #[test]
    fn frames_are_taken_away_wherever_they_are_cut() {
        let mut stream = encode(StreamKind::Stdout, b"one ");
        stream.extend(encode(StreamKind::Stderr, b""));
        stream.extend(encode(StreamKind::Stderr, b"two"));
        for size in 1..=stream.len() {
            let mut unframer = Unframer::default();
            let payload: Vec<u8> = stream
                .chunks(size)
                .flat_map(|piece| unframer.take(piece))
                .collect();
            assert_eq!(payload, b"one two", "pieces of {size}");
        }
    }
}
