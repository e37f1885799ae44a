//! What a container changed in its file system: its upper directory compared with the layers below.

use super::place::open_plain;
use super::walk::{is_opaque, is_whiteout};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    Modified,
    Added,
    Removed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Absolute, in the container.
    pub path: String,
    pub kind: ChangeKind,
}

/// Compares, and lists in the order of the paths, as Docker does.
pub fn find_changes(upper: &Path, lower: &[PathBuf]) -> rustix::io::Result<Vec<Change>> {
    let open = |path: &Path| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty())
    };
    let mut comparison = Comparison {
        upper: open(upper)?,
        lower: lower.iter().map(|path| open(path)).collect::<Result<_, _>>()?,
        listed: BTreeSet::new(),
        changes: Vec::new(),
    };
    comparison.compare_all()?;
    let mut changes = comparison.changes;
    changes.sort_by(|left, right| left.path.as_bytes().cmp(right.path.as_bytes()));
    Ok(changes)
}

struct Comparison {
    upper: OwnedFd,
    lower: Vec<OwnedFd>,
    /// Directories that are listed already.
    listed: BTreeSet<PathBuf>,
    changes: Vec<Change>,
}

impl Comparison {
    fn compare_all(&mut self) -> rustix::io::Result<()> {
        // And whether it hides what the layers below have there.
        let mut pending = vec![(PathBuf::new(), false)];
        while let Some((directory, is_inherited)) = pending.pop() {
            let path = if directory.as_os_str().is_empty() {
                Path::new(".")
            } else {
                &directory
            };
            let fd = match open_plain(&self.upper, path, OFlags::RDONLY | OFlags::DIRECTORY) {
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                result => result?,
            };
            let is_hiding = is_inherited || is_opaque(&fd);
            let names = names_in(&fd)?;
            for name in &names {
                let Ok(stat) = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) else {
                    continue;
                };
                let path = directory.join(name);
                self.compare(&path, &stat);
                if is_directory(&stat) {
                    pending.push((path, is_hiding));
                }
            }
            if is_hiding {
                for gone in self.names_below(&directory).difference(&names) {
                    self.list(&directory.join(gone), ChangeKind::Removed);
                }
            }
        }
        Ok(())
    }

    fn compare(&mut self, path: &Path, stat: &Stat) {
        if is_whiteout(stat) {
            return self.list(path, ChangeKind::Removed);
        }
        match self.status_below(path) {
            None => self.list(path, ChangeKind::Added),
            Some(below) if is_same(stat, &below) => {}
            Some(_) => self.list(path, ChangeKind::Modified),
        }
    }

    /// Lists a change, and before it the directories it is in: they have changed by it.
    fn list(&mut self, path: &Path, kind: ChangeKind) {
        let parents: Vec<&Path> = path
            .ancestors()
            .skip(1)
            .filter(|parent| !parent.as_os_str().is_empty())
            .collect();
        for parent in parents.into_iter().rev() {
            if self.listed.insert(parent.to_owned()) {
                self.push(parent, ChangeKind::Modified);
            }
        }
        if self.listed.insert(path.to_owned()) {
            self.push(path, kind);
        }
    }

    fn push(&mut self, path: &Path, kind: ChangeKind) {
        self.changes.push(Change {
            path: format!("/{}", path.display()),
            kind,
        });
    }

    /// What the layers have at a path, topmost first; a whiteout or an opaque directory on the way hides what is below.
    fn status_below(&self, path: &Path) -> Option<Stat> {
        for layer in &self.lower {
            let fd = match open_plain(layer, path, OFlags::PATH | OFlags::NOFOLLOW) {
                Ok(fd) => fd,
                Err(_) if hides(layer, path) => return None,
                Err(_) => continue,
            };
            let stat = rustix::fs::fstat(&fd).ok()?;
            return (!is_whiteout(&stat)).then_some(stat);
        }
        None
    }

    /// The names that the layers together have in a directory.
    fn names_below(&self, directory: &Path) -> BTreeSet<OsString> {
        let (mut names, mut hidden) = (BTreeSet::new(), BTreeSet::new());
        for layer in &self.lower {
            if let Ok(fd) = open_plain(layer, directory, OFlags::RDONLY | OFlags::DIRECTORY) {
                for name in names_in(&fd).unwrap_or_default() {
                    let stat = rustix::fs::statat(&fd, &name, AtFlags::SYMLINK_NOFOLLOW);
                    if stat.is_ok_and(|stat| is_whiteout(&stat)) {
                        hidden.insert(name);
                    } else if !hidden.contains(&name) {
                        names.insert(name);
                    }
                }
            }
            if hides(layer, directory) {
                break;
            }
        }
        names
    }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// A directory that is here only for what is in it has not changed itself, nor has a file that was only opened to be
/// written: Docker's comparison.
fn is_same(stat: &Stat, below: &Stat) -> bool {
    let attributes = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev);
    let content = |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    attributes(stat) == attributes(below) && (is_directory(stat) || content(stat) == content(below))
}

fn names_in(directory: &OwnedFd) -> rustix::io::Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.insert(OsString::from_vec(name));
        }
    }
    Ok(names)
}

/// Whether something on the way to a path, in this layer, hides what the layers below have there.
fn hides(layer: &OwnedFd, path: &Path) -> bool {
    let mut reached = PathBuf::new();
    for component in path.components() {
        reached.push(component);
        let Ok(fd) = open_plain(layer, &reached, OFlags::PATH | OFlags::NOFOLLOW) else {
            return false;
        };
        let Ok(stat) = rustix::fs::fstat(&fd) else {
            return false;
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return true;
        }
        let directory = open_plain(layer, &reached, OFlags::RDONLY | OFlags::DIRECTORY);
        if directory.is_ok_and(|directory| is_opaque(&directory)) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_apart() {
        let base = std::env::temp_dir().join(format!("naru-changes-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&base);
        let (upper, lower) = (base.join("upper"), base.join("lower"));
        for path in ["upper/etc", "upper/new/deep", "lower/etc"] {
            std::fs::create_dir_all(base.join(path)).unwrap();
        }
        std::fs::write(upper.join("etc/added"), "").unwrap();
        std::fs::write(upper.join("etc/changed"), "22").unwrap();
        std::fs::write(lower.join("etc/changed"), "1").unwrap();
        std::fs::write(upper.join("new/deep/file"), "").unwrap();
        let found = find_changes(&upper, &[lower]).unwrap();
        let listed: Vec<_> = found
            .iter()
            .map(|change| (change.path.as_str(), change.kind))
            .collect();
        assert_eq!(
            listed,
            [
                ("/etc", ChangeKind::Modified),
                ("/etc/added", ChangeKind::Added),
                ("/etc/changed", ChangeKind::Modified),
                ("/new", ChangeKind::Added),
                ("/new/deep", ChangeKind::Added),
                ("/new/deep/file", ChangeKind::Added),
            ]
        );
        std::fs::remove_dir_all(base).unwrap();
    }
}
