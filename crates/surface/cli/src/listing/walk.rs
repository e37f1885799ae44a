//! The directories of a context read by several workers at once; most of the time the kernel's looking up of files.
//!
//! Whoever is free takes the directory found last, so that few are open at a time. What was found is put in order
//! afterwards, and only then it is seen which of a file's names is the first.

use naru_build::ignore::Ignore;
use naru_build::listing::{ContextEntry, EntryKind, FileIdentity};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

/// Within this a file may change without its times telling: FAT counts in steps of two seconds.
const GRAIN: Duration = Duration::from_secs(3);

/// Beside the first one. More would only wait for each other in the kernel.
const FURTHER_WORKERS: usize = 3;

/// Read at once from a directory.
const NAMES_BYTES: usize = 32 << 10;

/// Why a walk ended early.
pub(super) enum Stop {
    Failed(io::Error),
    /// There is something that no listing can say.
    Unsayable,
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno.into())
    }
}

/// Something in a directory.
struct Found {
    entry: ContextEntry,
    /// A directory that comes along only with something that is let in below it.
    is_excluded: bool,
    /// Device and inode of what has further names.
    linked: Option<(u64, u64)>,
    /// The number of the directory that this is, where it is read.
    inner: Option<usize>,
}

/// A directory to be read.
struct Unread {
    number: usize,
    parent: Arc<OwnedFd>,
    /// Below the root; empty for the root's own.
    path: String,
}

#[derive(Default)]
struct State {
    unread: Vec<Unread>,
    /// Workers that have a directory in hand.
    busy: usize,
    /// What the directories hold, by their numbers.
    read: Vec<Vec<Found>>,
    stop: Option<Stop>,
}

struct Walk<'a> {
    ignore: &'a Ignore,
    /// What has changed since may change again unseen.
    recent_since_ns: i64,
    now_ns: i64,
    state: Mutex<State>,
    changed: Condvar,
}

/// How long a worker goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// There is enough for others to do.
    SeveralWait,
    AllIsRead,
}

/// The root, open, and everything below it that is not excluded: in the order of the names, directory by directory.
pub(super) fn read(root: &Path, ignore: &Ignore) -> Result<(Arc<OwnedFd>, Vec<ContextEntry>), Stop> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = Arc::new(rustix::fs::open(root, flags, Mode::empty())?);
    let walk = Walk::new(ignore, SystemTime::now());
    walk.lock().add(&root, String::new());
    walk.work(Until::SeveralWait);
    if !walk.lock().unread.is_empty() {
        thread::scope(|scope| {
            for _ in 0..FURTHER_WORKERS {
                // Where no more threads are to be had, this one does it all.
                let _ = thread::Builder::new().spawn_scoped(scope, || walk.work(Until::AllIsRead));
            }
            walk.work(Until::AllIsRead);
        });
    }
    let state = walk.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(stop) = state.stop {
        return Err(stop);
    }
    Ok((root, in_order(state.read)))
}

impl State {
    /// Returns the directory's number.
    fn add(&mut self, parent: &Arc<OwnedFd>, path: String) -> usize {
        let number = self.read.len();
        self.read.push(Vec::new());
        self.unread.push(Unread {
            number,
            parent: Arc::clone(parent),
            path,
        });
        number
    }
}

impl<'a> Walk<'a> {
    fn new(ignore: &'a Ignore, now: SystemTime) -> Self {
        let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let nanoseconds = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        Self {
            ignore,
            recent_since_ns: nanoseconds(since_1970.saturating_sub(GRAIN)),
            now_ns: nanoseconds(since_1970),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, until: Until) {
        let mut buffer = Vec::with_capacity(NAMES_BYTES);
        let mut state = self.lock();
        while state.stop.is_none() {
            if until == Until::SeveralWait && state.unread.len() > FURTHER_WORKERS {
                return;
            }
            let Some(unread) = state.unread.pop() else {
                if state.busy == 0 {
                    break;
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.busy += 1;
            drop(state);
            let read = self.read_directory(&unread, &mut buffer);
            state = self.lock();
            state.busy -= 1;
            match read {
                Ok((directory, mut found)) => {
                    for found in found
                        .iter_mut()
                        .filter(|found| found.entry.kind == EntryKind::Directory)
                    {
                        found.inner = Some(state.add(&directory, found.entry.path.clone()));
                    }
                    state.read[unread.number] = found;
                }
                Err(stop) => state.stop = Some(stop),
            }
            self.changed.notify_all();
        }
        self.changed.notify_all();
    }

    /// What is in a directory, in the order of the names.
    fn read_directory(
        &self,
        unread: &Unread,
        buffer: &mut Vec<u8>,
    ) -> Result<(Arc<OwnedFd>, Vec<Found>), Stop> {
        let path = &unread.path;
        let failed = |errno: Errno| {
            let error = io::Error::from(errno);
            Stop::Failed(io::Error::new(error.kind(), format!("{path}: {error}")))
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (name, prefix) = match path.rsplit('/').next() {
            None | Some("") => (".", String::new()),
            Some(name) => (name, format!("{path}/")),
        };
        let directory = rustix::fs::openat(&unread.parent, name, flags, Mode::empty()).map_err(failed)?;
        let mut paths = Vec::new();
        let mut names = RawDir::new(&directory, buffer.spare_capacity_mut());
        while let Some(entry) = names.next() {
            let entry = entry.map_err(failed)?;
            match entry.file_name().to_str() {
                Ok("." | "..") => {}
                Ok(name) => paths.push([&prefix, name].concat()),
                Err(_) => return Err(Stop::Unsayable),
            }
        }
        paths.sort_unstable();
        let mut found = Vec::with_capacity(paths.len());
        for path in paths {
            let name = &path[prefix.len()..];
            match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => found.extend(self.look_at(&directory, path, &stat)?),
                // It went while its directory was read.
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok((Arc::new(directory), found))
    }

    /// `None` of what stays out.
    fn look_at(&self, directory: &OwnedFd, path: String, stat: &Stat) -> Result<Option<Found>, Stop> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_directory = kind == FileType::Directory;
        let is_excluded = !self.ignore.is_empty() && self.ignore.excludes(&path);
        if is_excluded && !(is_directory && self.ignore.has_exceptions()) || kind == FileType::Socket {
            return Ok(None);
        }
        let entry = if is_excluded {
            directory_above(path)
        } else {
            let kind = kind_of(directory, &path, stat)?;
            self.entry(path, kind, stat)
        };
        let is_linked = kind == FileType::RegularFile && stat.st_nlink > 1;
        Ok(Some(Found {
            entry,
            is_excluded,
            linked: is_linked.then_some((stat.st_dev, stat.st_ino)),
            inner: None,
        }))
    }

    fn entry(&self, path: String, kind: EntryKind, stat: &Stat) -> ContextEntry {
        let nanoseconds =
            |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        let is_file = matches!(kind, EntryKind::File { .. });
        let changed_ns = nanoseconds(stat.st_ctime, stat.st_ctime_nsec as i64);
        let modified_ns = nanoseconds(stat.st_mtime, stat.st_mtime_nsec as i64);
        // A time of modification far ahead was set by somebody; it tells nothing of now.
        let is_now = |time: i64| time >= self.recent_since_ns;
        let is_recent = is_now(changed_ns) || is_now(modified_ns) && modified_ns <= self.now_ns;
        ContextEntry {
            path,
            mode: stat.st_mode & 0o7777,
            // Those of directories change with every file that comes and goes, and no image has them.
            modified_ns: if kind == EntryKind::Directory {
                0
            } else {
                modified_ns
            },
            identity: is_file.then_some(FileIdentity {
                changed_ns,
                inode: stat.st_ino,
                device: stat.st_dev,
            }),
            is_recent: is_file && is_recent,
            capability: Vec::new(),
            kind,
        }
    }
}

fn kind_of(directory: &OwnedFd, path: &str, stat: &Stat) -> Result<EntryKind, Stop> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Ok(EntryKind::Directory),
        FileType::RegularFile => Ok(EntryKind::File {
            bytes: u64::try_from(stat.st_size).unwrap_or(0),
        }),
        FileType::Symlink => {
            let name = path.rsplit('/').next().unwrap_or(path);
            let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
            target
                .into_string()
                .map(EntryKind::Symlink)
                .map_err(|_| Stop::Unsayable)
        }
        FileType::Fifo => Ok(EntryKind::Fifo),
        _ => Err(Stop::Unsayable),
    }
}

/// A directory that is excluded itself comes along with what is let in below it, as in archives.
fn directory_above(path: String) -> ContextEntry {
    ContextEntry {
        path,
        kind: EntryKind::Directory,
        mode: 0o755,
        modified_ns: 0,
        identity: None,
        is_recent: false,
        capability: Vec::new(),
    }
}

/// What is in the directories, each behind its own entry; the first is the root's.
fn in_order(mut read: Vec<Vec<Found>>) -> Vec<ContextEntry> {
    let mut entries = Vec::with_capacity(read.iter().map(Vec::len).sum());
    let mut names: HashMap<(u64, u64), String> = HashMap::new();
    let root = read.first_mut().map(std::mem::take).unwrap_or_default();
    // Of each directory what is left of it, and itself if it waits for something below it.
    let mut levels = vec![(root.into_iter(), None)];
    while let Some((left, _)) = levels.last_mut() {
        let Some(Found {
            mut entry,
            is_excluded,
            linked,
            inner,
        }) = left.next()
        else {
            levels.pop();
            continue;
        };
        let mut waiting = None;
        let inner = inner.map(|number| std::mem::take(&mut read[number]).into_iter());
        if is_excluded {
            waiting = Some(entry);
        } else {
            entries.extend(levels.iter_mut().filter_map(|(_, waiting)| waiting.take()));
            if let Some(file) = linked {
                match names.get(&file) {
                    Some(first) => entry = another_name(entry, first),
                    None => drop(names.insert(file, entry.path.clone())),
                }
            }
            entries.push(entry);
        }
        levels.extend(inner.map(|inner| (inner, waiting)));
    }
    entries
}

fn another_name(entry: ContextEntry, first: &str) -> ContextEntry {
    ContextEntry {
        kind: EntryKind::HardLink(first.to_owned()),
        identity: None,
        is_recent: false,
        ..entry
    }
}
