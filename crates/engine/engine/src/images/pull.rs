//! Pulling: manifest, configuration, then layers, each unpacked while it comes.
//!
//! ```text
//! this thread    one request a layer: bytes to the blob's file      (see naru-content's `download`)
//! a thread each  from the file: sha256, inflate
//! another each   sha256 of the archive, unpack
//! ```
//! Nothing is an image before all of it is there and every digest was right. What a broken or cancelled pull has
//! brought stays on disk for the next.

use super::transfer::{Reporter, Teller, Tries, retried, run};
use super::{BlobLocks, error as content_error};
use crate::Engine;
use crate::error::{EngineError, Result};
use crate::metrics::Action;
use futures_util::future::try_join_all;
use naru_base::ErrorKind;
use naru_content::{Assembly, ContentStore, Download, parse_config};
use naru_oci::{Descriptor, ImageConfig, Manifest, ManifestDocument, Platform, Reference, media_type};
use naru_registry::{
    Credentials, Endpoint, FetchedManifest, Purpose, RegistryError, RegistryOptions, Repository,
    plan_endpoints,
};
use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Docker's own limit on manifests is 4 MiB; configurations with long histories stay below this.
const CONFIG_BYTES_MAX: u64 = 16 << 20;
/// Layers of one image; overlay takes fewer.
const LAYERS_MAX: usize = 500;
/// Layers of one image being fetched or unpacked at once, a bound on memory: each takes up to 3 MiB of buffers.
const UNPACKING_MAX: usize = 16;
/// Between two reports on unpacking.
const EXTRACTION_REPORT_PAUSE: Duration = Duration::from_millis(200);

/// What to pull.
#[derive(Debug, Clone)]
pub struct PullRequest {
    pub reference: Reference,
    /// Pull every tag of the repository.
    pub has_all_tags: bool,
    pub platform: Option<Platform>,
    pub credentials: Option<Credentials>,
}

/// A manifest that was found, and where.
pub(super) struct Resolved {
    pub(super) repository: Repository,
    /// What the name means, an index perhaps; its digest is the image's in names.
    named: FetchedManifest,
    /// The one image.
    manifest: FetchedManifest,
    pub(super) image: Manifest,
}

/// One pull's tools.
struct Pull<'a> {
    options: &'a RegistryOptions,
    content: &'a Arc<ContentStore>,
    locks: &'a BlobLocks,
    teller: &'a Teller,
    repository: &'a Repository,
    assembly: RefCell<Assembly<'a>>,
    downloads: Semaphore,
    /// Held from the first byte of a layer to its last file.
    unpacking: Semaphore,
}

impl Engine {
    /// Pulls an image; blocking, for a thread of its own. Ends early when nobody listens to `teller` any more.
    pub fn pull_image(&self, request: &PullRequest, teller: &Teller) -> Result<()> {
        let begun = Instant::now();
        run(teller, self.pull(request, teller))?;
        self.metrics.note_action(Action::ImagePull, begun.elapsed());
        Ok(())
    }

    async fn pull(&self, request: &PullRequest, teller: &Teller) -> Result<()> {
        if !request.has_all_tags {
            let reference = request.reference.clone().or_latest();
            return self.pull_one(request, reference, teller).await;
        }
        for tag in list_tags(&self.options.registry, request).await? {
            let reference = request.reference.with_tag(&tag);
            let reference = reference.map_err(|error| EngineError::invalid(error.to_string()))?;
            self.pull_one(request, reference, teller).await?;
        }
        Ok(())
    }

    async fn pull_one(&self, request: &PullRequest, reference: Reference, teller: &Teller) -> Result<()> {
        let familiar = reference.familiar();
        let resolved = resolve(&self.options.registry, request, &reference).await?;
        let label = reference.digest().map_or_else(
            || reference.tag().unwrap_or_default().to_owned(),
            ToString::to_string,
        );
        teller
            .tell(&label, format!("Pulling from {}", reference.path()))
            .await;
        let before = self.content.image(&familiar).ok().map(|image| image.id.clone());
        let id = self.fetch_image(request, &reference, &resolved, teller).await?;
        teller
            .tell("", format!("Digest: {}", resolved.named.digest))
            .await;
        let outcome = if before == Some(id) {
            "Image is up to date"
        } else {
            "Downloaded newer image"
        };
        teller.tell("", format!("Status: {outcome} for {familiar}")).await;
        self.image_event("pull", &familiar, &reference.familiar_repository());
        Ok(())
    }

    async fn fetch_image(
        &self,
        request: &PullRequest,
        reference: &Reference,
        resolved: &Resolved,
        teller: &Teller,
    ) -> Result<naru_base::Digest> {
        let (options, image) = (&self.options.registry, &resolved.image);
        let raw_config = retried(options, || {
            resolved
                .repository
                .blob(&image.config, CONFIG_BYTES_MAX, "the image's configuration")
        })
        .await?;
        let config = parse_config(&raw_config).map_err(content_error)?;
        check_config(&config, image, request.platform.as_ref(), reference)?;
        let pull = Pull {
            options,
            content: &self.content,
            locks: &self.blob_locks,
            teller,
            repository: &resolved.repository,
            assembly: RefCell::new(self.content.assemble()),
            downloads: Semaphore::new(options.concurrent_downloads),
            unpacking: Semaphore::new(UNPACKING_MAX),
        };
        pull.fetch_layers(image, &config).await?;
        let mut names = vec![reference.with_digest(resolved.named.digest.clone())];
        if let (Some(tag), None) = (reference.tag(), reference.digest()) {
            names.push(
                reference
                    .with_tag(tag)
                    .map_err(|error| EngineError::invalid(error.to_string()))?,
            );
        }
        let assembly = pull.assembly.into_inner();
        let loaded = assembly.commit(&raw_config, &resolved.manifest.bytes, names);
        Ok(loaded.map_err(content_error)?.id)
    }
}

/// Finds what a name means: at the mirrors, then at the registry.
pub(super) async fn find_named(
    options: &RegistryOptions,
    reference: &Reference,
    credentials: Option<&Credentials>,
) -> Result<(Repository, FetchedManifest)> {
    let mut last = None;
    for endpoint in plan_endpoints(options, reference.domain(), Purpose::Pull)? {
        let is_mirror = !endpoint.takes_credentials;
        match find_named_at(options, endpoint, reference, credentials.cloned()).await {
            Ok(found) => return Ok(found),
            Err(error) if is_mirror || leads_to_next(&error) => {
                tracing::debug!(%error, "the next endpoint is tried");
                last = Some(error);
            }
            Err(error) => return Err(told(error, reference)),
        }
    }
    Err(last.map_or_else(
        || EngineError::invalid("there is no endpoint to pull from"),
        |error| told(error, reference),
    ))
}

async fn find_named_at(
    options: &RegistryOptions,
    endpoint: Endpoint,
    reference: &Reference,
    credentials: Option<Credentials>,
) -> naru_registry::Result<(Repository, FetchedManifest)> {
    let what = format!("manifest for {}", reference.familiar());
    let repository = Repository::new(options, endpoint, reference, Purpose::Pull, credentials, &[])?;
    let wanted = reference.digest().map_or_else(
        || reference.tag().unwrap_or_default().to_owned(),
        ToString::to_string,
    );
    let named = retried(options, || repository.manifest(&wanted, &what)).await?;
    Ok((repository, named))
}

async fn list_tags(options: &RegistryOptions, request: &PullRequest) -> Result<Vec<String>> {
    let reference = &request.reference;
    let mut last = None;
    for endpoint in plan_endpoints(options, reference.domain(), Purpose::Pull)? {
        let is_mirror = !endpoint.takes_credentials;
        let credentials = request.credentials.clone();
        let repository = Repository::new(options, endpoint, reference, Purpose::Pull, credentials, &[])?;
        match retried(options, || repository.tags("the list of tags")).await {
            Ok(tags) => return Ok(tags),
            Err(error) if is_mirror || leads_to_next(&error) => last = Some(error),
            Err(error) => return Err(told(error, reference)),
        }
    }
    Err(last.map_or_else(
        || EngineError::invalid("there is no endpoint to pull from"),
        |error| told(error, reference),
    ))
}

/// Finds the one image a name means on this platform.
pub(super) async fn resolve(
    options: &RegistryOptions,
    request: &PullRequest,
    reference: &Reference,
) -> Result<Resolved> {
    let (repository, named) = find_named(options, reference, request.credentials.as_ref()).await?;
    let what = format!("manifest for {}", reference.familiar());
    let manifest = match &named.document {
        ManifestDocument::Manifest(_) => named.clone(),
        ManifestDocument::Index(index) => {
            let platform = request.platform.clone().unwrap_or_else(Platform::host);
            let chosen = index.choose(&platform).ok_or_else(|| RegistryError::NoPlatform {
                what: reference.familiar(),
                platform: format!("{}/{}", platform.os, platform.architecture),
            })?;
            retried(options, || repository.described_manifest(chosen, &what)).await?
        }
    };
    let ManifestDocument::Manifest(image) = manifest.document.clone() else {
        return Err(EngineError::invalid(format!(
            "{what} is an index within an index"
        )));
    };
    Ok(Resolved {
        repository,
        named,
        manifest,
        image,
    })
}

/// Whether another endpoint of the same registry may do better: plain http where TLS is not spoken.
pub(super) fn leads_to_next(error: &RegistryError) -> bool {
    matches!(
        error,
        RegistryError::Connect { .. } | RegistryError::Tls { .. } | RegistryError::Broken { .. }
    )
}

/// A failure to find an image, in Docker's words.
pub(super) fn told(error: RegistryError, reference: &Reference) -> EngineError {
    let name = reference.familiar_repository();
    match error {
        RegistryError::NotFound { ref reason, .. } if reason.contains("name unknown") => {
            EngineError::not_found(format!(
                "pull access denied for {name}, repository does not exist or may require 'docker login': {reason}"
            ))
        }
        RegistryError::Unauthorized { ref reason, .. } | RegistryError::Denied { ref reason, .. }
            if reason.contains("denied") =>
        {
            EngineError::not_found(format!(
                "pull access denied for {name}, repository does not exist or may require 'docker login': {reason}"
            ))
        }
        // Docker's daemon says 500 here; at a 401 its clients would ask for a password and begin again.
        RegistryError::Unauthorized { .. } => EngineError::system(error.to_string()),
        other => other.into(),
    }
}

/// Compares a configuration with its manifest and with what was asked for.
fn check_config(
    config: &ImageConfig,
    image: &Manifest,
    platform: Option<&Platform>,
    reference: &Reference,
) -> Result<()> {
    let kind = image.config.media_type.as_str();
    if !matches!(
        kind,
        "" | media_type::OCI_CONFIG | media_type::DOCKER_CONFIG | "application/octet-stream"
    ) {
        return Err(EngineError::invalid(format!(
            "{} is no image: its configuration has the media type {kind:?}",
            reference.familiar()
        )));
    }
    let (layers, diff_ids) = (image.layers.len(), config.rootfs.diff_ids.len());
    if layers != diff_ids || layers > LAYERS_MAX {
        return Err(EngineError::invalid(format!(
            "invalid image {}: its manifest has {layers} layers, its configuration {diff_ids}, and {LAYERS_MAX} are \
             allowed",
            reference.familiar()
        )));
    }
    if !config.os.is_empty() && config.os != "linux" {
        return Err(EngineError::invalid(format!(
            "image operating system {:?} cannot be used on this platform",
            config.os
        )));
    }
    let fits = platform.is_none_or(|wanted| {
        wanted.architecture == config.architecture
            && (wanted.variant.is_empty() || config.variant.is_empty() || wanted.variant == config.variant)
    });
    if !fits {
        let wanted = platform.map(|platform| format!("{}/{}", platform.os, platform.architecture));
        return Err(EngineError::not_found(format!(
            "image with reference {} was found but does not match the specified platform: wanted {}, actual: {}/{}",
            reference.familiar(),
            wanted.unwrap_or_default(),
            config.os,
            config.architecture
        )));
    }
    Ok(())
}

impl Pull<'_> {
    async fn fetch_layers(&self, image: &Manifest, config: &ImageConfig) -> Result<()> {
        let diff_ids = &config.rootfs.diff_ids;
        let mut seen = HashSet::new();
        let mut wanted = Vec::new();
        for (index, descriptor) in image.layers.iter().enumerate() {
            if !seen.insert(&descriptor.digest) {
                continue;
            }
            if self.assembly.borrow_mut().find_layer(diff_ids, index) {
                self.teller
                    .tell(descriptor.digest.short(), "Already exists")
                    .await;
            } else {
                self.teller
                    .tell(descriptor.digest.short(), "Pulling fs layer")
                    .await;
                wanted.push((index, descriptor));
            }
        }
        let layers = wanted
            .into_iter()
            .map(|(index, descriptor)| self.fetch_layer(descriptor, diff_ids, index));
        try_join_all(layers).await?;
        Ok(())
    }

    async fn fetch_layer(
        &self,
        descriptor: &Descriptor,
        diff_ids: &[naru_base::Digest],
        index: usize,
    ) -> Result<()> {
        let short = descriptor.digest.short();
        let lock = self.locks.of(&descriptor.digest);
        let _turn = lock.lock().await;
        let download = self.content.open_download(descriptor).map_err(content_error)?;
        // Looked for after the opening: a download that another pull has just finished with is gone by then.
        if self.assembly.borrow_mut().find_layer(diff_ids, index) {
            if download.bytes() == 0 {
                self.content
                    .discard_download(&descriptor.digest)
                    .map_err(content_error)?;
            }
            self.teller.tell(short, "Already exists").await;
            return Ok(());
        }
        let is_resumed = download.bytes() > 0;
        let mut outcome = self.fetch_and_stage(download, descriptor, &diff_ids[index]).await;
        if is_resumed && outcome.as_ref().is_err_and(is_wrong_content) {
            // What an earlier pull left may have been at fault; it is gone now.
            let download = self.content.open_download(descriptor).map_err(content_error)?;
            outcome = self.fetch_and_stage(download, descriptor, &diff_ids[index]).await;
        }
        outcome?;
        self.teller.tell(short, "Pull complete").await;
        Ok(())
    }

    /// Fetches the rest of a blob while what is there of it is unpacked.
    async fn fetch_and_stage(
        &self,
        mut download: Download,
        descriptor: &Descriptor,
        diff_id: &naru_base::Digest,
    ) -> Result<()> {
        let short = descriptor.digest.short().to_owned();
        let _place = self.unpacking.acquire().await;
        let permit = self.downloads.acquire().await;
        let reader = download.reader();
        let watch = reader.watch();
        let (content, label) = (Arc::clone(self.content), short.clone());
        let mut staging = tokio::task::spawn_blocking(move || content.stage_download(reader, &label));
        self.transfer(&mut download, descriptor).await?;
        // Where unpacking failed, what is left of the blob was not fetched.
        let is_whole = download.bytes() == descriptor.size;
        download.finish();
        drop(permit);
        if is_whole {
            self.teller.tell(&short, "Download complete").await;
        }
        let mut reporter = Reporter::new(self.teller, &short, "Extracting", descriptor.size);
        let staged = loop {
            tokio::select! {
                staged = &mut staging => break staged,
                () = tokio::time::sleep(EXTRACTION_REPORT_PAUSE) => reporter.report(watch.bytes_read()),
            }
        };
        let staged = staged
            .map_err(|error| EngineError::system(format!("layer {short} could not be unpacked: {error}")))?;
        let added = match staged {
            Ok(staged) => self.assembly.borrow_mut().add(staged, descriptor, diff_id),
            Err(failure) => Err(failure),
        };
        match added {
            Ok(()) => Ok(()),
            Err(failure) => Err(self.explain(failure, descriptor)),
        }
    }

    /// A blob that cannot be unpacked is most likely not the right one, which is then the better thing to say. Either
    /// way a second try should not find it again.
    fn explain(&self, failure: naru_content::ContentError, descriptor: &Descriptor) -> EngineError {
        if failure.kind() == ErrorKind::System {
            return content_error(failure);
        }
        let compared = self.content.verify_download(descriptor);
        if let Err(error) = self.content.discard_download(&descriptor.digest) {
            tracing::warn!(%error, "a bad download could not be deleted");
        }
        content_error(compared.err().unwrap_or(failure))
    }

    async fn transfer(&self, download: &mut Download, descriptor: &Descriptor) -> Result<()> {
        let mut tries = Tries::new(self.options);
        while download.bytes() < descriptor.size && !download.is_abandoned() {
            let before = download.bytes();
            match self.transfer_once(download, descriptor).await {
                Ok(()) => {}
                Err(Failed::Content(error)) => return Err(content_error(error)),
                Err(Failed::Registry(error)) => {
                    if download.bytes() > before {
                        tries.renew();
                    }
                    tries.wait_after(error).await?;
                }
            }
        }
        Ok(())
    }

    async fn transfer_once(&self, download: &mut Download, descriptor: &Descriptor) -> Result<(), Failed> {
        let short = descriptor.digest.short();
        let what = format!("layer {short}");
        let mut reporter = Reporter::new(self.teller, short, "Downloading", descriptor.size);
        let opened = self.repository.open_blob(descriptor, download.bytes(), &what);
        let mut stream = opened.await?;
        while let Some(piece) = stream.next().await? {
            let bytes = download.bytes() + piece.len() as u64;
            if bytes > descriptor.size {
                return Err(Failed::Registry(RegistryError::Size {
                    host: self.repository.host().to_owned(),
                    what,
                    expected: descriptor.size,
                    found: bytes,
                }));
            }
            download.append(&piece).map_err(Failed::Content)?;
            reporter.report(bytes);
            if download.is_abandoned() {
                return Ok(());
            }
        }
        if download.bytes() < descriptor.size {
            return Err(Failed::Registry(RegistryError::Broken {
                host: self.repository.host().to_owned(),
                what,
                reason: format!("it ended after {} of {} bytes", download.bytes(), descriptor.size),
            }));
        }
        Ok(())
    }
}

enum Failed {
    Registry(RegistryError),
    Content(naru_content::ContentError),
}

impl From<RegistryError> for Failed {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

fn is_wrong_content(error: &EngineError) -> bool {
    error.kind == ErrorKind::InvalidParameter
}
