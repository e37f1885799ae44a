//! The end of a run: one function brings the record in line with what happened, whoever notices it.

use super::{Container, RunResources, lock};
use crate::Engine;
use crate::keepers::Notice;
use crate::metrics::Action;
use crate::record::{ContainerRecord, ContainerState, ExitSummary};
use crate::spec::RestartPolicy;
use crate::why::{Aftermath, EndFacts, RunEnd, StartedBy, decide_aftermath, failed_check, policy_text};
use naru_base::Timestamp;
use naru_keeper::cause::{EndCause, EndReport, Pressure};
use naru_keeper::protocol::{Event, ExitRecord};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// First pause before a restart by policy; doubled each time, as Docker does.
const RESTART_DELAY_FIRST: Duration = Duration::from_millis(100);
const RESTART_DELAY_MAX: Duration = Duration::from_secs(60);
/// A run this long makes the next pause the first again.
const RESTART_DELAY_RESET: Duration = Duration::from_secs(10);

/// Who saw a run end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witness {
    Daemon,
    /// There was none; the next one finds it.
    Nobody,
}

/// How the engine knows that a run ended.
#[derive(Debug)]
pub enum ExitCause {
    /// The keeper said so, and wrote it down.
    Recorded(ExitRecord),
    /// The keeper is gone without a record: it was killed.
    KeeperLost,
    /// What the run held is gone, with the machine it ran on or without it.
    RunLost,
}

/// The exit code of a container whose keeper was killed: that of SIGKILL, which ends it.
const EXIT_CODE_KILLED: i32 = 137;
/// As Docker has it for a container that it does not find again after the machine was restarted.
const EXIT_CODE_UNKNOWN: i32 = 255;

impl Engine {
    /// Watches a run until its keeper is gone, then settles it.
    pub(crate) fn follow_run(
        self: &Arc<Self>,
        container: &Arc<Container>,
        mut notices: mpsc::Receiver<Notice>,
    ) {
        self.begin_health(container);
        let (engine, container) = (Arc::clone(self), Arc::clone(container));
        tokio::spawn(async move {
            let mut cause = None;
            while let Some(notice) = notices.recv().await {
                match notice {
                    Notice::Event(Event::ExecExited { exec, exit_code }) => {
                        engine.exec_exited(&container, &exec, exit_code);
                    }
                    Notice::Event(Event::Exited(record)) => {
                        cause = Some(ExitCause::Recorded(record));
                        break;
                    }
                    Notice::Event(Event::Detached { .. }) => {
                        engine.container_event("detach", &container, &[]);
                    }
                    Notice::Gone => break,
                }
            }
            let cause = cause.unwrap_or_else(|| read_exit_record(&container));
            engine.finish_run(&container, cause, Witness::Daemon).await;
        });
    }

    /// Brings record, resources and waiters in line with the end of a run.
    pub(crate) async fn finish_run(
        self: &Arc<Self>,
        container: &Arc<Container>,
        cause: ExitCause,
        witness: Witness,
    ) {
        let _finishing = self.finishing.read().await;
        let cleanup = container.cleanup.lock().await;
        container.set_keeper(None);
        let exit = match cause {
            ExitCause::Recorded(exit) => exit,
            ExitCause::KeeperLost => end_without_keeper(container),
            ExitCause::RunLost => end_of_lost_run(&container.record(), &self.boot_id),
        };
        let resources = lock(&container.run).take();
        if let Some(resources) = &resources {
            self.release_network(container, resources);
        }
        let started_at = match container.record().state {
            ContainerState::Running { started_at, .. } | ContainerState::Paused { started_at, .. } => {
                Some(started_at)
            }
            _ => None,
        };
        let summary = ExitSummary {
            exit_code: exit.exit_code,
            oom_killed: exit.oom_killed,
            started_at,
            finished_at: exit.finished_at,
            error: exit.cause.clone().unwrap_or_default(),
        };
        let ran_for = started_at.map_or(Duration::ZERO, Timestamp::elapsed);
        let facts = EndFacts {
            exit_code: exit.exit_code,
            is_stop_wanted: container.stop_wanted.load(Ordering::Acquire),
            is_daemon_ending: self.is_shutting_down(),
            delay: restart_delay(container, ran_for),
        };
        let aftermath = decide_aftermath(&container.record(), &facts);
        let end = run_end(container, &exit, started_at, witness, aftermath.clone());
        let mut ended_run = None;
        let mut was_paused = false;
        let record = container.change(|record| {
            record.last_end = Some(end);
            was_paused = matches!(record.state, ContainerState::Paused { .. });
            record.state = ContainerState::Exited { exit: summary };
            ended_run = record.run.take();
        });
        if was_paused && let Some(resources) = &resources {
            // What is left of the run could not leave its cgroup.
            resources.cgroup.thaw().ok();
        }
        container.fail_execs();
        drop(container.signalling.write().await);
        if exit.oom_killed {
            self.container_event("oom", container, &[]);
        }
        self.container_event(
            "die",
            container,
            &[
                ("exitCode", &exit.exit_code.to_string()),
                ("execDuration", &ran_for.as_secs().to_string()),
            ],
        );
        let endpoints = ended_run.map_or_else(Vec::new, |run| run.endpoints);
        self.end_events(&record, &endpoints);
        let restarts = matches!(aftermath, Aftermath::Restarts { .. });
        if restarts {
            container.change(|record| {
                if let ContainerState::Exited { exit } = record.state.clone() {
                    record.state = ContainerState::Restarting { exit };
                }
            });
        } else if record.spec.auto_remove && container.restarts_wanted.load(Ordering::Acquire) == 0 {
            // Before the removal: who waits for that is told this code.
            container.set_phase(|phase| phase.exit_code = exit.exit_code);
            self.finish_auto_remove(container, resources);
            drop(cleanup);
            container.set_phase(|phase| exited(phase, exit.exit_code));
            return;
        }
        container.set_phase(|phase| exited(phase, exit.exit_code));
        self.write_record_soon(container);
        if let Some(resources) = resources {
            // Ten directories to remove: whoever waits for the end goes first.
            tokio::task::yield_now().await;
            remove_cgroup(&resources.cgroup);
        }
        drop(cleanup);
        if restarts {
            self.restart_later(container, facts.delay);
        }
    }

    fn finish_auto_remove(self: &Arc<Self>, container: &Arc<Container>, resources: Option<RunResources>) {
        if let Err(error) = self.remove_stopped(container, true) {
            tracing::warn!(container = container.id.short(), %error, "cannot remove a container after its end");
        }
        if let Some(resources) = resources {
            remove_cgroup(&resources.cgroup);
        }
    }

    /// Frees address and ports, and the cgroup: what a run or a failed start took.
    pub(crate) fn release(&self, container: &Container, resources: &RunResources) {
        self.release_network(container, resources);
        let _ = resources.cgroup.kill_all();
        remove_cgroup(&resources.cgroup);
    }

    fn release_network(&self, container: &Container, resources: &RunResources) {
        let begun = Instant::now();
        if let Err(error) = self.unpublish(&container.record(), &resources.published) {
            tracing::warn!(container = container.id.short(), %error, "cannot take back published ports");
        }
        for endpoint in &resources.endpoints {
            self.network.detach(&super::endpoint_of_record(endpoint));
        }
        self.forget_names(&container.id, resources);
        if !resources.endpoints.is_empty() {
            self.metrics.note_action(Action::NetworkRelease, begun.elapsed());
        }
    }

    fn restart_later(self: &Arc<Self>, container: &Arc<Container>, delay: Duration) {
        container.restart_doublings.fetch_add(1, Ordering::AcqRel);
        let (engine, container) = (Arc::clone(self), Arc::clone(container));
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let _operation = container.operation.lock().await;
            // A stop, a start or a removal in between settles the matter.
            if !matches!(container.record().state, ContainerState::Restarting { .. }) {
                return;
            }
            // The policy may have been changed meanwhile.
            if container.record().spec.restart == RestartPolicy::No {
                container.change(stay_exited);
                engine.write_record_soon(&container);
                return;
            }
            let record = container.change(|record| record.restart_count += 1);
            let started_by = StartedBy::Policy {
                policy: policy_text(&record.spec.restart),
                attempt: record.restart_count,
            };
            if let Err(error) = engine.start(&container, started_by).await {
                tracing::warn!(container = container.id.short(), %error, "a restart by policy failed");
                container.change(stay_exited);
                engine.write_record_soon(&container);
            }
        });
    }
}

/// A container that was to be restarted is not.
fn stay_exited(record: &mut crate::record::ContainerRecord) {
    if let ContainerState::Restarting { exit } = record.state.clone() {
        record.state = ContainerState::Exited { exit };
    }
}

/// Kills what is left of a container whose keeper is gone: nobody would reap it or hold its streams.
fn end_without_keeper(container: &Container) -> ExitRecord {
    let resources = lock(&container.run);
    let oom_killed = resources
        .as_ref()
        .is_some_and(|run| run.cgroup.oom_kill_count().unwrap_or(0) > 0);
    if let Some(error) = resources.as_ref().and_then(|run| run.cgroup.kill_all().err()) {
        tracing::warn!(container = container.id.short(), %error, "cannot end a container whose keeper is gone");
    }
    ExitRecord {
        exit_code: EXIT_CODE_KILLED,
        signal: Some(9),
        oom_killed,
        finished_at: Timestamp::now(),
        cause: Some("the container's keeper process was killed, so the container was ended".to_owned()),
        report: Some(EndReport {
            cause: EndCause::KeeperLost,
            pressure: Pressure::default(),
        }),
    }
}

/// A run of which nothing is left but that it was going on.
fn end_of_lost_run(record: &ContainerRecord, boot_id_now: &str) -> ExitRecord {
    let (words, cause) = if record.boot_id == boot_id_now {
        (
            "what the exec-root held of the container's run is gone",
            EndCause::RunLost,
        )
    } else {
        (
            "the machine went down while the container ran",
            EndCause::MachineLost {
                boot_id: record.boot_id.clone(),
                boot_id_now: boot_id_now.to_owned(),
            },
        )
    };
    ExitRecord {
        exit_code: EXIT_CODE_UNKNOWN,
        signal: None,
        oom_killed: false,
        finished_at: Timestamp::now(),
        cause: Some(words.to_owned()),
        report: Some(EndReport {
            cause,
            pressure: Pressure::default(),
        }),
    }
}

/// The pause before a restart by policy; a long run begins anew.
fn restart_delay(container: &Container, ran_for: Duration) -> Duration {
    if ran_for >= RESTART_DELAY_RESET {
        container.restart_doublings.store(0, Ordering::Release);
    }
    let doublings = container.restart_doublings.load(Ordering::Acquire).min(16);
    RESTART_DELAY_FIRST
        .saturating_mul(1 << doublings)
        .min(RESTART_DELAY_MAX)
}

/// What is kept of an end.
fn run_end(
    container: &Container,
    exit: &ExitRecord,
    started_at: Option<Timestamp>,
    witness: Witness,
    aftermath: Aftermath,
) -> RunEnd {
    let report = exit.report.clone().unwrap_or(EndReport {
        cause: EndCause::Unrecorded,
        pressure: Pressure::default(),
    });
    RunEnd {
        cause: report.cause,
        exit_code: exit.exit_code,
        started_at,
        finished_at: exit.finished_at,
        was_found_later: witness == Witness::Nobody,
        pressure: report.pressure,
        failed_check: failed_check(container),
        aftermath,
    }
}

fn remove_cgroup(cgroup: &naru_cgroup::Cgroup) {
    if let Err(error) = cgroup.remove() {
        tracing::warn!(cgroup = cgroup.path(), %error, "cannot remove a container's cgroup; it is swept at the next start of the daemon");
    }
}

fn exited(phase: &mut super::Phase, exit_code: i32) {
    phase.is_running = false;
    phase.exits += 1;
    phase.exit_code = exit_code;
    phase.error = None;
}

/// The exit record of a keeper that is gone, if it left one for this run.
fn read_exit_record(container: &Container) -> ExitCause {
    let text = naru_sys::file::read_bounded(&container.exit_record_path(), 64 * 1024).ok();
    text.and_then(|text| serde_json::from_slice(&text).ok())
        .map_or(ExitCause::KeeperLost, ExitCause::Recorded)
}

impl ExitCause {
    /// What a daemon that was not there finds of a run whose keeper is gone.
    pub fn found(container: &Container) -> Self {
        read_exit_record(container)
    }
}

/// When a process started, from its start time in clock ticks since boot.
pub fn derive_started_at(start_time: u64) -> Timestamp {
    /// `USER_HZ`, fixed for every architecture Linux exposes to programs.
    const TICKS_PER_SECOND: i128 = 100;
    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let since_boot = i128::from(uptime.tv_sec) * 1_000_000_000 + i128::from(uptime.tv_nsec);
    let nanoseconds = Timestamp::now().as_nanosecond() - since_boot
        + i128::from(start_time) * 1_000_000_000 / TICKS_PER_SECOND;
    Timestamp::from_parts(
        (nanoseconds / 1_000_000_000) as i64,
        (nanoseconds % 1_000_000_000) as i32,
    )
}
