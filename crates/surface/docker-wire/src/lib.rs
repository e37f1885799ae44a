//! Docker's Engine API as data: its types, its one route table, and a client that speaks it.
//!
//! The server and the client both take methods and paths from [`routes`], so they cannot disagree. This crate decides
//! nothing about containers and never touches the engine.

pub mod client;
pub mod frames;
pub mod query;
pub mod routes;
pub mod types;

pub use client::{Body, Client, ClientError, Hijacked, Response};
pub use query::Query;
pub use routes::{ApiVersion, Endpoint};

/// The newest version of the API that Naru serves and its client asks for.
pub const API_VERSION: ApiVersion = ApiVersion { major: 1, minor: 47 };

/// The oldest version Naru serves.
pub const API_VERSION_MIN: ApiVersion = ApiVersion { major: 1, minor: 24 };
