//! What is done with a volume as a whole: renaming, cloning, archives of it.

use super::{Volumes, parse_name};
use crate::Engine;
use crate::archive::{ChunkReader, Chunks, blocking, directory_archive, unpack_into};
use crate::containers::lock;
use crate::error::{EngineError, Result};
use crate::views::VolumeView;
use naru_base::ContainerId;
use naru_sys::file;
use rustix::fs::{Mode, OFlags};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| EngineError::system(format!("{}: {errno}", path.display())))
}

impl Volumes {
    /// Only a volume of the engine's own has its files where the engine can take them.
    fn check_own(&self, name: &str) -> Result<VolumeView> {
        let view = self.view(name)?;
        if super::driver::parse_options(&view.options)?.backing.is_some() {
            return Err(EngineError::invalid(format!(
                "volume {name} is not a directory of the engine: its driver options mount something else"
            )));
        }
        Ok(view)
    }

    fn check_free(&self, name: &str) -> Result<()> {
        if self.root.join(name).exists() {
            return Err(EngineError::conflict(format!("a volume {name} exists already")));
        }
        Ok(())
    }
}

impl Engine {
    /// Gives an unused volume another name.
    pub async fn rename_volume(&self, name: &str, new_name: &str) -> Result<VolumeView> {
        let volumes = &self.volumes;
        volumes.view(name)?;
        let new_name = parse_name(new_name)?;
        {
            let claimed = lock(&volumes.claimed);
            volumes.check_free(&new_name)?;
            let users = self.volume_users(name);
            if !users.is_empty() || claimed.contains_key(name) {
                return Err(EngineError::conflict(format!(
                    "rename {name}: volume is in use - [{}]",
                    users.join(", ")
                )));
            }
            volumes.syncer.forget(&volumes.record_path(name));
            let (from, to) = (volumes.root.join(name), volumes.root.join(&new_name));
            std::fs::rename(&from, &to).map_err(file::FileError::at("rename", &from))?;
            volumes.syncer.note(&volumes.record_path(&new_name));
        }
        self.volume_event("rename", &new_name);
        volumes.view(&new_name)
    }

    /// Makes a new volume with a copy of another's files, labels and options. What writes to the other meanwhile may be
    /// caught half-way.
    pub async fn clone_volume(self: &Arc<Self>, name: &str, new_name: &str) -> Result<VolumeView> {
        let view = self.volumes.check_own(name)?;
        let new_name = parse_name(new_name)?;
        self.volumes.check_free(&new_name)?;
        let engine = Arc::clone(self);
        let copied = blocking(move || {
            let volumes = &engine.volumes;
            let staging = volumes.root.join(format!(".removed-{}", ContainerId::generate()));
            let data = staging.join("_data");
            file::make_directories(&data, 0o755)?;
            let made = copy_tree(&view.mountpoint, &data).and_then(|()| {
                let record = super::VolumeRecord {
                    created_at: naru_base::Timestamp::now(),
                    labels: view.labels,
                    options: view.options,
                    is_anonymous: false,
                    shows_empty: view.shows_empty,
                };
                naru_store::write(&staging.join("volume.json"), &record)?;
                let _claimed = lock(&volumes.claimed);
                volumes.check_free(&new_name)?;
                let place = volumes.root.join(&new_name);
                std::fs::rename(&staging, &place).map_err(file::FileError::at("rename", &place))?;
                volumes.syncer.note(&volumes.record_path(&new_name));
                volumes.view(&new_name)
            });
            if made.is_err() {
                let _ = file::remove_tree(&staging);
            }
            made
        })
        .await?;
        self.volume_event("create", &copied.name);
        Ok(copied)
    }

    /// A volume's files as an archive.
    pub async fn export_volume(&self, name: &str) -> Result<Chunks> {
        let view = self.volumes.check_own(name)?;
        Ok(directory_archive(open(&view.mountpoint)?))
    }

    /// Unpacks an archive into a volume, over what it has.
    pub async fn import_volume(&self, name: &str, archive: Chunks) -> Result<()> {
        let view = self.volumes.check_own(name)?;
        let claim = self.volumes.claim(vec![name.to_owned()]);
        let root = open(&view.mountpoint)?;
        let unpacked = blocking(move || unpack_into(&root, ChunkReader::new(archive))).await;
        drop(claim);
        unpacked
    }
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let source = open(from)?;
    unpack_into(&open(to)?, ChunkReader::new(directory_archive(source)))?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: std::io::Error| EngineError::system(format!("{}: {error}", path.display()))
    };
    let metadata = std::fs::metadata(from).map_err(failed(from))?;
    std::os::unix::fs::chown(to, Some(metadata.uid()), Some(metadata.gid())).map_err(failed(to))?;
    let mode = std::fs::Permissions::from_mode(metadata.mode() & 0o7777);
    std::fs::set_permissions(to, mode).map_err(failed(to))
}
