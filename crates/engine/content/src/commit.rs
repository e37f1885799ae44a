//! How staged layers and configurations become images: all or nothing.
//!
//! ```text
//! everything complete in temporary/ → one syncfs → layers and blobs renamed into place → their directories synced
//! → images.json replaced
//! ```
//! Only the last step makes the image. A crash before it leaves layers that nothing names, which the next `open`
//! deletes; a power loss cannot leave `images.json` naming a layer that is not whole, because the layer was on disk
//! before the name was written.

use crate::error::{ContentError, LayerError};
use crate::frame::FrameReader;
use crate::image::{Image, LoadedImage};
use crate::layout::LayerRecord;
use crate::recovery::remove_any;
use crate::stage::{Keep, StagedLayer, stage_layer};
use crate::store::{ContentStore, StoredImage, chain_ids, digest_of};
use naru_base::{Digest, Timestamp};
use naru_oci::{ImageConfig, ManifestDocument, Reference};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Layers gathered for one or more images. Dropped without [`Ingest::commit`], nothing of it stays.
pub struct Ingest<'a> {
    store: &'a ContentStore,
    staged: HashMap<Digest, StagedLayer>,
    pins: Vec<Digest>,
}

/// An image to be made. Its layers' diff ids are those of its configuration.
pub(crate) struct ImagePlan {
    pub raw_config: Vec<u8>,
    pub config: ImageConfig,
    pub names: Vec<Reference>,
    /// The manifest's bytes, where it came with one.
    pub manifest: Option<Vec<u8>>,
    /// A build keeps it; it is not synced, and nobody sees it unless it was seen before.
    pub is_step: bool,
}

impl ImagePlan {
    /// A build's step: without a name.
    pub(crate) fn step(config: ImageConfig) -> Result<Self, ContentError> {
        let raw_config =
            serde_json::to_vec(&config).map_err(|error| ContentError::Config(error.to_string()))?;
        Ok(Self {
            raw_config,
            config,
            names: Vec::new(),
            manifest: None,
            is_step: true,
        })
    }
}

/// Something in `temporary/` that goes when this is dropped, unless it was moved to its place before.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // What cannot be deleted now is deleted when the store is next opened.
        drop(remove_any(&self.0));
    }
}

/// A whole layer, waiting for its place.
struct ReadyLayer {
    record: LayerRecord,
    tree: Temporary,
}

impl Drop for Ingest<'_> {
    fn drop(&mut self) {
        let mut state = self.store.write();
        for pin in self.pins.drain(..) {
            if let Some(count) = state.pins.get_mut(&pin) {
                *count -= 1;
                if *count == 0 {
                    state.pins.remove(&pin);
                }
            }
        }
        drop(state);
        let _change = self.store.begin_change();
        if let Err(error) = self.store.collect_layers() {
            tracing::warn!(%error, "layers that nothing needs could not be deleted");
        }
    }
}

impl<'a> Ingest<'a> {
    pub(crate) fn new(store: &'a ContentStore) -> Self {
        Self {
            store,
            staged: HashMap::new(),
            pins: Vec::new(),
        }
    }

    /// Unpacks a blob; returns its diff id and the blob's own digest.
    pub(crate) fn add_layer(
        &mut self,
        input: impl Read,
        label: &str,
    ) -> Result<(Digest, Digest), ContentError> {
        let staged = stage_layer(input, self.store.layout.temporary(), Keep::Blob)
            .map_err(|source| self.store.layer_error(label, source))?;
        let ids = (staged.diff_id.clone(), staged.blob.clone());
        self.adopt(staged);
        Ok(ids)
    }

    /// Takes over a layer that was unpacked elsewhere.
    pub(crate) fn adopt(&mut self, staged: StagedLayer) {
        self.staged.entry(staged.diff_id.clone()).or_insert(staged);
    }

    pub(crate) fn store(&self) -> &'a ContentStore {
        self.store
    }

    /// Finds a layer that the store has already, by the digest of its archive or of its blob, and keeps it.
    pub(crate) fn find_layer(&mut self, digest: &Digest) -> Option<Digest> {
        let mut state = self.store.write();
        let found = state
            .layers
            .values()
            .find(|l| l.diff_id == *digest || l.blob == *digest)?;
        let (chain, diff_id) = (found.chain_id.clone(), found.diff_id.clone());
        *state.pins.entry(chain.clone()).or_default() += 1;
        self.pins.push(chain);
        Some(diff_id)
    }

    /// Makes the images; answers once they would survive a power loss.
    pub(crate) fn commit(mut self, plans: Vec<ImagePlan>) -> Result<Vec<LoadedImage>, ContentError> {
        let mut ready = Vec::new();
        for plan in &plans {
            self.prepare_layers(&plan.config.rootfs.diff_ids, &mut ready)?;
        }
        self.apply(&plans, ready)
    }

    /// Makes one image.
    pub(crate) fn commit_one(self, plan: ImagePlan) -> Result<LoadedImage, ContentError> {
        self.commit(vec![plan])?
            .pop()
            .ok_or_else(|| ContentError::Config("no image was made".to_owned()))
    }

    /// Finds or makes a tree for each layer that its chain does not have yet.
    fn prepare_layers(
        &mut self,
        diff_ids: &[Digest],
        ready: &mut Vec<ReadyLayer>,
    ) -> Result<(), ContentError> {
        let chain = chain_ids(diff_ids);
        for (index, chain_id) in chain.iter().enumerate() {
            if self.pin_chain(chain_id) || ready.iter().any(|layer| layer.record.chain_id == *chain_id) {
                continue;
            }
            let staged = self.take_tree(&diff_ids[index], ready)?;
            let record = LayerRecord {
                chain_id: chain_id.clone(),
                diff_id: staged.diff_id.clone(),
                parent: index.checked_sub(1).map(|below| chain[below].clone()),
                bytes: staged.unpacked.bytes,
                entries: staged.unpacked.entries,
                blob: staged.blob.clone(),
                blob_bytes: staged.blob_bytes,
                kept: staged.kept.clone(),
                displaced: staged.unpacked.displaced.clone(),
            };
            let lower: Vec<PathBuf> = chain[..index]
                .iter()
                .rev()
                .map(
                    |below| match ready.iter().find(|layer| layer.record.chain_id == *below) {
                        Some(layer) => layer.tree.0.join("diff"),
                        None => self.store.layout.diff(below),
                    },
                )
                .collect();
            adopt_implied(&staged, &lower);
            let path = self.store.layout.temporary();
            let written = serde_json::to_vec(&record)
                .map_err(std::io::Error::from)
                .and_then(|bytes| std::fs::write(staged.path.join("layer.json"), bytes))
                .and_then(|()| std::fs::rename(&staged.path, &path));
            written.map_err(|error| ContentError::io(&staged.path, error))?;
            ready.push(ReadyLayer {
                record,
                tree: Temporary(path),
            });
        }
        Ok(())
    }

    /// Keeps a layer that is there already.
    pub(crate) fn pin_chain(&mut self, chain: &Digest) -> bool {
        let mut state = self.store.write();
        if !state.layers.contains_key(chain) {
            return false;
        }
        *state.pins.entry(chain.clone()).or_default() += 1;
        self.pins.push(chain.clone());
        true
    }

    /// The staged tree of a layer; or, where the same layer is already used in another place, a second one made from
    /// its frame.
    fn take_tree(&mut self, diff_id: &Digest, ready: &[ReadyLayer]) -> Result<StagedLayer, ContentError> {
        if let Some(staged) = self.staged.remove(diff_id) {
            return Ok(staged);
        }
        let (record, path) = self.find_tree(diff_id, ready)?;
        let frame = FrameReader::open(&path, record.displaced).map_err(|e| ContentError::io(&path, e))?;
        let mut staged = stage_layer(frame, self.store.layout.temporary(), Keep::Nothing)
            .map_err(|source| self.store.layer_error(diff_id.short(), source))?;
        if staged.diff_id != *diff_id {
            return Err(mismatch("a layer made again", diff_id, &staged.diff_id));
        }
        (staged.blob, staged.blob_bytes) = (record.blob, record.blob_bytes);
        // Without its compressed form the layer is as good; a push compresses it anew.
        if std::fs::hard_link(path.join("blob"), staged.path.join("blob")).is_ok() {
            staged.kept = record.kept;
        }
        Ok(staged)
    }

    /// A tree of this layer that is in use already, here or in the store.
    fn find_tree(
        &self,
        diff_id: &Digest,
        ready: &[ReadyLayer],
    ) -> Result<(LayerRecord, PathBuf), ContentError> {
        if let Some(layer) = ready.iter().find(|layer| layer.record.diff_id == *diff_id) {
            return Ok((layer.record.clone(), layer.tree.0.clone()));
        }
        let state = self.store.read();
        let record = state.layers.values().find(|record| record.diff_id == *diff_id);
        let record = record.ok_or_else(|| ContentError::Archive(format!("layer {diff_id} is missing")))?;
        Ok((
            LayerRecord::clone(record),
            self.store.layout.layer(&record.chain_id),
        ))
    }

    fn apply(&self, plans: &[ImagePlan], ready: Vec<ReadyLayer>) -> Result<Vec<LoadedImage>, ContentError> {
        let store = self.store;
        let mut blobs = Vec::new();
        for plan in plans {
            let blob = Temporary(store.layout.temporary());
            std::fs::write(&blob.0, &plan.raw_config).map_err(|e| ContentError::io(&blob.0, e))?;
            blobs.push((digest_of(&plan.raw_config), blob));
            if let Some(manifest) = &plan.manifest {
                let blob = Temporary(store.layout.temporary());
                std::fs::write(&blob.0, manifest).map_err(|e| ContentError::io(&blob.0, e))?;
                blobs.push((digest_of(manifest), blob));
            }
        }
        let is_synced = plans.iter().any(|plan| !plan.is_step);
        let mut synced = Vec::new();
        if is_synced {
            synced.extend(store.unsynced_images());
            store.layout.sync_filesystem()?;
        }
        let _change = store.begin_change();
        let made = self.put_in_place(plans, ready, &blobs, is_synced.then_some(&synced));
        if made.is_err() {
            store.remove_unneeded_blobs(blobs.iter().map(|(digest, _)| digest));
        }
        made
    }

    fn put_in_place(
        &self,
        plans: &[ImagePlan],
        ready: Vec<ReadyLayer>,
        blobs: &[(Digest, Temporary)],
        synced: Option<&Vec<Digest>>,
    ) -> Result<Vec<LoadedImage>, ContentError> {
        let store = self.store;
        for layer in ready {
            store.adopt_layer(layer)?;
        }
        for (digest, blob) in blobs {
            let target = store.layout.blob(digest);
            std::fs::rename(&blob.0, &target).map_err(|e| ContentError::io(&target, e))?;
        }
        if synced.is_some() {
            store.layout.sync_directory("layers")?;
            store.layout.sync_directory("blobs/sha256")?;
        }
        store.publish(plans, synced)
    }
}

impl ContentStore {
    /// Makes an image from layers given bottom first, plain or compressed; fills in `config.rootfs`.
    pub fn import_image(
        &self,
        names: &[&str],
        mut config: ImageConfig,
        layers: Vec<Box<dyn Read + Send + '_>>,
    ) -> Result<LoadedImage, ContentError> {
        let names: Vec<Reference> = names
            .iter()
            .map(|name| Reference::parse(name).map(Reference::or_latest))
            .collect::<Result<_, _>>()?;
        let mut ingest = Ingest::new(self);
        config.rootfs.diff_ids.clear();
        for (index, layer) in layers.into_iter().enumerate() {
            let (diff_id, _) = ingest.add_layer(layer, &format!("{}", index + 1))?;
            config.rootfs.diff_ids.push(diff_id);
        }
        let raw_config =
            serde_json::to_vec(&config).map_err(|error| ContentError::Config(error.to_string()))?;
        ingest.commit_one(ImagePlan {
            raw_config,
            config,
            names,
            manifest: None,
            is_step: false,
        })
    }

    /// The uncompressed archive of a layer of `image`, made again bit for bit; the caller checks it by its diff id.
    pub fn layer_archive(
        &self,
        image: &Image,
        index: usize,
    ) -> Result<impl Read + Send + use<>, ContentError> {
        let missing = || ContentError::NoSuchImage(image.id.to_string());
        let chain = image.chain_ids.get(index).ok_or_else(missing)?;
        let record = self.read().layers.get(chain).cloned().ok_or_else(missing)?;
        let path = self.layout.layer(chain);
        FrameReader::open(&path, record.displaced.clone()).map_err(|error| ContentError::io(&path, error))
    }

    pub(crate) fn layer_error(&self, label: &str, source: LayerError) -> ContentError {
        if source.is_disk_full() {
            return ContentError::DiskFull(self.layout.root.clone());
        }
        ContentError::Layer {
            layer: label.to_owned(),
            source,
        }
    }

    /// Moves a complete tree to its place, unless another load was faster.
    fn adopt_layer(&self, layer: ReadyLayer) -> Result<(), ContentError> {
        let chain = layer.record.chain_id.clone();
        if self.read().layers.contains_key(&chain) {
            return Ok(());
        }
        let target = self.layout.layer(&chain);
        std::fs::rename(&layer.tree.0, &target).map_err(|e| ContentError::io(&target, e))?;
        self.write().layers.insert(chain, Arc::new(layer.record));
        Ok(())
    }

    fn unsynced_images(&self) -> Vec<Digest> {
        let state = self.read();
        let unsynced = state.images.iter().filter(|(_, image)| image.unsynced.is_some());
        unsynced.map(|(id, _)| id.clone()).collect()
    }

    /// Writes the images into `images.json`, then into memory. `synced` are older ones that the same sync has reached;
    /// without it nothing is synced.
    fn publish(
        &self,
        plans: &[ImagePlan],
        synced: Option<&Vec<Digest>>,
    ) -> Result<Vec<LoadedImage>, ContentError> {
        let arrived_at = Timestamp::now();
        let (mut images, mut names) = {
            let state = self.read();
            (state.images.clone(), state.names.clone())
        };
        let mut loaded = Vec::new();
        let mut replaced = Vec::new();
        for plan in plans {
            let id = digest_of(&plan.raw_config);
            let image = images.entry(id.clone()).or_insert_with(|| StoredImage {
                config: Arc::new(plan.config.clone()),
                raw_config: plan.raw_config.as_slice().into(),
                chain_ids: chain_ids(&plan.config.rootfs.diff_ids),
                arrived_at,
                manifest: None,
                attested: None,
                annotations: None,
                is_built: plan.is_step,
                is_step: false,
                is_listed: false,
                unsynced: plan.is_step.then(crate::step::boot_id),
            });
            image.is_step |= plan.is_step;
            image.is_listed |= !plan.is_step;
            if let Some(manifest) = &plan.manifest {
                let digest = digest_of(manifest);
                // An image keeps the manifest it has, if that can still be pushed as it is.
                let has_better = image.manifest.as_ref().is_some_and(|old| self.has_blobs_of(old));
                if image.manifest.as_ref() != Some(&digest) {
                    let (new, unused) = match image.manifest.take() {
                        Some(old) if has_better => (old, digest),
                        Some(old) => (digest, old),
                        None => (digest.clone(), digest),
                    };
                    if new != unused {
                        replaced.push(unused);
                    }
                    image.manifest = Some(new);
                }
            }
            for name in &plan.names {
                names.insert(name.to_string(), id.clone());
            }
            loaded.push(LoadedImage {
                id,
                names: plan.names.iter().map(Reference::familiar).collect(),
            });
        }
        let next = crate::store::State {
            images,
            names,
            ..Default::default()
        };
        let mut next = next;
        if let Some(synced) = synced {
            for id in synced {
                next.images
                    .entry(id.clone())
                    .and_modify(|image| image.unsynced = None);
            }
            self.layout.write_index(&next.index())?;
        } else {
            self.layout.write_index_later(&next.index())?;
        }
        let mut state = self.write();
        state.images = next.images;
        state.names = next.names;
        drop(state);
        for unused in replaced {
            remove_any(&self.layout.blob(&unused))?;
        }
        Ok(loaded)
    }

    /// Deletes those of these blobs that no image has, after one could not be made.
    fn remove_unneeded_blobs<'b>(&self, digests: impl Iterator<Item = &'b Digest>) {
        let state = self.read();
        let unneeded: Vec<&Digest> = digests.filter(|digest| !state.needs_blob(digest)).collect();
        drop(state);
        for digest in unneeded {
            // What cannot be deleted now is deleted when the store is next opened.
            drop(remove_any(&self.layout.blob(digest)));
        }
    }

    /// Whether every layer of this manifest could be sent byte for byte.
    pub(crate) fn has_blobs_of(&self, manifest: &Digest) -> bool {
        let document = self.read_blob(manifest).ok();
        let document = document.and_then(|bytes| ManifestDocument::parse(&bytes, None).ok());
        let Some(ManifestDocument::Manifest(manifest)) = document else {
            return false;
        };
        let state = self.read();
        manifest.layers.iter().all(|wanted| {
            state.layers.values().any(|layer| {
                layer.diff_id == wanted.digest
                    || layer
                        .kept
                        .as_ref()
                        .is_some_and(|kept| kept.digest == wanted.digest)
            })
        })
    }

    /// A whole small blob, compared with its digest.
    pub(crate) fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>, ContentError> {
        let path = self.layout.blob(digest);
        let bytes = std::fs::read(&path).map_err(|error| ContentError::io(&path, error))?;
        let found = digest_of(&bytes);
        if found != *digest {
            return Err(mismatch(&path.display().to_string(), digest, &found));
        }
        Ok(bytes)
    }

    /// Deletes layers that nothing needs, top down; returns them. The caller holds the lock on changes.
    pub(crate) fn collect_layers(&self) -> Result<Vec<Arc<LayerRecord>>, ContentError> {
        let mut unneeded: Vec<Arc<LayerRecord>> = {
            let mut state = self.write();
            let chains = state.unneeded_layers();
            chains
                .iter()
                .filter_map(|chain| state.layers.remove(chain))
                .collect()
        };
        let parents: HashMap<Digest, Option<Digest>> = unneeded
            .iter()
            .map(|l| (l.chain_id.clone(), l.parent.clone()))
            .collect();
        let depth = |chain: &Digest| std::iter::successors(Some(chain), |c| parents.get(c)?.as_ref()).count();
        unneeded.sort_by_key(|layer| std::cmp::Reverse(depth(&layer.chain_id)));
        for layer in &unneeded {
            // Moved first: a half-deleted tree must never be found under a layer's name.
            let (path, trash) = (self.layout.layer(&layer.chain_id), self.layout.temporary());
            match std::fs::rename(&path, &trash) {
                Ok(()) => remove_any(&trash)?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(ContentError::io(&path, error)),
            }
        }
        Ok(unneeded)
    }
}

pub(crate) fn mismatch(what: &str, expected: &Digest, found: &Digest) -> ContentError {
    ContentError::DigestMismatch {
        what: what.to_owned(),
        expected: expected.clone(),
        found: found.clone(),
    }
}

/// Gives directories that the archive only implied the attributes they have in the layers below, topmost first;
/// otherwise a file in `/tmp` would make a `/tmp` that only root may write.
fn adopt_implied(staged: &StagedLayer, lower: &[PathBuf]) {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let open = |root: &Path, path: &[u8]| {
        let root = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
        rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve).ok()
    };
    for implied in &staged.unpacked.implied {
        let below = lower.iter().find_map(|root| {
            let found = open(root, implied)?;
            rustix::fs::fstat(&found).ok()
        });
        let Some(stat) = below.filter(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory) else {
            continue;
        };
        let path =
            staged
                .path
                .join("diff")
                .join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(
                    implied,
                ));
        // A failure leaves root and 0755, what Docker would have left.
        let _ = rustix::fs::chownat(
            rustix::fs::CWD,
            &path,
            Some(rustix::fs::Uid::from_raw(stat.st_uid)),
            Some(rustix::fs::Gid::from_raw(stat.st_gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        );
        let _ = rustix::fs::chmod(&path, Mode::from_raw_mode(stat.st_mode & 0o7777));
    }
}
