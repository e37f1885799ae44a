//! The kernel interfaces that Rust's standard library and `rustix` do not offer safely.
//!
//! This is the only crate with `unsafe` code; each block states the invariant it relies on. Functions are thin: they
//! translate arguments and errors, and decide nothing.

pub mod bpf;
pub mod disk;
pub mod file;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod process;
pub mod scheduling;
pub mod seqpacket;
pub mod signal;
pub mod socket;
pub mod terminal;
pub mod title;
