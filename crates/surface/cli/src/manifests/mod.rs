//! Manifest lists: put together on this side, where Docker's client keeps them too, and sent to a registry.
//!
//! ```text
//! <config>/manifests/<list>/<image>    an image of a list; ':' in names is '-', '/' is '_'
//! ```
//! Docker's client reads what is written here and the other way round. The registry is spoken to directly, as Docker's
//! client does: an engine knows nothing of lists that are not pushed yet.

mod entry;
mod list;
mod registry;
mod store;

pub use entry::{Entry, Platform};
pub use list::{ManifestList, check_platform};
pub use registry::{Fetched, Remote};
pub use store::ManifestStore;

use crate::error::{CliError, Result};
use naru_oci::Reference;

/// A name as people write it, with `latest` where it has neither tag nor digest.
pub fn parse_name(what: &str, text: &str) -> Result<Reference> {
    Reference::parse(text)
        .map(Reference::or_latest)
        .map_err(|error| CliError::message(format!("error parsing name for {what} {text}: {error}")))
}
