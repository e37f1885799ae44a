//! Between the wire and the engine, without any I/O: requests become specs, records become answers.

pub mod create;
pub mod defaults;
pub mod exec;
pub mod filters;
#[cfg(test)]
mod fuzz;
pub mod image;
pub mod inspect;
pub mod list;
pub mod log;
mod modes;
mod mounts;
pub mod network;
pub mod pattern;
mod ports;
pub mod prune;
pub mod resources;
mod security;
pub mod stats;
pub mod status;
pub mod time;
pub mod transfer;
pub mod update;
pub mod version;
