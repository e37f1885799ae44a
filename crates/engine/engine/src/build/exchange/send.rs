//! A build's cache on its way out.

use super::document::{
    CONFIG_TYPE, CacheConfig, CacheLayer, CacheRecord, CacheResult, LayerAnnotations, to_json,
};
use super::{CachePlace, CacheTarget, Steps, contents};
use crate::Engine;
use crate::archive::channel::pipe;
use crate::archive::{Chunks, blocking, stream};
use crate::build::solve::Builder;
use crate::build::{BuildClient, BuildStep, cache};
use crate::error::{EngineError, Result};
use crate::images::{Artifact, ArtifactFile, PushRequest, Teller as TransferTeller};
use naru_base::Digest;
use naru_content::{Parcel, ParcelLayer};
use naru_oci::{Descriptor, Manifest, Reference, media_type};
use serde_json::json;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Cursor, Read, Write};
use std::sync::Arc;
use tokio::sync::mpsc;

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
    for (key, image) in &steps.made {
        let top = image.chain_ids.last().and_then(|chain| numbers.get(chain));
        config.records.extend(top.map(|layer| CacheRecord {
            digest: key.clone(),
            results: vec![CacheResult { layer: *layer }],
        }));
    }
    let mut files: Vec<ArtifactFile> = Vec::new();
    for name in &steps.mounts {
        if let Some((mount, file)) = contents::pack(engine, name)? {
            config.mounts.push(mount);
            files.push(file);
        }
    }
    let mut seen = HashSet::new();
    layers.retain(|layer| seen.insert(layer.descriptor.digest.clone()));
    files.retain(|file| seen.insert(file.descriptor.digest.clone()));
    let config = to_json(&config)?;
    let of_layers = layers.iter().map(|layer| layer.descriptor.clone());
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type::OCI_MANIFEST.to_owned(),
        config: description(CONFIG_TYPE, &config),
        layers: of_layers
            .chain(files.iter().map(|file| file.descriptor.clone()))
            .collect(),
        annotations: BTreeMap::new(),
    };
    let artifact = Artifact {
        manifest: to_json(&manifest)?,
        media_type: media_type::OCI_MANIFEST.to_owned(),
        config_descriptor: manifest.config,
        config,
        layers,
        files,
    };
    Ok(Export {
        artifact,
        _parcels: parcels,
    })
}

fn description(media_type: &str, bytes: &[u8]) -> Descriptor {
    let mut hash = cache::HashWriter::default();
    // A hash takes everything.
    let _ = hash.write_all(bytes);
    Descriptor::new(media_type, hash.finish(), bytes.len() as u64)
}

impl Export<'_> {
    /// Gives every blob, the manifest last; returns what describes that.
    fn each_blob(
        self,
        engine: &Engine,
        mut give: impl FnMut(&Descriptor, Box<dyn Read + Send>) -> Result<()>,
    ) -> Result<Descriptor> {
        let artifact = self.artifact;
        for layer in &artifact.layers {
            let content = engine.content.open_layer(layer).map_err(crate::images::error)?;
            give(&layer.descriptor, content)?;
        }
        for file in &artifact.files {
            give(&file.descriptor, file.open())?;
        }
        give(
            &artifact.config_descriptor,
            Box::new(Cursor::new(artifact.config)),
        )?;
        let manifest = description(&artifact.media_type, &artifact.manifest);
        give(&manifest, Box::new(Cursor::new(artifact.manifest)))?;
        Ok(manifest)
    }
}

impl Engine {
    /// The cache of a recent build, by the image it made, as an OCI layout in an archive.
    pub fn export_cache(self: &Arc<Self>, image: &Digest, has_all: bool, has_mounts: bool) -> Result<Chunks> {
        let steps = self.builds.recent().find(image);
        let steps = steps.ok_or_else(|| {
            EngineError::not_found(format!(
                "the steps of the build of {image} are not known any more: build it again"
            ))
        })?;
        let image = self.content.image(image.as_str()).map_err(crate::images::error)?;
        let steps = steps.chosen(&image, has_all, has_mounts);
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

    /// Gives a build's cache to its client, blob by blob.
    async fn give_cache(
        self: &Arc<Self>,
        steps: Steps,
        client: Arc<dyn BuildClient>,
        store: String,
    ) -> Result<()> {
        let engine = Arc::clone(self);
        let runtime = tokio::runtime::Handle::current();
        blocking(move || {
            let give = |blob: &Descriptor, mut content: Box<dyn Read + Send>| {
                let chunks = stream(move |output| io::copy(&mut content, output).map(drop));
                runtime.block_on(client.keep_blob(&store, blob, chunks))
            };
            let manifest = export(&engine, &steps)?.each_blob(&engine, give)?;
            client.note_cache(&manifest);
            Ok(())
        })
        .await
    }
}

fn write_layout(engine: &Engine, steps: &Steps, output: impl Write) -> Result<()> {
    let mut archive = tar::Builder::new(output);
    let mut write = |name: &str, bytes: u64, content: &mut dyn Read| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, name, content)
            .map_err(|error| EngineError::system(format!("write the cache: {name}: {error}")))
    };
    let manifest = export(engine, steps)?.each_blob(engine, |blob, mut content| {
        let name = format!("blobs/sha256/{}", blob.digest.hex());
        write(&name, blob.size, &mut content)
    })?;
    let index =
        to_json(&json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [manifest] }))?;
    write("index.json", index.len() as u64, &mut &index[..])?;
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    write("oci-layout", layout.len() as u64, &mut &layout[..])?;
    let finished = archive.finish();
    finished.map_err(|error| EngineError::system(format!("write the cache: {error}")))
}

impl Builder {
    /// Sends the cache where it was asked for.
    pub(in crate::build) async fn send_caches(&self, image: &Digest) -> Result<()> {
        let steps = self.steps_made();
        for target in &self.request.cache_to {
            let sent = self.send_cache_to(target, image, &steps).await;
            let name = target.place.name();
            let text = match sent {
                Ok(()) => format!("The cache is at {name}\n"),
                Err(error) if target.ignores_errors => {
                    format!("[Warning] the cache is not sent to {name}: {}\n", error.message)
                }
                Err(error) => {
                    let message = format!("the cache cannot be sent to {name}: {}", error.message);
                    return Err(EngineError::new(error.kind, message));
                }
            };
            self.teller.tell(BuildStep::Note(text)).await;
        }
        self.engine.builds.recent().add(image.clone(), steps);
        Ok(())
    }

    async fn send_cache_to(&self, target: &CacheTarget, image: &Digest, steps: &Steps) -> Result<()> {
        let image = self.engine.content.image(image.as_str());
        let image = image.map_err(crate::images::error)?;
        let steps = steps.chosen(&image, target.has_all, target.has_mounts);
        match &target.place {
            CachePlace::Registry(name) => {
                let reference =
                    Reference::parse(name).map_err(|error| EngineError::invalid(error.to_string()))?;
                let reference = reference.or_latest();
                let request = PushRequest {
                    credentials: self.credentials_for(&reference).await?,
                    reference,
                };
                self.engine.send_cache(steps, request).await
            }
            CachePlace::Client(store) => {
                let client = self.request.client.clone();
                let client = client.ok_or_else(|| EngineError::invalid("the client keeps no caches"))?;
                self.engine.give_cache(steps, client, store.clone()).await
            }
        }
    }
}
