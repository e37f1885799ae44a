//! The resolver process from the daemon's side: found or started when a container first needs it, told of every change,
//! and brought to the same knowledge again when it or the daemon was replaced.
//!
//! One task owns the connection. What it has told is kept here too, so that a resolver that dies is replaced by one that
//! knows all of it; containers then go without answers for some milliseconds.

use crate::error::{EngineError, Result};
use crate::keepers::Spawner;
use naru_base::ErrorKind;
use naru_resolver::protocol::{self, PROTOCOL_VERSION, Reply, Request};
use naru_resolver::{ContainerSettings, EndpointNames};
use naru_sys::seqpacket::{SeqPacket, SeqPacketListener};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

/// Changes that may wait; a container's start makes some five.
const WAITING_MAX: usize = 1024;
/// A resolver answers within a millisecond; one that takes so long is given up.
const PATIENCE: Duration = Duration::from_secs(3);

/// A handle on the one resolver of this engine.
#[derive(Debug, Clone)]
pub struct Resolver {
    commands: mpsc::Sender<Command>,
}

#[derive(Debug)]
enum Command {
    Tell(Change, Option<oneshot::Sender<Result<(), String>>>),
    /// Everything there is, from a daemon that has just started.
    Adopt(Vec<Change>, oneshot::Sender<()>),
    /// The daemon ends; `true`: nothing runs that needs answers.
    Leave(bool, oneshot::Sender<()>),
}

/// Something the resolver is to know.
#[derive(Debug)]
pub enum Change {
    Open {
        container: String,
        settings: ContainerSettings,
        netns: OwnedFd,
    },
    Set {
        container: String,
        settings: ContainerSettings,
    },
    Watch {
        container: String,
        pidfd: OwnedFd,
    },
    Close {
        container: String,
    },
    SetEndpoint {
        network: String,
        container: String,
        endpoint: EndpointNames,
    },
    RemoveEndpoint {
        network: String,
        container: String,
    },
}

impl Resolver {
    /// Starts the task; the process itself is started when it is first needed.
    pub fn start(path: PathBuf, spawner: Arc<Spawner>) -> Self {
        let (commands, received) = mpsc::channel(WAITING_MAX);
        let owner = Owner {
            path,
            spawner,
            link: None,
            known: Known::default(),
        };
        tokio::spawn(owner.run(received));
        Self { commands }
    }

    /// Returns when the resolver has it.
    pub async fn tell(&self, change: Change) -> Result<()> {
        let (done, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Tell(change, Some(done))).await;
        let failed = |reason: &str| {
            EngineError::new(
                ErrorKind::Unavailable,
                format!("cannot answer names for the container: {reason}"),
            )
        };
        if sent.is_err() {
            return Err(failed("the daemon is ending"));
        }
        match answer.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(failed(&reason)),
            Err(_) => Err(failed("the daemon is ending")),
        }
    }

    /// Hands it on, to be told in order; for what cannot wait and need not.
    pub fn mention(&self, change: Change) {
        if let Err(mpsc::error::TrySendError::Full(command)) =
            self.commands.try_send(Command::Tell(change, None))
        {
            let commands = self.commands.clone();
            tokio::spawn(async move { commands.send(command).await });
        }
    }

    /// Brings a resolver that an earlier daemon left in line with what runs now.
    pub async fn adopt(&self, changes: Vec<Change>) {
        let (done, answer) = oneshot::channel();
        if self.commands.send(Command::Adopt(changes, done)).await.is_ok() {
            let _ = answer.await;
        }
    }

    /// Lets go of the resolver; ends it too if nothing runs that needs it.
    pub async fn leave(&self, is_unneeded: bool) {
        let (done, answer) = oneshot::channel();
        if self
            .commands
            .send(Command::Leave(is_unneeded, done))
            .await
            .is_ok()
        {
            let _ = answer.await;
        }
    }
}

type Link = AsyncFd<SeqPacket>;

struct Owner {
    path: PathBuf,
    spawner: Arc<Spawner>,
    link: Option<Link>,
    known: Known,
}

/// What the resolver has been told.
#[derive(Default)]
struct Known {
    containers: HashMap<String, KnownContainer>,
    endpoints: HashMap<(String, String), EndpointNames>,
}

struct KnownContainer {
    settings: ContainerSettings,
    netns: OwnedFd,
    pidfd: Option<OwnedFd>,
}

impl Owner {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    None => return,
                    Some(Command::Tell(change, done)) => {
                        let result = self.tell(change).await.map_err(|error| error.to_string());
                        match (done, result) {
                            (Some(done), result) => drop(done.send(result)),
                            (None, Err(error)) => tracing::warn!(error, "the resolver was not told of a change"),
                            (None, Ok(())) => {}
                        }
                    }
                    Some(Command::Adopt(changes, done)) => {
                        if let Err(error) = self.adopt(changes).await {
                            tracing::error!(%error, "containers find no names");
                        }
                        let _ = done.send(());
                    }
                    Some(Command::Leave(is_unneeded, done)) => {
                        if is_unneeded {
                            self.end().await;
                        }
                        self.link = None;
                        let _ = done.send(());
                    }
                },
                () = ended(self.link.as_ref()) => {
                    self.link = None;
                    if !self.known.containers.is_empty() {
                        tracing::warn!("the resolver ended; starting another");
                        if let Err(error) = self.connect().await {
                            tracing::error!(%error, "containers find no names");
                            tokio::time::sleep(Duration::from_secs(1)).await;
                        }
                    }
                }
            }
        }
    }

    async fn adopt(&mut self, changes: Vec<Change>) -> io::Result<()> {
        let is_needed = !changes.is_empty();
        for change in changes {
            self.known.note(&change)?;
        }
        if is_needed {
            return self.connect().await;
        }
        // Nothing needs one: what is still there ends, or nobody is.
        self.end().await;
        Ok(())
    }

    async fn end(&mut self) {
        if self.link.is_none() {
            self.link = SeqPacket::connect(&self.path).and_then(register).ok();
        }
        if let Some(link) = self.link.take() {
            let _ = send(&link, &Request::End, &[]).await;
            // It closes the connection when it has ended.
            let _ = tokio::time::timeout(PATIENCE, ended(Some(&link))).await;
        }
    }

    async fn tell(&mut self, change: Change) -> io::Result<()> {
        self.known.note(&change)?;
        if self.link.is_none() {
            // Whoever connects tells everything that is known, this change too.
            return if self.known.is_empty() {
                Ok(())
            } else {
                self.connect().await
            };
        }
        let link = self.link.as_ref().expect("just looked");
        match ask(link, &change.request(), &change.descriptors()).await {
            Err(error) if error.kind() != io::ErrorKind::Other => {
                tracing::warn!(%error, "the resolver does not answer; starting another");
                self.link = None;
                self.connect().await
            }
            result => result,
        }
    }

    /// Finds the resolver or starts one, and tells it what it does not know.
    async fn connect(&mut self) -> io::Result<()> {
        let found = SeqPacket::connect(&self.path).and_then(register);
        if let Ok(link) = found {
            match hello(&link).await {
                Ok(state) if state.version == PROTOCOL_VERSION => {
                    self.tell_difference(&link, state).await?;
                    self.link = Some(link);
                    return Ok(());
                }
                _ => {
                    let _ = send(&link, &Request::End, &[]).await;
                }
            }
        }
        let link = self.launch().await?;
        let state = hello(&link).await?;
        self.tell_difference(&link, state).await?;
        self.link = Some(link);
        Ok(())
    }

    async fn launch(&self) -> io::Result<Link> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = SeqPacketListener::listen(&self.path)?;
        let mut child = self.spawner.launch_resolver(listener.into())?;
        // Only so that nothing is left of it when it ends; it lives on when the daemon does not.
        tokio::spawn(async move { child.wait().await });
        SeqPacket::connect(&self.path).and_then(register)
    }

    async fn tell_difference(&self, link: &Link, state: State) -> io::Result<()> {
        for container in &state.containers {
            if !self.known.containers.contains_key(container) {
                let container = container.clone();
                ask(link, &Request::Close { container }, &[]).await?;
            }
        }
        for (network, container) in state.endpoints {
            if !self
                .known
                .endpoints
                .contains_key(&(network.clone(), container.clone()))
            {
                ask(link, &Request::RemoveEndpoint { network, container }, &[]).await?;
            }
        }
        for ((network, container), endpoint) in &self.known.endpoints {
            let request = Request::SetEndpoint {
                network: network.clone(),
                container: container.clone(),
                endpoint: endpoint.clone(),
            };
            ask(link, &request, &[]).await?;
        }
        for (container, known) in &self.known.containers {
            let told = tell_container(link, container, known, state.containers.contains(container)).await;
            if let Err(error) = told {
                tracing::warn!(container, %error, "a container finds no names");
            }
        }
        Ok(())
    }
}

async fn tell_container(
    link: &Link,
    container: &str,
    known: &KnownContainer,
    is_open: bool,
) -> io::Result<()> {
    let (container, settings) = (container.to_owned(), known.settings.clone());
    if is_open {
        return ask(link, &Request::Set { container, settings }, &[]).await;
    }
    let open = Request::Open {
        container: container.clone(),
        settings,
    };
    ask(link, &open, &[known.netns.as_fd()]).await?;
    match &known.pidfd {
        Some(pidfd) => ask(link, &Request::Watch { container }, &[pidfd.as_fd()]).await,
        None => Ok(()),
    }
}

impl Change {
    fn request(&self) -> Request {
        match self {
            Self::Open {
                container, settings, ..
            } => Request::Open {
                container: container.clone(),
                settings: settings.clone(),
            },
            Self::Set { container, settings } => Request::Set {
                container: container.clone(),
                settings: settings.clone(),
            },
            Self::Watch { container, .. } => Request::Watch {
                container: container.clone(),
            },
            Self::Close { container } => Request::Close {
                container: container.clone(),
            },
            Self::SetEndpoint {
                network,
                container,
                endpoint,
            } => Request::SetEndpoint {
                network: network.clone(),
                container: container.clone(),
                endpoint: endpoint.clone(),
            },
            Self::RemoveEndpoint { network, container } => Request::RemoveEndpoint {
                network: network.clone(),
                container: container.clone(),
            },
        }
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Open { netns, .. } => vec![netns.as_fd()],
            Self::Watch { pidfd, .. } => vec![pidfd.as_fd()],
            _ => Vec::new(),
        }
    }
}

impl Known {
    fn is_empty(&self) -> bool {
        self.containers.is_empty() && self.endpoints.is_empty()
    }

    fn note(&mut self, change: &Change) -> io::Result<()> {
        match change {
            Change::Open {
                container,
                settings,
                netns,
            } => {
                let known = KnownContainer {
                    settings: settings.clone(),
                    netns: netns.try_clone()?,
                    pidfd: None,
                };
                self.containers.insert(container.clone(), known);
            }
            Change::Set { container, settings } => {
                if let Some(known) = self.containers.get_mut(container) {
                    known.settings = settings.clone();
                }
            }
            Change::Watch { container, pidfd } => {
                if let Some(known) = self.containers.get_mut(container) {
                    known.pidfd = Some(pidfd.try_clone()?);
                }
            }
            Change::Close { container } => drop(self.containers.remove(container)),
            Change::SetEndpoint {
                network,
                container,
                endpoint,
            } => {
                let key = (network.clone(), container.clone());
                self.endpoints.insert(key, endpoint.clone());
            }
            Change::RemoveEndpoint { network, container } => {
                self.endpoints.remove(&(network.clone(), container.clone()));
            }
        }
        Ok(())
    }
}

/// What a resolver says it knows.
struct State {
    version: u32,
    containers: BTreeSet<String>,
    endpoints: Vec<(String, String)>,
}

async fn hello(link: &Link) -> io::Result<State> {
    send(link, &Request::Hello, &[]).await?;
    let mut state = State {
        version: 0,
        containers: BTreeSet::new(),
        endpoints: Vec::new(),
    };
    loop {
        match receive(link).await? {
            Reply::State {
                version,
                containers,
                endpoints,
                is_last,
            } => {
                state.version = version;
                state.containers.extend(containers);
                state.endpoints.extend(endpoints);
                if is_last {
                    return Ok(state);
                }
            }
            reply => return Err(unexpected(&reply)),
        }
    }
}

/// A refusal is an error of kind `Other`; any other kind means that the connection is of no use.
async fn ask(link: &Link, request: &Request, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    send(link, request, descriptors).await?;
    match receive(link).await? {
        Reply::Done => Ok(()),
        Reply::Failed { message } => Err(io::Error::other(message)),
        reply @ Reply::State { .. } => Err(unexpected(&reply)),
    }
}

fn unexpected(reply: &Reply) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the resolver answered {reply:?}"),
    )
}

async fn send(link: &Link, request: &Request, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let sent = async {
        loop {
            let mut guard = link.writable().await?;
            if let Ok(result) = guard.try_io(|socket| protocol::send(socket.get_ref(), request, descriptors))
            {
                return result;
            }
        }
    };
    tokio::time::timeout(PATIENCE, sent).await?
}

async fn receive(link: &Link) -> io::Result<Reply> {
    let received = async {
        loop {
            let mut guard = link.readable().await?;
            if let Ok(result) = guard.try_io(|socket| protocol::receive::<Reply>(socket.get_ref())) {
                let message = result?.ok_or(io::ErrorKind::UnexpectedEof)?;
                return Ok(message.0);
            }
        }
    };
    tokio::time::timeout(PATIENCE, received).await?
}

/// Between requests nothing arrives but the end.
async fn ended(link: Option<&Link>) {
    match link {
        Some(link) => loop {
            let Ok(mut guard) = link.readable().await else {
                return;
            };
            let received = guard.try_io(|socket| protocol::receive::<Reply>(socket.get_ref()));
            if received.is_ok() {
                return;
            }
        },
        None => std::future::pending().await,
    }
}

fn register(socket: SeqPacket) -> io::Result<Link> {
    socket.set_nonblocking(true)?;
    watch(socket)
}

#[expect(
    deprecated,
    reason = "its successor is unsafe; a socket owns its descriptor for as long as it lives"
)]
fn watch<T: AsRawFd>(socket: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(socket)
}
