//! The engine: containers, images, volumes and what happens to them.
//!
//! It is called by the surfaces and never knows which one. It prints nothing.

#![allow(unused_variables, clippy::unused_async)]

pub mod error;
pub mod record;
pub mod spec;

pub use error::{EngineError, Result};
use naru_base::{ContainerId, ExecId, Timestamp};
use record::ContainerRecord;
use serde::{Deserialize, Serialize};
use spec::ContainerSpec;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc};

/// Everything a daemon on one pair of roots can do.
pub struct Engine {}

#[derive(Debug, Clone)]
pub struct EngineOptions {
    pub data_root: PathBuf,
    pub exec_root: PathBuf,
    /// `--bip`: the bridge's own address with its prefix length; `None` chooses a free private range.
    pub bridge_address: Option<(std::net::Ipv4Addr, u8)>,
    /// Leave containers running when the daemon ends by SIGTERM.
    pub live_restore: bool,
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
    /// Where its log is; `None` for the driver `none`.
    pub log_path: Option<PathBuf>,
    pub exec_ids: Vec<ExecId>,
    /// `(read-write bytes, root filesystem bytes)` when asked for.
    pub sizes: Option<(u64, u64)>,
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
}

/// A network as listed; until user-defined networks exist these are `bridge`, `host` and `none`.
#[derive(Debug, Clone)]
pub struct NetworkView {
    pub name: String,
    pub id: String,
    pub driver: String,
    pub subnet: Option<String>,
    pub gateway: Option<String>,
    /// The bridge's name on the host.
    pub interface: Option<String>,
    /// Container id, name, endpoint.
    pub endpoints: Vec<(ContainerId, String, record::EndpointRecord)>,
    pub created_at: Timestamp,
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
}

/// A name is a container's name, full id, or an unambiguous prefix of its id.
impl Engine {
    pub async fn open(options: EngineOptions) -> Result<Arc<Self>> {
        unimplemented!()
    }
    /// Ends the spawner and parked processes, and the containers too unless `live_restore`.
    pub async fn shutdown(&self) {
        unimplemented!()
    }
    pub async fn create_container(&self, name: Option<String>, spec: ContainerSpec) -> Result<Created> {
        unimplemented!()
    }
    pub async fn start_container(&self, name: &str) -> Result<()> {
        unimplemented!()
    }
    pub async fn stop_container(&self, name: &str, timeout_seconds: Option<i64>, signal: Option<String>) -> Result<()> {
        unimplemented!()
    }
    pub async fn restart_container(&self, name: &str, timeout_seconds: Option<i64>, signal: Option<String>) -> Result<()> {
        unimplemented!()
    }
    pub async fn kill_container(&self, name: &str, signal: Option<String>) -> Result<()> {
        unimplemented!()
    }
    pub async fn pause_container(&self, name: &str) -> Result<()> {
        unimplemented!()
    }
    pub async fn unpause_container(&self, name: &str) -> Result<()> {
        unimplemented!()
    }
    pub async fn rename_container(&self, name: &str, new_name: &str) -> Result<()> {
        unimplemented!()
    }
    pub async fn remove_container(&self, name: &str, options: RemoveOptions) -> Result<()> {
        unimplemented!()
    }
    /// Registers the wait before it returns, so that an exit after this call is never missed.
    pub async fn wait_container(&self, name: &str, condition: WaitCondition) -> Result<Waiter> {
        unimplemented!()
    }
    pub async fn list_containers(&self, all: bool, with_sizes: bool) -> Result<Vec<ContainerView>> {
        unimplemented!()
    }
    pub async fn inspect_container(&self, name: &str, with_sizes: bool) -> Result<ContainerView> {
        unimplemented!()
    }
    /// Works on a container not started yet too: the stream then carries everything from its first byte.
    pub async fn attach_container(&self, name: &str, request: AttachRequest) -> Result<AttachStream> {
        unimplemented!()
    }
    pub async fn container_logs(&self, name: &str, request: LogRequest) -> Result<LogStream> {
        unimplemented!()
    }
    pub async fn top_container(&self, name: &str, ps_args: Option<String>) -> Result<Top> {
        unimplemented!()
    }
    pub async fn resize_container(&self, name: &str, rows: u16, columns: u16) -> Result<()> {
        unimplemented!()
    }
    pub async fn prune_containers(&self) -> Result<Vec<ContainerId>> {
        unimplemented!()
    }
    pub async fn create_exec(&self, name: &str, spec: ExecSpec) -> Result<ExecId> {
        unimplemented!()
    }
    /// `None` when detached.
    pub async fn start_exec(&self, exec: &str, detach: bool, console_size: Option<(u16, u16)>) -> Result<Option<AttachStream>> {
        unimplemented!()
    }
    pub async fn inspect_exec(&self, exec: &str) -> Result<ExecView> {
        unimplemented!()
    }
    pub async fn resize_exec(&self, exec: &str, rows: u16, columns: u16) -> Result<()> {
        unimplemented!()
    }
    /// Past events since the daemon started (bounded), and those to come.
    pub fn subscribe_events(&self) -> (Vec<EngineEvent>, broadcast::Receiver<EngineEvent>) {
        unimplemented!()
    }
    pub async fn list_volumes(&self) -> Result<Vec<VolumeView>> {
        unimplemented!()
    }
    pub async fn create_volume(
        &self,
        name: Option<String>,
        driver: String,
        options: BTreeMap<String, String>,
        labels: BTreeMap<String, String>,
    ) -> Result<VolumeView> {
        unimplemented!()
    }
    pub async fn inspect_volume(&self, name: &str) -> Result<VolumeView> {
        unimplemented!()
    }
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        unimplemented!()
    }
    /// Removes unused anonymous volumes, or with `all` every unused one; returns names and freed bytes.
    pub async fn prune_volumes(&self, all: bool) -> Result<(Vec<String>, u64)> {
        unimplemented!()
    }
    pub async fn list_networks(&self) -> Result<Vec<NetworkView>> {
        unimplemented!()
    }
    pub async fn info(&self) -> EngineInfo {
        unimplemented!()
    }
    /// Containers whose image this is.
    pub async fn image_users(&self, image: &naru_base::Digest) -> Vec<ContainerView> {
        unimplemented!()
    }
    /// The image store, for reading. Changes go through the engine so that they make events and respect users.
    pub fn images(&self) -> &Arc<naru_content::ContentStore> {
        unimplemented!()
    }
}
