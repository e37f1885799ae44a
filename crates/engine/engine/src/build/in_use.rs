//! What builds that run now need of the cache, so that pruning leaves it to them.

use naru_base::{Digest, Timestamp};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct State {
    images: HashMap<Digest, usize>,
    mounts: HashMap<String, usize>,
    /// Images that are being forgotten: no build finds them any more.
    going: HashSet<Digest>,
    /// When each running build began. Whatever it made since is its own.
    begun: BTreeMap<u64, Timestamp>,
    builds: u64,
}

/// Shared by the builds of one engine.
#[derive(Debug, Clone, Default)]
pub(super) struct InUse(Arc<Mutex<State>>);

impl InUse {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A build begins; what it holds is free again when this is dropped.
    pub(super) fn begin(&self) -> Uses {
        let mut state = self.state();
        state.builds += 1;
        let build = state.builds;
        state.begun.insert(build, Timestamp::now());
        Uses {
            all: self.clone(),
            build,
            images: Mutex::default(),
        }
    }

    /// Holds a cache mount as long as a step uses it.
    pub(super) fn mount(&self, name: &str) -> MountUse {
        *self.state().mounts.entry(name.to_owned()).or_default() += 1;
        MountUse {
            all: self.clone(),
            name: name.to_owned(),
        }
    }

    pub(super) fn has_image(&self, image: &Digest) -> bool {
        self.state().images.contains_key(image)
    }

    pub(super) fn has_mount(&self, name: &str) -> bool {
        self.state().mounts.contains_key(name)
    }

    /// Calls `remove` unless a step uses the mount; none begins to meanwhile.
    pub(super) fn remove_mount<T>(&self, name: &str, remove: impl FnOnce() -> Option<T>) -> Option<T> {
        let state = self.state();
        if state.mounts.contains_key(name) {
            return None;
        }
        remove()
    }

    /// Forgets images that no running build needs; `made_at` says when each was made.
    pub(super) fn forget<T>(
        &self,
        images: impl IntoIterator<Item = (Digest, Timestamp)>,
        forget: impl FnOnce(&[Digest]) -> T,
    ) -> T {
        let going: Vec<Digest> = {
            let mut state = self.state();
            let first = state.begun.values().min().copied();
            let is_old = |made_at: Timestamp| first.is_none_or(|first| made_at < first);
            let images = images.into_iter();
            let going: Vec<Digest> = images
                .filter(|(id, made_at)| is_old(*made_at) && !state.images.contains_key(id))
                .map(|(id, _)| id)
                .collect();
            state.going.extend(going.iter().cloned());
            going
        };
        let forgotten = forget(&going);
        let mut state = self.state();
        for id in &going {
            state.going.remove(id);
        }
        forgotten
    }
}

/// What one build uses.
#[derive(Debug)]
pub(super) struct Uses {
    all: InUse,
    build: u64,
    images: Mutex<Vec<Digest>>,
}

impl Uses {
    /// Holds an image; false where it is being forgotten.
    pub(super) fn hold(&self, image: &Digest) -> bool {
        let mut state = self.all.state();
        if state.going.contains(image) {
            return false;
        }
        *state.images.entry(image.clone()).or_default() += 1;
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.push(image.clone());
        true
    }
}

impl Drop for Uses {
    fn drop(&mut self) {
        let mut state = self.all.state();
        state.begun.remove(&self.build);
        let images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        for image in images.iter() {
            release(&mut state.images, image);
        }
    }
}

/// A step's use of a cache mount.
#[derive(Debug)]
pub(super) struct MountUse {
    all: InUse,
    name: String,
}

impl Drop for MountUse {
    fn drop(&mut self) {
        release(&mut self.all.state().mounts, &self.name);
    }
}

fn release<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_build_holds_or_makes_is_not_forgotten() {
        let all = InUse::default();
        let image = |byte: u8| Digest::from_sha256([byte; 32]);
        let (old, later) = (
            Timestamp::from_parts(0, 0),
            Timestamp::from_parts(i64::from(u32::MAX) * 2, 0),
        );
        let uses = all.begin();
        assert!(uses.hold(&image(1)));
        let asked = [(image(1), old), (image(2), old), (image(3), later)];
        let gone = all.forget(asked.clone(), |going| {
            assert!(!uses.hold(&image(2)));
            going.to_vec()
        });
        assert_eq!(gone, [image(2)]);
        assert!(uses.hold(&image(2)));
        drop(uses);
        assert_eq!(all.forget(asked, <[Digest]>::len), 3);
        let mount = all.mount("m");
        assert!(all.has_mount("m") && all.remove_mount("m", || Some(())).is_none());
        drop(mount);
        assert!(all.remove_mount("m", || Some(())).is_some());
    }
}
