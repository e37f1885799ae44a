//! Bodies too long to be held: handed on as they arrive.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use naru_engine::archive::Chunks;
use std::io;
use tokio::sync::mpsc;

/// Chunks of an upload in flight; each is what one read of the socket brought.
const CHUNKS_MAX: usize = 16;

/// The body as chunks; a connection that breaks ends them with an error.
pub fn chunks(body: Incoming) -> Chunks {
    let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
    tokio::spawn(feed(body, sender));
    chunks
}

async fn feed(mut body: Incoming, chunks: mpsc::Sender<io::Result<Bytes>>) {
    while let Some(frame) = body.frame().await {
        let chunk = match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(data)) => Ok(data),
            Ok(Err(_trailers)) => continue,
            Err(error) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, error)),
        };
        let is_broken = chunk.is_err();
        // Nobody reads any more: what is left is read and dropped, so that the client gets its answer.
        if chunks.send(chunk).await.is_err() || is_broken {
            break;
        }
    }
}
