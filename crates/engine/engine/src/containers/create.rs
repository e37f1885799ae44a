//! Creating a container: the request meets its image, and one record is committed.

use super::{Container, names};
use crate::Engine;
use crate::error::{EngineError, Result};
use crate::plan;
use crate::record::{
    ContainerRecord, ContainerState, MountKind, MountedImage, ResolvedConfig, ResolvedMount,
};
use crate::spec::{ContainerSpec, HealthcheckSpec, MountSource, MountSpec, NamespaceMode, NetworkMode};
use crate::views::Created;
use crate::volumes::Claim;
use crate::volumes::driver::Backing;
use naru_base::{ContainerId, Timestamp};
use naru_content::Image;
use naru_keeper::protocol::Request;
use naru_runtime::plan::RootfsPlan;
use naru_sys::file;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// Longest host name the kernel takes, in bytes.
const HOSTNAME_BYTES_MAX: usize = 64;

impl Engine {
    pub async fn create_container(&self, name: Option<String>, spec: ContainerSpec) -> Result<Created> {
        let image = self.image_for_container(&spec.image)?;
        let name = name.as_deref().map(names::parse).transpose()?;
        let id = self.pool.offer_id(wants_bridge(&spec));
        let name = name.unwrap_or_else(|| names::made_up(&id));
        self.registry.reserve_name(&name, &id)?;
        match self.create_named(&id, &name, spec, &image).await {
            Ok((container, claim)) => {
                self.registry.insert(&container);
                drop(claim);
                self.container_event("create", &container, &[]);
                Ok(Created {
                    id,
                    warnings: container.record().resolved.warnings.clone(),
                })
            }
            Err(error) => {
                self.registry.release_name(&name, &id);
                Err(error)
            }
        }
    }

    /// Checks everything first; then makes volumes, snapshot, directory and record, and undoes them if one fails.
    /// The claim keeps the volumes until the container is known to all.
    async fn create_named(
        &self,
        id: &ContainerId,
        name: &str,
        mut spec: ContainerSpec,
        image: &Image,
    ) -> Result<(Arc<Container>, Claim<'_>)> {
        self.resolve_joined(&mut spec)?;
        self.resolve_links(&mut spec)?;
        let mut resolved = resolve(id, &spec, image)?;
        check(&spec, &resolved)?;
        // With version 1 a container could change limits of others, and more (CVE-2022-0492).
        if spec.writable_cgroups && self.cgroup_version() == 1 {
            return Err(EngineError::invalid(
                "writable-cgroups is only supported with cgroup version 2",
            ));
        }
        if self.options.remap.is_some() {
            plan::check_remapped(&spec)?;
        }
        resolved.mounts = self.resolve_mounts(&spec, &resolved)?;
        let directory = self.container_directory(id);
        let mut record = ContainerRecord {
            id: id.clone(),
            name: name.to_owned(),
            created_at: Timestamp::now(),
            spec,
            resolved,
            state: ContainerState::Created,
            restart_count: 0,
            stopped_by_client: false,
            failed_start: None,
            last_end: None,
            started_by: None,
            boot_id: String::new(),
            run: None,
        };
        let mut undo = Undo {
            engine: self,
            id,
            volumes: Vec::new(),
            is_armed: true,
        };
        let claim = self.volumes.claim(named_volumes(&record.resolved.mounts));
        self.make_volumes(&record, image, &mut undo.volumes)?;
        let snapshot = self
            .content
            .create_snapshot(id, &record.resolved.image_id)
            .map_err(crate::images::error)?;
        self.hold_images(&mut record)?;
        self.mount_ahead(&record, snapshot).await;
        std::fs::DirBuilder::new()
            .create(&directory)
            .map_err(file::FileError::at("make directory", &directory))?;
        let container = Container::new(record, directory, self.run_directory(id));
        self.write_record(&container)?;
        undo.is_armed = false;
        Ok((container, claim))
    }

    /// Keeps the layers of the images that are mounted as long as the container is there.
    fn hold_images(&self, record: &mut ContainerRecord) -> Result<()> {
        for mount in &mut record.resolved.mounts {
            if let Some(image) = &mut mount.image {
                let held = self.content.hold_layers(&record.id, image.top.as_ref());
                image.layers = held.map_err(crate::images::error)?;
                mount.source = image.layers.last().cloned().unwrap_or_default();
            }
        }
        Ok(())
    }

    /// Has the stem that waits for this container mount its root filesystem now. A start does not depend on it.
    async fn mount_ahead(&self, record: &ContainerRecord, snapshot: naru_content::Snapshot) {
        let is_for_pool = record.spec.mac_address.is_none()
            && record.spec.cgroup_parent.is_none()
            && self
                .plan_user(record)
                .is_ok_and(|(needs, _)| needs == self.workshop.parked_with);
        let Some(connection) = is_for_pool.then(|| self.pool.offered(&record.id)).flatten() else {
            return;
        };
        let request = Request::MountAhead(RootfsPlan::Overlay {
            lower: snapshot.lower,
            upper: snapshot.upper,
            work: snapshot.work,
        });
        let _ = connection.begin(&request, &[]).await;
    }

    /// Names of other containers become ids, so that renaming them changes nothing. One that does not exist is the
    /// start's concern, as with Docker: clients take a 404 from create for a missing image.
    fn resolve_joined(&self, spec: &mut ContainerSpec) -> Result<()> {
        let resolve = |name: &mut String| match self.registry.find(name) {
            Ok(other) => {
                *name = other.id.to_string();
                Ok(())
            }
            Err(error) if error.kind == naru_base::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        if let NetworkMode::Container(name) = &mut spec.network {
            resolve(name)?;
        }
        for attachment in &mut spec.attachments {
            if let Some(name) = self.network_name(&attachment.network) {
                attachment.network = name;
            }
        }
        for mode in [&mut spec.pid_mode, &mut spec.ipc_mode, &mut spec.uts_mode] {
            if let NamespaceMode::Container(name) = mode {
                resolve(name)?;
            }
        }
        Ok(())
    }

    /// The mounts of the containers named by `--volumes-from`; where several have one target, the last one's.
    fn borrowed_mounts(&self, spec: &ContainerSpec) -> Result<BTreeMap<String, ResolvedMount>> {
        let mut borrowed = BTreeMap::new();
        for from in &spec.volumes_from {
            // Not a 404: clients take that for a missing image.
            let other = self
                .registry
                .find(&from.container)
                .map_err(|error| EngineError::invalid(error.message))?;
            let record = other.record();
            let shared = record
                .resolved
                .mounts
                .iter()
                .filter(|mount| mount.kind != MountKind::Tmpfs);
            borrowed.extend(shared.map(|mount| {
                let mount = ResolvedMount {
                    read_only: mount.read_only || from.read_only,
                    ..mount.clone()
                };
                (mount.target.clone(), mount)
            }));
        }
        Ok(borrowed)
    }

    /// The creator's mounts, those of other containers and the image's volumes, with a source decided for each.
    fn resolve_mounts(&self, spec: &ContainerSpec, resolved: &ResolvedConfig) -> Result<Vec<ResolvedMount>> {
        let mut mounts = spec
            .mounts
            .iter()
            .map(|mount| self.resolve_mount(mount))
            .collect::<Result<Vec<_>>>()?;
        let mut taken: BTreeSet<String> = mounts.iter().map(|mount| mount.target.clone()).collect();
        if taken.len() < mounts.len() {
            return Err(EngineError::invalid(format!(
                "Duplicate mount point: {}",
                first_duplicate(&mounts)
            )));
        }
        for (target, mount) in self.borrowed_mounts(spec)? {
            if taken.insert(target) {
                mounts.push(mount);
            }
        }
        for target in &resolved.volumes {
            let target = clean_target(target)?;
            if !taken.contains(&target) {
                mounts.push(self.volume_mount(&ContainerId::generate().to_string(), target, true));
            }
        }
        Ok(mounts)
    }

    fn volume_mount(&self, volume: &str, target: String, is_anonymous: bool) -> ResolvedMount {
        ResolvedMount {
            kind: MountKind::Volume,
            volume: Some(volume.to_owned()),
            source: self.volumes.data_path(volume),
            target,
            read_only: false,
            propagation: String::new(),
            non_recursive: false,
            read_only_non_recursive: false,
            tmpfs_options: Vec::new(),
            backing: None,
            subpath: None,
            image: None,
            is_anonymous,
        }
    }

    fn resolve_mount(&self, mount: &MountSpec) -> Result<ResolvedMount> {
        let target = clean_target(&mount.target)?;
        let bare = ResolvedMount {
            kind: plan::mount_kind(&mount.source),
            volume: None,
            source: PathBuf::new(),
            target: target.clone(),
            read_only: mount.read_only,
            propagation: String::new(),
            non_recursive: false,
            read_only_non_recursive: false,
            tmpfs_options: Vec::new(),
            backing: None,
            subpath: None,
            image: None,
            is_anonymous: false,
        };
        match &mount.source {
            MountSource::Bind {
                path,
                propagation,
                create_missing,
                non_recursive,
                read_only_non_recursive,
            } => {
                if !create_missing && std::fs::symlink_metadata(path).is_err() {
                    return Err(EngineError::invalid(format!(
                        "invalid mount config for type \"bind\": bind source path does not exist: {}",
                        path.display()
                    )));
                }
                let propagation = propagation.clone().unwrap_or_else(|| "rprivate".to_owned());
                Ok(ResolvedMount {
                    source: path.clone(),
                    propagation,
                    non_recursive: *non_recursive,
                    read_only_non_recursive: *read_only_non_recursive,
                    ..bare
                })
            }
            MountSource::Volume {
                name,
                subpath,
                options,
                ..
            } => {
                let volume = match name {
                    Some(name) => crate::volumes::parse_name(name)?,
                    None => ContainerId::generate().to_string(),
                };
                // The options of one that exists already stay what they are.
                let backing = if self.volumes.exists(&volume) {
                    self.volumes.backing(&volume)?
                } else {
                    crate::volumes::driver::parse_options(options)?.backing
                };
                if subpath.is_some() && matches!(backing, Some(Backing::FileSystem { .. })) {
                    return Err(EngineError::invalid(format!(
                        "volume-subpath cannot be taken of volume {volume}, whose driver options mount a file system"
                    )));
                }
                Ok(ResolvedMount {
                    read_only: mount.read_only,
                    backing,
                    subpath: subpath.clone(),
                    ..self.volume_mount(&volume, target, name.is_none())
                })
            }
            MountSource::Tmpfs {
                bytes_max,
                mode,
                options,
            } => {
                let mut all = options.clone();
                all.extend(bytes_max.map(|bytes| format!("size={bytes}")));
                all.extend(mode.map(|mode| format!("mode={mode:o}")));
                if !all.iter().any(|option| option.starts_with("mode=")) {
                    all.push("mode=1777".to_owned());
                }
                Ok(ResolvedMount {
                    tmpfs_options: all,
                    ..bare
                })
            }
            MountSource::Image { name, subpath } => {
                let image = self.image_for_container(name)?;
                let mounted = MountedImage {
                    name: name.clone(),
                    id: image.id.clone(),
                    top: image.chain_ids.last().cloned(),
                    layers: Vec::new(),
                };
                Ok(ResolvedMount {
                    read_only: true,
                    subpath: subpath.clone(),
                    image: Some(mounted),
                    ..bare
                })
            }
        }
    }

    /// Makes the volumes that do not exist and fills new, empty ones from the image.
    fn make_volumes(&self, record: &ContainerRecord, image: &Image, made: &mut Vec<String>) -> Result<()> {
        let remap = self.options.remap.as_ref();
        for mount in record
            .resolved
            .mounts
            .iter()
            .filter(|mount| mount.kind == MountKind::Volume)
        {
            let Some(name) = &mount.volume else { continue };
            let wanted = record
                .spec
                .mounts
                .iter()
                .find(|wanted| wanted.target == mount.target);
            let (labels, options) = match wanted.map(|wanted| &wanted.source) {
                Some(MountSource::Volume { labels, options, .. }) => (labels.clone(), options.clone()),
                _ => Default::default(),
            };
            if self
                .volumes
                .create(name, mount.is_anonymous, labels, options, false)?
            {
                made.push(name.clone());
                self.volume_event("create", name);
            }
            let no_copy = record.spec.mounts.iter().any(|wanted| {
                wanted.target == mount.target
                    && matches!(wanted.source, MountSource::Volume { no_copy: true, .. })
            });
            let place = match &mount.backing {
                None => mount.source.as_path(),
                Some(Backing::Bind {
                    device,
                    read_only: false,
                }) => device.as_path(),
                Some(_) => continue,
            };
            if !no_copy && mount.subpath.is_none() && place.is_dir() {
                self.content
                    .copy_up(&image.id, &mount.target, place, &|uid, gid| {
                        remap.map_or((uid, gid), |remap| remap.owner(uid, gid))
                    })
                    .map_err(crate::images::error)?;
            }
        }
        Ok(())
    }
}

/// Takes back what a failed creation made.
struct Undo<'a> {
    engine: &'a Engine,
    id: &'a ContainerId,
    volumes: Vec<String>,
    is_armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if !self.is_armed {
            return;
        }
        let _ = self.engine.content.remove_snapshot(self.id);
        let _ = file::remove_tree(&self.engine.container_directory(self.id));
        for name in &self.volumes {
            let users = || self.engine.volume_users(name);
            let _ = self.engine.volumes.delete_unused(name, users);
        }
    }
}

/// The container takes its address from the bridge.
pub fn wants_bridge(spec: &ContainerSpec) -> bool {
    spec.attachments
        .iter()
        .any(|attachment| attachment.network == crate::networks::DEFAULT_NETWORK)
}

fn named_volumes(mounts: &[ResolvedMount]) -> Vec<String> {
    mounts.iter().filter_map(|mount| mount.volume.clone()).collect()
}

fn first_duplicate(mounts: &[ResolvedMount]) -> String {
    let mut seen = BTreeSet::new();
    mounts
        .iter()
        .find(|mount| !seen.insert(&mount.target))
        .map_or_else(String::new, |mount| mount.target.clone())
}

/// A mount's target: absolute, `.`, `..` and double slashes folded, not the root.
fn clean_target(target: &str) -> Result<String> {
    if !target.starts_with('/') {
        return Err(EngineError::invalid(format!(
            "invalid mount path: '{target}' mount path must be absolute"
        )));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() {
        return Err(EngineError::invalid(
            "invalid specification: destination can't be '/'",
        ));
    }
    Ok(format!("/{}", parts.join("/")))
}

/// Merges the request with the image's configuration, as Docker does.
fn resolve(id: &ContainerId, spec: &ContainerSpec, image: &Image) -> Result<ResolvedConfig> {
    let nothing = naru_oci::ContainerConfig::default();
    let config = if spec.is_build_step {
        &nothing
    } else {
        &image.config.config
    };
    let image_entrypoint = config.entrypoint.clone().unwrap_or_default();
    let (entrypoint, command) = match (&spec.entrypoint, &spec.command) {
        // A given entrypoint takes the image's command away.
        (Some(entrypoint), command) => (entrypoint.clone(), command.clone().unwrap_or_default()),
        (None, Some(command)) if !command.is_empty() => (image_entrypoint, command.clone()),
        (None, _) => (image_entrypoint, config.cmd.clone().unwrap_or_default()),
    };
    let entrypoint = if entrypoint == [""] {
        Vec::new()
    } else {
        entrypoint
    };
    if entrypoint.is_empty() && command.is_empty() {
        return Err(EngineError::invalid("no command specified"));
    }
    let mut labels = config.labels.clone();
    labels.extend(spec.labels.clone());
    let mut exposed_ports = spec.exposed_ports.clone();
    exposed_ports.extend(
        config
            .exposed_ports
            .iter()
            .filter_map(|text| crate::spec::ContainerPort::parse(text)),
    );
    exposed_ports.extend(spec.ports.iter().map(|binding| binding.container_port));
    let mut volumes = spec.anonymous_volumes.clone();
    volumes.extend(config.volumes.iter().cloned());
    let given = |own: &Option<String>, image: &str| {
        own.clone()
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| image.to_owned())
    };
    Ok(ResolvedConfig {
        image_id: image.id.clone(),
        entrypoint,
        command,
        env: merge_env(&config.env, &spec.env),
        working_dir: given(&spec.working_dir, &config.working_dir),
        user: given(&spec.user, &config.user),
        labels,
        exposed_ports,
        volumes,
        stop_signal: given(&spec.stop_signal, &config.stop_signal),
        healthcheck: resolve_healthcheck(spec, config),
        hostname: resolve_hostname(id, spec),
        mounts: Vec::new(),
        warnings: Vec::new(),
    })
}

/// The creator's check, with the image's wherever it says nothing; none where either says `NONE`.
fn resolve_healthcheck(spec: &ContainerSpec, image: &naru_oci::ContainerConfig) -> Option<HealthcheckSpec> {
    let image = image.healthcheck.clone().unwrap_or_default();
    let own = spec.healthcheck.clone().unwrap_or_default();
    let number = |own: i64, image: i64| if own == 0 { image } else { own };
    let merged = HealthcheckSpec {
        test: if own.test.is_empty() { image.test } else { own.test },
        interval_ns: number(own.interval_ns, image.interval),
        timeout_ns: number(own.timeout_ns, image.timeout),
        start_period_ns: number(own.start_period_ns, image.start_period),
        start_interval_ns: number(own.start_interval_ns, image.start_interval),
        retries: number(own.retries, image.retries),
    };
    let kind = merged.test.first()?;
    (kind != "NONE").then_some(merged)
}

fn resolve_hostname(id: &ContainerId, spec: &ContainerSpec) -> String {
    let own = spec.hostname.clone().filter(|name| !name.is_empty());
    own.unwrap_or_else(|| match spec.network {
        NetworkMode::Host => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        _ if spec.uts_mode == NamespaceMode::Host => {
            rustix::system::uname().nodename().to_string_lossy().into_owned()
        }
        _ => id.short().to_owned(),
    })
}

/// The creator's variables in their order, then the image's that none of them names, as Docker has them. Of several
/// with one name the last one counts; a bare `KEY` only takes the image's away.
fn merge_env(image: &[String], own: &[String]) -> Vec<String> {
    let key = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut merged: Vec<String> = Vec::new();
    for entry in own.iter().filter(|entry| entry.contains('=')) {
        match merged.iter_mut().find(|other| key(other) == key(entry)) {
            Some(other) => other.clone_from(entry),
            None => merged.push(entry.clone()),
        }
    }
    let is_named = |entry: &&String| own.iter().any(|other| key(other) == key(entry));
    merged.extend(image.iter().filter(|entry| !is_named(entry)).cloned());
    merged
}

/// What can be refused before anything is made.
fn check(spec: &ContainerSpec, resolved: &ResolvedConfig) -> Result<()> {
    plan::check_log(&spec.log)?;
    if !resolved.working_dir.is_empty() && !resolved.working_dir.starts_with('/') {
        return Err(EngineError::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            resolved.working_dir
        )));
    }
    if resolved.hostname.len() > HOSTNAME_BYTES_MAX {
        return Err(EngineError::invalid(format!(
            "invalid hostname: longer than {HOSTNAME_BYTES_MAX} bytes: {}",
            resolved.hostname
        )));
    }
    for entry in &resolved.env {
        if entry.starts_with('=') || entry.contains('\0') {
            return Err(EngineError::invalid(format!(
                "invalid environment variable: {entry}"
            )));
        }
    }
    if !resolved.stop_signal.is_empty() {
        super::stop::parse_signal(&resolved.stop_signal)?;
    }
    plan::capabilities(spec)?;
    plan::plan_device_rules(spec)?;
    plan::plan_resources(&spec.resources)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_of_the_creator_wins_and_removes() {
        let image = ["A=1".to_owned(), "B=2".to_owned(), "PATH=/bin".to_owned()];
        let own = ["B=3", "A", "C=4", "B=5"].map(str::to_owned);
        assert_eq!(merge_env(&image, &own), ["B=5", "C=4", "PATH=/bin"]);
    }

    #[test]
    fn mount_targets_are_folded_and_never_the_root() {
        assert_eq!(clean_target("/a//b/../c/.").unwrap(), "/a/c");
        for target in ["/", "/..", "a/b", ""] {
            assert!(clean_target(target).is_err(), "{target:?}");
        }
    }
}
