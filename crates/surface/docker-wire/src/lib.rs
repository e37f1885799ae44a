//! Docker's Engine API as data: its types and its one route table.
//!
//! This crate decides nothing about containers, does no I/O and never touches the engine.

pub mod frames;
pub mod query;
pub mod routes;
pub mod types;

pub use query::Query;
pub use routes::{ApiVersion, Endpoint};

/// The newest version of the API that Naru serves.
pub const API_VERSION: ApiVersion = ApiVersion { major: 1, minor: 51 };

/// The oldest version Naru serves.
pub const API_VERSION_MIN: ApiVersion = ApiVersion { major: 1, minor: 24 };
