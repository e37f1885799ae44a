//! A client's connection, whose first bytes tell whether it speaks HTTP/1.1 or HTTP/2.
//!
//! HTTP/2 begins with a preface that is no request of HTTP/1.1 (RFC 9113, section 3.4). What was read to tell is read
//! again by who serves the connection, so that telling costs no call into the kernel. It knows nothing of requests.

use bytes::{Buf, Bytes, BytesMut};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// What a client sends first that speaks HTTP/2 with prior knowledge.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The first read: as much as hyper's own.
const FIRST_BYTES: usize = 8 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// What carries a client's bytes.
pub enum ClientStream {
    Unix(UnixStream),
    /// Of a client that has shown its certificate.
    Tls(Box<TlsStream<TcpStream>>),
}

/// The stream, with what was read of it already.
pub struct Connection {
    stream: ClientStream,
    ahead: Bytes,
}

impl Connection {
    /// Reads until it is sure which protocol the client speaks: mostly once.
    pub async fn open(mut stream: ClientStream) -> io::Result<(Self, Protocol)> {
        let mut ahead = BytesMut::with_capacity(FIRST_BYTES);
        loop {
            let is_over = stream.read_buf(&mut ahead).await? == 0;
            let compared = ahead.len().min(PREFACE.len());
            let is_alike = ahead[..compared] == PREFACE[..compared];
            if is_alike && compared < PREFACE.len() && !is_over {
                continue;
            }
            let protocol = if is_alike && compared == PREFACE.len() {
                Protocol::Http2
            } else {
                Protocol::Http1
            };
            let ahead = ahead.freeze();
            return Ok((Self { stream, ahead }, protocol));
        }
    }

    /// The stream, and what was read of it but by nobody taken.
    pub fn into_parts(self) -> (ClientStream, Bytes) {
        (self.stream, self.ahead)
    }
}

/// Calls the same of whichever stream it is.
macro_rules! either {
    ($stream:expr, $method:ident ( $($argument:expr),* )) => {
        match $stream {
            ClientStream::Unix(stream) => Pin::new(stream).$method($($argument),*),
            ClientStream::Tls(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self.get_mut(), poll_read(context, buffer))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), poll_shutdown(context))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead[..length]);
        self.ahead.advance(length);
        if self.ahead.is_empty() {
            // Gives the memory of the first read back.
            self.ahead = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    /// Sends the parts one by one, and returns what the connection took itself for and what is read of it.
    async fn opened(parts: &[&[u8]]) -> (Protocol, Vec<u8>) {
        let (mut client, server) = UnixStream::pair().unwrap();
        let opening = tokio::spawn(Connection::open(ClientStream::Unix(server)));
        for part in parts {
            client.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        drop(client);
        let (mut connection, protocol) = opening.await.unwrap().unwrap();
        let mut read = Vec::new();
        connection.read_to_end(&mut read).await.unwrap();
        (protocol, read)
    }

    #[tokio::test]
    async fn the_first_bytes_tell_and_are_not_lost() {
        let get = b"GET /info HTTP/1.1\r\n\r\n";
        assert_eq!(opened(&[get]).await, (Protocol::Http1, get.to_vec()));
        let (first, second) = PREFACE.split_at(5);
        let whole = [PREFACE, b"frames"].concat();
        assert_eq!(
            opened(&[first, second, b"frames"]).await,
            (Protocol::Http2, whole)
        );
        assert_eq!(opened(&[b"PRI * HTTP/2.0\r\n\r\nXX"]).await.0, Protocol::Http1);
        assert_eq!(opened(&[b"PRI"]).await, (Protocol::Http1, b"PRI".to_vec()));
        assert_eq!(opened(&[]).await, (Protocol::Http1, Vec::new()));
    }
}
