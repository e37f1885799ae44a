//! Networks and containers' places on them: requests become specs, records and views become answers.

use crate::error::{ApiError, ApiResult};
use naru_docker_wire::types::{
    EndpointIpamConfig, EndpointSettings, HostConfig, Ipam, IpamConfig, Network, NetworkContainer,
    NetworkCreateRequest, NetworkingConfig, StringMap,
};
use naru_engine::record::{ContainerRecord, EndpointRecord};
use naru_engine::spec::{AttachmentSpec, ContainerSpec, NetworkMode};
use naru_engine::{IpamPool, NetworkSpec, NetworkView};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

/// What the default network is called, by engine and clients.
const DEFAULT: &str = "bridge";

pub fn network_spec(wire: NetworkCreateRequest) -> ApiResult<NetworkSpec> {
    if wire.config_only || wire.config_from.is_some_and(|from| !from.network.is_empty()) {
        return Err(ApiError::not_supported(
            "a network made from another one's configuration",
            "give the options themselves",
        ));
    }
    if wire.ingress {
        return Err(ApiError::not_supported(
            "an ingress network",
            "this node is not part of a swarm",
        ));
    }
    if !matches!(wire.scope.as_str(), "" | "local") {
        return Err(ApiError::invalid(format!(
            "invalid network scope: {}",
            wire.scope
        )));
    }
    if wire.enable_ipv4 == Some(false) {
        return Err(ApiError::not_supported(
            "a network without IPv4",
            "leave IPv4 on; IPv6 is had beside it",
        ));
    }
    let ipam = wire.ipam.unwrap_or_default();
    Ok(NetworkSpec {
        name: wire.name,
        driver: wire.driver,
        is_internal: wire.internal,
        is_attachable: wire.attachable,
        enable_ipv6: wire.enable_ipv6.unwrap_or(false),
        labels: wire.labels.unwrap_or_default(),
        options: wire.options.unwrap_or_default(),
        ipam_driver: ipam.driver,
        ipam_options: ipam.options.unwrap_or_default(),
        pools: ipam.config.into_iter().flatten().map(pool).collect(),
    })
}

fn pool(wire: IpamConfig) -> IpamPool {
    IpamPool {
        subnet: wire.subnet,
        range: wire.ip_range,
        gateway: wire.gateway,
        reserved: wire.auxiliary_addresses.unwrap_or_default(),
    }
}

/// The networks of a container: those of its mode and those with settings. The network of its mode comes first.
pub fn apply_networking(
    spec: &mut ContainerSpec,
    networking: &NetworkingConfig,
    host: &HostConfig,
) -> ApiResult<()> {
    let mut attachments = Vec::new();
    for (name, settings) in networking.endpoints_config.iter().flatten() {
        let name = if name == "default" { DEFAULT } else { name };
        let settings = settings.clone().unwrap_or_default();
        match name {
            "host" | "none" => refuse_settings(name, &settings)?,
            DEFAULT => attachments.push(default_attachment(spec, &settings)?),
            name => attachments.push(attachment(name, &settings)?),
        }
    }
    let mode = match &spec.network {
        NetworkMode::Bridge => DEFAULT.to_owned(),
        NetworkMode::Named(name) => name.clone(),
        NetworkMode::Host | NetworkMode::None | NetworkMode::Container(_) => {
            if let Some(other) = attachments.iter().find(|other| other.network != DEFAULT) {
                return Err(ApiError::invalid(format!(
                    "conflicting options: cannot attach both user-defined and non-user-defined network-modes ({})",
                    other.network
                )));
            }
            return refuse_links(&spec.network, host);
        }
    };
    let position = attachments.iter().position(|other| other.network == mode);
    match (position, spec.network == NetworkMode::Bridge) {
        (Some(position), _) => attachments[..=position].rotate_right(1),
        // With settings for another network alone, that one is meant.
        (None, true) if !attachments.is_empty() => {
            spec.network = NetworkMode::Named(attachments[0].network.clone());
        }
        (None, _) => attachments.insert(
            0,
            AttachmentSpec {
                network: mode,
                ..AttachmentSpec::default()
            },
        ),
    }
    apply_links(spec, &mut attachments[0], host);
    if let (NetworkMode::Named(_), None) = (&spec.network, &attachments[0].mac_address) {
        attachments[0].mac_address.clone_from(&spec.mac_address);
    }
    spec.attachments = attachments;
    Ok(())
}

/// Links lead from a place on a network of the container's own.
fn refuse_links(mode: &NetworkMode, host: &HostConfig) -> ApiResult<()> {
    let kind = match mode {
        NetworkMode::Host => "host type networking",
        NetworkMode::Container(_) => "container type network",
        _ => return Ok(()),
    };
    if host.links.as_ref().is_none_or(Vec::is_empty) {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "conflicting options: {kind} can't be used with links. This would result in undefined behavior"
    )))
}

/// `--link` means other things on the default network and on one that a user made.
fn apply_links(spec: &mut ContainerSpec, first: &mut AttachmentSpec, host: &HostConfig) {
    let links = host.links.clone().unwrap_or_default();
    if first.network == DEFAULT {
        spec.links = links;
    } else {
        first.links.extend(links);
    }
}

fn refuse_settings(name: &str, settings: &EndpointSettings) -> ApiResult<()> {
    let has_address = settings.ipam_config.as_ref().is_some_and(has_address);
    if has_address {
        return Err(ApiError::invalid(format!(
            "invalid config for network {name}: invalid endpoint settings:\nuser specified IP address is supported on \
             user defined networks only"
        )));
    }
    Ok(())
}

fn has_address(ipam: &EndpointIpamConfig) -> bool {
    !ipam.ipv4_address.is_empty()
        || !ipam.ipv6_address.is_empty()
        || ipam.link_local_ips.as_ref().is_some_and(|list| !list.is_empty())
}

fn default_attachment(spec: &mut ContainerSpec, settings: &EndpointSettings) -> ApiResult<AttachmentSpec> {
    refuse_settings(DEFAULT, settings)?;
    if settings
        .aliases
        .as_ref()
        .is_some_and(|aliases| !aliases.is_empty())
    {
        return Err(ApiError::invalid(
            "invalid config for network bridge: invalid endpoint settings:\nnetwork-scoped aliases are only supported \
             for user-defined networks",
        ));
    }
    let attachment = attachment(DEFAULT, settings)?;
    spec.links.extend(attachment.links.iter().cloned());
    if attachment.mac_address.is_some() {
        spec.mac_address.clone_from(&attachment.mac_address);
    }
    Ok(attachment)
}

/// What a container asks of its place on a network.
pub fn attachment(network: &str, settings: &EndpointSettings) -> ApiResult<AttachmentSpec> {
    let ipam = settings.ipam_config.clone().unwrap_or_default();
    let link_local = ipam.link_local_ips.unwrap_or_default();
    Ok(AttachmentSpec {
        network: network.to_owned(),
        ipv4_address: address(&ipam.ipv4_address)?,
        ipv6_address: address6(&ipam.ipv6_address)?,
        link_local: link_local
            .iter()
            .filter_map(|text| address(text).transpose())
            .collect::<ApiResult<_>>()?,
        mac_address: match settings.mac_address.as_str() {
            "" => None,
            text => Some(super::create::check_mac_address(text)?),
        },
        aliases: settings.aliases.clone().unwrap_or_default(),
        links: settings.links.clone().unwrap_or_default(),
        driver_options: settings.driver_opts.clone().unwrap_or_default(),
        gateway_priority: settings.gw_priority,
    })
}

fn address(text: &str) -> ApiResult<Option<Ipv4Addr>> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|_| ApiError::invalid(format!("invalid IPv4 address: {text}")))
}

fn address6(text: &str) -> ApiResult<Option<Ipv6Addr>> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|_| ApiError::invalid(format!("invalid IPv6 address: {text}")))
}

/// The entries of a container's `NetworkSettings.Networks`.
pub fn endpoints(
    record: &ContainerRecord,
    network_ids: &BTreeMap<String, String>,
) -> BTreeMap<String, EndpointSettings> {
    let plain = |name: &str| {
        let settings = EndpointSettings {
            network_id: network_ids.get(name).cloned().unwrap_or_default(),
            ..EndpointSettings::default()
        };
        BTreeMap::from([(name.to_owned(), settings)])
    };
    match record.spec.network {
        NetworkMode::Host => return plain("host"),
        NetworkMode::None => return plain("none"),
        NetworkMode::Container(_) => return BTreeMap::new(),
        NetworkMode::Bridge | NetworkMode::Named(_) => {}
    }
    let running = record.run.as_ref().filter(|_| record.is_running());
    let entry = |attachment: &AttachmentSpec| {
        let mut settings = wanted_settings(record, attachment);
        settings.network_id = network_ids
            .get(attachment.network.as_str())
            .cloned()
            .unwrap_or_default();
        let endpoint = running.and_then(|run| {
            run.endpoints
                .iter()
                .find(|endpoint| endpoint.network == attachment.network)
        });
        if let Some(endpoint) = endpoint {
            fill_endpoint(record, endpoint, &mut settings);
        }
        (attachment.network.clone(), settings)
    };
    record.spec.attachments.iter().map(entry).collect()
}

fn wanted_settings(record: &ContainerRecord, attachment: &AttachmentSpec) -> EndpointSettings {
    let is_default = attachment.network == DEFAULT;
    let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let names = (!is_default).then(|| {
        let mut all = vec![record.name.clone()];
        all.extend(attachment.aliases.iter().cloned());
        add_names(&mut all, record.id.short(), record.spec.hostname.as_deref());
        all
    });
    let link_local: Vec<String> = attachment.link_local.iter().map(ToString::to_string).collect();
    let ipv4_address = attachment
        .ipv4_address
        .map(|address| address.to_string())
        .unwrap_or_default();
    let ipv6_address = attachment
        .ipv6_address
        .map(|address| address.to_string())
        .unwrap_or_default();
    let ipam = EndpointIpamConfig {
        ipv4_address,
        ipv6_address,
        link_local_ips: some(&link_local),
    };
    EndpointSettings {
        ipam_config: (!is_default).then_some(ipam),
        links: some(&attachment.links),
        aliases: some(&attachment.aliases),
        driver_opts: Some(attachment.driver_options.clone()).filter(|options| !options.is_empty()),
        gw_priority: attachment.gateway_priority,
        dns_names: names,
        ..EndpointSettings::default()
    }
}

/// Adds those by which a container is found without having asked for them: the start of its id, its host name.
pub fn add_names(names: &mut Vec<String>, id: &str, hostname: Option<&str>) {
    for name in [Some(id), hostname].into_iter().flatten() {
        if !name.is_empty() && names.iter().all(|known| known != name) {
            names.push(name.to_owned());
        }
    }
}

fn fill_endpoint(record: &ContainerRecord, endpoint: &EndpointRecord, settings: &mut EndpointSettings) {
    settings.endpoint_id = endpoint_id(record.id.as_str(), endpoint);
    if !endpoint.network_id.is_empty() {
        settings.network_id.clone_from(&endpoint.network_id);
    }
    if !endpoint.is_internal {
        settings.gateway = endpoint.gateway.to_string();
    }
    settings.ip_address = endpoint.address.to_string();
    settings.ip_prefix_len = i64::from(endpoint.prefix_length);
    settings.mac_address.clone_from(&endpoint.mac_address);
    if let Some(ipv6) = &endpoint.ipv6 {
        settings.global_ipv6_address = ipv6.address.to_string();
        settings.global_ipv6_prefix_len = i64::from(ipv6.prefix_length);
        if !endpoint.is_internal {
            settings.ipv6_gateway = ipv6.gateway.to_string();
        }
    }
}

fn endpoint_id(container: &str, endpoint: &EndpointRecord) -> String {
    if endpoint.id.is_empty() {
        container.to_owned()
    } else {
        endpoint.id.clone()
    }
}

pub fn wire_network(view: &NetworkView, with_containers: bool) -> Network {
    let containers = view
        .endpoints
        .iter()
        .filter(|_| with_containers)
        .map(|(id, name, endpoint)| {
            let container = NetworkContainer {
                name: name.clone(),
                endpoint_id: endpoint_id(id.as_str(), endpoint),
                mac_address: endpoint.mac_address.clone(),
                ipv4_address: format!("{}/{}", endpoint.address, endpoint.prefix_length),
                ipv6_address: endpoint
                    .ipv6
                    .map(|ipv6| format!("{}/{}", ipv6.address, ipv6.prefix_length))
                    .unwrap_or_default(),
            };
            (id.to_string(), container)
        });
    let spec = view
        .record
        .as_ref()
        .map(|record| record.spec.clone())
        .unwrap_or_default();
    let ipam_options = match view.record {
        Some(_) => Some(spec.ipam_options.clone()),
        None => None,
    };
    Network {
        name: view.name.clone(),
        id: view.id.clone(),
        created: view.created_at.to_string(),
        scope: "local".to_owned(),
        driver: view.driver.clone(),
        enable_ipv4: true,
        enable_ipv6: view.ipv6.is_some(),
        ipam: Ipam {
            driver: "default".to_owned(),
            options: ipam_options,
            config: Some(ipam_config(view, &spec)),
        },
        internal: spec.is_internal,
        attachable: spec.is_attachable,
        containers: containers.collect(),
        options: if view.record.is_some() {
            spec.options
        } else {
            default_options(view)
        },
        labels: spec.labels,
        ..Network::default()
    }
}

fn ipam_config(view: &NetworkView, spec: &NetworkSpec) -> Vec<IpamConfig> {
    let Some(subnet) = &view.subnet else {
        return Vec::new();
    };
    let config = |is_ipv6: bool, subnet: String, gateway: String| {
        let wanted = spec.pools.iter().find(|pool| pool.is_ipv6() == is_ipv6);
        let wanted = wanted.cloned().unwrap_or_default();
        IpamConfig {
            subnet,
            ip_range: wanted.range,
            gateway,
            auxiliary_addresses: Some(wanted.reserved).filter(|reserved| !reserved.is_empty()),
        }
    };
    let mut configs = vec![config(
        false,
        subnet.clone(),
        view.gateway.clone().unwrap_or_default(),
    )];
    if let Some(ipv6) = &view.ipv6 {
        configs.push(config(true, ipv6.subnet.to_string(), ipv6.gateway.to_string()));
    }
    configs
}

/// The options Docker's own default bridge shows; clients read the bridge's name from them.
fn default_options(view: &NetworkView) -> StringMap {
    let Some(interface) = &view.interface else {
        return StringMap::new();
    };
    [
        ("com.docker.network.bridge.default_bridge", "true"),
        ("com.docker.network.bridge.enable_icc", "true"),
        ("com.docker.network.bridge.enable_ip_masquerade", "true"),
        ("com.docker.network.bridge.host_binding_ipv4", "0.0.0.0"),
        ("com.docker.network.bridge.name", interface),
        ("com.docker.network.driver.mtu", "1500"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(mode: NetworkMode, endpoints: &str) -> ApiResult<ContainerSpec> {
        let mut spec = ContainerSpec {
            network: mode,
            ..ContainerSpec::default()
        };
        let networking = serde_json::from_str(&format!("{{\"EndpointsConfig\":{endpoints}}}")).unwrap();
        apply_networking(&mut spec, &networking, &HostConfig::default())?;
        Ok(spec)
    }

    fn names(spec: &ContainerSpec) -> Vec<&str> {
        spec.attachments
            .iter()
            .map(|attachment| attachment.network.as_str())
            .collect()
    }

    #[test]
    fn the_network_of_the_mode_comes_first() {
        let named = || NetworkMode::Named("m".to_owned());
        assert_eq!(names(&apply(NetworkMode::Bridge, "null").unwrap()), ["bridge"]);
        assert_eq!(
            names(&apply(NetworkMode::Bridge, r#"{"default":{}}"#).unwrap()),
            ["bridge"]
        );
        assert_eq!(names(&apply(named(), "{}").unwrap()), ["m"]);
        assert_eq!(
            names(&apply(named(), r#"{"a":null,"m":{},"z":{}}"#).unwrap()),
            ["m", "a", "z"]
        );
        let other = apply(NetworkMode::Bridge, r#"{"a":{}}"#).unwrap();
        assert_eq!(
            (names(&other), &other.network),
            (vec!["a"], &NetworkMode::Named("a".to_owned()))
        );
        let both = apply(NetworkMode::Bridge, r#"{"a":{},"bridge":{}}"#).unwrap();
        assert_eq!(names(&both), ["bridge", "a"]);
        assert_eq!(
            names(&apply(NetworkMode::Host, r#"{"host":{}}"#).unwrap()),
            Vec::<&str>::new()
        );
        assert!(apply(NetworkMode::None, r#"{"a":{}}"#).is_err());
    }

    #[test]
    fn settings_of_an_endpoint_are_read_and_checked() {
        let spec = apply(
            NetworkMode::Named("m".to_owned()),
            r#"{"m":{"IPAMConfig":{"IPv4Address":"10.0.0.9","LinkLocalIPs":["169.254.1.1"]},"Aliases":["a"],
                "MacAddress":"02-00-00-00-00-0A","Links":["db:x"],"GwPriority":3}}"#,
        )
        .unwrap();
        let attachment = &spec.attachments[0];
        assert_eq!(attachment.ipv4_address, Some(Ipv4Addr::new(10, 0, 0, 9)));
        assert_eq!(attachment.mac_address.as_deref(), Some("02:00:00:00:00:0a"));
        assert_eq!((attachment.links.len(), attachment.gateway_priority), (1, 3));
        for settings in [
            r#"{"IPAMConfig":{"IPv4Address":"x"}}"#,
            r#"{"IPAMConfig":{"IPv6Address":"fd00::x"}}"#,
            r#"{"IPAMConfig":{"LinkLocalIPs":["x"]}}"#,
            r#"{"MacAddress":"x"}"#,
        ] {
            assert!(
                apply(
                    NetworkMode::Named("m".to_owned()),
                    &format!("{{\"m\":{settings}}}")
                )
                .is_err()
            );
        }
        assert!(apply(NetworkMode::Bridge, r#"{"default":{"Aliases":["a"]}}"#).is_err());
    }
}
