//! A request, taken apart for its handler.

use crate::agents::Agents;
use crate::error::{ApiError, ApiResult};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, StatusCode};
use naru_buildkit::Builders;
use naru_docker_wire::{ApiVersion, Query};
use naru_engine::Engine;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// A JSON body may be this long; a create request with a custom seccomp profile is some 50 KiB.
const JSON_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Everything a handler needs.
pub struct Call {
    pub engine: Arc<Engine>,
    pub builders: Arc<Builders>,
    pub agents: Arc<Agents>,
    /// What stands for the braces of the route.
    pub name: String,
    pub query: Query,
    pub version: ApiVersion,
    pub headers: HeaderMap,
    pub body: Incoming,
    /// Present when the client asked to leave HTTP.
    pub upgrade: Option<OnUpgrade>,
}

impl Call {
    /// The whole body, up to the limit for JSON.
    pub async fn bytes(&mut self) -> ApiResult<Bytes> {
        let limited = Limited::new(&mut self.body, JSON_BYTES_MAX);
        match limited.collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("request body is longer than {JSON_BYTES_MAX} bytes"),
            )),
            Err(error) => Err(ApiError::invalid(format!(
                "failed to read the request body: {error}"
            ))),
        }
    }

    /// The body, which must be JSON and say so.
    pub async fn json_bytes(&mut self) -> ApiResult<Bytes> {
        let bytes = self.bytes().await?;
        if bytes.is_empty() {
            return Err(ApiError::invalid(
                "invalid JSON: got EOF while reading request body",
            ));
        }
        self.check_media_type()?;
        Ok(bytes)
    }

    pub async fn json<T: DeserializeOwned>(&mut self) -> ApiResult<T> {
        parse_json(&self.json_bytes().await?)
    }

    /// A body that may be left out.
    pub async fn json_or_default<T: DeserializeOwned + Default>(&mut self) -> ApiResult<T> {
        let bytes = self.bytes().await?;
        if bytes.trim_ascii().is_empty() {
            return Ok(T::default());
        }
        self.check_media_type()?;
        parse_json(&bytes)
    }

    fn check_media_type(&self) -> ApiResult<()> {
        let Some(value) = self.headers.get(hyper::header::CONTENT_TYPE) else {
            return Ok(());
        };
        let text = value.to_str().unwrap_or_default();
        let essence = text.split(';').next().unwrap_or_default().trim();
        if essence.is_empty() || essence.eq_ignore_ascii_case("application/json") {
            return Ok(());
        }
        Err(ApiError::invalid(format!(
            "unsupported Content-Type header ({text}): must be 'application/json'"
        )))
    }

    /// A whole number; absent or empty is `None`.
    pub fn integer(&self, key: &str) -> ApiResult<Option<i64>> {
        match self.query.non_empty(key) {
            None => Ok(None),
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|_| ApiError::invalid(format!("invalid value for {key}: {text:?}"))),
        }
    }
}

pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    serde_json::from_slice(bytes).map_err(|error| json_error(&error))
}

/// In Docker's words: `invalid JSON: …`.
pub fn json_error(error: &serde_json::Error) -> ApiError {
    let reason = if error.is_eof() {
        "unexpected end of JSON input".to_owned()
    } else {
        error.to_string()
    };
    ApiError::invalid(format!("invalid JSON: {reason}"))
}
