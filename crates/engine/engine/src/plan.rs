//! Deciding how a container is started: pure, from its record to a plan that leaves no choices.

use crate::error::{EngineError, Result};
use crate::record::{ContainerRecord, MountKind, ResolvedMount};
use crate::spec::{
    ContainerSpec, DeviceSpec, MountSource, NamespaceMode, NetworkMode, ResourcesSpec, SeccompSpec,
    ThrottleSpec,
};
use naru_keeper::protocol::{AttachOptions, KeeperPlan, LogPlan, StdioPlan};
use naru_runtime::plan::{ContainerPlan, RootfsPlan, SeccompPlan};
use oci_spec::runtime as oci;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Docker's size of `/dev/shm` where none is asked for.
const SHM_BYTES_DEFAULT: u64 = 64 << 20;

/// Log files kept, and bytes of each, where the creator sets no bound: a log never fills the disk (100 MB in all).
const LOG_BYTES_MAX_DEFAULT: u64 = 20 << 20;
const LOG_FILES_MAX_DEFAULT: u32 = 5;

/// What a plan needs beside the record: decided by the engine just before.
pub struct StartContext<'a> {
    pub rootfs: RootfsPlan,
    /// Holds `hostname`, `hosts`, `resolv.conf`; the log and the exit record.
    pub directory: &'a Path,
    pub keeper_socket: PathBuf,
    pub cgroup: &'a str,
    /// Host paths of namespaces to join, by type; types absent from it and not host's are made new.
    pub joined: HashMap<oci::LinuxNamespaceType, PathBuf>,
    /// Host paths bound over the container's `/etc/hosts` and so on; `None` leaves the image's file.
    pub network_files: Vec<(&'static str, PathBuf)>,
    pub attached: Vec<AttachOptions>,
}

/// The plan of one start.
pub fn plan_start(record: &ContainerRecord, context: StartContext<'_>) -> Result<KeeperPlan> {
    let spec = &record.spec;
    let oci_spec = plan_oci_spec(record, &context)?;
    Ok(KeeperPlan {
        container: record.id.clone(),
        runtime: ContainerPlan {
            seccomp: plan_seccomp(spec, &capabilities(spec)?)?,
            spec: oci_spec,
            rootfs: context.rootfs,
            user: record.resolved.user.clone(),
            additional_groups: spec.additional_groups.clone(),
            with_init: spec.with_init.unwrap_or(false),
        },
        cgroup: context.cgroup.to_owned(),
        stdio: StdioPlan {
            terminal: spec.terminal,
            open_stdin: spec.open_stdin,
            stdin_once: spec.stdin_once,
        },
        log: plan_log(spec, context.directory)?,
        exit_record: context.directory.join("exit.json"),
        socket: context.keeper_socket,
        attached: context.attached,
    })
}

/// Where the container's log is; `None` for the driver `none`.
pub fn log_path(record: &ContainerRecord, directory: &Path) -> Option<PathBuf> {
    (record.spec.log.driver != "none").then(|| directory.join(format!("{}-json.log", record.id)))
}

fn plan_log(spec: &ContainerSpec, directory: &Path) -> Result<LogPlan> {
    if spec.log.driver == "none" {
        return Ok(LogPlan::None);
    }
    let id = directory.file_name().unwrap_or_default().to_string_lossy();
    let bytes_max = spec
        .log
        .options
        .get("max-size")
        .map(|text| parse_log_size(text))
        .transpose()?;
    let files_max = match spec.log.options.get("max-file") {
        Some(text) => text
            .parse()
            .map_err(|_| EngineError::invalid(format!("log option max-file: {text:?} is not a number")))?,
        None if bytes_max.is_some() => 1,
        None => LOG_FILES_MAX_DEFAULT,
    };
    Ok(LogPlan::JsonFile {
        path: directory.join(format!("{id}-json.log")),
        bytes_max: Some(bytes_max.unwrap_or(LOG_BYTES_MAX_DEFAULT)),
        files_max: u32::max(files_max, 1),
    })
}

/// Docker's log sizes: a number with an optional unit `k`, `m` or `g`, in powers of 1024.
fn parse_log_size(text: &str) -> Result<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches('b').trim_end_matches(['k', 'm', 'g']);
    let shift = match lower.trim_end_matches('b').chars().last() {
        Some('k') => 10,
        Some('m') => 20,
        Some('g') => 30,
        _ => 0,
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| EngineError::invalid(format!("log option max-size: {text:?} is not a size")))?;
    number
        .checked_shl(shift)
        .filter(|bytes| bytes >> shift == number && *bytes > 0)
        .ok_or_else(|| EngineError::invalid(format!("log option max-size: {text:?} is out of range")))
}

/// The profile for a container or exec of this spec.
pub fn plan_seccomp(spec: &ContainerSpec, capabilities: &HashSet<oci::Capability>) -> Result<SeccompPlan> {
    match &spec.seccomp {
        _ if spec.privileged => Ok(SeccompPlan::Unconfined),
        SeccompSpec::Default => Ok(SeccompPlan::Default),
        SeccompSpec::Unconfined => Ok(SeccompPlan::Unconfined),
        SeccompSpec::Custom(json) => naru_runtime::parse_docker_seccomp(json, capabilities)
            .map(|profile| SeccompPlan::Profile(Box::new(profile)))
            .map_err(|error| EngineError::invalid(format!("invalid seccomp profile: {error}"))),
    }
}

/// The bounding set: Docker's default, less `--cap-drop`, with `--cap-add`; everything for a privileged container.
pub fn capabilities(spec: &ContainerSpec) -> Result<HashSet<oci::Capability>> {
    let all = naru_runtime::supported_capabilities();
    if spec.privileged {
        return Ok(all);
    }
    let parse = |name: &String| -> Result<Option<oci::Capability>> {
        let upper = name.to_ascii_uppercase();
        if upper == "ALL" {
            return Ok(None);
        }
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        match oci::Capability::from_str(bare) {
            Ok(capability) if all.contains(&capability) => Ok(Some(capability)),
            _ => Err(EngineError::invalid(format!(
                "invalid CapAdd/CapDrop: unknown capability: \"CAP_{bare}\""
            ))),
        }
    };
    let added = spec
        .capabilities_add
        .iter()
        .map(parse)
        .collect::<Result<Vec<_>>>()?;
    let dropped = spec
        .capabilities_drop
        .iter()
        .map(parse)
        .collect::<Result<Vec<_>>>()?;
    let mut set = match (added.contains(&None), dropped.contains(&None)) {
        (true, _) => all,
        (false, true) => HashSet::new(),
        (false, false) => naru_runtime::default_capabilities(),
    };
    for capability in dropped.iter().flatten() {
        set.remove(capability);
    }
    // Docker lets an explicit add win over `--cap-drop ALL` only; over a drop of the same name the drop wins.
    set.extend(
        added
            .iter()
            .flatten()
            .filter(|capability| !dropped.contains(&Some(**capability))),
    );
    Ok(set)
}

/// The capability sets of a process: bounding, effective and permitted equal; inheritable and ambient empty
/// (CVE-2022-29162).
pub fn capability_sets(set: &HashSet<oci::Capability>) -> oci::LinuxCapabilities {
    let mut sets = oci::LinuxCapabilities::default();
    sets.set_bounding(Some(set.clone()));
    sets.set_effective(Some(set.clone()));
    sets.set_permitted(Some(set.clone()));
    sets.set_inheritable(Some(HashSet::new()));
    sets.set_ambient(Some(HashSet::new()));
    sets
}

fn plan_oci_spec(record: &ContainerRecord, context: &StartContext<'_>) -> Result<oci::Spec> {
    let mut spec = oci::Spec::default();
    spec.set_process(Some(plan_process(record)?));
    spec.set_hostname(has_own_uts(&record.spec).then(|| record.resolved.hostname.clone()));
    spec.set_domainname(
        (has_own_uts(&record.spec) && !record.spec.domainname.is_empty())
            .then(|| record.spec.domainname.clone()),
    );
    let mut root = oci::Root::default();
    root.set_readonly(Some(record.spec.read_only_rootfs));
    spec.set_root(Some(root));
    spec.set_mounts(Some(plan_mounts(record, context)));
    spec.set_linux(Some(plan_linux(record, context)?));
    spec.set_hooks(None);
    spec.set_annotations(None);
    Ok(spec)
}

/// With the host's UTS namespace the host's name is shown and must not be changed.
fn has_own_uts(spec: &ContainerSpec) -> bool {
    spec.uts_mode != NamespaceMode::Host && !matches!(spec.network, NetworkMode::Container(_))
}

fn plan_process(record: &ContainerRecord) -> Result<oci::Process> {
    let (spec, resolved) = (&record.spec, &record.resolved);
    let mut process = oci::Process::default();
    process.set_terminal(Some(spec.terminal));
    process.set_console_size(spec.console_size.map(console_size));
    process.set_args(Some(
        resolved
            .entrypoint
            .iter()
            .chain(&resolved.command)
            .cloned()
            .collect(),
    ));
    process.set_env(Some(plan_environment(
        &resolved.env,
        &resolved.hostname,
        spec.terminal,
    )));
    process.set_cwd(PathBuf::from(if resolved.working_dir.is_empty() {
        "/"
    } else {
        &resolved.working_dir
    }));
    process.set_capabilities(Some(capability_sets(&capabilities(spec)?)));
    process.set_rlimits(Some(plan_rlimits(spec)?));
    process.set_no_new_privileges(Some(spec.no_new_privileges));
    process.set_oom_score_adj(spec.oom_score_adj);
    Ok(process)
}

/// Rows and columns in the specification's words.
pub fn console_size((rows, columns): (u16, u16)) -> oci::Box {
    let size = oci::BoxBuilder::default()
        .height(u64::from(rows))
        .width(u64::from(columns))
        .build();
    size.unwrap_or_default()
}

/// Docker's environment: PATH and HOSTNAME where the image and the creator leave them out, TERM for terminals. HOME
/// is added by the runtime, which knows the user.
pub fn plan_environment(env: &[String], hostname: &str, terminal: bool) -> Vec<String> {
    let has = |key: &str| {
        env.iter()
            .any(|entry| entry.split_once('=').is_some_and(|(name, _)| name == key))
    };
    let mut result = Vec::with_capacity(env.len() + 3);
    if !has("PATH") {
        result.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    }
    if !has("HOSTNAME") && !hostname.is_empty() {
        result.push(format!("HOSTNAME={hostname}"));
    }
    if terminal && !has("TERM") {
        result.push("TERM=xterm".to_owned());
    }
    result.extend(env.iter().cloned());
    result
}

fn plan_rlimits(spec: &ContainerSpec) -> Result<Vec<oci::PosixRlimit>> {
    spec.rlimits
        .iter()
        .map(|limit| {
            let name = format!("\"RLIMIT_{}\"", limit.name.to_ascii_uppercase());
            let kind: oci::PosixRlimitType = serde_json::from_str(&name)
                .map_err(|_| EngineError::invalid(format!("invalid ulimit type: {}", limit.name)))?;
            oci::PosixRlimitBuilder::default()
                .typ(kind)
                .soft(u64::try_from(limit.soft).unwrap_or(u64::MAX))
                .hard(u64::try_from(limit.hard).unwrap_or(u64::MAX))
                .build()
                .map_err(|error| EngineError::invalid(error.to_string()))
        })
        .collect()
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> oci::Mount {
    let mut mount = oci::Mount::default();
    mount.set_destination(PathBuf::from(destination));
    mount.set_typ(Some(kind.to_owned()));
    mount.set_source(Some(PathBuf::from(source)));
    mount.set_options(Some(options.iter().map(|&option| option.to_owned()).collect()));
    mount
}

/// Docker's mounts in their order, then the network files, then the creator's, parents before children.
fn plan_mounts(record: &ContainerRecord, context: &StartContext<'_>) -> Vec<oci::Mount> {
    let spec = &record.spec;
    let system_access = if spec.privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", system_access],
        ),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &[system_access, "nosuid", "noexec", "nodev"],
        ),
    ];
    let wanted: BTreeSet<&str> = record
        .resolved
        .mounts
        .iter()
        .map(|mount| mount.target.as_str())
        .collect();
    match &spec.ipc_mode {
        NamespaceMode::Host => {
            mounts.push(mount(
                "/dev/mqueue",
                "bind",
                "/dev/mqueue",
                &["rbind", "optional"],
            ));
            mounts.push(mount("/dev/shm", "bind", "/dev/shm", &["rbind"]));
        }
        NamespaceMode::Container(_) => {
            mounts.push(mount(
                "/dev/mqueue",
                "mqueue",
                "mqueue",
                &["nosuid", "noexec", "nodev"],
            ));
            if let Some(other) = context.joined.get(&oci::LinuxNamespaceType::Ipc) {
                // The other container's /dev/shm is found through its own root.
                let shm = other
                    .parent()
                    .and_then(Path::parent)
                    .map(|process| process.join("root/dev/shm"));
                mounts.extend(shm.map(|path| mount("/dev/shm", "bind", &path.to_string_lossy(), &["rbind"])));
            }
        }
        mode => {
            mounts.push(mount(
                "/dev/mqueue",
                "mqueue",
                "mqueue",
                &["nosuid", "noexec", "nodev"],
            ));
            if *mode != NamespaceMode::None && !wanted.contains("/dev/shm") {
                let size = format!("size={}", spec.shm_bytes.unwrap_or(SHM_BYTES_DEFAULT));
                mounts.push(mount(
                    "/dev/shm",
                    "tmpfs",
                    "shm",
                    &["nosuid", "noexec", "nodev", "mode=1777", &size],
                ));
            }
        }
    }
    for (target, source) in &context.network_files {
        if !wanted.contains(target) {
            mounts.push(mount(
                target,
                "bind",
                &source.to_string_lossy(),
                &["rbind", "rprivate"],
            ));
        }
    }
    let mut own: Vec<&ResolvedMount> = record.resolved.mounts.iter().collect();
    own.sort_by_key(|mount| mount.target.split('/').filter(|part| !part.is_empty()).count());
    mounts.extend(own.into_iter().map(plan_own_mount));
    mounts
}

fn plan_own_mount(own: &ResolvedMount) -> oci::Mount {
    if own.kind == MountKind::Tmpfs {
        let mut options = vec!["noexec", "nosuid", "nodev"];
        // An option of the creator's takes back the default it contradicts.
        options.retain(|default| {
            !own.tmpfs_options
                .iter()
                .any(|given| default.strip_prefix("no") == Some(given))
        });
        options.extend(own.tmpfs_options.iter().map(String::as_str));
        if own.read_only {
            options.push("ro");
        }
        return mount(&own.target, "tmpfs", "tmpfs", &options);
    }
    let bind = if own.non_recursive { "bind" } else { "rbind" };
    let propagation = if own.propagation.is_empty() {
        "rprivate"
    } else {
        &own.propagation
    };
    let mut options = vec![bind, propagation];
    if own.read_only {
        options.push(if own.non_recursive { "ro" } else { "rro" });
    }
    mount(&own.target, "bind", &own.source.to_string_lossy(), &options)
}

fn plan_linux(record: &ContainerRecord, context: &StartContext<'_>) -> Result<oci::Linux> {
    let spec = &record.spec;
    let mut linux = oci::Linux::default();
    linux.set_namespaces(Some(plan_namespaces(spec, &context.joined)));
    linux.set_sysctl(Some(
        spec.sysctls
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
    ));
    linux.set_devices(Some(plan_device_nodes(spec)?));
    linux.set_seccomp(None);
    linux.set_resources(None);
    linux.set_rootfs_propagation(plan_rootfs_propagation(record));
    let hide = |own: &Option<Vec<String>>, default: fn() -> Vec<String>| match own {
        Some(paths) => paths.clone(),
        None if spec.privileged => Vec::new(),
        None => default(),
    };
    linux.set_masked_paths(Some(hide(&spec.masked_paths, naru_runtime::default_masked_paths)));
    linux.set_readonly_paths(Some(hide(
        &spec.read_only_paths,
        naru_runtime::default_readonly_paths,
    )));
    Ok(linux)
}

/// A shared or slave bind needs the root to propagate likewise.
fn plan_rootfs_propagation(record: &ContainerRecord) -> Option<String> {
    let has = |kind: &str| {
        record
            .resolved
            .mounts
            .iter()
            .any(|mount| mount.propagation.trim_start_matches('r') == kind)
    };
    if has("shared") {
        Some("shared".to_owned())
    } else if has("slave") {
        Some("slave".to_owned())
    } else {
        None
    }
}

fn plan_namespaces(
    spec: &ContainerSpec,
    joined: &HashMap<oci::LinuxNamespaceType, PathBuf>,
) -> Vec<oci::LinuxNamespace> {
    use oci::LinuxNamespaceType as Type;
    let shares_host = |kind: Type| match kind {
        Type::Network => spec.network == NetworkMode::Host,
        Type::Pid => spec.pid_mode == NamespaceMode::Host,
        Type::Ipc => spec.ipc_mode == NamespaceMode::Host,
        Type::Uts => spec.uts_mode == NamespaceMode::Host,
        Type::Cgroup => spec.cgroup_namespace == NamespaceMode::Host,
        _ => false,
    };
    [
        Type::Mount,
        Type::Network,
        Type::Pid,
        Type::Ipc,
        Type::Uts,
        Type::Cgroup,
    ]
    .into_iter()
    .filter(|kind| !shares_host(*kind))
    .map(|kind| {
        let mut namespace = oci::LinuxNamespace::default();
        namespace.set_typ(kind);
        namespace.set_path(joined.get(&kind).cloned());
        namespace
    })
    .collect()
}

/// Device nodes beyond the standard ones: the creator's, or all of the host's for a privileged container.
fn plan_device_nodes(spec: &ContainerSpec) -> Result<Vec<oci::LinuxDevice>> {
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
            "error gathering device information while adding custom device \"{}\": {error}",
            device.host_path.display()
        ))
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
fn parse_device_rule(text: &str) -> Result<oci::LinuxDeviceCgroup> {
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

/// The limits in OCI's words; `None` when nothing is limited, so that nothing need be written.
pub fn plan_resources(wanted: &ResourcesSpec) -> Result<Option<oci::LinuxResources>> {
    if *wanted == ResourcesSpec::default() {
        return Ok(None);
    }
    let mut resources = oci::LinuxResources::default();
    resources.set_devices(None);
    resources.set_memory(plan_memory(wanted));
    resources.set_cpu(plan_cpu(wanted));
    resources.set_pids(wanted.pids_max.filter(|max| *max != 0).map(|max| {
        let mut pids = oci::LinuxPids::default();
        pids.set_limit(max);
        pids
    }));
    resources.set_block_io(plan_block_io(wanted)?);
    Ok(Some(resources))
}

fn plan_memory(wanted: &ResourcesSpec) -> Option<oci::LinuxMemory> {
    let limit = wanted.memory_bytes.filter(|bytes| *bytes != 0);
    // Docker's rule: without a swap limit a container may swap as much as it may use memory.
    let swap = wanted.memory_swap_bytes.filter(|bytes| *bytes != 0).or(limit
        .filter(|bytes| *bytes > 0)
        .map(|bytes| bytes.saturating_mul(2)));
    let is_set = limit.is_some()
        || swap.is_some()
        || wanted.memory_reservation_bytes.is_some()
        || wanted.memory_swappiness.is_some()
        || wanted.oom_kill_disable;
    is_set.then(|| {
        let mut memory = oci::LinuxMemory::default();
        memory.set_limit(limit);
        memory.set_swap(swap);
        memory.set_reservation(wanted.memory_reservation_bytes.filter(|bytes| *bytes != 0));
        memory.set_swappiness(wanted.memory_swappiness);
        memory.set_disable_oom_killer(wanted.oom_kill_disable.then_some(true));
        memory
    })
}

/// The period Docker uses for `--cpus`, in microseconds.
const CPU_PERIOD_US: u64 = 100_000;

fn plan_cpu(wanted: &ResourcesSpec) -> Option<oci::LinuxCpu> {
    let (quota, period) = match wanted.nano_cpus.filter(|nano| *nano > 0) {
        Some(nano) => (
            Some(nano / (1_000_000_000 / CPU_PERIOD_US as i64)),
            Some(CPU_PERIOD_US),
        ),
        None => (
            wanted.cpu_quota_us.filter(|quota| *quota != 0),
            wanted.cpu_period_us.filter(|period| *period != 0),
        ),
    };
    let shares = wanted.cpu_shares.filter(|shares| *shares != 0);
    let text = |list: &Option<String>| list.clone().filter(|text| !text.is_empty());
    let (cpus, mems) = (text(&wanted.cpuset_cpus), text(&wanted.cpuset_mems));
    (quota.is_some() || period.is_some() || shares.is_some() || cpus.is_some() || mems.is_some()).then(|| {
        let mut cpu = oci::LinuxCpu::default();
        cpu.set_quota(quota);
        cpu.set_period(period);
        cpu.set_shares(shares);
        cpu.set_cpus(cpus);
        cpu.set_mems(mems);
        cpu
    })
}

fn plan_block_io(wanted: &ResourcesSpec) -> Result<Option<oci::LinuxBlockIo>> {
    let throttles = |list: &[ThrottleSpec]| -> Result<Option<Vec<oci::LinuxThrottleDevice>>> {
        let list = list.iter().map(plan_throttle).collect::<Result<Vec<_>>>()?;
        Ok((!list.is_empty()).then_some(list))
    };
    let mut block_io = oci::LinuxBlockIo::default();
    block_io.set_weight(wanted.blkio_weight.filter(|weight| *weight != 0));
    block_io.set_throttle_read_bps_device(throttles(&wanted.blkio_read_bps)?);
    block_io.set_throttle_write_bps_device(throttles(&wanted.blkio_write_bps)?);
    block_io.set_throttle_read_iops_device(throttles(&wanted.blkio_read_iops)?);
    block_io.set_throttle_write_iops_device(throttles(&wanted.blkio_write_iops)?);
    Ok((block_io != oci::LinuxBlockIo::default()).then_some(block_io))
}

fn plan_throttle(throttle: &ThrottleSpec) -> Result<oci::LinuxThrottleDevice> {
    let metadata = std::fs::metadata(&throttle.device)
        .ok()
        .filter(|metadata| metadata.file_type().is_block_device())
        .ok_or_else(|| {
            EngineError::invalid(format!("{} is not a block device", throttle.device.display()))
        })?;
    oci::LinuxThrottleDeviceBuilder::default()
        .major(i64::from(rustix::fs::major(metadata.rdev())))
        .minor(i64::from(rustix::fs::minor(metadata.rdev())))
        .rate(throttle.rate)
        .build()
        .map_err(|error| EngineError::invalid(error.to_string()))
}

/// Docker's rule for a spec's source of a mount, as `inspect` names its kind.
pub fn mount_kind(source: &MountSource) -> MountKind {
    match source {
        MountSource::Bind { .. } => MountKind::Bind,
        MountSource::Volume { .. } => MountKind::Volume,
        MountSource::Tmpfs { .. } => MountKind::Tmpfs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_capabilities_stay_dropped_and_all_means_all() {
        let spec = |add: &[&str], drop: &[&str]| ContainerSpec {
            capabilities_add: add.iter().map(|&name| name.to_owned()).collect(),
            capabilities_drop: drop.iter().map(|&name| name.to_owned()).collect(),
            ..ContainerSpec::default()
        };
        let default = capabilities(&spec(&[], &[])).unwrap();
        assert!(default.contains(&oci::Capability::Chown) && !default.contains(&oci::Capability::SysAdmin));
        assert!(
            !capabilities(&spec(&[], &["chown"]))
                .unwrap()
                .contains(&oci::Capability::Chown)
        );
        assert!(
            capabilities(&spec(&["CAP_SYS_ADMIN"], &[]))
                .unwrap()
                .contains(&oci::Capability::SysAdmin)
        );
        assert_eq!(
            capabilities(&spec(&["NET_RAW"], &["ALL"])).unwrap(),
            HashSet::from([oci::Capability::NetRaw])
        );
        assert!(capabilities(&spec(&["ALL"], &["SYS_ADMIN"])).unwrap().len() > default.len());
        assert!(capabilities(&spec(&["FLY"], &[])).is_err());
    }

    #[test]
    fn memory_limits_double_for_swap_unless_given() {
        let memory = |bytes, swap| {
            let wanted = ResourcesSpec {
                memory_bytes: bytes,
                memory_swap_bytes: swap,
                ..ResourcesSpec::default()
            };
            plan_resources(&wanted)
                .unwrap()
                .and_then(|resources| *resources.memory())
        };
        assert_eq!(memory(Some(100), None).unwrap().swap(), Some(200));
        assert_eq!(memory(Some(100), Some(-1)).unwrap().swap(), Some(-1));
        assert!(memory(None, None).is_none());
    }

    #[test]
    fn cpus_become_a_quota() {
        let wanted = ResourcesSpec {
            nano_cpus: Some(1_500_000_000),
            ..ResourcesSpec::default()
        };
        let resources = plan_resources(&wanted).unwrap().unwrap();
        let cpu = resources.cpu().as_ref().unwrap();
        assert_eq!((cpu.quota(), cpu.period()), (Some(150_000), Some(100_000)));
    }

    #[test]
    fn log_sizes_in_dockers_units() {
        assert_eq!(parse_log_size("10m").unwrap(), 10 << 20);
        assert_eq!(parse_log_size("1KB").unwrap(), 1024);
        for text in ["", "-1", "0", "10x", "99999999999g"] {
            assert!(parse_log_size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn device_rules_are_read_whole_or_refused() {
        let rule = parse_device_rule("c 42:* rwm").unwrap();
        assert_eq!((rule.major(), rule.minor()), (Some(42), None));
        for text in [
            "",
            "c",
            "c 42 rwm",
            "x 1:2 r",
            "c 1:2 z",
            "c 1:2 r extra",
            "c 1:-2 r",
        ] {
            assert!(parse_device_rule(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn environment_gets_what_docker_adds() {
        let env = plan_environment(&["A=1".to_owned()], "box", true);
        assert!(env.iter().any(|entry| entry.starts_with("PATH=/usr/local/sbin")));
        assert!(env.contains(&"HOSTNAME=box".to_owned()) && env.contains(&"TERM=xterm".to_owned()));
        let env = plan_environment(&["PATH=/x".to_owned()], "box", false);
        assert_eq!(env, ["HOSTNAME=box", "PATH=/x"]);
    }
}
