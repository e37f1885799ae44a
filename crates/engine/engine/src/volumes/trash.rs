//! Removed volumes, kept for a while so that a removal can be undone.
//!
//! ```text
//! volumes/.trash/<nanoseconds since 1970>/<name>/            what was volumes/<name>/
//! volumes/.trash/<nanoseconds since 1970>-<bytes>/<name>/    the same, once it is known how much that is
//! ```
//! To clients a removed volume is gone: its name is free, nothing lists it. The trash holds at most a tenth of the file
//! system, at most half as much as is free, and nothing older than a week. It gives way, oldest first, when less than a
//! twentieth of the file system (or 2 GiB, of a big one) is free.

use super::Volumes;
use crate::Engine;
use crate::containers::lock;
use crate::error::{EngineError, Result};
use crate::views::VolumeView;
use naru_base::Timestamp;
use naru_sys::{disk, file};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

const AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Of the file system: what the trash may hold.
const SHARE_MAX: u64 = 10;
/// Of the file system: below this much free space the trash gives way,
const FREE_SHARE_MIN: u64 = 20;
/// and never while this much is free.
const FREE_ENOUGH: u64 = 2 << 30;
/// How often a trash that holds anything is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A removed volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrashEntry {
    pub name: String,
    /// On disk; 0 until it is measured.
    pub bytes: u64,
    pub removed_at: Timestamp,
    /// The folder that holds it.
    path: PathBuf,
}

impl TrashEntry {
    /// From the folder and what it holds: a name can be as long as a file's may be, so it has one for itself.
    fn find(path: PathBuf) -> Option<Self> {
        let inside = std::fs::read_dir(&path).ok()?.flatten().next()?;
        Self::parse(path, inside.file_name().to_str()?)
    }

    fn parse(path: PathBuf, name: &str) -> Option<Self> {
        let text = path.file_name()?.to_str()?.to_owned();
        let (time, bytes) = text.split_once('-').unwrap_or((&text, "0"));
        let time: u64 = time.parse().ok()?;
        Some(Self {
            name: name.to_owned(),
            bytes: bytes.parse().ok()?,
            removed_at: Timestamp::from_parts(
                (time / 1_000_000_000).cast_signed(),
                (time % 1_000_000_000) as i32,
            ),
            path,
        })
    }

    fn is_measured(path: &Path) -> bool {
        path.file_name()
            .is_some_and(|name| name.as_encoded_bytes().contains(&b'-'))
    }
}

/// Which entries must go, given newest last.
fn plan_removals(entries: &[TrashEntry], free: u64, whole: u64) -> Vec<&TrashEntry> {
    let mut held: u64 = entries.iter().map(|entry| entry.bytes).sum();
    let mut free = free;
    let mut going = Vec::new();
    for entry in entries {
        let is_old = entry.removed_at.elapsed() > AGE_MAX;
        let is_needed = free < u64::min(whole / FREE_SHARE_MIN, FREE_ENOUGH);
        if is_old || held > whole / SHARE_MAX || held > free / 2 || is_needed {
            held -= entry.bytes;
            free += entry.bytes;
            going.push(entry);
        }
    }
    going
}

impl Volumes {
    fn trash_path(&self) -> PathBuf {
        self.root.join(".trash")
    }

    pub(super) fn open_trash(&self) -> Result<()> {
        Ok(file::make_directories(&self.trash_path(), 0o700)?)
    }

    /// Where a volume that is removed now goes. A folder that gets none after all holds nothing and counts for nothing.
    pub(super) fn trash_place(&self, name: &str) -> Result<PathBuf> {
        let time = Timestamp::now().as_nanosecond();
        let folder = self.trash_path().join(time.to_string());
        file::make_directories(&folder, 0o700)?;
        Ok(folder.join(name))
    }

    /// What the trash holds, oldest first; blocking, because what came in lately is measured.
    pub fn trash(&self) -> Vec<TrashEntry> {
        self.measure_trash();
        self.list_trash()
    }

    fn list_trash(&self) -> Vec<TrashEntry> {
        let mut entries: Vec<_> = self.trash_folders().filter_map(TrashEntry::find).collect();
        entries.sort_by_key(|entry| entry.removed_at);
        entries
    }

    fn trash_folders(&self) -> impl Iterator<Item = PathBuf> {
        let entries = std::fs::read_dir(self.trash_path()).into_iter();
        entries.flatten().flatten().map(|entry| entry.path())
    }

    /// Gives each folder that has come in since the last time its size.
    fn measure_trash(&self) {
        let new = |path: &PathBuf| !TrashEntry::is_measured(path) && TrashEntry::find(path.clone()).is_some();
        let folders: Vec<PathBuf> = self.trash_folders().filter(new).collect();
        for (folder, size) in folders.iter().zip(disk::measure_all(&folders)) {
            let mut name = folder.clone().into_os_string();
            name.push(format!("-{}", size.disk_bytes));
            let _changes = lock(&self.trash_changes);
            // It may have been taken back meanwhile.
            let _ = std::fs::rename(folder, name);
        }
    }

    /// Brings the trash within its bounds.
    pub fn bound_trash(&self) {
        let entries = self.trash();
        if entries.is_empty() {
            return;
        }
        let Ok(space) = rustix::fs::statvfs(&self.root) else {
            return;
        };
        let whole = space.f_blocks.saturating_mul(space.f_frsize);
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        for entry in plan_removals(&entries, free, whole) {
            self.drop_entry(entry);
        }
    }

    /// Frees everything the trash holds.
    pub fn empty_trash(&self) -> u64 {
        let entries = self.trash();
        for entry in &entries {
            self.drop_entry(entry);
        }
        entries.iter().map(|entry| entry.bytes).sum()
    }

    fn drop_entry(&self, entry: &TrashEntry) {
        // Renamed first: half of it must never come back.
        let gone = self
            .root
            .join(format!(".removed-{}", naru_base::ContainerId::generate()));
        let is_gone = {
            let _changes = lock(&self.trash_changes);
            std::fs::rename(&entry.path, &gone).is_ok()
        };
        if is_gone && let Err(error) = file::remove_tree(&gone) {
            tracing::warn!(%error, "cannot empty the trash of volumes");
        }
    }

    /// Puts the latest removed volume of this name back.
    pub(super) fn restore(&self, name: &str) -> Result<()> {
        super::parse_name(name)?;
        let _changes = lock(&self.trash_changes);
        let entry = self
            .list_trash()
            .into_iter()
            .rev()
            .find(|entry| entry.name == name)
            .ok_or_else(|| EngineError::not_found(format!("no removed volume {name} is kept")))?;
        let _claimed = lock(&self.claimed);
        let place = self.root.join(name);
        if place.exists() {
            return Err(EngineError::conflict(format!(
                "a volume {name} exists again: rename or remove it first"
            )));
        }
        std::fs::rename(entry.path.join(name), &place).map_err(file::FileError::at("rename", &place))?;
        let _ = std::fs::remove_dir(&entry.path);
        self.syncer.note(&self.record_path(name));
        Ok(())
    }
}

/// Looks after the trash for as long as the engine is there.
pub(crate) async fn keep_bounded(engine: Weak<Engine>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(engine) = engine.upgrade() else { return };
        let bounded = tokio::task::spawn_blocking(move || engine.volumes.bound_trash());
        if bounded.await.is_err() {
            return;
        }
    }
}

impl Engine {
    /// Removed volumes that can be had back, oldest first.
    pub async fn volume_trash(self: &Arc<Self>) -> Result<Vec<TrashEntry>> {
        let engine = Arc::clone(self);
        crate::archive::blocking(move || Ok(engine.volumes.trash())).await
    }

    /// Undoes the latest removal of a volume of this name.
    pub async fn restore_volume(&self, name: &str) -> Result<VolumeView> {
        self.volumes.restore(name)?;
        self.volume_event("create", name);
        self.volumes.view(name)
    }

    /// Removes for good what the trash holds; returns its bytes.
    pub async fn empty_volume_trash(self: &Arc<Self>) -> Result<u64> {
        let engine = Arc::clone(self);
        crate::archive::blocking(move || Ok(engine.volumes.empty_trash())).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seconds_ago: i64, bytes: u64) -> TrashEntry {
        let time = Timestamp::now().as_nanosecond() - i128::from(seconds_ago) * 1_000_000_000;
        TrashEntry::parse(PathBuf::from(format!("/t/{time}-{bytes}")), "a-b").unwrap()
    }

    #[test]
    fn entries_are_read_from_their_names() {
        let entry = entry(5, 12);
        assert_eq!((entry.name.as_str(), entry.bytes), ("a-b", 12));
        let time = Timestamp::now().as_nanosecond();
        let new = TrashEntry::parse(PathBuf::from(format!("/t/{time}")), "a-b").unwrap();
        assert_eq!((new.bytes, TrashEntry::is_measured(&new.path)), (0, false));
        for text in ["x", "", "a-1", "1-a"] {
            assert!(TrashEntry::parse(PathBuf::from(text), "n").is_none(), "{text}");
        }
    }

    #[test]
    fn the_oldest_go_first_and_only_when_they_must() {
        let entries = [entry(8 * 24 * 3600, 1), entry(100, 60), entry(10, 60)];
        let bytes = |free: u64, whole: u64| -> Vec<u64> {
            plan_removals(&entries, free, whole)
                .iter()
                .map(|entry| entry.bytes)
                .collect()
        };
        assert_eq!(bytes(9_000, 10_000), [1], "too old");
        assert_eq!(bytes(900, 1_000), [1, 60], "more than a tenth");
        assert_eq!(bytes(150, 10_000), [1, 60, 60], "the disk is needed");
        assert_eq!(bytes(450, 10_000), [1, 60], "until enough is free");
    }
}
