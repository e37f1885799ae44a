//! As much of HTTP/1.1 as one page needs: one request a connection, within limits of size, time and number.

use crate::{facts, json, page};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A browser's request head is well under 4 KiB.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// From the connection to the whole head.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
const WRITE_TIME_MAX: Duration = Duration::from_secs(5);
const CONNECTIONS_MAX: usize = 64;
/// A page is made with a few small buffers; the default of 2 MiB would be address space for nothing.
const STACK_BYTES: usize = 256 * 1024;

pub fn serve(listener: &TcpListener) -> ExitCode {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok((stream, _)) = listener.accept() else {
            // Out of descriptors, or the client is gone again: a moment's rest keeps this from spinning.
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        let place = Place::take(&open);
        if open.load(Ordering::Relaxed) > CONNECTIONS_MAX {
            let _ = stream.set_nonblocking(true);
            let _ = (&stream).write_all(&busy());
            continue;
        }
        let work = move || {
            let _place = place;
            let _ = answer(stream);
        };
        // Where no thread can be made the connection is closed, and the next one tries again.
        let _ = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work);
    }
}

/// One of the connections that may be open, given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_write_timeout(Some(WRITE_TIME_MAX))?;
    let response = match read_head(&mut stream)? {
        Some(head) => respond(&head),
        None => respond_text("431 Request Header Fields Too Large", "request too long\n"),
    };
    stream.write_all(&response)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    // Unread bytes would make the kernel reset the connection and the client lose the answer.
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut rest = [0; 1024];
    for _ in 0..64 {
        if stream.read(&mut rest)? == 0 {
            break;
        }
    }
    Ok(())
}

/// The bytes up to the empty line; `None` when there are too many.
fn read_head(stream: &mut TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let end = Instant::now() + HEAD_TIME_MAX;
    let mut head = Vec::with_capacity(1024);
    let mut part = [0; 1024];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let count = stream.read(&mut part)?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&part[..count]);
        if head.windows(4).any(|bytes| bytes == b"\r\n\r\n") || head.windows(2).any(|bytes| bytes == b"\n\n")
        {
            return Ok(Some(head));
        }
        if head.len() > HEAD_BYTES_MAX {
            return Ok(None);
        }
    }
}

fn respond(head: &[u8]) -> Vec<u8> {
    let line = head
        .split(|byte| *byte == b'\r' || *byte == b'\n')
        .next()
        .unwrap_or_default();
    let mut words = std::str::from_utf8(line).unwrap_or_default().split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0")) = (method, target, version) else {
        return respond_text("400 Bad Request", "not an HTTP/1.1 request\n");
    };
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let mut response = match (method, path) {
        ("GET" | "HEAD", "/") => {
            let html = page::render(&facts::Facts::read());
            respond_with("200 OK", "text/html; charset=utf-8", &html)
        }
        ("GET" | "HEAD", "/json") => {
            respond_with("200 OK", "application/json", &json::render(&facts::Facts::read()))
        }
        ("GET" | "HEAD", "/healthz") => respond_text("200 OK", "ok\n"),
        ("GET" | "HEAD", _) => {
            respond_text("404 Not Found", "not found; there is / and /json and /healthz\n")
        }
        _ => respond_text("405 Method Not Allowed", "only GET and HEAD\n"),
    };
    if method == "HEAD"
        && let Some(end) = response.windows(4).position(|bytes| bytes == b"\r\n\r\n")
    {
        response.truncate(end + 4);
    }
    response
}

fn busy() -> Vec<u8> {
    respond_text("503 Service Unavailable", "too many connections\n")
}

fn respond_text(status: &str, text: &str) -> Vec<u8> {
    respond_with(status, "text/plain; charset=utf-8", text)
}

fn respond_with(status: &str, kind: &str, body: &str) -> Vec<u8> {
    let allow = if status.starts_with("405") {
        "Allow: GET, HEAD\r\n"
    } else {
        ""
    };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
         Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
