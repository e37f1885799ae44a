//! Makes records survive a power loss, a moment after they are written, away from whoever wrote them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long a record may wait to be synced. One second of new containers is what a power loss may cost; most
/// short-lived containers are gone by then and are never synced at all.
pub const SYNC_DELAY: Duration = Duration::from_secs(1);

/// A thread that syncs the directories noted to it, each once per [`SYNC_DELAY`] at most.
#[derive(Debug, Clone)]
pub struct Syncer {
    noted: Arc<(Mutex<BTreeSet<PathBuf>>, Condvar)>,
}

impl Syncer {
    /// Starts the thread; it ends with the process.
    pub fn start() -> Self {
        let noted = Arc::new((Mutex::new(BTreeSet::new()), Condvar::new()));
        let theirs = Arc::clone(&noted);
        // A failure to start a thread at boot leaves records unsynced, which is what an unsynced file system gives.
        let _ = std::thread::Builder::new()
            .name("record-sync".to_owned())
            .stack_size(64 * 1024)
            .spawn(move || run(&theirs));
        Self { noted }
    }

    /// Has the record at `path` synced soon, with the directory that names it.
    pub fn note(&self, path: &Path) {
        let (set, changed) = &*self.noted;
        let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = set.is_empty();
        set.insert(path.to_owned());
        if was_empty {
            changed.notify_one();
        }
    }

    /// Forgets a record that has been removed.
    pub fn forget(&self, path: &Path) {
        self.noted
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(path);
    }
}

fn run((set, changed): &(Mutex<BTreeSet<PathBuf>>, Condvar)) {
    loop {
        let waiting = set.lock().unwrap_or_else(PoisonError::into_inner);
        drop(
            changed
                .wait_while(waiting, |set| set.is_empty())
                .unwrap_or_else(PoisonError::into_inner),
        );
        std::thread::sleep(SYNC_DELAY);
        let paths = std::mem::take(&mut *set.lock().unwrap_or_else(PoisonError::into_inner));
        for path in paths {
            sync(&path);
        }
    }
}

/// Best effort: a record removed meanwhile has nothing to sync.
fn sync(path: &Path) {
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.sync_all();
        if let Some(directory) = path.parent().and_then(|parent| std::fs::File::open(parent).ok()) {
            let _ = directory.sync_all();
        }
    }
}
