//! Health checks: a command run in the container again and again, and what its results mean.
//!
//! ```text
//!  starting ──success──▶ healthy ◀──success── unhealthy
//!      └──── retries failures after the start period ────▶ unhealthy
//! ```
//! Each run of a container with a check has one task, which ends with it. A check is an exec like any other. What came
//! of it is kept beside what else concerns the run, so that a new daemon goes on where the one before it ended.

use crate::Engine;
use crate::containers::{Container, lock};
use crate::error::Result;
use crate::metrics::Action;
use crate::record::{ContainerRecord, ContainerState};
use crate::spec::HealthcheckSpec;
use crate::views::{ExecSpec, HealthStatus, HealthView, ProbeView};
use naru_base::Timestamp;
use naru_keeper::cause::Requester;
use naru_keeper::protocol::{Request, Target};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

/// Docker's defaults.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
/// Not more than the interval.
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
/// Results kept, and bytes of each one's output: Docker's.
const LOG_LENGTH_MAX: usize = 5;
const OUTPUT_BYTES_MAX: usize = 4096;
/// How long the exit code may follow the end of the output.
const EXIT_CODE_WAIT: Duration = Duration::from_secs(1);

/// With this label set to `true` a container that becomes unhealthy is restarted.
const RESTART_LABEL: &str = "naru.restart-on-unhealthy";

/// A check with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Check {
    command: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
}

impl Check {
    fn of(spec: &HealthcheckSpec, shell: Option<&[String]>) -> Option<Self> {
        let duration = |nanoseconds: i64, default: Duration| match u64::try_from(nanoseconds) {
            Ok(nanoseconds) if nanoseconds > 0 => Duration::from_nanos(nanoseconds),
            _ => default,
        };
        let (kind, rest) = spec.test.split_first()?;
        let command = match kind.as_str() {
            "CMD" => rest.to_vec(),
            "CMD-SHELL" => {
                let default = ["/bin/sh".to_owned(), "-c".to_owned()];
                shell.unwrap_or(&default).iter().chain(rest).cloned().collect()
            }
            _ => return None,
        };
        let interval = duration(spec.interval_ns, INTERVAL);
        (!command.is_empty()).then(|| Self {
            command,
            interval,
            timeout: duration(spec.timeout_ns, TIMEOUT),
            start_period: duration(spec.start_period_ns, Duration::ZERO),
            start_interval: duration(spec.start_interval_ns, START_INTERVAL.min(interval)),
            retries: u32::try_from(spec.retries)
                .ok()
                .filter(|retries| *retries > 0)
                .unwrap_or(RETRIES),
        })
    }

    /// The pause before the next check.
    fn pause(&self, status: HealthStatus, ran_for: Duration) -> Duration {
        if status == HealthStatus::Starting && ran_for < self.start_period {
            self.start_interval
        } else {
            self.interval
        }
    }
}

/// What is known of a container's health, and from which of its runs: `<exec-root>/runs/<id>/health.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthRecord {
    /// When that run's PID 1 started, in the kernel's clock ticks.
    start_time: u64,
    pub(crate) view: HealthView,
}

impl HealthRecord {
    /// Goes on with what is known of this run. Where it is a new one, what earlier runs' checks gave stays to be seen.
    fn of_run(start_time: u64, known: Option<Self>) -> Self {
        match known {
            Some(known) if known.start_time == start_time => known,
            earlier => Self {
                start_time,
                view: HealthView::begun(earlier.map(|earlier| earlier.view)),
            },
        }
    }

    /// How long ago the last check of this run ended, if there was one.
    fn last_checked(&self, ran_for: Duration) -> Option<Duration> {
        let ago = self.view.log.last()?.ended_at.elapsed();
        (ago < ran_for).then_some(ago)
    }
}

impl HealthView {
    /// The state of a run that begins.
    fn begun(before: Option<Self>) -> Self {
        Self {
            status: HealthStatus::Starting,
            failing_streak: 0,
            log: before.map(|health| health.log).unwrap_or_default(),
        }
    }

    /// Takes a result in; tells whether the status has changed.
    fn note(&mut self, probe: ProbeView, check: &Check, ran_for: Duration) -> bool {
        let before = self.status;
        if probe.exit_code == 0 {
            self.failing_streak = 0;
            self.status = HealthStatus::Healthy;
        } else if !(before == HealthStatus::Starting && ran_for < check.start_period) {
            self.failing_streak += 1;
            if self.failing_streak >= check.retries {
                self.status = HealthStatus::Unhealthy;
            }
        }
        self.log.push(probe);
        let surplus = self.log.len().saturating_sub(LOG_LENGTH_MAX);
        self.log.drain(..surplus);
        self.status != before
    }
}

/// One that does not run any more is not healthy.
fn shown_status(status: HealthStatus, record: &ContainerRecord) -> HealthStatus {
    if record.is_running() {
        status
    } else {
        HealthStatus::Unhealthy
    }
}

impl Engine {
    /// What is known of a container's health.
    pub(crate) fn health_of(container: &Container) -> Option<HealthView> {
        let mut health = lock(&container.health).as_ref()?.view.clone();
        health.status = shown_status(health.status, &container.record());
        Some(health)
    }

    /// Without what the checks have written.
    pub(crate) fn health_status_of(container: &Container, record: &ContainerRecord) -> Option<HealthStatus> {
        let status = lock(&container.health).as_ref()?.view.status;
        Some(shown_status(status, record))
    }

    /// Reads what the daemon before this one knew of a container's health.
    pub(crate) fn recall_health(container: &Container) {
        if container.record().resolved.healthcheck.is_none() {
            return;
        }
        match naru_store::read::<HealthRecord>(&container.health_record_path()) {
            Ok(known) => *lock(&container.health) = Some(known),
            Err(naru_store::StoreError::Missing(_)) => {}
            Err(error) => {
                tracing::warn!(%error, "what is known of a container's health cannot be read; it is found out anew");
            }
        }
    }

    /// Checks a run that has just begun, or been found, until it ends. Does nothing for a container without a check.
    pub(crate) fn begin_health(self: &Arc<Self>, container: &Arc<Container>) {
        let record = container.record();
        let Some(spec) = &record.resolved.healthcheck else {
            return;
        };
        let image = self.content.image(record.resolved.image_id.as_str()).ok();
        let shell = image.and_then(|image| image.config.config.shell.clone());
        let Some(check) = Check::of(spec, shell.as_deref()) else {
            return;
        };
        let (ContainerState::Running { start_time, .. } | ContainerState::Paused { start_time, .. }) =
            record.state
        else {
            return;
        };
        {
            let mut health = lock(&container.health);
            *health = Some(HealthRecord::of_run(start_time, health.take()));
        }
        tokio::spawn(watch(Arc::downgrade(self), Arc::clone(container), check));
    }

    async fn probe(&self, container: &Container, check: &Check) -> ProbeView {
        let begun_at = Timestamp::now();
        let (exit_code, output) = match self.run_check(container, check).await {
            Ok(result) => result,
            Err(error) => (-1, error.message),
        };
        ProbeView {
            begun_at,
            ended_at: Timestamp::now(),
            exit_code,
            output,
        }
    }

    async fn run_check(&self, container: &Container, check: &Check) -> Result<(i32, String)> {
        let spec = ExecSpec {
            command: check.command.clone(),
            attach_stdout: true,
            attach_stderr: true,
            ..ExecSpec::default()
        };
        let begun = Instant::now();
        let exec = self.create_exec(container.id.as_str(), spec).await?;
        let stream = self.start_exec(exec.as_str(), false, None).await?;
        self.metrics.note_action(Action::CheckStart, begun.elapsed());
        let mut output = Vec::new();
        if let Some(mut socket) = stream.and_then(|stream| stream.socket) {
            let reading = read_frames(&mut socket, &mut output);
            if tokio::time::timeout(check.timeout, reading).await.is_err() {
                let signal = Request::Signal {
                    target: Target::Exec(exec.clone()),
                    signal: 9,
                    reason: Requester::HealthTimeout.into(),
                };
                if let Some(keeper) = container.keeper() {
                    let _ = keeper.request(&signal, &[]).await;
                }
                let mut message = format!("Health check exceeded timeout ({})", go_duration(check.timeout));
                if !output.is_empty() {
                    message = format!("{message}: {}", String::from_utf8_lossy(&output));
                }
                return Ok((-1, message));
            }
        }
        let ended = tokio::time::timeout(EXIT_CODE_WAIT, self.wait_exec(exec.as_str())).await;
        let exit_code = ended.unwrap_or(Ok(-1))?;
        Ok((exit_code, String::from_utf8_lossy(&output).into_owned()))
    }

    async fn became(self: &Arc<Self>, container: &Arc<Container>, status: HealthStatus) {
        self.container_event(&format!("health_status: {}", status.word()), container, &[]);
        self.restart_if_asked(container, status).await;
    }

    async fn restart_if_asked(self: &Arc<Self>, container: &Arc<Container>, status: HealthStatus) {
        let is_asked = container
            .record()
            .resolved
            .labels
            .get(RESTART_LABEL)
            .is_some_and(|value| matches!(value.as_str(), "true" | "1" | "yes"));
        if status == HealthStatus::Unhealthy && is_asked {
            tracing::info!(
                container = container.id.short(),
                "restarting a container that is unhealthy"
            );
            if let Err(error) = self.restart(container, None, None, Requester::Unhealthy).await {
                tracing::warn!(container = container.id.short(), %error, "cannot restart an unhealthy container");
            }
        }
    }
}

/// Checks one run until it ends.
async fn watch(engine: Weak<Engine>, container: Arc<Container>, check: Check) {
    let mut phase = container.phase();
    let exits = phase.borrow().exits;
    let Some(found) = lock(&container.health).clone() else {
        return;
    };
    // The daemon before this one may have died between finding that out and acting on it.
    if let Some(engine) = engine.upgrade() {
        engine.restart_if_asked(&container, found.view.status).await;
    }
    let mut waited = running_for(&container).and_then(|ran_for| found.last_checked(ran_for));
    loop {
        let Some(ran_for) = running_for(&container) else {
            return;
        };
        let status = match lock(&container.health).as_ref() {
            Some(health) => health.view.status,
            None => return,
        };
        let over = phase.wait_for(|phase| !phase.is_running || phase.exits != exits || phase.is_removed);
        let pause = check.pause(status, ran_for);
        let pause = pause.saturating_sub(waited.take().unwrap_or_default());
        if tokio::time::timeout(pause, over).await.is_ok() {
            return;
        }
        let Some(engine) = engine.upgrade() else { return };
        // A frozen container could not answer.
        if matches!(container.record().state, ContainerState::Paused { .. }) {
            continue;
        }
        let probe = engine.probe(&container, &check).await;
        engine.metrics().note_check(probe.exit_code != 0);
        let is_over = {
            let phase = phase.borrow();
            !phase.is_running || phase.exits != exits
        };
        let Some(ran_for) = running_for(&container).filter(|_| !is_over) else {
            return;
        };
        let (known, has_changed) = {
            let mut health = lock(&container.health);
            let Some(health) = health.as_mut() else { return };
            let has_changed = health.view.note(probe, &check, ran_for);
            (health.clone(), has_changed)
        };
        // Where it cannot be written, a new daemon finds it out anew.
        if let Err(error) = naru_store::write(&container.health_record_path(), &known)
            && !phase.borrow().is_removed
        {
            tracing::warn!(container = container.id.short(), %error, "cannot write down what is known of its health");
        }
        if has_changed {
            engine.became(&container, known.view.status).await;
        }
    }
}

/// As Go prints durations: `300ms`, `1.5s`, `1m30s`.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 1.0 {
        return format!("{}ms", seconds * 1000.0);
    }
    let (minutes, rest) = (duration.as_secs() / 60, seconds % 60.0);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{rest}s"),
        (0, minutes) => format!("{minutes}m{rest}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
    }
}

fn running_for(container: &Container) -> Option<Duration> {
    match container.record().state {
        ContainerState::Running { started_at, .. } | ContainerState::Paused { started_at, .. } => {
            Some(started_at.elapsed())
        }
        _ => None,
    }
}

/// Reads output in frames to its end; of a long one the beginning is kept.
async fn read_frames(socket: &mut UnixStream, output: &mut Vec<u8>) {
    let mut head = [0; 8];
    while socket.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        let mut content = socket.take(u64::from(length));
        let mut piece = [0; 4096];
        loop {
            match content.read(&mut piece).await {
                Ok(0) | Err(_) => break,
                Ok(length) => {
                    let room = OUTPUT_BYTES_MAX.saturating_sub(output.len());
                    output.extend_from_slice(&piece[..length.min(room)]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(retries: i64, start_period_seconds: i64) -> Check {
        let spec = HealthcheckSpec {
            test: vec!["CMD-SHELL".to_owned(), "true".to_owned()],
            start_period_ns: start_period_seconds * 1_000_000_000,
            retries,
            ..HealthcheckSpec::default()
        };
        Check::of(&spec, None).unwrap()
    }

    fn probe(exit_code: i32) -> ProbeView {
        ProbeView {
            begun_at: Timestamp::now(),
            ended_at: Timestamp::now(),
            exit_code,
            output: String::new(),
        }
    }

    #[test]
    fn retries_failures_in_a_row_make_unhealthy() {
        let check = check(2, 0);
        let mut health = HealthView::begun(None);
        let second = Duration::from_secs(1);
        assert!(!health.note(probe(1), &check, second));
        assert!(health.note(probe(0), &check, second) && health.status == HealthStatus::Healthy);
        assert!(!health.note(probe(1), &check, second));
        assert!(health.note(probe(1), &check, second) && health.status == HealthStatus::Unhealthy);
        assert_eq!(health.failing_streak, 2);
        assert!(health.note(probe(0), &check, second) && health.failing_streak == 0);
        for _ in 0..9 {
            health.note(probe(0), &check, second);
        }
        assert_eq!(health.log.len(), LOG_LENGTH_MAX);
    }

    #[test]
    fn a_run_that_is_found_again_goes_on_where_it_was() {
        let check = check(3, 0);
        let mut known = HealthRecord::of_run(7, None);
        assert_eq!(known.last_checked(Duration::from_secs(9)), None);
        known.view.note(probe(1), &check, Duration::from_secs(1));
        let found = HealthRecord::of_run(7, Some(known.clone()));
        assert_eq!(found, known);
        assert!(found.last_checked(Duration::from_secs(9)).is_some());
        let next = HealthRecord::of_run(8, Some(known));
        assert_eq!((next.view.failing_streak, next.view.log.len()), (0, 1));
        // What an earlier run's check gave says nothing of when this one's is due.
        assert_eq!(next.last_checked(Duration::ZERO), None);
    }

    #[test]
    fn failures_in_the_start_period_count_for_nothing() {
        let check = check(1, 60);
        let mut health = HealthView::begun(None);
        let early = Duration::from_secs(10);
        assert!(!health.note(probe(1), &check, early) && health.failing_streak == 0);
        assert_eq!(check.pause(health.status, early), START_INTERVAL);
        // One success ends it.
        assert!(health.note(probe(0), &check, early));
        assert_eq!(check.pause(health.status, early), INTERVAL);
        assert!(health.note(probe(1), &check, early) && health.status == HealthStatus::Unhealthy);
    }

    #[test]
    fn durations_read_as_gos() {
        let cases = [
            (300, "300ms"),
            (1_500, "1.5s"),
            (90_000, "1m30s"),
            (3_600_000, "1h0m0s"),
        ];
        for (milliseconds, text) in cases {
            assert_eq!(go_duration(Duration::from_millis(milliseconds)), text);
        }
    }

    #[test]
    fn commands_are_taken_as_they_are_written() {
        let spec = |test: &[&str]| HealthcheckSpec {
            test: test.iter().map(|&word| word.to_owned()).collect(),
            ..HealthcheckSpec::default()
        };
        let shell = ["/bin/bash".to_owned(), "-ec".to_owned()];
        let command = |test: &[&str]| Check::of(&spec(test), Some(&shell)).map(|check| check.command);
        assert_eq!(command(&["CMD", "a", "b"]).unwrap(), ["a", "b"]);
        assert_eq!(
            command(&["CMD-SHELL", "a b"]).unwrap(),
            ["/bin/bash", "-ec", "a b"]
        );
        assert_eq!(
            (command(&["NONE"]), command(&["CMD"]), command(&[])),
            (None, None, None)
        );
    }
}
