//! What a registry is asked besides images: whether credentials are good, what it has.

use super::pull::{find_named, told};
use crate::Engine;
use crate::archive::Chunks;
use crate::error::Result;
use naru_base::Digest;
use naru_content::parse_config;
use naru_oci::{ManifestDocument, Platform, Reference};
use naru_registry::{Credentials, Found, LoggedIn};
use std::io;
use tokio::sync::mpsc;

/// Longest configuration read to learn an image's platform.
const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// Pieces of a download in flight; each is what one read of its connection brought.
const DOWNLOAD_CHUNKS_MAX: usize = 16;

/// What a registry has under a name.
#[derive(Debug, Clone)]
pub struct Distribution {
    pub media_type: String,
    pub digest: Digest,
    pub bytes: u64,
    pub platforms: Vec<Platform>,
}

impl Engine {
    /// Tries credentials at the registry they name.
    pub async fn log_in(&self, credentials: &Credentials) -> Result<LoggedIn> {
        Ok(naru_registry::log_in(&self.options.registry, credentials).await?)
    }

    /// Asks a registry for repositories.
    pub async fn search_registry(
        &self,
        term: &str,
        results_max: u32,
        credentials: Option<Credentials>,
    ) -> Result<Vec<Found>> {
        Ok(naru_registry::search(&self.options.registry, term, results_max, credentials).await?)
    }

    /// A file from a web server, as it comes; what breaks later ends it with an error.
    pub async fn open_url(&self, url: &str) -> Result<Chunks> {
        let mut download = naru_registry::download(&self.options.registry, url).await?;
        let (sender, chunks) = mpsc::channel(DOWNLOAD_CHUNKS_MAX);
        tokio::spawn(async move {
            loop {
                let chunk = match download.next().await {
                    Ok(None) => break,
                    Ok(Some(chunk)) => Ok(chunk),
                    Err(error) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, error.to_string())),
                };
                let is_broken = chunk.is_err();
                if sender.send(chunk).await.is_err() || is_broken {
                    break;
                }
            }
        });
        Ok(chunks)
    }

    /// Asks a registry what a name means there.
    pub async fn inspect_distribution(
        &self,
        reference: &Reference,
        credentials: Option<Credentials>,
    ) -> Result<Distribution> {
        let reference = reference.clone().or_latest();
        let options = &self.options.registry;
        let (repository, named) = find_named(options, &reference, credentials.as_ref()).await?;
        let platforms = match &named.document {
            ManifestDocument::Index(index) => index
                .manifests
                .iter()
                .filter_map(|descriptor| descriptor.platform.clone())
                .collect(),
            ManifestDocument::Manifest(manifest) => {
                let fetched =
                    repository.blob(&manifest.config, CONFIG_BYTES_MAX, "the image's configuration");
                let raw = fetched.await.map_err(|error| told(error, &reference))?;
                // An artifact has a configuration that is none, and no platform.
                let config = parse_config(&raw).ok();
                let platform = config.map(|config| Platform {
                    architecture: config.architecture,
                    os: config.os,
                    variant: config.variant,
                });
                platform.into_iter().collect()
            }
        };
        Ok(Distribution {
            media_type: named.media_type,
            digest: named.digest,
            bytes: named.bytes.len() as u64,
            platforms,
        })
    }
}
