//! `POST /naru/build`: as `POST /build`, for a client that describes its context before it sends any of it.
//!
//! ```text
//!  client                                            daemon
//!  ?context=KEY&state=DIGEST, the rest as /build ──▶
//!                                                ◀── X-Naru-Context: kept      the build goes on
//!                                                ◀── X-Naru-Context: listing   or this is wanted:
//!  8 bytes of length, listing                    ──▶
//!                                                ◀── {"wanted":[[first,count],…]}
//!  the files that are wanted, in order           ──▶
//!                                                ◀── the build's progress, line by line
//! ```
//! The body is sent while the answer is read. The digest is that of the whole listing, whose form is
//! `naru_build::listing`; a client whose listing cannot stand for its files leaves it out. A daemon that does not know this
//! endpoint answers 404, and is sent an archive.

use super::build::{self, Telling};
use crate::error::{ApiError, ApiResult};
use crate::request::Call;
use crate::respond::{self, Answer, json_line};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use hyper::header::HeaderValue;
use naru_engine::archive::{ChunkReader, Chunks};
use naru_engine::{ContextSource, Engine, EngineError, KeptContext};
use serde_json::json;
use std::io::Read;
use std::sync::Arc;
use tokio::sync::oneshot;

const HEADER: &str = "x-naru-context";

/// Longest listing taken: a million entries of usual names.
const LISTING_BYTES_MAX: u64 = 128 << 20;

/// `POST /naru/build`.
pub async fn build(call: Call) -> ApiResult<Answer> {
    let key = call.query.non_empty("context").map(str::to_owned);
    let key = key.ok_or_else(|| ApiError::invalid("the parameter context is missing"))?;
    let state = call.query.non_empty("state").map(str::parse).transpose();
    let state = state.map_err(|error| ApiError::invalid(format!("invalid state: {error}")))?;
    let request = build::build_request(&call)?;
    let dockerfile = build::given_dockerfile(&call)?;
    let is_quiet = call.query.flag("q");
    let engine = Arc::clone(&call.engine);
    let found = match state {
        Some(state) => {
            let (engine, key) = (Arc::clone(&engine), key.clone());
            on_a_thread(move || Ok(engine.find_kept_context(&key, &state))).await?
        }
        None => None,
    };
    if let Some(context) = found {
        let source = ContextSource::Kept { context, dockerfile };
        let telling = Telling::begin(engine, request, std::future::ready(Ok(source)), is_quiet);
        return Ok(marked(telling.answer().await?, "kept"));
    }
    let (ask, asked) = oneshot::channel();
    let body = crate::upload::chunks(call.body);
    let receiving = receive(Arc::clone(&engine), key, body, ask);
    let source = async move {
        let context = receiving.await?;
        Ok(ContextSource::Kept { context, dockerfile })
    };
    let telling = Telling::begin(engine, request, source, is_quiet);
    // Nobody asks for files where the listing could not be read: the error is the next line.
    let wanted = stream::once(asked).filter_map(async |wanted| wanted.ok().map(Ok));
    let answer = respond::stream(respond::JSON, wanted.chain(telling.lines()));
    Ok(marked(answer, "listing"))
}

fn marked(mut answer: Answer, what: &'static str) -> Answer {
    let headers = answer.headers_mut();
    headers.insert(HEADER, HeaderValue::from_static(what));
    answer
}

async fn receive(
    engine: Arc<Engine>,
    key: String,
    body: Chunks,
    ask: oneshot::Sender<Bytes>,
) -> Result<KeptContext, EngineError> {
    let receiver = Arc::clone(&engine);
    let kept = on_a_thread(move || {
        let mut body = ChunkReader::new(body);
        let listing = read_listing(&mut body)?;
        let update = receiver.update_listed_context(&key, &listing)?;
        let _ = ask.send(json_line(&json!({ "wanted": update.wanted() })));
        update.receive(body)
    })
    .await?;
    // The build need not wait for what only the next one needs.
    tokio::task::spawn_blocking(move || engine.settle_kept_contexts());
    Ok(kept)
}

fn read_listing(body: &mut impl Read) -> Result<Vec<u8>, EngineError> {
    let broken = |error: std::io::Error| EngineError::invalid(format!("the context's listing: {error}"));
    let mut length = [0; 8];
    body.read_exact(&mut length).map_err(broken)?;
    let length = u64::from_le_bytes(length);
    if length > LISTING_BYTES_MAX {
        return Err(EngineError::invalid("the context's listing is too long"));
    }
    let mut listing = Vec::new();
    body.take(length).read_to_end(&mut listing).map_err(broken)?;
    Ok(listing)
}

async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        Err(EngineError::system(format!(
            "the context was not received: {error}"
        )))
    })
}
