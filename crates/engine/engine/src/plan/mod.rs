//! Deciding how a container is started: pure, from its record to a plan that leaves no choices.

mod devices;
mod limits;
mod log;
mod mounts;
mod ship;
mod user;

pub use devices::plan_device_rules;
pub use limits::{plan_first_resources, plan_resources};
pub use log::{check_log, log_attributes, log_place};
pub use mounts::{mount_kind, plan_binds};
pub use ship::{host_to_find, is_shipped};
pub use user::{Donor, check_remapped, plan_user};

use crate::error::{EngineError, Result};
use crate::record::ContainerRecord;
use crate::spec::{ContainerSpec, NamespaceMode, NetworkMode, SeccompSpec};
use naru_keeper::protocol::{AttachOptions, KeeperPlan, StdioPlan};
use naru_runtime::plan::{ContainerPlan, EncodedPlan, RootfsPlan, SeccompPlan, UserNamespacePlan};
use oci_spec::runtime as oci;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What a plan needs beside the record: decided by the engine just before.
pub struct StartContext<'a> {
    pub rootfs: RootfsPlan,
    /// Holds the log.
    pub directory: &'a Path,
    pub exit_record: PathBuf,
    pub keeper_socket: PathBuf,
    pub cgroup: &'a str,
    /// Host paths of namespaces to join, by type; types absent from it and not host's are made new.
    pub joined: HashMap<oci::LinuxNamespaceType, PathBuf>,
    /// Host paths bound over the container's `/etc/hosts` and so on; `None` leaves the image's file.
    pub network_files: Vec<(&'static str, PathBuf)>,
    /// The container's user namespace, where it has one of its own; the stem is in it.
    pub user: Option<UserNamespacePlan>,
    pub attached: Vec<AttachOptions>,
    /// Where the receiver of a log that goes elsewhere is.
    pub log_receiver: Option<SocketAddr>,
}

/// The plan of one start.
pub fn plan_start(record: &ContainerRecord, context: StartContext<'_>) -> Result<KeeperPlan> {
    let spec = &record.spec;
    mounts::check_propagation(record)?;
    let oci_spec = plan_oci_spec(record, &context)?;
    let runtime = ContainerPlan {
        container: record.id.to_string(),
        seccomp: plan_seccomp(spec, &capabilities(spec)?)?,
        spec: oci_spec,
        rootfs: context.rootfs,
        user: record.resolved.user.clone(),
        additional_groups: spec.additional_groups.clone(),
        with_init: spec.with_init.unwrap_or(false),
    };
    Ok(KeeperPlan {
        container: record.id.clone(),
        runtime: EncodedPlan::encode(&runtime)
            .map_err(|error| EngineError::system(format!("cannot write the plan: {error}")))?,
        cgroup: context.cgroup.to_owned(),
        tight_pids: limits::plan_tight_pids(&spec.resources),
        stdio: StdioPlan {
            terminal: spec.terminal,
            open_stdin: spec.open_stdin,
            stdin_once: spec.stdin_once,
        },
        log: log::plan_log(record, context.directory, context.log_receiver)?,
        exit_record: context.exit_record,
        socket: context.keeper_socket,
        attached: context.attached,
    })
}

/// The profile for a container or exec of this spec.
/// Says what is wrong with a profile in Docker's form.
pub fn check_seccomp_profile(json: &str) -> Result<()> {
    naru_runtime::parse_docker_seccomp(json, &[])
        .map(drop)
        .map_err(|error| EngineError::invalid(format!("invalid seccomp profile: {error}")))
}

pub fn plan_seccomp(spec: &ContainerSpec, capabilities: &HashSet<oci::Capability>) -> Result<SeccompPlan> {
    match &spec.seccomp {
        _ if spec.privileged => Ok(SeccompPlan::Unconfined),
        SeccompSpec::Default => Ok(SeccompPlan::Default),
        SeccompSpec::Unconfined => Ok(SeccompPlan::Unconfined),
        SeccompSpec::Custom(json) => {
            naru_runtime::parse_docker_seccomp(json, &capabilities.iter().copied().collect::<Vec<_>>())
                .map(|profile| SeccompPlan::Profile(Box::new(profile)))
                .map_err(|error| EngineError::invalid(format!("invalid seccomp profile: {error}")))
        }
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
        (false, false) => naru_runtime::default_capabilities().into_iter().collect(),
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
    spec.set_mounts(Some(mounts::plan_mounts(record, context)));
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

/// Limits of every process of the container.
pub fn plan_rlimits(spec: &ContainerSpec) -> Result<Vec<oci::PosixRlimit>> {
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

fn plan_linux(record: &ContainerRecord, context: &StartContext<'_>) -> Result<oci::Linux> {
    let spec = &record.spec;
    let mut linux = oci::Linux::default();
    let mut namespaces = plan_namespaces(spec, &context.joined);
    if let Some(user) = &context.user {
        namespaces.push(plan_user_namespace(&mut linux, user));
    }
    linux.set_namespaces(Some(namespaces));
    linux.set_sysctl(Some(
        spec.sysctls
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
    ));
    linux.set_devices(Some(devices::plan_device_nodes(spec)?));
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

fn plan_user_namespace(linux: &mut oci::Linux, user: &UserNamespacePlan) -> oci::LinuxNamespace {
    let mut namespace = oci::LinuxNamespace::default();
    namespace.set_typ(oci::LinuxNamespaceType::User);
    match user {
        UserNamespacePlan::New {
            uid_mappings,
            gid_mappings,
        } => {
            linux.set_uid_mappings(Some(uid_mappings.clone()));
            linux.set_gid_mappings(Some(gid_mappings.clone()));
        }
        UserNamespacePlan::Join { path } => {
            namespace.set_path(Some(path.clone()));
        }
    }
    namespace
}

#[cfg(test)]
mod tests {
    use super::devices::parse_device_rule;
    use super::*;
    use crate::spec::ResourcesSpec;

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
