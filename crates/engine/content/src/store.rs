//! The store itself: what is in it, kept in memory; opening; looking up; naming.

use crate::annotate::Annotations;
use crate::attest::AttestedRecord;
use crate::error::ContentError;
use crate::image::{DiskUsage, HistoryEntry, Image, ImageUsage, LayerPlace, OpenReport};
use crate::layout::{ImageRecord, IndexRecord, LayerRecord, Layout};
use naru_base::{ContainerId, Digest, Timestamp};
use naru_oci::{AnyReference, ImageConfig, Reference};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// An image as it is kept; [`Image`] is made from it with the names of the moment.
#[derive(Debug, Clone)]
pub(crate) struct StoredImage {
    pub config: Arc<ImageConfig>,
    pub raw_config: Arc<[u8]>,
    pub chain_ids: Vec<Digest>,
    pub arrived_at: Timestamp,
    pub manifest: Option<Digest>,
    pub attested: Option<Arc<AttestedRecord>>,
    pub annotations: Option<Arc<Annotations>>,
    /// A build made it here.
    pub is_built: bool,
    /// A build keeps it (see `step`).
    pub is_step: bool,
    /// Users see it.
    pub is_listed: bool,
    /// The boot it was made in, until it is synced.
    pub unsynced: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub images: BTreeMap<Digest, StoredImage>,
    pub names: BTreeMap<String, Digest>,
    pub layers: HashMap<Digest, Arc<LayerRecord>>,
    /// Topmost layer under each snapshot; `None` when it has no layers.
    pub snapshots: HashMap<ContainerId, Option<Digest>>,
    /// Topmost layers of the images that a container has mounted beside its root.
    pub mounted: HashMap<ContainerId, Vec<Digest>>,
    /// Layers that a load under way counts on.
    pub pins: HashMap<Digest, usize>,
}

/// Images, layers and snapshots under one directory.
#[derive(Debug)]
pub struct ContentStore {
    pub(crate) layout: Layout,
    /// Held for moments only, never while a disk is waited for.
    state: RwLock<State>,
    /// Held by whoever changes `images.json` or deletes layers. Taken before `state`.
    changes: Mutex<()>,
    pub(crate) copying: Mutex<()>,
    report: OpenReport,
}

impl ContentStore {
    /// Opens the store at `root`, makes it if there is none, and puts right what a crash left.
    pub fn open(root: &Path) -> Result<Self, ContentError> {
        let layout = Layout::open(root)?;
        let mut report = OpenReport::default();
        crate::recovery::clean_temporary(&layout, &mut report)?;
        crate::snapshot::make_init_layer(&layout)?;
        let state = crate::recovery::read_state(&layout, &mut report)?;
        let store = Self {
            layout,
            state: RwLock::new(state),
            changes: Mutex::new(()),
            copying: Mutex::new(()),
            report,
        };
        store.sweep_downloads();
        Ok(store)
    }

    /// What `open` found and put right.
    pub fn open_report(&self) -> &OpenReport {
        &self.report
    }

    // A panic while one of these locks is held leaves no half-made state: every change to the maps is one insertion
    // or removal after the files are in place.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin_change(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds an image by name, name and tag, name and digest, id, or an unambiguous prefix of an id.
    pub fn image(&self, reference: &str) -> Result<Arc<Image>, ContentError> {
        let state = self.read();
        let id = state.resolve(reference)?;
        state
            .view(&id)
            .map(Arc::new)
            .ok_or_else(|| ContentError::NoSuchImage(reference.to_owned()))
    }

    /// Every image but those that only builds keep, the newest first.
    pub fn images(&self) -> Vec<Arc<Image>> {
        let state = self.read();
        let mut images: Vec<_> = state
            .images
            .iter()
            .filter(|(_, image)| image.is_listed)
            .filter_map(|(id, _)| state.view(id))
            .map(Arc::new)
            .collect();
        images.sort_by(|a, b| b.listed_at().cmp(&a.listed_at()).then_with(|| a.id.cmp(&b.id)));
        images
    }

    /// How the image was made, newest step first, as `docker history` lists it.
    pub fn history(&self, image: &Image) -> Vec<HistoryEntry> {
        let state = self.read();
        let mut layers = image.chain_ids.iter();
        let mut entries: Vec<HistoryEntry> = image
            .config
            .history
            .iter()
            .map(|step| HistoryEntry {
                id: "<missing>".to_owned(),
                created: step.created,
                created_by: step.created_by.clone(),
                tags: Vec::new(),
                bytes: if step.empty_layer { None } else { layers.next() }
                    .and_then(|chain| state.layers.get(chain))
                    .map_or(0, |layer| layer.bytes),
                comment: step.comment.clone(),
            })
            .collect();
        entries.reverse();
        if let Some(newest) = entries.first_mut() {
            newest.id = image.id.to_string();
            newest.tags.clone_from(&image.tags);
        }
        entries
    }

    /// Gives the image `source` the name `target` as well; takes that name from another image if need be.
    pub fn tag(&self, source: &str, target: &str) -> Result<(), ContentError> {
        let reference = Reference::parse(target)?;
        if reference.digest().is_some() {
            return Err(ContentError::TagWithDigest);
        }
        let name = reference.or_latest().to_string();
        let _change = self.begin_change();
        let mut index;
        let id;
        {
            let state = self.read();
            id = state.resolve(source)?;
            index = state.index();
        }
        index.names.insert(name.clone(), id.clone());
        self.layout.write_index(&index)?;
        self.write().names.insert(name, id);
        Ok(())
    }

    /// Space used by layers, together and by image.
    pub fn disk_usage(&self) -> DiskUsage {
        let state = self.read();
        let users = state.images_by_layer();
        let bytes_of = |chain: &Digest| state.layers.get(chain).map_or(0, |layer| layer.bytes);
        // What only steps have is told with the cache of builds.
        let steps = state.images.values().filter(|image| image.is_step);
        let steps: HashSet<&Digest> = steps.flat_map(|image| &image.chain_ids).collect();
        let listed = state.images.iter().filter(|(_, image)| image.is_listed);
        let images = listed.map(|(id, image)| ImageUsage {
            id: id.clone(),
            bytes: image.chain_ids.iter().map(bytes_of).sum(),
            shared_bytes: image
                .chain_ids
                .iter()
                .filter(|chain| users.get(chain).is_some_and(|count| *count > 1))
                .map(bytes_of)
                .sum(),
        });
        DiskUsage {
            layers_bytes: state
                .layers
                .iter()
                .filter(|(chain, _)| users.contains_key(chain) || !steps.contains(chain))
                .map(|(_, layer)| layer.bytes)
                .sum(),
            images: images.collect(),
        }
    }

    /// Every layer's directory. What is in it changes only together with the directory's own time of change.
    pub fn layer_places(&self) -> Vec<LayerPlace> {
        let state = self.read();
        let users = state.images_by_layer();
        let place = |chain: &Digest| LayerPlace {
            path: self.layout.layer(chain),
            images: users.get(chain).copied().unwrap_or_default(),
        };
        state.layers.keys().map(place).collect()
    }
}

impl State {
    /// How many images that users see have each layer.
    fn images_by_layer(&self) -> HashMap<&Digest, usize> {
        let mut users: HashMap<&Digest, usize> = HashMap::new();
        let listed = self.images.values().filter(|image| image.is_listed);
        for chain in listed.flat_map(|image| &image.chain_ids) {
            *users.entry(chain).or_default() += 1;
        }
        users
    }

    pub(crate) fn index(&self) -> IndexRecord {
        let record = |image: &StoredImage| ImageRecord {
            arrived_at: image.arrived_at,
            manifest: image.manifest.clone(),
            attested: image.attested.as_deref().cloned(),
            annotations: image.annotations.as_deref().cloned(),
            is_built: image.is_built,
            is_step: image.is_step,
            is_hidden: !image.is_listed,
            unsynced: image.unsynced.clone(),
        };
        IndexRecord {
            images: self
                .images
                .iter()
                .map(|(id, image)| (id.clone(), record(image)))
                .collect(),
            names: self.names.clone(),
        }
    }

    /// Canonical names of the image, sorted.
    pub(crate) fn names_of(&self, id: &Digest) -> Vec<Reference> {
        let of_image = self.names.iter().filter(|(_, named)| *named == id);
        of_image
            .filter_map(|(name, _)| Reference::parse(name).ok())
            .collect()
    }

    pub(crate) fn view(&self, id: &Digest) -> Option<Image> {
        let image = self.images.get(id)?;
        let (digests, tags): (Vec<_>, Vec<_>) = self
            .names_of(id)
            .into_iter()
            .partition(|name| name.digest().is_some());
        let familiar = |names: Vec<Reference>| names.iter().map(Reference::familiar).collect();
        Some(Image {
            id: id.clone(),
            config: image.config.clone(),
            raw_config: image.raw_config.clone(),
            tags: familiar(tags),
            digests: familiar(digests),
            layers: image.config.rootfs.diff_ids.clone(),
            chain_ids: image.chain_ids.clone(),
            bytes: image
                .chain_ids
                .iter()
                .filter_map(|c| self.layers.get(c))
                .map(|l| l.bytes)
                .sum(),
            created: image.config.created,
            arrived_at: image.arrived_at,
            is_built: image.is_built,
        })
    }

    /// The id of the image that `text` means, in Docker's order: whole id, name, prefix of an id.
    pub(crate) fn resolve(&self, text: &str) -> Result<Digest, ContentError> {
        let named = match AnyReference::parse(text)? {
            AnyReference::Id(id) => {
                if !self.images.contains_key(&id) {
                    return Err(ContentError::NoSuchImage(id.to_string()));
                }
                return Ok(id);
            }
            AnyReference::Named(reference) => reference.or_latest(),
        };
        if let Some(id) = self.lookup_name(&named) {
            return Ok(id);
        }
        self.lookup_prefix(text)
            .ok_or_else(|| ContentError::NoSuchImage(named.familiar()))
    }

    fn lookup_name(&self, reference: &Reference) -> Option<Digest> {
        if let Some(id) = self.names.get(&reference.to_string()) {
            return Some(id.clone());
        }
        // `name:tag@digest` is found by its digest alone.
        let digest = reference.digest()?;
        self.names
            .get(&reference.with_digest(digest.clone()).to_string())
            .cloned()
    }

    fn lookup_prefix(&self, text: &str) -> Option<Digest> {
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        if prefix.is_empty() || !prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let find = |is_listed| {
            let images = self
                .images
                .iter()
                .filter(|(_, image)| image.is_listed == is_listed);
            let mut matching = images.map(|(id, _)| id).filter(|id| id.hex().starts_with(prefix));
            let first = matching.next()?;
            matching.next().is_none().then(|| first.clone())
        };
        // A build tells its steps' images by such ids: one can look around in them as with Docker.
        find(true).or_else(|| find(false))
    }

    /// Layers that nothing needs.
    pub(crate) fn unneeded_layers(&self) -> Vec<Digest> {
        let mut needed: HashSet<&Digest> = self.images.values().flat_map(|image| &image.chain_ids).collect();
        let mounted = self.mounted.values().flatten();
        let tops = self.snapshots.values().flatten().chain(mounted);
        for top in tops.chain(self.pins.keys()) {
            let mut next = Some(top);
            while let Some(chain) = next {
                needed.insert(chain);
                next = self.layers.get(chain).and_then(|layer| layer.parent.as_ref());
            }
        }
        self.layers
            .keys()
            .filter(|chain| !needed.contains(chain))
            .cloned()
            .collect()
    }
}

/// Digest of bytes.
pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

/// Chain ids of layers given bottom first (OCI image specification, "Layer ChainID").
pub(crate) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => diff_id.clone(),
            Some(parent) => digest_of(format!("{parent} {diff_id}").as_bytes()),
        });
    }
    chain
}
