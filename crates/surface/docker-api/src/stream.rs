//! Hijacked connections: bytes between a client and a process, with each side's end passed on.

use crate::connection::{ClientStream, Connection};
use crate::respond::{self, Answer};
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use naru_docker_wire::ApiVersion;
use naru_docker_wire::types::{MULTIPLEXED_STREAM, RAW_STREAM};
use naru_engine::AttachStream;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

/// One read; as much as a pipe holds.
const CHUNK_BYTES: usize = 64 * 1024;

/// The media type of a stream to this client.
pub fn media_type(version: ApiVersion, is_terminal: bool) -> HeaderValue {
    if version.is_at_least(42) && !is_terminal {
        HeaderValue::from_static(MULTIPLEXED_STREAM)
    } else {
        HeaderValue::from_static(RAW_STREAM)
    }
}

/// Hands the connection over to the process: by `101 UPGRADED` where the client asked, else as the body of a `200`.
pub fn hijack(upgrade: Option<OnUpgrade>, version: ApiVersion, attached: AttachStream) -> Answer {
    match upgrade {
        Some(upgrade) => hijack_then(upgrade, version, attached.terminal, std::future::ready(attached)),
        None => output_only(version, attached),
    }
}

/// Leaves HTTP first and begins what the connection is for then.
pub fn hijack_then(
    upgrade: OnUpgrade,
    version: ApiVersion,
    is_terminal: bool,
    attached: impl Future<Output = AttachStream> + Send + 'static,
) -> Answer {
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => copy(upgraded, attached.await).await,
            Err(error) => tracing::debug!(%error, "a client left before its connection was handed over"),
        }
    });
    let mut response = switched();
    let kind = media_type(version, is_terminal);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// The connection is a raw stream from here on.
pub fn switched() -> Answer {
    let mut response = respond::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
    response
}

/// A client that did not ask to leave HTTP can be sent output, but has no way to send input.
pub fn output_only(version: ApiVersion, attached: AttachStream) -> Answer {
    let media_type = media_type(version, attached.terminal);
    let replay =
        futures_util::stream::iter((!attached.replay.is_empty()).then(|| Ok(Bytes::from(attached.replay))));
    let live = futures_util::stream::unfold(attached.socket, |socket| async move {
        let mut socket = socket?;
        let mut chunk = bytes::BytesMut::with_capacity(CHUNK_BYTES);
        match socket.read_buf(&mut chunk).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some((Ok(chunk.freeze()), Some(socket))),
        }
    });
    respond::stream(media_type, futures_util::StreamExt::chain(replay, live))
}

async fn copy(upgraded: Upgraded, attached: AttachStream) {
    let Ok(parts) = upgraded.downcast::<TokioIo<Connection>>() else {
        tracing::error!("a hijacked connection is none of a client's own");
        return;
    };
    let (client, unread) = parts.io.into_inner().into_parts();
    let typed_ahead = [parts.read_buf, unread].concat();
    let copied = match client {
        ClientStream::Unix(mut client) => {
            wait_until_read(&client).await;
            let (from_client, to_client) = client.split();
            copy_both(from_client, to_client, &typed_ahead, attached).await
        }
        ClientStream::Tls(client) => {
            let (from_client, to_client) = tokio::io::split(client);
            copy_both(from_client, to_client, &typed_ahead, attached).await
        }
    };
    if let Err(error) = copied {
        tracing::debug!(%error, "an attached stream broke");
    }
}

/// Ends when the process's output does; a client that only ended its input still gets all output.
async fn copy_both(
    mut from_client: impl AsyncRead + Unpin,
    mut to_client: impl AsyncWrite + Unpin,
    typed_ahead: &[u8],
    attached: AttachStream,
) -> io::Result<()> {
    to_client.write_all(&attached.replay).await?;
    to_client.flush().await?;
    let Some(mut process) = attached.socket else {
        return to_client.shutdown().await;
    };
    let (mut from_process, mut to_process) = process.split();
    let output = async {
        let copied = pump(&mut from_process, &mut to_client).await;
        to_client.shutdown().await.ok();
        copied
    };
    let input = async {
        let copied = match to_process.write_all(typed_ahead).await {
            Ok(()) => pump(&mut from_client, &mut to_process).await,
            Err(error) => Err(error),
        };
        to_process.shutdown().await.ok();
        if let Err(error) = copied {
            tracing::debug!(%error, "input ended early");
        }
        // The output decides when the session is over.
        std::future::pending::<()>().await;
    };
    let copied = tokio::select! {
        copied = output => copied,
        () = input => Ok(()),
    };
    let _ = tokio::time::timeout(LAST_WORDS, discard(&mut from_client)).await;
    copied
}

/// How long a client may take to hang up once it has been told that all is over.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Reads to the end what nobody wants any more: a socket closed over unread bytes tells the client of a broken
/// connection instead of an end.
async fn discard(from_client: &mut (impl AsyncRead + Unpin)) {
    let mut chunk = [0; 4096];
    while matches!(from_client.read(&mut chunk).await, Ok(length) if length > 0) {}
}

/// How often, a millisecond apart, to look whether the client has read the answer's head.
const HEAD_READ_TRIES: usize = 50;

/// Some clients, Docker's SDK for Python among them, lose bytes that arrive together with the answer's head: they read
/// it through a buffer and go on below it. So the first bytes wait, within bounds, until the head has been taken.
async fn wait_until_read(client: &UnixStream) {
    for _ in 0..HEAD_READ_TRIES {
        match naru_sys::socket::unread_bytes(client.as_fd()) {
            Ok(0) | Err(_) => return,
            Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

async fn pump(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let length = match from.read(&mut chunk).await {
            // A keeper that ends leaves unread what was typed after the end.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            read => read?,
        };
        if length == 0 {
            return Ok(());
        }
        to.write_all(&chunk[..length]).await?;
        to.flush().await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attach(socket: Option<UnixStream>) -> AttachStream {
        AttachStream {
            replay: b"before ".to_vec(),
            socket,
            terminal: false,
        }
    }

    async fn serve(client: &mut UnixStream, typed_ahead: &[u8], attached: AttachStream) -> io::Result<()> {
        let (from_client, to_client) = client.split();
        copy_both(from_client, to_client, typed_ahead, attached).await
    }

    #[tokio::test]
    async fn half_close_ends_input_but_not_output() {
        let (mut client, mut server) = UnixStream::pair().unwrap();
        let (ours, mut process) = UnixStream::pair().unwrap();
        let session = tokio::spawn(async move { serve(&mut server, b"early ", attach(Some(ours))).await });
        client.write_all(b"input").await.unwrap();
        client.shutdown().await.unwrap();
        let mut input = String::new();
        process.read_to_string(&mut input).await.unwrap();
        assert_eq!(input, "early input");
        process.write_all(b"output").await.unwrap();
        drop(process);
        let mut output = String::new();
        client.read_to_string(&mut output).await.unwrap();
        assert_eq!(output, "before output");
        session.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn process_end_closes_a_client_that_never_does() {
        let (mut client, mut server) = UnixStream::pair().unwrap();
        let (ours, process) = UnixStream::pair().unwrap();
        let session = tokio::spawn(async move { serve(&mut server, b"", attach(Some(ours))).await });
        drop(process);
        let mut output = Vec::new();
        client.read_to_end(&mut output).await.unwrap();
        session.await.unwrap().unwrap();
    }
}
