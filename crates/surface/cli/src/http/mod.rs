//! A small blocking HTTP/1.1 client for the Engine API over a unix or TCP socket.
//!
//! It never starts a thread, but for TLS, and never asks for anything that was not asked of it: a command's whole own time is spent
//! in a few system calls. A connection whose answer has been read to its end is used again.

mod address;
mod client;
mod connection;
mod query;
mod response;
mod tls;

pub use address::{Address, Stream};
pub use client::{Body, Client, Hijacked, PendingHijack, Starter};
pub use query::{Query, escape, escape_reference};
pub use response::Response;
pub use tls::TlsSettings;
