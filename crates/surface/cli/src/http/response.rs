//! Answers: their head, and their body by its framing.

use super::address::Stream;
use super::connection::Connection;
use std::io::{self, Read, Write};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    /// Bytes left in the present chunk; `None` before its size line.
    Chunked(Option<u64>),
    UntilClose,
    Done,
}

/// From this length on bytes are received where they are wanted, with nothing in between.
const DIRECT_BYTES_MIN: usize = 8 * 1024;

/// Most memory taken on a peer's word.
const FORESEEN_BYTES_MAX: usize = 4 << 20;

/// An answer whose body is read on demand.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) connection: Connection,
    pub(super) framing: Framing,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The socket to wait on for more of the body; ask [`Self::has_pending`] first.
    pub fn stream(&self) -> &Stream {
        &self.connection.stream
    }

    pub fn has_pending(&self) -> bool {
        !self.connection.pending().is_empty()
    }

    /// Sends a piece of the request's body, which is still going on; an empty one ends it.
    pub fn send(&mut self, piece: &[u8]) -> io::Result<()> {
        let mut message = format!("{:x}\r\n", piece.len()).into_bytes();
        message.extend_from_slice(piece);
        message.extend_from_slice(b"\r\n");
        self.connection.stream.write_all(&message)
    }

    fn chunk_size(&mut self) -> io::Result<u64> {
        let mut line = self.connection.read_line()?;
        if line.is_empty() {
            line = self.connection.read_line()?;
        }
        let digits = line.split(';').next().unwrap_or_default().trim();
        u64::from_str_radix(digits, 16)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a bad chunk size"))
    }

    fn finish_trailers(&mut self) -> io::Result<()> {
        while !self.connection.read_line()?.is_empty() {}
        Ok(())
    }

    fn read_limited(&mut self, buffer: &mut [u8], left: u64) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let buffer = &mut buffer[..length];
        if self.connection.pending().is_empty() {
            if length >= DIRECT_BYTES_MIN {
                return self.connection.receive(buffer);
            }
            if self.connection.fill()? == 0 {
                return Ok(0);
            }
        }
        Ok(self.connection.take(buffer))
    }

    /// How long the rest of the body says that it is, as far as that is to be believed ahead of its coming.
    pub(super) fn foreseen_bytes(&self) -> usize {
        match self.framing {
            Framing::Length(left) => {
                usize::try_from(left).map_or(FORESEEN_BYTES_MAX, |left| left.min(FORESEEN_BYTES_MAX))
            }
            _ => 0,
        }
    }
}

impl Read for Response {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.framing {
                Framing::Done | Framing::Length(0) => return Ok(0),
                Framing::UntilClose => return self.read_limited(buffer, u64::MAX),
                Framing::Length(left) => {
                    let length = self.read_limited(buffer, left)?;
                    if length == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.framing = Framing::Length(left - length as u64);
                    return Ok(length);
                }
                Framing::Chunked(None | Some(0)) => {
                    let size = self.chunk_size()?;
                    self.framing = Framing::Chunked(Some(size));
                    if size == 0 {
                        self.finish_trailers()?;
                        self.framing = Framing::Done;
                    }
                }
                Framing::Chunked(Some(left)) => {
                    let length = self.read_limited(buffer, left)?;
                    if length == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.framing = Framing::Chunked(Some(left - length as u64));
                    return Ok(length);
                }
            }
        }
    }
}

/// Reads the head of an answer; its body is left in the connection.
pub(super) fn read_head(mut connection: Connection, method: &str) -> io::Result<Response> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    loop {
        let line = connection.read_line()?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
        let status = status.ok_or_else(|| bad("the peer does not speak HTTP"))?;
        let mut headers = Vec::new();
        loop {
            let line = connection.read_line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| bad("a header without a colon"))?;
            headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
        if status == 100 {
            continue;
        }
        let framing = framing_of(method, status, &headers);
        return Ok(Response {
            status,
            headers,
            connection,
            framing,
        });
    }
}

fn framing_of(method: &str, status: u16, headers: &[(String, String)]) -> Framing {
    let header = |name: &str| {
        headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    };
    if method == "HEAD" || status == 204 || status == 304 {
        return Framing::Done;
    }
    if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return Framing::Chunked(None);
    }
    header("content-length")
        .and_then(|value| value.parse().ok())
        .map_or(Framing::UntilClose, Framing::Length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    fn response(bytes: &[u8]) -> Response {
        let (mine, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(bytes).unwrap();
        read_head(Connection::new(Stream::Unix(mine)), "GET").unwrap()
    }

    #[test]
    fn bodies_end_where_their_framing_says() {
        let mut text = String::new();
        response(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokrest")
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "ok");
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        text.clear();
        response(chunked).read_to_string(&mut text).unwrap();
        assert_eq!(text, "abcde");
    }

    #[test]
    fn fuzzed_answers_end() {
        let examples: [&[u8]; 3] = [
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nA: b\r\n\r\n",
            b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\n\r\nraw",
        ];
        naru_fuzz::feed(&examples, |bytes| {
            let (mine, theirs) = UnixStream::pair().unwrap();
            theirs.set_nonblocking(true).unwrap();
            // What does not fit into the socket would wait for a reader.
            let _ = (&theirs).write_all(bytes);
            drop(theirs);
            if let Ok(mut response) = read_head(Connection::new(Stream::Unix(mine)), "GET") {
                let mut body = Vec::new();
                let _ = response.read_to_end(&mut body);
                assert!(body.len() <= bytes.len());
            }
        });
    }

    #[test]
    fn a_truncated_body_is_an_error() {
        let mut text = String::new();
        let outcome = response(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok").read_to_string(&mut text);
        assert!(outcome.is_err());
    }
}
