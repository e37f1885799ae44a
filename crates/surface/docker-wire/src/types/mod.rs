//! The objects of the Engine API, as they go over the wire.
//!
//! One struct serves both directions. Reading is as lenient as Go's decoder, which Docker's clients were written
//! against: an absent key and `null` both mean the zero value, unknown keys are ignored. A wrong type is an error.

mod archive;
mod container;
mod host_config;
mod image;
mod network;
mod stats;
mod system;

pub use archive::*;
pub use container::*;
pub use host_config::*;
pub use image::*;
pub use network::*;
use serde::{Deserialize, Deserializer};
pub use stats::*;
pub use system::*;

/// The media type of a hijacked terminal session.
pub const RAW_STREAM: &str = "application/vnd.docker.raw-stream";

/// The media type of a hijacked session in frames, from API 1.42 on.
pub const MULTIPLEXED_STREAM: &str = "application/vnd.docker.multiplexed-stream";

/// A JSON object with text values.
pub type StringMap = std::collections::BTreeMap<String, String>;

/// Go's `struct{}`, the value in a set written as a map.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Empty {}

/// A set written as a map to empty objects.
pub type Set = std::collections::BTreeMap<String, Option<Empty>>;

pub(crate) fn null_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Wire structs: PascalCase keys, every field optional on reading, `null` read as the default.
macro_rules! wire {
    ($( $(#[$outer:meta])* $visibility:vis struct $name:ident { $( $(#[$inner:meta])* $field:ident : $type:ty ),* $(,)? } )*) => { $(
        $(#[$outer])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, rename_all = "PascalCase")]
        $visibility struct $name {
            $( $(#[$inner])* #[serde(deserialize_with = "crate::types::null_default")] pub $field: $type ),*
        }
    )* };
}
pub(crate) use wire;

/// For `skip_serializing_if` on numbers and booleans, Go's `omitempty`.
pub(crate) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
