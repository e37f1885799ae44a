//! `GET /images/get`: images as one archive.

use super::images::{blocking, check_platform};
use crate::error::{ApiError, ApiResult};
use crate::request::Call;
use crate::respond::{self, Answer};
use bytes::Bytes;
use futures_util::stream;
use hyper::header::HeaderValue;
use std::io::{self, BufWriter, Write};
use tokio::sync::mpsc;

/// One piece of the archive on its way.
const PIECE_BYTES: usize = 128 << 10;
/// Pieces in flight: 384 KiB, the bound on memory for a reader that does not read.
const PIECES_MAX: usize = 3;
const TAR: HeaderValue = HeaderValue::from_static("application/x-tar");

pub async fn save(call: Call) -> ApiResult<Answer> {
    let mut names: Vec<String> = call.query.all("names").map(str::to_owned).collect();
    if !call.name.is_empty() {
        names.push(call.name.clone());
    }
    if names.is_empty() {
        return Err(ApiError::invalid("no image to save was named"));
    }
    if call.version.is_at_least(48) {
        for name in &names {
            check_platform(&call, name)?;
        }
    }
    // Naru's own: the files of one image, or its archive under other names than it has.
    if call.query.flag("files") {
        let id = call.engine.images().image(&names[0])?.id.clone();
        let attested = if call.query.flag("attested") {
            call.engine.attested_files(&id).await?
        } else {
            Vec::new()
        };
        let files = call.engine.export_image(&id, attested).await?;
        return Ok(respond::stream(TAR, chunks_body(files)));
    }
    // And the cache of the build that made it.
    if let Some(mode) = call.query.non_empty("cache") {
        let id = call.engine.images().image(&names[0])?.id.clone();
        let cache = call
            .engine
            .export_cache(&id, mode == "max", call.query.flag("cache-mounts"))?;
        return Ok(respond::stream(TAR, chunks_body(cache)));
    }
    let others: Vec<String> = call.query.all("as").map(str::to_owned).collect();
    if !others.is_empty() {
        let id = call.engine.images().image(&names[0])?.id.clone();
        let archive = call.engine.save_built(&id, &others)?;
        return Ok(respond::stream(TAR, chunks_body(archive)));
    }
    let engine = call.engine.clone();
    let plan = blocking(move || Ok(engine.images().plan_save(&names)?)).await?;
    let (pieces, received) = mpsc::channel(PIECES_MAX);
    let engine = call.engine;
    tokio::task::spawn_blocking(move || {
        let mut output = BufWriter::with_capacity(PIECE_BYTES, PieceWriter(pieces.clone()));
        let saved = engine.save_images(&plan, &mut output);
        let flushed = output.flush();
        let failure = match (saved, flushed) {
            (Err(error), _) => io::Error::other(error.message),
            (Ok(()), Err(error)) => error,
            (Ok(()), Ok(())) => return,
        };
        // The head is gone out as a success; a body that breaks off is what tells the client.
        tracing::warn!(error = %failure, "images could not be saved to their end");
        let _ = pieces.blocking_send(Err(failure));
    });
    Ok(respond::stream(TAR, chunks_body(received)))
}

fn chunks_body(
    received: mpsc::Receiver<io::Result<Bytes>>,
) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::unfold(received, |mut received| async move {
        received.recv().await.map(|piece| (piece, received))
    })
}

struct PieceWriter(mpsc::Sender<io::Result<Bytes>>);

impl Write for PieceWriter {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(piece)));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
