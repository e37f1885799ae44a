//! The spawner process, from the daemon's side: started from a sealed copy of the binary, replaced when it ends.

use crate::error::{EngineError, Result};
use naru_base::ContainerId;
use naru_keeper::codec;
use naru_keeper::protocol::SpawnKeeper;
use naru_sys::seqpacket::SeqPacket;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::process::{Child, Command};

/// The first argument that makes the binary a spawner; its socket is standard input.
pub const SPAWNER_ROLE: &str = "spawner";

/// Makes the memory of the arguments long enough for the title of a keeper, `naru-keeper 0123456789ab`.
const ROOM_FOR_TITLE: &str = "                ";

/// How long to wait before replacing a spawner that ended, so that one which cannot start does not spin.
const REPLACE_DELAY: Duration = Duration::from_millis(100);

/// A handle on the one spawner of this engine.
#[derive(Debug)]
pub struct Spawner {
    /// A sealed copy of this binary: nothing a container does can reach the file on disk through it (CVE-2019-5736),
    /// and replacing the file does not change what runs.
    program: OwnedFd,
    current: Mutex<Option<Current>>,
}

#[derive(Debug)]
struct Current {
    socket: SeqPacket,
    pid: u32,
}

impl Spawner {
    /// Starts a spawner and keeps one running until [`Spawner::stop`].
    pub fn start() -> Result<Arc<Self>> {
        let program = sealed_copy_of_self()
            .map_err(|error| EngineError::system(format!("cannot copy the program into memory: {error}")))?;
        let spawner = Arc::new(Self {
            program,
            current: Mutex::new(None),
        });
        let child = spawner.launch()?;
        tokio::spawn(replace_when_it_ends(Arc::clone(&spawner), child));
        Ok(spawner)
    }

    fn launch(&self) -> Result<Child> {
        let failed =
            |error: std::io::Error| EngineError::system(format!("cannot start the spawner: {error}"));
        let (ours, theirs) = SeqPacket::pair().map_err(failed)?;
        let program = format!("/proc/self/fd/{}", self.program.as_raw_fd());
        let child = Command::new(program)
            .arg0("naru-spawner")
            .arg(SPAWNER_ROLE)
            .arg(ROOM_FOR_TITLE)
            .env_clear()
            .stdin(std::process::Stdio::from(OwnedFd::from(theirs)))
            .stdout(std::process::Stdio::null())
            .spawn()
            .map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        *self.lock() = Some(Current {
            socket: ours,
            pid: child.id().unwrap_or_default(),
        });
        Ok(child)
    }

    /// Starts the process that answers names, which outlives this one; `listener` is where it is found.
    pub fn launch_resolver(&self, listener: OwnedFd) -> std::io::Result<Child> {
        Command::new(format!("/proc/self/fd/{}", self.program.as_raw_fd()))
            .arg0("naru-resolver")
            .arg(naru_resolver::RESOLVER_ROLE)
            .env_clear()
            // A terminal's ctrl-c is for the daemon.
            .process_group(0)
            .stdin(std::process::Stdio::from(listener))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The spawner's process id; `None` between two of them.
    pub fn pid(&self) -> Option<u32> {
        self.lock().as_ref().map(|current| current.pid)
    }

    /// Asks for a keeper and returns the daemon's end of its socket. If the spawner dies first the socket closes.
    pub fn spawn_keeper(&self, container: &ContainerId) -> Result<SeqPacket> {
        let failed = |error: std::io::Error| {
            EngineError::new(
                naru_base::ErrorKind::Unavailable,
                format!("the spawner did not take the request: {error}"),
            )
        };
        let (ours, theirs) = SeqPacket::pair().map_err(failed)?;
        let current = self.lock();
        let current = current.as_ref().ok_or_else(|| {
            EngineError::new(
                naru_base::ErrorKind::Unavailable,
                "the spawner is being replaced; try again in a moment",
            )
        })?;
        codec::send_message(
            &current.socket,
            &SpawnKeeper {
                container: container.clone(),
            },
            &[theirs.as_fd()],
        )
        .map_err(failed)?;
        Ok(ours)
    }

    /// Ends the spawner; it is not replaced.
    pub fn stop(&self) {
        self.lock().take();
    }
}

/// A stopped spawner has no `current`; any other end is an accident, and a new one is started.
async fn replace_when_it_ends(spawner: Arc<Spawner>, mut child: Child) {
    loop {
        let status = child.wait().await;
        if spawner.lock().take().is_none() {
            return;
        }
        tracing::warn!(?status, "the spawner ended; starting another");
        child = loop {
            match spawner.launch() {
                Ok(child) => break child,
                Err(error) => tracing::error!(%error, "cannot replace the spawner"),
            }
            tokio::time::sleep(REPLACE_DELAY).await;
        };
    }
}

/// A memfd with the running binary's bytes that nobody can change any more.
fn sealed_copy_of_self() -> std::io::Result<OwnedFd> {
    use rustix::fs::MemfdFlags;
    let mut program = std::fs::File::open("/proc/self/exe")?;
    let copy = rustix::fs::memfd_create("naru", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut copy = std::fs::File::from(copy);
    std::io::copy(&mut program, &mut copy)?;
    naru_sys::memory::seal(&copy)?;
    Ok(copy.into())
}
