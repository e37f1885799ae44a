//! What a build may ask of the client at the other end of its session.

use crate::error::{KitError, Result};
use crate::filesend;
use crate::filesync::{self, Selection, Texts};
use crate::lock;
use crate::output::{Output, OutputKind};
use crate::session::Session;
use crate::store;
use crate::trace::{Fetch, definition_step, vertices_of};
use crate::wire::{
    AgentBytes, CheckAgentRequest, CheckAgentResponse, CredentialsRequest, CredentialsResponse,
    GetSecretRequest, GetSecretResponse, StatusResponse, UploadBytes,
};
use futures_util::stream;
use naru_base::Digest;
use naru_build::ignore;
use naru_engine::archive::Chunks;
use naru_engine::oci::{Descriptor, Reference};
use naru_engine::registry::Credentials;
use naru_engine::{
    AgentStream, Answer, AttestedFile, BuildClient, Built, Engine, EngineError, KeptContext, PushRequest,
    Teller,
};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

const SECRETS: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
const AGENT: &str = "/moby.sshforward.v1.SSH/ForwardAgent";
const CHECK_AGENT: &str = "/moby.sshforward.v1.SSH/CheckAgent";

const UPLOAD: &str = "/moby.upload.v1.Upload/Pull";

/// Pieces of an archive in flight, of 32 KiB as clients send them.
const UPLOAD_PIECES_MAX: usize = 16;

/// What an agent says at once; keys and signatures are short.
const AGENT_BYTES: usize = 32 << 10;

/// The session of one build.
pub struct SessionClient {
    pub engine: Arc<Engine>,
    pub session: Arc<Session>,
    /// The build's id, for its vertices.
    pub build: String,
    pub told: mpsc::Sender<StatusResponse>,
    /// What the client calls the directory of its context.
    pub context: String,
    /// Of `<Dockerfile>.dockerignore`, where there is one.
    pub ignore: Option<String>,
    /// The manifest of the cache that the client keeps, when it has all of it.
    pub cache: Mutex<Option<Descriptor>>,
}

impl std::fmt::Debug for SessionClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SessionClient({:?})", self.session.description.id)
    }
}

/// A Dockerfile and what goes with it.
pub struct DockerfileTexts {
    pub dockerfile: Vec<u8>,
    pub ignore: Option<String>,
}

impl SessionClient {
    /// Of a build, by its client's name for it.
    pub fn new(
        engine: &Arc<Engine>,
        session: &Arc<Session>,
        build: &str,
        told: mpsc::Sender<StatusResponse>,
    ) -> Self {
        Self {
            engine: Arc::clone(engine),
            session: Arc::clone(session),
            build: vertices_of(&session.description.id, build),
            told,
            context: String::new(),
            ignore: None,
            cache: Mutex::default(),
        }
    }

    /// What the context leaves out.
    pub async fn ignored(&self) -> Result<String> {
        match &self.ignore {
            Some(text) => Ok(text.clone()),
            None => self.ignore_text(&self.context).await,
        }
    }

    /// What describes the cache that the client has, as JSON.
    pub fn cache_manifest(&self) -> Result<Option<String>> {
        let manifest = lock(&self.cache).clone();
        let text = manifest
            .map(|manifest| serde_json::to_string(&manifest))
            .transpose();
        Ok(text.map_err(|error| EngineError::system(error.to_string()))?)
    }

    /// Tells of a fetch while it goes on.
    async fn tell_of<T>(&self, name: &str, fetch: impl Future<Output = Result<(T, u64)>>) -> Result<T> {
        self.tell_of_step(&format!("[internal] {name}"), fetch).await
    }

    async fn tell_of_step<T>(&self, name: &str, fetch: impl Future<Output = Result<(T, u64)>>) -> Result<T> {
        let (vertex, begun) = Fetch::begin(&self.build, name);
        let _ = self.told.send(begun).await;
        let fetched = fetch.await;
        let message = fetched.as_ref().err().map(ToString::to_string);
        let ended = match (&fetched, &message) {
            (Ok((_, bytes)), _) => vertex.end(Ok(*bytes)),
            (_, message) => vertex.end(Err(message.as_deref().unwrap_or_default())),
        };
        let _ = self.told.send(ended).await;
        fetched.map(|(fetched, _)| fetched)
    }

    /// Gives the client what it wants of a build.
    pub async fn deliver(&self, built: &Built, output: &Output) -> Result<()> {
        match &output.kind {
            OutputKind::Image { is_pushed: false, .. } => Ok(()),
            OutputKind::Image { names, .. } => {
                for name in names {
                    let pushed = async { Ok((self.push(name).await?, 0)) };
                    self.tell_of_step(&format!("pushing {name}"), pushed).await?;
                }
                Ok(())
            }
            OutputKind::Archive { names } => {
                let archive = self.engine.save_built(&built.id, names)?;
                let sent = filesend::send_archive(&self.session, output.number, archive);
                self.tell_of_step("sending the image's archive to the client", async {
                    Ok(((), sent.await?))
                })
                .await
            }
            OutputKind::FilesArchive => {
                let attested = self.attested_files(built).await?;
                let archive = self.engine.export_image(&built.id, attested).await?;
                let sent = filesend::send_archive(&self.session, output.number, archive);
                self.tell_of_step("sending tarball", async { Ok(((), sent.await?)) })
                    .await
            }
            OutputKind::Files => {
                let tree = self.engine.image_tree(&built.id).await?;
                let attested = self.attested_files(built).await?;
                let sent = filesend::send_files(&self.session, output.number, tree, attested);
                self.tell_of_step("exporting to client directory", async { Ok(((), sent.await?)) })
                    .await
            }
        }
    }

    /// What was asked to be attested, for outputs that are files.
    async fn attested_files(&self, built: &Built) -> Result<Vec<AttestedFile>> {
        if !built.is_attested {
            return Ok(Vec::new());
        }
        Ok(self.engine.attested_files(&built.id).await?)
    }

    async fn push(&self, name: &str) -> Result<()> {
        let reference = Reference::parse(name).map_err(|error| EngineError::invalid(error.to_string()))?;
        let reference = reference.or_latest();
        let whole = reference.to_string();
        let registry = whole.split('/').next().unwrap_or_default();
        let request = PushRequest {
            credentials: self.find_credentials(registry).await?,
            reference,
        };
        let (steps, mut stepped) = mpsc::channel(64);
        let engine = Arc::clone(&self.engine);
        let work = tokio::task::spawn_blocking(move || engine.push_image(&request, &Teller::new(steps)));
        // Listened to until its end: nobody listening would end it.
        while stepped.recv().await.is_some() {}
        let pushed = work
            .await
            .unwrap_or_else(|error| Err(EngineError::system(error.to_string())));
        Ok(pushed?)
    }

    /// Reads the Dockerfile from the directory that the client has it in.
    pub async fn dockerfile(&self, directory: &str, name: &str) -> Result<DockerfileTexts> {
        let own_ignore = format!("{name}.dockerignore");
        let names = vec![name.to_owned(), own_ignore.clone()];
        let fetch = async {
            let selection = Selection {
                directory,
                paths: names.clone(),
                ..Selection::default()
            };
            let received = filesync::receive(&self.session, selection, Texts::new(&names)).await?;
            let mut texts = received.made;
            let dockerfile = texts
                .remove(name)
                .ok_or_else(|| KitError::NoDockerfile(name.to_owned()))?;
            let ignore = texts.remove(&own_ignore).map(text_of);
            Ok((DockerfileTexts { dockerfile, ignore }, received.bytes))
        };
        self.tell_of_step(&definition_step(name), fetch).await
    }

    /// The patterns of `.dockerignore` in one of the client's directories.
    async fn ignore_text(&self, directory: &str) -> Result<String> {
        let name = ".dockerignore".to_owned();
        let fetch = async {
            let names = vec![name.clone()];
            let selection = Selection {
                directory,
                paths: names.clone(),
                ..Selection::default()
            };
            let mut received = filesync::receive(&self.session, selection, Texts::new(&names)).await?;
            Ok((received.made.remove(&name), received.bytes))
        };
        let text = self.tell_of("load .dockerignore", fetch).await?;
        Ok(text.map(text_of).unwrap_or_default())
    }

    async fn bring(&self, directory: &str, ignore: &str, told_as: &str) -> Result<KeptContext> {
        // What cannot be read would leave in what was to stay out.
        ignore::Ignore::parse(ignore)
            .map_err(|reason| EngineError::invalid(format!("failed to parse .dockerignore: {reason}")))?;
        let excludes = ignore::patterns(ignore);
        let key = format!("{}\n{directory}", self.session.description.shared_key);
        let fetch = async {
            let engine = Arc::clone(&self.engine);
            let begun = tokio::task::spawn_blocking(move || engine.update_kept_context(&key));
            let update = begun
                .await
                .map_err(|error| EngineError::system(error.to_string()))??;
            let selection = Selection {
                directory,
                excludes,
                ..Selection::default()
            };
            let received = filesync::receive(&self.session, selection, update).await?;
            Ok((received.made, received.bytes))
        };
        let kept = self.tell_of(told_as, fetch).await?;
        let engine = Arc::clone(&self.engine);
        tokio::task::spawn_blocking(move || engine.settle_kept_contexts());
        Ok(kept)
    }

    async fn read_secret(&self, id: &str) -> Result<Option<Vec<u8>>> {
        let question = GetSecretRequest {
            id: id.to_owned(),
            ..GetSecretRequest::default()
        };
        let answer: Result<GetSecretResponse> = self.session.channel.ask("a secret", SECRETS, question).await;
        absent_is_none(answer.map(|answer| answer.data))
    }

    async fn find_credentials(&self, registry: &str) -> Result<Option<Credentials>> {
        if !self.session.offers(CREDENTIALS) {
            return Ok(None);
        }
        // The name that Docker's clients know their own registry by.
        let host = match registry {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let question = CredentialsRequest {
            host: host.to_owned(),
        };
        let answer: Result<CredentialsResponse> = self
            .session
            .channel
            .ask("credentials", CREDENTIALS, question)
            .await;
        let answer = absent_is_none(answer)?.filter(|answer| !answer.secret.is_empty());
        Ok(answer.map(|answer| {
            let mut credentials = Credentials::default();
            if answer.username.is_empty() {
                credentials.identitytoken = answer.secret;
            } else {
                credentials.username = answer.username;
                credentials.password = answer.secret;
            }
            credentials
        }))
    }

    /// An archive that the client serves.
    pub async fn pull(&self, path: &str) -> Result<Chunks> {
        let mut question = tonic::Request::new(stream::empty::<UploadBytes>());
        let path = path
            .parse()
            .map_err(|_| EngineError::invalid(format!("{path:?} is no path of a context")))?;
        question.metadata_mut().insert("urlpath", path);
        let mut pieces = self
            .session
            .channel
            .converse::<UploadBytes, UploadBytes, _>("its context", UPLOAD, question)
            .await?;
        let (chunks, archive) = mpsc::channel(UPLOAD_PIECES_MAX);
        tokio::spawn(async move {
            loop {
                let chunk = match pieces.message().await {
                    Ok(None) => return,
                    Ok(Some(piece)) => Ok(piece.data.into()),
                    Err(status) => Err(std::io::Error::other(status.message().to_owned())),
                };
                let is_broken = chunk.is_err();
                if chunks.send(chunk).await.is_err() || is_broken {
                    return;
                }
            }
        });
        Ok(archive)
    }

    async fn connect_agent(&self, id: &str) -> Result<Option<Box<dyn AgentStream>>> {
        if !self.session.offers(AGENT) {
            return Ok(None);
        }
        let question = CheckAgentRequest { id: id.to_owned() };
        let known: Result<CheckAgentResponse> = self
            .session
            .channel
            .ask("its SSH agent", CHECK_AGENT, question)
            .await;
        match known {
            // Clients have no code of their own for an agent they do not forward.
            Err(KitError::Refused { .. }) => return Ok(None),
            known => known?,
        };
        let (ours, theirs) = tokio::io::duplex(AGENT_BYTES);
        let (session, id) = (Arc::clone(&self.session), id.to_owned());
        tokio::spawn(async move {
            if let Err(error) = carry_agent(&session, &id, ours).await {
                tracing::debug!(%error, "a connection to an agent broke");
            }
        });
        Ok(Some(Box::new(theirs)))
    }
}

fn text_of(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

fn absent_is_none<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Carries one connection to the client's agent.
async fn carry_agent(session: &Session, id: &str, connection: DuplexStream) -> Result<()> {
    let (from, to) = tokio::io::split(connection);
    let questions = stream::unfold(from, |mut from: ReadHalf<DuplexStream>| async move {
        let mut data = vec![0; AGENT_BYTES];
        let length = from.read(&mut data).await.ok().filter(|length| *length > 0)?;
        data.truncate(length);
        Some((AgentBytes { data }, from))
    });
    let mut question = tonic::Request::new(questions);
    let id = id
        .parse()
        .map_err(|_| EngineError::invalid(format!("{id:?} is no id of an SSH agent")))?;
    question.metadata_mut().insert("buildkit.ssh.id", id);
    let answers = session
        .channel
        .converse::<AgentBytes, AgentBytes, _>("its SSH agent", AGENT, question)
        .await?;
    pass_answers(answers, to).await
}

async fn pass_answers(
    mut answers: tonic::Streaming<AgentBytes>,
    mut to: WriteHalf<DuplexStream>,
) -> Result<()> {
    let broken = |reason: String| KitError::broken("its SSH agent", reason);
    while let Some(answer) = answers
        .message()
        .await
        .map_err(|status| broken(status.message().to_owned()))?
    {
        to.write_all(&answer.data)
            .await
            .map_err(|error| broken(error.to_string()))?;
    }
    to.shutdown().await.map_err(|error| broken(error.to_string()))
}

impl BuildClient for SessionClient {
    fn blob<'a>(&'a self, store: &'a str, digest: &'a Digest) -> Answer<'a, Chunks> {
        Box::pin(async move { Ok(store::read(&self.session, store, digest).await?) })
    }

    fn keep_blob<'a>(&'a self, store: &'a str, blob: &'a Descriptor, content: Chunks) -> Answer<'a, ()> {
        Box::pin(async move { Ok(store::write(&self.session, store, blob, content).await?) })
    }

    fn note_cache(&self, manifest: &Descriptor) {
        *lock(&self.cache) = Some(manifest.clone());
    }

    fn secret<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        Box::pin(async move { Ok(self.read_secret(id).await?) })
    }

    fn agent<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Box<dyn AgentStream>>> {
        Box::pin(async move { Ok(self.connect_agent(id).await?) })
    }

    fn files<'a>(&'a self, name: &'a str) -> Answer<'a, Option<KeptContext>> {
        Box::pin(async move {
            let told_as = format!("load context {name}");
            let brought = async {
                let ignore = self.ignore_text(name).await?;
                self.bring(name, &ignore, &told_as).await
            };
            match brought.await {
                Ok(kept) => Ok(Some(kept)),
                Err(error) if error.is_absent() => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
    }

    fn context(&self) -> Answer<'_, KeptContext> {
        Box::pin(async move {
            let ignore = self.ignored().await?;
            Ok(self.bring(&self.context, &ignore, "load build context").await?)
        })
    }

    fn credentials<'a>(&'a self, registry: &'a str) -> Answer<'a, Option<Credentials>> {
        Box::pin(async move { Ok(self.find_credentials(registry).await?) })
    }
}
