//! The daemon itself: version, info, disk usage, events, errors.

use super::{ContainerSummary, ImageSummary, StringMap, Volume, wire};
use serde::{Deserialize, Serialize};
use serde_json::Value;

wire! {
    /// Body of `GET /version`.
    pub struct VersionResponse {
        platform: PlatformName,
        components: Vec<Component>,
        version: String,
        api_version: String,
        #[serde(rename = "MinAPIVersion")]
        min_api_version: String,
        git_commit: String,
        go_version: String,
        os: String,
        arch: String,
        kernel_version: String,
        build_time: String,
    }

    pub struct PlatformName {
        name: String,
    }

    pub struct Component {
        name: String,
        version: String,
        details: StringMap,
    }

    /// Body of `GET /system/df`.
    pub struct DiskUsage {
        layers_size: i64,
        images: Vec<ImageSummary>,
        containers: Vec<ContainerSummary>,
        volumes: Vec<Volume>,
        build_cache: Vec<BuildCache>,
        /// Not one of Docker's; its clients pass over it.
        #[serde(skip_serializing_if = "Option::is_none")]
        disk_account: Option<DiskAccount>,
    }

    /// One thing that builds keep.
    pub struct BuildCache {
        #[serde(rename = "ID")]
        id: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        parent: String,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        parents: Vec<String>,
        #[serde(rename = "Type")]
        kind: String,
        description: String,
        in_use: bool,
        shared: bool,
        size: i64,
        created_at: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        last_used_at: Option<String>,
        usage_count: i64,
    }

    /// Where the data root's space goes, in bytes on disk; Naru's own, in `GET /system/df` and `GET /info`.
    pub struct DiskAccount {
        data_root: String,
        file_system_bytes: u64,
        free_bytes: u64,
        is_root_file_system: bool,
        counted_at: String,
        layers_shared: u64,
        layers_unique: u64,
        images: u64,
        writable: u64,
        logs: u64,
        volumes: u64,
        trash: u64,
        downloads: u64,
        other: u64,
        total: u64,
    }

    /// Body of `GET /info`.
    pub struct SystemInfo {
        #[serde(rename = "ID")]
        id: String,
        containers: i64,
        containers_running: i64,
        containers_paused: i64,
        containers_stopped: i64,
        images: i64,
        driver: String,
        driver_status: Vec<[String; 2]>,
        plugins: PluginsInfo,
        memory_limit: bool,
        swap_limit: bool,
        kernel_memory: bool,
        #[serde(rename = "CpuCfsPeriod")]
        cpu_cfs_period: bool,
        #[serde(rename = "CpuCfsQuota")]
        cpu_cfs_quota: bool,
        #[serde(rename = "CPUShares")]
        cpu_shares: bool,
        #[serde(rename = "CPUSet")]
        cpu_set: bool,
        pids_limit: bool,
        #[serde(rename = "IPv4Forwarding")]
        ipv4_forwarding: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        bridge_nf_iptables: Option<bool>,
        #[serde(rename = "BridgeNfIp6tables", skip_serializing_if = "Option::is_none")]
        bridge_nf_ip6tables: Option<bool>,
        debug: bool,
        #[serde(rename = "NFd")]
        n_fd: i64,
        oom_kill_disable: bool,
        n_goroutines: i64,
        system_time: String,
        logging_driver: String,
        cgroup_driver: String,
        cgroup_version: String,
        n_events_listener: i64,
        kernel_version: String,
        operating_system: String,
        #[serde(rename = "OSVersion")]
        os_version: String,
        #[serde(rename = "OSType")]
        os_type: String,
        architecture: String,
        index_server_address: String,
        registry_config: Value,
        #[serde(rename = "NCPU")]
        n_cpu: i64,
        mem_total: i64,
        generic_resources: Option<Vec<Value>>,
        docker_root_dir: String,
        http_proxy: String,
        https_proxy: String,
        no_proxy: String,
        name: String,
        labels: Vec<String>,
        experimental_build: bool,
        server_version: String,
        runtimes: Value,
        default_runtime: String,
        swarm: Value,
        live_restore_enabled: bool,
        isolation: String,
        init_binary: String,
        containerd_commit: Commit,
        runc_commit: Commit,
        init_commit: Commit,
        security_options: Vec<String>,
        #[serde(rename = "CDISpecDirs", skip_serializing_if = "Option::is_none")]
        cdi_spec_dirs: Option<Vec<String>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        firewall_backend: Option<FirewallBackend>,
        warnings: Option<Vec<String>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        disk_account: Option<DiskAccount>,
    }

    pub struct PluginsInfo {
        volume: Vec<String>,
        network: Vec<String>,
        authorization: Option<Vec<String>>,
        log: Vec<String>,
    }

    pub struct Commit {
        #[serde(rename = "ID")]
        id: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        expected: Option<String>,
    }

    /// What keeps and publishes containers' ports on the host.
    pub struct FirewallBackend {
        driver: String,
    }
}

/// A line of `GET /events`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventMessage {
    /// Docker's old names for `Action`, `Actor.ID` and the `from` image; older clients read only these.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from: String,
    #[serde(rename = "Type")]
    pub kind: String,
    #[serde(rename = "Action")]
    pub action: String,
    #[serde(rename = "Actor")]
    pub actor: EventActor,
    pub scope: String,
    pub time: i64,
    #[serde(rename = "timeNano")]
    pub time_nano: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventActor {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(rename = "Attributes")]
    pub attributes: StringMap,
}

/// Body of every error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorResponse {
    pub message: String,
}
