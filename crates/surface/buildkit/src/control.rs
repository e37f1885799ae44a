//! BuildKit's own interface: `Control`, by which builds are asked for, and `LLBBridge`, by which buildx steers one.
//!
//! ```text
//!  Control/Solve, frontend dockerfile.v0 ─────────────────────────────▶ a build ─▶ its image's digest
//!  Control/Solve, no frontend ─▶ waits … LLBBridge/Solve ─▶ a build; LLBBridge/Return ─▶ the digest
//!  Control/Status ─▶ the build's vertices and logs, under the same ref
//! ```
//! One frontend is known, the Dockerfile's; raw LLB and other frontends are refused.

use crate::attributes::read_options;
use crate::build::{SessionBuild, Told};
use crate::caches::add_caches;
use crate::error::{KitError, Result};
use crate::history::StepCounts;
use crate::output::{self, Output};
use crate::requests::Question;
use crate::wire::{
    ApiCap, BuildkitVersion, GatewayResult, Platform, Ref, StatusResponse, WorkerRecord, control, gateway,
};
use crate::{Builders, lock};
use naru_base::{Digest, ErrorKind};
use naru_engine::Engine;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tonic::{Code, Status};

/// Vertices and logs kept for a client that does not ask; the oldest are forgotten.
const STATUSES_MAX: usize = 4096;

/// How long a build that has ended can still be asked of.
const MEMORY: Duration = Duration::from_secs(10);

/// How long a client may take to steer a build that it has announced.
const STEERED: Duration = Duration::from_secs(60 * 60);

/// How long the announcement of a build may take, which clients send beside their first word on it.
const ANNOUNCED: Duration = Duration::from_secs(3);

const FRONTEND: &str = "dockerfile.v0";

/// What buildx checks before it uses a call; BuildKit's own names.
const GATEWAY_CAPABILITIES: &[&str] = &[
    "solve.base",
    "solve.inlinereturn",
    "return",
    "returnmap",
    "frontend.inputs",
    "frontend.caps",
];

/// A build under its client's ref.
#[derive(Debug, Default)]
pub struct Job {
    statuses: Mutex<VecDeque<StatusResponse>>,
    /// A status came, or the end.
    moved: Notify,
    is_done: watch::Sender<bool>,
    /// What `Control/Solve` said, where `LLBBridge` does the rest.
    steered: watch::Sender<Option<Steered>>,
    returned: watch::Sender<Option<Result<(), String>>>,
    built: Mutex<Option<Digest>>,
    /// The manifest of a cache that the client keeps, as it puts it into its list.
    cache: Mutex<Option<String>>,
    steps: Mutex<StepCounts>,
}

#[derive(Debug, Clone)]
struct Steered {
    session: String,
    outputs: Vec<Output>,
    cache: Option<control::CacheOptions>,
}

impl Job {
    pub fn tell(&self, status: StatusResponse) {
        let mut steps = lock(&self.steps);
        for vertex in &status.vertexes {
            match vertex.completed {
                None => steps.begun += 1,
                Some(_) => steps.completed += 1,
            }
            steps.cached += i32::from(vertex.completed.is_some() && vertex.cached);
        }
        steps.begun = steps.begun.max(steps.completed);
        drop(steps);
        let mut statuses = lock(&self.statuses);
        if statuses.len() >= STATUSES_MAX {
            statuses.pop_front();
        }
        statuses.push_back(status);
        drop(statuses);
        self.moved.notify_waiters();
    }

    /// The next status; nothing when the build has ended and all was told.
    pub async fn next_status(&self) -> Option<StatusResponse> {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if let Some(status) = lock(&self.statuses).pop_front() {
                return Some(status);
            }
            if *self.is_done.borrow() {
                return None;
            }
            moved.await;
        }
    }

    fn end(&self) {
        self.is_done.send_replace(true);
        self.moved.notify_waiters();
    }
}

/// Ends a job whichever way its solve ends; forgotten a little later.
struct Ending {
    builders: Arc<Builders>,
    name: String,
    job: Arc<Job>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.job.end();
        let (builders, name) = (Arc::clone(&self.builders), std::mem::take(&mut self.name));
        tokio::spawn(async move {
            tokio::time::sleep(MEMORY).await;
            lock(&builders.jobs).remove(&name);
        });
    }
}

pub fn status_of(error: &KitError) -> Status {
    let code = match error {
        KitError::NotSupported(..) => Code::Unimplemented,
        KitError::NoSession(_) | KitError::NoBuild(_) => Code::NotFound,
        KitError::Engine(error) => match error.kind {
            ErrorKind::InvalidParameter => Code::InvalidArgument,
            ErrorKind::NotFound => Code::NotFound,
            ErrorKind::NotImplemented => Code::Unimplemented,
            _ => Code::Unknown,
        },
        _ => Code::Unknown,
    };
    Status::new(code, error.to_string())
}

/// What is wanted of the build. Of several outputs the client tells each by its number.
pub fn read_outputs(request: &control::SolveRequest) -> Result<Vec<Output>> {
    if request.exporters.is_empty() && !request.exporter_deprecated.is_empty() {
        let output = Output::read(
            &request.exporter_deprecated,
            &request.exporter_attrs_deprecated,
            None,
        )?;
        return Ok(vec![output]);
    }
    let exporters = request.exporters.iter().enumerate();
    exporters
        .map(|(number, exporter)| Output::read(&exporter.r#type, &exporter.attrs, Some(number)))
        .collect()
}

pub fn check_frontend(name: &str, has_definition: bool) -> Result<()> {
    if has_definition {
        return Err(KitError::NotSupported(
            "a definition in LLB".to_owned(),
            "build from a Dockerfile",
        ));
    }
    if name != FRONTEND {
        return Err(KitError::NotSupported(
            format!("the frontend {name:?}"),
            "use dockerfile.v0",
        ));
    }
    Ok(())
}

impl Builders {
    pub(crate) fn job(&self, name: &str) -> Arc<Job> {
        Arc::clone(lock(&self.jobs).entry(name.to_owned()).or_default())
    }

    pub(crate) async fn solve(
        self: &Arc<Self>,
        engine: Arc<Engine>,
        request: control::SolveRequest,
    ) -> Result<control::SolveResponse> {
        let job = self.job(&request.r#ref);
        let _ending = Ending {
            builders: Arc::clone(self),
            name: request.r#ref.clone(),
            job: Arc::clone(&job),
        };
        self.history.begin(&request);
        let name = request.r#ref.clone();
        let outcome = self.solve_job(engine, request, &job).await;
        let steps = *lock(&job.steps);
        match &outcome {
            Ok(response) => self
                .history
                .complete(&name, steps, Ok(&response.exporter_response)),
            Err(error) => self.history.complete(&name, steps, Err(&status_of(error))),
        }
        outcome
    }

    async fn solve_job(
        self: &Arc<Self>,
        engine: Arc<Engine>,
        request: control::SolveRequest,
        job: &Job,
    ) -> Result<control::SolveResponse> {
        let outputs = read_outputs(&request)?;
        let names = output::names_of(&outputs);
        let id = if request.frontend.is_empty() && request.definition.is_none() {
            Self::await_steering(job, request.session.clone(), outputs, request.cache.clone()).await?
        } else {
            check_frontend(&request.frontend, request.definition.is_some())?;
            if let Some(question) = Question::read(&request.frontend_attrs)? {
                let asked = (request.session.as_str(), &request.frontend_attrs);
                let told = Box::pin(self.answer(&engine, question, (&request.r#ref, job), asked)).await?;
                return Ok(control::SolveResponse {
                    exporter_response: told,
                });
            }
            let (mut build, remote) = read_options(&request.frontend_attrs)?;
            add_caches(&mut build, request.cache.as_ref())?;
            let build = SessionBuild {
                id: request.r#ref.clone(),
                session: request.session.clone(),
                remote,
                request: build,
                outputs,
                takes_warnings: true,
            };
            self.run_job(engine, build, job).await?
        };
        let mut exporter_response = HashMap::new();
        if let Some(id) = id {
            for key in ["containerimage.digest", "containerimage.config.digest"] {
                exporter_response.insert(key.to_owned(), id.to_string());
            }
        }
        if let Some(manifest) = lock(&job.cache).clone() {
            exporter_response.insert("cache.manifest".to_owned(), manifest);
        }
        if !names.is_empty() {
            exporter_response.insert("image.name".to_owned(), names.join(","));
        }
        Ok(control::SolveResponse { exporter_response })
    }

    /// Lets the client steer the build and waits for its word that all is done.
    async fn await_steering(
        job: &Job,
        session: String,
        outputs: Vec<Output>,
        cache: Option<control::CacheOptions>,
    ) -> Result<Option<Digest>> {
        job.steered.send_replace(Some(Steered {
            session,
            outputs,
            cache,
        }));
        let mut returned = job.returned.subscribe();
        let waiting = tokio::time::timeout(STEERED, returned.wait_for(Option::is_some)).await;
        let outcome = waiting
            .ok()
            .and_then(|waited| waited.ok().and_then(|outcome| outcome.clone()))
            .unwrap_or_else(|| Err("nobody steered it".to_owned()));
        outcome.map_err(|reason| KitError::broken("the build", reason))?;
        Ok(lock(&job.built).clone())
    }

    async fn run_job(
        self: &Arc<Self>,
        engine: Arc<Engine>,
        build: SessionBuild,
        job: &Job,
    ) -> Result<Option<Digest>> {
        let mut running = self.begin(engine, build).await?;
        while let Some(told) = running.told.recv().await {
            match told {
                Told::Trace(status) => job.tell(status),
                Told::Cache(manifest) => *lock(&job.cache) = Some(manifest),
                Told::Built(id) => {
                    lock(&job.built).clone_from(&id);
                    return Ok(id);
                }
                Told::Failed(error) => return Err(error),
            }
        }
        Err(KitError::broken("the build", "it was ended"))
    }

    /// `LLBBridge/Solve`, for the build of this ref.
    pub(crate) async fn steer(
        self: &Arc<Self>,
        engine: Arc<Engine>,
        name: &str,
        request: gateway::SolveRequest,
    ) -> Result<gateway::SolveResponse> {
        let job = self.job(name);
        let mut announced = job.steered.subscribe();
        let announcement = tokio::time::timeout(ANNOUNCED, announced.wait_for(Option::is_some)).await;
        let steered = announcement
            .ok()
            .and_then(|known| known.ok()?.clone())
            .ok_or_else(|| KitError::broken("the build", "there is none of this ref"))?;
        check_frontend(&request.frontend, request.definition.is_some())?;
        if let Some(question) = Question::read(&request.frontend_opt)? {
            let asked = (steered.session.as_str(), &request.frontend_opt);
            let told = Box::pin(self.answer(&engine, question, (name, &job), asked)).await?;
            let metadata = told.into_iter().map(|(key, text)| (key, text.into_bytes()));
            return Ok(result_of(Ref::default(), metadata.collect()));
        }
        let (mut build, remote) = read_options(&request.frontend_opt)?;
        add_caches(&mut build, steered.cache.as_ref())?;
        let build = SessionBuild {
            id: name.to_owned(),
            session: steered.session,
            remote,
            request: build,
            outputs: steered.outputs,
            takes_warnings: true,
        };
        let id = self.run_job(engine, build, &job).await?;
        let made = Ref {
            id: id.map_or_else(|| name.to_owned(), |id| id.to_string()),
            def: None,
        };
        Ok(result_of(made, HashMap::new()))
    }

    /// `LLBBridge/Return`: the client has all it wanted, or gives up.
    pub(crate) fn take_return(&self, name: &str, request: gateway::ReturnRequest) {
        let outcome = match request.error {
            Some(error) => Err(error.message),
            None => Ok(()),
        };
        self.job(name).returned.send_replace(Some(outcome));
    }
}

fn result_of(made: Ref, metadata: HashMap<String, Vec<u8>>) -> gateway::SolveResponse {
    gateway::SolveResponse {
        r#ref: String::new(),
        result: Some(GatewayResult {
            result: Some(gateway::result::Result::Ref(made)),
            metadata,
            ..GatewayResult::default()
        }),
    }
}

pub fn pong() -> gateway::PongResponse {
    let capabilities = GATEWAY_CAPABILITIES.iter().map(|name| ApiCap {
        id: (*name).to_owned(),
        enabled: true,
        ..ApiCap::default()
    });
    gateway::PongResponse {
        frontend_api_caps: capabilities.collect(),
        llb_caps: Vec::new(),
        workers: vec![worker()],
    }
}

pub fn version() -> BuildkitVersion {
    BuildkitVersion {
        package: "naru".to_owned(),
        version: format!("v{}", env!("CARGO_PKG_VERSION")),
        revision: String::new(),
    }
}

/// The one that does all work: this engine.
pub fn worker() -> WorkerRecord {
    let host = naru_engine::oci::Platform::host();
    WorkerRecord {
        id: "naru".to_owned(),
        platforms: vec![Platform {
            os: host.os,
            architecture: host.architecture,
            variant: host.variant,
            ..Platform::default()
        }],
        buildkit_version: Some(version()),
        ..WorkerRecord::default()
    }
}
