//! What a Dockerfile means, as plain data: its instructions, stages and words, what a build context leaves out, and
//! how instructions change an image's configuration.
//!
//! Pure decoding and deciding. This crate does no I/O: it never reads a context, starts a container or makes a layer;
//! the engine does, step by step, as this crate has decided.

pub mod check;
pub mod configure;
pub mod dockerfile;
mod error;
pub mod excerpt;
mod glob;
pub mod ignore;
pub mod listing;
mod mount;
pub mod outline;
pub mod stages;
pub mod words;

pub use dockerfile::{Dockerfile, Instruction, Line, Stage, parse, parse_instruction};
pub use error::{DockerfileError, Place};
pub use mount::{Mount, MountError, MountKind, Sharing};
