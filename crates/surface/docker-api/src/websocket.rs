//! A process's streams over a WebSocket (RFC 6455), for browsers: what Docker has as `attach/ws`.
//!
//! Messages either way are bytes of the process's input and output, in no frames of Docker's own. It decides nothing
//! about the process; closing the socket ends its input.

use crate::error::{ApiError, ApiResult};
use crate::respond::{self, Answer};
use base64::Engine as _;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{HeaderMap, StatusCode};
use hyper_util::rt::TokioIo;
use naru_docker_wire::frames::Unframer;
use naru_engine::AttachStream;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::Error as WebSocketError;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// One read; as much as a pipe holds.
const CHUNK_BYTES: usize = 64 * 1024;

/// The longest message a client may send: keystrokes are short, and a message is held until it is whole.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// RFC 6455, section 1.3.
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A client's wish to go on in WebSocket's messages, found to be one.
pub struct Handshake {
    upgrade: OnUpgrade,
    accept: HeaderValue,
}

impl Handshake {
    pub fn read(headers: &HeaderMap, upgrade: Option<OnUpgrade>) -> ApiResult<Self> {
        let text = |name| {
            headers
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
        };
        let is_websocket = text(UPGRADE).is_some_and(|value| value.eq_ignore_ascii_case("websocket"));
        let (Some(upgrade), true, Some(key)) = (upgrade, is_websocket, text(SEC_WEBSOCKET_KEY)) else {
            return Err(ApiError::invalid(
                "this endpoint speaks WebSocket: the request lacks `Upgrade: websocket` or Sec-WebSocket-Key",
            ));
        };
        if text(SEC_WEBSOCKET_VERSION) != Some("13") {
            return Err(ApiError::invalid("Sec-WebSocket-Version must be 13"));
        }
        let accept = HeaderValue::from_str(&accept_key(key.trim()))
            .map_err(|error| ApiError::invalid(error.to_string()))?;
        Ok(Self { upgrade, accept })
    }
}

/// What proves that a server understood the handshake (RFC 6455, section 4.2.2).
fn accept_key(key: &str) -> String {
    let digest = Sha1::new().chain_update(key).chain_update(ACCEPT_GUID).finalize();
    base64::engine::general_purpose::STANDARD.encode(digest)
}

/// Answers the handshake and carries messages from then on.
pub fn carry(handshake: Handshake, is_text: bool, attached: AttachStream) -> Answer {
    let upgrade = handshake.upgrade;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => exchange(upgraded, is_text, attached).await,
            Err(error) => tracing::debug!(%error, "a client left before its connection was handed over"),
        }
    });
    let mut response = respond::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, handshake.accept);
    response
}

/// Ends when the process's output does, or when the client closes.
async fn exchange(upgraded: Upgraded, is_text: bool, attached: AttachStream) {
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(limits)).await;
    let (mut to_client, mut from_client) = socket.split();
    let mut unframer = (!attached.terminal).then(Unframer::default);
    let mut plain = move |bytes: Vec<u8>| match &mut unframer {
        Some(unframer) => unframer.take(&bytes),
        None => bytes,
    };
    let replay = plain(attached.replay);
    if !replay.is_empty() && to_client.send(message(replay, is_text)).await.is_err() {
        return;
    }
    if let Some(process) = attached.socket {
        let (mut from_process, mut to_process) = process.into_split();
        let output = async {
            let mut chunk = vec![0; CHUNK_BYTES];
            while let Ok(length @ 1..) = from_process.read(&mut chunk).await {
                let bytes = plain(chunk[..length].to_vec());
                if !bytes.is_empty() {
                    to_client.send(message(bytes, is_text)).await?;
                }
            }
            Ok::<_, WebSocketError>(())
        };
        let input = async {
            while let Some(Ok(message)) = from_client.next().await {
                let bytes = match message {
                    Message::Binary(bytes) => bytes,
                    Message::Text(text) => Bytes::from(text),
                    Message::Close(_) => break,
                    _ => continue,
                };
                // A process that has closed its input may still have output.
                if to_process.write_all(&bytes).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            to_process.shutdown().await.ok();
        };
        tokio::select! {
            ended = output => if let Err(error) = ended { tracing::debug!(%error, "a WebSocket broke") },
            () = input => {}
        }
    }
    // The client may be gone already.
    to_client.close().await.ok();
}

/// API 1.27 and older had text, in which what is no UTF-8 cannot be told.
fn message(bytes: Vec<u8>, is_text: bool) -> Message {
    if is_text {
        Message::Text(Utf8Bytes::from(String::from_utf8_lossy(&bytes).into_owned()))
    } else {
        Message::Binary(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rfc_s_own_key_is_accepted() {
        assert_eq!(
            accept_key("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }
}
