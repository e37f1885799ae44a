//! A container's log on disk: Docker's json-file format, written by its keeper and read by the daemon.
//!
//! ```text
//!  <id>-json.log      being written: one JSON object a line, appended, never changed
//!  <id>-json.log.1    the newest of the full ones, made by rename
//!  <id>-json.log.2    …
//! ```
//! A writer that is killed leaves at worst a torn last line, which readers skip. Nothing is synced: after a power loss
//! the last seconds may be missing. There is one writer to a log and any number of readers; no locks.

mod encode;
mod entry;
mod frame;
mod reader;
mod writer;

pub use entry::{Entry, Stream};
pub use frame::{FrameStyle, append_frame};
pub use reader::{Batch, LogReader, ReadOptions};
pub use writer::{LogWriter, Rotation};
