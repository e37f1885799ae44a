//! Images, as far as the engine has a say: who uses them, and what is told of their changes.

mod ask;
mod import;
mod pull;
mod push;
mod transfer;

pub use ask::Distribution;
pub use import::ImportRequest;
pub use pull::PullRequest;
pub use push::PushRequest;
pub(crate) use push::{Artifact, ArtifactFile};
pub(crate) use transfer::BlobLocks;
pub use transfer::{Teller, TransferStep};

use crate::Engine;
use crate::error::{EngineError, Result};
use naru_base::{Digest, ErrorKind};
use naru_content::{
    ContentError, ContentStore, Image, ImageUser, LoadProgress, LoadedImage, Removed, SavePlan,
};
use std::io::Read;
use std::sync::Arc;

/// A content error, in the engine's words and kind.
pub(crate) fn error(error: ContentError) -> EngineError {
    EngineError::new(error.kind(), error.to_string())
}

/// The image that is always there: Naru's own small server, embedded in the binary.
const WELCOME: &str = "welcome:latest";

impl Engine {
    /// Finds an image for a new container. The welcome image is made the first time it is asked for.
    pub(crate) fn image_for_container(&self, reference: &str) -> Result<Arc<Image>> {
        match self.content.image(reference) {
            Err(missing) if missing.kind() == ErrorKind::NotFound && is_welcome(reference) => {
                let layer = welcome_layer().map_err(|failed| {
                    EngineError::system(format!("cannot make the welcome image: {failed}"))
                })?;
                self.content
                    .import_image(&[WELCOME], welcome_config(), vec![Box::new(layer.as_slice())])
                    .map_err(error)?;
                self.content.image(reference).map_err(error)
            }
            result => result.map_err(error),
        }
    }

    /// The image store, for reading. Changes go through the engine so that they make events and respect users.
    pub fn images(&self) -> &Arc<ContentStore> {
        &self.content
    }

    /// Loads an archive, of several platforms the one asked for; blocking, for a thread of its own.
    pub fn load_images(
        &self,
        archive: impl Read,
        platform: Option<&naru_oci::Platform>,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Vec<LoadedImage>> {
        let loaded = self.content.load(archive, platform, progress).map_err(error)?;
        for image in &loaded {
            let name = image
                .names
                .first()
                .cloned()
                .unwrap_or_else(|| image.id.to_string());
            self.image_event("load", image.id.as_str(), &name);
        }
        Ok(loaded)
    }

    pub fn tag_image(&self, source: &str, target: &str) -> Result<()> {
        self.content.tag(source, target).map_err(error)?;
        if let Ok(image) = self.content.image(target) {
            self.image_event("tag", image.id.as_str(), target);
        }
        Ok(())
    }

    /// Blocking: what is no longer needed is gone from disk when it returns.
    pub fn remove_image(&self, reference: &str, force: bool, no_prune: bool) -> Result<Vec<Removed>> {
        let removed = self
            .content
            .remove(reference, force, no_prune, &|image| self.users_of(image))
            .map_err(error)?;
        self.tell_removed(&removed);
        Ok(removed)
    }

    /// Blocking, as [`Engine::remove_image`]. Returns the freed bytes too.
    pub fn prune_images(
        &self,
        dangling_only: bool,
        is_meant: &dyn Fn(&Image) -> bool,
    ) -> Result<(Vec<Removed>, u64)> {
        let (removed, bytes) = self
            .content
            .prune(dangling_only, is_meant, &|image| self.users_of(image))
            .map_err(error)?;
        self.tell_removed(&removed);
        self.prune_event("image", bytes);
        Ok((removed, bytes))
    }

    /// Writes images as one archive; blocking. A name that is not there is told by [`ContentStore::plan_save`] first.
    pub fn save_images(&self, plan: &SavePlan, output: impl std::io::Write) -> Result<()> {
        self.content.save(plan, output).map_err(error)?;
        for (id, name) in plan.images() {
            self.image_event("save", id.as_str(), &name.unwrap_or_else(|| id.to_string()));
        }
        Ok(())
    }

    fn tell_removed(&self, removed: &[Removed]) {
        for one in removed {
            match one {
                Removed::Untagged(name) => self.image_event("untag", name, name),
                Removed::Deleted(id) => self.image_event("delete", id.as_str(), id.as_str()),
            }
        }
    }

    fn users_of(&self, image: &Digest) -> Vec<ImageUser> {
        let containers = self.registry.all();
        let users = containers
            .iter()
            .map(|container| container.record())
            .filter(|record| {
                let mut mounted = record
                    .resolved
                    .mounts
                    .iter()
                    .filter_map(|mount| mount.image.as_ref());
                record.resolved.image_id == *image || mounted.any(|mounted| mounted.id == *image)
            });
        users
            .map(|record| ImageUser {
                container: record.id.clone(),
                name: record.name.clone(),
                is_running: record.is_running(),
            })
            .collect()
    }
}

fn is_welcome(reference: &str) -> bool {
    matches!(
        reference,
        "welcome" | "welcome:latest" | "docker.io/library/welcome" | "docker.io/library/welcome:latest"
    )
}

/// One file, `/welcome`, the same bytes on every machine.
fn welcome_layer() -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(naru_programs::WELCOME.len() as u64);
    header.set_mode(0o755);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    archive.append_data(&mut header, "welcome", naru_programs::WELCOME)?;
    archive.into_inner()
}

fn welcome_config() -> naru_oci::ImageConfig {
    let mut config = naru_oci::ImageConfig {
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
        comment: "Naru's built-in page that shows what isolates it".to_owned(),
        ..Default::default()
    };
    config.config.entrypoint = Some(vec!["/welcome".to_owned()]);
    config.config.exposed_ports = std::iter::once("80/tcp".to_owned()).collect();
    config
}
