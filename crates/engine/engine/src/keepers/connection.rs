//! The daemon's end of one keeper's socket.

use naru_base::ContainerId;
use naru_keeper::codec;
use naru_keeper::protocol::{Event, FromKeeper, Reply, Request};
use naru_sys::seqpacket::SeqPacket;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

/// The keeper closed its socket: it has ended, or was killed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the container's keeper is gone")]
pub struct KeeperGone;

/// What a connection's reader hands on, in the order the keeper sent it.
#[derive(Debug)]
pub enum Notice {
    Event(Event),
    /// The socket closed; nothing follows.
    Gone,
}

/// Events read ahead of whoever follows the run; a keeper waits beyond that, its container does not.
const NOTICES_AHEAD: usize = 64;

type Answer = oneshot::Sender<(Reply, Vec<OwnedFd>)>;

/// One connection. Requests may be made concurrently; replies come in the order of the requests.
#[derive(Debug)]
pub struct KeeperConnection {
    socket: AsyncFd<SeqPacket>,
    /// Those who wait for replies, first come first; `None` once the keeper is gone.
    waiting: Mutex<Option<VecDeque<Answer>>>,
    /// Held while a request is queued and sent, so that both happen in one order.
    sending: tokio::sync::Mutex<()>,
}

impl KeeperConnection {
    /// Takes over a connected socket and reads it until it closes. Must be called inside the runtime.
    pub fn new(
        socket: SeqPacket,
        container: &ContainerId,
    ) -> io::Result<(Arc<Self>, mpsc::Receiver<Notice>)> {
        socket.set_nonblocking(true)?;
        let (notices, receiver) = mpsc::channel(NOTICES_AHEAD);
        let connection = Arc::new(Self {
            socket: register(socket)?,
            waiting: Mutex::new(Some(VecDeque::new())),
            sending: tokio::sync::Mutex::new(()),
        });
        tokio::spawn(read_until_closed(
            Arc::clone(&connection),
            container.clone(),
            notices,
        ));
        Ok((connection, receiver))
    }

    /// Sends one request and waits for its reply.
    pub async fn request(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), KeeperGone> {
        let reply = self.begin(request, fds).await?;
        reply.await.map_err(|_| KeeperGone)
    }

    /// Sends one request; its reply can be waited for later, and fails when the keeper goes away first.
    pub async fn begin(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<oneshot::Receiver<(Reply, Vec<OwnedFd>)>, KeeperGone> {
        let (answer, reply) = oneshot::channel();
        {
            let _in_order = self.sending.lock().await;
            self.waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .as_mut()
                .ok_or(KeeperGone)?
                .push_back(answer);
            self.send(request, fds).await?;
        }
        Ok(reply)
    }

    async fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), KeeperGone> {
        loop {
            match codec::send_message(self.socket.get_ref(), request, fds) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut guard = self.socket.writable().await.map_err(|_| KeeperGone)?;
                    guard.clear_ready();
                }
                Err(_) => return Err(KeeperGone),
            }
        }
    }

    /// Ends the conversation from this side; a keeper that is only parked ends with it.
    pub fn close(&self) {
        let _ = rustix::net::shutdown(self.socket.get_ref(), rustix::net::Shutdown::Both);
    }

    fn fail_waiting(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe; a SeqPacket owns its descriptor for as long as it lives"
)]
fn register(socket: SeqPacket) -> io::Result<AsyncFd<SeqPacket>> {
    AsyncFd::new(socket)
}

async fn read_until_closed(
    connection: Arc<KeeperConnection>,
    container: ContainerId,
    notices: mpsc::Sender<Notice>,
) {
    loop {
        match codec::receive_message::<FromKeeper>(connection.socket.get_ref()) {
            Ok(Some((FromKeeper::Reply(reply), fds))) => {
                let answer = connection
                    .waiting
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .as_mut()
                    .and_then(VecDeque::pop_front);
                if let Some(answer) = answer {
                    // Whoever asked may have gone away with its client; the reply is then of no use.
                    let _ = answer.send((reply, fds));
                }
            }
            Ok(Some((FromKeeper::Event(event), _))) => {
                let _ = notices.send(Notice::Event(event)).await;
            }
            Ok(None) => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                match connection.socket.readable().await {
                    Ok(mut guard) => guard.clear_ready(),
                    Err(_) => break,
                }
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::ConnectionReset {
                    tracing::warn!(container = container.short(), %error, "a keeper's socket failed");
                }
                break;
            }
        }
    }
    connection.fail_waiting();
    let _ = notices.send(Notice::Gone).await;
}
