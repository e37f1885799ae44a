//! Building images: `POST /build` with the context as its body.

use super::buildkit;
use super::containers::host_facts;
use crate::agents::{Agents, Lent};
use crate::error::{ApiError, ApiResult};
use crate::request::{Call, parse_json};
use crate::respond::{self, Answer, json_line};
use crate::translate::resources;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::{Stream, stream};
use naru_base::Digest;
use naru_docker_wire::types::{ErrorDetail, HostConfig, ProgressLine};
use naru_engine::Answer as Reply;
use naru_engine::content::ContentError;
use naru_engine::oci::{Platform, Reference};
use naru_engine::registry::Credentials;
use naru_engine::{
    AgentStream, AnnotateRequest, AttestRequest, BuildClient, BuildRequest, BuildStep, CachePlace,
    CacheSource, CacheTarget, ContextSource, Engine, EngineError, KeptContext, NamedContext,
};
use serde::Deserialize;
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::{fmt, io};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Steps in flight; output waits for a slow client.
const STEPS_MAX: usize = 64;

/// `POST /build`.
pub async fn build(call: Call) -> ApiResult<Answer> {
    match call.query.non_empty("version") {
        None | Some("1") => {}
        Some("2") => return buildkit::build(call).await,
        Some(other) => return Err(ApiError::invalid(format!("invalid version {other}"))),
    }
    if call.query.non_empty("outputs").is_some() {
        return Err(ApiError::not_supported(
            "another output than an image",
            "use `docker save` or `docker cp`",
        ));
    }
    let mut request = build_request(&call)?;
    // Docker's meaning: images that are here, and no registry.
    request
        .cache_from
        .extend(cache_names(&call)?.into_iter().map(CacheSource::Image));
    let is_quiet = call.query.flag("q");
    let context = ContextSource::Archive(crate::upload::chunks(call.body));
    let telling = Telling::begin(call.engine, request, std::future::ready(Ok(context)), is_quiet);
    telling.answer().await
}

/// The task of a build; ended with the answer it is for.
struct Work(JoinHandle<Result<(), EngineError>>);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) struct Telling {
    told: mpsc::Receiver<BuildStep>,
    waiting: VecDeque<Bytes>,
    work: Option<Work>,
    is_quiet: bool,
    has_told: bool,
}

impl Telling {
    /// Begins a build, as soon as its context is there.
    pub(super) fn begin(
        engine: Arc<Engine>,
        request: BuildRequest,
        context: impl Future<Output = Result<ContextSource, EngineError>> + Send + 'static,
        is_quiet: bool,
    ) -> Self {
        let (steps, told) = mpsc::channel(STEPS_MAX);
        let work = tokio::spawn(async move {
            let context = context.await?;
            Box::pin(engine.build_image(request, context, steps))
                .await
                .map(drop)
        });
        Self {
            told,
            waiting: VecDeque::new(),
            work: Some(Work(work)),
            is_quiet,
            has_told: false,
        }
    }

    /// Answers when the first step begins: what fails before it has a status of its own.
    pub(super) async fn answer(mut self) -> ApiResult<Answer> {
        match self.told.recv().await {
            Some(step) => self.take(step),
            None => {
                if let Some(Err(error)) = self.outcome().await {
                    return Err(error.into());
                }
            }
        }
        Ok(respond::stream(respond::JSON, self.lines()))
    }

    /// What is told from now on.
    pub(super) fn lines(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        stream::unfold(self, next_line)
    }

    fn take(&mut self, step: BuildStep) {
        self.has_told = true;
        self.waiting.extend(lines(step, self.is_quiet));
    }

    /// `None` when it was taken before.
    async fn outcome(&mut self) -> Option<Result<(), EngineError>> {
        let mut work = self.work.take()?;
        let outcome = (&mut work.0).await;
        Some(
            outcome.unwrap_or_else(|error| {
                Err(EngineError::system(format!("the build did not finish: {error}")))
            }),
        )
    }
}

async fn next_line(mut telling: Telling) -> Option<(io::Result<Bytes>, Telling)> {
    loop {
        if let Some(line) = telling.waiting.pop_front() {
            return Some((Ok(line), telling));
        }
        if let Some(step) = telling.told.recv().await {
            telling.take(step);
            continue;
        }
        match telling.outcome().await? {
            Ok(()) => return None,
            Err(error) if telling.has_told => telling.waiting.push_back(error_line(&error.message)),
            Err(error) => telling.waiting.push_back(refusal_line(error)),
        }
    }
}

pub(super) fn error_line(message: &str) -> Bytes {
    json_line(&ProgressLine {
        error_detail: Some(ErrorDetail {
            code: 1,
            message: message.to_owned(),
        }),
        error: Some(message.to_owned()),
        ..ProgressLine::default()
    })
}

/// What would have been an answer with this status, had the answer not begun.
fn refusal_line(error: EngineError) -> Bytes {
    let error = ApiError::from(error);
    json_line(&json!({
        "error": error.message,
        "errorDetail": { "code": error.status.as_u16(), "message": error.message, "refused": true },
    }))
}

pub(super) fn said(text: impl Into<String>) -> Bytes {
    json_line(&json!({ "stream": text.into() }))
}

/// For programs: what a failed step left.
fn left(id: &Digest) -> Bytes {
    json_line(&json!({ "aux": { "Left": id.to_string() } }))
}

/// A step in Docker's words, each line an object.
fn lines(step: BuildStep, is_quiet: bool) -> Vec<Bytes> {
    if is_quiet {
        return match step {
            BuildStep::Left(id) => vec![left(&id)],
            BuildStep::Built { id, .. } => vec![said(format!("{id}\n"))],
            _ => Vec::new(),
        };
    }
    match step {
        BuildStep::Begun { number, total, text } => {
            vec![said(format!("Step {number}/{total} : {text}")), said("\n")]
        }
        BuildStep::Cached(_) => vec![said(" ---> Using cache\n")],
        BuildStep::Anew(reason) => vec![said(format!(" ---> Not cached: {reason}\n"))],
        BuildStep::Running(container) => vec![said(format!(" ---> Running in {container}\n"))],
        BuildStep::Removed(container) => vec![said(format!("Removing intermediate container {container}\n"))],
        BuildStep::Made(image) => vec![said(format!(" ---> {image}\n"))],
        BuildStep::Output(bytes) => vec![said(String::from_utf8_lossy(&bytes))],
        BuildStep::Note(text) => vec![said(text)],
        BuildStep::Warned(warnings) => {
            let lines = warnings.lines();
            lines
                .iter()
                .map(|line| said(format!("[Warning] {line}\n")))
                .collect()
        }
        BuildStep::Left(id) => vec![left(&id)],
        BuildStep::Built { id, names } => {
            let mut all = vec![
                json_line(&json!({ "aux": { "ID": id.to_string() } })),
                said(format!("Successfully built {}\n", id.short())),
            ];
            all.extend(
                names
                    .iter()
                    .map(|name| said(format!("Successfully tagged {name}\n"))),
            );
            all
        }
    }
}

pub(super) fn build_request(call: &Call) -> ApiResult<BuildRequest> {
    let query = &call.query;
    let text = |key: &str| query.non_empty(key).map(str::to_owned);
    if query.flag("squash") {
        return Err(ApiError::not_supported(
            "squashing layers",
            "use several stages and COPY --from",
        ));
    }
    let names = query
        .all("t")
        .filter(|name| !name.is_empty())
        .map(check_name)
        .collect::<ApiResult<Vec<_>>>()?;
    let host = host_config(call)?;
    let extras = extras(call)?;
    let is_unlisted = extras.unlisted;
    let attest = extras.attest()?;
    let annotate = extras.annotate()?;
    let carries_cache = extras.inline_cache;
    let (cache_from, cache_to) = (extras.cache_from(), extras.cache_to());
    let (no_cache_stages, entitlements) = (extras.no_cache_stages.clone(), extras.entitlements.clone());
    Ok(BuildRequest {
        remote: text("remote").filter(|remote| remote != "client-session"),
        contexts: extras.contexts(),
        keep_failed: extras.keep_failed,
        check_reproducible: extras.check_reproducible,
        real_times: extras.real_times,
        client: Some(Arc::new(HeardClient::new(extras, &call.agents))),
        dockerfile: text("dockerfile").unwrap_or_default(),
        names,
        is_unlisted,
        cache_from,
        cache_to,
        attest,
        annotate,
        carries_cache,
        arguments: json_parameter(call, "buildargs")?,
        labels: json_parameter(call, "labels")?,
        target: text("target"),
        no_cache: query.flag("nocache"),
        no_cache_stages,
        pull: query.flag("pull"),
        network: text("networkmode"),
        entitlements,
        extra_hosts: query
            .all("extrahosts")
            .filter(|host| !host.is_empty())
            .map(str::to_owned)
            .collect(),
        resources: resources::limits(&host, host_facts(), &mut Vec::new())?,
        shm_bytes: u64::try_from(host.shm_size).ok().filter(|bytes| *bytes > 0),
        rlimits: resources::rlimits(&host)?,
        cgroup_parent: text("cgroupparent"),
        platform: query
            .non_empty("platform")
            .map(|text| {
                Platform::parse(text).ok_or_else(|| {
                    ApiError::invalid(format!("\"{text}\": unknown operating system or architecture"))
                })
            })
            .transpose()?,
        credentials: match call.headers.get("x-registry-config") {
            None => BTreeMap::new(),
            Some(header) => {
                let text = header
                    .to_str()
                    .map_err(|_| ApiError::invalid("invalid X-Registry-Config header: it is not ASCII"))?;
                Credentials::decode_config(text).map_err(EngineError::from)?
            }
        },
    })
}

/// The caches that Docker's clients name.
pub(super) fn cache_names(call: &Call) -> ApiResult<Vec<String>> {
    let names: Option<Vec<String>> = match call.query.non_empty("cachefrom") {
        Some(text) => parse_json(text.as_bytes())?,
        None => None,
    };
    Ok(names.unwrap_or_default())
}

/// What `naru build` gives along, in a header of its own: `POST /build` has no other place for it.
#[derive(Default, Deserialize)]
struct Extras {
    /// By id, in base64.
    #[serde(default)]
    secrets: BTreeMap<String, String>,
    /// By name: `docker-image://…`, a URL, or `archive:` and a directory of the context's archive.
    #[serde(default)]
    contexts: BTreeMap<String, String>,
    #[serde(default)]
    keep_failed: bool,
    /// The client asks for files afterwards: no image is listed.
    #[serde(default)]
    unlisted: bool,
    /// A Dockerfile that is not in the context, in base64.
    #[serde(default)]
    dockerfile: Option<String>,
    #[serde(default)]
    check_reproducible: bool,
    #[serde(default)]
    real_times: bool,
    #[serde(default)]
    no_cache_stages: Vec<String>,
    #[serde(default)]
    entitlements: Vec<String>,
    /// Names in registries, or `archive:` and a directory of the context's archive.
    #[serde(default)]
    cache_from: Vec<String>,
    #[serde(default)]
    cache_to: Vec<WireTarget>,
    /// By type, with their options.
    #[serde(default)]
    attest: BTreeMap<String, String>,
    /// What statements call the image.
    #[serde(default)]
    attest_names: Vec<String>,
    /// As attributes of an output have them, with their values.
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    inline_cache: bool,
    #[serde(default)]
    agents: Option<WireAgents>,
}

/// Agents for SSH keys that the client lends, by their ids.
#[derive(Deserialize)]
struct WireAgents {
    build: String,
    ids: Vec<String>,
}

#[derive(Deserialize)]
struct WireTarget {
    reference: String,
    #[serde(default)]
    has_all: bool,
    #[serde(default)]
    has_mounts: bool,
    #[serde(default)]
    ignores_errors: bool,
}

/// Secrets are shown to nobody.
impl fmt::Debug for Extras {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Extras")
            .field("contexts", &self.contexts)
            .finish_non_exhaustive()
    }
}

impl Extras {
    fn attest(&self) -> ApiResult<AttestRequest> {
        let mut request = AttestRequest::default();
        for name in &self.attest_names {
            request.names.push(check_name(name)?);
        }
        for (kind, options) in &self.attest {
            request.add(kind, options)?;
        }
        Ok(request)
    }

    fn annotate(&self) -> ApiResult<AnnotateRequest> {
        let mut request = AnnotateRequest::default();
        for (attribute, value) in &self.annotations {
            request.add(attribute, value)?;
        }
        Ok(request)
    }

    fn cache_from(&self) -> Vec<CacheSource> {
        let read = |text: &String| match text.strip_prefix("archive:") {
            Some(directory) => CacheSource::Archived(directory.to_owned()),
            None => CacheSource::Named(text.clone()),
        };
        self.cache_from.iter().map(read).collect()
    }

    fn cache_to(&self) -> Vec<CacheTarget> {
        let target = |target: &WireTarget| CacheTarget {
            place: CachePlace::Registry(target.reference.clone()),
            has_all: target.has_all,
            has_mounts: target.has_mounts,
            ignores_errors: target.ignores_errors,
        };
        self.cache_to.iter().map(target).collect()
    }

    fn contexts(&self) -> BTreeMap<String, NamedContext> {
        let read = |text: &str| match (
            text.strip_prefix("docker-image://"),
            text.strip_prefix("archive:"),
        ) {
            (Some(image), _) => NamedContext::Image(image.to_owned()),
            (None, Some(directory)) => NamedContext::Archived(directory.to_owned()),
            (None, None) => NamedContext::Remote(text.to_owned()),
        };
        self.contexts
            .iter()
            .map(|(name, text)| (name.clone(), read(text)))
            .collect()
    }
}

/// A client that was heard to the end: it is asked for nothing but its agents.
#[derive(Debug)]
struct HeardClient {
    extras: Extras,
    agents: BTreeMap<String, Arc<Lent>>,
}

impl HeardClient {
    fn new(extras: Extras, agents: &Agents) -> Self {
        let lent = extras.agents.iter();
        let lent = lent.flat_map(|lent| {
            lent.ids
                .iter()
                .map(|id| (id.clone(), agents.find(&lent.build, id)))
        });
        Self {
            agents: lent.collect(),
            extras,
        }
    }
}

impl BuildClient for HeardClient {
    fn secret<'a>(&'a self, id: &'a str) -> Reply<'a, Option<Vec<u8>>> {
        Box::pin(async move {
            let Some(text) = self.extras.secrets.get(id) else {
                return Ok(None);
            };
            let decoded = BASE64_STANDARD.decode(text);
            // The error says nothing of what could not be read.
            let decoded = decoded.map_err(|_| EngineError::invalid(format!("secret {id} is not base64")))?;
            Ok(Some(decoded))
        })
    }

    fn agent<'a>(&'a self, id: &'a str) -> Reply<'a, Option<Box<dyn AgentStream>>> {
        Box::pin(async move {
            match self.agents.get(id) {
                Some(lent) => lent.connect().await.map(Some),
                None => Ok(None),
            }
        })
    }

    fn files<'a>(&'a self, _name: &'a str) -> Reply<'a, Option<KeptContext>> {
        Box::pin(async { Ok(None) })
    }
}

/// The Dockerfile that came with a request, where it is not in the context.
pub(super) fn given_dockerfile(call: &Call) -> ApiResult<Option<Vec<u8>>> {
    let Some(text) = extras(call)?.dockerfile else {
        return Ok(None);
    };
    let decoded = BASE64_STANDARD.decode(text);
    let wrong = |_| ApiError::invalid("invalid X-Naru-Build header: the Dockerfile is not base64");
    decoded.map(Some).map_err(wrong)
}

fn extras(call: &Call) -> ApiResult<Extras> {
    let wrong = || ApiError::invalid("invalid X-Naru-Build header: it is not base64 of its JSON");
    let Some(header) = call.headers.get("x-naru-build") else {
        return Ok(Extras::default());
    };
    let bytes = BASE64_STANDARD.decode(header.as_bytes()).map_err(|_| wrong())?;
    serde_json::from_slice(&bytes).map_err(|_| wrong())
}

fn check_name(name: &str) -> ApiResult<String> {
    let reference = Reference::parse(name).map_err(|error| ApiError::invalid(error.to_string()))?;
    if reference.digest().is_some() {
        return Err(ContentError::TagWithDigest.into());
    }
    Ok(reference.or_latest().familiar())
}

fn json_parameter<T: serde::de::DeserializeOwned + Default>(call: &Call, key: &str) -> ApiResult<T> {
    let Some(text) = call.query.non_empty(key) else {
        return Ok(T::default());
    };
    let parsed: ApiResult<Option<T>> = parse_json(text.as_bytes());
    let parsed =
        parsed.map_err(|error| ApiError::invalid(format!("error reading {key}: {}", error.message)))?;
    Ok(parsed.unwrap_or_default())
}

/// The limits of a build's containers, in the form that a container's come in.
fn host_config(call: &Call) -> ApiResult<HostConfig> {
    let number = |key: &str| call.integer(key).map(Option::unwrap_or_default);
    let text = |key: &str| call.query.get(key).unwrap_or_default().to_owned();
    let ulimits: serde_json::Value = json_parameter(call, "ulimits")?;
    let value = json!({
        "Memory": number("memory")?,
        "MemorySwap": number("memswap")?,
        "CpuShares": number("cpushares")?,
        "CpuPeriod": number("cpuperiod")?,
        "CpuQuota": number("cpuquota")?,
        "CpusetCpus": text("cpusetcpus"),
        "CpusetMems": text("cpusetmems"),
        "ShmSize": number("shmsize")?,
        "Ulimits": ulimits,
    });
    serde_json::from_value(value)
        .map_err(|error| ApiError::invalid(format!("error reading ulimits: {error}")))
}
