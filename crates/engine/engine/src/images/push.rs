//! Pushing: blobs first, several at once, then the manifest that speaks of them.

use super::error as content_error;
use super::pull::{PullRequest, leads_to_next, resolve};
use super::transfer::{Reporter, Teller, TransferStep, Tries, retried, run};
use crate::Engine;
use crate::error::{EngineError, Result};
use crate::metrics::Action;
use futures_util::future::try_join_all;
use naru_base::Digest;
use naru_content::{AttestedParcel, ContentStore, Image, Parcel, ParcelLayer};
use naru_oci::{Descriptor, Manifest, Platform, Reference};
use naru_registry::{
    Credentials, Outgoing, Purpose, RegistryError, RegistryOptions, Repository, Upload, UploadStart,
    plan_endpoints,
};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Repositories a token is asked for to take layers from; each makes the token longer.
const MOUNT_SOURCES_MAX: usize = 3;
/// Between two looks at how far an upload is.
const REPORT_PAUSE: Duration = Duration::from_millis(200);

/// What to push. Without a tag all tags of the repository are pushed.
#[derive(Debug, Clone)]
pub struct PushRequest {
    pub reference: Reference,
    pub credentials: Option<Credentials>,
}

struct Push<'a> {
    options: &'a RegistryOptions,
    content: &'a ContentStore,
    teller: &'a Teller,
    repository: &'a Repository,
    reference: &'a Reference,
    uploads: Semaphore,
}

impl Engine {
    /// Pushes an image; blocking, for a thread of its own. Ends early when nobody listens to `teller` any more.
    pub fn push_image(&self, request: &PushRequest, teller: &Teller) -> Result<()> {
        if request.reference.digest().is_some() {
            return Err(EngineError::invalid("cannot push a digest reference"));
        }
        let begun = Instant::now();
        run(teller, self.push(request, teller))?;
        self.metrics.note_action(Action::ImagePush, begun.elapsed());
        Ok(())
    }

    fn images_to_push(&self, reference: &Reference) -> Result<Vec<(Reference, Arc<Image>)>> {
        let repository = reference.familiar_repository();
        if let Some(tag) = reference.tag() {
            let image = self.content.image(&reference.familiar()).map_err(|_| {
                EngineError::not_found(format!(
                    "An image does not exist locally with the tag: {repository}:{tag}"
                ))
            })?;
            return Ok(vec![(reference.clone(), image)]);
        }
        let mut named = Vec::new();
        for image in self.content.images() {
            let tags = image.tags.iter().filter_map(|tag| Reference::parse(tag).ok());
            named.extend(
                tags.filter(|tag| tag.repository() == reference.repository())
                    .map(|tag| (tag, Arc::clone(&image))),
            );
        }
        if named.is_empty() {
            return Err(EngineError::not_found(format!(
                "An image does not exist locally with the tag: {repository}"
            )));
        }
        Ok(named)
    }

    async fn push(&self, request: &PushRequest, teller: &Teller) -> Result<()> {
        let repository = request.reference.repository();
        teller
            .tell("", format!("The push refers to repository [{repository}]"))
            .await;
        // Docker's clients learn from the stream, not from a status, that there is no such image.
        for (reference, image) in &self.images_to_push(&request.reference)? {
            for diff_id in &image.layers {
                teller.tell(diff_id.short(), "Preparing").await;
            }
            let parcel = self.content.pack(image).map_err(content_error)?;
            self.push_parcel(request, reference, &parcel, teller).await?;
            let name = reference.familiar();
            self.image_event("push", &name, &reference.familiar_repository());
        }
        Ok(())
    }

    async fn push_parcel(
        &self,
        request: &PushRequest,
        reference: &Reference,
        parcel: &Parcel<'_>,
        teller: &Teller,
    ) -> Result<()> {
        let sources = mount_sources(reference, parcel);
        let probe = &parcel.config.digest;
        let repository = self
            .repository_to_push(request, reference, &sources, probe)
            .await?;
        let push = self.pushing(&repository, reference, teller);
        push.send(parcel, &self.content).await
    }

    /// The first endpoint that speaks; the first small request finds that out, and gets the token.
    async fn repository_to_push(
        &self,
        request: &PushRequest,
        reference: &Reference,
        sources: &[String],
        probe: &Digest,
    ) -> Result<Repository> {
        let options = &self.options.registry;
        let mut last = None;
        for endpoint in plan_endpoints(options, reference.domain(), Purpose::Push)? {
            let credentials = request.credentials.clone();
            let repository =
                Repository::new(options, endpoint, reference, Purpose::Push, credentials, sources)?;
            if let Err(error) = retried(options, || repository.has_blob(probe, "the push")).await {
                if leads_to_next(&error) {
                    last = Some(error);
                    continue;
                }
                return Err(error.into());
            }
            return Ok(repository);
        }
        Err(last.map_or_else(
            || EngineError::invalid("there is no endpoint to push to"),
            Into::into,
        ))
    }

    fn pushing<'a>(
        &'a self,
        repository: &'a Repository,
        reference: &'a Reference,
        teller: &'a Teller,
    ) -> Push<'a> {
        Push {
            options: &self.options.registry,
            content: &self.content,
            teller,
            repository,
            reference,
            uploads: Semaphore::new(self.options.registry.concurrent_uploads),
        }
    }

    /// Pushes what is made of layers and is no image; blocking, as [`Self::push_image`] is.
    pub(crate) fn push_artifact(
        &self,
        request: &PushRequest,
        artifact: &Artifact,
        teller: &Teller,
    ) -> Result<()> {
        let reference = &request.reference;
        let pushing = async {
            let probe = &artifact.config_descriptor.digest;
            let repository = self.repository_to_push(request, reference, &[], probe).await?;
            self.pushing(&repository, reference, teller)
                .send_artifact(artifact)
                .await
        };
        run(teller, pushing)
    }

    /// Opens what a name means in a registry, be it an image or not.
    pub(crate) async fn open_artifact(
        &self,
        reference: &Reference,
        credentials: Option<Credentials>,
        platform: Option<Platform>,
    ) -> Result<(Repository, Manifest)> {
        let request = PullRequest {
            reference: reference.clone(),
            has_all_tags: false,
            platform,
            credentials,
        };
        let resolved = resolve(&self.options.registry, &request, reference).await?;
        Ok((resolved.repository, resolved.image))
    }
}

/// Something of layers, a configuration and a manifest, as a registry has it.
pub(crate) struct Artifact {
    pub manifest: Vec<u8>,
    pub media_type: String,
    pub config_descriptor: Descriptor,
    pub config: Vec<u8>,
    pub layers: Vec<ParcelLayer>,
    pub files: Vec<ArtifactFile>,
}

/// A blob that was made to be sent; it is gone with this.
pub(crate) struct ArtifactFile {
    pub descriptor: Descriptor,
    pub file: Arc<File>,
}

impl ArtifactFile {
    /// Its bytes from the first on, whoever else reads it.
    pub(crate) fn open(&self) -> Box<dyn Read + Send> {
        Box::new(FileReader {
            file: Arc::clone(&self.file),
            at: 0,
        })
    }
}

struct FileReader {
    file: Arc<File>,
    at: u64,
}

impl Read for FileReader {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(target, self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

/// Repositories of the same registry that have layers of this image.
fn mount_sources(reference: &Reference, parcel: &Parcel<'_>) -> Vec<String> {
    let sources: BTreeSet<String> = parcel
        .layers
        .iter()
        .flat_map(|layer| mountable(reference, layer))
        .collect();
    sources.into_iter().take(MOUNT_SOURCES_MAX).collect()
}

fn mountable<'a>(reference: &'a Reference, layer: &'a ParcelLayer) -> impl Iterator<Item = String> + 'a {
    let of_same_registry =
        |found: &&Reference| found.domain() == reference.domain() && found.path() != reference.path();
    let found = layer.found_in.iter().filter(of_same_registry);
    found.map(|found| found.path().to_owned())
}

impl Push<'_> {
    async fn send(&self, parcel: &Parcel<'_>, store: &ContentStore) -> Result<()> {
        let sources = mount_sources(self.reference, parcel);
        let layers = parcel.layers.iter().enumerate();
        let first = |at: usize, layer: &ParcelLayer| {
            !parcel.layers[..at]
                .iter()
                .any(|other| other.descriptor.digest == layer.descriptor.digest)
        };
        let layers = layers
            .filter(|(at, layer)| first(*at, layer))
            .map(|(_, layer)| self.send_layer(layer, &sources));
        try_join_all(layers).await?;
        let config = store.image_config(&parcel.config.digest).map_err(content_error)?;
        self.send_blob("", &parcel.config, None, || {
            Ok(Box::new(Cursor::new(config.to_vec())))
        })
        .await?;
        let tag = self.reference.tag().unwrap_or_default();
        let document = match &parcel.attested {
            None => &parcel.manifest,
            Some(attested) => {
                self.send_attested(parcel, attested).await?;
                &attested.index
            }
        };
        let put = || {
            let media_type = &document.descriptor.media_type;
            self.repository
                .put_manifest(tag, media_type, &document.bytes, "the manifest")
        };
        let digest = retried(self.options, put).await?;
        let name = self.reference.with_digest(digest.clone());
        store
            .add_digest_name(&parcel.config.digest, &name)
            .map_err(content_error)?;
        let pushed = TransferStep::Pushed {
            tag: tag.to_owned(),
            digest,
            bytes: document.descriptor.size,
        };
        self.teller.tell_step(pushed).await;
        Ok(())
    }

    /// Sends what an attested image's index speaks of: registries refuse one that speaks of what they do not have.
    async fn send_attested(&self, parcel: &Parcel<'_>, attested: &AttestedParcel) -> Result<()> {
        for blob in &attested.blobs {
            let open = || -> Result<Box<dyn Read + Send>> { Ok(Box::new(Cursor::new(blob.bytes.clone()))) };
            self.send_blob("", &blob.descriptor, None, open).await?;
        }
        for manifest in [&parcel.manifest, &attested.manifest] {
            let (digest, media_type) = (&manifest.descriptor.digest, &manifest.descriptor.media_type);
            let put = || {
                self.repository
                    .put_manifest(digest.as_str(), media_type, &manifest.bytes, "the manifest")
            };
            retried(self.options, put).await?;
        }
        Ok(())
    }

    async fn send_artifact(&self, artifact: &Artifact) -> Result<()> {
        let layers = artifact.layers.iter().map(|layer| self.send_layer(layer, &[]));
        try_join_all(layers).await?;
        for file in &artifact.files {
            self.send_blob("", &file.descriptor, None, || Ok(file.open()))
                .await?;
        }
        let config =
            || -> Result<Box<dyn Read + Send>> { Ok(Box::new(Cursor::new(artifact.config.clone()))) };
        self.send_blob("", &artifact.config_descriptor, None, config)
            .await?;
        let tag = self.reference.tag().unwrap_or_default();
        let put = || {
            let (kind, bytes) = (&artifact.media_type, &artifact.manifest);
            self.repository.put_manifest(tag, kind, bytes, "the manifest")
        };
        retried(self.options, put).await?;
        Ok(())
    }

    async fn send_layer(&self, layer: &ParcelLayer, sources: &[String]) -> Result<()> {
        let source = mountable(self.reference, layer).find(|from| sources.contains(from));
        let open = || self.content.open_layer(layer).map_err(content_error);
        self.send_blob(layer.diff_id.short(), &layer.descriptor, source.as_deref(), open)
            .await
    }

    /// Sends one blob, unless the registry has it or can take it from `source`. An empty `id` tells nothing.
    async fn send_blob(
        &self,
        id: &str,
        descriptor: &Descriptor,
        source: Option<&str>,
        open: impl Fn() -> Result<Box<dyn Read + Send>>,
    ) -> Result<()> {
        let what = format!("blob {}", descriptor.digest.short());
        // Never closed, so that acquiring cannot fail.
        let _permit = self.uploads.acquire().await;
        let has_it = retried(self.options, || {
            self.repository.has_blob(&descriptor.digest, &what)
        })
        .await?;
        if has_it {
            self.tell_layer(id, "Layer already exists").await;
            return Ok(());
        }
        let start = || self.repository.start_upload(&descriptor.digest, source, &what);
        match retried(self.options, start).await? {
            UploadStart::Mounted => {
                self.tell_layer(id, &format!("Mounted from {}", source.unwrap_or_default()))
                    .await;
            }
            UploadStart::Started(upload) => {
                self.upload(id, upload, descriptor, &what, open).await?;
                self.tell_layer(id, "Pushed").await;
            }
        }
        Ok(())
    }

    async fn tell_layer(&self, id: &str, text: &str) {
        if !id.is_empty() {
            self.teller.tell(id, text).await;
        }
    }

    /// Sends until the registry has everything, from where it stopped after each failure.
    async fn upload(
        &self,
        id: &str,
        mut upload: Upload,
        descriptor: &Descriptor,
        what: &str,
        open: impl Fn() -> Result<Box<dyn Read + Send>>,
    ) -> Result<()> {
        let mut tries = Tries::new(self.options);
        let mut reporter = Reporter::new(self.teller, id, "Pushing", descriptor.size);
        while upload.offset < descriptor.size {
            let before = upload.offset;
            let outgoing = Outgoing::new();
            let body = outgoing.body(open()?, upload.offset);
            let rest = descriptor.size - upload.offset;
            let sending = self
                .repository
                .send_piece(&mut upload, body, rest, &outgoing, what);
            let sent = watch(sending, || {
                if !id.is_empty() {
                    reporter.report(before + outgoing.bytes());
                }
            })
            .await;
            let Err(error) = sent else { break };
            if let Some(failure) = outgoing.failure() {
                return Err(EngineError::system(format!("{what} cannot be pushed: {failure}")));
            }
            tries.wait_after(retriable(error)).await?;
            upload = self.resume(upload, descriptor, what).await?;
            if upload.offset > before {
                tries.renew();
            }
        }
        Ok(self
            .repository
            .finish_upload(upload, &descriptor.digest, what)
            .await?)
    }

    /// Asks where to go on; a registry that has forgotten the upload gets a new one.
    async fn resume(
        &self,
        mut upload: Upload,
        descriptor: &Descriptor,
        what: &str,
    ) -> Result<Upload, RegistryError> {
        match self.repository.resume_upload(&mut upload, what).await {
            Ok(()) if upload.offset <= descriptor.size => Ok(upload),
            Ok(()) | Err(RegistryError::NotFound { .. } | RegistryError::Unexpected { .. }) => {
                match self
                    .repository
                    .start_upload(&descriptor.digest, None, what)
                    .await?
                {
                    UploadStart::Started(upload) => Ok(upload),
                    UploadStart::Mounted => Err(RegistryError::Unexpected {
                        host: self.repository.host().to_owned(),
                        what: what.to_owned(),
                        reason: "it took a blob it was not offered".to_owned(),
                    }),
                }
            }
            Err(error) => Err(error),
        }
    }
}

/// Awaits, and looks every now and then.
async fn watch<T>(work: impl Future<Output = T>, mut look: impl FnMut()) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(REPORT_PAUSE) => look(),
        }
    }
}

/// A token that ran out in the middle is renewed by the next request.
fn retriable(error: RegistryError) -> RegistryError {
    match error {
        RegistryError::Unauthorized { host, what, reason } => RegistryError::Broken { host, what, reason },
        other => other,
    }
}
