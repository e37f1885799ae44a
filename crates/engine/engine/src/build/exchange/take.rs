//! Steps that were made elsewhere, taken over.

use super::CacheSource;
use super::contents;
use super::document::{CONFIG_BYTES_MAX, CONFIG_TYPE, CacheConfig, CacheLayer, CacheMount, parse};
use crate::archive::{ChunkReader, blocking};
use crate::build::bring::plain_config;
use crate::build::packed::PackedTree;
use crate::build::solve::{Builder, Stage};
use crate::build::{BuildClient, BuildStep, cache};
use crate::error::{EngineError, Result};
use naru_base::{Digest, ErrorKind};
use naru_content::Image;
use naru_oci::{Descriptor, ImageConfig, Index, Manifest, Reference, media_type};
use naru_registry::Repository;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Of a manifest that a client keeps; as registries' clients have it.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// A cache that steps are looked for in.
#[derive(Debug)]
pub(in crate::build) struct Imported {
    name: String,
    config: CacheConfig,
    place: Place,
}

/// What has a cache's blobs.
enum Place {
    Registry(Arc<Repository>),
    Layout(Arc<PackedTree>),
    Client(Arc<dyn BuildClient>, String),
    /// An image here: its layers need not be fetched.
    Image,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Registry(_) => "Registry",
            Self::Layout(_) => "Layout",
            Self::Client(..) => "Client",
            Self::Image => "Image",
        })
    }
}

type Opened = Result<(CacheConfig, Place)>;

impl Builder {
    /// Opens the caches that were named; what cannot be had is told, and the build goes on without.
    pub(in crate::build) async fn open_caches(&self) -> Vec<Imported> {
        let mut caches = Vec::new();
        if self.request.no_cache {
            return caches;
        }
        for source in &self.request.cache_from {
            let (name, opened) = match source {
                CacheSource::Named(name) => (name.as_str(), self.open_named(name).await),
                CacheSource::Image(name) => (name.as_str(), self.open_image(name)),
                CacheSource::Archived(directory) => ("the directory", self.open_layout(directory).await),
                CacheSource::Client { store, manifest } => {
                    (store.as_str(), self.open_client_cache(store, manifest).await)
                }
            };
            match opened {
                Ok((config, place)) => caches.push(Imported {
                    name: name.to_owned(),
                    config,
                    place,
                }),
                Err(error) => {
                    let text = format!("[Warning] no cache is used of {name}: {}\n", error.message);
                    self.teller.tell(BuildStep::Note(text)).await;
                }
            }
        }
        caches
    }

    /// An image that is here is the one that is meant, as with Docker.
    async fn open_named(&self, name: &str) -> Opened {
        match self.open_image(name) {
            Err(error) if error.kind == ErrorKind::NotFound => self.open_registry_cache(name).await,
            opened => opened,
        }
    }

    fn open_image(&self, name: &str) -> Opened {
        let image = self.engine.content.image(name).map_err(crate::images::error)?;
        let text = image.config.cache.as_deref().ok_or_else(no_cache_in_image)?;
        let layers = image.layers.iter();
        let layers = layers.map(|diff_id| (Descriptor::new("", diff_id.clone(), 0), diff_id.clone()));
        Ok((CacheConfig::of_image(text, layers)?, Place::Image))
    }

    async fn open_registry_cache(&self, name: &str) -> Opened {
        let reference = Reference::parse(name).map_err(|error| EngineError::invalid(error.to_string()))?;
        let reference = reference.or_latest();
        let credentials = self.credentials_for(&reference).await?;
        let platform = self.request.platform.clone();
        let opened = self
            .engine
            .open_artifact(&reference, credentials, platform)
            .await?;
        let (repository, manifest) = opened;
        let config = &manifest.config;
        let is_image = matches!(
            config.media_type.as_str(),
            media_type::OCI_CONFIG | media_type::DOCKER_CONFIG
        );
        if !is_image && config.media_type != CONFIG_TYPE {
            return Err(no_cache());
        }
        let bytes = repository.blob(config, CONFIG_BYTES_MAX, "the cache").await?;
        let config = if is_image {
            config_of_image(&parse(&bytes)?, manifest.layers)?
        } else {
            parse(&bytes)?
        };
        Ok((config, Place::Registry(Arc::new(repository))))
    }

    async fn open_layout(&self, directory: &str) -> Opened {
        let tree = self.named.lock().await.get(directory).cloned();
        let tree = tree.ok_or_else(no_cache)?;
        let opened = Arc::clone(&tree);
        let config = blocking(move || {
            let read = |name: &str| {
                let bytes = opened.read_file(Path::new(name), CONFIG_BYTES_MAX);
                bytes.map_err(|errno| EngineError::invalid(format!("{name}: {errno}")))
            };
            let blob = |descriptor: &Descriptor| read(&format!("/blobs/sha256/{}", descriptor.digest.hex()));
            let index: Index = parse(&read("/index.json")?)?;
            let manifest = index.manifests.first().ok_or_else(no_cache)?;
            let manifest: Manifest = parse(&blob(manifest)?)?;
            if manifest.config.media_type != CONFIG_TYPE {
                return Err(no_cache());
            }
            let config = blob(&manifest.config)?;
            check(&config, &manifest.config.digest)?;
            parse(&config)
        })
        .await?;
        Ok((config, Place::Layout(tree)))
    }

    async fn open_client_cache(&self, store: &str, manifest: &Digest) -> Opened {
        let client = self.request.client.clone().ok_or_else(no_cache)?;
        let manifest: Manifest = parse(&read_blob(&*client, store, manifest, MANIFEST_BYTES_MAX).await?)?;
        if manifest.config.media_type != CONFIG_TYPE {
            return Err(no_cache());
        }
        let config = &manifest.config.digest;
        let config = parse(&read_blob(&*client, store, config, CONFIG_BYTES_MAX).await?)?;
        Ok((config, Place::Client(client, store.to_owned())))
    }

    /// What a step made elsewhere, taken over; nothing where no cache has it, or not as it says.
    pub(in crate::build) async fn import_step(
        &self,
        key: &Digest,
        stage: &Stage,
        description: &str,
    ) -> Option<Arc<Image>> {
        for cache in self.caches.get()? {
            let Some(found) = cache.config.find(key) else {
                continue;
            };
            match self.take_over(cache, &found, stage).await {
                Ok(image) => {
                    let noted = self.engine.note_step(key, &image.id, description);
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

    async fn take_over(&self, cache: &Imported, found: &[&CacheLayer], stage: &Stage) -> Result<Arc<Image>> {
        let diff_ids: Option<Vec<Digest>> = found
            .iter()
            .map(|layer| layer.annotations.diff_id.clone())
            .collect();
        let diff_ids = diff_ids.unwrap_or_default();
        let content = Arc::clone(&self.engine.content);
        let made = match (diff_ids.strip_prefix(stage.layers()), found.last()) {
            // Nothing new; or the layer is an image's that is here.
            (Some(new), _) if new.is_empty() || (new.len() == 1 && matches!(cache.place, Place::Image)) => {
                blocking(move || {
                    let made = content.configure_step(&diff_ids, plain_config());
                    made.map_err(crate::images::error)
                })
                .await?
            }
            (Some([diff_id]), Some(layer)) => {
                let (diff_id, blob, base) = (diff_id.clone(), layer.blob.clone(), stage.image.clone());
                let archive = cache.fetch(&layer.descriptor(), "a cached layer").await?;
                blocking(move || {
                    let made = content.import_step(base.as_deref(), plain_config(), &diff_id, &blob, archive);
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
        let made = self.engine.content.image(made.id.as_str());
        made.map_err(crate::images::error)
    }

    /// Fills a new directory with what a cache mount had elsewhere; false where no cache has it, or not as it says.
    pub(in crate::build) async fn import_mount(&self, name: &str, directory: &Path) -> bool {
        for cache in self.caches.get().into_iter().flatten() {
            let Some(mount) = cache.config.mounts.iter().find(|mount| mount.name == name) else {
                continue;
            };
            match cache.take_mount(mount, directory).await {
                Ok(()) => return true,
                Err(error) => {
                    let text = format!(
                        "[Warning] a cache mount of the cache {} is not used: {}\n",
                        cache.name, error.message
                    );
                    self.teller.tell(BuildStep::Note(text)).await;
                }
            }
        }
        false
    }
}

impl Imported {
    async fn take_mount(&self, mount: &CacheMount, directory: &Path) -> Result<()> {
        let content = self.fetch(&mount.descriptor(), "a cache mount").await?;
        let (mount, directory) = (mount.clone(), directory.to_owned());
        blocking(move || contents::unpack(&mount, content, &directory)).await
    }

    /// The bytes of a blob as they come; nobody has compared them with their digest yet.
    async fn fetch(&self, blob: &Descriptor, what: &str) -> Result<Box<dyn Read + Send>> {
        match &self.place {
            Place::Image => Err(EngineError::system(format!("{what} is not here as a blob"))),
            Place::Client(client, store) => {
                let chunks = client.blob(store, &blob.digest).await?;
                Ok(Box::new(ChunkReader::new(chunks)))
            }
            Place::Layout(tree) => {
                let name = format!("/blobs/sha256/{}", blob.digest.hex());
                let opened = tree.open_file(Path::new(&name));
                opened.map_err(|errno| EngineError::invalid(format!("{name}: {errno}")))
            }
            Place::Registry(repository) => {
                let mut stream = repository.open_blob(blob, 0, what).await?;
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
}

/// The cache that an image carries, with its layers as its registry has them.
fn config_of_image(image: &ImageConfig, blobs: Vec<Descriptor>) -> Result<CacheConfig> {
    let text = image.cache.as_deref().ok_or_else(no_cache_in_image)?;
    let diff_ids = &image.rootfs.diff_ids;
    if blobs.len() != diff_ids.len() {
        return Err(EngineError::invalid(format!(
            "its manifest has {} layers and its configuration {}",
            blobs.len(),
            diff_ids.len()
        )));
    }
    CacheConfig::of_image(text, blobs.into_iter().zip(diff_ids.iter().cloned()))
}

/// A small blob of a store of the client's, compared with its digest.
async fn read_blob(
    client: &dyn BuildClient,
    store: &str,
    digest: &Digest,
    bytes_max: u64,
) -> Result<Vec<u8>> {
    let chunks = client.blob(store, digest).await?;
    let bytes = blocking(move || {
        let mut bytes = Vec::new();
        let read = ChunkReader::new(chunks).take(bytes_max).read_to_end(&mut bytes);
        read.map_err(|error| EngineError::invalid(error.to_string()))?;
        Ok(bytes)
    });
    let bytes = bytes.await?;
    check(&bytes, digest)?;
    Ok(bytes)
}

fn digest_of(bytes: &[u8]) -> Digest {
    let mut hash = cache::HashWriter::default();
    // A hash takes everything.
    let _ = hash.write_all(bytes);
    hash.finish()
}

fn check(bytes: &[u8], digest: &Digest) -> Result<()> {
    if digest_of(bytes) == *digest {
        return Ok(());
    }
    Err(EngineError::invalid(format!("its part {digest} is damaged")))
}

fn no_cache() -> EngineError {
    EngineError::invalid("it holds no cache of builds")
}

fn no_cache_in_image() -> EngineError {
    EngineError::invalid(
        "it is an image that carries no cache: build it with --cache-to type=inline, or BUILDKIT_INLINE_CACHE=1 as a build \
         argument",
    )
}
