//! HTTP to one host: connections, time limits, and failures told apart.

use crate::Result;
use crate::certificates::{client_config, no_config};
use crate::endpoint::{Endpoint, RegistryOptions};
use crate::error::RegistryError;
use crate::proxy::{Way, plan_way};
use bytes::{Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderValue, PROXY_AUTHORIZATION, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What is sent.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Longest text of a failure that is read.
const ERROR_BYTES_MAX: u64 = 64 << 10;
/// The most a registry may ask to be left alone.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
/// Naru's name, as servers log it.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("naru/", env!("CARGO_PKG_VERSION")));

#[derive(Debug)]
pub(crate) struct Connection {
    client: Client<HttpsConnector<Way>, Body>,
    /// For a proxy that requests are sent to.
    proxy_authorization: Option<HeaderValue>,
    pub host: String,
    timeout: Duration,
}

/// A body of these bytes.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

impl Connection {
    /// Prepares connections; the first request makes one.
    pub(crate) fn new(options: &RegistryOptions, endpoint: &Endpoint) -> Result<Self> {
        let config = if endpoint.is_tls {
            client_config(options, endpoint)?
        } else {
            no_config().map_err(|error| RegistryError::Tls {
                host: endpoint.host.clone(),
                reason: error.to_string(),
            })?
        };
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(options.timeout));
        let (connector, proxy_authorization) = plan_way(options, endpoint, connector);
        let builder = HttpsConnectorBuilder::new().with_tls_config(config);
        let connector = if endpoint.is_tls {
            builder.https_only().enable_http1().wrap_connector(connector)
        } else {
            builder.https_or_http().enable_http1().wrap_connector(connector)
        };
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            proxy_authorization,
            host: endpoint.host.clone(),
            timeout: options.timeout,
        })
    }

    /// Sends a request and awaits the head of the answer.
    pub(crate) async fn send(&self, request: Request<Body>, what: &str) -> Result<Response<Incoming>> {
        self.send_watched(request, what, &AtomicU64::new(0)).await
    }

    /// As [`Connection::send`], for a long body: time counts from when `sent` last changed.
    pub(crate) async fn send_watched(
        &self,
        mut request: Request<Body>,
        what: &str,
        sent: &AtomicU64,
    ) -> Result<Response<Incoming>> {
        request.headers_mut().insert(USER_AGENT, AGENT);
        if let Some(value) = &self.proxy_authorization {
            request.headers_mut().insert(PROXY_AUTHORIZATION, value.clone());
        }
        let mut answer = std::pin::pin!(self.client.request(request));
        let mut seen = sent.load(Ordering::Relaxed);
        loop {
            match tokio::time::timeout(self.timeout, &mut answer).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => return Err(self.classify(&error, what)),
                Err(_) if sent.load(Ordering::Relaxed) == seen => return Err(self.timed_out(what)),
                Err(_) => seen = sent.load(Ordering::Relaxed),
            }
        }
    }

    fn timed_out(&self, what: &str) -> RegistryError {
        RegistryError::Timeout {
            host: self.host.clone(),
            what: what.to_owned(),
            seconds: self.timeout.as_secs(),
        }
    }

    fn classify(&self, error: &hyper_util::client::legacy::Error, what: &str) -> RegistryError {
        let (host, reason) = (self.host.clone(), innermost(error));
        if !error.is_connect() {
            let what = what.to_owned();
            return RegistryError::Broken { host, what, reason };
        }
        if is_tls_failure(error) {
            return RegistryError::Tls { host, reason };
        }
        RegistryError::Connect { host, reason }
    }

    pub(crate) fn broken(&self, what: &str, error: &(dyn Error + 'static)) -> RegistryError {
        RegistryError::Broken {
            host: self.host.clone(),
            what: what.to_owned(),
            reason: innermost(error),
        }
    }

    /// The next piece of a body; `None` at its end.
    pub(crate) async fn next_piece(&self, body: &mut Incoming, what: &str) -> Result<Option<Bytes>> {
        loop {
            match tokio::time::timeout(self.timeout, body.frame()).await {
                Err(_) => return Err(self.timed_out(what)),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(self.broken(what, &error)),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// A whole body, which must not be longer than so many bytes.
    pub(crate) async fn read_all(&self, mut body: Incoming, bytes_max: u64, what: &str) -> Result<Bytes> {
        let mut all = BytesMut::new();
        while let Some(piece) = self.next_piece(&mut body, what).await? {
            if all.len() as u64 + piece.len() as u64 > bytes_max {
                return Err(RegistryError::Unexpected {
                    host: self.host.clone(),
                    what: what.to_owned(),
                    reason: format!("it is longer than {bytes_max} bytes"),
                });
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    /// Turns an answer that is no success into what it means.
    pub(crate) async fn failure(&self, response: Response<Incoming>, what: &str) -> RegistryError {
        let status = response.status();
        let retry_after = retry_after(&response);
        let text = self.read_all(response.into_body(), ERROR_BYTES_MAX, what).await;
        let reason = error_text(&text.unwrap_or_default(), status);
        let (host, what) = (self.host.clone(), what.to_owned());
        match status {
            StatusCode::UNAUTHORIZED => RegistryError::Unauthorized { host, what, reason },
            StatusCode::FORBIDDEN => RegistryError::Denied { host, what, reason },
            StatusCode::NOT_FOUND => RegistryError::NotFound { what, reason },
            StatusCode::TOO_MANY_REQUESTS => RegistryError::TooManyRequests { host, retry_after },
            _ if status.is_server_error() => RegistryError::Server {
                host,
                what,
                status: status.as_u16(),
                reason,
            },
            _ => RegistryError::Unexpected {
                host,
                what,
                reason: format!("status {}: {reason}", status.as_u16()),
            },
        }
    }
}

/// What an error was made of. An `io::Error` hides the error it holds from `source`.
fn cause_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    match held {
        Some(held) => Some(held),
        None => error.source(),
    }
}

/// The last cause of an error, which is the one that tells something.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(cause) = cause_of(error) {
        error = cause;
    }
    error.to_string()
}

fn is_tls_failure(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<rustls::Error>() {
            return true;
        }
        next = cause_of(error);
    }
    false
}

fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    let text = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    let seconds = text.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// The messages of the distribution specification's error body; else what the status is called.
fn error_text(body: &[u8], status: StatusCode) -> String {
    #[derive(Deserialize)]
    struct Errors {
        #[serde(default)]
        errors: Vec<One>,
        #[serde(default)]
        details: String,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let mut texts: Vec<String> = Vec::new();
    if let Ok(errors) = serde_json::from_slice::<Errors>(body) {
        let words = |one: One| match (one.code.to_lowercase().replace('_', " "), one.message) {
            (code, message) if code.is_empty() => message,
            (code, message) if message.is_empty() => code,
            (code, message) => format!("{code}: {message}"),
        };
        texts.extend(errors.errors.into_iter().map(words));
        texts.extend(Some(errors.details).filter(|text| !text.is_empty()));
    }
    if texts.is_empty() {
        return status
            .canonical_reason()
            .unwrap_or("no reason given")
            .to_lowercase();
    }
    texts.join(", ")
}

/// Where a `Location` points, seen from where it was given.
pub(crate) fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return location.parse().ok();
    }
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    if let Some(rest) = location.strip_prefix("//") {
        return format!("{scheme}://{rest}").parse().ok();
    }
    let path = if location.starts_with('/') {
        location.to_owned()
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{folder}/{location}")
    };
    format!("{scheme}://{authority}{path}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_resolve_against_where_they_were_given() {
        let base: Uri = "https://a:5000/v2/x/blobs/uploads/".parse().unwrap();
        for (location, expected) in [
            ("https://b/y?z=1", "https://b/y?z=1"),
            ("/v2/y?z=1", "https://a:5000/v2/y?z=1"),
            ("id-1", "https://a:5000/v2/x/blobs/uploads/id-1"),
            ("//c/y", "https://c/y"),
        ] {
            assert_eq!(resolve(&base, location).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn registries_own_words_are_passed_on() {
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}}]}"#;
        assert_eq!(
            error_text(body, StatusCode::NOT_FOUND),
            "manifest unknown: manifest unknown"
        );
        assert_eq!(error_text(b"<html>", StatusCode::BAD_GATEWAY), "bad gateway");
    }
}
