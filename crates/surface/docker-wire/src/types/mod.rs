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

/// A struct that is an object on the wire and nothing else.
pub(crate) trait FromObject<'de>: Default {
    fn from_object<A: serde::de::MapAccess<'de>>(map: A) -> Result<Self, A::Error>;
}

/// Reads a struct from an object, or from `null`. Without this an array would be taken too, its elements for the fields
/// in their order.
pub(crate) fn read_object<'de, T: FromObject<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    struct Visitor<T>(std::marker::PhantomData<T>);

    impl<'de, T: FromObject<'de>> serde::de::Visitor<'de> for Visitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::from_object(map)
        }

        fn visit_unit<E>(self) -> Result<T, E> {
            Ok(T::default())
        }
    }

    deserializer.deserialize_any(Visitor(std::marker::PhantomData))
}

/// Wire structs: PascalCase keys, every field optional on reading, `null` read as the default.
macro_rules! wire {
    ($( $(#[$outer:meta])* $visibility:vis struct $name:ident { $( $(#[$inner:meta])* $field:ident : $type:ty ),* $(,)? } )*) => { $(
        $(#[$outer])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, remote = "Self", rename_all = "PascalCase")]
        $visibility struct $name {
            $( $(#[$inner])* #[serde(deserialize_with = "crate::types::null_default")] pub $field: $type ),*
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                crate::types::read_object(deserializer)
            }
        }

        impl<'de> crate::types::FromObject<'de> for $name {
            fn from_object<A: serde::de::MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
                // The derivation's own function, which goes before the trait's of the same name.
                Self::deserialize(serde::de::value::MapAccessDeserializer::new(map))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                Self::serialize(self, serializer)
            }
        }
    )* };
}
pub(crate) use wire;

/// For `skip_serializing_if` on numbers and booleans, Go's `omitempty`.
pub(crate) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
