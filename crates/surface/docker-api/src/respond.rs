//! Answers: JSON, nothing, a stream.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use naru_docker_wire::types::ErrorResponse;
use serde::{Serialize, Serializer};
use std::io;

pub type Body = UnsyncBoxBody<Bytes, io::Error>;
pub type Answer = Response<Body>;

pub const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

pub fn with_body(status: StatusCode, media_type: HeaderValue, bytes: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(
        Full::new(bytes.into())
            .map_err(|never| match never {})
            .boxed_unsync(),
    );
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    response
}

pub fn json<T: Serialize + ?Sized>(status: StatusCode, value: &T) -> Answer {
    match serde_json::to_vec(value) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            with_body(status, JSON, bytes)
        }
        Err(failure) => error(StatusCode::INTERNAL_SERVER_ERROR, &failure.to_string()),
    }
}

pub fn ok<T: Serialize + ?Sized>(value: &T) -> Answer {
    json(StatusCode::OK, value)
}

/// A list whose entries are made and written one after the other: a long one is never in memory but as its text.
pub fn list<T: Serialize>(entries: impl ExactSizeIterator<Item = T>, entry_bytes: usize) -> Answer {
    let mut bytes = Vec::with_capacity(entries.len() * entry_bytes + 2);
    match serde_json::Serializer::new(&mut bytes).collect_seq(entries) {
        Ok(()) => {
            bytes.push(b'\n');
            with_body(StatusCode::OK, JSON, bytes)
        }
        Err(failure) => error(StatusCode::INTERNAL_SERVER_ERROR, &failure.to_string()),
    }
}

pub fn empty(status: StatusCode) -> Answer {
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

pub fn no_content() -> Answer {
    empty(StatusCode::NO_CONTENT)
}

/// Docker's error object; 304 has no body.
pub fn error(status: StatusCode, message: &str) -> Answer {
    if status == StatusCode::NOT_MODIFIED {
        return empty(status);
    }
    let body = ErrorResponse {
        message: message.to_owned(),
    };
    with_body(status, JSON, serde_json::to_vec(&body).unwrap_or_default())
}

/// A body that is sent as it comes; its head goes out at once.
pub fn stream(
    media_type: HeaderValue,
    chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Answer {
    let body = StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data)));
    let mut response = Response::new(body.boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    response
}

/// One JSON value a line.
pub fn json_line<T: Serialize>(value: &T) -> Bytes {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.extend_from_slice(b"\r\n");
    Bytes::from(bytes)
}
