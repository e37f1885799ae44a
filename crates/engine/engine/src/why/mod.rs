//! Why a container ended, was started again, or did not start: recorded where it is known, told on request.
//!
//! ```text
//!  keeper ── exit record: cause, signals sent, memory ──▶ finish_run ── RunEnd ──▶ record ──▶ why_container
//!  try_start ── StartFault of the step that failed ─────▶ FailedStart ───────────▶ record ──▶ why_container
//! ```
//! Nothing here is concluded from an exit code. What nobody saw is said to be unknown.

mod words;

use crate::Engine;
use crate::containers::{Container, lock};
use crate::error::Result;
use crate::record::{ContainerRecord, ContainerState, FailedStart};
use crate::spec::RestartPolicy;
use naru_base::{ContainerId, Timestamp};
use naru_cgroup::Cgroup;
use naru_keeper::cause::{EndCause, Pressure};
use naru_keeper::kernel_log;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// The end of a run, kept until the next one ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RunEnd {
    pub cause: EndCause,
    pub exit_code: i32,
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
    /// No daemon was there to see it; the next one found what the keeper had written.
    pub was_found_later: bool,
    #[serde(flatten)]
    pub pressure: Pressure,
    /// The last health check, where it had failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_check: Option<FailedCheck>,
    pub aftermath: Aftermath,
}

/// A health check that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FailedCheck {
    /// -1 for one that was ended because it took too long, or that could not be started.
    pub exit_code: i32,
    pub output: String,
    /// Failures in a row.
    pub failing_streak: u32,
}

/// What the restart policy made of an end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "Kind", rename_all_fields = "PascalCase")]
pub enum Aftermath {
    /// There is none.
    NoPolicy,
    /// It starts the container again, after this pause.
    Restarts {
        policy: String,
        attempt: u32,
        delay_ms: u64,
    },
    /// `on-failure:N`, and this many restarts have failed.
    GaveUp { policy: String, restarts: u32 },
    /// `on-failure`, and it did not fail.
    NotAFailure { policy: String },
    /// A request stopped the container, so the policy leaves it alone.
    LeftStopped { policy: String },
    /// The daemon was ending; the next one asks the policy again.
    DaemonEnding { policy: String },
}

/// Who had the present or the last run started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "Kind", rename_all_fields = "PascalCase")]
pub enum StartedBy {
    StartRequest,
    RestartRequest,
    /// It was unhealthy and asks to be restarted then.
    Unhealthy,
    Policy {
        policy: String,
        attempt: u32,
    },
    /// A daemon that started found that it should be up.
    DaemonStart {
        policy: String,
    },
}

/// What kept a container from starting: the step that failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartFault {
    CommandNotFound,
    CommandNotExecutable,
    /// The command is a script, or a dynamic program, whose interpreter is not there.
    InterpreterMissing,
    /// The command is for another kind of machine, or no program at all.
    FormatUnknown,
    WorkingDirectory,
    UserUnknown,
    BindSourceMissing,
    Mount,
    Volume,
    DeviceMissing,
    PortTaken,
    NetworkMissing,
    Network,
    /// The layers or the read-write layer.
    RootFilesystem,
    DiskFull,
    Cgroup,
    Limit,
    /// Another container's namespace, which it was to share.
    SharedNamespace,
    UserNamespace,
    Seccomp,
    LogDriver,
    KeeperLost,
    #[default]
    Other,
}

/// All that is known of why a container is as it is.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct WhyView {
    pub id: ContainerId,
    pub name: String,
    pub status: &'static str,
    /// One sentence for people.
    pub summary: String,
    /// Further ones.
    pub details: Vec<String>,
    pub last_end: Option<RunEnd>,
    pub failed_start: Option<FailedStart>,
    pub started_by: Option<StartedBy>,
    pub restart_count: u32,
    /// Of the present run.
    pub pressure: Pressure,
    /// Of the present run.
    pub failed_check: Option<FailedCheck>,
}

impl Engine {
    pub async fn why_container(&self, name: &str) -> Result<WhyView> {
        let container = self.registry.find(name)?;
        let record = container.record();
        let pressure = present_pressure(&container, &record).await;
        let failed_check = record.is_running().then(|| failed_check(&container)).flatten();
        let mut view = WhyView {
            id: record.id.clone(),
            name: record.name.clone(),
            status: status_word(&record.state),
            summary: String::new(),
            details: Vec::new(),
            last_end: record.last_end.clone(),
            failed_start: record.failed_start.clone(),
            started_by: record.started_by.clone(),
            restart_count: record.restart_count,
            pressure,
            failed_check,
        };
        (view.summary, view.details) = words::tell(&view, record.spec.with_init.unwrap_or(false));
        Ok(view)
    }
}

/// Where a running container has come up against its limits: the kernel counts, and its log has names.
async fn present_pressure(container: &Arc<Container>, record: &ContainerRecord) -> Pressure {
    let (Some(pid), Some(cgroup)) = (record.pid(), cgroup_of(container)) else {
        return Pressure::default();
    };
    let elapsed = match record.state {
        ContainerState::Running { started_at, .. } | ContainerState::Paused { started_at, .. } => {
            started_at.elapsed()
        }
        _ => Duration::ZERO,
    };
    let mut pids = vec![pid];
    pids.extend(lock(&container.execs).values().filter_map(|exec| exec.pid()));
    let looked = tokio::task::spawn_blocking(move || {
        let oom_kills = cgroup.oom_kill_count().unwrap_or(0);
        let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let since_us = kernel_log::now_us().saturating_sub(elapsed_us);
        Pressure {
            oom_kills,
            oom_victims: if oom_kills > 0 {
                kernel_log::oom_victims(&cgroup, &pids, since_us)
            } else {
                Vec::new()
            },
            forks_refused: cgroup.fork_refusal_count().unwrap_or(0),
        }
    });
    looked.await.unwrap_or_default()
}

fn cgroup_of(container: &Container) -> Option<Cgroup> {
    lock(&container.run).as_ref().map(|run| run.cgroup.clone())
}

/// The last health check, if it failed.
pub(crate) fn failed_check(container: &Container) -> Option<FailedCheck> {
    let health = lock(&container.health);
    let health = &health.as_ref()?.view;
    if health.failing_streak == 0 {
        return None;
    }
    let probe = health.log.last()?;
    Some(FailedCheck {
        exit_code: probe.exit_code,
        output: probe.output.clone(),
        failing_streak: health.failing_streak,
    })
}

/// What is to be done about an end.
pub(crate) struct EndFacts {
    pub exit_code: i32,
    /// A request has stopped or killed it.
    pub is_stop_wanted: bool,
    pub is_daemon_ending: bool,
    /// The pause before a restart.
    pub delay: Duration,
}

/// Asks the restart policy.
pub(crate) fn decide_aftermath(record: &ContainerRecord, facts: &EndFacts) -> Aftermath {
    let policy = policy_text(&record.spec.restart);
    if record.spec.auto_remove || record.spec.restart == RestartPolicy::No {
        return Aftermath::NoPolicy;
    }
    if facts.is_daemon_ending {
        return Aftermath::DaemonEnding { policy };
    }
    if facts.is_stop_wanted {
        return Aftermath::LeftStopped { policy };
    }
    if let RestartPolicy::OnFailure { retries_max } = record.spec.restart {
        if facts.exit_code == 0 {
            return Aftermath::NotAFailure { policy };
        }
        if retries_max.is_some_and(|max| max != 0 && record.restart_count >= max) {
            let restarts = record.restart_count;
            return Aftermath::GaveUp { policy, restarts };
        }
    }
    Aftermath::Restarts {
        policy,
        attempt: record.restart_count + 1,
        delay_ms: u64::try_from(facts.delay.as_millis()).unwrap_or(u64::MAX),
    }
}

/// As on the command line: `on-failure:3`.
pub(crate) fn policy_text(policy: &RestartPolicy) -> String {
    match policy {
        RestartPolicy::No => "no".to_owned(),
        RestartPolicy::Always => "always".to_owned(),
        RestartPolicy::UnlessStopped => "unless-stopped".to_owned(),
        RestartPolicy::OnFailure { retries_max } => match retries_max {
            Some(max) if *max > 0 => format!("on-failure:{max}"),
            _ => "on-failure".to_owned(),
        },
    }
}

/// Docker's words.
fn status_word(state: &ContainerState) -> &'static str {
    match state {
        ContainerState::Created => "created",
        ContainerState::Running { .. } => "running",
        ContainerState::Paused { .. } => "paused",
        ContainerState::Restarting { .. } => "restarting",
        ContainerState::Exited { .. } => "exited",
        ContainerState::Removing => "removing",
    }
}

/// The kernel's id of this boot; empty where it has none.
pub(crate) fn read_boot_id() -> String {
    naru_sys::file::read_bounded(std::path::Path::new("/proc/sys/kernel/random/boot_id"), 64)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}
