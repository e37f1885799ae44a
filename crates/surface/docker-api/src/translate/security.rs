//! Capabilities, security options, masked paths, sysctls and groups.

use crate::error::{ApiError, ApiResult};
use naru_docker_wire::types::HostConfig;
use naru_engine::spec::{ContainerSpec, NamespaceMode, NetworkMode, SeccompSpec};

/// Every capability the kernel has (`linux/capability.h`), without `CAP_`.
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

pub fn apply(spec: &mut ContainerSpec, host: &HostConfig) -> ApiResult<()> {
    spec.privileged = host.privileged;
    spec.capabilities_add = capabilities("CapAdd", host.cap_add.as_ref().map(|list| &list.0))?;
    spec.capabilities_drop = capabilities("CapDrop", host.cap_drop.as_ref().map(|list| &list.0))?;
    spec.additional_groups = host.group_add.clone().unwrap_or_default();
    spec.masked_paths.clone_from(&host.masked_paths);
    spec.read_only_paths.clone_from(&host.readonly_paths);
    for option in host.security_opt.iter().flatten() {
        apply_option(spec, option)?;
    }
    spec.sysctls = host.sysctls.clone().unwrap_or_default();
    let names: Vec<String> = spec.sysctls.keys().cloned().collect();
    names.iter().try_for_each(|name| check_sysctl(spec, name))
}

/// With the prefix, in capitals; `ALL` stays as it is.
fn capabilities(field: &str, wire: Option<&Vec<String>>) -> ApiResult<Vec<String>> {
    wire.into_iter()
        .flatten()
        .map(|text| {
            let upper = text.trim().to_ascii_uppercase();
            let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
            if bare == "ALL" {
                return Ok("ALL".to_owned());
            }
            if !CAPABILITIES.contains(&bare) {
                return Err(ApiError::invalid(format!(
                    "invalid {field}: unknown capability: \"CAP_{bare}\""
                )));
            }
            Ok(format!("CAP_{bare}"))
        })
        .collect()
}

fn apply_option(spec: &mut ContainerSpec, option: &str) -> ApiResult<()> {
    let invalid = || ApiError::invalid(format!("invalid --security-opt 2: \"{option}\""));
    let (key, value) = match option.split_once('=').or_else(|| option.split_once(':')) {
        Some(pair) => pair,
        None => (option, ""),
    };
    match (key, value) {
        ("no-new-privileges", "" | "true") => spec.no_new_privileges = true,
        ("no-new-privileges", "false") => spec.no_new_privileges = false,
        ("seccomp", "unconfined") => spec.seccomp = SeccompSpec::Unconfined,
        ("seccomp", "builtin") => spec.seccomp = SeccompSpec::Default,
        ("seccomp", profile) if profile.trim_start().starts_with('{') => {
            serde_json::from_str::<serde_json::Value>(profile)
                .map_err(|error| ApiError::invalid(format!("Decoding seccomp profile failed: {error}")))?;
            spec.seccomp = SeccompSpec::Custom(profile.to_owned());
        }
        ("seccomp", _) => {
            return Err(ApiError::invalid(
                "Decoding seccomp profile failed: it is not a JSON object",
            ));
        }
        ("writable-cgroups", "" | "true") => spec.writable_cgroups = true,
        ("writable-cgroups", "false") => spec.writable_cgroups = false,
        ("systempaths", "unconfined") => {
            spec.masked_paths = Some(Vec::new());
            spec.read_only_paths = Some(Vec::new());
        }
        // No profile is what a container has here in any case: the kernels Naru serves have no AppArmor rules of its
        // own, so asking for none is granted and asking for one is refused rather than forgotten.
        ("apparmor", "unconfined") | ("label", "disable") => {}
        ("apparmor", _) => {
            return Err(ApiError::not_supported(
                "an AppArmor profile",
                "profiles are not applied; use apparmor=unconfined",
            ));
        }
        ("label", _) => {
            return Err(ApiError::not_supported(
                "an SELinux label",
                "labels are not applied; use label=disable",
            ));
        }
        _ => return Err(invalid()),
    }
    Ok(())
}

/// Only what belongs to a namespace of the container's own may be set (CVE-2022-0811 was a sysctl that did not).
fn check_sysctl(spec: &ContainerSpec, name: &str) -> ApiResult<()> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let is_plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte))
        && !name.split(['/', '.']).any(str::is_empty);
    if is_plain && name.starts_with("net.") {
        if matches!(spec.network, NetworkMode::Host) {
            return Err(ApiError::invalid(format!(
                "sysctl '{name}' not allowed in host network namespace"
            )));
        }
        return Ok(());
    }
    if is_plain && (IPC.contains(&name) || name.starts_with("fs.mqueue.")) {
        if spec.ipc_mode == NamespaceMode::Host {
            return Err(ApiError::invalid(format!(
                "sysctl '{name}' not allowed in host IPC namespace"
            )));
        }
        return Ok(());
    }
    Err(ApiError::invalid(format!("sysctl '{name}' is not whitelisted")))
}
