//! What the engine counts of itself, for those who watch many: kept as numbers, never as history.

use crate::Engine;
use crate::error::Result;
use crate::views::{EngineInfo, Usage};
use naru_base::ContainerId;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets, in milliseconds: those of Prometheus' libraries, and so Docker's.
pub const BUCKETS_MS: [u64; 11] = [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000];

/// What is timed, by Docker's families and words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Changes,
    Commit,
    Create,
    Delete,
    Start,
    ImageDelete,
    ImagePull,
    ImagePush,
    NetworkAllocate,
    NetworkConnect,
    NetworkRelease,
    SystemInfo,
    SystemVersion,
    /// From the decision to check a container's health to the check's start.
    CheckStart,
}

impl Action {
    /// Those of one family one after the other.
    pub const ALL: [Self; 14] = [
        Self::Changes,
        Self::Commit,
        Self::Create,
        Self::Delete,
        Self::Start,
        Self::ImageDelete,
        Self::ImagePull,
        Self::ImagePush,
        Self::NetworkAllocate,
        Self::NetworkConnect,
        Self::NetworkRelease,
        Self::SystemInfo,
        Self::SystemVersion,
        Self::CheckStart,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Changes => "changes",
            Self::Commit => "commit",
            Self::Create => "create",
            Self::Delete | Self::ImageDelete => "delete",
            Self::Start => "start",
            Self::ImagePull => "pull",
            Self::ImagePush => "push",
            Self::NetworkAllocate => "allocate",
            Self::NetworkConnect => "connect",
            Self::NetworkRelease => "release",
            Self::SystemInfo => "system_info",
            Self::SystemVersion => "system_version",
            // The only one of its family.
            Self::CheckStart => "",
        }
    }
}

/// Why a build failed, in Docker's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildFailure {
    /// Nobody wanted its outcome any more.
    Canceled,
    EmptyDockerfile,
    Syntax,
    /// A step of it, or what it needs.
    Processing,
}

impl BuildFailure {
    pub const ALL: [Self; 4] = [
        Self::Canceled,
        Self::EmptyDockerfile,
        Self::Syntax,
        Self::Processing,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Canceled => "build_canceled",
            Self::EmptyDockerfile => "dockerfile_empty_error",
            Self::Syntax => "dockerfile_syntax_error",
            Self::Processing => "error_processing_commands_error",
        }
    }
}

/// A build under way, counted as failed unless it says how it ended.
#[derive(Debug)]
pub(crate) struct CountedBuild<'a> {
    metrics: &'a Metrics,
    failure: Option<BuildFailure>,
    is_over: bool,
}

impl CountedBuild<'_> {
    /// What a failure from here on is.
    pub(crate) fn fails_as(&mut self, failure: BuildFailure) {
        self.failure = Some(failure);
    }

    pub(crate) fn end(mut self, has_failed: bool) {
        self.is_over = true;
        if !has_failed {
            self.failure = None;
        }
    }
}

impl Drop for CountedBuild<'_> {
    fn drop(&mut self) {
        let failure = if self.is_over {
            self.failure
        } else {
            Some(BuildFailure::Canceled)
        };
        if let Some(failure) = failure {
            self.metrics.failed_builds[failure as usize].fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// How long something took, each time.
#[derive(Debug, Default)]
struct Timings {
    /// Those in each bucket alone; the last one is for all that took longer.
    buckets: [AtomicU64; BUCKETS_MS.len() + 1],
    sum_us: AtomicU64,
}

/// Counted since the daemon started.
#[derive(Debug, Default)]
pub struct Metrics {
    actions: [Timings; Action::ALL.len()],
    checks: AtomicU64,
    failed_checks: AtomicU64,
    builds: AtomicU64,
    failed_builds: [AtomicU64; BuildFailure::ALL.len()],
}

impl Metrics {
    /// Notes an action that has succeeded.
    pub fn note_action(&self, action: Action, took: Duration) {
        let timings = &self.actions[action as usize];
        let bucket = BUCKETS_MS
            .iter()
            .position(|bound| took <= Duration::from_millis(*bound))
            .unwrap_or(BUCKETS_MS.len());
        timings.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        timings.sum_us.fetch_add(micros, Ordering::Relaxed);
    }

    pub(crate) fn note_check(&self, has_failed: bool) {
        self.checks.fetch_add(1, Ordering::Relaxed);
        if has_failed {
            self.failed_checks.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn begin_build(&self) -> CountedBuild<'_> {
        self.builds.fetch_add(1, Ordering::Relaxed);
        CountedBuild {
            metrics: self,
            failure: Some(BuildFailure::Processing),
            is_over: false,
        }
    }

    fn view(&self, action: Action) -> TimingsView {
        let timings = &self.actions[action as usize];
        let mut count = 0;
        let cumulative = timings.buckets.each_ref().map(|bucket| {
            count += bucket.load(Ordering::Relaxed);
            count
        });
        TimingsView {
            action,
            cumulative,
            sum_seconds: timings.sum_us.load(Ordering::Relaxed) as f64 / 1e6,
        }
    }
}

/// All that is told of the engine at one moment.
#[derive(Debug, Clone)]
pub struct MetricsView {
    pub info: EngineInfo,
    pub actions: Vec<TimingsView>,
    pub checks: u64,
    pub failed_checks: u64,
    pub builds: u64,
    pub failed_builds: Vec<(BuildFailure, u64)>,
    pub events: u64,
    pub event_subscribers: usize,
    pub containers: Vec<ContainerUsage>,
}

#[derive(Debug, Clone)]
pub struct TimingsView {
    pub action: Action,
    /// As many as took no longer than each bound; the last number is all of them.
    pub cumulative: [u64; BUCKETS_MS.len() + 1],
    pub sum_seconds: f64,
}

/// A running container and what it uses.
#[derive(Debug, Clone)]
pub struct ContainerUsage {
    pub id: ContainerId,
    pub name: String,
    pub image: String,
    pub restart_count: u32,
    pub usage: Usage,
}

impl Engine {
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub async fn metrics_view(&self) -> Result<MetricsView> {
        let mut containers = Vec::new();
        for container in self.registry.all() {
            let record = container.record();
            if !record.is_running() {
                continue;
            }
            // One that ends meanwhile is left out.
            if let Ok(stats) = self.container_stats(record.id.as_str()).await
                && let Some(usage) = stats.usage
            {
                containers.push(ContainerUsage {
                    id: record.id.clone(),
                    name: record.name.clone(),
                    image: record.spec.image.clone(),
                    restart_count: record.restart_count,
                    usage,
                });
            }
            // Others are served between two containers: reading one's numbers takes some dozen small files.
            tokio::task::yield_now().await;
        }
        let (events, event_subscribers) = self.events.counts();
        Ok(MetricsView {
            info: self.info().await,
            actions: Action::ALL
                .into_iter()
                .map(|action| self.metrics.view(action))
                .collect(),
            checks: self.metrics.checks.load(Ordering::Relaxed),
            failed_checks: self.metrics.failed_checks.load(Ordering::Relaxed),
            builds: self.metrics.builds.load(Ordering::Relaxed),
            failed_builds: BuildFailure::ALL
                .into_iter()
                .map(|failure| {
                    let count = &self.metrics.failed_builds[failure as usize];
                    (failure, count.load(Ordering::Relaxed))
                })
                .collect(),
            events,
            event_subscribers,
            containers,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timings_fall_into_their_buckets() {
        let metrics = Metrics::default();
        for milliseconds in [5, 6, 90_000] {
            metrics.note_action(Action::Start, Duration::from_millis(milliseconds));
        }
        let view = metrics.view(Action::Start);
        assert_eq!(view.cumulative, [1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3]);
        assert!((view.sum_seconds - 90.011).abs() < 1e-9);
        assert_eq!(metrics.view(Action::Create).cumulative[11], 0);
    }

    #[test]
    fn a_build_that_does_not_say_how_it_ended_was_canceled() {
        let metrics = Metrics::default();
        metrics.begin_build().end(false);
        metrics.begin_build().end(true);
        drop(metrics.begin_build());
        let mut build = metrics.begin_build();
        build.fails_as(BuildFailure::Syntax);
        build.end(true);
        let failed = metrics
            .failed_builds
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed));
        assert_eq!(
            (metrics.builds.load(Ordering::Relaxed), failed),
            (4, [1, 0, 1, 1])
        );
    }
}
