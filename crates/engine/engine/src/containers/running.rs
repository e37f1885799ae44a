//! The run of a container that goes on now, for who means to end this one and no later one.

use super::stop::{SIGKILL, thaw};
use super::{Container, Phase};
use crate::error::{EngineError, Result};
use crate::keepers::KeeperConnection;
use crate::record::ContainerState;
use naru_keeper::cause::SignalReason;
use naru_keeper::protocol::{Reply, Request, Target};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;

/// How long SIGKILL may take: a process in an uninterruptible wait does not die sooner for being asked again.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct RunningNow {
    pub container: Arc<Container>,
    /// None when the end has been seen already, and is being settled.
    keeper: Option<Arc<KeeperConnection>>,
    phase: watch::Receiver<Phase>,
    exits_before: u64,
}

impl RunningNow {
    pub fn of(container: &Arc<Container>) -> Self {
        let phase = container.phase();
        let exits_before = phase.borrow().exits;
        Self {
            container: Arc::clone(container),
            keeper: container.keeper(),
            phase,
            exits_before,
        }
    }

    /// Sends a signal to PID 1. A frozen container is thawed for SIGKILL, which could not end it otherwise.
    pub async fn signal(&self, signal: i32, reason: SignalReason) -> Result<()> {
        let id = &self.container.id;
        let not_running = || EngineError::conflict(format!("container {id} is not running"));
        let keeper = self.keeper.as_ref().ok_or_else(not_running)?;
        let request = Request::Signal {
            target: Target::Init,
            signal,
            reason,
        };
        // Not only after the answer: paused right after its start, a container has its keeper wait for what is frozen.
        let thawed = async {
            // A later run is not the one that is meant, and may be paused.
            if signal == SIGKILL && self.phase.borrow().exits == self.exits_before {
                self.container.kill_sent.store(true, Ordering::SeqCst);
            }
            if signal == SIGKILL && matches!(self.container.record().state, ContainerState::Paused { .. }) {
                thaw(&self.container)?;
            }
            Ok(())
        };
        let (replied, thawed) = tokio::join!(keeper.request(&request, &[]), thawed);
        let (reply, _) = replied.map_err(|_| not_running())?;
        if let Reply::Refused { message } = reply {
            self.container.kill_sent.store(false, Ordering::SeqCst);
            return Err(EngineError::conflict(format!(
                "Cannot kill container {id}: {message}"
            )));
        }
        thawed
    }

    /// Whether it ends in time; without a time, waits for ever.
    pub async fn ended_within(&mut self, limit: Option<Duration>) -> bool {
        let before = self.exits_before;
        let ended = self
            .phase
            .wait_for(|phase| !phase.is_running || phase.exits > before);
        match limit {
            Some(limit) => tokio::time::timeout(limit, ended).await.is_ok(),
            None => ended.await.is_ok(),
        }
    }

    /// Waits for the end after SIGKILL.
    pub async fn ended_by_kill(&mut self) -> Result<()> {
        if self.ended_within(Some(KILL_TIMEOUT)).await {
            return Ok(());
        }
        Err(EngineError::system(format!(
            "container {} did not end within {} s of SIGKILL: a process of it is stuck in the kernel",
            self.container.id,
            KILL_TIMEOUT.as_secs()
        )))
    }
}
