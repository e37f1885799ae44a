//! What is in an image, layer by layer, and what of it can no longer be seen.
//!
//! ```text
//!  archive of the image (docker save) ──▶ archive: entries of each layer ──▶ analysis: changes, hidden bytes
//!                                                                            └─▶ packages: what is installed
//! ```
//! The archive is read as it comes, once, and no file of it is kept. Files that tell of packages are read by `naru-sbom`.

pub mod analysis;
pub mod archive;
pub mod packages;
