//! How much room directory trees take up, counted as `du` counts and as Docker does.
//!
//! Trees may change while they are measured: what is gone by then counts for nothing. Symbolic links and mounts are
//! never followed, so that a container cannot lead the walk out of its own tree.

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use std::collections::HashSet;
use std::ffi::{CStr, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// More threads than this wait for the disk and for each other.
const WORKERS_MAX: usize = 8;
/// A path longer than this goes on from a directory that is held open; the kernel takes 4,096 bytes.
const PATH_BYTES_MAX: usize = 2048;
/// The unit of `st_blocks`, whatever the file system's own (stat(2)).
const BLOCK_BYTES: u64 = 512;

/// What a tree takes up. An inode with several names counts once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TreeSize {
    /// What the file system keeps for it, directories included: `du`'s count.
    pub disk_bytes: u64,
    /// The length of everything but directories, holes included: what Docker calls a size.
    pub content_bytes: u64,
}

impl TreeSize {
    fn of(stat: &Stat) -> Self {
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        Self {
            disk_bytes: stat.st_blocks.cast_unsigned() * BLOCK_BYTES,
            content_bytes: if is_directory {
                0
            } else {
                stat.st_size.cast_unsigned()
            },
        }
    }
}

impl std::ops::AddAssign for TreeSize {
    fn add_assign(&mut self, other: Self) {
        self.disk_bytes += other.disk_bytes;
        self.content_bytes += other.content_bytes;
    }
}

impl std::iter::Sum for TreeSize {
    fn sum<I: Iterator<Item = Self>>(sizes: I) -> Self {
        sizes.fold(Self::default(), |mut sum, size| {
            sum += size;
            sum
        })
    }
}

/// Measures one file or directory, not what is below it; nothing when it is not there.
pub fn measure_entry(path: &Path) -> TreeSize {
    rustix::fs::lstat(path).map_or_else(|_| TreeSize::default(), |stat| TreeSize::of(&stat))
}

/// Measures a tree; blocking.
pub fn measure(path: &Path) -> TreeSize {
    measure_all(&[path]).into_iter().sum()
}

/// Measures trees, with several threads at once; blocking. A tree that is not there takes up nothing.
pub fn measure_all<P: AsRef<Path> + Sync>(roots: &[P]) -> Vec<TreeSize> {
    let trees: Vec<Tree> = roots.iter().map(|_| Tree::default()).collect();
    let queue = Queue::default();
    let work = || {
        while let Some(job) = queue.take(roots.len()) {
            let found = match job {
                Job::Root(tree) => open_root(roots[tree].as_ref(), tree, &trees[tree]),
                Job::Directory(directory) => directory.measure(&trees),
            };
            queue.finish(found.unwrap_or_default());
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, |cpus| cpus.get().min(WORKERS_MAX));
    std::thread::scope(|scope| {
        for _ in 1..workers {
            scope.spawn(work);
        }
        work();
    });
    trees.into_iter().map(Tree::size).collect()
}

/// What is known of a tree so far.
#[derive(Debug, Default)]
struct Tree {
    disk_bytes: AtomicU64,
    content_bytes: AtomicU64,
    /// Inodes of more than one name.
    seen: Mutex<HashSet<u64>>,
}

impl Tree {
    fn add(&self, size: TreeSize) {
        self.disk_bytes.fetch_add(size.disk_bytes, Ordering::Relaxed);
        self.content_bytes
            .fetch_add(size.content_bytes, Ordering::Relaxed);
    }

    fn size(self) -> TreeSize {
        TreeSize {
            disk_bytes: self.disk_bytes.into_inner(),
            content_bytes: self.content_bytes.into_inner(),
        }
    }
}

enum Job {
    /// The tree of this number, not opened yet: as many are open at a time as there are workers, or a few more.
    Root(usize),
    Directory(Directory),
}

/// A directory whose entries are to be measured; it itself has been.
struct Directory {
    tree: usize,
    base: Arc<OwnedFd>,
    path: PathBuf,
}

fn open_root(path: &Path, tree: usize, sums: &Tree) -> Option<Vec<Directory>> {
    let size = rustix::fs::lstat(path).ok()?;
    sums.add(TreeSize::of(&size));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let base = rustix::fs::openat(CWD, path, flags, Mode::empty()).ok()?;
    Some(vec![Directory {
        tree,
        base: Arc::new(base),
        path: PathBuf::from("."),
    }])
}

impl Directory {
    /// Adds its entries to the tree's size and returns the directories among them.
    fn measure(self, trees: &[Tree]) -> Option<Vec<Self>> {
        let tree = &trees[self.tree];
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let opened = rustix::fs::openat2(&*self.base, &self.path, flags, Mode::empty(), resolve).ok()?;
        let opened = Arc::new(opened);
        let mut sum = TreeSize::default();
        let mut below = Vec::new();
        for entry in Dir::read_from(&*opened).ok()?.flatten() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(&*opened, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                below.push(self.child(&opened, name));
            } else if stat.st_nlink > 1 && !lock(&tree.seen).insert(stat.st_ino) {
                continue;
            }
            sum += TreeSize::of(&stat);
        }
        tree.add(sum);
        Some(below)
    }

    fn child(&self, opened: &Arc<OwnedFd>, name: &CStr) -> Self {
        let name = OsStr::from_bytes(name.to_bytes());
        let is_long = self.path.as_os_str().len() > PATH_BYTES_MAX;
        Self {
            tree: self.tree,
            base: Arc::clone(if is_long { opened } else { &self.base }),
            path: if is_long {
                name.into()
            } else {
                self.path.join(name)
            },
        }
    }
}

/// Directories to be measured, the latest first, so that few are open at a time.
#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    directories: Vec<Directory>,
    roots_taken: usize,
    /// Jobs taken and not finished: more may come of them.
    busy: usize,
}

impl Queue {
    /// The next job; waits while there may be more, `None` when there will be no more.
    fn take(&self, roots: usize) -> Option<Job> {
        let mut state = lock(&self.state);
        loop {
            let job = match state.directories.pop() {
                Some(directory) => Some(Job::Directory(directory)),
                None if state.roots_taken < roots => {
                    state.roots_taken += 1;
                    Some(Job::Root(state.roots_taken - 1))
                }
                None => None,
            };
            if job.is_some() {
                state.busy += 1;
                return job;
            }
            if state.busy == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finish(&self, found: Vec<Directory>) {
        let mut state = lock(&self.state);
        state.busy -= 1;
        let is_news = !found.is_empty() || state.busy == 0;
        state.directories.extend(found);
        drop(state);
        if is_news {
            self.changed.notify_all();
        }
    }
}

/// A panic while one of these is held leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("naru-disk-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn blocks(path: &Path) -> u64 {
        fs::symlink_metadata(path).unwrap().blocks() * BLOCK_BYTES
    }

    #[test]
    fn links_count_once_holes_are_content_alone_and_nothing_is_followed() {
        let root = scratch("kinds");
        fs::create_dir(root.join("below")).unwrap();
        fs::write(root.join("one"), vec![1; 10_000]).unwrap();
        fs::hard_link(root.join("one"), root.join("below/two")).unwrap();
        let hole = fs::File::create(root.join("below/hole")).unwrap();
        hole.set_len(1 << 30).unwrap();
        symlink("/usr", root.join("link")).unwrap();
        let size = measure(&root);
        let disk: u64 = ["", "below", "one", "below/hole", "link"]
            .iter()
            .map(|name| blocks(&root.join(name)))
            .sum();
        assert_eq!(size.disk_bytes, disk);
        assert_eq!(size.content_bytes, 10_000 + (1 << 30) + 4);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn trees_are_told_apart_and_a_missing_one_is_nothing() {
        let root = scratch("several");
        let trees: Vec<PathBuf> = (0..50).map(|number| root.join(number.to_string())).collect();
        for (number, tree) in trees.iter().enumerate().skip(1) {
            fs::create_dir_all(tree.join("a/b")).unwrap();
            fs::write(tree.join("a/b/file"), vec![0; number]).unwrap();
        }
        let sizes = measure_all(&trees);
        assert_eq!(sizes[0], TreeSize::default());
        for (number, size) in sizes.iter().enumerate() {
            assert_eq!(size.content_bytes, number as u64);
        }
        assert_eq!(measure(&trees[3].join("a/b/file")).content_bytes, 3);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_tree_deeper_than_a_path_is_long_is_measured_whole() {
        let root = scratch("deep");
        let name = "d".repeat(200);
        let mut at = rustix::fs::openat(CWD, &root, OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..60 {
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, &name, OFlags::PATH, Mode::empty()).unwrap();
        }
        let flags = OFlags::CREATE | OFlags::WRONLY;
        let file = rustix::fs::openat(&at, "file", flags, Mode::RWXU).unwrap();
        rustix::io::write(&file, b"deep down").unwrap();
        assert_eq!(measure(&root).content_bytes, 9);
        fs::remove_dir_all(&root).unwrap();
    }
}
