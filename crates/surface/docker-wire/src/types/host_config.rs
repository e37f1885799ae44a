//! What a container needs of its host: limits, mounts, ports, namespaces.

use super::{Empty, StringMap, StringOrList, is_zero, wire};
use serde_json::Value;
use std::collections::BTreeMap;

wire! {
    /// Docker's `HostConfig`, limits included.
    pub struct HostConfig {
        binds: Option<Vec<String>>,
        #[serde(rename = "ContainerIDFile")]
        container_id_file: String,
        log_config: LogConfig,
        network_mode: String,
        port_bindings: Option<PortMap>,
        restart_policy: RestartPolicy,
        auto_remove: bool,
        volume_driver: String,
        volumes_from: Option<Vec<String>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        mounts: Option<Vec<Mount>>,
        console_size: Option<Vec<u64>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        annotations: Option<StringMap>,
        cap_add: Option<StringOrList>,
        cap_drop: Option<StringOrList>,
        cgroupns_mode: String,
        dns: Option<Vec<String>>,
        dns_options: Option<Vec<String>>,
        dns_search: Option<Vec<String>>,
        extra_hosts: Option<Vec<String>>,
        group_add: Option<Vec<String>>,
        ipc_mode: String,
        cgroup: String,
        links: Option<Vec<String>>,
        oom_score_adj: i64,
        pid_mode: String,
        privileged: bool,
        publish_all_ports: bool,
        readonly_rootfs: bool,
        security_opt: Option<Vec<String>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        storage_opt: Option<StringMap>,
        #[serde(skip_serializing_if = "Option::is_none")]
        tmpfs: Option<StringMap>,
        #[serde(rename = "UTSMode")]
        uts_mode: String,
        userns_mode: String,
        shm_size: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        sysctls: Option<StringMap>,
        #[serde(skip_serializing_if = "is_zero")]
        runtime: String,
        isolation: String,
        cpu_shares: i64,
        memory: i64,
        nano_cpus: i64,
        cgroup_parent: String,
        blkio_weight: u64,
        blkio_weight_device: Option<Vec<WeightDevice>>,
        blkio_device_read_bps: Option<Vec<ThrottleDevice>>,
        blkio_device_write_bps: Option<Vec<ThrottleDevice>>,
        #[serde(rename = "BlkioDeviceReadIOps")]
        blkio_device_read_iops: Option<Vec<ThrottleDevice>>,
        #[serde(rename = "BlkioDeviceWriteIOps")]
        blkio_device_write_iops: Option<Vec<ThrottleDevice>>,
        cpu_period: i64,
        cpu_quota: i64,
        cpu_realtime_period: i64,
        cpu_realtime_runtime: i64,
        cpuset_cpus: String,
        cpuset_mems: String,
        devices: Option<Vec<DeviceMapping>>,
        device_cgroup_rules: Option<Vec<String>>,
        device_requests: Option<Vec<Value>>,
        #[serde(skip_serializing_if = "is_zero")]
        kernel_memory: i64,
        #[serde(rename = "KernelMemoryTCP", skip_serializing_if = "is_zero")]
        kernel_memory_tcp: i64,
        memory_reservation: i64,
        memory_swap: i64,
        memory_swappiness: Option<i64>,
        oom_kill_disable: Option<bool>,
        pids_limit: Option<i64>,
        ulimits: Option<Vec<Ulimit>>,
        cpu_count: i64,
        cpu_percent: i64,
        #[serde(rename = "IOMaximumIOps")]
        io_maximum_iops: u64,
        #[serde(rename = "IOMaximumBandwidth")]
        io_maximum_bandwidth: u64,
        masked_paths: Option<Vec<String>>,
        readonly_paths: Option<Vec<String>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        init: Option<bool>,
    }

    pub struct LogConfig {
        #[serde(rename = "Type")]
        kind: String,
        config: StringMap,
    }

    pub struct RestartPolicy {
        name: String,
        maximum_retry_count: i64,
    }

    pub struct WeightDevice {
        path: String,
        weight: u64,
    }

    pub struct ThrottleDevice {
        path: String,
        rate: u64,
    }

    pub struct DeviceMapping {
        path_on_host: String,
        path_in_container: String,
        cgroup_permissions: String,
    }

    pub struct Ulimit {
        name: String,
        hard: i64,
        soft: i64,
    }

    pub struct PortBinding {
        host_ip: String,
        host_port: String,
    }

    /// An entry of `HostConfig.Mounts` (`--mount`).
    pub struct Mount {
        #[serde(rename = "Type")]
        kind: String,
        #[serde(skip_serializing_if = "is_zero")]
        source: String,
        target: String,
        #[serde(skip_serializing_if = "is_zero")]
        read_only: bool,
        #[serde(skip_serializing_if = "is_zero")]
        consistency: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        bind_options: Option<BindOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        volume_options: Option<VolumeOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        image_options: Option<ImageOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        tmpfs_options: Option<TmpfsOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cluster_options: Option<Value>,
    }

    pub struct BindOptions {
        #[serde(skip_serializing_if = "is_zero")]
        propagation: String,
        #[serde(skip_serializing_if = "is_zero")]
        non_recursive: bool,
        #[serde(skip_serializing_if = "is_zero")]
        create_mountpoint: bool,
        #[serde(skip_serializing_if = "is_zero")]
        read_only_non_recursive: bool,
        #[serde(skip_serializing_if = "is_zero")]
        read_only_force_recursive: bool,
    }

    pub struct VolumeOptions {
        #[serde(skip_serializing_if = "is_zero")]
        no_copy: bool,
        #[serde(skip_serializing_if = "is_zero")]
        labels: StringMap,
        #[serde(skip_serializing_if = "is_zero")]
        subpath: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        driver_config: Option<VolumeDriver>,
    }

    pub struct VolumeDriver {
        #[serde(skip_serializing_if = "is_zero")]
        name: String,
        #[serde(skip_serializing_if = "is_zero")]
        options: StringMap,
    }

    pub struct ImageOptions {
        #[serde(skip_serializing_if = "is_zero")]
        subpath: String,
    }

    pub struct TmpfsOptions {
        #[serde(skip_serializing_if = "is_zero")]
        size_bytes: i64,
        #[serde(skip_serializing_if = "is_zero")]
        mode: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        options: Option<Vec<Vec<String>>>,
    }
}

/// `"80/tcp"` to its host addresses; `null` for a port exposed but not published.
pub type PortMap = BTreeMap<String, Option<Vec<PortBinding>>>;

/// `"80/tcp"` to an empty object.
pub type PortSet = BTreeMap<String, Option<Empty>>;
