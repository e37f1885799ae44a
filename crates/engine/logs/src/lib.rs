//! A container's log on disk, written by its keeper and read by the daemon, in the formats of Docker's drivers.
//!
//! ```text
//!  <id>-json.log            driver json-file: one JSON object a line
//!  local-logs/container.log driver local: records with their length before and after, see `local`
//!
//!  log        being written: appended, never changed
//!  log.1      the newest of the full ones, made by rename; log.1.gz once it is compressed
//!  log.2      …
//! ```
//! A writer that is killed leaves at worst a torn last message, which readers skip. Nothing is synced: after a power loss
//! the last seconds may be missing. There is one writer to a log and any number of readers; no locks, and nobody waits for
//! anybody: what a full disk keeps from being written, and what a slow reader misses, is counted and told.

mod encode;
mod entry;
mod file;
mod format;
mod frame;
mod local;
mod reader;
mod rotate;
pub mod ship;
mod writer;

pub use entry::{Entry, Stream};
pub use format::Format;
pub use frame::{FrameStyle, append_frame};
pub use reader::{Batch, LogReader, ReadOptions};
pub use rotate::Rotation;
pub use writer::LogWriter;
