//! HTTP: connections, versions, the common headers, and a wall around each request.

use crate::agents::Agents;
use crate::connection::{ClientStream, Connection, Protocol};
use crate::error::ApiError;
use crate::handlers;
use crate::metrics::action_of;
use crate::request::Call;
use crate::respond::{self, Answer};
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use naru_buildkit::Builders;
use naru_docker_wire::routes::{self, Matched};
use naru_docker_wire::{API_VERSION, API_VERSION_MIN, ApiVersion, Query};
use naru_engine::Engine;
use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// How long to rest when no connection can be accepted, typically for want of file descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a shutdown waits for requests in flight; waits and followed logs have no end of their own.
const DRAIN: Duration = Duration::from_millis(500);

/// What requests are made of: one for all sockets of a daemon.
#[derive(Clone)]
pub struct Api {
    pub engine: Arc<Engine>,
    /// A build may come over another socket than its session.
    pub builders: Arc<Builders>,
    /// Lent by clients of builds.
    pub agents: Arc<Agents>,
}

/// How many requests one HTTP/2 connection may have in work at once, those it has given up included: giving up costs the
/// client nothing, and what a handler began it finishes. What comes beyond waits.
const STREAMS_MAX: usize = 100;

/// All headers of one request over HTTP/2; hyper's bound for HTTP/1.1 is of the same order.
const HEADER_BYTES_MAX: u32 = 64 * 1024;

/// What is kept of an answer over HTTP/2 for a client that does not read.
const STREAM_BUFFER_BYTES: usize = 64 * 1024;

/// Serves the API on this socket until `shutdown` resolves; requests in flight get a moment to finish.
pub async fn serve(api: Api, listener: UnixListener, shutdown: impl Future<Output = ()>) {
    let connections = Connections::new(api);
    let take = |(stream, _)| connections.serve(ClientStream::Unix(stream));
    accept_until(shutdown, |context| listener.poll_accept(context), take).await;
    drop(listener);
    connections.end().await;
}

/// Takes clients in until `shutdown` resolves.
pub async fn accept_until<S>(
    shutdown: impl Future<Output = ()>,
    mut accept: impl FnMut(&mut Context<'_>) -> Poll<std::io::Result<S>>,
    mut take: impl FnMut(S),
) {
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => return,
            accepted = poll_fn(&mut accept) => accepted,
        };
        match accepted {
            Ok(client) => take(client),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The connections of one socket.
#[derive(Clone)]
pub struct Connections {
    api: Api,
    stop: Arc<watch::Sender<bool>>,
}

impl Connections {
    pub fn new(api: Api) -> Self {
        Self {
            api,
            stop: Arc::new(watch::Sender::new(false)),
        }
    }

    /// Serves this client in a task of its own.
    pub fn serve(&self, stream: ClientStream) {
        tokio::spawn(serve_connection(self.api.clone(), stream, self.stop.subscribe()));
    }

    /// Lets requests in flight finish, for a moment.
    pub async fn end(self) {
        self.stop.send_replace(true);
        let _ = tokio::time::timeout(DRAIN, self.stop.closed()).await;
    }
}

async fn serve_connection(api: Api, stream: ClientStream, mut stopping: watch::Receiver<bool>) {
    let opened = tokio::select! {
        opened = Connection::open(stream) => opened,
        () = stopped(&mut stopping) => return,
    };
    let ended = match opened {
        Ok((connection, Protocol::Http1)) => serve_http1(api, connection, stopping).await,
        Ok((connection, Protocol::Http2)) => serve_http2(api, connection, stopping).await,
        Err(error) => return tracing::debug!(%error, "connection ended before it began"),
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// An error means the sender is gone, which is a stop too. The guard must not live across an await.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    drop(stopping.wait_for(|stop| *stop).await);
}

async fn serve_http1(
    api: Api,
    connection: Connection,
    mut stopping: watch::Receiver<bool>,
) -> hyper::Result<()> {
    let service = service_fn(move |request| answer(api.clone(), request, None));
    let connection = http1::Builder::new()
        .max_headers(200)
        .serve_connection(TokioIo::new(connection), service)
        .with_upgrades();
    tokio::pin!(connection);
    tokio::select! {
        ended = &mut connection => ended,
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}

async fn serve_http2(
    api: Api,
    connection: Connection,
    mut stopping: watch::Receiver<bool>,
) -> hyper::Result<()> {
    let in_work = Arc::new(Semaphore::new(STREAMS_MAX));
    let service = service_fn(move |request| answer_in_turn(api.clone(), in_work.clone(), request));
    let connection = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(STREAMS_MAX as u32)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_send_buf_size(STREAM_BUFFER_BYTES)
        .serve_connection(TokioIo::new(connection), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = &mut connection => ended,
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}

async fn answer_in_turn(
    api: Api,
    in_work: Arc<Semaphore>,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    // It is never closed.
    let turn = in_work.acquire_owned().await.ok();
    answer(api, request, turn).await
}

/// Never fails: whatever happens inside becomes an answer.
async fn answer(
    api: Api,
    request: Request<Incoming>,
    turn: Option<OwnedSemaphorePermit>,
) -> Result<Answer, Infallible> {
    let mut response = match prepare(api, request) {
        Ok((matched, call)) => run(matched, call, turn).await,
        Err(Refused::Error(error)) => respond::error(error.status, &error.message),
        Err(Refused::VersionTooOld(message)) => {
            respond::with_body(StatusCode::BAD_REQUEST, respond::TEXT, message)
        }
    };
    add_common_headers(&mut response);
    Ok(response)
}

/// Runs the handler in a task of its own: a panic stays in it, and what it began it finishes without its client.
async fn run(matched: Matched, call: Call, turn: Option<OwnedSemaphorePermit>) -> Answer {
    let endpoint = matched.endpoint;
    let (begun, engine) = (std::time::Instant::now(), Arc::clone(&call.engine));
    let handled = async move {
        let answer = handlers::dispatch(endpoint, call).await;
        drop(turn);
        answer
    };
    match tokio::spawn(handled).await {
        Ok(Ok(response)) => {
            if let Some(action) = action_of(endpoint) {
                engine.metrics().note_action(action, begun.elapsed());
            }
            response
        }
        Ok(Err(error)) => {
            if error.status == StatusCode::INTERNAL_SERVER_ERROR {
                tracing::warn!(
                    ?endpoint,
                    status = error.status.as_u16(),
                    message = error.message,
                    "request failed"
                );
            }
            respond::error(error.status, &error.message)
        }
        Err(error) => {
            tracing::error!(?endpoint, %error, "a handler did not finish");
            respond::error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal error: the request could not be completed",
            )
        }
    }
}

/// A request that no handler sees.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    Error(ApiError),
    /// Told as plain text: the error object came with 1.24, and such a client would not know it.
    VersionTooOld(String),
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::Error(error)
    }
}

fn prepare(api: Api, mut request: Request<Incoming>) -> Result<(Matched, Call), Refused> {
    let mut matched = routes::find(request.method(), request.uri().path())
        .ok_or_else(|| ApiError::not_found("page not found"))?;
    let version = negotiate(matched.version)?;
    let wants_upgrade = request.headers().contains_key(header::UPGRADE);
    let upgrade = wants_upgrade.then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().map(Query::parse).unwrap_or_default();
    let name = std::mem::take(&mut matched.name);
    Ok((
        matched,
        Call {
            engine: api.engine,
            builders: api.builders,
            agents: api.agents,
            name,
            query,
            version,
            headers: parts.headers,
            body,
            upgrade,
        },
    ))
}

fn negotiate(asked: Option<ApiVersion>) -> Result<ApiVersion, Refused> {
    let Some(version) = asked else {
        return Ok(API_VERSION);
    };
    if version > API_VERSION {
        let message =
            format!("client version {version} is too new. Maximum supported API version is {API_VERSION}");
        return Err(ApiError::invalid(message).into());
    }
    if version < API_VERSION_MIN {
        return Err(Refused::VersionTooOld(format!(
            "client version {version} is too old. Minimum supported API version is {API_VERSION_MIN}, please upgrade \
             your client to a newer version"
        )));
    }
    Ok(version)
}

fn add_common_headers(response: &mut Answer) {
    const API_VERSION_TEXT: HeaderValue = HeaderValue::from_static("1.51");
    const SERVER: HeaderValue =
        HeaderValue::from_static(concat!("Naru/", env!("CARGO_PKG_VERSION"), " (linux)"));
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static("api-version"), API_VERSION_TEXT);
    headers.insert(
        HeaderName::from_static("docker-experimental"),
        HeaderValue::from_static("false"),
    );
    headers.insert(
        HeaderName::from_static("ostype"),
        HeaderValue::from_static("linux"),
    );
    headers.insert(header::SERVER, SERVER);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_negotiated_in_dockers_words() {
        assert_eq!(negotiate(None), Ok(API_VERSION));
        assert_eq!(API_VERSION.to_string(), "1.51", "the header is written by hand");
        let refused = |version: &str| negotiate(version.parse().ok()).unwrap_err();
        let too_new = "client version 1.99 is too new. Maximum supported API version is 1.51";
        assert_eq!(refused("1.99"), Refused::Error(ApiError::invalid(too_new)));
        assert!(matches!(
            refused("1.12"),
            Refused::VersionTooOld(message)
                if message.starts_with("client version 1.12 is too old. Minimum supported API version is 1.24")
        ));
    }
}
