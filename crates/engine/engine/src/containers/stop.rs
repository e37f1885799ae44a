//! Signals, stopping, pausing.

use super::Container;
use super::running::RunningNow;
use crate::Engine;
use crate::error::{EngineError, Result};
use crate::record::ContainerState;
use crate::views::{WaitCondition, WaitOutcome, Waiter};
use crate::why::{Aftermath, StartedBy, policy_text};
use naru_base::ErrorKind;
use naru_cgroup::Cgroup;
use naru_keeper::cause::{Requester, SignalReason};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Seconds between the stop signal and SIGKILL where nobody says otherwise.
const STOP_TIMEOUT_DEFAULT_SECONDS: i64 = 10;

pub(super) const SIGKILL: i32 = 9;
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
        let mut run = RunningNow::of(&container);
        self.send(&run, signal, Requester::KillRequest.into()).await?;
        if signal != SIGKILL {
            return Ok(());
        }
        // As with Docker it has ended when this is answered.
        run.ended_by_kill().await
    }

    pub async fn stop_container(
        &self,
        name: &str,
        timeout_seconds: Option<i64>,
        signal: Option<String>,
    ) -> Result<()> {
        let container = self.registry.find(name)?;
        self.stop(&container, timeout_seconds, signal, Requester::StopRequest)
            .await
    }

    /// Sends a signal and tells of it, before anybody is told of the end that it may bring.
    async fn send(&self, run: &RunningNow, signal: i32, reason: SignalReason) -> Result<()> {
        let _first = run.container.signalling.read().await;
        run.signal(signal, reason).await?;
        self.container_event("kill", &run.container, &[("signal", &signal.to_string())]);
        Ok(())
    }

    /// Stops a container. A stop request keeps the restart policy off for good; a timeout below zero never kills.
    ///
    /// Nothing else has to wait for the end with it: a stop may take for ever, and a kill or a removal ends that.
    pub(crate) async fn stop(
        &self,
        container: &Arc<Container>,
        timeout_seconds: Option<i64>,
        signal: Option<String>,
        by: Requester,
    ) -> Result<()> {
        let operation = container.operation.lock().await;
        let Some(mut run) = self.ask_to_stop(container, signal, by).await? else {
            return Ok(());
        };
        drop(operation);
        let timeout = timeout_seconds
            .or(container.record().spec.stop_timeout_seconds)
            .unwrap_or(STOP_TIMEOUT_DEFAULT_SECONDS);
        let after_seconds = u64::try_from(timeout).ok();
        if !run.ended_within(after_seconds.map(Duration::from_secs)).await {
            let reason = SignalReason { by, after_seconds };
            let _ = self.send(&run, SIGKILL, reason).await;
            run.ended_by_kill().await?;
        }
        self.container_event("stop", container, &[]);
        Ok(())
    }

    /// Sends the stop signal, with the operation lock held by the caller, and returns the run that is to end; `None` if
    /// it was between two runs, of which the second does not come now.
    async fn ask_to_stop(
        &self,
        container: &Arc<Container>,
        signal: Option<String>,
        by: Requester,
    ) -> Result<Option<RunningNow>> {
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
            return Ok(None);
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
        let run = RunningNow::of(container);
        let _ = self.send(&run, signal, by.into()).await;
        Ok(Some(run))
    }

    /// Sends SIGKILL and waits for the end, for a forced removal.
    pub(super) async fn kill_and_wait(&self, container: &Arc<Container>) -> Result<()> {
        container.stop_wanted.store(true, Ordering::Release);
        if !container.record().is_running() {
            return Ok(());
        }
        let mut run = RunningNow::of(container);
        let _ = self.send(&run, SIGKILL, Requester::RemoveRequest.into()).await;
        run.ended_by_kill().await
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
        let kept = KeptForRestart::of(container);
        let stopped = self.stop(container, timeout_seconds, signal, by).await;
        let _operation = container.operation.lock().await;
        drop(kept);
        match stopped {
            Err(error) if error.kind != ErrorKind::NotModified => return Err(error),
            _ => {}
        }
        // Somebody may have removed it meanwhile, or started it.
        if container.phase().borrow().is_removed {
            return Err(EngineError::not_found(format!(
                "No such container: {}",
                container.id
            )));
        }
        if container.record().is_running() {
            return Ok(());
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
                let cgroup = running_cgroup(&container)?;
                let freezing = cgroup.clone();
                tokio::task::spawn_blocking(move || freezing.freeze())
                    .await
                    .map_err(|error| EngineError::system(format!("freezing did not finish: {error}")))?
                    .map_err(|error| EngineError::new(error.kind(), error.to_string()))?;
                let mut has_ended = false;
                container.change(|record| {
                    has_ended = !matches!(record.state, ContainerState::Running { .. });
                    if !has_ended {
                        record.state = ContainerState::Paused {
                            pid,
                            start_time,
                            started_at,
                        };
                    }
                });
                if has_ended {
                    // What is left of the run could not leave its cgroup.
                    cgroup.thaw().ok();
                    return Err(not_running(&container));
                }
                // Whoever sends SIGKILL later than this sees it paused.
                if container.kill_sent.load(Ordering::SeqCst) {
                    thaw(&container)?;
                    return Err(EngineError::conflict(format!(
                        "Container {} is being killed",
                        container.id
                    )));
                }
            }
            ContainerState::Paused { .. } => {
                return Err(EngineError::conflict(format!(
                    "Container {} is already paused",
                    container.id
                )));
            }
            _ => return Err(not_running(&container)),
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

pub(super) fn thaw(container: &Arc<Container>) -> Result<()> {
    running_cgroup(container)?
        .thaw()
        .map_err(|error| EngineError::new(error.kind(), error.to_string()))?;
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

/// Its present run's, without the lock: freezing takes as long as the kernel likes.
fn running_cgroup(container: &Container) -> Result<Cgroup> {
    let run = super::lock(&container.run);
    run.as_ref()
        .map(|run| run.cgroup.clone())
        .ok_or_else(|| not_running(container))
}

fn not_running(container: &Container) -> EngineError {
    EngineError::conflict(format!("Container {} is not running", container.id))
}

/// While it lives, `--rm` leaves the container alone.
struct KeptForRestart<'a>(&'a AtomicU32);

impl<'a> KeptForRestart<'a> {
    fn of(container: &'a Container) -> Self {
        container.restarts_wanted.fetch_add(1, Ordering::AcqRel);
        Self(&container.restarts_wanted)
    }
}

impl Drop for KeptForRestart<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
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
