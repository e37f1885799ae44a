//! What the engine remembers of a container, and what it shows of it.

use crate::spec::{ContainerPort, ContainerSpec};
use crate::why::{RunEnd, StartFault, StartedBy};
use naru_base::{ContainerId, Digest, Timestamp};
use naru_network::Endpoint6;
use naru_runtime::plan::MappedRoot;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// A container as stored in `containers/<id>/record.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub id: ContainerId,
    /// Without a leading slash.
    pub name: String,
    pub created_at: Timestamp,
    pub spec: ContainerSpec,
    /// What the spec became when it met its image.
    pub resolved: ResolvedConfig,
    pub state: ContainerState,
    /// Starts by the restart policy since the last start by a client.
    pub restart_count: u32,
    /// A client stopped it, so `unless-stopped` and `always` leave it alone until the daemon or a client starts it.
    pub stopped_by_client: bool,
    /// Why the last start failed, when it did; cleared by the next one that succeeds.
    pub failed_start: Option<FailedStart>,
    /// Why the last run that has ended did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end: Option<RunEnd>,
    /// Who had the present or last run started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_by: Option<StartedBy>,
    /// The kernel's id of the boot in which that was.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub boot_id: String,
    /// What the present run holds; present from just before the keeper is told to start until all of it is undone.
    /// Stored beside the keeper's socket, in a file of its own: with the machine all of it goes.
    #[serde(skip)]
    pub run: Option<RunRecord>,
}

/// Image and spec merged: what will really run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResolvedConfig {
    pub image_id: Digest,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    pub env: Vec<String>,
    pub working_dir: String,
    pub user: String,
    pub labels: std::collections::BTreeMap<String, String>,
    pub exposed_ports: std::collections::BTreeSet<ContainerPort>,
    pub volumes: std::collections::BTreeSet<String>,
    pub stop_signal: String,
    /// `None`: its health is not looked after.
    #[serde(default)]
    pub healthcheck: Option<crate::spec::HealthcheckSpec>,
    pub hostname: String,
    pub mounts: Vec<ResolvedMount>,
    /// Rejected or adjusted wishes, in Docker's words; returned by create.
    pub warnings: Vec<String>,
}

/// A mount with its source decided, as `inspect` lists it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResolvedMount {
    pub kind: MountKind,
    /// The volume's name, for volumes.
    pub volume: Option<String>,
    /// Host path; empty for tmpfs.
    pub source: PathBuf,
    pub target: String,
    pub read_only: bool,
    pub propagation: String,
    pub non_recursive: bool,
    #[serde(default)]
    pub read_only_non_recursive: bool,
    /// Options of a tmpfs: `size=…`, `mode=…`, ….
    pub tmpfs_options: Vec<String>,
    /// What the volume is made of, where its driver options say.
    #[serde(default)]
    pub backing: Option<crate::volumes::driver::Backing>,
    /// A path below the volume's root, looked up anew at each start.
    #[serde(default)]
    pub subpath: Option<String>,
    /// The image that is mounted, for images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<MountedImage>,
    /// The volume was made for this container and goes with `rm -v` and `--rm`.
    pub is_anonymous: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    Bind,
    Volume,
    Tmpfs,
    Image,
}

/// An image mounted beside a container's own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MountedImage {
    /// As it was asked for.
    pub name: String,
    pub id: Digest,
    /// Chain id of the topmost layer; `None` for an image without layers.
    pub top: Option<Digest>,
    /// The directories that show it, topmost first, kept with the container's snapshot.
    pub layers: Vec<PathBuf>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum ContainerState {
    /// Never started; left by start, to `Running`.
    Created,
    /// PID 1 runs; left when it ends (`Exited`) or by pause.
    Running {
        pid: i32,
        start_time: u64,
        started_at: Timestamp,
    },
    /// Frozen; left by unpause (`Running`) or kill (`Exited`).
    Paused {
        pid: i32,
        start_time: u64,
        started_at: Timestamp,
    },
    /// Ended, waiting for its restart policy's back-off; left to `Running` or by stop.
    Restarting { exit: ExitSummary },
    /// Ended; left by start.
    Exited { exit: ExitSummary },
    /// Half removed, to be finished by recovery.
    Removing,
}

/// How the last run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitSummary {
    pub exit_code: i32,
    pub oom_killed: bool,
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
    /// Why a start failed, or an end not plain from the code; Docker's `State.Error`.
    pub error: String,
}

/// A start that did not happen, as `inspect` shows it (`State.ExitCode`, `State.Error`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FailedStart {
    #[serde(alias = "exit_code")]
    pub exit_code: i32,
    #[serde(alias = "message")]
    pub message: String,
    #[serde(default)]
    pub fault: StartFault,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_at: Option<Timestamp>,
}

impl ContainerRecord {
    /// PID 1 is alive, frozen or not.
    pub fn is_running(&self) -> bool {
        matches!(
            self.state,
            ContainerState::Running { .. } | ContainerState::Paused { .. }
        )
    }

    /// PID 1 as the host sees it; `None` when it is not alive.
    pub fn pid(&self) -> Option<i32> {
        match self.state {
            ContainerState::Running { pid, .. } | ContainerState::Paused { pid, .. } => Some(pid),
            _ => None,
        }
    }

    /// How the last run ended, while no other has begun.
    pub fn last_exit(&self) -> Option<&ExitSummary> {
        match &self.state {
            ContainerState::Exited { exit } | ContainerState::Restarting { exit } => Some(exit),
            _ => None,
        }
    }
}

/// Resources of one run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RunRecord {
    pub cgroup: String,
    pub endpoints: Vec<EndpointRecord>,
    /// Names are answered for it.
    pub has_resolver: bool,
    pub published: Vec<PublishedPort>,
    /// The host's ids of its root, where it is in a user namespace of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapped_root: Option<MappedRoot>,
}

/// The container's place on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// The network's name.
    pub network: String,
    /// Empty for the default network, whose id is the engine's to say.
    pub network_id: String,
    pub is_internal: bool,
    /// The endpoint's own id; empty for the container's.
    pub id: String,
    /// The name of the network's bridge.
    pub bridge: String,
    /// The interface's name inside: `eth0`.
    pub interface: String,
    pub address: Ipv4Addr,
    pub prefix_length: u8,
    pub gateway: Ipv4Addr,
    /// `02:42:ac:11:00:02`.
    pub mac_address: String,
    /// The interface's name on the host.
    pub host_interface: String,
    /// On a network with IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Endpoint6>,
}

impl EndpointRecord {
    /// IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let ipv6 = self.ipv6.map(|ipv6| IpAddr::V6(ipv6.address));
        [IpAddr::V4(self.address)].into_iter().chain(ipv6)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    pub container_port: ContainerPort,
    /// `0.0.0.0` or `::` for every address of that family.
    pub host_ip: IpAddr,
    pub host_port: u16,
}
