//! Images that a build makes on its way: each step's result, kept for the next build.
//!
//! A step's image is like any other but that nobody sees it in a list, and that it is not synced: a build would wait for
//! the disk at every step. Until the whole build's result is synced each carries the id of the boot it was made in; the
//! store forgets those of an earlier boot when it opens, because a power loss may have damaged them.

use crate::commit::{ImagePlan, Ingest, mismatch};
use crate::error::{ContentError, LayerError};
use crate::frame::FrameWriter;
use crate::image::{Image, LoadedImage};
use crate::recovery::remove_any;
use crate::stage::{HashingReader, StagedLayer};
use crate::store::{ContentStore, StoredImage};
use crate::tarball::{Entry, EntryKind, TarReader};
use crate::unpack::Unpacked;
use naru_base::{ContainerId, Digest};
use naru_oci::{ImageConfig, Reference};
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

const BUFFER_BYTES: usize = 256 << 10;

/// A layer of an image that a build made on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepLayer {
    /// The chain id of the layer below.
    pub parent: Option<Digest>,
    pub bytes: u64,
    /// An image that users see has it too.
    pub is_shared: bool,
}

/// The kernel's name for the time since it was started.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| String::new(), |id| id.trim().to_owned())
}

impl ContentStore {
    /// Makes a step's image of a snapshot's layers, with what was written on top of them as one more. The written files
    /// themselves become the layer: nobody may have the snapshot mounted, and only its removal can follow. `archive` is
    /// the layer's archive, made from those files; files whose time in it is another get that one.
    pub fn adopt_snapshot(
        &self,
        container: &ContainerId,
        mut config: ImageConfig,
        archive: Option<impl Read>,
    ) -> Result<LoadedImage, ContentError> {
        let mut ingest = Ingest::new(self);
        config.rootfs.diff_ids = self.diff_ids_under(container)?;
        if let Some(archive) = archive {
            let upper = self.snapshot(container)?.upper;
            let staged = self
                .stage_tree(archive, &upper)
                .map_err(|error| self.layer_error(container.short(), error))?;
            config.rootfs.diff_ids.push(staged.diff_id.clone());
            ingest.adopt(staged);
        }
        ingest.commit_one(ImagePlan::step(config)?)
    }

    /// Makes a step's image of the layers of `base`, if there is one, and one more that comes as its archive.
    pub fn add_step(
        &self,
        base: Option<&Image>,
        mut config: ImageConfig,
        archive: impl Read,
    ) -> Result<LoadedImage, ContentError> {
        let mut ingest = Ingest::new(self);
        let (diff_id, _) = ingest.add_layer(archive, "of a build")?;
        config.rootfs.diff_ids = base.map_or_else(Vec::new, |base| base.layers.clone());
        config.rootfs.diff_ids.push(diff_id);
        ingest.commit_one(ImagePlan::step(config)?)
    }

    /// As [`Self::add_step`], of a layer's blob that comes from elsewhere: both digests must be those that were told.
    pub fn import_step(
        &self,
        base: Option<&Image>,
        mut config: ImageConfig,
        diff_id: &Digest,
        blob: &Digest,
        input: impl Read,
    ) -> Result<LoadedImage, ContentError> {
        let mut ingest = Ingest::new(self);
        let (found, found_blob) = ingest.add_layer(input, "of a cache")?;
        if found_blob != *blob {
            return Err(mismatch("a cached layer", blob, &found_blob));
        }
        if found != *diff_id {
            return Err(mismatch("a cached layer's archive", diff_id, &found));
        }
        config.rootfs.diff_ids = base.map_or_else(Vec::new, |base| base.layers.clone());
        config.rootfs.diff_ids.push(found);
        ingest.commit_one(ImagePlan::step(config)?)
    }

    /// Makes a step's image of layers that are here, bottom first, by the digests of their archives.
    pub fn configure_step(
        &self,
        layers: &[Digest],
        mut config: ImageConfig,
    ) -> Result<LoadedImage, ContentError> {
        config.rootfs.diff_ids = layers.to_vec();
        let plan = ImagePlan::step(config)?;
        let id = crate::store::digest_of(&plan.raw_config);
        // A build of nothing new makes an image that builds keep already.
        if self.read().images.get(&id).is_some_and(|image| image.is_step) {
            let names = Vec::new();
            return Ok(LoadedImage { id, names });
        }
        Ingest::new(self).commit_one(plan)
    }

    /// Lets everybody see a step's image, under these names too; answers once it would survive a power loss.
    pub fn publish_step(&self, id: &Digest, names: &[&str]) -> Result<LoadedImage, ContentError> {
        let names = names
            .iter()
            .map(|name| Reference::parse(name).map(Reference::or_latest))
            .collect::<Result<Vec<_>, _>>()?;
        let stored = self.read().images.get(id).cloned();
        let stored = stored.ok_or_else(|| ContentError::NoSuchImage(id.to_string()))?;
        if self.is_published(&stored, id, &names) {
            let names = names.iter().map(Reference::familiar).collect();
            return Ok(LoadedImage {
                id: id.clone(),
                names,
            });
        }
        let plan = ImagePlan {
            raw_config: stored.raw_config.to_vec(),
            config: ImageConfig::clone(&stored.config),
            names,
            manifest: None,
            is_step: false,
        };
        Ingest::new(self).commit_one(plan)
    }

    /// Whether users see this image.
    pub fn is_listed(&self, id: &Digest) -> bool {
        self.read().images.get(id).is_some_and(|image| image.is_listed)
    }

    fn is_published(&self, stored: &StoredImage, id: &Digest, names: &[Reference]) -> bool {
        let state = self.read();
        let is_named = |name: &Reference| state.names.get(&name.to_string()) == Some(id);
        stored.is_listed && stored.unsynced.is_none() && names.iter().all(is_named)
    }

    /// Images that builds keep, listed or not.
    pub fn step_images(&self) -> Vec<Arc<Image>> {
        let state = self.read();
        let steps = state.images.iter().filter(|(_, image)| image.is_step);
        steps.filter_map(|(id, _)| state.view(id)).map(Arc::new).collect()
    }

    /// The layers of builds' own images, by chain id.
    pub fn step_layers(&self) -> HashMap<Digest, StepLayer> {
        let state = self.read();
        let listed = state.images.values().filter(|image| image.is_listed);
        let shared: HashSet<&Digest> = listed.flat_map(|image| &image.chain_ids).collect();
        let steps = state.images.values().filter(|image| image.is_step);
        let layer = |chain: &Digest| {
            let layer = state.layers.get(chain);
            let found = StepLayer {
                bytes: layer.map_or(0, |layer| layer.bytes),
                is_shared: shared.contains(chain),
                parent: layer.and_then(|layer| layer.parent.clone()),
            };
            (chain.clone(), found)
        };
        steps.flat_map(|image| &image.chain_ids).map(layer).collect()
    }

    /// Lets go of images that builds kept; those nobody sees are deleted, with layers that only they needed. Returns the
    /// bytes of layers that are gone.
    pub fn forget_steps(&self, ids: &[Digest]) -> Result<u64, ContentError> {
        let _change = self.begin_change();
        let mut next = {
            let state = self.read();
            crate::store::State {
                images: state.images.clone(),
                names: state.names.clone(),
                ..Default::default()
            }
        };
        let mut gone = Vec::new();
        for id in ids {
            let Some(image) = next.images.get_mut(id) else {
                continue;
            };
            image.is_step = false;
            if !image.is_listed {
                gone.extend(next.images.remove(id).map(|image| (id, image.attested)));
            }
        }
        self.layout.write_index(&next.index())?;
        self.write().images = next.images;
        for (id, attested) in gone {
            remove_any(&self.layout.blob(id))?;
            self.remove_predicates(attested.as_deref())?;
        }
        let removed = self.collect_layers()?;
        Ok(removed.iter().map(|layer| layer.bytes).sum())
    }

    /// Makes a layer of a tree that is there already: `archive` says what is in it.
    fn stage_tree(&self, archive: impl Read, tree: &Path) -> Result<StagedLayer, LayerError> {
        let path = self.layout.temporary();
        let failed = |name: &Path, action| {
            let name = name.display().to_string();
            move |source: io::Error| LayerError::Io { name, action, source }
        };
        std::fs::create_dir(&path).map_err(failed(&path, "create"))?;
        let made = || -> Result<StagedLayer, LayerError> {
            let (diff_id, bytes, unpacked) = describe_tree(archive, tree, &path)?;
            std::fs::rename(tree, path.join("diff")).map_err(failed(tree, "rename"))?;
            Ok(StagedLayer {
                path: path.clone(),
                blob: diff_id.clone(),
                diff_id,
                blob_bytes: bytes,
                kept: None,
                unpacked,
            })
        };
        made().inspect_err(|_| drop(std::fs::remove_dir_all(&path)))
    }
}

/// Reads the archive to its end: its digest and length, and its frame, written into `staging`.
fn describe_tree(
    archive: impl Read,
    tree: &Path,
    staging: &Path,
) -> Result<(Digest, u64, Unpacked), LayerError> {
    let failed = |name: &str, action| {
        let name = name.to_owned();
        move |source: io::Error| LayerError::Io { name, action, source }
    };
    let frame = File::create_new(staging.join("frame.zst")).map_err(failed("frame.zst", "create"))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        rustix::fs::open(tree, flags, Mode::empty()).map_err(|errno| failed("/", "open")(errno.into()))?;
    let mut unpacked = Unpacked::default();
    let mut input = BufReader::with_capacity(BUFFER_BYTES, HashingReader::new(archive));
    let mut reader = TarReader::new(&mut input, FrameWriter::new(frame)?);
    while let Some(entry) = reader.next_entry()? {
        unpacked.entries += 1;
        let name = entry.name.strip_suffix(b"/").unwrap_or(&entry.name).to_vec();
        let bytes = reader.remaining();
        if bytes > 0 {
            reader.tap.file(bytes, &name)?;
            unpacked.bytes += bytes;
            loop {
                let length = reader.content()?.len();
                if length == 0 {
                    break;
                }
                reader.consume(length);
            }
        }
        set_time(&root, &name, &entry)?;
    }
    reader.tap.finish()?;
    let (digest, bytes) = input.into_inner().finish().map_err(LayerError::Read)?;
    Ok((digest, bytes, unpacked))
}

/// Gives a file the time that its layer says, so that a container here sees what one elsewhere sees.
fn set_time(root: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), LayerError> {
    let base = name.rsplit(|byte| *byte == b'/').next().unwrap_or(name);
    if entry.kind == EntryKind::HardLink || base.starts_with(b".wh.") {
        return Ok(());
    }
    let time = Timespec {
        tv_sec: entry.mtime.0,
        tv_nsec: entry.mtime.1.into(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(root, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| LayerError::Io {
        name: String::from_utf8_lossy(name).into_owned(),
        action: "set the time of",
        source: errno.into(),
    })
}
