//! Requests, and the connections they go over.

use super::address::{Address, Stream};
use super::connection::Connection;
use super::response::{Framing, Response, read_head};
use crate::error::{CliError, Result};
use crate::json::Value;
use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};

/// What is sent with a request.
pub enum Body<'a> {
    Empty,
    Json(&'a Value),
    /// Nothing, with an `X-Registry-Auth` header.
    Credentials(&'a str),
    /// A build's context, with an `X-Registry-Config` header and, unless it is empty, an `X-Naru-Build` header.
    Context(&'a mut dyn Read, &'a str, &'a str),
    /// A stream of unknown length and its content type.
    Stream(&'a mut dyn Read, &'static str),
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

    /// A connection of the caller's own, on which nothing has been said.
    pub fn connect(&self) -> Result<Stream> {
        Ok(self.open()?.stream)
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
            Body::Credentials(header) => {
                let extra = format!("X-Registry-Auth: {header}\r\nContent-Length: 0\r\n");
                self.exchange(method, self.head(method, path, &extra).as_bytes())
            }
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
            Body::Stream(source, content_type) => {
                self.upload(method, path, source, &format!("Content-Type: {content_type}\r\n"))
            }
            Body::Context(source, header, own) => {
                let extra = format!(
                    "Content-Type: application/x-tar\r\n{}",
                    build_headers(header, own)
                );
                self.upload(method, path, source, &extra)
            }
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

    fn upload(&self, method: &str, path: &str, source: &mut dyn Read, headers: &str) -> Result<Response> {
        let mut connection = self.open()?;
        let extra = format!("{headers}Transfer-Encoding: chunked\r\n");
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

    /// Begins a build whose body is sent while its answer is read: by the answer's own [`Response::send`].
    pub fn converse(&self, path: &str, header: &str, own: &str) -> Result<Response> {
        let mut connection = self.open()?;
        // A daemon in Go that does not know the endpoint would wait for a body before it says so.
        let extra = format!(
            "{}Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n",
            build_headers(header, own)
        );
        connection
            .stream
            .write_all(self.head("POST", path, &extra).as_bytes())
            .map_err(CliError::Transport)?;
        let response = read_head(connection, "POST").map_err(CliError::Transport)?;
        if response.status >= 400 {
            return Err(self.refusal(response));
        }
        Ok(response)
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
        let mut bytes = Vec::with_capacity(response.foreseen_bytes());
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

    /// A list, of whose entries no more is kept than these keys.
    pub fn get_list(&self, path: &str, keys: &[&str]) -> Result<Vec<Value>> {
        Value::parse_list(&self.get_bytes(path)?, keys)
            .map_err(|error| CliError::Protocol(format!("GET {path}: {error}")))
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

/// What `POST /build` needs beside its query: credentials, and what Naru has of its own.
fn build_headers(credentials: &str, own: &str) -> String {
    let own = if own.is_empty() {
        String::new()
    } else {
        format!("X-Naru-Build: {own}\r\n")
    };
    format!("X-Registry-Config: {credentials}\r\n{own}")
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
