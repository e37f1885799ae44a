//! What an answer or a request is in versions of the API other than the newest, from 1.44 on: fields that came and went.
//!
//! Everything else is the same in all versions. The list is Docker's own history of its API.

use super::network::add_names;
use crate::error::{ApiError, ApiResult};
use naru_docker_wire::ApiVersion;
use naru_docker_wire::types::{
    Commit, ContainerConfig, ContainerInspect, CreateRequest, ImageOwnConfig, NetworkCreateRequest,
    ShownImageConfig, SystemInfo,
};
use serde_json::Value;

/// The answer to `GET /info`, given as the newest version has it with everything older ones have.
pub fn shape_info(info: &mut SystemInfo, version: ApiVersion) {
    if !version.is_at_least(44) {
        info.cdi_spec_dirs = None;
    }
    if !version.is_at_least(49) {
        info.firewall_backend = None;
        for commit in [
            &mut info.containerd_commit,
            &mut info.runc_commit,
            &mut info.init_commit,
        ] {
            *commit = Commit {
                expected: Some(commit.id.clone()),
                ..commit.clone()
            };
        }
        // Whether such artifacts may be pushed is no longer asked: null in 1.48, gone in 1.49.
        let allowed = if version.is_at_least(48) {
            Value::Null
        } else {
            Value::Array(Vec::new())
        };
        info.registry_config["AllowNondistributableArtifactsCIDRs"] = allowed.clone();
        info.registry_config["AllowNondistributableArtifactsHostnames"] = allowed;
    }
    if version.is_at_least(50) {
        info.bridge_nf_iptables = None;
        info.bridge_nf_ip6tables = None;
    } else if version.is_at_least(48) {
        info.bridge_nf_iptables = Some(false);
        info.bridge_nf_ip6tables = Some(false);
    }
}

/// A container, given as the newest version has it. Before 1.45 clients looked for its id among its aliases.
pub fn shape_container(container: &mut ContainerInspect, version: ApiVersion) {
    if version.is_at_least(45) {
        return;
    }
    let id = container.id.get(..12).unwrap_or_default();
    let hostname = container.config.hostname.as_str();
    for (network, endpoint) in &mut container.network_settings.networks {
        if !["bridge", "host", "none"].contains(&network.as_str()) {
            add_names(endpoint.aliases.get_or_insert_default(), id, Some(hostname));
        }
    }
}

/// An image's configuration, given as a container's.
pub fn shape_image_config(config: ContainerConfig, version: ApiVersion) -> ShownImageConfig {
    if !version.is_at_least(50) {
        return ShownImageConfig::OfContainer(Box::new(config));
    }
    ShownImageConfig::Own(Box::new(ImageOwnConfig {
        user: config.user,
        exposed_ports: config.exposed_ports,
        env: config.env,
        cmd: config.cmd,
        healthcheck: config.healthcheck,
        args_escaped: config.args_escaped,
        volumes: config.volumes,
        working_dir: config.working_dir,
        entrypoint: config.entrypoint,
        on_build: config.on_build,
        labels: config.labels,
        stop_signal: config.stop_signal,
        shell: config.shell,
    }))
}

/// What `POST /containers/create` ignored, refused or did not say before.
pub fn shape_create(
    request: &mut CreateRequest,
    version: ApiVersion,
    warnings: &mut Vec<String>,
) -> ApiResult<()> {
    let mounts = || request.host_config.mounts.iter().flatten();
    if version.is_at_least(48) {
        let is_ignored = !request.host_config.volume_driver.is_empty()
            && mounts().any(|mount| {
                let own = mount
                    .volume_options
                    .as_ref()
                    .and_then(|options| options.driver_config.as_ref());
                mount.kind == "volume" && own.is_none_or(|driver| driver.name.is_empty())
            });
        if is_ignored {
            warnings.push(
                "the container-wide volume-driver configuration is ignored for volumes specified via \
                 'mount'. Use '--mount type=volume,volume-driver=...' instead"
                    .to_owned(),
            );
        }
        return Ok(());
    }
    if mounts().any(|mount| mount.kind == "image") {
        return Err(ApiError::invalid("Mount type \"Image\" needs API v1.48 or newer"));
    }
    let networks = request.networking_config.endpoints_config.iter_mut();
    for settings in networks.flat_map(|all| all.values_mut()).flatten() {
        settings.gw_priority = 0;
    }
    Ok(())
}

/// Before API 1.48 every network had IPv4, whatever a request said.
pub fn shape_network_create(request: &mut NetworkCreateRequest, version: ApiVersion) {
    if !version.is_at_least(48) {
        request.enable_ipv4 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(minor: u16) -> ApiVersion {
        ApiVersion { major: 1, minor }
    }

    fn info(minor: u16) -> Value {
        let mut info = SystemInfo {
            bridge_nf_iptables: Some(true),
            bridge_nf_ip6tables: Some(true),
            registry_config: json!({}),
            firewall_backend: Some(naru_docker_wire::types::FirewallBackend::default()),
            ..SystemInfo::default()
        };
        shape_info(&mut info, at(minor));
        serde_json::to_value(info).unwrap()
    }

    #[test]
    fn info_has_the_fields_of_its_version() {
        let nothing = &Value::Null;
        for (minor, bridge, expected, firewall) in [
            (47, json!(true), json!(""), false),
            (48, json!(false), json!(""), false),
            (49, json!(false), json!(null), true),
            (50, json!(null), json!(null), true),
        ] {
            let info = info(minor);
            assert_eq!(info["BridgeNfIptables"], bridge, "1.{minor}");
            assert_eq!(
                info.get("BridgeNfIp6tables").unwrap_or(nothing),
                &bridge,
                "1.{minor}"
            );
            assert_eq!(info["RuncCommit"].get("Expected").unwrap_or(nothing), &expected);
            assert_eq!(info.get("FirewallBackend").is_some(), firewall, "1.{minor}");
        }
        let allowed = |minor| {
            info(minor)["RegistryConfig"]
                .get("AllowNondistributableArtifactsCIDRs")
                .cloned()
        };
        assert_eq!(
            [47, 48, 49].map(allowed),
            [Some(json!([])), Some(Value::Null), None]
        );
    }

    #[test]
    fn an_image_has_no_hostname_from_1_50_on() {
        let config = ContainerConfig {
            user: "7".to_owned(),
            stop_timeout: Some(3),
            ..ContainerConfig::default()
        };
        let shaped = |minor| serde_json::to_value(shape_image_config(config.clone(), at(minor))).unwrap();
        assert_eq!(shaped(49), serde_json::to_value(&config).unwrap());
        let left = shaped(50);
        assert_eq!((&left["User"], &left["Env"]), (&json!("7"), &Value::Null));
        for field in ["Hostname", "Tty", "Image", "StopTimeout"] {
            assert!(left.get(field).is_none(), "{field}");
        }
    }

    #[test]
    fn creation_before_1_48_knows_neither_image_mounts_nor_priorities() {
        let read = |text: &str| CreateRequest::from_slice(text.as_bytes()).unwrap();
        let image = r#"{"HostConfig":{"Mounts":[{"Type":"image","Source":"a","Target":"/a"}]}}"#;
        let mut none = Vec::new();
        assert!(shape_create(&mut read(image), at(47), &mut none).is_err());
        assert!(shape_create(&mut read(image), at(48), &mut none).is_ok());
        let priority = |minor| {
            let mut request =
                read(r#"{"NetworkingConfig":{"EndpointsConfig":{"n":{"GwPriority":3},"m":null}}}"#);
            shape_create(&mut request, at(minor), &mut Vec::new()).unwrap();
            let endpoints = request.networking_config.endpoints_config.unwrap();
            endpoints["n"].clone().unwrap().gw_priority
        };
        assert_eq!((priority(47), priority(48)), (0, 3));
    }

    #[test]
    fn a_volume_driver_that_mounts_do_not_get_is_warned_of() {
        let warnings = |minor, driver: &str| {
            let text = format!(
                r#"{{"HostConfig":{{"VolumeDriver":"local","Mounts":[{{"Type":"volume","Source":"a","Target":"/a",
                "VolumeOptions":{{"DriverConfig":{{"Name":"{driver}"}}}}}}]}}}}"#
            );
            let mut warnings = Vec::new();
            let mut request = CreateRequest::from_slice(text.as_bytes()).unwrap();
            shape_create(&mut request, at(minor), &mut warnings).unwrap();
            warnings.len()
        };
        assert_eq!(
            (warnings(47, ""), warnings(48, ""), warnings(48, "local")),
            (0, 1, 0)
        );
    }
}
