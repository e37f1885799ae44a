//! The mounts of a container: Docker's own, the network files, the creator's.

use super::StartContext;
use crate::error::{EngineError, Result};
use crate::record::{ContainerRecord, MountKind, ResolvedMount};
use crate::spec::{MountSource, NamespaceMode};
use crate::volumes::driver::Backing;
use oci_spec::runtime as oci;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Docker's size of `/dev/shm` where none is asked for.
const SHM_BYTES_DEFAULT: u64 = 64 << 20;

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> oci::Mount {
    let mut mount = oci::Mount::default();
    mount.set_destination(PathBuf::from(destination));
    mount.set_typ(Some(kind.to_owned()));
    mount.set_source(Some(PathBuf::from(source)));
    mount.set_options(Some(options.iter().map(|&option| option.to_owned()).collect()));
    mount
}

/// Docker's mounts in their order, then the network files, then the creator's, parents before children.
pub(super) fn plan_mounts(record: &ContainerRecord, context: &StartContext<'_>) -> Vec<oci::Mount> {
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
            &[
                if spec.writable_cgroups {
                    "rw"
                } else {
                    system_access
                },
                "nosuid",
                "noexec",
                "nodev",
            ],
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
                "mqueue",
                "mqueue",
                &["nosuid", "noexec", "nodev"],
            ));
            if !wanted.contains("/dev/shm") {
                mounts.push(mount("/dev/shm", "bind", "/dev/shm", &["rbind"]));
            }
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
            let access = if spec.read_only_rootfs { "ro" } else { "rw" };
            mounts.push(mount(
                target,
                "bind",
                &source.to_string_lossy(),
                &["rbind", "rprivate", access],
            ));
        }
    }
    let mut own: Vec<&ResolvedMount> = record.resolved.mounts.iter().collect();
    own.sort_by_key(|mount| mount.target.split('/').filter(|part| !part.is_empty()).count());
    mounts.extend(own.into_iter().map(plan_own_mount));
    mounts
}

/// What a container that does not run would see mounted: its binds and volumes, and the network files of its last run.
pub fn plan_binds(record: &ContainerRecord, directory: &Path) -> Vec<oci::Mount> {
    let own = |mount: &&ResolvedMount| mount.kind != MountKind::Tmpfs && is_bindable(mount);
    let mut own: Vec<&ResolvedMount> = record.resolved.mounts.iter().filter(own).collect();
    own.sort_by_key(|mount| mount.target.split('/').filter(|part| !part.is_empty()).count());
    let is_taken = |target: &str| own.iter().any(|mount| mount.target == target);
    let files =
        ["hostname", "hosts", "resolv.conf"].map(|name| (format!("/etc/{name}"), directory.join(name)));
    let mut binds: Vec<oci::Mount> = files
        .iter()
        .filter(|(target, source)| !is_taken(target) && source.exists())
        .map(|(target, source)| mount(target, "bind", &source.to_string_lossy(), &["rbind", "rprivate"]))
        .collect();
    binds.extend(own.into_iter().map(plan_own_mount));
    binds
}

/// What of a container's mounts can be shown without it: what is on the host, and there.
fn is_bindable(mount: &ResolvedMount) -> bool {
    match &mount.backing {
        None => mount.source.exists(),
        Some(Backing::Bind { device, .. }) => device.exists(),
        Some(Backing::FileSystem { .. }) => false,
    }
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
    if let Some(image) = &own.image {
        let mut options = vec!["rprivate".to_owned(), "ro".to_owned()];
        options.extend(
            image
                .layers
                .iter()
                .map(|path| format!("naru.layer={}", path.display())),
        );
        options.extend(own.subpath.as_ref().map(|path| format!("naru.subpath={path}")));
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        return mount(&own.target, "bind", &own.source.to_string_lossy(), &options);
    }
    let mut source = own.source.clone();
    match &own.backing {
        None => {}
        Some(Backing::Bind { device, .. }) => source.clone_from(device),
        Some(Backing::FileSystem {
            kind,
            device,
            options,
        }) => {
            let mut options: Vec<&str> = options.iter().map(String::as_str).collect();
            if own.read_only {
                options.push("ro");
            }
            return mount(&own.target, kind, device, &options);
        }
    }
    let is_read_only = own.read_only || matches!(&own.backing, Some(Backing::Bind { read_only: true, .. }));
    let bind = if own.non_recursive { "bind" } else { "rbind" };
    let propagation = if own.propagation.is_empty() {
        "rprivate"
    } else {
        &own.propagation
    };
    let mut options = vec![bind, propagation];
    if is_read_only {
        let is_alone = own.non_recursive || own.read_only_non_recursive;
        options.push(if is_alone { "ro" } else { "rro" });
    }
    let subpath = own.subpath.as_ref().map(|path| format!("naru.subpath={path}"));
    options.extend(subpath.as_deref());
    mount(&own.target, "bind", &source.to_string_lossy(), &options)
}

/// A bind that is to propagate needs a source on a mount that does.
pub(super) fn check_propagation(record: &ContainerRecord) -> Result<()> {
    let mut mountinfo = None;
    for own in &record.resolved.mounts {
        let (is_enough, wanted): (fn(&str) -> bool, _) = match own.propagation.trim_start_matches('r') {
            "shared" => (|tag| tag.starts_with("shared:"), "a shared"),
            "slave" => (
                |tag| tag.starts_with("shared:") || tag.starts_with("master:"),
                "a shared or slave",
            ),
            _ => continue,
        };
        if own.kind != MountKind::Bind {
            continue;
        }
        let text: &String = match &mountinfo {
            Some(text) => text,
            None => mountinfo.insert(
                std::fs::read_to_string("/proc/self/mountinfo")
                    .map_err(|error| EngineError::system(format!("/proc/self/mountinfo: {error}")))?,
            ),
        };
        let source = std::fs::canonicalize(&own.source).unwrap_or_else(|_| own.source.clone());
        if let Some((place, tags)) = mount_of(text, &source)
            && !tags.iter().any(|tag| is_enough(tag))
        {
            return Err(EngineError::invalid(format!(
                "path {} is mounted on {} but it is not {wanted} mount",
                own.source.display(),
                place.display()
            )));
        }
    }
    Ok(())
}

/// Where the mount that holds `path` is mounted, and its propagation tags, from the text of a mountinfo file
/// (`proc_pid_mountinfo(5)`). Of several at one place the last is on top.
fn mount_of<'a>(mountinfo: &'a str, path: &Path) -> Option<(PathBuf, Vec<&'a str>)> {
    let mut found: Option<(PathBuf, Vec<&str>)> = None;
    for line in mountinfo.lines() {
        let mut fields = line.split(' ').skip(4);
        let Some(place) = fields.next() else { continue };
        let place = PathBuf::from(
            place
                .replace("\\040", " ")
                .replace("\\011", "\t")
                .replace("\\012", "\n")
                .replace("\\134", "\\"),
        );
        let length = |path: &Path| path.as_os_str().len();
        let is_nearer = found
            .as_ref()
            .is_none_or(|(other, _)| length(&place) >= length(other));
        if path.starts_with(&place) && is_nearer {
            found = Some((place, fields.skip(1).take_while(|field| *field != "-").collect()));
        }
    }
    found
}

/// Docker's rule for a spec's source of a mount, as `inspect` names its kind.
pub fn mount_kind(source: &MountSource) -> MountKind {
    match source {
        MountSource::Bind { .. } => MountKind::Bind,
        MountSource::Volume { .. } => MountKind::Volume,
        MountSource::Tmpfs { .. } => MountKind::Tmpfs,
        MountSource::Image { .. } => MountKind::Image,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_and_topmost_mount_holds_a_path() {
        let text = "1 0 8:1 / / rw,noatime shared:1 - ext4 /dev/sda rw\n\
            2 1 0:5 / /data\\040disk rw master:2 - tmpfs none rw\n\
            3 2 0:6 / /data\\040disk rw - tmpfs none rw\n";
        let of = |path: &str| mount_of(text, Path::new(path)).unwrap();
        assert_eq!(of("/data disk/x"), (PathBuf::from("/data disk"), vec![]));
        assert_eq!(of("/data"), (PathBuf::from("/"), vec!["shared:1"]));
    }
}
