//! Docker's multiplexed stream: frames of one stream number, three zero bytes, a big-endian length, and the bytes.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    Stdin,
    Stdout,
    Stderr,
    /// An error of the daemon's own.
    System,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unrecognized stream number {0} in a multiplexed stream")]
pub struct FrameError(pub u8);

/// Takes frames out of a stream of bytes. A frame longer than what has arrived is handed out in parts, so memory stays
/// bounded whatever length a header claims.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: BytesMut,
    current: Option<(StreamKind, usize)>,
}

impl FrameDecoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next piece of output, or `None` until more bytes are pushed.
    pub fn next_piece(&mut self) -> Result<Option<(StreamKind, Bytes)>, FrameError> {
        loop {
            if let Some((kind, left)) = self
                .current
                .take_if(|(_, left)| *left == 0 || !self.buffer.is_empty())
            {
                if left == 0 {
                    continue;
                }
                let piece = self.buffer.split_to(left.min(self.buffer.len())).freeze();
                self.current = Some((kind, left - piece.len()));
                return Ok(Some((kind, piece)));
            }
            if self.current.is_some() || self.buffer.len() < HEADER_BYTES {
                return Ok(None);
            }
            let kind = match self.buffer[0] {
                0 => StreamKind::Stdin,
                1 => StreamKind::Stdout,
                2 => StreamKind::Stderr,
                3 => StreamKind::System,
                other => return Err(FrameError(other)),
            };
            self.buffer.advance(4);
            self.current = Some((kind, self.buffer.get_u32() as usize));
        }
    }
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
    fn frames_split_anywhere_decode_the_same() {
        let mut bytes = encode(StreamKind::Stdout, b"hello ");
        bytes.extend(encode(StreamKind::Stdout, b""));
        bytes.extend(encode(StreamKind::Stderr, b"world"));
        for step in 1..bytes.len() {
            let mut decoder = FrameDecoder::default();
            let (mut out, mut err) = (Vec::new(), Vec::new());
            for chunk in bytes.chunks(step) {
                decoder.push(chunk);
                while let Some((kind, piece)) = decoder.next_piece().unwrap() {
                    if kind == StreamKind::Stdout {
                        out.extend(piece);
                    } else {
                        err.extend(piece);
                    }
                }
            }
            assert_eq!(
                (out.as_slice(), err.as_slice()),
                (&b"hello "[..], &b"world"[..]),
                "step {step}"
            );
        }
    }

    #[test]
    fn unknown_stream_numbers_are_refused() {
        let mut decoder = FrameDecoder::default();
        decoder.push(b"HTTP/1.1");
        assert_eq!(decoder.next_piece(), Err(FrameError(b'H')));
    }
}
