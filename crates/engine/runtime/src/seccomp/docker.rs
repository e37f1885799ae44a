//! Custom profiles in Docker's JSON format: rules that apply or not by capabilities, architecture and kernel.

use oci_spec::runtime::{Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSyscall};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("decoding seccomp profile failed: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("seccomp profile: {0}")]
    Contradictory(String),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    #[serde(default)]
    arch_map: Option<Vec<ArchEntry>>,
    #[serde(default)]
    architectures: Option<Vec<Arch>>,
    default_action: LinuxSeccompAction,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    listener_path: Option<String>,
    #[serde(default)]
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Entry>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchEntry {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    includes: Option<Condition>,
    #[serde(default)]
    excludes: Option<Condition>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    arches: Option<Vec<String>>,
    caps: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Reads a profile as Docker's `--security-opt seccomp=` takes it, for a container with these capabilities.
pub fn parse_docker_seccomp(json: &str, capabilities: &[Capability]) -> Result<LinuxSeccomp, ProfileError> {
    let profile: Profile = serde_json::from_str(json)?;
    let contradictory = |text: &str| Err(ProfileError::Contradictory(text.to_owned()));
    if profile.arch_map.is_some() && profile.architectures.is_some() {
        return contradictory("both 'architectures' and 'archMap' are specified");
    }
    let architectures = match (profile.architectures, profile.arch_map) {
        (Some(list), _) => Some(list),
        (None, Some(map)) => Some(architectures_of(map)),
        (None, None) => None,
    };
    let names: Vec<String> = capabilities
        .iter()
        .map(|one| format!("CAP_{}", docker_name(*one)))
        .collect();
    let mut syscalls = Vec::new();
    for entry in profile.syscalls.unwrap_or_default() {
        if entry.name.is_some() && entry.names.is_some() {
            return contradictory("both 'name' and 'names' are specified for one rule");
        }
        if applies(&entry, &names) {
            syscalls.push(rule(entry)?);
        }
    }
    let mut value = serde_json::json!({
        "defaultAction": profile.default_action,
        "syscalls": syscalls,
    });
    value["architectures"] = serde_json::to_value(architectures)?;
    value["defaultErrnoRet"] = serde_json::to_value(profile.default_errno_ret)?;
    value["flags"] = serde_json::to_value(profile.flags)?;
    value["listenerPath"] = serde_json::to_value(profile.listener_path)?;
    value["listenerMetadata"] = serde_json::to_value(profile.listener_metadata)?;
    Ok(serde_json::from_value(value)?)
}

fn docker_name(capability: Capability) -> String {
    let text = serde_json::to_value(capability)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned));
    text.unwrap_or_default().trim_start_matches("CAP_").to_owned()
}

fn architectures_of(map: Vec<ArchEntry>) -> Vec<Arch> {
    let own = map
        .into_iter()
        .find(|entry| entry.architecture == Arch::ScmpArchX86_64);
    let own = own.map(|entry| {
        let mut all = vec![entry.architecture];
        all.extend(entry.sub_architectures.unwrap_or_default());
        all
    });
    own.unwrap_or_else(|| vec![Arch::ScmpArchX86_64])
}

/// Every named inclusion must hold (one architecture and all capabilities), and no exclusion.
fn applies(entry: &Entry, capabilities: &[String]) -> bool {
    let here = |arches: &Vec<String>| arches.iter().any(|arch| arch == "amd64");
    let held = |capability: &String| capabilities.contains(capability);
    let included = entry.includes.as_ref().is_none_or(|condition| {
        condition
            .arches
            .as_ref()
            .is_none_or(|arches| arches.is_empty() || here(arches))
            && condition.caps.iter().flatten().all(held)
            && condition.min_kernel.as_deref().is_none_or(kernel_is_at_least)
    });
    let excluded = entry.excludes.as_ref().is_some_and(|condition| {
        condition.arches.as_ref().is_some_and(here)
            || condition.caps.iter().flatten().any(held)
            || condition.min_kernel.as_deref().is_some_and(kernel_is_at_least)
    });
    included && !excluded
}

fn kernel_is_at_least(wanted: &str) -> bool {
    let uname = rustix::system::uname();
    let running = uname.release().to_string_lossy().into_owned();
    version(&running) >= version(wanted)
}

fn version(text: &str) -> (u32, u32) {
    let mut parts = text
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn rule(entry: Entry) -> Result<LinuxSyscall, ProfileError> {
    let names = entry
        .names
        .or_else(|| entry.name.map(|name| vec![name]))
        .unwrap_or_default();
    let mut value = Value::Object(entry.rest);
    value["names"] = serde_json::to_value(names)?;
    if let Some(object) = value.as_object_mut() {
        // Docker writes explicit nulls for what is absent.
        object.retain(|_, value| !value.is_null());
    }
    Ok(serde_json::from_value(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_choose_the_rules() {
        let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,
            "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],
            "syscalls":[
              {"names":["read"],"action":"SCMP_ACT_ALLOW","args":null,"comment":"","includes":{},"excludes":{}},
              {"name":"bpf","action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_BPF"]}},
              {"names":["clone3"],"action":"SCMP_ACT_ERRNO","errnoRet":38,"excludes":{"caps":["CAP_SYS_ADMIN"]}},
              {"names":["x"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["s390x"]}},
              {"names":["y"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"99.0"}}]}"#;
        let names = |capabilities: &[Capability]| -> Vec<String> {
            let profile = parse_docker_seccomp(json, capabilities).unwrap();
            profile
                .syscalls()
                .iter()
                .flatten()
                .flat_map(|one| one.names().clone())
                .collect()
        };
        assert_eq!(names(&[]), ["read", "clone3"]);
        assert_eq!(names(&[Capability::Bpf, Capability::SysAdmin]), ["read", "bpf"]);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(parse_docker_seccomp("{}", &[]).is_err());
        assert!(parse_docker_seccomp("not json", &[]).is_err());
    }
}
