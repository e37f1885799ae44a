//! The engine's numbers in Prometheus' text form, at `GET /metrics`, with dockerd's names where it has them.

use crate::respond::{self, Answer};
use crate::server::ACCEPT_PAUSE;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use naru_docker_wire::Endpoint;
use naru_engine::Engine;
use naru_engine::metrics::{Action, BUCKETS_MS, ContainerUsage, MetricsView, TimingsView};
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections served at once; a scraper needs one.
const CONNECTIONS_MAX: usize = 16;

/// How long a client may take to say what it wants.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);

const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// What a request is timed as.
pub fn action_of(endpoint: Endpoint) -> Option<Action> {
    Some(match endpoint {
        Endpoint::ContainerChanges => Action::Changes,
        Endpoint::ContainerCommit => Action::Commit,
        Endpoint::ContainerCreate => Action::Create,
        Endpoint::ContainerRemove => Action::Delete,
        Endpoint::ContainerStart => Action::Start,
        Endpoint::ImageRemove => Action::ImageDelete,
        Endpoint::Info => Action::SystemInfo,
        Endpoint::Version => Action::SystemVersion,
        _ => return None,
    })
}

/// Answers scrapers until the task is dropped.
pub async fn serve_metrics(engine: Arc<Engine>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let engine = Arc::clone(&engine);
                tokio::spawn(async move {
                    serve_scraper(engine, stream).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for metrics");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_scraper(engine: Arc<Engine>, stream: TcpStream) {
    let service = service_fn(move |request| {
        let engine = Arc::clone(&engine);
        async move { Ok::<_, Infallible>(answer(&engine, &request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection for metrics ended");
    }
}

async fn answer(engine: &Arc<Engine>, request: &Request<Incoming>) -> Answer {
    if request.uri().path() != "/metrics" {
        return respond::with_body(StatusCode::NOT_FOUND, respond::TEXT, "404 page not found\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return respond::with_body(StatusCode::METHOD_NOT_ALLOWED, respond::TEXT, "only GET\n");
    }
    match engine.metrics_view().await {
        Ok(view) => respond::with_body(StatusCode::OK, MEDIA_TYPE, render(&view)),
        Err(error) => respond::with_body(StatusCode::INTERNAL_SERVER_ERROR, respond::TEXT, error.message),
    }
}

/// The whole page.
fn render(view: &MetricsView) -> String {
    let mut page = Page::default();
    let info = &view.info;
    page.head(
        "engine_daemon_engine_info",
        "gauge",
        "The information related to the engine and the OS it is running on",
    );
    let uname = rustix::system::uname();
    page.line(
        "engine_daemon_engine_info",
        &[
            ("architecture", std::env::consts::ARCH),
            ("commit", ""),
            ("daemon_id", &info.id),
            ("graphdriver", "overlay2"),
            ("kernel", &uname.release().to_string_lossy()),
            ("os", "Linux"),
            ("os_type", "linux"),
            ("version", env!("CARGO_PKG_VERSION")),
        ],
        1.0,
    );
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    page.one(
        "engine_daemon_engine_cpus_cpus",
        "gauge",
        "The number of cpus that the host system of the engine has",
        cpus as f64,
    );
    page.one(
        "engine_daemon_engine_memory_bytes",
        "gauge",
        "The number of bytes of memory that the host system of the engine has",
        memory_bytes(),
    );
    let states = "engine_daemon_container_states_containers";
    page.head(states, "gauge", "The count of containers in various states");
    for (state, count) in [
        ("paused", info.containers_paused),
        ("running", info.containers_running),
        ("stopped", info.containers_stopped),
    ] {
        page.line(states, &[("state", state)], count as f64);
    }
    let mut family = "";
    for timings in &view.actions {
        let (name, help, label) = family_of(timings.action);
        if name != family {
            page.head(name, "histogram", help);
            family = name;
        }
        page.timings(name, (label, timings.action.word()), timings);
    }
    page.one(
        "builder_builds_triggered_total",
        "counter",
        "Number of triggered image builds",
        view.builds as f64,
    );
    let failed = "builder_builds_failed_total";
    page.head(failed, "counter", "Number of failed image builds");
    for (reason, count) in &view.failed_builds {
        page.line(failed, &[("reason", reason.word())], *count as f64);
    }
    for (name, kind, help, value) in [
        (
            "engine_daemon_events_total",
            "counter",
            "The number of events logged",
            view.events as f64,
        ),
        (
            "engine_daemon_events_subscribers_total",
            "gauge",
            "The number of current subscribers to events",
            view.event_subscribers as f64,
        ),
        (
            "engine_daemon_health_checks_total",
            "counter",
            "The total number of health checks",
            view.checks as f64,
        ),
        (
            "engine_daemon_health_checks_failed_total",
            "counter",
            "The total number of failed health checks",
            view.failed_checks as f64,
        ),
    ] {
        page.one(name, kind, help, value);
    }
    page.containers(&view.containers);
    page.text
}

/// The family that an action is timed in, its help, and the label that tells its members apart.
fn family_of(action: Action) -> (&'static str, &'static str, &'static str) {
    match action {
        Action::Changes | Action::Commit | Action::Create | Action::Delete | Action::Start => (
            "engine_daemon_container_actions_seconds",
            "The number of seconds it takes to process each container action",
            "action",
        ),
        Action::ImageDelete | Action::ImagePull | Action::ImagePush => (
            "engine_daemon_image_actions_seconds",
            "The number of seconds it takes to process each image action",
            "action",
        ),
        Action::NetworkAllocate | Action::NetworkConnect | Action::NetworkRelease => (
            "engine_daemon_network_actions_seconds",
            "The number of seconds it takes to process each network action",
            "action",
        ),
        Action::SystemInfo | Action::SystemVersion => (
            "engine_daemon_host_info_functions_seconds",
            "The number of seconds it takes to call functions gathering info about the host",
            "function",
        ),
        Action::CheckStart => (
            "engine_daemon_health_check_start_duration_seconds",
            "The number of seconds it takes to prepare to run health checks",
            "",
        ),
    }
}

fn memory_bytes() -> f64 {
    let info = rustix::system::sysinfo();
    (info.totalram * u64::from(info.mem_unit.max(1))) as f64
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(name);
        for (ordinal, (label, text)) in labels.iter().enumerate() {
            let open = if ordinal == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{open}{label}=\"{}\"", escape(text));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.head(name, kind, help);
        self.line(name, &[], value);
    }

    fn timings(&mut self, name: &str, action: (&str, &str), timings: &TimingsView) {
        let bounds = BUCKETS_MS
            .iter()
            .map(|bound| (*bound as f64 / 1000.0).to_string());
        // A family of one has no label.
        let own: Vec<(&str, &str)> = (!action.0.is_empty()).then_some(action).into_iter().collect();
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(timings.cumulative) {
            let labels = [&own[..], &[("le", &bound)]].concat();
            self.line(&format!("{name}_bucket"), &labels, count as f64);
        }
        self.line(&format!("{name}_sum"), &own, timings.sum_seconds);
        let count = timings.cumulative[BUCKETS_MS.len()];
        self.line(&format!("{name}_count"), &own, count as f64);
    }

    /// Naru's own: what each running container uses.
    fn containers(&mut self, containers: &[ContainerUsage]) {
        type Value = fn(&ContainerUsage) -> Option<f64>;
        let columns: [(&str, &str, &str, Value); 9] = [
            (
                "naru_container_cpu_seconds_total",
                "counter",
                "Processor time used",
                |one| Some(one.usage.cgroup.cpu.usage_ns as f64 / 1e9),
            ),
            (
                "naru_container_cpu_throttled_seconds_total",
                "counter",
                "Time held back by a limit of processor time",
                |one| Some(one.usage.cgroup.cpu.throttled_ns as f64 / 1e9),
            ),
            (
                "naru_container_memory_usage_bytes",
                "gauge",
                "Memory used, caches included",
                |one| Some(one.usage.cgroup.memory.usage_bytes as f64),
            ),
            (
                "naru_container_memory_limit_bytes",
                "gauge",
                "The limit of memory, of those that have one",
                |one| one.usage.cgroup.memory.limit_bytes.map(|bytes| bytes as f64),
            ),
            (
                "naru_container_memory_limit_hits_total",
                "counter",
                "How often the limit of memory was reached",
                |one| Some(one.usage.cgroup.memory.limit_hits as f64),
            ),
            ("naru_container_processes", "gauge", "Processes", |one| {
                Some(one.usage.cgroup.pids.current as f64)
            }),
            (
                "naru_container_network_receive_bytes_total",
                "counter",
                "Bytes received, over all interfaces",
                |one| Some(one.usage.networks.values().map(|own| own.rx_bytes).sum::<u64>() as f64),
            ),
            (
                "naru_container_network_transmit_bytes_total",
                "counter",
                "Bytes sent, over all interfaces",
                |one| Some(one.usage.networks.values().map(|own| own.tx_bytes).sum::<u64>() as f64),
            ),
            (
                "naru_container_restarts",
                "gauge",
                "Restarts by the restart policy since the last start by a client",
                |one| Some(f64::from(one.restart_count)),
            ),
        ];
        for (name, kind, help, value) in columns {
            self.head(name, kind, help);
            for one in containers {
                let labels = [
                    ("id", one.id.as_str()),
                    ("image", one.image.as_str()),
                    ("name", one.name.as_str()),
                ];
                if let Some(value) = value(one) {
                    self.line(name, &labels, value);
                }
            }
        }
    }
}

/// As the text form wants label values.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_labels_and_values() {
        let mut page = Page::default();
        page.line("a", &[], 1.5);
        page.line("b", &[("x", "q\"\\\n"), ("y", "")], 20.0);
        let timings = TimingsView {
            action: Action::Start,
            cumulative: [3; 12],
            sum_seconds: 0.25,
        };
        let (name, _, label) = family_of(timings.action);
        page.timings(name, (label, timings.action.word()), &timings);
        let lines: Vec<&str> = page.text.lines().collect();
        assert_eq!(lines[0], "a 1.5");
        assert_eq!(lines[1], r#"b{x="q\"\\\n",y=""} 20"#);
        assert_eq!(
            lines[2],
            r#"engine_daemon_container_actions_seconds_bucket{action="start",le="0.005"} 3"#
        );
        assert_eq!(
            lines[15],
            r#"engine_daemon_container_actions_seconds_count{action="start"} 3"#
        );
    }
}
