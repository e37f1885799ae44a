//! Networks and a container's places on them; volumes.

use super::{StringMap, is_zero, wire};
use std::collections::BTreeMap;

wire! {
    pub struct NetworkingConfig {
        endpoints_config: Option<BTreeMap<String, Option<EndpointSettings>>>,
    }

    pub struct EndpointSettings {
        #[serde(rename = "IPAMConfig")]
        ipam_config: Option<EndpointIpamConfig>,
        links: Option<Vec<String>>,
        aliases: Option<Vec<String>>,
        mac_address: String,
        driver_opts: Option<StringMap>,
        #[serde(rename = "NetworkID")]
        network_id: String,
        #[serde(rename = "EndpointID")]
        endpoint_id: String,
        gateway: String,
        #[serde(rename = "IPAddress")]
        ip_address: String,
        #[serde(rename = "IPPrefixLen")]
        ip_prefix_len: i64,
        #[serde(rename = "IPv6Gateway")]
        ipv6_gateway: String,
        #[serde(rename = "GlobalIPv6Address")]
        global_ipv6_address: String,
        #[serde(rename = "GlobalIPv6PrefixLen")]
        global_ipv6_prefix_len: i64,
        #[serde(rename = "DNSNames")]
        dns_names: Option<Vec<String>>,
        gw_priority: i64,
    }

    pub struct EndpointIpamConfig {
        #[serde(rename = "IPv4Address", skip_serializing_if = "is_zero")]
        ipv4_address: String,
        #[serde(rename = "IPv6Address", skip_serializing_if = "is_zero")]
        ipv6_address: String,
        #[serde(rename = "LinkLocalIPs", skip_serializing_if = "Option::is_none")]
        link_local_ips: Option<Vec<String>>,
    }

    pub struct Network {
        name: String,
        id: String,
        created: String,
        scope: String,
        driver: String,
        #[serde(rename = "EnableIPv4")]
        enable_ipv4: bool,
        #[serde(rename = "EnableIPv6")]
        enable_ipv6: bool,
        #[serde(rename = "IPAM")]
        ipam: Ipam,
        internal: bool,
        attachable: bool,
        ingress: bool,
        config_from: ConfigReference,
        config_only: bool,
        containers: BTreeMap<String, NetworkContainer>,
        options: StringMap,
        labels: StringMap,
    }

    pub struct Ipam {
        driver: String,
        options: Option<StringMap>,
        config: Option<Vec<IpamConfig>>,
    }

    pub struct IpamConfig {
        #[serde(skip_serializing_if = "is_zero")]
        subnet: String,
        #[serde(rename = "IPRange", skip_serializing_if = "is_zero")]
        ip_range: String,
        #[serde(skip_serializing_if = "is_zero")]
        gateway: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        auxiliary_addresses: Option<StringMap>,
    }

    pub struct NetworkCreateRequest {
        name: String,
        check_duplicate: Option<bool>,
        driver: String,
        scope: String,
        #[serde(rename = "EnableIPv4")]
        enable_ipv4: Option<bool>,
        #[serde(rename = "EnableIPv6")]
        enable_ipv6: Option<bool>,
        #[serde(rename = "IPAM")]
        ipam: Option<Ipam>,
        internal: bool,
        attachable: bool,
        ingress: bool,
        config_only: bool,
        config_from: Option<ConfigReference>,
        options: Option<StringMap>,
        labels: Option<StringMap>,
    }

    pub struct NetworkCreateResponse {
        id: String,
        warning: String,
    }

    pub struct NetworkConnectRequest {
        container: String,
        endpoint_config: Option<EndpointSettings>,
    }

    pub struct NetworkDisconnectRequest {
        container: String,
        force: bool,
    }

    pub struct ConfigReference {
        network: String,
    }

    pub struct NetworkContainer {
        name: String,
        #[serde(rename = "EndpointID")]
        endpoint_id: String,
        mac_address: String,
        #[serde(rename = "IPv4Address")]
        ipv4_address: String,
        #[serde(rename = "IPv6Address")]
        ipv6_address: String,
    }

    pub struct Volume {
        created_at: String,
        driver: String,
        labels: Option<StringMap>,
        mountpoint: String,
        name: String,
        options: Option<StringMap>,
        scope: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        usage_data: Option<VolumeUsage>,
    }

    pub struct VolumeUsage {
        ref_count: i64,
        size: i64,
    }

    pub struct VolumeList {
        volumes: Vec<Volume>,
        warnings: Option<Vec<String>>,
    }

    pub struct VolumeCreateRequest {
        name: String,
        driver: String,
        driver_opts: Option<StringMap>,
        labels: Option<StringMap>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cluster_volume_spec: Option<serde_json::Value>,
    }

    pub struct PruneVolumesResponse {
        volumes_deleted: Option<Vec<String>>,
        space_reclaimed: u64,
    }

    pub struct PruneNetworksResponse {
        networks_deleted: Option<Vec<String>>,
    }
}
