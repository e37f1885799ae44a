//! Bodies too long to be held: handed on as they arrive.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use naru_engine::archive::Chunks;
use std::io;
use tokio::sync::mpsc;

/// Chunks of an upload in flight; each is what one read of the socket brought.
const CHUNKS_MAX: usize = 16;

/// Read of a body that is not wanted any more, so that its client gets to the answer.
const DROPPED_BYTES_MAX: usize = 256 << 20;

/// The body as chunks; a connection that breaks ends them with an error.
pub fn chunks(body: Incoming) -> Chunks {
    let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
    tokio::spawn(feed(body, sender));
    chunks
}

async fn feed(mut body: Incoming, chunks: mpsc::Sender<io::Result<Bytes>>) {
    let mut dropped_bytes = 0;
    while let Some(frame) = body.frame().await {
        let chunk = match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(data)) => Ok(data),
            Ok(Err(_trailers)) => continue,
            Err(error) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, error)),
        };
        let bytes = chunk.as_ref().map(Bytes::len).ok();
        let is_taken = chunks.send(chunk).await.is_ok();
        match bytes {
            Some(_) if is_taken => {}
            // Nobody reads any more: a client that finds the connection closed while it writes may not read why.
            Some(bytes) if dropped_bytes < DROPPED_BYTES_MAX => dropped_bytes += bytes,
            _ => break,
        }
    }
}
