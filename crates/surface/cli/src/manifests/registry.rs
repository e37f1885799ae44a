//! What registries have under a name, and sending a list to one.

use super::list::check_complete;
use super::{Entry, ManifestList, Platform};
use crate::connect::Global;
use crate::credentials;
use crate::error::{CliError, Result};
use crate::json::Value;
use naru_oci::{DEFAULT_TAG, Index, Manifest, ManifestDocument, Reference};
use naru_registry::{
    Credentials, FetchedManifest, Purpose, RegistryError, RegistryOptions, Repository, UploadStart,
    plan_endpoints,
};
use std::collections::BTreeSet;
use tokio::runtime::{Builder, Runtime};

/// Configurations of images are some KiB; this is what the engine allows them too.
const CONFIGURATION_BYTES_MAX: u64 = 16 << 20;

/// What a name stands for in a registry.
#[derive(Debug)]
pub enum Fetched {
    Image(Entry),
    List(Vec<Entry>),
}

/// Registries, spoken to from this process.
pub struct Remote<'a> {
    config: &'a Global,
    options: RegistryOptions,
    is_insecure: bool,
    runtime: Runtime,
}

impl<'a> Remote<'a> {
    /// `is_insecure`: the registry may be spoken to without TLS or a trusted certificate.
    pub fn new(config: &'a Global, is_insecure: bool) -> Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| CliError::message(format!("cannot prepare to speak to registries: {error}")))?;
        Ok(Self {
            config,
            options: RegistryOptions::default(),
            is_insecure,
            runtime,
        })
    }

    /// Fetches what is under a name.
    pub fn fetch(&self, reference: &Reference) -> Result<Fetched> {
        self.runtime.block_on(async {
            let what = format!("manifest {reference}");
            let (repository, fetched) = self.find(reference, &what).await?;
            match &fetched.document {
                ManifestDocument::Manifest(manifest) => {
                    let platform = platform_of(&repository, manifest).await?;
                    Ok(Fetched::Image(entry(reference, &fetched, platform)))
                }
                ManifestDocument::Index(index) => {
                    let entries = fetch_list(&repository, reference, &fetched, index).await?;
                    Ok(Fetched::List(entries))
                }
            }
        })
    }

    /// Sends a list, and before it those of its images that are in other repositories of the registry. Calls `tell`
    /// with each image that was sent; returns the list's digest.
    pub fn push(&self, target: &Reference, entries: &[Entry], tell: impl Fn(String)) -> Result<String> {
        check_complete(entries)?;
        let push = Push {
            target,
            list: ManifestList::of(entries),
            elsewhere: entries_elsewhere(target, entries)?,
        };
        let sources: BTreeSet<String> = push
            .elsewhere
            .iter()
            .map(|image| image.from.path().to_owned())
            .collect();
        let sources: Vec<String> = sources.into_iter().collect();
        self.runtime.block_on(async {
            let mut first = None;
            for repository in self.repositories(target, Purpose::Push, &sources)? {
                match push.send(&repository, &tell).await {
                    Err(error) if is_unreachable(&error) => first = first.or(Some(error)),
                    sent => return sent.map_err(failed),
                }
            }
            Err(first.map_or_else(|| no_endpoint(target), failed))
        })
    }

    fn repositories(
        &self,
        reference: &Reference,
        purpose: Purpose,
        mount_from: &[String],
    ) -> Result<Vec<Repository>> {
        let mut options = self.options.clone();
        if self.is_insecure {
            options.insecure.push(reference.domain().to_owned());
        }
        let known = credentials::find(self.config, credentials::registry_of(&reference.to_string()))?;
        let endpoints = plan_endpoints(&options, reference.domain(), purpose).map_err(failed)?;
        let open = |endpoint| {
            let credentials = known.clone().map(registry_credentials);
            Repository::new(&options, endpoint, reference, purpose, credentials, mount_from).map_err(failed)
        };
        endpoints.into_iter().map(open).collect()
    }

    /// The manifest of a name, at the first endpoint that can be reached.
    async fn find(&self, reference: &Reference, what: &str) -> Result<(Repository, FetchedManifest)> {
        let named = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or(DEFAULT_TAG).to_owned(),
        };
        let mut first = None;
        for repository in self.repositories(reference, Purpose::Pull, &[])? {
            match repository.manifest(&named, what).await {
                Ok(fetched) => return Ok((repository, fetched)),
                Err(error) if is_unreachable(&error) => first = first.or(Some(error)),
                Err(RegistryError::NotFound { .. }) => {
                    return Err(CliError::message(format!("no such manifest: {reference}")));
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Err(first.map_or_else(|| no_endpoint(reference), failed))
    }
}

fn failed(error: RegistryError) -> CliError {
    CliError::message(error.to_string())
}

fn no_endpoint(reference: &Reference) -> CliError {
    CliError::message(format!("registry {} has no endpoint", reference.domain()))
}

fn is_unreachable(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Connect { .. } | RegistryError::Tls { .. })
}

fn registry_credentials(known: credentials::Credentials) -> Credentials {
    Credentials {
        username: known.username,
        password: known.password,
        identitytoken: known.identity_token,
        ..Credentials::default()
    }
}

fn entry(reference: &Reference, fetched: &FetchedManifest, platform: Platform) -> Entry {
    Entry {
        reference: reference.to_string(),
        media_type: fetched.media_type.clone(),
        digest: fetched.digest.to_string(),
        size: fetched.bytes.len() as u64,
        platform,
        raw: fetched.bytes.to_vec(),
    }
}

/// What an image says of itself.
async fn platform_of(repository: &Repository, manifest: &Manifest) -> Result<Platform> {
    let what = format!("configuration {}", manifest.config.digest);
    let bytes = repository
        .blob(&manifest.config, CONFIGURATION_BYTES_MAX, &what)
        .await
        .map_err(failed)?;
    let configuration =
        Value::parse(&bytes).map_err(|error| CliError::message(format!("{what}: {error}")))?;
    Ok(Platform::from_value(&configuration))
}

async fn fetch_list(
    repository: &Repository,
    reference: &Reference,
    fetched: &FetchedManifest,
    index: &Index,
) -> Result<Vec<Entry>> {
    // The typed index knows less of a platform than the document says.
    let document = Value::parse(&fetched.bytes).unwrap_or_default();
    let described = document.get("manifests").items();
    let mut entries = Vec::new();
    for (descriptor, described) in index.manifests.iter().zip(described) {
        let name = format!("{reference}@{}", descriptor.digest);
        let image = repository
            .described_manifest(descriptor, &format!("manifest {name}"))
            .await
            .map_err(failed)?;
        let platform = Platform::from_value(described.get("platform"));
        entries.push(Entry {
            reference: name,
            ..entry(reference, &image, platform)
        });
    }
    Ok(entries)
}

/// An image of a list that the list's repository does not have yet.
struct Elsewhere {
    from: Reference,
    digest: String,
    media_type: String,
    raw: Vec<u8>,
    manifest: Manifest,
}

/// The images to be taken from other repositories; all are of the target's registry.
fn entries_elsewhere(target: &Reference, entries: &[Entry]) -> Result<Vec<Elsewhere>> {
    let mut elsewhere = Vec::new();
    for entry in entries {
        let wrong = |reason: String| CliError::message(format!("manifest {}: {reason}", entry.reference));
        let from = Reference::parse(&entry.reference).map_err(|error| wrong(error.to_string()))?;
        if from.domain() != target.domain() {
            return Err(CliError::message(format!(
                "cannot use source images from a different registry than the target image: {} != {}",
                from.domain(),
                target.domain()
            )));
        }
        if from.path() == target.path() {
            continue;
        }
        let manifest = match ManifestDocument::parse(&entry.raw, Some(&entry.media_type)) {
            Ok(ManifestDocument::Manifest(manifest)) => manifest,
            Ok(ManifestDocument::Index(_)) => return Err(wrong("it is a manifest list".to_owned())),
            Err(error) => return Err(wrong(error.to_string())),
        };
        elsewhere.push(Elsewhere {
            from,
            digest: entry.digest.clone(),
            media_type: entry.media_type.clone(),
            raw: entry.raw.clone(),
            manifest,
        });
    }
    Ok(elsewhere)
}

/// A list on its way.
struct Push<'a> {
    target: &'a Reference,
    list: ManifestList,
    elsewhere: Vec<Elsewhere>,
}

impl Push<'_> {
    async fn send(
        &self,
        repository: &Repository,
        tell: &impl Fn(String),
    ) -> std::result::Result<String, RegistryError> {
        for image in &self.elsewhere {
            send_image(repository, image).await?;
            let name = self.target.repository();
            tell(format!("Pushed ref {name}@{0} with digest: {0}", image.digest));
        }
        let tag = self.target.tag().unwrap_or(DEFAULT_TAG);
        let what = format!("manifest list {}", self.target);
        let text = self.list.text.as_bytes();
        let digest = repository
            .put_manifest(tag, self.list.media_type, text, &what)
            .await?;
        Ok(digest.to_string())
    }
}

/// Has the registry take an image's blobs from where they are, then gives it the manifest.
async fn send_image(repository: &Repository, image: &Elsewhere) -> std::result::Result<(), RegistryError> {
    for blob in std::iter::once(&image.manifest.config).chain(&image.manifest.layers) {
        let what = format!("blob {} of {}", blob.digest, image.from);
        if repository.has_blob(&blob.digest, &what).await? {
            continue;
        }
        let started = repository
            .start_upload(&blob.digest, Some(image.from.path()), &what)
            .await?;
        if let UploadStart::Started(_) = started {
            return Err(RegistryError::Unexpected {
                host: repository.host().to_owned(),
                what,
                reason: "it does not take blobs from its other repositories; push the image to the list's repository \
                         first"
                    .to_owned(),
            });
        }
    }
    let what = format!("manifest {}", image.from);
    repository
        .put_manifest(&image.digest, &image.media_type, &image.raw, &what)
        .await
        .map(drop)
}
