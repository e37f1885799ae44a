//! Containers: create requests, inspect and list answers, exec.

use super::{
    EndpointSettings, HostConfig, NetworkingConfig, PortMap, PortSet, Set, StringMap, is_zero, wire,
};
use std::collections::BTreeMap;

wire! {
    /// Docker's `Config`: what of a container does not depend on its host.
    pub struct ContainerConfig {
        hostname: String,
        domainname: String,
        user: String,
        attach_stdin: bool,
        attach_stdout: bool,
        attach_stderr: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        exposed_ports: Option<PortSet>,
        tty: bool,
        open_stdin: bool,
        stdin_once: bool,
        env: Option<Vec<String>>,
        cmd: Option<StringOrList>,
        #[serde(skip_serializing_if = "Option::is_none")]
        healthcheck: Option<Healthcheck>,
        #[serde(skip_serializing_if = "is_zero")]
        args_escaped: bool,
        image: String,
        volumes: Option<Set>,
        working_dir: String,
        entrypoint: Option<StringOrList>,
        #[serde(skip_serializing_if = "is_zero")]
        network_disabled: bool,
        #[serde(skip_serializing_if = "is_zero")]
        mac_address: String,
        on_build: Option<Vec<String>>,
        labels: Option<StringMap>,
        #[serde(skip_serializing_if = "is_zero")]
        stop_signal: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        stop_timeout: Option<i64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        shell: Option<Vec<String>>,
    }

    pub struct Healthcheck {
        #[serde(skip_serializing_if = "Option::is_none")]
        test: Option<Vec<String>>,
        #[serde(skip_serializing_if = "is_zero")]
        interval: i64,
        #[serde(skip_serializing_if = "is_zero")]
        timeout: i64,
        #[serde(skip_serializing_if = "is_zero")]
        start_period: i64,
        #[serde(skip_serializing_if = "is_zero")]
        start_interval: i64,
        #[serde(skip_serializing_if = "is_zero")]
        retries: i64,
    }

    pub struct CreateResponse {
        id: String,
        warnings: Vec<String>,
    }

    pub struct WaitResponse {
        status_code: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<WaitError>,
    }

    pub struct WaitError {
        message: String,
    }

    /// Body of `GET /containers/{}/json`.
    pub struct ContainerInspect {
        id: String,
        created: String,
        path: String,
        args: Vec<String>,
        state: ContainerState,
        image: String,
        resolv_conf_path: String,
        hostname_path: String,
        hosts_path: String,
        log_path: String,
        name: String,
        restart_count: i64,
        driver: String,
        platform: String,
        mount_label: String,
        process_label: String,
        app_armor_profile: String,
        #[serde(rename = "ExecIDs")]
        exec_ids: Option<Vec<String>>,
        host_config: HostConfig,
        graph_driver: GraphDriver,
        #[serde(skip_serializing_if = "Option::is_none")]
        size_rw: Option<i64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        size_root_fs: Option<i64>,
        mounts: Vec<MountPoint>,
        config: ContainerConfig,
        network_settings: NetworkSettings,
    }

    pub struct ContainerState {
        status: String,
        running: bool,
        paused: bool,
        restarting: bool,
        #[serde(rename = "OOMKilled")]
        oom_killed: bool,
        dead: bool,
        pid: i64,
        exit_code: i64,
        error: String,
        started_at: String,
        finished_at: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        health: Option<Health>,
    }

    pub struct Health {
        status: String,
        failing_streak: u32,
        log: Vec<HealthResult>,
    }

    pub struct HealthResult {
        start: String,
        end: String,
        exit_code: i32,
        output: String,
    }

    pub struct GraphDriver {
        data: Option<StringMap>,
        name: String,
    }

    pub struct MountPoint {
        #[serde(rename = "Type")]
        kind: String,
        #[serde(skip_serializing_if = "is_zero")]
        name: String,
        source: String,
        destination: String,
        #[serde(skip_serializing_if = "is_zero")]
        driver: String,
        mode: String,
        #[serde(rename = "RW")]
        rw: bool,
        propagation: String,
    }

    pub struct NetworkSettings {
        bridge: String,
        #[serde(rename = "SandboxID")]
        sandbox_id: String,
        hairpin_mode: bool,
        #[serde(rename = "LinkLocalIPv6Address")]
        link_local_ipv6_address: String,
        #[serde(rename = "LinkLocalIPv6PrefixLen")]
        link_local_ipv6_prefix_len: i64,
        ports: PortMap,
        sandbox_key: String,
        #[serde(rename = "SecondaryIPAddresses")]
        secondary_ip_addresses: Option<Vec<serde_json::Value>>,
        #[serde(rename = "SecondaryIPv6Addresses")]
        secondary_ipv6_addresses: Option<Vec<serde_json::Value>>,
        #[serde(rename = "EndpointID")]
        endpoint_id: String,
        gateway: String,
        #[serde(rename = "GlobalIPv6Address")]
        global_ipv6_address: String,
        #[serde(rename = "GlobalIPv6PrefixLen")]
        global_ipv6_prefix_len: i64,
        #[serde(rename = "IPAddress")]
        ip_address: String,
        #[serde(rename = "IPPrefixLen")]
        ip_prefix_len: i64,
        #[serde(rename = "IPv6Gateway")]
        ipv6_gateway: String,
        mac_address: String,
        networks: BTreeMap<String, EndpointSettings>,
    }

    /// An entry of `GET /containers/json`.
    pub struct ContainerSummary {
        id: String,
        names: Vec<String>,
        image: String,
        #[serde(rename = "ImageID")]
        image_id: String,
        command: String,
        created: i64,
        ports: Vec<Port>,
        #[serde(skip_serializing_if = "Option::is_none")]
        size_rw: Option<i64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        size_root_fs: Option<i64>,
        labels: StringMap,
        state: String,
        status: String,
        host_config: SummaryHostConfig,
        network_settings: SummaryNetworkSettings,
        mounts: Vec<MountPoint>,
    }

    pub struct SummaryHostConfig {
        network_mode: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        annotations: Option<StringMap>,
    }

    pub struct SummaryNetworkSettings {
        networks: BTreeMap<String, EndpointSettings>,
    }

    pub struct Port {
        #[serde(rename = "IP", skip_serializing_if = "is_zero")]
        ip: String,
        private_port: u16,
        #[serde(skip_serializing_if = "is_zero")]
        public_port: u16,
        #[serde(rename = "Type")]
        kind: String,
    }

    pub struct TopResponse {
        titles: Vec<String>,
        processes: Vec<Vec<String>>,
    }

    pub struct PruneContainersResponse {
        containers_deleted: Option<Vec<String>>,
        space_reclaimed: u64,
    }

    pub struct ExecCreateRequest {
        user: String,
        privileged: bool,
        tty: bool,
        console_size: Option<Vec<u64>>,
        attach_stdin: bool,
        attach_stderr: bool,
        attach_stdout: bool,
        detach: bool,
        detach_keys: String,
        env: Option<Vec<String>>,
        working_dir: String,
        cmd: Option<StringOrList>,
    }

    pub struct IdResponse {
        id: String,
    }

    pub struct ExecStartRequest {
        detach: bool,
        tty: bool,
        console_size: Option<Vec<u64>>,
    }

    pub struct ExecInspect {
        #[serde(rename = "ID")]
        id: String,
        running: bool,
        exit_code: Option<i64>,
        process_config: ProcessConfig,
        open_stdin: bool,
        open_stderr: bool,
        open_stdout: bool,
        can_remove: bool,
        #[serde(rename = "ContainerID")]
        container_id: String,
        detach_keys: String,
        pid: i64,
    }

    pub struct ProcessConfig {
        #[serde(rename = "tty")]
        tty: bool,
        #[serde(rename = "entrypoint")]
        entrypoint: String,
        #[serde(rename = "arguments")]
        arguments: Vec<String>,
        #[serde(rename = "privileged")]
        privileged: bool,
        #[serde(rename = "user", skip_serializing_if = "is_zero")]
        user: String,
    }

    /// The part of a create request that lies beside the fields of `Config`.
    struct CreateExtras {
        host_config: Option<HostConfig>,
        networking_config: Option<NetworkingConfig>,
    }
}

/// Answer of `POST /containers/{}/update`.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct UpdateResponse {
    pub warnings: Vec<String>,
}

/// Body of `POST /containers/create`: the fields of `Config`, with two objects beside them.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateRequest {
    #[serde(flatten)]
    pub config: ContainerConfig,
    pub host_config: HostConfig,
    pub networking_config: NetworkingConfig,
}

impl CreateRequest {
    /// Reads the two halves one after the other: flattening would lose the position of a mistake, and takes longer.
    pub fn from_slice(bytes: &[u8]) -> serde_json::Result<Self> {
        let extras: CreateExtras = serde_json::from_slice(bytes)?;
        Ok(Self {
            config: serde_json::from_slice(bytes)?,
            host_config: extras.host_config.unwrap_or_default(),
            networking_config: extras.networking_config.unwrap_or_default(),
        })
    }
}

/// A list of arguments. A single text is taken as a list of one, as Docker does; it is always written as a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct StringOrList(pub Vec<String>);

impl<'de> serde::Deserialize<'de> for StringOrList {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = StringOrList;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E>(self, text: &str) -> Result<StringOrList, E> {
                Ok(StringOrList(vec![text.to_owned()]))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut sequence: A,
            ) -> Result<StringOrList, A::Error> {
                let mut list = Vec::with_capacity(sequence.size_hint().unwrap_or(0).min(64));
                while let Some(text) = sequence.next_element()? {
                    list.push(text);
                }
                Ok(StringOrList(list))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
