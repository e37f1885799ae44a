//! Where the disk's space goes: every file below the data root, in one of a few parts, each once.
//!
//! Counting is done by threads of its own, never by an async worker. Layers and removed volumes do not change, so what
//! they take up is remembered; what changes is counted each time.

use crate::Engine;
use crate::error::Result;
use crate::views::VolumeView;
use naru_base::{ContainerId, Timestamp};
use naru_content::DiskUsage;
use naru_sys::disk::{TreeSize, measure_all, measure_entry};
use std::collections::HashMap;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// How long whoever only asks in passing waits for a count; after that the last one must do.
const PASSING_WAIT: Duration = Duration::from_millis(300);

/// A count is recent for so many times as long as it took: no more than a tenth of the time goes in counting.
const RECENT_FACTOR: u32 = 10;

/// Bytes on disk, as `du` counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskParts {
    /// Layers that several images have, with what is kept of them for pushing.
    pub layers_shared: u64,
    /// Layers that one image has, or containers alone.
    pub layers_unique: u64,
    /// Configurations and manifests.
    pub images: u64,
    /// What containers wrote in their own root file systems.
    pub writable: u64,
    pub logs: u64,
    pub volumes: u64,
    /// Volumes that can be had back.
    pub trash: u64,
    /// What has come of pulls that are under way or were broken off.
    pub downloads: u64,
    /// Records and whatever else is below the data root.
    pub other: u64,
}

impl DiskParts {
    pub fn total(&self) -> u64 {
        self.layers_shared
            + self.layers_unique
            + self.images
            + self.writable
            + self.logs
            + self.volumes
            + self.trash
            + self.downloads
            + self.other
    }

    fn add(&mut self, part: Part, bytes: u64) {
        let sum = match part {
            Part::LayerShared => &mut self.layers_shared,
            Part::LayerUnique => &mut self.layers_unique,
            Part::Images => &mut self.images,
            Part::Writable | Part::Upper(_) => &mut self.writable,
            Part::Log => &mut self.logs,
            Part::Volumes | Part::Volume(_) => &mut self.volumes,
            Part::Trash => &mut self.trash,
            Part::Download => &mut self.downloads,
            Part::Other => &mut self.other,
        };
        sum.add_assign(bytes);
    }
}

/// A count of the data root.
#[derive(Debug, Clone)]
pub struct DiskAccount {
    pub parts: DiskParts,
    pub counted_at: Timestamp,
    began: Instant,
    took: Duration,
}

impl DiskAccount {
    fn is_recent(&self) -> bool {
        self.began.elapsed() < self.took * RECENT_FACTOR
    }
}

/// The file system that holds the data root.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileSystemSpace {
    pub bytes: u64,
    pub free_bytes: u64,
    /// It is the one the whole system runs from.
    pub is_root: bool,
}

/// A count of the data root, and what Docker tells of each thing in it.
#[derive(Debug, Clone)]
pub struct DiskReport {
    pub account: Arc<DiskAccount>,
    pub images: DiskUsage,
    /// `(bytes written, bytes of the whole root file system)`.
    pub containers: HashMap<ContainerId, (u64, u64)>,
    /// With bytes and how many containers use it.
    pub volumes: Vec<(VolumeView, u64, usize)>,
}

/// What is remembered of earlier counts.
#[derive(Debug, Default)]
pub(crate) struct DiskMemory {
    last: Mutex<Option<Arc<DiskAccount>>>,
    /// Sizes of trees that do not change while their directory's own time of change does not.
    kept: Mutex<HashMap<PathBuf, (SystemTime, TreeSize)>>,
    /// Held while counting for those who ask in passing.
    counting: tokio::sync::Mutex<()>,
}

/// What a file or a tree is counted as.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    LayerShared,
    LayerUnique,
    Images,
    Writable,
    Upper(ContainerId),
    Log,
    Volumes,
    /// The data of the volume of this name.
    Volume(String),
    Trash,
    Download,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// A file, or a directory without what is in it.
    Entry,
    Tree,
    /// A tree whose size is remembered.
    KeptTree,
}

/// Everything to be measured, each byte below the data root once.
#[derive(Debug, Default)]
struct Survey(Vec<(Part, PathBuf, Extent)>);

impl Survey {
    fn entry(&mut self, part: Part, path: PathBuf) {
        self.0.push((part, path, Extent::Entry));
    }

    fn tree(&mut self, part: Part, path: PathBuf) {
        self.0.push((part, path, Extent::Tree));
    }

    fn kept_tree(&mut self, part: Part, path: PathBuf) {
        self.0.push((part, path, Extent::KeptTree));
    }

    fn of(engine: &Engine) -> Self {
        let mut survey = Self::default();
        let root = &engine.options.data_root;
        survey.entry(Part::Other, root.clone());
        for (name, path) in entries(root) {
            match name.as_str() {
                "layers" => survey.add_layers(engine, path),
                "blobs" | "images.json" => survey.tree(Part::Images, path),
                "downloads" | "temporary" => survey.tree(Part::Download, path),
                "snapshots" => survey.add_snapshots(path),
                "containers" => survey.add_containers(path),
                "volumes" => survey.add_volumes(path),
                _ => survey.tree(Part::Other, path),
            }
        }
        survey
    }

    fn add_layers(&mut self, engine: &Engine, path: PathBuf) {
        self.entry(Part::LayerUnique, path);
        for layer in engine.content.layer_places() {
            let part = if layer.images > 1 {
                Part::LayerShared
            } else {
                Part::LayerUnique
            };
            self.kept_tree(part, layer.path);
        }
    }

    fn add_snapshots(&mut self, path: PathBuf) {
        for (name, snapshot) in entries(&path) {
            for (part, below) in entries(&snapshot) {
                match (part.as_str(), name.parse()) {
                    ("upper", Ok(id)) => self.tree(Part::Upper(id), below),
                    _ => self.tree(Part::Writable, below),
                }
            }
            self.entry(Part::Writable, snapshot);
        }
        self.entry(Part::Writable, path);
    }

    fn add_containers(&mut self, path: PathBuf) {
        for (_, container) in entries(&path) {
            for (name, file) in entries(&container) {
                let is_log = name.contains("-json.log") || name.contains("-local.log");
                self.tree(if is_log { Part::Log } else { Part::Other }, file);
            }
            self.entry(Part::Other, container);
        }
        self.entry(Part::Other, path);
    }

    fn add_volumes(&mut self, path: PathBuf) {
        for (name, volume) in entries(&path) {
            if name == ".trash" {
                for (_, removed) in entries(&volume) {
                    self.kept_tree(Part::Trash, removed);
                }
                self.entry(Part::Trash, volume);
            } else if name.starts_with('.') {
                self.tree(Part::Trash, volume);
            } else {
                for (below, path) in entries(&volume) {
                    let is_data = below == "_data";
                    let part = if is_data {
                        Part::Volume(name.clone())
                    } else {
                        Part::Volumes
                    };
                    self.tree(part, path);
                }
                self.entry(Part::Volumes, volume);
            }
        }
        self.entry(Part::Volumes, path);
    }

    /// Measures it all.
    fn count(self, memory: &DiskMemory) -> Counted {
        let mut counted = Counted::default();
        let mut trees = Vec::new();
        let mut kept = HashMap::new();
        for (part, path, extent) in self.0 {
            let remembered = match extent {
                Extent::Entry => Some(measure_entry(&path)),
                Extent::Tree => None,
                Extent::KeptTree => memory.recall(&path, &mut kept),
            };
            match remembered {
                Some(size) => counted.add(part, size),
                None => trees.push((part, path, extent)),
            }
        }
        let paths: Vec<&Path> = trees.iter().map(|(_, path, _)| path.as_path()).collect();
        let changed: Vec<Option<SystemTime>> = paths.iter().map(|path| changed_at(path)).collect();
        for (((part, path, extent), size), changed) in trees.iter().zip(measure_all(&paths)).zip(changed) {
            counted.add(part.clone(), size);
            if let (Extent::KeptTree, Some(changed)) = (extent, changed) {
                kept.insert(path.clone(), (changed, size));
            }
        }
        *crate::containers::lock(&memory.kept) = kept;
        counted
    }
}

impl DiskMemory {
    /// What is known of a tree if its directory has not changed; it is then known to the next count too.
    fn recall(&self, path: &Path, next: &mut HashMap<PathBuf, (SystemTime, TreeSize)>) -> Option<TreeSize> {
        let (changed, size) = crate::containers::lock(&self.kept).get(path).copied()?;
        if changed_at(path)? != changed {
            return None;
        }
        next.insert(path.to_owned(), (changed, size));
        Some(size)
    }
}

fn changed_at(path: &Path) -> Option<SystemTime> {
    std::fs::symlink_metadata(path).ok()?.modified().ok()
}

#[derive(Debug, Default)]
struct Counted {
    parts: DiskParts,
    written: HashMap<ContainerId, u64>,
    volumes: HashMap<String, u64>,
}

impl Counted {
    fn add(&mut self, part: Part, size: TreeSize) {
        match &part {
            Part::Upper(id) => drop(self.written.insert(id.clone(), size.content_bytes)),
            Part::Volume(name) => drop(self.volumes.insert(name.clone(), size.content_bytes)),
            _ => {}
        }
        self.parts.add(part, size.disk_bytes);
    }
}

fn entries(path: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect()
}

impl Engine {
    pub fn data_root(&self) -> &Path {
        &self.options.data_root
    }

    /// How much room there is where the data root is.
    pub fn file_system_space(&self) -> FileSystemSpace {
        let root = &self.options.data_root;
        let device = |path: &Path| rustix::fs::stat(path).ok().map(|stat| stat.st_dev);
        let Ok(space) = rustix::fs::statvfs(root) else {
            return FileSystemSpace::default();
        };
        FileSystemSpace {
            bytes: space.f_blocks.saturating_mul(space.f_frsize),
            free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
            is_root: device(root).is_some() && device(root) == device(Path::new("/")),
        }
    }

    /// Counts everything below the data root.
    pub async fn disk_report(self: &Arc<Self>) -> Result<DiskReport> {
        let engine = Arc::clone(self);
        crate::archive::blocking(move || Ok(engine.count_disk())).await
    }

    /// A count for whoever asks in passing: a recent one, or the last there is when counting takes long.
    pub async fn recent_disk_account(self: &Arc<Self>) -> Option<Arc<DiskAccount>> {
        let last = || crate::containers::lock(&self.disk.last).clone();
        if let Some(account) = last().filter(|account| account.is_recent()) {
            return Some(account);
        }
        let (engine, asked) = (Arc::clone(self), Instant::now());
        let count = tokio::spawn(async move {
            let _counting = engine.disk.counting.lock().await;
            let last = crate::containers::lock(&engine.disk.last).clone();
            if last.is_none_or(|account| account.began < asked) {
                let _ = engine.disk_report().await;
            }
        });
        let _ = tokio::time::timeout(PASSING_WAIT, count).await;
        last()
    }

    fn count_disk(&self) -> DiskReport {
        let (began, counted_at) = (Instant::now(), Timestamp::now());
        let counted = Survey::of(self).count(&self.disk);
        let account = Arc::new(DiskAccount {
            parts: counted.parts,
            counted_at,
            began,
            took: began.elapsed(),
        });
        *crate::containers::lock(&self.disk.last) = Some(Arc::clone(&account));
        let whole = |(id, written): (ContainerId, u64)| {
            let whole = written + self.content.image_bytes_under(&id);
            (id, (written, whole))
        };
        DiskReport {
            account,
            images: self.content.disk_usage(),
            containers: counted.written.into_iter().map(whole).collect(),
            volumes: self.volumes_with_sizes(&counted.volumes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_measured_again_when_it_changes() {
        let root = std::env::temp_dir().join(format!("naru-account-{}", std::process::id()));
        std::fs::create_dir_all(root.join("below")).unwrap();
        std::fs::write(root.join("below/file"), vec![0; 10_000]).unwrap();
        let memory = DiskMemory::default();
        let count = || {
            let mut survey = Survey::default();
            survey.kept_tree(Part::Trash, root.clone());
            survey.count(&memory).parts.trash
        };
        let first = count();
        assert!(first >= 10_000);
        assert_eq!(count(), first);
        std::fs::write(root.join("more"), vec![0; 10_000]).unwrap();
        assert!(count() >= first + 10_000);
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn the_total_is_the_sum_of_all_parts() {
        let mut parts = DiskParts::default();
        let id = ContainerId::generate();
        let all = [
            Part::LayerShared,
            Part::LayerUnique,
            Part::Images,
            Part::Writable,
            Part::Upper(id),
            Part::Log,
            Part::Volumes,
            Part::Volume("v".to_owned()),
            Part::Trash,
            Part::Download,
            Part::Other,
        ];
        for (power, part) in all.into_iter().enumerate() {
            parts.add(part, 1 << power);
        }
        assert_eq!(parts.total(), (1 << 11) - 1);
    }
}
