//! Device nodes and device rules.

use crate::error::{EngineError, Result};
use crate::spec::{ContainerSpec, DeviceSpec};
use crate::why::StartFault;
use oci_spec::runtime as oci;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Device nodes beyond the standard ones: the creator's, or all of the host's for a privileged container.
pub(super) fn plan_device_nodes(spec: &ContainerSpec) -> Result<Vec<oci::LinuxDevice>> {
    if spec.privileged {
        return Ok(host_devices());
    }
    let mut nodes = Vec::new();
    for device in &spec.devices {
        nodes.extend(resolve_device(device)?.into_iter().map(|(node, _)| node));
    }
    Ok(nodes)
}

/// A device of the creator's: a node, or every node below a directory; each with its number's rule.
pub fn resolve_device(device: &DeviceSpec) -> Result<Vec<(oci::LinuxDevice, oci::LinuxDeviceCgroup)>> {
    let gone = |error: std::io::Error| {
        EngineError::invalid(format!(
            "error gathering device information while adding custom device \"{}\": {}",
            device.host_path.display(),
            dockers_words(&error)
        ))
        .with_fault(StartFault::DeviceMissing)
    };
    let metadata = std::fs::metadata(&device.host_path).map_err(gone)?;
    if !metadata.is_dir() {
        let node = device_node(&device.container_path, &metadata).ok_or_else(|| {
            EngineError::invalid(format!(
                "error gathering device information while adding custom device \"{}\": not a device node",
                device.host_path.display()
            ))
        })?;
        let rule = device_rule(&node, &device.permissions);
        return Ok(vec![(node, rule)]);
    }
    let mut nodes = Vec::new();
    for entry in std::fs::read_dir(&device.host_path).map_err(gone)?.flatten() {
        let inner = DeviceSpec {
            host_path: entry.path(),
            container_path: device.container_path.join(entry.file_name()),
            permissions: device.permissions.clone(),
        };
        nodes.extend(resolve_device(&inner).unwrap_or_default());
    }
    Ok(nodes)
}

/// The error as Go words it, `no such file or directory`: clients look for that and choose their exit code by it.
fn dockers_words(error: &std::io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or_default();
    words.to_lowercase()
}

fn device_rule(node: &oci::LinuxDevice, permissions: &str) -> oci::LinuxDeviceCgroup {
    let mut rule = oci::LinuxDeviceCgroup::default();
    rule.set_allow(true);
    rule.set_typ(Some(node.typ()));
    rule.set_major(Some(node.major()));
    rule.set_minor(Some(node.minor()));
    rule.set_access(Some(if permissions.is_empty() {
        "rwm".to_owned()
    } else {
        permissions.to_owned()
    }));
    rule
}

fn device_node(path: &Path, metadata: &std::fs::Metadata) -> Option<oci::LinuxDevice> {
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => oci::LinuxDeviceType::C,
        kind if kind.is_block_device() => oci::LinuxDeviceType::B,
        _ => return None,
    };
    let mut node = oci::LinuxDevice::default();
    node.set_path(path.to_owned());
    node.set_typ(kind);
    node.set_major(i64::from(rustix::fs::major(metadata.rdev())));
    node.set_minor(i64::from(rustix::fs::minor(metadata.rdev())));
    node.set_file_mode(Some(metadata.mode() & 0o7777));
    node.set_uid(Some(metadata.uid()));
    node.set_gid(Some(metadata.gid()));
    Some(node)
}

/// Every device node below the host's /dev, but for terminals and shared memory, which are the container's own.
fn host_devices() -> Vec<oci::LinuxDevice> {
    const OWN: [&str; 8] = [
        "pts",
        "shm",
        "fd",
        "mqueue",
        "console",
        "ptmx",
        ".lxc",
        ".lxd-mounts",
    ];
    fn walk(directory: &Path, devices: &mut Vec<oci::LinuxDevice>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_own = directory == Path::new("/dev") && OWN.iter().any(|name| entry.file_name() == *name);
            let Ok(metadata) = std::fs::symlink_metadata(&path) else {
                continue;
            };
            if metadata.is_dir() && !is_own {
                walk(&path, devices);
            } else if !is_own && !metadata.is_symlink() {
                devices.extend(device_node(&path, &metadata));
            }
        }
    }
    let mut devices = Vec::new();
    walk(Path::new("/dev"), &mut devices);
    devices
}

/// The container's device rules: Docker's list with the creator's added, or everything when privileged.
pub fn plan_device_rules(spec: &ContainerSpec) -> Result<Vec<oci::LinuxDeviceCgroup>> {
    if spec.privileged {
        let mut rule = oci::LinuxDeviceCgroup::default();
        rule.set_allow(true);
        rule.set_access(Some("rwm".to_owned()));
        return Ok(vec![rule]);
    }
    let mut rules = naru_cgroup::default_device_rules();
    for device in &spec.devices {
        rules.extend(resolve_device(device)?.into_iter().map(|(_, rule)| rule));
    }
    for text in &spec.device_cgroup_rules {
        rules.push(parse_device_rule(text)?);
    }
    Ok(rules)
}

/// `c 42:* rwm`, as `--device-cgroup-rule` takes it.
pub(super) fn parse_device_rule(text: &str) -> Result<oci::LinuxDeviceCgroup> {
    let wrong = || EngineError::invalid(format!("invalid device cgroup rule format: '{text}'"));
    let mut words = text.split_whitespace();
    let (kind, numbers, access) = (
        words.next().ok_or_else(wrong)?,
        words.next().ok_or_else(wrong)?,
        words.next().ok_or_else(wrong)?,
    );
    let (major, minor) = numbers.split_once(':').ok_or_else(wrong)?;
    let number = |part: &str| {
        if part == "*" {
            Ok(None)
        } else {
            part.parse::<u32>()
                .map(|n| Some(i64::from(n)))
                .map_err(|_| wrong())
        }
    };
    let mut rule = oci::LinuxDeviceCgroup::default();
    rule.set_allow(true);
    rule.set_typ(Some(match kind {
        "a" => oci::LinuxDeviceType::A,
        "b" => oci::LinuxDeviceType::B,
        "c" => oci::LinuxDeviceType::C,
        _ => return Err(wrong()),
    }));
    rule.set_major(number(major)?);
    rule.set_minor(number(minor)?);
    if words.next().is_some() || access.is_empty() || !access.chars().all(|letter| "rwm".contains(letter)) {
        return Err(wrong());
    }
    rule.set_access(Some(access.to_owned()));
    Ok(rule)
}
