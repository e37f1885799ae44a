//! Where contexts are, and what of them is in memory.

use super::pack::{self, Pack};
use super::update::Update;
use super::{Version, index};
use crate::error::Result;
use naru_sys::file;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The places that were asked for, by their directories. The lock on the data root keeps other daemons away.
#[derive(Debug, Default)]
pub(in crate::build) struct Contexts(Mutex<HashMap<PathBuf, Arc<Place>>>);

/// One client's directory.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) directory: PathBuf,
    known: Mutex<Known>,
    /// Held by who writes the index.
    saving: Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    is_read: bool,
    latest: Option<Arc<Version>>,
    is_saved: bool,
    /// The number of the newest pack.
    packs: u64,
    /// How many builds bring it up to date.
    updates: usize,
    used: Option<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Contexts {
    pub(super) fn place(&self, contexts: &Path, key: &str) -> Arc<Place> {
        let name = crate::build::cache::key_of(&("context", key));
        let directory = contexts.join(name.hex());
        let mut places = lock(&self.0);
        let place = places
            .entry(directory)
            .or_insert_with_key(|directory| Arc::new(Place::new(directory.clone())));
        Arc::clone(place)
    }

    fn all(&self) -> Vec<Arc<Place>> {
        lock(&self.0).values().cloned().collect()
    }

    /// Writes the indexes of what has changed.
    pub(super) fn save(&self) {
        for place in self.all() {
            if let Err(error) = place.save() {
                tracing::warn!(%error, "the index of a build context could not be written; the next daemon asks for it anew");
            }
        }
    }

    /// Forgets what is at rest beyond so many entries, longest unused first; it can be read again.
    pub(super) fn forget(&self, entries_max: usize) {
        let mut places = lock(&self.0);
        // What is locked, or in other hands, is in use.
        let mut at_rest: Vec<(Option<Instant>, PathBuf, usize)> = places
            .values()
            .filter(|place| Arc::strong_count(place) == 1)
            .filter_map(|place| {
                let known = place.known.try_lock().ok()?;
                let entries = known.latest.as_ref().map_or(0, |latest| latest.entries.len());
                (known.is_saved || entries == 0).then(|| (known.used, place.directory.clone(), entries))
            })
            .collect();
        at_rest.sort_by(|one, other| other.cmp(one));
        let mut total = 0;
        for (_, directory, entries) in at_rest {
            total += entries;
            if total > entries_max || entries == 0 {
                places.remove(&directory);
            }
        }
    }

    pub(super) fn is_held(&self, directory: &Path) -> bool {
        let place = lock(&self.0).get(directory).cloned();
        place.is_some_and(|place| lock(&place.known).updates > 0)
    }

    /// Empties a place; false if somebody is at it.
    pub(super) fn clear<E>(&self, directory: &Path, remove: impl FnOnce(&Path) -> Result<(), E>) -> bool {
        let place = {
            let mut places = lock(&self.0);
            let place = places
                .entry(directory.to_owned())
                .or_insert_with_key(|directory| Arc::new(Place::new(directory.clone())));
            Arc::clone(place)
        };
        let _saving = lock(&place.saving);
        // Who asks for it now waits until it is empty.
        let mut known = lock(&place.known);
        if known.updates > 0 {
            return false;
        }
        (known.is_read, known.latest) = (true, None);
        remove(directory).is_ok()
    }
}

/// A place that a build brings up to date; nobody empties it as long as this is there.
#[derive(Debug)]
pub(super) struct Updating(Arc<Place>);

impl std::ops::Deref for Updating {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.0
    }
}

impl Drop for Updating {
    fn drop(&mut self) {
        lock(&self.0.known).updates -= 1;
    }
}

impl Place {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            known: Mutex::default(),
            saving: Mutex::default(),
        }
    }

    /// What is known, after what a daemon before this one has left was read.
    fn known(&self) -> MutexGuard<'_, Known> {
        let mut known = lock(&self.known);
        known.used = Some(Instant::now());
        if !known.is_read {
            (known.is_read, known.is_saved) = (true, true);
            known.latest = index::read(&self.directory).map(Arc::new);
            known.packs = known.latest.as_ref().map_or(0, |latest| latest.pack.number);
            if known.latest.is_some() {
                pack::remove_others(&self.directory, known.packs, true);
            } else {
                let _ = file::remove_tree(&self.directory);
            }
        }
        known
    }

    /// The last version, if there is one.
    pub(super) fn latest(&self) -> Option<Arc<Version>> {
        self.known().latest.clone()
    }

    pub(super) fn begin(self: Arc<Self>) -> Result<Update> {
        let before = {
            let mut known = self.known();
            known.updates += 1;
            known.latest.clone()
        };
        Update::begin(Updating(self), before)
    }

    pub(super) fn new_pack(&self) -> Result<Arc<Pack>> {
        let number = {
            let mut known = self.known();
            known.packs += 1;
            known.packs
        };
        file::make_directories(&self.directory, 0o700)?;
        Ok(Arc::new(Pack::create(&self.directory, number)?))
    }

    /// Takes a version for the last one; a build beside that one may have been faster with a newer pack.
    pub(super) fn record(&self, version: &Arc<Version>) {
        let mut known = self.known();
        let is_newest = |latest: &Arc<Version>| latest.pack.number <= version.pack.number;
        if known.latest.as_ref().is_none_or(is_newest) {
            known.latest = Some(Arc::clone(version));
            known.is_saved = false;
        }
    }

    pub(super) fn save(&self) -> Result<()> {
        let _saving = lock(&self.saving);
        let latest = {
            let mut known = lock(&self.known);
            if known.is_saved {
                return Ok(());
            }
            known.is_saved = true;
            known.latest.clone()
        };
        if let Some(latest) = latest {
            index::write(&self.directory, &latest)?;
            pack::remove_others(&self.directory, latest.pack.number, false);
        }
        Ok(())
    }
}
