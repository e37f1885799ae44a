//! A small blocking HTTP/1.1 client for the Engine API over a unix or TCP socket.
//!
//! It never starts a thread and never asks for anything that was not asked of it: a command's whole own time is spent
//! in a few system calls. A connection whose answer has been read to its end is used again.

use crate::error::{CliError, Result};
use crate::json::Value;
use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Longest head of an answer that is accepted; Docker's are under 1 KiB.
const HEAD_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    Tcp(String),
}

impl Address {
    /// Reads `unix:///path`, `tcp://host:port`, or a bare path or `host:port`.
    pub fn parse(text: &str) -> Result<Self> {
        match text.split_once("://") {
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(("tcp" | "http", address)) => {
                let address = address.trim_end_matches('/');
                let port = if address.contains(':') { "" } else { ":2375" };
                Ok(Self::Tcp(format!("{address}{port}")))
            }
            Some((scheme, _)) => Err(CliError::message(format!(
                "unable to use host {text:?}: the scheme {scheme:?} is not supported (unix and tcp are)"
            ))),
            None if text.starts_with('/') => Ok(Self::Unix(text.into())),
            None if text.contains(':') => Ok(Self::Tcp(text.to_owned())),
            None => Err(CliError::message(format!("unable to parse docker host `{text}`"))),
        }
    }

    pub fn unix_path(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Tcp(_) => None,
        }
    }

    pub fn connect(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(path) => UnixStream::connect(path).map(Stream::Unix),
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

#[derive(Debug)]
pub enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_nonblocking(on),
            Self::Tcp(stream) => stream.set_nonblocking(on),
        }
    }

    /// Tells the peer that no more input comes.
    pub fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.shutdown(std::net::Shutdown::Write),
            Self::Tcp(stream) => stream.shutdown(std::net::Shutdown::Write),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(buffer),
            Self::Tcp(stream) => stream.write(buffer),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection and the bytes that have been received but not used.
#[derive(Debug)]
struct Connection {
    stream: Stream,
    received: Vec<u8>,
    used: usize,
    /// It has carried an answer before, so the peer may have closed it meanwhile.
    is_reused: bool,
}

impl Connection {
    fn new(stream: Stream) -> Self {
        Self {
            stream,
            received: Vec::new(),
            used: 0,
            is_reused: false,
        }
    }

    /// Receives more; `Ok(0)` at the end of the stream.
    fn fill(&mut self) -> io::Result<usize> {
        if self.used > 0 {
            self.received.drain(..self.used);
            self.used = 0;
        }
        let start = self.received.len();
        self.received.resize(start + 16 * 1024, 0);
        let outcome = retry_interrupted(|| self.stream.read(&mut self.received[start..]));
        self.received.truncate(start + *outcome.as_ref().unwrap_or(&0));
        outcome
    }

    fn pending(&self) -> &[u8] {
        &self.received[self.used..]
    }

    fn take(&mut self, buffer: &mut [u8]) -> usize {
        let length = buffer.len().min(self.pending().len());
        buffer[..length].copy_from_slice(&self.received[self.used..self.used + length]);
        self.used += length;
        length
    }

    fn read_line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.pending().iter().position(|&byte| byte == b'\n') {
                let line = String::from_utf8_lossy(&self.pending()[..end])
                    .trim_end()
                    .to_owned();
                self.used += end + 1;
                return Ok(line);
            }
            if self.pending().len() > HEAD_BYTES_MAX {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a header line without end",
                ));
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn retry_interrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// What is sent with a request.
pub enum Body<'a> {
    Empty,
    Json(&'a Value),
    /// A stream of unknown length and its content type.
    Stream(&'a mut dyn Read, &'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    /// Bytes left in the present chunk; `None` before its size line.
    Chunked(Option<u64>),
    UntilClose,
    Done,
}

/// An answer whose body is read on demand.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    headers: Vec<(String, String)>,
    connection: Connection,
    framing: Framing,
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
        if self.connection.pending().is_empty() && self.connection.fill()? == 0 {
            return Ok(0);
        }
        let length = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        Ok(self.connection.take(&mut buffer[..length]))
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

/// A connection taken over from HTTP: raw bytes both ways.
#[derive(Debug)]
pub struct Hijacked {
    pub stream: Stream,
    /// What arrived together with the head.
    pub received: Vec<u8>,
    /// The daemon says that the stream is not in frames (a terminal).
    pub is_raw: Option<bool>,
}

/// Called when nobody answers at the address; makes someone answer, or explains why not.
pub type Starter = Box<dyn Fn() -> Result<()>>;

pub struct Client {
    pub address: Address,
    /// `/v1.41`, or empty: then the daemon's newest.
    version_prefix: String,
    idle: RefCell<Vec<Connection>>,
    starter: Option<Starter>,
    has_started: Cell<bool>,
}

impl Client {
    pub fn new(address: Address, api_version: Option<&str>, starter: Option<Starter>) -> Self {
        let version_prefix = api_version
            .map(|version| format!("/v{version}"))
            .unwrap_or_default();
        Self {
            address,
            version_prefix,
            idle: RefCell::default(),
            starter,
            has_started: Cell::new(false),
        }
    }

    fn open(&self) -> Result<Connection> {
        match self.address.connect() {
            Ok(stream) => Ok(Connection::new(stream)),
            Err(error) => match &self.starter {
                Some(start) if is_absent(&error) && !self.has_started.replace(true) => {
                    start()?;
                    self.open()
                }
                _ => Err(CliError::Connect {
                    host: self.address.to_string(),
                    source: error,
                }),
            },
        }
    }

    fn head(&self, method: &str, path: &str, extra: &str) -> String {
        format!(
            "{method} {}{path} HTTP/1.1\r\nHost: api.naru\r\nUser-Agent: naru/{}\r\n{extra}\r\n",
            self.version_prefix,
            env!("CARGO_PKG_VERSION")
        )
    }

    /// Sends a request and reads the head of its answer. An error status is an error, in the daemon's words.
    pub fn send(&self, method: &str, path: &str, body: Body) -> Result<Response> {
        let response = self.send_any(method, path, body)?;
        if response.status >= 400 {
            Err(self.refusal(response))
        } else {
            Ok(response)
        }
    }

    fn send_any(&self, method: &str, path: &str, body: Body) -> Result<Response> {
        match body {
            Body::Empty if method == "GET" || method == "DELETE" || method == "HEAD" => {
                self.exchange(method, self.head(method, path, "").as_bytes())
            }
            Body::Empty => self.exchange(
                method,
                self.head(method, path, "Content-Length: 0\r\n").as_bytes(),
            ),
            Body::Json(value) => {
                let text =
                    serde_json::to_string(value).map_err(|error| CliError::Protocol(error.to_string()))?;
                let extra = format!(
                    "Content-Type: application/json\r\nContent-Length: {}\r\n",
                    text.len()
                );
                let mut message = self.head(method, path, &extra);
                message.push_str(&text);
                self.exchange(method, message.as_bytes())
            }
            Body::Stream(source, content_type) => self.upload(method, path, source, content_type),
        }
    }

    fn exchange(&self, method: &str, message: &[u8]) -> Result<Response> {
        let idle = self.idle.borrow_mut().pop();
        if let Some(mut connection) = idle {
            // The peer may have closed it since; nothing has been answered then, and a fresh one is tried.
            if connection.stream.write_all(message).is_ok() {
                match read_head(connection, method) {
                    Err(error) if is_closed(&error) => {}
                    outcome => return outcome.map_err(CliError::Transport),
                }
            }
        }
        let mut connection = self.open()?;
        connection
            .stream
            .write_all(message)
            .map_err(CliError::Transport)?;
        read_head(connection, method).map_err(CliError::Transport)
    }

    fn upload(
        &self,
        method: &str,
        path: &str,
        source: &mut dyn Read,
        content_type: &str,
    ) -> Result<Response> {
        let mut connection = self.open()?;
        let extra = format!("Content-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n");
        connection
            .stream
            .write_all(self.head(method, path, &extra).as_bytes())
            .map_err(CliError::Transport)?;
        let mut chunk = vec![0_u8; 256 * 1024];
        loop {
            let length = source
                .read(&mut chunk)
                .map_err(|error| CliError::message(format!("read the input to send: {error}")))?;
            let mut message = format!("{length:x}\r\n").into_bytes();
            message.extend_from_slice(&chunk[..length]);
            message.extend_from_slice(b"\r\n");
            // A peer that has seen enough answers and closes; its answer says why.
            if connection.stream.write_all(&message).is_err() || length == 0 {
                break;
            }
        }
        read_head(connection, method).map_err(CliError::Transport)
    }

    fn refusal(&self, response: Response) -> CliError {
        let status = response.status;
        let bytes = match self.read_all(response) {
            Ok(bytes) => bytes,
            Err(error) => return error,
        };
        let text = String::from_utf8_lossy(&bytes);
        let message = match Value::parse(&bytes) {
            Ok(value) if !value.get("message").text().is_empty() => value.get("message").text().to_owned(),
            _ if text.trim().is_empty() => format!("HTTP status {status}"),
            _ => text.trim().to_owned(),
        };
        CliError::Daemon { status, message }
    }

    /// The whole body; the connection can then be used again.
    pub fn read_all(&self, mut response: Response) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        response.read_to_end(&mut bytes).map_err(CliError::Transport)?;
        let is_kept = matches!(response.framing, Framing::Done | Framing::Length(0))
            && response
                .header("connection")
                .is_none_or(|value| !value.eq_ignore_ascii_case("close"));
        if is_kept {
            response.connection.is_reused = true;
            self.idle.borrow_mut().push(response.connection);
        }
        Ok(bytes)
    }

    /// Sends a request and discards the body of its answer; gives the status.
    pub fn call(&self, method: &str, path: &str, body: Body) -> Result<u16> {
        let response = self.send(method, path, body)?;
        let status = response.status;
        self.read_all(response)?;
        Ok(status)
    }

    pub fn json(&self, method: &str, path: &str, body: Body) -> Result<Value> {
        let response = self.send(method, path, body)?;
        let bytes = self.read_all(response)?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        Value::parse(&bytes).map_err(|error| CliError::Protocol(format!("{method} {path}: {error}")))
    }

    pub fn get(&self, path: &str) -> Result<Value> {
        self.json("GET", path, Body::Empty)
    }

    /// The body's bytes as the daemon wrote them.
    pub fn get_bytes(&self, path: &str) -> Result<Vec<u8>> {
        let response = self.send("GET", path, Body::Empty)?;
        self.read_all(response)
    }

    pub fn post(&self, path: &str) -> Result<u16> {
        self.call("POST", path, Body::Empty)
    }

    /// Sends a request that turns the connection into a raw stream, without reading the answer yet.
    pub fn begin_hijack(&self, path: &str, body: Option<&Value>) -> Result<PendingHijack> {
        let mut connection = self.open()?;
        let text = body
            .map(|value| serde_json::to_string(value).unwrap_or_default())
            .unwrap_or_default();
        let content = if body.is_some() {
            "Content-Type: application/json\r\n"
        } else {
            ""
        };
        let extra = format!(
            "{content}Content-Length: {}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n",
            text.len()
        );
        let mut message = self.head("POST", path, &extra);
        message.push_str(&text);
        connection
            .stream
            .write_all(message.as_bytes())
            .map_err(CliError::Transport)?;
        Ok(PendingHijack { connection })
    }

    pub fn hijack(&self, path: &str, body: Option<&Value>) -> Result<Hijacked> {
        self.finish_hijack(self.begin_hijack(path, body)?)
    }

    pub fn finish_hijack(&self, pending: PendingHijack) -> Result<Hijacked> {
        let response = read_head(pending.connection, "POST").map_err(CliError::Transport)?;
        if response.status >= 400 {
            return Err(self.refusal(response));
        }
        if response.status != 101 && response.status != 200 {
            return Err(CliError::Protocol(format!(
                "status {} instead of a stream",
                response.status
            )));
        }
        let is_raw = response
            .header("content-type")
            .map(|kind| kind != "application/vnd.docker.multiplexed-stream");
        let is_raw = is_raw.filter(|raw| !raw); // "raw-stream" is also what older daemons say of frames
        let Connection {
            stream,
            received,
            used,
            ..
        } = response.connection;
        Ok(Hijacked {
            stream,
            received: received[used..].to_vec(),
            is_raw,
        })
    }

    /// Sends a request on a connection of its own without reading the answer yet.
    pub fn begin(&self, method: &str, path: &str) -> Result<PendingHijack> {
        let mut connection = self.open()?;
        let message = self.head(method, path, "Content-Length: 0\r\n");
        connection
            .stream
            .write_all(message.as_bytes())
            .map_err(CliError::Transport)?;
        Ok(PendingHijack { connection })
    }

    pub fn finish(&self, pending: PendingHijack) -> Result<Response> {
        let response = read_head(pending.connection, "POST").map_err(CliError::Transport)?;
        if response.status >= 400 {
            Err(self.refusal(response))
        } else {
            Ok(response)
        }
    }
}

/// A request that has been sent and whose answer has not been looked at.
pub struct PendingHijack {
    connection: Connection,
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

fn read_head(mut connection: Connection, method: &str) -> io::Result<Response> {
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

/// Joins a path and its query, escaping the values.
pub struct Query {
    text: String,
    has_any: bool,
}

impl Query {
    pub fn new(path: &str) -> Self {
        Self {
            text: path.to_owned(),
            has_any: false,
        }
    }

    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.text.push(if self.has_any { '&' } else { '?' });
        self.has_any = true;
        self.text.push_str(key);
        self.text.push('=');
        self.text.push_str(&escape(value));
        self
    }

    pub fn set_if(self, condition: bool, key: &str, value: &str) -> Self {
        if condition { self.set(key, value) } else { self }
    }

    pub fn set_some(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.set(key, value),
            None => self,
        }
    }

    pub fn build(self) -> String {
        self.text
    }
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
pub fn escape(text: &str) -> String {
    use std::fmt::Write;
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// As [`escape`], leaving `/` and `:` alone: image references are path segments with slashes.
pub fn escape_reference(text: &str) -> String {
    escape(text)
        .replace("%2F", "/")
        .replace("%3A", ":")
        .replace("%40", "@")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_docker_reads_them() {
        assert_eq!(
            Address::parse("unix:///a/b.sock").unwrap(),
            Address::Unix("/a/b.sock".into())
        );
        assert_eq!(Address::parse("tcp://h:1").unwrap(), Address::Tcp("h:1".into()));
        assert_eq!(Address::parse("tcp://h").unwrap(), Address::Tcp("h:2375".into()));
        assert!(Address::parse("ssh://h").is_err());
        assert!(Address::parse("nonsense").is_err());
    }

    #[test]
    fn queries_escape_their_values() {
        let path = Query::new("/x")
            .set("a", "b c&d")
            .set_if(false, "n", "1")
            .set("f", "{\"k\":[\"v\"]}")
            .build();
        assert_eq!(path, "/x?a=b%20c%26d&f=%7B%22k%22%3A%5B%22v%22%5D%7D");
    }

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
    fn a_truncated_body_is_an_error() {
        let mut text = String::new();
        let outcome = response(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok").read_to_string(&mut text);
        assert!(outcome.is_err());
    }
}
