//! Cuts output into messages as Docker's copier does: lines without their ends, long ones in numbered pieces.

use crate::entry::Stream;
use naru_base::Timestamp;

/// Longest message (`defaultBufSize` of Docker's copier).
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub stream: Stream,
    /// Without the newline.
    pub bytes: &'a [u8],
    pub time: Timestamp,
    /// Of a line too long for one message.
    pub part: Option<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// The same for all pieces of one line.
    pub id: String,
    /// From 1.
    pub ordinal: u32,
    pub is_last: bool,
}

/// The beginnings of lines whose ends have not come, of stdout and stderr.
#[derive(Debug, Default)]
pub(super) struct LineCutter {
    open: [Open; 2],
}

#[derive(Debug, Default)]
struct Open {
    bytes: Vec<u8>,
    /// Name of the line and pieces that have gone already.
    pieces: Option<(String, u32)>,
}

impl LineCutter {
    pub fn cut(&mut self, stream: Stream, mut bytes: &[u8], time: Timestamp, take: &mut dyn FnMut(Line<'_>)) {
        let open = &mut self.open[usize::from(stream == Stream::Stderr)];
        while !bytes.is_empty() {
            let room = MESSAGE_BYTES_MAX - open.bytes.len();
            let window = &bytes[..bytes.len().min(room)];
            if let Some(end) = window.iter().position(|&byte| byte == b'\n') {
                open.bytes.extend_from_slice(&window[..end]);
                bytes = &bytes[end + 1..];
                open.hand_on(stream, time, true, take);
            } else {
                open.bytes.extend_from_slice(window);
                bytes = &bytes[window.len()..];
                if open.bytes.len() == MESSAGE_BYTES_MAX {
                    open.hand_on(stream, time, false, take);
                }
            }
        }
    }

    /// Hands on what has no end: to Docker that is a piece of which the last is still to come.
    pub fn finish(&mut self, time: Timestamp, take: &mut dyn FnMut(Line<'_>)) {
        for (open, stream) in self.open.iter_mut().zip([Stream::Stdout, Stream::Stderr]) {
            if !open.bytes.is_empty() {
                open.hand_on(stream, time, false, take);
            }
        }
    }
}

impl Open {
    fn hand_on(&mut self, stream: Stream, time: Timestamp, is_end: bool, take: &mut dyn FnMut(Line<'_>)) {
        let part = if is_end {
            self.pieces.take().map(|(id, gone)| Part {
                id,
                ordinal: gone + 1,
                is_last: true,
            })
        } else {
            let (id, gone) = self
                .pieces
                .get_or_insert_with(|| (naru_base::ContainerId::generate().to_string(), 0));
            *gone += 1;
            Some(Part {
                id: id.clone(),
                ordinal: *gone,
                is_last: false,
            })
        };
        let bytes = std::mem::take(&mut self.bytes);
        take(Line {
            stream,
            bytes: &bytes,
            time,
            part,
        });
    }
}
