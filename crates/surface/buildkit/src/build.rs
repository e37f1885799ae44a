//! One build for a client with a session: what it asked for, while it runs, and what it is told.

use crate::client::SessionClient;
use crate::error::{KitError, Result};
use crate::output::{self, Output};
use crate::session::Session;
use crate::trace::{Trace, vertices_of};
use crate::wire::StatusResponse;
use crate::{Builders, lock};
use naru_base::Digest;
use naru_engine::archive::Chunks;
use naru_engine::{BuildClient, BuildRequest, BuildStep, ContextSource, Engine};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

/// Events in flight; a slow client holds its build up.
const TOLD_MAX: usize = 64;

/// How long a build waits for a context that its client sends with another request, and that for its build.
const UPLOAD_ARRIVAL: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 30_000 });

/// Where the context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    /// The client serves it, and the Dockerfile, under these names.
    Client { context: String, dockerfile: String },
    /// Another request of the client's brings an archive, under the build's id.
    Upload,
    /// The client serves an archive of it under this path.
    Pulled { path: String },
    /// Somewhere else: the engine fetches it, the Dockerfile with it.
    Fetched,
}

/// A build as it was asked for.
#[derive(Debug)]
pub struct SessionBuild {
    /// The client's name for it, by which it can be ended.
    pub id: String,
    pub session: String,
    pub remote: Remote,
    pub request: BuildRequest,
    /// None: an image under the request's names.
    pub outputs: Vec<Output>,
    /// Its client knows warnings; others get them as output.
    pub takes_warnings: bool,
}

/// What a client hears of its build.
#[derive(Debug)]
pub enum Told {
    Trace(StatusResponse),
    /// The client has the build's cache; its manifest's descriptor, as JSON.
    Cache(String),
    /// The last of a build that went well; with its image, where it made one.
    Built(Option<Digest>),
    /// The last of one that did not.
    Failed(KitError),
}

/// A build under way; ended when this is dropped.
#[derive(Debug)]
pub struct Running {
    pub told: mpsc::Receiver<Told>,
    work: JoinHandle<()>,
    id: String,
    builders: Arc<Builders>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.work.abort();
        lock(&self.builders.builds).remove(&self.id);
    }
}

/// Archives that wait for their builds.
#[derive(Debug, Default)]
pub struct Uploads {
    waiting: Mutex<HashMap<String, Chunks>>,
    /// One has come, or was taken.
    moved: Notify,
}

impl Uploads {
    /// Waits until the build of this id has what it needs of an archive.
    async fn give(&self, id: &str, mut archive: Chunks) -> Result<()> {
        let (pass, passed) = mpsc::channel(TOLD_MAX);
        lock(&self.waiting).insert(id.to_owned(), passed);
        self.moved.notify_waiters();
        let given = tokio::time::timeout(UPLOAD_ARRIVAL, self.until(|waiting| !waiting.contains_key(id)));
        let unwanted = || KitError::broken("the build", "nobody asked for the context that was sent");
        // A short archive would fit into the channel, and nobody would know whether it was wanted.
        if given.await.is_err() && lock(&self.waiting).remove(id).is_some() {
            return Err(unwanted());
        }
        while let Some(chunk) = archive.recv().await {
            if pass.send(chunk).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn take(&self, id: &str) -> Result<Chunks> {
        let arrived = self.until(|waiting| waiting.contains_key(id));
        let _ = tokio::time::timeout(UPLOAD_ARRIVAL, arrived).await;
        let taken = lock(&self.waiting).remove(id);
        self.moved.notify_waiters();
        taken.ok_or_else(|| KitError::broken("its context", "it was not sent"))
    }

    async fn until(&self, is_so: impl Fn(&HashMap<String, Chunks>) -> bool) {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if is_so(&lock(&self.waiting)) {
                return;
            }
            moved.await;
        }
    }
}

impl Builders {
    /// Brings the archive of a build that another request asks for.
    pub async fn upload(&self, build: &str, archive: Chunks) -> Result<()> {
        self.uploads.give(build, archive).await
    }

    /// Ends a build by its client's name for it; nothing where there is none.
    pub fn cancel(&self, build: &str) {
        if let Some(work) = lock(&self.builds).remove(build) {
            work.abort();
        }
    }

    /// Begins a build; what fails before anything could be told is an error here.
    pub async fn begin(self: &Arc<Self>, engine: Arc<Engine>, build: SessionBuild) -> Result<Running> {
        let session = self.sessions.find(&build.session).await?;
        let (out, told) = mpsc::channel(TOLD_MAX);
        let (builders, id) = (Arc::clone(self), build.id.clone());
        let work = tokio::spawn(async move {
            let outcome = tokio::select! {
                outcome = builders.run(engine, &session, build, &out) => outcome,
                () = session.closed() => Err(KitError::broken("the build", "its session ended")),
            };
            let last = match outcome {
                Ok(id) => Told::Built(id),
                Err(error) => Told::Failed(error),
            };
            let _ = out.send(last).await;
        });
        if !id.is_empty() {
            lock(&self.builds).insert(id.clone(), work.abort_handle());
        }
        Ok(Running {
            told,
            work,
            id,
            builders: Arc::clone(self),
        })
    }

    async fn run(
        &self,
        engine: Arc<Engine>,
        session: &Arc<Session>,
        build: SessionBuild,
        out: &mpsc::Sender<Told>,
    ) -> Result<Option<Digest>> {
        let has_image = build.outputs.is_empty() || build.outputs.iter().any(Output::is_image);
        let (told, fetches) = mpsc::channel(TOLD_MAX);
        let (steps, stepped) = mpsc::channel(TOLD_MAX);
        let mut trace = Trace::new(&vertices_of(&build.session, &build.id));
        if build.takes_warnings {
            let is_told = matches!(build.remote, Remote::Client { .. });
            trace = trace.with_warnings(name_of_dockerfile(&build.request), is_told);
        }
        let telling = tell(trace, has_image, stepped, fetches, out.clone());
        let building = async move {
            let mut request = build.request;
            request.is_unlisted = !has_image;
            request.names.extend(output::names_of(&build.outputs));
            request.attest.names = output::all_names_of(&build.outputs);
            for output in &build.outputs {
                request.annotate.merge(output.annotate.clone());
            }
            let mut client = SessionClient::new(&engine, session, &build.id, told);
            let source = self.open(&mut client, &build.id, build.remote, &request).await?;
            let client = Arc::new(client);
            request.client = Some(Arc::clone(&client) as Arc<dyn BuildClient>);
            let result = Box::pin(engine.build_image(request, source, steps)).await?;
            if let Some(manifest) = client.cache_manifest()? {
                let _ = out.send(Told::Cache(manifest)).await;
            }
            for output in &build.outputs {
                client.deliver(&result, output).await?;
            }
            Ok::<_, KitError>(has_image.then_some(result.id))
        };
        let (outcome, mut trace) = tokio::join!(building, telling);
        if let Err(error) = &outcome
            && let Some(failed) = trace.fail(&error.to_string())
        {
            let _ = out.send(Told::Trace(failed)).await;
        }
        outcome
    }

    /// Where the build's files are, its Dockerfile first.
    pub(crate) async fn open(
        &self,
        client: &mut SessionClient,
        build: &str,
        remote: Remote,
        request: &BuildRequest,
    ) -> Result<ContextSource> {
        Ok(match remote {
            Remote::Client { context, dockerfile } => {
                let texts = client
                    .dockerfile(&dockerfile, name_of_dockerfile(request))
                    .await?;
                client.context = context;
                client.ignore = texts.ignore;
                ContextSource::Client {
                    dockerfile: texts.dockerfile,
                }
            }
            Remote::Upload => ContextSource::Archive(self.uploads.take(build).await?),
            Remote::Pulled { path } => ContextSource::Archive(client.pull(&path).await?),
            Remote::Fetched => ContextSource::Archive(mpsc::channel(1).1),
        })
    }
}

/// The Dockerfile's path as it was asked for.
pub fn name_of_dockerfile(request: &BuildRequest) -> &str {
    match request.dockerfile.as_str() {
        "" => "Dockerfile",
        name => name,
    }
}

/// Passes on what the engine and the session tell, until neither has more.
async fn tell(
    mut trace: Trace,
    has_image: bool,
    mut steps: mpsc::Receiver<BuildStep>,
    mut fetches: mpsc::Receiver<StatusResponse>,
    out: mpsc::Sender<Told>,
) -> Trace {
    loop {
        let told = tokio::select! {
            Some(fetch) = fetches.recv() => Some(fetch),
            Some(step) = steps.recv() => match step {
                // Of what is in no list nothing is told.
                BuildStep::Built { .. } if !has_image => trace.fail(""),
                step => trace.tell(step),
            },
            else => return trace,
        };
        if let Some(told) = told {
            let _ = out.send(Told::Trace(told)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[tokio::test]
    async fn an_upload_and_its_build_find_each_other() {
        let uploads = Uploads::default();
        let (send, archive) = mpsc::channel(1);
        send.send(Ok(Bytes::from_static(b"x"))).await.unwrap();
        drop(send);
        let take = async {
            let mut taken = uploads.take("a").await.unwrap();
            (taken.recv().await.unwrap().unwrap(), taken.recv().await.is_none())
        };
        let (given, taken) = tokio::join!(uploads.give("a", archive), take);
        given.unwrap();
        assert_eq!(taken, (Bytes::from_static(b"x"), true));
        assert!(uploads.take("b").await.is_err());
        let (_send, archive) = mpsc::channel(1);
        assert!(uploads.give("c", archive).await.is_err());
        assert!(lock(&uploads.waiting).is_empty());
    }
}
