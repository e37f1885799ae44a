//! Signals, stopping, pausing.

use super::Container;
use crate::Engine;
use crate::error::{EngineError, Result};
use crate::record::ContainerState;
use crate::views::{WaitCondition, WaitOutcome, Waiter};
use crate::why::{Aftermath, StartedBy, policy_text};
use naru_base::ErrorKind;
use naru_keeper::cause::{Requester, SignalReason};
use naru_keeper::protocol::{Reply, Request, Target};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Seconds between the stop signal and SIGKILL where nobody says otherwise.
const STOP_TIMEOUT_DEFAULT_SECONDS: i64 = 10;

/// How long SIGKILL may take: a process in an uninterruptible wait does not die sooner for being asked again.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// Without `SIG`.
const NAMES: [(&str, i32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// A signal's name, without `SIG`.
pub fn signal_word(signal: i32) -> Option<&'static str> {
    let named = NAMES.iter().find(|(_, number)| *number == signal);
    named.map(|(name, _)| *name)
}

/// A signal by name, with or without `SIG`, or by number.
pub fn parse_signal(text: &str) -> Result<i32> {
    let invalid = || EngineError::invalid(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number).ok_or_else(invalid);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    let offset = |prefix: &str| {
        name.strip_prefix(prefix).and_then(|rest| {
            if rest.is_empty() {
                Some(0)
            } else {
                rest.parse::<i32>().ok()
            }
        })
    };
    let real_time = offset("RTMIN")
        .map(|up| 34 + up.abs())
        .or_else(|| offset("RTMAX").map(|down| 64 - down.abs()));
    real_time
        .filter(|number| (34..=64).contains(number))
        .ok_or_else(invalid)
}

impl Engine {
    /// Registers the wait before it returns, so that an exit after this call is never missed.
    pub async fn wait_container(&self, name: &str, condition: WaitCondition) -> Result<Waiter> {
        let container = self.registry.find(name)?;
        let mut phase = container.phase();
        let before = phase.borrow().clone();
        Ok(Box::pin(async move {
            let reached = phase.wait_for(|phase| phase.satisfies(condition, &before)).await;
            let reached =
                reached.map_err(|_| EngineError::system("the container's state can no longer be watched"))?;
            Ok(WaitOutcome {
                exit_code: reached.exit_code,
                error: reached.error.clone(),
            })
        }))
    }

    pub async fn kill_container(&self, name: &str, signal: Option<String>) -> Result<()> {
        let container = self.registry.find(name)?;
        let signal = signal
            .filter(|text| !text.is_empty())
            .as_deref()
            .map_or(Ok(SIGKILL), parse_signal)?;
        if !container.record().is_running() {
            return Err(EngineError::conflict(format!(
                "Cannot kill container: {name}: Container {} is not running",
                container.id
            )));
        }
        if signal == SIGKILL {
            container.stop_wanted.store(true, Ordering::Release);
        }
        let mut phase = container.phase();
        self.signal(&container, signal, Requester::KillRequest.into())
            .await?;
        self.container_event("kill", &container, &[("signal", &signal.to_string())]);
        if signal != SIGKILL {
            return Ok(());
        }
        // As with Docker it has ended when this is answered.
        let ended = tokio::time::timeout(KILL_TIMEOUT, phase.wait_for(|phase| !phase.is_running)).await;
        ended.map(|_| ()).map_err(|_| survived(&container))
    }

    /// Sends a signal to PID 1. A frozen container is thawed for SIGKILL, which could not end it otherwise.
    async fn signal(&self, container: &Arc<Container>, signal: i32, reason: SignalReason) -> Result<()> {
        let keeper = container.running_keeper()?;
        let request = Request::Signal {
            target: Target::Init,
            signal,
            reason,
        };
        // Not only after the answer: paused right after its start, a container has its keeper wait for what is frozen.
        let thawed = async {
            if signal == SIGKILL && matches!(container.record().state, ContainerState::Paused { .. }) {
                thaw(container)?;
            }
            Ok(())
        };
        let (replied, thawed) = tokio::join!(keeper.request(&request, &[]), thawed);
        let (reply, _) = replied
            .map_err(|_| EngineError::conflict(format!("container {} is not running", container.id)))?;
        if let Reply::Refused { message } = reply {
            return Err(EngineError::conflict(format!(
                "Cannot kill container {}: {message}",
                container.id
            )));
        }
        thawed
    }

    pub async fn stop_container(
        &self,
        name: &str,
        timeout_seconds: Option<i64>,
        signal: Option<String>,
    ) -> Result<()> {
        let container = self.registry.find(name)?;
        let _operation = container.operation.lock().await;
        self.stop(&container, timeout_seconds, signal, Requester::StopRequest)
            .await
    }

    /// Stops a container whose operation lock the caller holds. A stop request keeps the restart policy off for good.
    pub(crate) async fn stop(
        &self,
        container: &Arc<Container>,
        timeout_seconds: Option<i64>,
        signal: Option<String>,
        by: Requester,
    ) -> Result<()> {
        let record = container.record();
        let signal = signal
            .filter(|text| !text.is_empty())
            .or(Some(record.resolved.stop_signal.clone()));
        let signal = signal
            .filter(|text| !text.is_empty())
            .as_deref()
            .map_or(Ok(SIGTERM), parse_signal)?;
        container.stop_wanted.store(true, Ordering::Release);
        if by == Requester::StopRequest {
            container.change(|record| record.stopped_by_client = true);
        }
        if let ContainerState::Restarting { exit } = record.state.clone() {
            container.change(|record| {
                record.state = ContainerState::Exited { exit };
                let policy = policy_text(&record.spec.restart);
                if let Some(end) = &mut record.last_end {
                    end.aftermath = Aftermath::LeftStopped { policy };
                }
            });
            self.write_record(container)?;
            return Ok(());
        }
        if !record.is_running() {
            return Err(EngineError::new(
                ErrorKind::NotModified,
                format!("container {} is already stopped", record.name),
            ));
        }
        if matches!(record.state, ContainerState::Paused { .. }) {
            thaw(container)?;
        }
        let timeout = timeout_seconds
            .or(record.spec.stop_timeout_seconds)
            .unwrap_or(STOP_TIMEOUT_DEFAULT_SECONDS);
        let mut phase = container.phase();
        let _ = self.signal(container, signal, by.into()).await;
        let ended = phase.wait_for(|phase| !phase.is_running);
        let is_ended = match u64::try_from(timeout) {
            Ok(seconds) => tokio::time::timeout(Duration::from_secs(seconds), ended)
                .await
                .is_ok(),
            Err(_) => ended.await.is_ok(),
        };
        if !is_ended {
            let reason = SignalReason {
                by,
                after_seconds: u64::try_from(timeout).ok(),
            };
            let _ = self.signal(container, SIGKILL, reason).await;
            if tokio::time::timeout(KILL_TIMEOUT, phase.wait_for(|phase| !phase.is_running))
                .await
                .is_err()
            {
                return Err(survived(container));
            }
        }
        self.container_event("stop", container, &[]);
        Ok(())
    }

    /// Sends SIGKILL and waits for the end, for a forced removal.
    pub(super) async fn kill_and_wait(&self, container: &Arc<Container>) -> Result<()> {
        container.stop_wanted.store(true, Ordering::Release);
        let mut phase = container.phase();
        if !container.record().is_running() {
            return Ok(());
        }
        let reason = Requester::RemoveRequest.into();
        let _ = self.signal(container, SIGKILL, reason).await;
        let ended = tokio::time::timeout(KILL_TIMEOUT, phase.wait_for(|phase| !phase.is_running)).await;
        ended.map(|_| ()).map_err(|_| survived(container))
    }

    pub async fn restart_container(
        self: &Arc<Self>,
        name: &str,
        timeout_seconds: Option<i64>,
        signal: Option<String>,
    ) -> Result<()> {
        let container = self.registry.find(name)?;
        self.restart(&container, timeout_seconds, signal, Requester::RestartRequest)
            .await
    }

    pub(crate) async fn restart(
        self: &Arc<Self>,
        container: &Arc<Container>,
        timeout_seconds: Option<i64>,
        signal: Option<String>,
        by: Requester,
    ) -> Result<()> {
        let _operation = container.operation.lock().await;
        match self.stop(container, timeout_seconds, signal, by).await {
            Err(error) if error.kind != ErrorKind::NotModified => return Err(error),
            _ => {}
        }
        container.change(|record| record.stopped_by_client = false);
        let started_by = match by {
            Requester::Unhealthy => StartedBy::Unhealthy,
            _ => StartedBy::RestartRequest,
        };
        self.start(container, started_by).await?;
        self.container_event("restart", container, &[]);
        Ok(())
    }

    pub async fn pause_container(&self, name: &str) -> Result<()> {
        let container = self.registry.find(name)?;
        let _operation = container.operation.lock().await;
        match container.record().state {
            ContainerState::Running {
                pid,
                start_time,
                started_at,
            } => {
                // It waits for each process to leave the kernel, which one on a dead disk never does.
                let frozen = container.clone();
                tokio::task::spawn_blocking(move || with_cgroup(&frozen, naru_cgroup::Cgroup::freeze))
                    .await
                    .map_err(|error| EngineError::system(format!("freezing did not finish: {error}")))??;
                container.change(|record| {
                    record.state = ContainerState::Paused {
                        pid,
                        start_time,
                        started_at,
                    }
                });
            }
            ContainerState::Paused { .. } => {
                return Err(EngineError::conflict(format!(
                    "Container {} is already paused",
                    container.id
                )));
            }
            _ => {
                return Err(EngineError::conflict(format!(
                    "Container {} is not running",
                    container.id
                )));
            }
        }
        self.write_record(&container)?;
        self.container_event("pause", &container, &[]);
        Ok(())
    }

    pub async fn unpause_container(&self, name: &str) -> Result<()> {
        let container = self.registry.find(name)?;
        let _operation = container.operation.lock().await;
        if !matches!(container.record().state, ContainerState::Paused { .. }) {
            return Err(EngineError::conflict(format!(
                "Container {} is not paused",
                container.id
            )));
        }
        thaw(&container)?;
        self.write_record(&container)?;
        self.container_event("unpause", &container, &[]);
        Ok(())
    }
}

fn survived(container: &Container) -> EngineError {
    EngineError::system(format!(
        "container {} did not end within {} s of SIGKILL: a process of it is stuck in the kernel",
        container.id,
        KILL_TIMEOUT.as_secs()
    ))
}

fn thaw(container: &Arc<Container>) -> Result<()> {
    with_cgroup(container, naru_cgroup::Cgroup::thaw)?;
    container.change(|record| {
        if let ContainerState::Paused {
            pid,
            start_time,
            started_at,
        } = record.state
        {
            record.state = ContainerState::Running {
                pid,
                start_time,
                started_at,
            };
        }
    });
    Ok(())
}

fn with_cgroup<T>(
    container: &Container,
    action: impl FnOnce(&naru_cgroup::Cgroup) -> std::result::Result<T, naru_cgroup::CgroupError>,
) -> Result<T> {
    // Not while the lock is held: freezing takes as long as the kernel likes.
    let cgroup = super::lock(&container.run)
        .as_ref()
        .map(|run| run.cgroup.clone())
        .ok_or_else(|| EngineError::conflict(format!("Container {} is not running", container.id)))?;
    action(&cgroup).map_err(|error| EngineError::new(error.kind(), error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("RTMIN+3", 37),
            ("SIGRTMAX", 64),
            ("rtmax-1", 63),
        ] {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
        for text in ["", "0", "65", "SIGFOO", "RTMIN+40", "-9"] {
            assert!(parse_signal(text).is_err(), "{text:?}");
        }
    }
}
