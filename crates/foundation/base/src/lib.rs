//! Words every other crate uses: identifiers, digests, times, sizes and error kinds.
//!
//! This crate does no I/O apart from asking the kernel for random bytes and the time of day.

mod clock;
mod duration;
mod error;
mod id;
pub mod size;

pub use clock::Timestamp;
pub use duration::{DurationError, parse_duration};
pub use error::ErrorKind;
pub use id::{ContainerId, Digest, ExecId, IdError, NetworkId};
