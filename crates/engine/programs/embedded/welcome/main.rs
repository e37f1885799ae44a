//! The program of the `welcome` image: serves one page that shows what isolates it, read live from its own `/proc` and
//! `/sys`. The same facts are at `/json`; `/healthz` answers `ok`.
//!
//! It needs no file but itself, writes none, and opens no connection. A request that is too long, too slow or one too
//! many is refused; nothing a client sends is ever used but the first line.

mod facts;
mod http;
mod json;
mod page;

use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::process::ExitCode;

fn main() -> ExitCode {
    end_on_signals();
    let port = match std::env::var("PORT").as_deref().unwrap_or("80").parse::<u16>() {
        Ok(port) => port,
        Err(error) => {
            eprintln!("welcome: PORT: {error}");
            return ExitCode::from(2);
        }
    };
    match listen(port) {
        Ok(listener) => {
            println!("welcome: listening on port {port}");
            http::serve(&listener)
        }
        Err(error) => {
            eprintln!("welcome: port {port}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Both address families where there is IPv6, else IPv4 alone.
fn listen(port: u16) -> std::io::Result<TcpListener> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    TcpListener::bind(both).or_else(|_| TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))))
}

/// PID 1 has no default actions: without a handler SIGTERM would be dropped and a stop would take ten seconds.
fn end_on_signals() {
    unsafe extern "C" {
        fn signal(number: i32, handler: usize) -> usize;
        fn _exit(code: i32) -> !;
    }
    extern "C" fn end(_: i32) {
        // SAFETY: `_exit` is safe to call in a signal handler; nothing here needs to be finished first.
        unsafe { _exit(0) }
    }
    let handler = end as extern "C" fn(i32) as usize;
    // HUP, INT, QUIT, TERM.
    for number in [1, 2, 3, 15] {
        // SAFETY: the handler has the signature that signal(2) asks for and lives as long as the program.
        unsafe { signal(number, handler) };
    }
}
