//! Docker's Engine API served over the engine: decode a request, translate it, make one call, encode the answer.
//!
//! ```text
//!  socket ─▶ server (HTTP/1.1 and 2, versions, panics) ─▶ handlers/<object> ─▶ Engine
//!                                                   │
//!                                                   └─ translate/ (pure: wire ⇄ spec and records)
//! ```
//! It keeps no state of its own, and no client can end it: each request runs in a task of its own, which finishes what
//! it began even when the client goes away.

mod agents;
mod connection;
mod error;
mod handlers;
mod metrics;
mod request;
mod respond;
mod server;
mod stream;
mod tls;
mod translate;
mod upload;
mod websocket;

pub use agents::Agents;
pub use metrics::serve_metrics;
pub use naru_buildkit::Builders;
pub use server::{Api, serve};
pub use tls::{Tls, TlsError, TlsFiles, serve_tls};
pub use translate::defaults::check_log;
