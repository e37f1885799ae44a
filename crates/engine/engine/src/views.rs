//! What callers hand to the engine and get back from it: plain data.

use crate::error::Result;
use crate::record::{ContainerRecord, EndpointRecord};
use naru_base::{ContainerId, ExecId, Timestamp};
pub use naru_cgroup::IoEntry;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

#[derive(Debug, Clone)]
pub struct EngineOptions {
    pub data_root: PathBuf,
    pub exec_root: PathBuf,
    /// `--bip`: the bridge's own address with its prefix length; `None` chooses a free private range.
    pub bridge_address: Option<(std::net::Ipv4Addr, u8)>,
    pub network: NetworkDefaults,
    pub containers: ContainerDefaults,
    /// How long containers without a timeout of their own have to stop when the daemon ends with them; below zero for as
    /// long as they take, `None` for what a stop by hand gives them.
    pub shutdown_timeout_seconds: Option<i64>,
    /// Leave containers running when the daemon ends by SIGTERM.
    pub live_restore: bool,
    pub registry: naru_registry::RegistryOptions,
    /// `--userns-remap`: the user namespace of containers; `None` for the host's.
    pub remap: Option<crate::Remap>,
}

/// What containers get that ask for nothing else.
#[derive(Debug, Clone, Default)]
pub struct ContainerDefaults {
    /// `--init`.
    pub with_init: bool,
    /// `--no-new-privileges`.
    pub no_new_privileges: bool,
    /// `--seccomp-profile`.
    pub seccomp: crate::spec::SeccompSpec,
    /// `--log-driver`, `--log-opt`.
    pub log: crate::spec::LogSpec,
}

#[derive(Debug, Clone)]
pub struct Created {
    pub id: ContainerId,
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitCondition {
    NotRunning,
    NextExit,
    Removed,
}

#[derive(Debug, Clone)]
pub struct WaitOutcome {
    pub exit_code: i32,
    pub error: Option<String>,
}

/// Resolves when the condition is met.
pub type Waiter = std::pin::Pin<Box<dyn Future<Output = Result<WaitOutcome>> + Send>>;

#[derive(Debug, Clone, Default)]
pub struct RemoveOptions {
    pub force: bool,
    /// Also remove its anonymous volumes.
    pub volumes: bool,
}

#[derive(Debug, Clone, Default)]
pub struct AttachRequest {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Live output; without it only `logs`.
    pub stream: bool,
    /// What was logged so far, first.
    pub logs: bool,
    /// As Docker writes them: `ctrl-p,ctrl-q`; `None` for the default.
    pub detach_keys: Option<String>,
}

/// A byte stream to and from a process. Output is in Docker's frames unless `terminal`.
pub struct AttachStream {
    /// Already framed bytes to send before anything from `socket`.
    pub replay: Vec<u8>,
    /// `None` when there is nothing live to attach to.
    pub socket: Option<UnixStream>,
    pub terminal: bool,
}

#[derive(Debug, Clone, Default)]
pub struct LogRequest {
    pub stdout: bool,
    pub stderr: bool,
    pub follow: bool,
    pub timestamps: bool,
    pub details: bool,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// Last lines only; `None` for all.
    pub tail: Option<usize>,
}

/// Chunks of already framed (or, with a terminal, raw) bytes; ends when the log does.
pub struct LogStream {
    pub terminal: bool,
    pub chunks: mpsc::Receiver<std::io::Result<bytes::Bytes>>,
}

#[derive(Debug, Clone, Default)]
pub struct ExecSpec {
    pub command: Vec<String>,
    pub env: Vec<String>,
    pub working_dir: Option<String>,
    pub user: Option<String>,
    pub privileged: bool,
    pub terminal: bool,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    pub detach_keys: Option<String>,
    pub console_size: Option<(u16, u16)>,
}

#[derive(Debug, Clone)]
pub struct ExecView {
    pub id: ExecId,
    pub container: ContainerId,
    pub spec: ExecSpec,
    pub is_running: bool,
    pub exit_code: Option<i32>,
    pub pid: i32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Top {
    pub titles: Vec<String>,
    pub processes: Vec<Vec<String>>,
}

/// Something that happened. `kind` and `action` are Docker's words: `container` `start`, `image` `load`, ….
#[derive(Debug, Clone)]
pub struct EngineEvent {
    pub kind: &'static str,
    pub action: String,
    pub actor: String,
    pub attributes: BTreeMap<String, String>,
    pub time: Timestamp,
}

#[derive(Debug, Clone)]
pub struct ContainerView {
    pub record: Arc<ContainerRecord>,
    /// Holds its `hostname`, `hosts` and `resolv.conf`.
    pub run_directory: PathBuf,
    /// Where its log is; `None` for the driver `none`.
    pub log_path: Option<PathBuf>,
    pub exec_ids: Vec<ExecId>,
    /// `(read-write bytes, root filesystem bytes)` when asked for.
    pub sizes: Option<(u64, u64)>,
    /// Links on the default network, as Docker shows them: `/db:/web/alias`.
    pub links: Vec<String>,
    /// `None` where nothing is checked.
    pub health: Option<HealthView>,
}

/// A container as lists show it: thousands of these are made for one answer, so it holds no more than they need.
#[derive(Debug, Clone)]
pub struct ListedContainer {
    pub record: Arc<ContainerRecord>,
    /// `None` where nothing is checked.
    pub health: Option<HealthStatus>,
    /// What containers that link to it call it, as Docker shows them: `/web/alias`.
    pub linked_names: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// No check has succeeded yet, nor have enough failed.
    Starting,
    Healthy,
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What checks have found; the last results, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthView {
    pub status: HealthStatus,
    pub failing_streak: u32,
    pub log: Vec<ProbeView>,
}

/// One check's result. The exit code is -1 where there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeView {
    pub begun_at: Timestamp,
    pub ended_at: Timestamp,
    pub exit_code: i32,
    pub output: String,
}

/// One reading of what a container uses.
#[derive(Debug, Clone)]
pub struct ContainerStats {
    pub id: ContainerId,
    pub name: String,
    pub read_at: Timestamp,
    /// `None` when it does not run.
    pub usage: Option<Usage>,
}

#[derive(Debug, Clone)]
pub struct Usage {
    pub cgroup: naru_cgroup::Stats,
    /// By the interface's name inside; empty where the network is not the container's own.
    pub networks: BTreeMap<String, InterfaceStats>,
    /// What all CPUs of the host have spent since it started, idle or not.
    pub system_cpu_ns: u64,
    pub online_cpus: usize,
    pub host_memory_bytes: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InterfaceStats {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VolumeView {
    pub name: String,
    pub driver: String,
    pub mountpoint: PathBuf,
    pub created_at: Timestamp,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    pub is_anonymous: bool,
    /// Empty labels and options are shown, not left out.
    pub shows_empty: bool,
}

/// A network as listed.
#[derive(Debug, Clone)]
pub struct NetworkView {
    pub name: String,
    pub id: String,
    pub driver: String,
    pub subnet: Option<String>,
    pub gateway: Option<String>,
    pub ipv6: Option<naru_network::Ipv6Options>,
    /// The bridge's name on the host.
    pub interface: Option<String>,
    /// Container id, name, endpoint.
    pub endpoints: Vec<(ContainerId, String, EndpointRecord)>,
    pub created_at: Timestamp,
    /// `None` for the three that every engine has.
    pub record: Option<Arc<crate::networks::record::NetworkRecord>>,
}

/// The daemon's own network settings, for what containers and networks leave open.
#[derive(Debug, Clone)]
pub struct NetworkDefaults {
    /// `--dns`, `--dns-search`, `--dns-opt`.
    pub dns: Vec<std::net::IpAddr>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    /// `--host-gateway-ip`: what `host-gateway` means; `None` for the default bridge's own address.
    pub host_gateway: Option<std::net::Ipv4Addr>,
    /// `--ip`: where ports are published that name no address of the host; `None` for every address.
    pub publish_on: Option<std::net::IpAddr>,
    /// `--fixed-cidr`, `--mtu`, `--icc`, `--ip-masq`: of the default bridge.
    pub range: Option<naru_network::Subnet>,
    pub mtu: Option<u32>,
    pub allows_between: bool,
    pub masquerades: bool,
    /// `--ip-forward`.
    pub turns_on_forwarding: bool,
    /// `--default-address-pool`.
    pub pools: Vec<naru_network::SubnetPool>,
    /// `--ipv6`, `--bip6`, `--fixed-cidr-v6`: of the default bridge; `None` for no IPv6 there.
    pub ipv6: Option<naru_network::Ipv6Request>,
    /// `--ip6tables`.
    pub rules_ipv6: bool,
}

impl Default for NetworkDefaults {
    fn default() -> Self {
        Self {
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_options: Vec::new(),
            host_gateway: None,
            publish_on: None,
            range: None,
            mtu: None,
            allows_between: true,
            masquerades: true,
            turns_on_forwarding: true,
            pools: naru_network::SubnetPool::defaults(),
            ipv6: None,
            rules_ipv6: true,
        }
    }
}

#[derive(Debug, Clone)]
pub struct EngineInfo {
    pub id: String,
    pub data_root: PathBuf,
    pub exec_root: PathBuf,
    pub containers_running: usize,
    pub containers_paused: usize,
    pub containers_stopped: usize,
    pub images: usize,
    /// 1 or 2.
    pub cgroup_version: u8,
    pub parked: usize,
    pub spawner_pid: Option<u32>,
    pub bridge: Option<String>,
    pub live_restore: bool,
    /// Of containers that ask for none.
    pub logging_driver: String,
    /// `http`, `https` and the exceptions, without passwords.
    pub proxies: naru_registry::Proxies,
    /// Containers have a user namespace of their own.
    pub is_remapped: bool,
    /// Hosts and CIDRs that may be spoken to without a trusted certificate.
    pub insecure_registries: Vec<String>,
    pub registry_mirrors: Vec<String>,
}
