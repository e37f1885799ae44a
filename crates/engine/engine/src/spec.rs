//! What a container is wanted to be: the request after decoding, before it meets its image.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

/// A container as its creator asked for it. Stored in the container's record and never changed except by `update`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// The image as the creator wrote it: name, name:tag, name@digest or id.
    pub image: String,
    /// `None` takes the image's; an empty list clears it.
    pub entrypoint: Option<Vec<String>>,
    /// `None` takes the image's, unless `entrypoint` is given.
    pub command: Option<Vec<String>>,
    /// `KEY=value`; a bare `KEY` removes the image's. Merged over the image's.
    pub env: Vec<String>,
    pub working_dir: Option<String>,
    /// `name`, `uid`, `name:group`, `uid:gid`; `None` takes the image's.
    pub user: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// Target paths of anonymous volumes (`Volumes`), merged with the image's.
    pub anonymous_volumes: BTreeSet<String>,
    /// Merged with the image's.
    pub exposed_ports: BTreeSet<ContainerPort>,
    /// Signal name or number; `None` takes the image's, else SIGTERM.
    pub stop_signal: Option<String>,
    /// Seconds; `None` means 10; negative means wait for ever.
    pub stop_timeout_seconds: Option<i64>,

    /// `None`: the first 12 digits of the id.
    pub hostname: Option<String>,
    pub domainname: String,
    pub terminal: bool,
    pub open_stdin: bool,
    pub stdin_once: bool,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    /// Rows and columns of the terminal's first size.
    pub console_size: Option<(u16, u16)>,

    pub auto_remove: bool,
    pub restart: RestartPolicy,
    pub with_init: Option<bool>,
    pub log: LogSpec,

    pub network: NetworkMode,
    /// Its places on networks, the default one among them; changed by connecting and disconnecting.
    pub attachments: Vec<AttachmentSpec>,
    /// `container:alias` on the default network.
    pub links: Vec<String>,
    pub ports: Vec<PortBinding>,
    /// Publish every exposed port on an ephemeral host port.
    pub publish_all: bool,
    pub mac_address: Option<String>,
    pub dns: Vec<IpAddr>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    /// `host:address` as given with `--add-host`.
    pub extra_hosts: Vec<String>,

    pub mounts: Vec<MountSpec>,
    /// Containers whose mounts it gets too, but where it has one of its own.
    pub volumes_from: Vec<VolumesFromSpec>,
    pub read_only_rootfs: bool,
    /// Bytes of /dev/shm; `None` means 64 MiB.
    pub shm_bytes: Option<u64>,

    pub privileged: bool,
    pub capabilities_add: Vec<String>,
    pub capabilities_drop: Vec<String>,
    pub no_new_privileges: bool,
    pub seccomp: SeccompSpec,
    /// `None` takes the default set; an empty list masks nothing.
    pub masked_paths: Option<Vec<String>>,
    pub read_only_paths: Option<Vec<String>>,
    pub additional_groups: Vec<String>,
    pub devices: Vec<DeviceSpec>,
    pub device_cgroup_rules: Vec<String>,
    pub rlimits: Vec<RlimitSpec>,
    pub sysctls: BTreeMap<String, String>,
    pub oom_score_adj: Option<i32>,
    pub resources: ResourcesSpec,

    pub pid_mode: NamespaceMode,
    pub ipc_mode: NamespaceMode,
    pub uts_mode: NamespaceMode,
    /// `Host` leaves it in the host's user namespace where the engine remaps ids.
    pub user_mode: NamespaceMode,
    /// `private` unless `Host`; a privileged container on cgroup v1 has `Host` by default, as with Docker.
    pub cgroup_namespace: NamespaceMode,
    /// Its own cgroup is not mounted read-only (cgroup version 2).
    pub writable_cgroups: bool,
    /// Relative to every hierarchy's root; `None` for the engine's own.
    pub cgroup_parent: Option<String>,

    pub healthcheck: Option<HealthcheckSpec>,

    /// It runs one step of a build: nothing of its image's configuration counts, and it goes with the build.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_build_step: bool,

    /// The creator's request as it was decoded, for `inspect` to give back: Docker's `Config` and `HostConfig`
    /// objects. The engine itself never reads it.
    pub origin: OriginSpec,
}

/// What a container asks of its place on one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachmentSpec {
    /// The network's name, or as the creator wrote it if there was none of that name yet.
    pub network: String,
    pub ipv4_address: Option<std::net::Ipv4Addr>,
    pub ipv6_address: Option<std::net::Ipv6Addr>,
    /// Further addresses, for that link alone.
    pub link_local: Vec<std::net::Ipv4Addr>,
    pub mac_address: Option<String>,
    pub aliases: Vec<String>,
    /// `container:alias`: names that only this container knows.
    pub links: Vec<String>,
    pub driver_options: BTreeMap<String, String>,
    /// Of several networks the highest leads out.
    pub gateway_priority: i64,
}

/// See [`ContainerSpec::origin`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct OriginSpec {
    pub config: serde_json::Value,
    pub host_config: serde_json::Value,
    pub networking_config: serde_json::Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// A port inside the container, written `80/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerPort {
    pub port: u16,
    pub protocol: Protocol,
}

/// One wanted publication of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBinding {
    pub container_port: ContainerPort,
    /// `None`: every address of the host.
    pub host_ip: Option<IpAddr>,
    /// First and last host port to choose from; `None`: an ephemeral one. Equal: exactly that one.
    pub host_ports: Option<(u16, u16)>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    #[default]
    Bridge,
    Host,
    None,
    /// Share the network of this container, by name or id.
    Container(String),
    /// A network of that name.
    Named(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceMode {
    /// The engine's default for this kind: a namespace of the container's own.
    #[default]
    Private,
    Host,
    Container(String),
    /// IPC only: private and without a `/dev/shm` mount of its own.
    None,
    /// IPC only: private, and others may join it.
    Shareable,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    #[default]
    No,
    Always,
    UnlessStopped,
    OnFailure {
        retries_max: Option<u32>,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeccompSpec {
    #[default]
    Default,
    Unconfined,
    /// A profile in Docker's JSON format, verbatim.
    Custom(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    /// `json-file`, `local`, `none`, or one that sends its messages elsewhere: see `plan::ship`.
    pub driver: String,
    pub options: BTreeMap<String, String>,
}

impl Default for LogSpec {
    fn default() -> Self {
        Self {
            driver: "json-file".to_owned(),
            options: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Absolute path inside the container.
    pub target: String,
    pub read_only: bool,
    pub source: MountSource,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    Bind {
        path: PathBuf,
        /// `private`, `rprivate`, `shared`, `rshared`, `slave`, `rslave`; `None` means `rprivate`.
        propagation: Option<String>,
        /// `-v` makes a missing source directory; `--mount` refuses.
        create_missing: bool,
        /// Mount only the directory itself, not what is mounted below it.
        non_recursive: bool,
        /// Where it is read-only, what is mounted below it stays as it is.
        #[serde(default)]
        read_only_non_recursive: bool,
    },
    Volume {
        /// `None`: an anonymous volume.
        name: Option<String>,
        /// Do not copy the image's files at the target into an empty volume.
        no_copy: bool,
        /// A path below the volume's root.
        subpath: Option<String>,
        /// Labels and driver options for a volume that does not exist yet.
        labels: BTreeMap<String, String>,
        #[serde(default)]
        options: BTreeMap<String, String>,
    },
    Tmpfs {
        bytes_max: Option<u64>,
        /// Permission bits of the root; `None` means 1777.
        mode: Option<u32>,
        /// Further mount options as `--tmpfs` gives them: `noexec`, `uid=…`.
        options: Vec<String>,
    },
    /// The files of an image, to read.
    Image {
        name: String,
        /// A path in it.
        subpath: Option<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumesFromSpec {
    /// By name or id.
    pub container: String,
    /// Read-only here, whatever they are there.
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSpec {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    /// Some of `rwm`.
    pub permissions: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RlimitSpec {
    /// Without prefix, lower case: `nofile`.
    pub name: String,
    /// -1 means unlimited.
    pub soft: i64,
    pub hard: i64,
}

/// Limits, in the kernel's own units.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesSpec {
    pub memory_bytes: Option<i64>,
    /// Memory plus swap; -1 for unlimited swap.
    pub memory_swap_bytes: Option<i64>,
    pub memory_reservation_bytes: Option<i64>,
    pub memory_swappiness: Option<u64>,
    pub oom_kill_disable: bool,
    /// Billionths of a CPU (`--cpus 1.5` is 1 500 000 000); excludes quota and period.
    pub nano_cpus: Option<i64>,
    pub cpu_shares: Option<u64>,
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    /// What programs with a realtime priority may use of each period.
    pub cpu_realtime_runtime_us: Option<i64>,
    pub cpu_realtime_period_us: Option<u64>,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    /// -1 for unlimited.
    pub pids_max: Option<i64>,
    pub blkio_weight: Option<u16>,
    pub blkio_weight_devices: Vec<WeightSpec>,
    pub blkio_read_bps: Vec<ThrottleSpec>,
    pub blkio_write_bps: Vec<ThrottleSpec>,
    pub blkio_read_iops: Vec<ThrottleSpec>,
    pub blkio_write_iops: Vec<ThrottleSpec>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightSpec {
    pub device: PathBuf,
    pub weight: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThrottleSpec {
    pub device: PathBuf,
    pub rate: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthcheckSpec {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", text]`; empty takes the image's.
    pub test: Vec<String>,
    pub interval_ns: i64,
    pub timeout_ns: i64,
    pub start_period_ns: i64,
    pub start_interval_ns: i64,
    pub retries: i64,
}

impl ContainerSpec {
    /// The containers, by name or id, that must run before this one can.
    pub fn joined_containers(&self) -> impl Iterator<Item = &String> {
        let network = match &self.network {
            NetworkMode::Container(name) => Some(name),
            _ => None,
        };
        let modes = [&self.pid_mode, &self.ipc_mode, &self.uts_mode];
        let others = modes.into_iter().filter_map(|mode| match mode {
            NamespaceMode::Container(name) => Some(name),
            _ => None,
        });
        network.into_iter().chain(others)
    }
}

impl ContainerPort {
    /// `80`, `80/tcp`, `53/udp`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return None,
        };
        Some(Self {
            port: port.parse().ok()?,
            protocol,
        })
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl std::fmt::Display for ContainerPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}
