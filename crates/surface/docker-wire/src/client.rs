//! A client of the Engine API: plain requests, streamed bodies both ways, and hijacked connections.
//!
//! Connections are kept and reused. Errors keep Docker's status and message; this module words nothing for people.

use crate::query::{Query, encode_into};
use crate::routes::Endpoint;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// Longest answer read into memory whole. Listings of thousands of containers stay well below it.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// What goes up with a request.
pub type Body = BoxBody<Bytes, io::Error>;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("unable to parse docker host `{host}`: {reason}")]
    Host { host: String, reason: &'static str },
    /// Nothing listens, or it may not be reached: see `source`'s kind.
    #[error("cannot connect to {}: {source}", socket.display())]
    Connect { socket: PathBuf, source: io::Error },
    #[error("error during connect: {method} {path}: {source}")]
    Transport {
        method: Method,
        path: String,
        source: hyper::Error,
    },
    /// The server refused: Docker's status and message.
    #[error("{message}")]
    Api { status: StatusCode, message: String },
    #[error("the answer to {path} is not what was expected: {reason}")]
    Answer { path: String, reason: String },
}

impl ClientError {
    /// The HTTP status, when it was the server that refused.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Api { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// A connection to one daemon; cheap to make, shared by reference.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    idle: Mutex<Vec<SendRequest<Body>>>,
}

impl Client {
    /// Names the daemon, `unix:///path` or a path; nothing is connected until the first request.
    pub fn connect(host: &str) -> Result<Self, ClientError> {
        let fail = |reason| ClientError::Host {
            host: host.to_owned(),
            reason,
        };
        let socket = match host.split_once("://") {
            None if host.starts_with('/') => host,
            Some(("unix", path)) if path.starts_with('/') => path,
            Some(("unix", _)) => return Err(fail("the socket's path must be absolute")),
            Some(("tcp" | "http" | "https" | "ssh" | "npipe" | "fd", _)) => {
                return Err(fail("only unix:// hosts are supported"));
            }
            _ => return Err(fail("expected unix:///path/to/socket")),
        };
        Ok(Self {
            socket: PathBuf::from(socket),
            idle: Mutex::default(),
        })
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Calls an endpoint of the route table; `name` fills the braces of its pattern.
    pub async fn call(
        &self,
        endpoint: Endpoint,
        name: &str,
        query: &Query,
        body: Body,
    ) -> Result<Response, ClientError> {
        let (method, path) = endpoint.fill(name);
        self.request(method, &path, query, body).await
    }

    /// Calls an endpoint and reads its JSON answer.
    pub async fn call_json<T: DeserializeOwned>(
        &self,
        endpoint: Endpoint,
        name: &str,
        query: &Query,
        body: Body,
    ) -> Result<T, ClientError> {
        self.call(endpoint, name, query, body).await?.json().await
    }

    /// Sends a request to a path without version prefix; an error status becomes [`ClientError::Api`].
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        query: &Query,
        body: Body,
    ) -> Result<Response, ClientError> {
        let request = build_request(&method, path, query, body);
        let (response, sender) = self.send(method, path, request).await?;
        self.keep(sender);
        Response::check(path, response).await
    }

    /// Starts an attach or exec session: the connection leaves HTTP and becomes a plain stream of bytes.
    pub async fn hijack(
        &self,
        endpoint: Endpoint,
        name: &str,
        query: &Query,
        body: Body,
    ) -> Result<Hijacked, ClientError> {
        let (method, path) = endpoint.fill(name);
        let mut request = build_request(&method, &path, query, body);
        request
            .headers_mut()
            .insert(CONNECTION, hyper::header::HeaderValue::from_static("Upgrade"));
        request
            .headers_mut()
            .insert(UPGRADE, hyper::header::HeaderValue::from_static("tcp"));
        let (response, _sender) = self.send(method.clone(), &path, request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let answered = Response::check(&path, response).await?;
            let reason = format!("expected 101 UPGRADED, got {}", answered.status);
            return Err(ClientError::Answer { path, reason });
        }
        let media_type = header_text(&response, CONTENT_TYPE.as_str());
        let upgraded = hyper::upgrade::on(response)
            .await
            .map_err(|source| ClientError::Transport {
                method,
                path: path.clone(),
                source,
            })?;
        let parts = upgraded
            .downcast::<TokioIo<UnixStream>>()
            .map_err(|_| ClientError::Answer {
                path,
                reason: "the connection is not a unix socket".to_owned(),
            })?;
        Ok(Hijacked {
            stream: parts.io.into_inner(),
            buffered: parts.read_buf,
            media_type,
        })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        request: Request<Body>,
    ) -> Result<(hyper::Response<Incoming>, SendRequest<Body>), ClientError> {
        let mut sender = match self.take_idle() {
            Some(sender) => sender,
            None => self.open().await?,
        };
        let failed = |source| ClientError::Transport {
            method: method.clone(),
            path: path.to_owned(),
            source,
        };
        match sender.try_send_request(request).await {
            Ok(response) => Ok((response, sender)),
            Err(mut error) => {
                // The server had closed a kept connection: the request was never seen, so a new one may carry it.
                let Some(request) = error.take_message() else {
                    return Err(failed(error.into_error()));
                };
                let mut sender = self.open().await?;
                let response = sender.send_request(request).await.map_err(failed)?;
                Ok((response, sender))
            }
        }
    }

    async fn open(&self) -> Result<SendRequest<Body>, ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Connect {
                socket: self.socket.clone(),
                source,
            })?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|source| ClientError::Transport {
                    method: Method::CONNECT,
                    path: self.socket.display().to_string(),
                    source,
                })?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    fn take_idle(&self) -> Option<SendRequest<Body>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|sender| !sender.is_closed());
        let index = idle.iter().position(SendRequest::is_ready)?;
        Some(idle.swap_remove(index))
    }

    /// A kept connection is usable again once its last answer has been read to the end.
    fn keep(&self, sender: SendRequest<Body>) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(sender);
    }
}

fn build_request(method: &Method, path: &str, query: &Query, body: Body) -> Request<Body> {
    let mut target = format!("/v{}", crate::API_VERSION);
    encode_into(&mut target, path, b"/:@,+=%");
    if !query.is_empty() {
        target.push('?');
        target.push_str(&query.encode());
    }
    let has_json = hyper::body::Body::size_hint(&body)
        .exact()
        .is_some_and(|bytes| bytes > 0);
    let media_type = if has_json {
        "application/json"
    } else {
        "application/x-tar"
    };
    let mut request = Request::new(body);
    *request.method_mut() = method.clone();
    // Percent encoding leaves nothing that a target may not hold.
    *request.uri_mut() = target.parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(HOST, hyper::header::HeaderValue::from_static("docker"));
    headers.insert(
        hyper::header::USER_AGENT,
        hyper::header::HeaderValue::from_static(concat!("Naru/", env!("CARGO_PKG_VERSION"))),
    );
    if has_json || hyper::body::Body::size_hint(request.body()).exact().is_none() {
        request
            .headers_mut()
            .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(media_type));
    }
    request
}

/// No body.
pub fn empty_body() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// A JSON body. Types that fail to serialise (maps with non-text keys) are not in this API.
pub fn json_body<T: Serialize>(value: &T) -> Body {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    Full::new(Bytes::from(bytes))
        .map_err(|never| match never {})
        .boxed()
}

/// A body read from `reader` as it is sent.
pub fn stream_body<R: AsyncRead + Send + Sync + Unpin + 'static>(reader: R) -> Body {
    StreamBody::new(ReaderFrames {
        reader,
        chunk: vec![0; 64 * 1024],
    })
    .boxed()
}

struct ReaderFrames<R> {
    reader: R,
    chunk: Vec<u8>,
}

impl<R: AsyncRead + Unpin> futures_util::Stream for ReaderFrames<R> {
    type Item = io::Result<Frame<Bytes>>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let mut buffer = ReadBuf::new(&mut this.chunk);
        match Pin::new(&mut this.reader).poll_read(context, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => Poll::Ready(None),
            Poll::Ready(Ok(())) => {
                Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(buffer.filled())))))
            }
        }
    }
}

/// A successful answer whose body is still to be read.
#[derive(Debug)]
pub struct Response {
    pub status: StatusCode,
    pub headers: hyper::HeaderMap,
    path: String,
    body: Incoming,
}

impl Response {
    async fn check(path: &str, response: hyper::Response<Incoming>) -> Result<Self, ClientError> {
        let (parts, body) = response.into_parts();
        let answer = Self {
            status: parts.status,
            headers: parts.headers,
            path: path.to_owned(),
            body,
        };
        if answer.status.is_client_error() || answer.status.is_server_error() {
            return Err(answer.into_error().await);
        }
        Ok(answer)
    }

    async fn into_error(self) -> ClientError {
        #[derive(serde::Deserialize)]
        struct Message {
            message: String,
        }
        let status = self.status;
        let bytes = self.bytes().await.unwrap_or_default();
        let message = match serde_json::from_slice::<Message>(&bytes) {
            Ok(parsed) => parsed.message,
            Err(_) if bytes.is_empty() => format!("the daemon answered {status} without a message"),
            Err(_) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        };
        ClientError::Api { status, message }
    }

    /// The next chunk of the body; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| self.broken(&error))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// The whole body.
    pub async fn bytes(mut self) -> Result<Bytes, ClientError> {
        let mut all: Vec<u8> = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if all.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(ClientError::Answer {
                    path: self.path,
                    reason: "too long".to_owned(),
                });
            }
            all.extend_from_slice(&chunk);
        }
        Ok(Bytes::from(all))
    }

    /// The whole body as JSON.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T, ClientError> {
        let path = self.path.clone();
        let bytes = self.bytes().await?;
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Answer {
            path,
            reason: error.to_string(),
        })
    }

    /// A stream of JSON values, one by one as they arrive (progress, events).
    pub fn json_lines(self) -> JsonLines {
        JsonLines {
            response: self,
            buffer: Vec::new(),
        }
    }

    fn broken(&self, error: &hyper::Error) -> ClientError {
        ClientError::Answer {
            path: self.path.clone(),
            reason: format!("the connection broke: {error}"),
        }
    }
}

/// See [`Response::json_lines`].
#[derive(Debug)]
pub struct JsonLines {
    response: Response,
    buffer: Vec<u8>,
}

impl JsonLines {
    /// The next value; `None` at the end of the stream.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if !line.trim_ascii().is_empty() {
                    return self.parse(&line).map(Some);
                }
            }
            match self.response.chunk().await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None if self.buffer.trim_ascii().is_empty() => return Ok(None),
                None => {
                    let rest = std::mem::take(&mut self.buffer);
                    return self.parse(&rest).map(Some);
                }
            }
        }
    }

    fn parse<T: DeserializeOwned>(&self, line: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(line).map_err(|error| ClientError::Answer {
            path: self.response.path.clone(),
            reason: error.to_string(),
        })
    }
}

/// A connection that has left HTTP. Dropping it closes both directions; `shutdown` of its writing half ends the
/// program's standard input.
#[derive(Debug)]
pub struct Hijacked {
    stream: UnixStream,
    buffered: Bytes,
    /// `application/vnd.docker.raw-stream` for a terminal, `…multiplexed-stream` for frames.
    pub media_type: String,
}

impl Hijacked {
    /// Output comes in Docker's frames.
    pub fn is_multiplexed(&self) -> bool {
        self.media_type == crate::types::MULTIPLEXED_STREAM
    }

    /// The bare socket, and what was read from it already.
    pub fn into_parts(self) -> (UnixStream, Bytes) {
        (self.stream, self.buffered)
    }

    /// Reads everything up to the end of the stream.
    pub async fn read_all(&mut self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        self.read_to_end(&mut all).await?;
        Ok(all)
    }
}

impl AsyncRead for Hijacked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.buffered.is_empty() {
            let length = self.buffered.len().min(target.remaining());
            target.put_slice(&self.buffered.split_to(length));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, target)
    }
}

impl AsyncWrite for Hijacked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

fn header_text(response: &hyper::Response<Incoming>, name: &str) -> String {
    response
        .headers()
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned()
}
