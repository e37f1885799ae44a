//! A build's cache for other engines: sent to a registry or handed out as an OCI layout, and taken from there.
//!
//! ```text
//!  manifest (OCI)  ─▶ configuration: application/vnd.buildkit.cacheconfig.v0
//!                       layers:  blob, the layer below, diff id        records: a step's key ─▶ its topmost layer
//!                  ─▶ layers: the blobs
//! ```
//! The format is BuildKit's, so that it lives wherever that does; the keys are Naru's own. A layer is fetched when a step
//! asks for it by its key, and taken only where it stands on the step's own layers and has the digests that the
//! configuration says. Whoever can write a cache decides what its steps made, as with a base image: use those you trust.

use super::solve::{Builder, Stage};
use super::{BuildStep, cache};
use crate::Engine;
use crate::archive::channel::pipe;
use crate::archive::{ChunkReader, Chunks, blocking};
use crate::error::{EngineError, Result};
use crate::images::{Artifact, PushRequest, Teller as TransferTeller};
use naru_base::Digest;
use naru_content::{Image, Parcel, ParcelLayer};
use naru_oci::{Descriptor, Manifest, ManifestDocument, Reference, media_type};
use naru_registry::Repository;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::mpsc;

use super::packed::PackedTree;

const CONFIG_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";

/// A configuration of ten thousand steps is some megabytes.
const CONFIG_BYTES_MAX: u64 = 32 << 20;

/// Builds whose steps are remembered for whoever fetches their cache.
const RECENT_MAX: usize = 64;

/// Where a cache comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheSource {
    /// A name in a registry.
    Registry(String),
    /// An OCI layout in the context's archive.
    Archived(String),
}

/// Where a build's cache goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheTarget {
    /// A name in a registry.
    pub reference: String,
    /// Every stage's steps, not only those that the result stands on.
    pub has_all: bool,
    /// A cache that cannot be sent does not fail the build.
    pub ignores_errors: bool,
}

/// The steps that a build found or made, by their keys.
#[derive(Debug, Clone, Default)]
pub(super) struct Steps(BTreeMap<Digest, (Arc<Image>, String)>);

/// Steps of recent builds, by the ids of the images they made.
#[derive(Debug, Default)]
pub(super) struct Recent(VecDeque<(Digest, Steps)>);

impl Recent {
    pub(super) fn add(&mut self, image: Digest, steps: Steps) {
        self.0.retain(|(known, _)| *known != image);
        self.0.push_back((image, steps));
        while self.0.len() > RECENT_MAX {
            self.0.pop_front();
        }
    }

    fn find(&self, image: &Digest) -> Option<Steps> {
        self.0
            .iter()
            .find(|(known, _)| known == image)
            .map(|(_, steps)| steps.clone())
    }
}

impl Steps {
    pub(super) fn note(&mut self, key: &Digest, image: &Arc<Image>, description: &str) {
        // Without layers there is nothing to keep.
        if !image.layers.is_empty() {
            self.0
                .insert(key.clone(), (Arc::clone(image), description.to_owned()));
        }
    }

    /// Those whose layers `chain` begins with.
    fn on(&self, chain: &[Digest]) -> Self {
        let steps = self
            .0
            .iter()
            .filter(|(_, (image, _))| chain.starts_with(&image.chain_ids));
        Self(steps.map(|(key, step)| (key.clone(), step.clone())).collect())
    }

    /// Images that no other one stands on.
    fn tips(&self) -> Vec<Arc<Image>> {
        let mut tips: Vec<Arc<Image>> = Vec::new();
        for (image, _) in self.0.values() {
            let is_below = |other: &Arc<Image>| other.chain_ids.starts_with(&image.chain_ids);
            if !tips.iter().any(is_below) {
                tips.retain(|other| !image.chain_ids.starts_with(&other.chain_ids));
                tips.push(Arc::clone(image));
            }
        }
        tips
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct CacheConfig {
    #[serde(default)]
    layers: Vec<CacheLayer>,
    #[serde(default)]
    records: Vec<CacheRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
struct CacheLayer {
    blob: Digest,
    #[serde(default = "no_parent")]
    parent: i64,
    #[serde(default)]
    annotations: LayerAnnotations,
}

fn no_parent() -> i64 {
    -1
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayerAnnotations {
    #[serde(default)]
    media_type: String,
    #[serde(rename = "diffID")]
    diff_id: Option<Digest>,
    #[serde(default)]
    size: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct CacheRecord {
    digest: Digest,
    #[serde(default, rename = "layers")]
    results: Vec<CacheResult>,
    /// Not one of BuildKit's, which passes over it.
    #[serde(default)]
    description: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct CacheResult {
    layer: usize,
}

/// A cache to be sent; its layers stay while this lives.
struct Export<'a> {
    artifact: Artifact,
    _parcels: Vec<Parcel<'a>>,
}

fn export<'a>(engine: &'a Engine, steps: &Steps) -> Result<Export<'a>> {
    let (mut config, mut layers): (CacheConfig, Vec<ParcelLayer>) = Default::default();
    let mut numbers: HashMap<Digest, usize> = HashMap::new();
    let mut parcels = Vec::new();
    for image in steps.tips() {
        let parcel = engine.content.pack(&image).map_err(crate::images::error)?;
        let mut parent = -1;
        for (chain, layer) in image.chain_ids.iter().zip(&parcel.layers) {
            let number = *numbers.entry(chain.clone()).or_insert_with(|| {
                config.layers.push(CacheLayer {
                    blob: layer.descriptor.digest.clone(),
                    parent,
                    annotations: LayerAnnotations {
                        media_type: layer.descriptor.media_type.clone(),
                        diff_id: Some(layer.diff_id.clone()),
                        size: layer.descriptor.size,
                    },
                });
                layers.push(layer.clone());
                config.layers.len() - 1
            });
            parent = number as i64;
        }
        parcels.push(parcel);
    }
    for (key, (image, description)) in &steps.0 {
        let top = image.chain_ids.last().and_then(|chain| numbers.get(chain));
        config.records.extend(top.map(|layer| CacheRecord {
            digest: key.clone(),
            results: vec![CacheResult { layer: *layer }],
            description: description.clone(),
        }));
    }
    let config = to_json(&config)?;
    layers.dedup_by(|one, other| one.descriptor.digest == other.descriptor.digest);
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type::OCI_MANIFEST.to_owned(),
        config: descriptor(CONFIG_TYPE, &config),
        layers: layers.iter().map(|layer| layer.descriptor.clone()).collect(),
        annotations: BTreeMap::new(),
    };
    let artifact = Artifact {
        manifest: to_json(&manifest)?,
        media_type: media_type::OCI_MANIFEST.to_owned(),
        config_descriptor: manifest.config,
        config,
        layers,
    };
    Ok(Export {
        artifact,
        _parcels: parcels,
    })
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| EngineError::system(format!("cannot write the cache: {error}")))
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Descriptor {
    let mut hash = cache::HashWriter::default();
    let _ = hash.write_all(bytes);
    Descriptor {
        media_type: media_type.to_owned(),
        digest: hash.finish(),
        size: bytes.len() as u64,
        urls: Vec::new(),
        annotations: BTreeMap::new(),
        platform: None,
    }
}

impl Engine {
    /// The cache of a recent build, by the image it made, as an OCI layout in an archive.
    pub fn export_cache(self: &Arc<Self>, image: &Digest, has_all: bool) -> Result<Chunks> {
        let steps = self.builds.recent().find(image);
        let steps = steps.ok_or_else(|| {
            EngineError::not_found(format!(
                "the steps of the build of {image} are not known any more: build it again"
            ))
        })?;
        let chain = self.content.image(image.as_str()).map_err(crate::images::error)?;
        let steps = if has_all {
            steps
        } else {
            steps.on(&chain.chain_ids)
        };
        let (engine, (mut writer, chunks)) = (Arc::clone(self), pipe());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = write_layout(&engine, &steps, &mut writer) {
                writer.fail(io::Error::other(error.message));
            } else {
                let _ = writer.flush();
            }
        });
        Ok(chunks)
    }

    /// Sends a build's cache to a registry.
    async fn send_cache(self: &Arc<Self>, steps: Steps, request: PushRequest) -> Result<()> {
        let engine = Arc::clone(self);
        let (told, mut heard) = mpsc::channel(64);
        let sending = blocking(move || {
            let export = export(&engine, &steps)?;
            engine.push_artifact(&request, &export.artifact, &TransferTeller::new(told))
        });
        // Listened to until its end: nobody listening would end it.
        let listening = async { while heard.recv().await.is_some() {} };
        tokio::join!(sending, listening).0
    }
}

fn write_layout(engine: &Engine, steps: &Steps, output: impl Write) -> Result<()> {
    let export = export(engine, steps)?;
    let artifact = &export.artifact;
    let mut archive = tar::Builder::new(output);
    let mut write = |name: &str, bytes: u64, content: &mut dyn Read| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, name, content)
            .map_err(|error| EngineError::system(format!("write the cache: {name}: {error}")))
    };
    let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    for layer in &artifact.layers {
        let mut content = engine.content.open_layer(layer).map_err(crate::images::error)?;
        write(
            &blob(&layer.descriptor.digest),
            layer.descriptor.size,
            &mut content,
        )?;
    }
    let config = &artifact.config_descriptor;
    write(&blob(&config.digest), config.size, &mut &artifact.config[..])?;
    let manifest = descriptor(&artifact.media_type, &artifact.manifest);
    write(
        &blob(&manifest.digest),
        manifest.size,
        &mut &artifact.manifest[..],
    )?;
    let index =
        to_json(&json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [manifest] }))?;
    write("index.json", index.len() as u64, &mut &index[..])?;
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    write("oci-layout", layout.len() as u64, &mut &layout[..])?;
    let finished = archive.finish();
    finished.map_err(|error| EngineError::system(format!("write the cache: {error}")))
}

/// A cache that steps are looked for in.
#[derive(Debug)]
pub(super) struct Imported {
    name: String,
    config: CacheConfig,
    place: Place,
}

enum Place {
    Registry(Arc<Repository>),
    Layout(Arc<PackedTree>),
}

impl std::fmt::Debug for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Registry(_) => "Registry",
            Self::Layout(_) => "Layout",
        })
    }
}

/// A step's layers as a cache has them, bottom first.
struct Remembered<'a> {
    layers: Vec<&'a CacheLayer>,
    description: &'a str,
}

impl CacheConfig {
    fn find(&self, key: &Digest) -> Option<Remembered<'_>> {
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
        Some(Remembered {
            layers,
            description: &record.description,
        })
    }
}

impl Builder {
    /// Opens the caches that were named; what cannot be had is told, and the build goes on without.
    pub(super) async fn open_caches(&self) -> Vec<Imported> {
        let mut caches = Vec::new();
        for source in &self.request.cache_from {
            let (name, opened) = match source {
                CacheSource::Registry(name) => (name.clone(), self.open_registry_cache(name).await),
                CacheSource::Archived(directory) => {
                    ("the directory".to_owned(), self.open_layout(directory).await)
                }
            };
            match opened {
                Ok((config, place)) => caches.push(Imported { name, config, place }),
                Err(error) => {
                    let text = format!("[Warning] no cache is used of {name}: {}\n", error.message);
                    self.teller.tell(BuildStep::Note(text)).await;
                }
            }
        }
        caches
    }

    async fn open_registry_cache(&self, name: &str) -> Result<(CacheConfig, Place)> {
        let reference = Reference::parse(name).map_err(|error| EngineError::invalid(error.to_string()))?;
        let reference = reference.or_latest();
        let credentials = self.credentials_for(&reference).await?;
        let (repository, manifest) = self.engine.open_artifact(&reference, credentials).await?;
        let ManifestDocument::Manifest(manifest) = manifest.document else {
            return Err(no_cache());
        };
        if manifest.config.media_type != CONFIG_TYPE {
            return Err(no_cache());
        }
        let config = repository
            .blob(&manifest.config, CONFIG_BYTES_MAX, "the cache")
            .await?;
        Ok((parse_config(&config)?, Place::Registry(Arc::new(repository))))
    }

    async fn open_layout(&self, directory: &str) -> Result<(CacheConfig, Place)> {
        let tree = self
            .named
            .lock()
            .await
            .get(directory)
            .cloned()
            .ok_or_else(no_cache)?;
        let opened = Arc::clone(&tree);
        let config = blocking(move || {
            let read = |name: &str| {
                let bytes = opened.read_file(Path::new(name), CONFIG_BYTES_MAX);
                bytes.map_err(|errno| EngineError::invalid(format!("{name}: {errno}")))
            };
            let blob = |descriptor: &Descriptor| read(&format!("/blobs/sha256/{}", descriptor.digest.hex()));
            let index: naru_oci::Index = parse_document(&read("/index.json")?)?;
            let manifest = index.manifests.first().ok_or_else(no_cache)?;
            let manifest: Manifest = parse_document(&blob(manifest)?)?;
            if manifest.config.media_type != CONFIG_TYPE {
                return Err(no_cache());
            }
            let config = blob(&manifest.config)?;
            if descriptor(CONFIG_TYPE, &config).digest != manifest.config.digest {
                return Err(EngineError::invalid("its configuration is damaged"));
            }
            parse_config(&config)
        })
        .await?;
        Ok((config, Place::Layout(tree)))
    }

    /// What a step made elsewhere, taken over; nothing where no cache has it, or not as it says.
    pub(super) async fn import_step(&self, key: &Digest, stage: &Stage) -> Option<Arc<Image>> {
        for cache in self.caches.get()? {
            let Some(found) = cache.config.find(key) else {
                continue;
            };
            match self.take_over(cache, &found, stage).await {
                Ok(image) => {
                    let noted = self.engine.note_step(key, &image.id, found.description);
                    noted.ok()?;
                    return Some(image);
                }
                Err(error) => {
                    let text = format!(
                        "[Warning] a step of the cache {} is not used: {}\n",
                        cache.name, error.message
                    );
                    stage.teller.tell(BuildStep::Note(text)).await;
                }
            }
        }
        None
    }

    async fn take_over(&self, cache: &Imported, found: &Remembered<'_>, stage: &Stage) -> Result<Arc<Image>> {
        let diff_ids: Option<Vec<Digest>> = found
            .layers
            .iter()
            .map(|layer| layer.annotations.diff_id.clone())
            .collect();
        let new = diff_ids
            .as_deref()
            .and_then(|diff_ids| diff_ids.strip_prefix(stage.layers()));
        let (content, base) = (Arc::clone(&self.engine.content), stage.image.clone());
        let made = match (new, found.layers.last()) {
            (Some([]), _) => {
                blocking(move || {
                    let made = content.configure_step(base.as_deref(), super::bring::plain_config());
                    made.map_err(crate::images::error)
                })
                .await?
            }
            (Some([diff_id]), Some(layer)) => {
                let (diff_id, blob) = (diff_id.clone(), layer.blob.clone());
                let archive = fetch(cache, layer).await?;
                blocking(move || {
                    let config = super::bring::plain_config();
                    let made = content.import_step(base.as_deref(), config, &diff_id, &blob, archive);
                    made.map_err(crate::images::error)
                })
                .await?
            }
            _ => {
                return Err(EngineError::invalid(
                    "its layers are not those that the step stands on",
                ));
            }
        };
        self.engine
            .content
            .image(made.id.as_str())
            .map_err(crate::images::error)
    }

    /// Sends the cache where it was asked for.
    pub(super) async fn send_caches(&self, image: &Digest) -> Result<()> {
        let steps = self.steps_made();
        for target in &self.request.cache_to {
            let sent = self.send_cache_to(target, image, &steps).await;
            match sent {
                Err(error) if target.ignores_errors => {
                    let text = format!(
                        "[Warning] the cache is not sent to {}: {}\n",
                        target.reference, error.message
                    );
                    self.teller.tell(BuildStep::Note(text)).await;
                }
                sent => sent?,
            }
        }
        self.engine.builds.recent().add(image.clone(), steps);
        Ok(())
    }

    async fn send_cache_to(&self, target: &CacheTarget, image: &Digest, steps: &Steps) -> Result<()> {
        let wrong = |error: &dyn std::fmt::Display| {
            EngineError::invalid(format!(
                "the cache cannot be sent to {}: {error}",
                target.reference
            ))
        };
        let reference = Reference::parse(&target.reference).map_err(|error| wrong(&error))?;
        let reference = reference.or_latest();
        let image = self
            .engine
            .content
            .image(image.as_str())
            .map_err(crate::images::error)?;
        let steps = if target.has_all {
            steps.clone()
        } else {
            steps.on(&image.chain_ids)
        };
        let request = PushRequest {
            credentials: self.credentials_for(&reference).await?,
            reference,
        };
        let sent = self.engine.send_cache(steps, request).await;
        sent.map_err(|error| EngineError::new(error.kind, wrong(&error.message).message))?;
        let text = format!("The cache is at {}\n", target.reference);
        self.teller.tell(BuildStep::Note(text)).await;
        Ok(())
    }
}

fn no_cache() -> EngineError {
    EngineError::invalid("it holds no cache of builds")
}

fn parse_document<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| EngineError::invalid(format!("it cannot be read: {error}")))
}

fn parse_config(bytes: &[u8]) -> Result<CacheConfig> {
    parse_document(bytes)
}

/// The bytes of a layer as they come; nobody has compared them with their digest yet.
async fn fetch(cache: &Imported, layer: &CacheLayer) -> Result<Box<dyn Read + Send>> {
    match &cache.place {
        Place::Layout(tree) => {
            let name = format!("/blobs/sha256/{}", layer.blob.hex());
            let opened = tree.open_file(Path::new(&name));
            opened.map_err(|errno| EngineError::invalid(format!("{name}: {errno}")))
        }
        Place::Registry(repository) => {
            let described = Descriptor {
                media_type: layer.annotations.media_type.clone(),
                digest: layer.blob.clone(),
                size: layer.annotations.size,
                urls: Vec::new(),
                annotations: BTreeMap::new(),
                platform: None,
            };
            let mut stream = repository.open_blob(&described, 0, "a cached layer").await?;
            let (pieces, chunks) = mpsc::channel(8);
            tokio::spawn(async move {
                loop {
                    let piece = match stream.next().await {
                        Ok(None) => return,
                        Ok(Some(piece)) => Ok(piece),
                        Err(error) => Err(io::Error::other(error.to_string())),
                    };
                    let is_broken = piece.is_err();
                    if pieces.send(piece).await.is_err() || is_broken {
                        return;
                    }
                }
            });
            Ok(Box::new(ChunkReader::new(chunks)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: u8) -> Digest {
        Digest::from_sha256([byte; 32])
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
        let config = parse_config(text.to_string().as_bytes()).unwrap();
        let blobs = |key| {
            let found = config.find(&digest(key))?;
            Some(
                found
                    .layers
                    .iter()
                    .map(|layer| layer.blob.clone())
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(blobs(21), Some(vec![digest(1), digest(2)]));
        for key in [22, 23, 24, 25] {
            assert_eq!(blobs(key), None, "{key}");
        }
        assert!(parse_config(b"{\"layers\":1}").is_err());
    }
}
