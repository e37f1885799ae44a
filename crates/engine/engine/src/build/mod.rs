//! Building an image from a Dockerfile: crate `naru-build` says what the file means, this module does it.
//!
//! ```text
//! <data-root>/builds/running/<n>/   one build's scripts and copies for mounts; gone with the build, or when a daemon starts
//! <data-root>/builds/contexts/      contexts of clients that send only what has changed (see `kept`)
//! <data-root>/builds/cache/<key>    which step's image a step made before (see `cache`)
//! <data-root>/builds/failed/<key>   images to look around in where a build failed (see `failed`)
//! <data-root>/builds/why/<place>    what a step was made of last, to tell what changed (see `why`)
//! <data-root>/builds/mounts/<id>/   contents of `RUN --mount=type=cache`; <id>.use: how often and when it was used
//! <data-root>/builds/fetched/<url>/ what `ADD` fetched, and by what its server tells that it is still the same
//! /dev/shm/<engine>-secret-<id>/    a secret or an agent's socket, as long as the step that mounts it runs
//! ```
//! A stage is its configuration, in memory, and a step's image that holds its layers. Steps that change files each make
//! one layer; the others change the configuration alone. The same inputs make the same layers and the same image: times
//! are those of the base image, or of `SOURCE_DATE_EPOCH`, and never the clock's, unless that is asked for.

mod account;
mod annotate;
mod arguments;
mod attest;
mod base;
mod bring;
mod cache;
mod client;
mod context;
mod examine;
mod exchange;
mod failed;
mod git;
mod in_use;
mod kept;
mod layer;
mod mounts;
mod named;
mod output;
mod packed;
mod prune;
mod pyc;
mod redact;
mod remote;
mod reproducible;
mod run;
mod solve;
mod teller;
mod transfer;
mod tree;
mod why;

pub use account::{CacheEntry, CacheKind};
pub use annotate::AnnotateRequest;
pub use attest::AttestRequest;
pub(crate) use cache::Builds;
pub use client::{AgentStream, Answer, BuildClient, NamedContext};
pub use examine::{Examined, Warnings};
pub use exchange::{CachePlace, CacheSource, CacheTarget};
pub use kept::{KeptContext, ListedUpdate, Update as ContextUpdate};
pub use output::{AttestedFile, Built, ImageTree, TreeEntry};
pub use prune::{CacheFilter, PruneCacheRequest, is_matched};

use crate::archive::Chunks;
use crate::error::{EngineError, Result};
use crate::metrics::{BuildFailure, CountedBuild};
use crate::spec::{ResourcesSpec, RlimitSpec};
use crate::{Engine, HostNames};
use attest::{Gathered, Sum};
use bytes::Bytes;
use context::{Context, WorkDirectory};
use naru_base::{Digest, Timestamp};
use naru_build::Place;
use naru_registry::Credentials;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use teller::Teller;
use tokio::sync::mpsc;

/// What to build.
#[derive(Debug, Clone, Default)]
pub struct BuildRequest {
    /// A context that the engine fetches; the archive then counts for nothing.
    pub remote: Option<String>,
    /// Path of the Dockerfile in the context; `Dockerfile` if empty.
    pub dockerfile: String,
    pub names: Vec<String>,
    /// The result is wanted as files or an archive: no image of it is listed.
    pub is_unlisted: bool,
    /// A name without a value takes nothing: the client had none.
    pub arguments: BTreeMap<String, Option<String>>,
    pub labels: BTreeMap<String, String>,
    pub target: Option<String>,
    pub no_cache: bool,
    /// Stages whose steps are made anew, by their names.
    pub no_cache_stages: Vec<String>,
    /// Ask registries for base images that are here already.
    pub pull: bool,
    /// Of `RUN`: `default`, `none`, `host`, or a network's name.
    pub network: Option<String>,
    /// What steps may ask for beyond the usual: `network.host`.
    pub entitlements: Vec<String>,
    pub extra_hosts: Vec<String>,
    pub resources: ResourcesSpec,
    pub shm_bytes: Option<u64>,
    pub rlimits: Vec<RlimitSpec>,
    pub cgroup_parent: Option<String>,
    pub platform: Option<naru_oci::Platform>,
    /// By registry, for base images.
    pub credentials: BTreeMap<String, Credentials>,
    /// Caches of other engines, in which steps are looked for.
    pub cache_from: Vec<CacheSource>,
    /// Where the steps of this build are sent, when it is done.
    pub cache_to: Vec<CacheTarget>,
    /// The image carries the cache of the steps that it stands on.
    pub carries_cache: bool,
    /// Further contexts, by the names that `FROM` and `--from` have for them.
    pub contexts: BTreeMap<String, NamedContext>,
    /// Build twice without the cache, and refuse what is not the same.
    pub check_reproducible: bool,
    /// Files keep the times of their making, and the image gets that of its build.
    pub real_times: bool,
    /// Keep what a failed `RUN` left, so that it can be looked at.
    pub keep_failed: bool,
    /// What is to be attested of the result.
    pub attest: AttestRequest,
    /// What the result's documents are to be annotated with.
    pub annotate: AnnotateRequest,
    /// Whoever can be asked for secrets and the like; nobody, where the protocol has no way back.
    pub client: Option<Arc<dyn BuildClient>>,
}

/// Where a build's files are.
#[derive(Debug)]
pub enum ContextSource {
    /// An archive, the Dockerfile among its files. One that the engine fetches itself takes its place.
    Archive(Chunks),
    /// With whoever asked for the build: [`BuildClient::context`] has the files. The Dockerfile's text is here.
    Client { dockerfile: Vec<u8> },
    /// Brought up to date before; the Dockerfile is among its files, unless its text is here.
    Kept {
        context: KeptContext,
        dockerfile: Option<Vec<u8>>,
    },
}

/// One thing worth telling while a build goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildStep {
    Begun {
        number: usize,
        total: usize,
        text: String,
    },
    /// The step's result was there; its short id.
    Cached(String),
    /// The step is made: what changed since it was last made.
    Anew(String),
    /// A container runs the step; its short id.
    Running(String),
    /// That container is gone.
    Removed(String),
    /// The step's result; its short id.
    Made(String),
    Output(Bytes),
    Note(String),
    /// What is probably not meant in the Dockerfile.
    Warned(Box<Warnings>),
    /// What a failed step left, as an image; where that was asked for.
    Left(Digest),
    /// The image is there, under these names.
    Built {
        id: Digest,
        names: Vec<String>,
    },
}

/// A build's context, other contexts that came in its archive, and the Dockerfile's text.
struct Opened {
    context: Context,
    parts: HashMap<String, Arc<packed::PackedTree>>,
    text: Vec<u8>,
    /// Of a context that was fetched.
    sum: Option<Sum>,
}

/// Tells builds of one daemon apart.
static ORDINAL: AtomicU64 = AtomicU64::new(0);

impl Engine {
    /// Builds an image of a context and tells how it goes. Dropped before its end, it leaves only its cache.
    pub async fn build_image(
        self: &Arc<Self>,
        request: BuildRequest,
        context: ContextSource,
        steps: mpsc::Sender<BuildStep>,
    ) -> Result<Built> {
        let mut counted = self.metrics.begin_build();
        let outcome = self.build_counted(request, context, steps, &mut counted).await;
        counted.end(outcome.is_err());
        outcome
    }

    async fn build_counted(
        self: &Arc<Self>,
        request: BuildRequest,
        context: ContextSource,
        steps: mpsc::Sender<BuildStep>,
        counted: &mut CountedBuild<'_>,
    ) -> Result<Built> {
        for name in &request.names {
            naru_oci::Reference::parse(name).map_err(|error| EngineError::invalid(error.to_string()))?;
        }
        request.annotations()?;
        let mut request = request;
        let begun = request.real_times.then(Timestamp::now);
        let opened = self.open_build(&mut request, context).await?;
        let gathered = Gathered::of_context(begun, request.remote.as_deref(), opened.sum);
        let (context, parts, text) = (opened.context, opened.parts, opened.text);
        let is_empty = text.trim_ascii().is_empty();
        counted.fails_as(if is_empty {
            BuildFailure::EmptyDockerfile
        } else {
            BuildFailure::Syntax
        });
        let file = naru_build::parse(&text).map_err(|error| {
            let place = error.place;
            located(
                &request.dockerfile,
                &String::from_utf8_lossy(&text),
                place,
                error.into(),
            )
        })?;
        counted.fails_as(BuildFailure::Processing);
        let builder = solve::Builder::new(Arc::clone(self), request, context, file, Teller::new(steps))
            .with_named(parts)
            .with_gathered(gathered);
        let (uses, is_attested) = (builder.uses(), builder.is_attested());
        // It holds all that a step's start does.
        let id = Box::pin(builder.run()).await?;
        Ok(Built {
            id,
            is_attested,
            _uses: uses,
        })
    }

    /// Brings what a build reads first.
    async fn open_build(
        self: &Arc<Self>,
        request: &mut BuildRequest,
        context: ContextSource,
    ) -> Result<Opened> {
        let ordinal = ORDINAL.fetch_add(1, Ordering::Relaxed);
        let directory = self.builds_directory().join("running").join(ordinal.to_string());
        let work = WorkDirectory::make(directory)?;
        let mut sum = None;
        let source = match &request.remote {
            None => context,
            Some(address) => {
                let directory = work.file("remote");
                let fetched = self
                    .fetch_context(address, directory, request.keeps_git())
                    .await?;
                sum = fetched.sum;
                if fetched.is_lone {
                    request.dockerfile = String::new();
                }
                ContextSource::Archive(fetched.archive)
            }
        };
        let (context, parts, text) = match source {
            ContextSource::Archive(archive) => {
                Context::receive(work, archive, &archived_in(request), &request.dockerfile).await?
            }
            ContextSource::Client { dockerfile } => {
                let context = Context::of_client(work, request.client.clone());
                (context, HashMap::new(), Some(dockerfile))
            }
            ContextSource::Kept { context, dockerfile } => {
                let context = Context::of_kept(work, context).await?;
                (context, HashMap::new(), dockerfile)
            }
        };
        let text = match text {
            Some(text) => text,
            None => context.read_dockerfile(&request.dockerfile).await?,
        };
        Ok(Opened {
            context,
            parts,
            text,
            sum,
        })
    }

    pub(crate) fn builds_directory(&self) -> PathBuf {
        self.options.data_root.join("builds")
    }

    /// How the directories of secrets begin, in memory.
    pub(crate) fn secrets_prefix(&self) -> String {
        format!("{}-secret-", HostNames::of(&self.options.exec_root).table)
    }

    /// Makes the directories of builds, without what builds of a daemon before this one were at.
    pub(crate) fn clear_builds(&self) -> Result<()> {
        let root = self.builds_directory();
        naru_sys::file::remove_tree(&root.join("running"))?;
        let prefix = self.secrets_prefix();
        for entry in std::fs::read_dir(mounts::MEMORY).into_iter().flatten().flatten() {
            if entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(prefix.as_bytes())
            {
                naru_sys::file::remove_tree(&entry.path())?;
            }
        }
        for name in [
            "running", "cache", "contexts", "failed", "fetched", "mounts", "why",
        ] {
            naru_sys::file::make_directories(&root.join(name), 0o700)?;
        }
        Ok(())
    }
}

/// What is in the context's archive and no part of the context, by its name, with its directory.
fn archived_in(request: &BuildRequest) -> BTreeMap<String, String> {
    let contexts = request
        .contexts
        .iter()
        .filter_map(|(name, context)| match context {
            NamedContext::Archived(directory) => Some((name.clone(), directory.clone())),
            _ => None,
        });
    let caches = request.cache_from.iter().filter_map(|source| match source {
        CacheSource::Archived(directory) => Some((directory.clone(), directory.clone())),
        _ => None,
    });
    contexts.chain(caches).collect()
}

/// What people call the Dockerfile: one that is not in its context, or comes from standard input, has a name of its
/// client's making.
fn dockerfile_name(given: &str) -> &str {
    match given {
        "" => "Dockerfile",
        name if name.starts_with(".dockerfile.") => "Dockerfile",
        name => name,
    }
}

/// An error with the place in the Dockerfile that it is about.
fn located(dockerfile: &str, text: &str, place: Place, error: EngineError) -> EngineError {
    let file = dockerfile_name(dockerfile);
    EngineError {
        message: naru_build::excerpt::locate(&error.message, file, text, place),
        ..error
    }
}

impl From<naru_build::DockerfileError> for EngineError {
    fn from(error: naru_build::DockerfileError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}
