//! Dockerd's options that Naru has no use for: each is refused with its reason, or taken where it says what is so anyway.

use serde_json::Value;
use std::ffi::OsString;

/// An option as dockerd names it on the command line.
struct Foreign {
    name: &'static str,
    /// In the configuration file, where that is another word.
    key: Option<&'static str>,
    /// Values that say what is so anyway.
    harmless: &'static [&'static str],
    reason: &'static str,
}

const SWARM: &str = "an engine here is no part of a swarm";
const CONTAINERD: &str = "Naru starts containers by itself";
const REALTIME: &str = "limits on realtime scheduling are not available";
const PER_CONTAINER: &str = "give it to the containers that need it";

const fn refused(name: &'static str, reason: &'static str) -> Foreign {
    Foreign {
        name,
        key: None,
        harmless: &[],
        reason,
    }
}

const fn only(name: &'static str, harmless: &'static [&'static str], reason: &'static str) -> Foreign {
    Foreign {
        harmless,
        ..refused(name, reason)
    }
}

/// Another word in the configuration file.
const fn keyed(key: &'static str, option: Foreign) -> Foreign {
    Foreign {
        key: Some(key),
        ..option
    }
}

const OPTIONS: &[Foreign] = &[
    keyed("runtimes", refused("add-runtime", CONTAINERD)),
    only(
        "allow-direct-routing",
        &["false"],
        "containers are reached from other hosts by published ports alone",
    ),
    refused("allow-nondistributable-artifacts", "Docker has dropped it"),
    refused("api-cors-header", "Docker has dropped it"),
    keyed(
        "authorization-plugins",
        refused(
            "authorization-plugin",
            "there are no plugins; whoever may open the socket may do everything",
        ),
    ),
    refused(
        "bridge",
        "the default bridge is Naru's own; --bip chooses its address",
    ),
    refused("cdi-spec-dir", "devices are given by --device"),
    refused("cgroup-parent", PER_CONTAINER),
    refused("containerd", CONTAINERD),
    refused("containerd-namespace", CONTAINERD),
    refused("containerd-plugins-namespace", CONTAINERD),
    refused("cpu-rt-period", REALTIME),
    refused("cpu-rt-runtime", REALTIME),
    refused("cri-containerd", CONTAINERD),
    only("default-cgroupns-mode", &["private"], PER_CONTAINER),
    refused(
        "default-gateway",
        "the default bridge's own address is its gateway; --bip chooses it",
    ),
    refused(
        "default-gateway-v6",
        "the default bridge's own address is its gateway; --bip6 chooses it",
    ),
    only("default-ipc-mode", &["private"], PER_CONTAINER),
    keyed(
        "default-network-opts",
        refused(
            "default-network-opt",
            "give options to the network that needs them",
        ),
    ),
    only("default-runtime", &["runc"], CONTAINERD),
    only("default-shm-size", &["64M", "64m", "67108864"], PER_CONTAINER),
    keyed("default-ulimits", refused("default-ulimit", PER_CONTAINER)),
    keyed(
        "exec-opts",
        only(
            "exec-opt",
            &["native.cgroupdriver=cgroupfs"],
            "cgroups are made by Naru itself",
        ),
    ),
    only("experimental", &["false"], "nothing is hidden behind it"),
    refused("features", "nothing is hidden behind it"),
    only(
        "firewall-backend",
        &["nftables"],
        "rules are written by nftables alone",
    ),
    refused(
        "group",
        "the socket belongs to root; give it another owner or group after the daemon's start",
    ),
    refused("init-path", "the init of --init is Naru's own"),
    only(
        "iptables",
        &["true"],
        "networks cannot be kept apart, nor ports published, without rules",
    ),
    keyed("labels", refused("label", "labels of an engine are for a swarm")),
    refused("network-control-plane-mtu", SWARM),
    keyed("node-generic-resources", refused("node-generic-resource", SWARM)),
    refused("oom-score-adjust", "set OOMScoreAdjust in the daemon's unit"),
    only("raw-logs", &["true"], "the daemon's log has no colours"),
    only(
        "rootless",
        &["false"],
        "the daemon runs as root; --userns-remap keeps containers from being it",
    ),
    only("selinux-enabled", &["false"], "labels are not applied"),
    only(
        "storage-driver",
        &["overlay2", "overlayfs"],
        "layers are kept for overlayfs alone",
    ),
    keyed(
        "storage-opts",
        refused(
            "storage-opt",
            "layers are kept for overlayfs, which has no options here",
        ),
    ),
    refused("swarm-default-advertise-addr", SWARM),
    only(
        "userland-proxy",
        &["false"],
        "ports are led by the kernel; no proxy is needed",
    ),
    refused(
        "userland-proxy-path",
        "ports are led by the kernel; no proxy is needed",
    ),
];

/// The short forms dockerd has for options in the table.
const SHORTS: [(&str, &str); 3] = [("-b", "bridge"), ("-G", "group"), ("-s", "storage-driver")];

/// Options that take no value of their own word: `--tls`.
const SWITCHES: [&str; 7] = [
    "allow-direct-routing",
    "cri-containerd",
    "experimental",
    "iptables",
    "raw-logs",
    "rootless",
    "selinux-enabled",
];

/// Takes harmless options out of the command line; the others are refused.
pub fn take_arguments(args: &[OsString]) -> Result<Vec<OsString>, String> {
    let mut left = Vec::with_capacity(args.len());
    let mut rest = args.iter();
    while let Some(word) = rest.next() {
        let Some((option, value)) = word.to_str().and_then(find_argument) else {
            left.push(word.clone());
            continue;
        };
        let is_switch = SWITCHES.contains(&option.name) || option.name == "userland-proxy";
        let value = match value {
            Some(value) => value.to_owned(),
            None if is_switch => "true".to_owned(),
            None => rest
                .next()
                .and_then(|next| next.to_str())
                .unwrap_or_default()
                .to_owned(),
        };
        check(option, &format!("--{}", option.name), &value)?;
    }
    Ok(left)
}

fn find_argument(word: &str) -> Option<(&'static Foreign, Option<&str>)> {
    let (flag, value) = match word.split_once('=') {
        Some((flag, value)) => (flag, Some(value)),
        None => (word, None),
    };
    let name = match flag.strip_prefix("--") {
        Some(name) => name,
        None => SHORTS.iter().find(|(short, _)| *short == flag)?.1,
    };
    let option = OPTIONS.iter().find(|option| option.name == name)?;
    Some((option, value))
}

/// The same in the configuration file.
pub fn take_keys(all: &mut serde_json::Map<String, Value>) -> Result<(), String> {
    for option in OPTIONS {
        let key = option.key.unwrap_or(option.name);
        let Some(value) = all.remove(key) else { continue };
        let texts = match &value {
            Value::Array(items) => items.iter().map(text_of).collect(),
            Value::Object(entries) if entries.is_empty() => Vec::new(),
            value => vec![text_of(value)],
        };
        for text in texts {
            check(option, &format!("{key:?}"), &text)?;
        }
    }
    Ok(())
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

fn check(option: &Foreign, shown: &str, value: &str) -> Result<(), String> {
    if option.harmless.contains(&value) {
        return Ok(());
    }
    let reason = option.reason;
    Err(match option.harmless.first() {
        Some(harmless) => format!("{shown} {value:?} is not supported, only {harmless:?}: {reason}"),
        None => format!("{shown} is not supported: {reason}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(words: &[&str]) -> Result<Vec<String>, String> {
        let words: Vec<OsString> = words.iter().map(Into::into).collect();
        let left = take_arguments(&words)?;
        Ok(left
            .iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect())
    }

    #[test]
    fn what_is_so_anyway_is_taken() {
        let words = [
            "daemon",
            "-s",
            "overlay2",
            "--userland-proxy=false",
            "--iptables",
            "--mtu",
            "9000",
        ];
        assert_eq!(take(&words).unwrap(), ["daemon", "--mtu", "9000"]);
    }

    #[test]
    fn what_is_not_is_refused_by_name_with_its_reason() {
        for option in OPTIONS {
            let message = take(&["daemon", &format!("--{}=nonsense", option.name)]).unwrap_err();
            assert!(
                message.contains(option.name) && message.contains(option.reason),
                "{message}"
            );
        }
        assert!(take(&["daemon", "--userland-proxy"]).is_err());
    }

    #[test]
    fn the_file_has_words_of_its_own() {
        let file = |text: &str| {
            let mut all = serde_json::from_str(text).unwrap();
            take_keys(&mut all).map(|()| all.len())
        };
        assert_eq!(
            file(r#"{"storage-driver":"overlay2","runtimes":{},"mtu":1400}"#),
            Ok(1)
        );
        assert!(file(r#"{"exec-opts":["native.cgroupdriver=systemd"]}"#).is_err());
    }
}
