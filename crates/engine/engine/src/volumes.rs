//! Volumes: directories that outlive containers.
//!
//! ```text
//! volumes/<name>/volume.json    driver, labels, whether it is anonymous
//! volumes/<name>/_data          what containers see
//! volumes/.trash/               see `trash`
//! ```
//! A volume without `volume.json` is one whose creation was interrupted; it is made anew when it is next wanted, and
//! its data, if any, is kept.

mod content;
pub(crate) mod driver;
pub(crate) mod trash;

use crate::Engine;
use crate::containers::lock;
use crate::error::{EngineError, Result};
use crate::views::VolumeView;
use naru_base::{ContainerId, ErrorKind, Timestamp};
use naru_runtime::plan::MappedRoot;
use naru_sys::disk::measure_all;
use naru_sys::file;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct VolumeRecord {
    created_at: Timestamp,
    labels: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
    is_anonymous: bool,
    /// A client gave options, if perhaps none: Docker then shows an empty object instead of nothing.
    #[serde(default)]
    shows_empty: bool,
}

/// The directory of volumes.
#[derive(Debug)]
pub struct Volumes {
    root: PathBuf,
    /// Who a new volume belongs to: the root of the engine's containers, where that is not the host's.
    owner: Option<MappedRoot>,
    /// Volumes of containers that are being created, and by how many: in use before any record says so.
    claimed: Mutex<BTreeMap<String, u32>>,
    /// Held while a removed volume's folder gets another name; taken before `claimed`.
    trash_changes: Mutex<()>,
    /// Held while a container starts with a volume that is mounted once for all containers.
    shared_starts: tokio::sync::Mutex<()>,
    syncer: naru_store::Syncer,
}

/// Keeps volumes from being removed until a container's record names them.
#[derive(Debug)]
pub struct Claim<'a> {
    volumes: &'a Volumes,
    names: Vec<String>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.names.is_empty() {
            return;
        }
        let mut claimed = lock(&self.volumes.claimed);
        for name in &self.names {
            match claimed.get_mut(name) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(claimed.remove(name)),
            }
        }
    }
}

/// Checks a volume's name: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`, so that it can be a directory's (CVE-2022-23648).
pub fn parse_name(name: &str) -> Result<String> {
    let is_good = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric())
        && name.len() <= 255
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if is_good && name.len() == 1 {
        return Err(EngineError::invalid(
            "volume name is too short, names should be at least two alphanumeric characters",
        ));
    }
    is_good.then(|| name.to_owned()).ok_or_else(|| {
        EngineError::invalid(format!(
            "create {name}: \"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
        ))
    })
}

impl Volumes {
    pub fn open(root: PathBuf, syncer: naru_store::Syncer, owner: Option<MappedRoot>) -> Result<Self> {
        file::make_directories(&root, 0o700)?;
        // As the images' (CVE-2021-41091), whoever made it.
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o700))
            .map_err(file::FileError::at("close", &root))?;
        let volumes = Self {
            root,
            owner,
            claimed: Mutex::default(),
            trash_changes: Mutex::default(),
            shared_starts: tokio::sync::Mutex::default(),
            syncer,
        };
        volumes.open_trash()?;
        Ok(volumes)
    }

    /// Claims volumes, made or not, for a container that is being created.
    pub fn claim(&self, names: Vec<String>) -> Claim<'_> {
        if !names.is_empty() {
            let mut claimed = lock(&self.claimed);
            for name in &names {
                *claimed.entry(name.clone()).or_default() += 1;
            }
        }
        Claim { volumes: self, names }
    }

    pub fn data_path(&self, name: &str) -> PathBuf {
        self.root.join(name).join("_data")
    }

    fn record_path(&self, name: &str) -> PathBuf {
        self.root.join(name).join("volume.json")
    }

    /// What stands behind a volume that exists; `None` for one that does not, or for a directory of the engine's own.
    pub fn backing(&self, name: &str) -> Result<Option<driver::Backing>> {
        match self.view(name) {
            Ok(view) => Ok(driver::parse_options(&view.options)?.backing),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn exists(&self, name: &str) -> bool {
        self.record_path(name).exists()
    }

    /// Makes a volume if it is not there; tells whether it did.
    pub fn create(
        &self,
        name: &str,
        is_anonymous: bool,
        labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
        shows_empty: bool,
    ) -> Result<bool> {
        let path = self.record_path(name);
        if !matches!(
            naru_store::read::<VolumeRecord>(&path),
            Err(naru_store::StoreError::Missing(_))
        ) {
            return Ok(false);
        }
        file::make_directories(&self.root.join(name), 0o701)?;
        let data = self.data_path(name);
        file::make_directories(&data, 0o755)?;
        let root = self.owner.map(|root| (root.uid, root.gid));
        if let Some((uid, gid)) = driver::parse_options(&options)?.owner.or(root) {
            std::os::unix::fs::lchown(&data, Some(uid), Some(gid))
                .map_err(file::FileError::at("change the owner of", &data))?;
        }
        let record = VolumeRecord {
            created_at: Timestamp::now(),
            labels,
            options,
            is_anonymous,
            shows_empty,
        };
        naru_store::write(&path, &record)?;
        self.syncer.note(&path);
        Ok(true)
    }

    /// Removes a volume with its data, unless it is in use; gives those who use it. It is renamed away first, so that
    /// half of it is never taken for a volume.
    pub fn delete_unused(&self, name: &str, users: impl FnOnce() -> Vec<String>) -> Result<Vec<String>> {
        let gone = self.root.join(format!(".removed-{}", ContainerId::generate()));
        let users = self.move_unused(name, &gone, users)?;
        if users.is_empty() {
            file::remove_tree(&gone)?;
        }
        Ok(users)
    }

    /// Removes a volume as [`Volumes::delete_unused`] does, but keeps its data for a while. How much that is finds
    /// [`Volumes::bound_trash`], which is to be called after it.
    pub fn discard_unused(&self, name: &str, users: impl FnOnce() -> Vec<String>) -> Result<Vec<String>> {
        let place = self.trash_place(name)?;
        let users = self.move_unused(name, &place, users);
        if !matches!(&users, Ok(users) if users.is_empty()) {
            let _ = place.parent().map(std::fs::remove_dir);
        }
        users
    }

    fn move_unused(
        &self,
        name: &str,
        gone: &Path,
        users: impl FnOnce() -> Vec<String>,
    ) -> Result<Vec<String>> {
        // Held until the name is gone: a container that claims it after that makes a volume of its own.
        let claimed = lock(&self.claimed);
        let mut users = users();
        if claimed.contains_key(name) && users.is_empty() {
            users.push("a container that is being created".to_owned());
        }
        if !users.is_empty() {
            return Ok(users);
        }
        self.syncer.forget(&self.record_path(name));
        match std::fs::rename(self.root.join(name), gone) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            result => result.map_err(file::FileError::at("rename", gone))?,
        }
        drop(claimed);
        Ok(users)
    }

    /// Finishes removals that were interrupted.
    pub fn sweep(&self) {
        for entry in std::fs::read_dir(&self.root).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(".removed-") {
                let _ = file::remove_tree(&entry.path());
            }
        }
    }

    fn view(&self, name: &str) -> Result<VolumeView> {
        let missing = || EngineError::not_found(format!("get {name}: no such volume"));
        parse_name(name).map_err(|_| missing())?;
        let record: VolumeRecord =
            naru_store::read(&self.record_path(name)).map_err(|error| match error {
                naru_store::StoreError::Missing(_) => missing(),
                error => error.into(),
            })?;
        Ok(VolumeView {
            name: name.to_owned(),
            driver: "local".to_owned(),
            mountpoint: self.data_path(name),
            created_at: record.created_at,
            labels: record.labels,
            options: record.options,
            is_anonymous: record.is_anonymous,
            shows_empty: record.shows_empty,
        })
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort();
        names
    }
}

impl Engine {
    pub async fn list_volumes(&self) -> Result<Vec<VolumeView>> {
        Ok(self
            .volumes
            .names()
            .iter()
            .filter_map(|name| self.volumes.view(name).ok())
            .collect())
    }

    pub async fn create_volume(
        &self,
        name: Option<String>,
        driver: String,
        options: Option<BTreeMap<String, String>>,
        labels: Option<BTreeMap<String, String>>,
    ) -> Result<VolumeView> {
        let shows_empty = options.is_some();
        let (options, labels) = (options.unwrap_or_default(), labels.unwrap_or_default());
        if !driver.is_empty() && driver != "local" {
            return Err(EngineError::not_found(format!(
                "error looking up volume plugin {driver}: plugin \"{driver}\" not found"
            )));
        }
        driver::parse_options(&options)?;
        let name = name.filter(|name| !name.is_empty());
        let is_anonymous = name.is_none();
        let name = name.map_or_else(
            || Ok(ContainerId::generate().to_string()),
            |name| parse_name(&name),
        )?;
        if self
            .volumes
            .create(&name, is_anonymous, labels, options, shows_empty)?
        {
            self.volume_event("create", &name);
        }
        self.volumes.view(&name)
    }

    /// Every volume with its bytes, from those given by name, and how many containers use it.
    pub(crate) fn volumes_with_sizes(&self, bytes: &HashMap<String, u64>) -> Vec<(VolumeView, u64, usize)> {
        let users = self.volume_user_counts();
        let views = self
            .volumes
            .names()
            .into_iter()
            .filter_map(|name| self.volumes.view(&name).ok());
        views
            .map(|view| {
                let count = |counts: &HashMap<String, usize>| counts.get(&view.name).copied();
                let (bytes, users) = (bytes.get(&view.name).copied(), count(&users));
                (view, bytes.unwrap_or_default(), users.unwrap_or_default())
            })
            .collect()
    }

    /// How many containers mount each volume that any mounts.
    fn volume_user_counts(&self) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for container in self.registry.all() {
            let record = container.record();
            let names: BTreeSet<&String> = record
                .resolved
                .mounts
                .iter()
                .filter_map(|mount| mount.volume.as_ref())
                .collect();
            for name in names {
                *counts.entry(name.clone()).or_default() += 1;
            }
        }
        counts
    }

    pub async fn inspect_volume(&self, name: &str) -> Result<VolumeView> {
        self.volumes.view(name)
    }

    pub async fn remove_volume(self: &Arc<Self>, name: &str, force: bool) -> Result<()> {
        match self.volumes.view(name) {
            Err(error) if force && error.kind == ErrorKind::NotFound => return Ok(()),
            result => result?,
        };
        let users = self.volumes.discard_unused(name, || self.volume_users(name))?;
        if !users.is_empty() {
            return Err(EngineError::conflict(format!(
                "remove {name}: volume is in use - [{}]",
                users.join(", ")
            )));
        }
        self.volume_event("destroy", name);
        // Measuring it takes as long as it has files; the client need not wait for that.
        let engine = Arc::clone(self);
        tokio::task::spawn_blocking(move || engine.volumes.bound_trash());
        Ok(())
    }

    /// Removes unused anonymous volumes, or with `all` every unused one, where `is_meant` says so; returns names and
    /// bytes.
    pub async fn prune_volumes(
        self: &Arc<Self>,
        all: bool,
        is_meant: impl Fn(&VolumeView) -> bool + Send,
    ) -> Result<(Vec<String>, u64)> {
        let is_candidate = |name: &String| {
            let view = self.volumes.view(name).ok()?;
            let is_meant = (all || view.is_anonymous) && is_meant(&view);
            (is_meant && self.volume_users(name).is_empty()).then_some(())
        };
        let mut names = self.volumes.names();
        names.retain(|name| is_candidate(name).is_some());
        let engine = Arc::clone(self);
        crate::archive::blocking(move || engine.discard_volumes(names)).await
    }

    /// Removes those of the volumes that nobody uses meanwhile; blocking.
    fn discard_volumes(&self, names: Vec<String>) -> Result<(Vec<String>, u64)> {
        let paths: Vec<PathBuf> = names.iter().map(|name| self.volumes.data_path(name)).collect();
        let (mut removed, mut bytes) = (Vec::new(), 0);
        for (name, size) in names.into_iter().zip(measure_all(&paths)) {
            let users = self.volumes.discard_unused(&name, || self.volume_users(&name))?;
            if users.is_empty() {
                bytes += size.content_bytes;
                self.volume_event("destroy", &name);
                removed.push(name);
            }
        }
        self.prune_event("volume", bytes);
        self.volumes.bound_trash();
        Ok((removed, bytes))
    }

    /// Ids of the containers, running or not, that mount this volume.
    pub(crate) fn volume_users(&self, name: &str) -> Vec<String> {
        let uses = |record: &crate::record::ContainerRecord| {
            record
                .resolved
                .mounts
                .iter()
                .any(|mount| mount.volume.as_deref() == Some(name))
        };
        self.registry
            .all()
            .iter()
            .filter(|container| uses(&container.record()))
            .map(|container| container.id.to_string())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for name in ["", "a", ".", "..", "../x", "a/b", ".hidden", "a\0b"] {
            assert!(parse_name(name).is_err(), "{name:?}");
        }
        assert!(parse_name("data_1.old-x").is_ok());
    }
}
