//! BuildKit's protocols: builds whose client serves its files, secrets and agents while they run.
//!
//! ```text
//!  POST /session ─▶ h2, we call ──▶ session  ─▶ files (filesync), secrets, agents, credentials
//!                                      ▲
//!  POST /grpc ─▶ h2, Control, LLBBridge ┤
//!  POST /build?version=2&session=… ────┤ build ─▶ Engine::build_image ─▶ trace (vertices, logs) ─▶ client
//! ```
//! It keeps what lives as long as a connection: sessions, builds under way, uploads. It knows no Dockerfile and makes no
//! image; the engine does. It never reads a client's word for a path: the engine checks each entry.

mod attributes;
mod build;
mod caches;
mod channel;
mod client;
mod control;
mod disk;
mod error;
mod filesend;
mod filesync;
#[cfg(test)]
mod fuzz;
mod history;
mod output;
mod requests;
mod serve;
mod session;
mod store;
mod trace;
mod wire;

pub use build::{Remote, Running, SessionBuild, Told};
pub use error::KitError;
pub use output::{Output, OutputKind};
pub use session::SessionDescription;
pub use wire::StatusResponse;

use session::Sessions;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Everything that lives as long as clients are connected.
#[derive(Debug, Default)]
pub struct Builders {
    sessions: Sessions,
    /// Builds under way, by the ids that their clients gave them.
    builds: Mutex<HashMap<String, tokio::task::AbortHandle>>,
    uploads: build::Uploads,
    /// Builds asked for over gRPC, by their refs.
    jobs: Mutex<HashMap<String, std::sync::Arc<control::Job>>>,
    history: history::History,
}

/// A status as clients of the session form take it.
pub fn encode(status: &wire::StatusResponse) -> Vec<u8> {
    prost::Message::encode_to_vec(status)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
