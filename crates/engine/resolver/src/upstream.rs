//! Asking name servers outside: all that are configured, each a moment after the one before, and the first good answer.
//!
//! A server that is slow or dead delays an answer by [`STAGGER`] at most, and stands last for a while. A failure is told
//! as a failure and never remembered: an outage must not become the absence of a name.

use crate::answer::{encode, reply_to};
use crate::cache::{Cache, Key};
use crate::listen::within;
use hickory_proto::op::{Message, ResponseCode};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

/// How long a server may think before the next one is asked too.
const STAGGER: Duration = Duration::from_millis(300);
/// A packet may be lost: it is sent again.
const REPEAT: Duration = Duration::from_secs(1);
/// Below the five seconds after which clients lose patience (resolv.conf(5), `timeout`).
const DEADLINE: Duration = Duration::from_millis(4500);
/// How long a server that did not answer stands last.
const DEMOTION: Duration = Duration::from_secs(10);
/// How old the knowledge of the host's servers may be.
const HOST_CHECK: Duration = Duration::from_secs(1);
const DNS_PORT: u16 = 53;
/// Docker's servers where the host has none.
const FALLBACK_SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(8, 8, 4, 4)];
const HOST_RESOLV_CONF: &str = "/etc/resolv.conf";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// Everybody's answers and what is known of servers.
pub struct Upstream {
    home: Arc<OwnedFd>,
    cache: Mutex<Cache>,
    failures: Mutex<HashMap<IpAddr, Instant>>,
    host: Mutex<HostServers>,
}

/// A question and where it comes from.
pub struct Asked {
    pub question: Message,
    pub packet: Vec<u8>,
    pub transport: Transport,
    /// `--dns`; empty for the host's.
    pub servers: Vec<IpAddr>,
    pub netns: Arc<OwnedFd>,
    /// How long an answer the asker takes.
    pub bytes_max: usize,
}

impl Upstream {
    pub fn new(home: Arc<OwnedFd>) -> Self {
        Self {
            home,
            cache: Mutex::new(Cache::default()),
            failures: Mutex::new(HashMap::new()),
            host: Mutex::new(HostServers::default()),
        }
    }

    /// The answer's bytes; always one, if only that it failed.
    pub async fn ask(self: &Arc<Self>, asked: Asked) -> Option<Vec<u8>> {
        let servers = if asked.servers.is_empty() {
            lock(&self.host).read()
        } else {
            asked.servers.clone()
        };
        let key = Key::new(&servers, &asked.question)?;
        let cached = lock(&self.cache).find(&key, &asked.question, Instant::now());
        if let Some(answer) = cached {
            return encode(&answer, asked.bytes_max);
        }
        let answered = tokio::time::timeout(DEADLINE, self.race(&asked, self.sort(servers))).await;
        let Ok(Some(bytes)) = answered else {
            return encode(
                &reply_to(&asked.question, ResponseCode::ServFail),
                asked.bytes_max,
            );
        };
        if let Ok(answer) = Message::from_vec(&bytes) {
            lock(&self.cache).insert(key, &answer, Instant::now());
        }
        Some(bytes)
    }

    /// Those that failed lately go last.
    fn sort(&self, mut servers: Vec<IpAddr>) -> Vec<IpAddr> {
        let mut failures = lock(&self.failures);
        failures.retain(|_, failed| failed.elapsed() < DEMOTION);
        servers.sort_by_key(|server| failures.contains_key(server));
        servers
    }

    async fn race(self: &Arc<Self>, asked: &Asked, servers: Vec<IpAddr>) -> Option<Vec<u8>> {
        let mut waiting = servers.into_iter().peekable();
        let mut attempts = JoinSet::new();
        let mut last_failure = None;
        let next = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(next);
        loop {
            tokio::select! {
                () = &mut next, if waiting.peek().is_some() => {
                    let Some(server) = waiting.next() else { continue };
                    let (upstream, netns) = (Arc::clone(self), Arc::clone(&asked.netns));
                    let (packet, transport) = (asked.packet.clone(), asked.transport);
                    attempts.spawn(async move { upstream.ask_one(server, &netns, packet, transport).await });
                    next.as_mut().reset(tokio::time::Instant::now() + STAGGER);
                }
                Some(attempt) = attempts.join_next(), if !attempts.is_empty() => {
                    match attempt.ok().flatten() {
                        Some(bytes) if is_final(&bytes) => return Some(bytes),
                        // Another server may do better; if none does, the client gets this one's own word.
                        Some(bytes) => last_failure = Some(bytes),
                        None => {}
                    }
                    if waiting.peek().is_some() {
                        next.as_mut().reset(tokio::time::Instant::now());
                    }
                }
                else => return last_failure,
            }
        }
    }

    /// One server's answer with the asker's own number; `None` if it gives none.
    async fn ask_one(
        &self,
        server: IpAddr,
        netns: &OwnedFd,
        mut packet: Vec<u8>,
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let original: [u8; 2] = *packet.first_chunk()?;
        packet[..2].copy_from_slice(&random_id());
        let asked = match transport {
            Transport::Udp => self.ask_by_udp(server, netns, &packet).await,
            Transport::Tcp => self.ask_by_tcp(server, netns, &packet).await,
        };
        let Ok(mut bytes) = asked else {
            lock(&self.failures).insert(server, Instant::now());
            return None;
        };
        bytes[..2].copy_from_slice(&original);
        lock(&self.failures).remove(&server);
        Some(bytes)
    }

    async fn ask_by_udp(&self, server: IpAddr, netns: &OwnedFd, packet: &[u8]) -> io::Result<Vec<u8>> {
        let socket = std::net::UdpSocket::from(self.open_socket(server, netns, SocketType::DGRAM)?);
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        socket.connect(SocketAddr::new(server, DNS_PORT)).await?;
        let mut buffer = vec![0; usize::from(u16::MAX)];
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            socket.send(packet).await?;
            let received = tokio::time::timeout(REPEAT, async {
                loop {
                    let length = socket.recv(&mut buffer).await?;
                    if answers(&buffer[..length], packet) {
                        return io::Result::Ok(length);
                    }
                }
            });
            if let Ok(length) = received.await {
                buffer.truncate(length?);
                return Ok(buffer);
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    async fn ask_by_tcp(&self, server: IpAddr, netns: &OwnedFd, packet: &[u8]) -> io::Result<Vec<u8>> {
        let socket = self.open_socket(server, netns, SocketType::STREAM)?;
        let socket = tokio::net::TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
        let mut stream = socket.connect(SocketAddr::new(server, DNS_PORT)).await?;
        let length = u16::try_from(packet.len()).map_err(io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(packet);
        stream.write_all(&framed).await?;
        let mut bytes = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut bytes).await?;
        if answers(&bytes, packet) {
            Ok(bytes)
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    /// From the container's own namespace, so that its routes hold; a loopback address is the host's.
    fn open_socket(&self, server: IpAddr, netns: &OwnedFd, kind: SocketType) -> io::Result<OwnedFd> {
        let family = if server.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let open = || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            Ok(rustix::net::socket_with(family, kind, flags, None)?)
        };
        if server.is_loopback() {
            open()
        } else {
            within(netns.as_fd(), self.home.as_fd(), open)
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Not to be guessed by who would answer in a server's place; each hasher has keys of its own.
fn random_id() -> [u8; 2] {
    let random = RandomState::new().hash_one(());
    [random as u8, (random >> 8) as u8]
}

/// The packet is an answer to this question: its number, and the question itself, whatever the case.
fn answers(packet: &[u8], question: &[u8]) -> bool {
    if packet.len() < 12 || packet[..2] != question[..2] || packet[2] & 0x80 == 0 {
        return false;
    }
    let (Ok(answer), Ok(question)) = (Message::from_vec(packet), Message::from_vec(question)) else {
        // What this program cannot read the asker may; a failure may lack the question.
        return true;
    };
    answer.queries.is_empty() || answer.queries == question.queries
}

/// The server has answered, rather than failed or refused to.
fn is_final(packet: &[u8]) -> bool {
    const NO_ERROR: u8 = 0;
    const NAME_ERROR: u8 = 3;
    packet
        .get(3)
        .is_some_and(|flags| matches!(flags & 0x0f, NO_ERROR | NAME_ERROR))
}

/// The name servers of the host's own `resolv.conf`, read again when it changes.
#[derive(Default)]
struct HostServers {
    servers: Vec<IpAddr>,
    modified: Option<SystemTime>,
    checked: Option<Instant>,
}

impl HostServers {
    fn read(&mut self) -> Vec<IpAddr> {
        let is_fresh = self.checked.is_some_and(|checked| checked.elapsed() < HOST_CHECK);
        if !is_fresh {
            self.checked = Some(Instant::now());
            let path = Path::new(HOST_RESOLV_CONF);
            let modified = std::fs::metadata(path).and_then(|file| file.modified()).ok();
            if modified != self.modified || self.servers.is_empty() {
                self.modified = modified;
                let text = std::fs::read_to_string(path).unwrap_or_default();
                self.servers = parse_servers(&text);
            }
        }
        self.servers.clone()
    }
}

fn parse_servers(text: &str) -> Vec<IpAddr> {
    let words = text.lines().map(|line| {
        let mut words = line.split_whitespace();
        (words.next(), words.next())
    });
    let servers: Vec<IpAddr> = words
        .filter(|(keyword, _)| *keyword == Some("nameserver"))
        // A scope (`fe80::1%eth0`) has no meaning elsewhere.
        .filter_map(|(_, value)| value?.parse().ok())
        .collect();
    if servers.is_empty() {
        FALLBACK_SERVERS.map(IpAddr::V4).to_vec()
    } else {
        servers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_the_host_are_all_taken_loopback_too() {
        let text =
            "search x\nnameserver 127.0.0.53 # stub\n nameserver ::1\nnameserver fe80::1%eth0\noptions a\n";
        let expected: [IpAddr; 2] = ["127.0.0.53".parse().unwrap(), "::1".parse().unwrap()];
        assert_eq!(parse_servers(text), expected);
        assert_eq!(parse_servers("search x"), FALLBACK_SERVERS.map(IpAddr::V4));
    }
}
