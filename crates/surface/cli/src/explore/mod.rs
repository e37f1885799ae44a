//! What is in an image, layer by layer, and what of it can no longer be seen.
//!
//! ```text
//!  archive of the image (docker save) ──▶ archive: entries of each layer ──▶ analysis: changes, hidden bytes
//! ```
//! The archive is read as it comes, once, and no file of it is kept.

pub mod analysis;
pub mod archive;
