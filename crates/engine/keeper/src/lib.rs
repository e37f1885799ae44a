//! One small process per container: parent of its PID 1 and execs, owner of its streams, log and exit record.
//!
//! ```text
//!  daemon ── socket ──▶ spawner ── fork ──▶ keeper ── fork ──▶ stem ── clone ──▶ PID 1   (child of the keeper)
//!                                             └────── fork ──▶ execs
//! ```
//! A keeper is a single-threaded poll loop over nonblocking descriptors. It outlives the daemon and the spawner, it
//! never enters a container's cgroup or namespaces itself, it never waits for a client, and it buffers only within
//! fixed bounds. What it must not lose, the exit record, is on disk before anyone is told.

pub mod cause;
mod client;
pub mod codec;
mod connection;
mod detach;
mod keeper;
pub mod kernel_log;
mod oom_score;
mod process;
pub mod protocol;
mod spawner;
mod streams;

pub use keeper::run_keeper;
pub use spawner::run_spawner;
