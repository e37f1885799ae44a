//! The process: its connections to daemons, its containers, and their questions.

use crate::answer::{self, Decision};
use crate::listen;
use crate::names::Directory;
use crate::protocol::{self, PROTOCOL_VERSION, Reply, Request};
use crate::settings::ContainerSettings;
use crate::upstream::{Asked, Transport, Upstream};
use naru_sys::seqpacket::{SeqPacket, SeqPacketListener};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;

/// Questions of one container that wait for servers outside at once; more are told that they failed.
const WAITING_MAX: usize = 256;
/// Connections of one container by TCP at once.
const CONNECTIONS_MAX: usize = 64;
/// A client by TCP that says nothing for so long is let go (RFC 7766, 6.2.3, leaves the figure open).
const TCP_PATIENCE: Duration = Duration::from_secs(10);
/// How long nobody may be connected, with nothing open, before the process ends.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// Endpoints in one part of the state, which keeps it well below the longest message.
const STATE_PART: usize = 400;

/// Runs the resolver on a listening socket until it is told to end or nothing is left for it to do.
pub fn run(listener: OwnedFd) -> ExitCode {
    let _ = rustix::thread::set_name(c"naru-resolver");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = runtime.and_then(|runtime| runtime.block_on(serve(listener)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

struct Resolver {
    /// The host's network namespace.
    home: Arc<OwnedFd>,
    directory: Mutex<Directory>,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    upstream: Arc<Upstream>,
    connections: AtomicUsize,
    /// Told whenever a connection or a container goes.
    gone: Notify,
    end: Notify,
    turn: AtomicUsize,
}

struct Container {
    netns: Arc<OwnedFd>,
    settings: Mutex<ContainerSettings>,
    waiting: Arc<Semaphore>,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Drop for Container {
    fn drop(&mut self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: OwnedFd) -> io::Result<()> {
    let home: Arc<OwnedFd> = Arc::new(std::fs::File::open("/proc/thread-self/ns/net")?.into());
    let resolver = Arc::new(Resolver {
        upstream: Arc::new(Upstream::new(Arc::clone(&home))),
        home,
        directory: Mutex::new(Directory::default()),
        containers: Mutex::new(HashMap::new()),
        connections: AtomicUsize::new(0),
        gone: Notify::new(),
        end: Notify::new(),
        turn: AtomicUsize::new(0),
    });
    let listener = SeqPacketListener::from(listener);
    listener.set_nonblocking(true)?;
    let listener = register(listener)?;
    tokio::select! {
        result = accept(&resolver, &listener) => result,
        () = resolver.end.notified() => Ok(()),
        () = resolver.until_idle() => Ok(()),
    }
}

async fn accept(resolver: &Arc<Resolver>, listener: &AsyncFd<SeqPacketListener>) -> io::Result<()> {
    loop {
        let mut guard = listener.readable().await?;
        match guard.try_io(|listener| listener.get_ref().accept()) {
            Ok(Ok(connection)) => {
                connection.set_nonblocking(true)?;
                resolver.connections.fetch_add(1, Ordering::AcqRel);
                tokio::spawn(Arc::clone(resolver).serve_connection(register(connection)?));
            }
            Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(_would_block) => {}
        }
    }
}

impl Resolver {
    /// Returns when nobody has been connected and nothing open for a while.
    async fn until_idle(&self) {
        let is_idle = || self.connections.load(Ordering::Acquire) == 0 && lock(&self.containers).is_empty();
        loop {
            if is_idle() {
                tokio::time::sleep(IDLE_MAX).await;
                if is_idle() {
                    return;
                }
            }
            self.gone.notified().await;
        }
    }

    async fn serve_connection(self: Arc<Self>, connection: AsyncFd<SeqPacket>) {
        // A connection that breaks is a daemon that has ended; the next one asks what there is.
        let _ = self.serve_requests(&connection).await;
        drop(connection);
        self.connections.fetch_sub(1, Ordering::AcqRel);
        self.gone.notify_one();
    }

    async fn serve_requests(self: &Arc<Self>, connection: &AsyncFd<SeqPacket>) -> io::Result<()> {
        loop {
            let mut guard = connection.readable().await?;
            let received = guard.try_io(|socket| protocol::receive::<Request>(socket.get_ref()));
            let (request, descriptors) = match received {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => continue,
            };
            for reply in self.handle(request, descriptors) {
                send(connection, &reply).await?;
            }
        }
    }

    fn handle(self: &Arc<Self>, request: Request, descriptors: Vec<OwnedFd>) -> Vec<Reply> {
        let outcome = match request {
            Request::Hello => return self.state(),
            Request::Open { container, settings } => self.open(container, settings, descriptors),
            Request::Set { container, settings } => self.set(&container, settings),
            Request::Watch { container } => self.watch(container, descriptors),
            Request::Close { container } => {
                self.close(&container);
                Ok(())
            }
            Request::SetEndpoint {
                network,
                container,
                endpoint,
            } => {
                lock(&self.directory).set(&network, &container, endpoint);
                Ok(())
            }
            Request::RemoveEndpoint { network, container } => {
                lock(&self.directory).remove(&network, &container);
                Ok(())
            }
            Request::End => {
                self.end.notify_one();
                return Vec::new();
            }
        };
        vec![outcome.map_or_else(|message| Reply::Failed { message }, |()| Reply::Done)]
    }

    /// What is known, in parts.
    fn state(&self) -> Vec<Reply> {
        let mut containers: Vec<String> = lock(&self.containers).keys().cloned().collect();
        let mut endpoints = lock(&self.directory).endpoints();
        let mut parts = Vec::new();
        loop {
            let containers_rest = containers.split_off(containers.len().min(STATE_PART));
            let endpoints_rest = endpoints.split_off(endpoints.len().min(STATE_PART));
            let is_last = containers_rest.is_empty() && endpoints_rest.is_empty();
            parts.push(Reply::State {
                version: PROTOCOL_VERSION,
                containers: std::mem::replace(&mut containers, containers_rest),
                endpoints: std::mem::replace(&mut endpoints, endpoints_rest),
                is_last,
            });
            if is_last {
                return parts;
            }
        }
    }

    fn open(
        self: &Arc<Self>,
        id: String,
        settings: ContainerSettings,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), String> {
        let netns = descriptors
            .into_iter()
            .next()
            .ok_or("no network namespace came along")?;
        let (udp, tcp) = listen::open(netns.as_fd(), self.home.as_fd()).map_err(|error| error.to_string())?;
        let udp = UdpSocket::from_std(udp).map_err(|error| error.to_string())?;
        let tcp = TcpListener::from_std(tcp).map_err(|error| error.to_string())?;
        let container = Arc::new(Container {
            netns: Arc::new(netns),
            settings: Mutex::new(settings),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            tasks: Mutex::new(Vec::new()),
        });
        // The tasks hold it weakly, so that letting go of it ends them and closes the sockets.
        let weak = Arc::downgrade(&container);
        let resolver = Arc::clone(self);
        let by_udp = tokio::spawn(async move { resolver.serve_udp(Arc::new(udp), weak).await });
        let weak = Arc::downgrade(&container);
        let resolver = Arc::clone(self);
        let by_tcp = tokio::spawn(async move { resolver.serve_tcp(tcp, weak).await });
        lock(&container.tasks).extend([by_udp.abort_handle(), by_tcp.abort_handle()]);
        lock(&self.containers).insert(id, container);
        Ok(())
    }

    fn set(&self, id: &str, settings: ContainerSettings) -> Result<(), String> {
        let containers = lock(&self.containers);
        let container = containers
            .get(id)
            .ok_or_else(|| format!("container {id} is not open"))?;
        *lock(&container.settings) = settings;
        Ok(())
    }

    /// The end of the process closes the container: its namespace would live as long as a socket in it.
    fn watch(self: &Arc<Self>, id: String, descriptors: Vec<OwnedFd>) -> Result<(), String> {
        let process = descriptors.into_iter().next().ok_or("no pidfd came along")?;
        let containers = lock(&self.containers);
        let container = containers
            .get(&id)
            .ok_or_else(|| format!("container {id} is not open"))?;
        let process = register(process).map_err(|error| error.to_string())?;
        let (resolver, weak) = (Arc::downgrade(self), Arc::downgrade(container));
        let task = tokio::spawn(async move {
            let _ = process.readable().await;
            let (Some(resolver), Some(ended)) = (resolver.upgrade(), weak.upgrade()) else {
                return;
            };
            // It may have been started again meanwhile.
            let is_present = lock(&resolver.containers)
                .get(&id)
                .is_some_and(|present| Arc::ptr_eq(present, &ended));
            if is_present {
                lock(&resolver.directory).remove_container(&id);
                resolver.close(&id);
            }
        });
        lock(&container.tasks).push(task.abort_handle());
        Ok(())
    }

    fn close(&self, id: &str) {
        let closed = lock(&self.containers).remove(id);
        if closed.is_some() {
            self.gone.notify_one();
        }
    }

    fn decide(&self, packet: &[u8], container: &Container) -> Decision {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        answer::decide(packet, &lock(&self.directory), &lock(&container.settings), turn)
    }

    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>, container: std::sync::Weak<Container>) {
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let Some(container) = container.upgrade() else {
                return;
            };
            let packet = &buffer[..length];
            match self.decide(packet, &container) {
                Decision::Ignore => {}
                Decision::Answer(answer) => {
                    // A lost answer is asked for again, as any packet.
                    if let Some(bytes) = answer::encode(&answer, answer::UDP_BYTES_DEFAULT.into()) {
                        let _ = socket.try_send_to(&bytes, from);
                    }
                }
                Decision::Forward(question) => {
                    let Ok(permit) = Arc::clone(&container.waiting).try_acquire_owned() else {
                        continue;
                    };
                    let bytes_max = usize::from(answer::udp_bytes_max(&question));
                    let asked = container.asked(*question, packet, Transport::Udp, bytes_max);
                    let (upstream, socket) = (Arc::clone(&self.upstream), Arc::clone(&socket));
                    tokio::spawn(async move {
                        if let Some(bytes) = upstream.ask(asked).await {
                            let _ = socket.send_to(&bytes, from).await;
                        }
                        drop(permit);
                    });
                }
            }
        }
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener, container: std::sync::Weak<Container>) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let (resolver, container) = (Arc::clone(&self), container.clone());
            tokio::spawn(async move {
                let _ = resolver.serve_stream(stream, container).await;
                drop(permit);
            });
        }
    }

    /// One connection's questions, one after another.
    async fn serve_stream(
        &self,
        mut stream: TcpStream,
        container: std::sync::Weak<Container>,
    ) -> io::Result<()> {
        loop {
            let packet = tokio::time::timeout(TCP_PATIENCE, read_framed(&mut stream)).await??;
            let Some(container) = container.upgrade() else {
                return Ok(());
            };
            let bytes = match self.decide(&packet, &container) {
                Decision::Ignore => return Ok(()),
                Decision::Answer(answer) => answer::encode(&answer, u16::MAX.into()),
                Decision::Forward(question) => {
                    let asked = container.asked(*question, &packet, Transport::Tcp, u16::MAX.into());
                    // Held no longer than needed: it keeps the sockets open.
                    drop(container);
                    self.upstream.ask(asked).await
                }
            };
            let Some(bytes) = bytes else { return Ok(()) };
            let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
            let mut framed = length.to_be_bytes().to_vec();
            framed.extend_from_slice(&bytes);
            tokio::time::timeout(TCP_PATIENCE, stream.write_all(&framed)).await??;
        }
    }
}

impl Container {
    fn asked(
        &self,
        question: hickory_proto::op::Message,
        packet: &[u8],
        transport: Transport,
        bytes_max: usize,
    ) -> Asked {
        Asked {
            question,
            packet: packet.to_vec(),
            transport,
            servers: lock(&self.settings).servers.clone(),
            netns: Arc::clone(&self.netns),
            bytes_max,
        }
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe; each type used here owns its descriptor for as long as it lives"
)]
fn register<T: AsRawFd>(descriptor: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(descriptor)
}

async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut packet = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut packet).await?;
    Ok(packet)
}

async fn send(connection: &AsyncFd<SeqPacket>, reply: &Reply) -> io::Result<()> {
    loop {
        let mut guard = connection.writable().await?;
        match guard.try_io(|socket| protocol::send(socket.get_ref(), reply, &[])) {
            Ok(result) => return result,
            Err(_would_block) => {}
        }
    }
}
