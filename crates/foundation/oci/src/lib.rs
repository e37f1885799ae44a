//! The OCI image specification and what Docker adds to it: references, manifests, configurations.
//!
//! Pure decoding and checking of hostile bytes. This crate does no I/O and never follows what it reads.

pub mod config;
pub mod manifest;
pub mod media_type;
pub mod reference;

pub use config::{ContainerConfig, Healthcheck, History, ImageConfig, RootFs};
pub use manifest::{Descriptor, DocumentError, Index, Manifest, ManifestDocument, Platform};
pub use reference::{AnyReference, DEFAULT_TAG, Reference, ReferenceError};
