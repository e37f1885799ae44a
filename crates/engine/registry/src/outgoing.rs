//! A body read from somewhere that blocks, on a thread of its own.

use crate::connection::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Frame;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// One piece; large enough that the channel costs nothing.
const PIECE_BYTES: usize = 128 << 10;
/// Pieces in flight: 1 MiB, the bound on memory.
const PIECES_MAX: usize = 8;

/// Tells how far a body has been sent, and whether its source failed.
#[derive(Debug, Default)]
pub struct Outgoing {
    pub(crate) sent: AtomicU64,
    failure: OnceLock<String>,
}

impl Outgoing {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Bytes taken by the connection so far.
    pub fn bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Why the source could not be read to its end, which is nothing a second try would change.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// A body of what `source` gives after its first `skip` bytes.
    pub fn body(self: &Arc<Self>, source: impl Read + Send + 'static, skip: u64) -> Body {
        let (pieces, received) = mpsc::channel(PIECES_MAX);
        let outgoing = Arc::clone(self);
        tokio::task::spawn_blocking(move || read_pieces(source, skip, &pieces, &outgoing));
        let body = PieceBody {
            pieces: received,
            outgoing: Arc::clone(self),
        };
        body.boxed_unsync()
    }
}

/// Each piece is sent once the one after it could be read, so that of a source that turns out damaged at its end the
/// last piece never leaves.
fn read_pieces(
    mut source: impl Read,
    mut skip: u64,
    pieces: &mpsc::Sender<io::Result<Bytes>>,
    outgoing: &Outgoing,
) {
    let mut held: Option<Bytes> = None;
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let next = source.read(&mut piece).map(|length| {
            piece.truncate(length);
            let skipped = skip.min(length as u64) as usize;
            skip -= skipped as u64;
            (Bytes::from(piece).slice(skipped..), length == 0)
        });
        let (ready, is_last) = match next {
            Ok((piece, is_last)) => (held.replace(piece).map(Ok), is_last),
            Err(error) => {
                outgoing.failure.get_or_init(|| error.to_string());
                (Some(Err(error)), true)
            }
        };
        if let Some(ready) = ready
            && pieces.blocking_send(ready).is_err()
        {
            // Nobody takes more: the request has ended.
            return;
        }
        if is_last {
            return;
        }
    }
}

struct PieceBody {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    outgoing: Arc<Outgoing>,
}

impl hyper::body::Body for PieceBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.pieces.poll_recv(context).map(|piece| {
            piece.map(|piece| {
                let piece = piece?;
                self.outgoing
                    .sent
                    .fetch_add(piece.len() as u64, Ordering::Relaxed);
                Ok(Frame::data(piece))
            })
        })
    }
}
