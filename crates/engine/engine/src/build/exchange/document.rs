//! A cache's documents: what a registry, a directory or an image says of steps. Pure.
//!
//! ```text
//!  {"layers":  [{"blob", "parent", "annotations": {"diffID", "mediaType", "size"}}],
//!   "records": [{"digest": a step's key, "layers": [{"layer": its topmost one's place among the layers}]}],
//!   "mounts":  [{"name", "blob", "mediaType", "size"}]}      Naru's own: contents of cache mounts; BuildKit passes over it
//! ```
//! An image carries the records alone, in its configuration as base64; the layers are its own, bottom first.

use super::Steps;
use crate::error::{EngineError, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use naru_base::Digest;
use naru_oci::Descriptor;
use serde::{Deserialize, Serialize};

pub(super) const CONFIG_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";

/// A configuration of ten thousand steps is some megabytes.
pub(super) const CONFIG_BYTES_MAX: u64 = 32 << 20;

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct CacheConfig {
    #[serde(default)]
    pub layers: Vec<CacheLayer>,
    #[serde(default)]
    pub records: Vec<CacheRecord>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<CacheMount>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CacheLayer {
    pub blob: Digest,
    #[serde(default = "no_parent")]
    pub parent: i64,
    #[serde(default)]
    pub annotations: LayerAnnotations,
}

fn no_parent() -> i64 {
    -1
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LayerAnnotations {
    #[serde(default)]
    pub media_type: String,
    #[serde(rename = "diffID")]
    pub diff_id: Option<Digest>,
    #[serde(default)]
    pub size: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CacheRecord {
    pub digest: Digest,
    #[serde(default, rename = "layers")]
    pub results: Vec<CacheResult>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CacheResult {
    pub layer: usize,
}

/// What was in a cache mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CacheMount {
    /// As the directory is called where builds keep it.
    pub name: String,
    pub blob: Digest,
    #[serde(default)]
    pub media_type: String,
    pub size: u64,
}

impl CacheLayer {
    pub(super) fn descriptor(&self) -> Descriptor {
        let annotations = &self.annotations;
        Descriptor::new(
            annotations.media_type.as_str(),
            self.blob.clone(),
            annotations.size,
        )
    }
}

impl CacheMount {
    pub(super) fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type.as_str(), self.blob.clone(), self.size)
    }
}

impl CacheConfig {
    /// A step's layers, bottom first.
    pub(super) fn find(&self, key: &Digest) -> Option<Vec<&CacheLayer>> {
        let record = self.records.iter().find(|record| record.digest == *key)?;
        let mut layers = Vec::new();
        let mut next = record.results.first()?.layer;
        loop {
            let layer = self.layers.get(next)?;
            layers.push(layer);
            // A circle is no chain.
            if layers.len() > self.layers.len() {
                return None;
            }
            match usize::try_from(layer.parent) {
                Ok(parent) => next = parent,
                Err(_) => break,
            }
        }
        layers.reverse();
        Some(layers)
    }

    /// What an image's own cache says; `layers` are the image's, as blobs and as archives.
    pub(super) fn of_image(text: &str, layers: impl Iterator<Item = (Descriptor, Digest)>) -> Result<Self> {
        let damaged =
            |reason: String| EngineError::invalid(format!("the image's cache cannot be read: {reason}"));
        let bytes = BASE64_STANDARD
            .decode(text)
            .map_err(|error| damaged(error.to_string()))?;
        let records = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let layers = layers.enumerate().map(|(place, (blob, diff_id))| CacheLayer {
            blob: blob.digest,
            parent: place as i64 - 1,
            annotations: LayerAnnotations {
                media_type: blob.media_type,
                diff_id: Some(diff_id),
                size: blob.size,
            },
        });
        Ok(Self {
            layers: layers.collect(),
            records,
            mounts: Vec::new(),
        })
    }
}

/// The cache that an image of these layers carries: the steps that it stands on. The same steps make the same text.
pub(super) fn inline_text(steps: &Steps, chain_ids: &[Digest]) -> Result<String> {
    let below = steps.on(chain_ids);
    let records = below.made.iter().map(|(key, image)| CacheRecord {
        digest: key.clone(),
        // Steps without layers are not noted.
        results: vec![CacheResult {
            layer: image.chain_ids.len().saturating_sub(1),
        }],
    });
    Ok(BASE64_STANDARD.encode(to_json(&records.collect::<Vec<_>>())?))
}

pub(super) fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| EngineError::system(format!("cannot write the cache: {error}")))
}

pub(super) fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| EngineError::invalid(format!("it cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn digest(byte: u8) -> Digest {
        Digest::from_sha256([byte; 32])
    }

    fn blobs(config: &CacheConfig, key: u8) -> Option<Vec<Digest>> {
        let found = config.find(&digest(key))?;
        Some(found.iter().map(|layer| layer.blob.clone()).collect())
    }

    #[test]
    fn a_step_is_found_with_its_layers_and_circles_are_none() {
        let text = json!({
            "layers": [
                { "blob": digest(1), "parent": -1, "annotations": { "diffID": digest(11), "size": 5 } },
                { "blob": digest(2), "parent": 0, "annotations": { "diffID": digest(12) } },
                { "blob": digest(3), "parent": 2 },
                { "blob": digest(4), "parent": 99 },
            ],
            "records": [
                { "digest": digest(21), "layers": [{ "layer": 1 }] },
                { "digest": digest(22), "layers": [{ "layer": 2 }] },
                { "digest": digest(23), "layers": [{ "layer": 3 }] },
                { "digest": digest(24), "layers": [] },
            ],
        });
        let config: CacheConfig = parse(text.to_string().as_bytes()).unwrap();
        assert_eq!(blobs(&config, 21), Some(vec![digest(1), digest(2)]));
        for key in [22, 23, 24, 25] {
            assert_eq!(blobs(&config, key), None, "{key}");
        }
        assert!(parse::<CacheConfig>(b"{\"layers\":1}").is_err());
    }

    #[test]
    fn an_images_own_cache_speaks_of_its_layers() {
        let records = json!([
            { "digest": digest(21), "layers": [{ "layer": 1 }] },
            { "digest": digest(22), "layers": [{ "layer": 2 }] },
        ]);
        let layers =
            || [(1, 11), (2, 12)].map(|(blob, diff)| (Descriptor::new("", digest(blob), 1), digest(diff)));
        let text = BASE64_STANDARD.encode(records.to_string());
        let config = CacheConfig::of_image(&text, layers().into_iter()).unwrap();
        assert_eq!(blobs(&config, 21), Some(vec![digest(1), digest(2)]));
        assert_eq!(config.layers[1].annotations.diff_id, Some(digest(12)));
        assert_eq!(blobs(&config, 22), None, "there is no third layer");
        for text in ["%", "aGVsbG8=", &BASE64_STANDARD.encode("{}")] {
            assert!(
                CacheConfig::of_image(text, layers().into_iter()).is_err(),
                "{text}"
            );
        }
    }
}
