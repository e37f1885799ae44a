//! The daemon and its host: ping, version, info.

use super::disk;
use crate::request::Call;
use crate::respond::{self, Answer};
use crate::translate::version;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderName, HeaderValue, PRAGMA};
use naru_base::Timestamp;
use naru_docker_wire::types::{
    Component, DiskAccount, FirewallBackend, PlatformName, PluginsInfo, SystemInfo, VersionResponse,
};
use naru_docker_wire::{API_VERSION, API_VERSION_MIN, Endpoint};
use naru_engine::EngineInfo;
use serde_json::json;
use std::collections::BTreeMap;

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub fn ping(endpoint: Endpoint) -> Answer {
    let body: &'static str = if endpoint == Endpoint::PingHead { "" } else { "OK" };
    let mut response = respond::with_body(StatusCode::OK, respond::TEXT, body);
    let headers = response.headers_mut();
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-store, must-revalidate"),
    );
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert(
        HeaderName::from_static("swarm"),
        HeaderValue::from_static("inactive"),
    );
    // Clients choose how they send a build by it: 1 is `POST /build` with the context as its body.
    headers.insert(
        HeaderName::from_static("builder-version"),
        HeaderValue::from_static("1"),
    );
    response
}

/// Go's name for this machine.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

pub fn version() -> Answer {
    let details: BTreeMap<String, String> = [
        ("ApiVersion", API_VERSION.to_string()),
        ("Arch", architecture().to_owned()),
        ("BuildTime", String::new()),
        ("Experimental", "false".to_owned()),
        ("GitCommit", String::new()),
        ("GoVersion", String::new()),
        ("KernelVersion", kernel_release()),
        ("MinAPIVersion", API_VERSION_MIN.to_string()),
        ("Os", "linux".to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    respond::ok(&VersionResponse {
        platform: PlatformName {
            name: "Naru".to_owned(),
        },
        components: vec![Component {
            name: "Engine".to_owned(),
            version: VERSION.to_owned(),
            details,
        }],
        version: VERSION.to_owned(),
        api_version: API_VERSION.to_string(),
        min_api_version: API_VERSION_MIN.to_string(),
        os: "linux".to_owned(),
        arch: architecture().to_owned(),
        kernel_version: kernel_release(),
        ..VersionResponse::default()
    })
}

pub async fn info(call: Call) -> Answer {
    let engine = call.engine.info().await;
    let account = disk::recent_account(&call.engine).await;
    let mut info = system_info(&engine, account);
    version::shape_info(&mut info, call.version);
    if call.version.is_at_least(25) {
        return respond::ok(&info);
    }
    // Until API 1.24 this said which of two drivers ran processes.
    let mut info = serde_json::to_value(info).unwrap_or_default();
    info["ExecutionDriver"] = "<not supported>".into();
    respond::ok(&info)
}

fn security_options(engine: &EngineInfo) -> Vec<String> {
    let mut options = vec!["name=seccomp,profile=default".to_owned()];
    options.extend(engine.is_remapped.then(|| "name=userns".to_owned()));
    options
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn is_one(path: &str) -> bool {
    read(path).trim() == "1"
}

fn operating_system() -> String {
    let text = read("/etc/os-release");
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

fn memory_bytes() -> i64 {
    let info = rustix::system::sysinfo();
    (info.totalram * u64::from(info.mem_unit.max(1))) as i64
}

/// What the daemon was told about registries. Loopback is always taken for insecure, as Docker has it.
fn registry_config(engine: &EngineInfo) -> serde_json::Value {
    let (mut networks, hosts): (Vec<&String>, Vec<&String>) = engine
        .insecure_registries
        .iter()
        .partition(|name| name.contains('/'));
    let loopback = "127.0.0.0/8".to_owned();
    if !networks.contains(&&loopback) {
        networks.push(&loopback);
    }
    let index = |name: &str, mirrors: &[String], is_official: bool| json!({ "Name": name, "Mirrors": mirrors, "Secure": is_official, "Official": is_official });
    let mut indexes = serde_json::Map::new();
    indexes.insert(
        "docker.io".to_owned(),
        index("docker.io", &engine.registry_mirrors, true),
    );
    for host in hosts {
        indexes.insert(host.clone(), index(host, &[], false));
    }
    json!({
        "InsecureRegistryCIDRs": networks, "IndexConfigs": indexes, "Mirrors": engine.registry_mirrors,
    })
}

fn system_info(engine: &EngineInfo, account: DiskAccount) -> SystemInfo {
    let count = |value: usize| value as i64;
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    let pair = |key: &str, value: String| [key.to_owned(), value];
    SystemInfo {
        id: engine.id.clone(),
        containers: count(engine.containers_running + engine.containers_paused + engine.containers_stopped),
        containers_running: count(engine.containers_running),
        containers_paused: count(engine.containers_paused),
        containers_stopped: count(engine.containers_stopped),
        images: count(engine.images),
        driver: "overlay2".to_owned(),
        driver_status: [
            pair("Supports d_type", "true".to_owned()),
            pair("Parked containers", engine.parked.to_string()),
        ]
        .into_iter()
        .chain(disk::status_lines(&account))
        .collect(),
        plugins: PluginsInfo {
            volume: texts(&["local"]),
            network: texts(&["bridge", "host", "null"]),
            authorization: None,
            log: crate::translate::log::driver_names(),
        },
        memory_limit: true,
        swap_limit: true,
        cpu_cfs_period: true,
        cpu_cfs_quota: true,
        cpu_shares: true,
        cpu_set: true,
        pids_limit: true,
        oom_kill_disable: engine.cgroup_version == 1,
        ipv4_forwarding: is_one("/proc/sys/net/ipv4/ip_forward"),
        bridge_nf_iptables: Some(is_one("/proc/sys/net/bridge/bridge-nf-call-iptables")),
        bridge_nf_ip6tables: Some(is_one("/proc/sys/net/bridge/bridge-nf-call-ip6tables")),
        n_fd: std::fs::read_dir("/proc/self/fd").map_or(-1, |entries| entries.count() as i64),
        n_goroutines: -1,
        system_time: Timestamp::now().to_string(),
        http_proxy: engine.proxies.http.clone(),
        https_proxy: engine.proxies.https.clone(),
        no_proxy: engine.proxies.exceptions.clone(),
        logging_driver: engine.logging_driver.clone(),
        cgroup_driver: "cgroupfs".to_owned(),
        cgroup_version: engine.cgroup_version.to_string(),
        kernel_version: kernel_release(),
        operating_system: operating_system(),
        os_type: "linux".to_owned(),
        architecture: std::env::consts::ARCH.to_owned(),
        index_server_address: "https://index.docker.io/v1/".to_owned(),
        registry_config: registry_config(engine),
        n_cpu: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as i64),
        mem_total: memory_bytes(),
        docker_root_dir: engine.data_root.to_string_lossy().into_owned(),
        name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        server_version: VERSION.to_owned(),
        runtimes: json!({ "runc": { "path": "naru" } }),
        default_runtime: "runc".to_owned(),
        swarm: json!({
            "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "",
            "RemoteManagers": null,
        }),
        live_restore_enabled: engine.live_restore,
        init_binary: "naru".to_owned(),
        security_options: security_options(engine),
        cdi_spec_dirs: Some(Vec::new()),
        firewall_backend: Some(FirewallBackend {
            driver: "nftables".to_owned(),
        }),
        warnings: Some(disk::warnings(&account)).filter(|list| !list.is_empty()),
        disk_account: Some(account),
        ..SystemInfo::default()
    }
}
