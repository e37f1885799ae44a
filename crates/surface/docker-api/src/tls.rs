//! The API over TCP, for those alone who show a certificate of the CA that the daemon was given.
//!
//! ```text
//!  accept ─▶ first byte ─▶ handshake, client's certificate ─▶ HTTP as on a unix socket
//!               │                 │
//!               └ plain HTTP: 400 └ no certificate, another CA, expired: a TLS alert, then closed
//! ```
//! Until it has shown its certificate a client is nobody: it gets a bounded time, one of a bounded number of places, and
//! no request of it is read. It never listens without asking for a certificate: whoever reaches the API is root.

use crate::connection::ClientStream;
use crate::server::{Api, Connections, accept_until};
use naru_tls::PemError;
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// From the connection to the last message of the handshake; an honest client needs a few round trips.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Handshakes under way at once. One more ends the oldest: an honest one is over long before its turn comes.
const HANDSHAKES_MAX: usize = 128;

/// How long a client that was turned away may take to read why, and how much of what it sends is read meanwhile: a
/// socket closed over unread bytes would tell it of a broken connection instead.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(1);
const FAREWELL_BYTES_MAX: u64 = 64 * 1024;

/// What TLS begins with: a record that holds a message of the handshake (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// Go's answer, which Docker's clients know.
const PLAIN_HTTP: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// Where the daemon's certificate is, its key, and the CA of those who may speak to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {what} {source}; name another with {option}")]
    Unreadable {
        what: &'static str,
        option: &'static str,
        source: PemError,
    },
    #[error("{}: {reason}", path.display())]
    Unusable { path: PathBuf, reason: String },
}

/// Files that were read and fit each other.
#[derive(Clone)]
pub struct Tls(Arc<ServerConfig>);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let unusable = |path: &Path| {
            let path = path.to_path_buf();
            move |error: &dyn std::fmt::Display| TlsError::Unusable {
                path,
                reason: error.to_string(),
            }
        };
        let unreadable = |what, option| move |source| TlsError::Unreadable { what, option, source };
        let no_authority = unreadable("the CA certificate", "--tlscacert");
        let authorities = naru_tls::read_certificates(&files.ca).map_err(no_authority)?;
        let mut roots = RootCertStore::empty();
        naru_tls::add_roots(&mut roots, &files.ca.display().to_string(), &authorities)
            .map_err(no_authority)?;
        let chain = naru_tls::read_certificates(&files.certificate)
            .map_err(unreadable("the certificate", "--tlscert"))?;
        let key = naru_tls::read_key(&files.key).map_err(unreadable("the key", "--tlskey"))?;
        let provider = Arc::new(ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| unusable(&files.ca)(&error))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&files.certificate)(&error))?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .map_err(|error| unusable(&files.certificate)(&error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }
}

/// Serves the API on this port until `shutdown` resolves; requests in flight get a moment to finish.
pub async fn serve_tls(api: Api, listener: TcpListener, tls: Tls, shutdown: impl Future<Output = ()>) {
    let connections = Connections::new(api);
    let mut handshakes = Handshakes::default();
    let take = |(stream, _)| {
        let (acceptor, connections) = (TlsAcceptor::from(Arc::clone(&tls.0)), connections.clone());
        handshakes.add(tokio::spawn(async move {
            if let Some(stream) = shake_hands(stream, acceptor).await {
                connections.serve(stream);
            }
        }));
    };
    accept_until(shutdown, |context| listener.poll_accept(context), take).await;
    drop(listener);
    drop(handshakes);
    connections.end().await;
}

/// The handshakes under way, oldest first. They end with it.
#[derive(Default)]
struct Handshakes(VecDeque<JoinHandle<()>>);

impl Handshakes {
    fn add(&mut self, handshake: JoinHandle<()>) {
        if self.0.len() >= HANDSHAKES_MAX {
            self.0.retain(|handshake| !handshake.is_finished());
        }
        if self.0.len() >= HANDSHAKES_MAX
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
        self.0.push_back(handshake);
    }
}

impl Drop for Handshakes {
    fn drop(&mut self) {
        for handshake in &self.0 {
            handshake.abort();
        }
    }
}

/// The encrypted stream to a client that may speak to the daemon; any other is told why not.
async fn shake_hands(stream: TcpStream, acceptor: TlsAcceptor) -> Option<ClientStream> {
    // Requests and their answers are short; and a client that is gone without a word is to be found out.
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
    let begun = async {
        let mut first = [0];
        if stream.peek(&mut first).await.ok()? == 0 {
            return None;
        }
        if first != [HANDSHAKE_RECORD] {
            return turn_away(stream, PLAIN_HTTP).await;
        }
        match acceptor.accept(stream).into_fallible().await {
            Ok(stream) => Some(ClientStream::Tls(Box::new(stream))),
            Err((error, stream)) => {
                tracing::debug!(%error, "a client was turned away");
                turn_away(stream, b"").await
            }
        }
    };
    tokio::time::timeout(HANDSHAKE_TIME_MAX, begun).await.ok()?
}

/// Sends the last words and waits a moment for the client to have read them.
async fn turn_away<T>(mut stream: TcpStream, words: &[u8]) -> Option<T> {
    let farewell = async {
        stream.write_all(words).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(FAREWELL_BYTES_MAX), &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(FAREWELL_TIME_MAX, farewell).await;
    None
}
