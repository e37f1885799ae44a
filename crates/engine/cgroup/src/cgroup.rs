//! One control group: its life from `mkdir` to `rmdir`, and the processes in it.

use crate::error::{CgroupError, Result};
use crate::hierarchy::{CpusetInheritance, Hierarchy, Root, Version, hierarchy, inherit_cpuset, join};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Freezing a process waits for it to leave the kernel; one stuck on a dead disk never does.
const FREEZE_TIME_MAX: Duration = Duration::from_secs(2);
/// Killed processes with much memory take time to give it back.
const KILL_TIME_MAX: Duration = Duration::from_secs(10);
/// After the last process has ended the kernel may hold its cgroup a moment longer.
const REMOVE_TIME_MAX: Duration = Duration::from_secs(2);

/// A cgroup by its path; it may or may not exist.
#[derive(Debug, Clone)]
pub struct Cgroup {
    hierarchy: &'static Hierarchy,
    /// Without the leading slash, as it is resolved from a root's descriptor.
    relative: String,
}

impl Cgroup {
    /// Names a cgroup, such as `/naru/<id>`, without looking whether it exists.
    pub fn open(path: &str) -> Result<Self> {
        let relative = path.strip_prefix('/').unwrap_or_default();
        let is_plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
        if !relative.split('/').all(is_plain) {
            return Err(CgroupError::InvalidPath {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            hierarchy: hierarchy()?,
            relative: relative.to_owned(),
        })
    }

    /// Makes the cgroup in every hierarchy, with its parents. One that exists already is taken over as it is.
    /// If it fails nothing of the cgroup itself stays behind.
    pub fn create(path: &str) -> Result<Self> {
        let cgroup = Self::open(path)?;
        let parent = cgroup.relative.rsplit_once('/').map_or("", |(parent, _)| parent);
        let inheritance = cgroup.hierarchy.prepare_parent(parent, false)?;
        let made = cgroup.make_directories(inheritance).or_else(|error| match error {
            // Somebody removed the parent since it was prepared.
            CgroupError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                let inheritance = cgroup.hierarchy.prepare_parent(parent, true)?;
                cgroup.make_directories(inheritance)
            }
            error => Err(error),
        });
        match made {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                let _ = cgroup.remove();
                Err(error)
            }
        }
    }

    fn make_directories(&self, inheritance: CpusetInheritance) -> Result<()> {
        for root in self.hierarchy.roots() {
            root.make_directory(&self.relative)
                .map_err(|error| self.io("make the cgroup", root, error))?;
            if inheritance == CpusetInheritance::ByHand && is_v1_cpuset(root) {
                inherit_cpuset(root, &self.relative)?;
            }
        }
        Ok(())
    }

    /// The path as given, `/naru/<id>`.
    pub fn path(&self) -> String {
        format!("/{}", self.relative)
    }

    pub fn exists(&self) -> bool {
        self.hierarchy
            .roots()
            .iter()
            .any(|root| root.exists(&self.relative))
    }

    /// The v2 directory, for a clone straight into the cgroup (`CLONE_INTO_CGROUP`): 130 µs, where the first write to
    /// `cgroup.procs` after a pause takes 11 ms. `None` where no v2 hierarchy is mounted.
    pub fn open_unified(&self) -> Result<Option<OwnedFd>> {
        let Some(root) = self.hierarchy.unified() else {
            return Ok(None);
        };
        root.open_directory(&self.relative)
            .map(Some)
            .map_err(|error| self.io("open", root, error))
    }

    /// Moves the calling process into the cgroup.
    pub fn enter_self(&self) -> Result<()> {
        self.enter_as("0")
    }

    /// Moves a process into the cgroup; its children follow only if they are made afterwards.
    pub fn enter(&self, pid: i32) -> Result<()> {
        self.enter_as(&pid.to_string())
    }

    fn enter_as(&self, pid: &str) -> Result<()> {
        let file = join(&self.relative, "cgroup.procs");
        for root in self.hierarchy.roots() {
            let mut entered = root.write(&file, pid);
            if entered == Err(Errno::NOSPC) && is_v1_cpuset(root) {
                inherit_cpuset(root, &self.relative)?;
                entered = root.write(&file, pid);
            }
            entered.map_err(|error| CgroupError::io("enter", root.display(&file), error))?;
        }
        Ok(())
    }

    /// Stops every process of the cgroup and of those below it, and returns when all have stopped.
    pub fn freeze(&self) -> Result<()> {
        let deadline = Deadline::after(FREEZE_TIME_MAX);
        let (root, file, value) = self.freezer("FROZEN", "1")?;
        write(root, &file, value)?;
        while !self.is_frozen()? {
            if !deadline.pause() {
                let _ = self.thaw();
                return Err(self.timed_out("frozen", FREEZE_TIME_MAX));
            }
            // A v1 cgroup caught between two states is pushed on by writing again.
            if root.version() == Version::V1 {
                write(root, &file, value)?;
            }
        }
        Ok(())
    }

    /// Lets frozen processes go on.
    pub fn thaw(&self) -> Result<()> {
        let (root, file, value) = self.freezer("THAWED", "0")?;
        write(root, &file, value)
    }

    /// All its processes are stopped by [`Cgroup::freeze`].
    pub fn is_frozen(&self) -> Result<bool> {
        let (root, _, _) = self.freezer("", "")?;
        match root.version() {
            Version::V1 => Ok(self.read(root, "freezer.state")?.trim() == "FROZEN"),
            Version::V2 => Ok(self
                .read(root, "cgroup.events")?
                .lines()
                .any(|line| line == "frozen 1")),
        }
    }

    fn freezer<'a>(&self, v1: &'a str, v2: &'a str) -> Result<(&'static Root, String, &'a str)> {
        let v1_root = self
            .hierarchy
            .root_with("freezer")
            .map(|root| (root, "freezer.state", v1));
        let v2_root = || self.hierarchy.unified().map(|root| (root, "cgroup.freeze", v2));
        let (root, name, value) = v1_root.or_else(v2_root).ok_or_else(|| CgroupError::Unsupported {
            limit: "a pause".to_owned(),
            needs: "controller freezer".to_owned(),
        })?;
        Ok((root, join(&self.relative, name), value))
    }

    /// Kills every process of the cgroup and of those below it, frozen or not, and returns when none is left.
    /// A cgroup that does not exist has none.
    pub fn kill_all(&self) -> Result<()> {
        let deadline = Deadline::after(KILL_TIME_MAX);
        loop {
            let killed_at_once = self.kill_unified();
            let mut left = self.process_ids_anywhere()?;
            if left.is_empty() {
                return Ok(());
            }
            if killed_at_once {
                // Where all were in the v2 hierarchy too they are on their way, unless a v1 freezer holds them.
                self.thaw_quietly();
                deadline.pause();
                left = self.process_ids_anywhere()?;
            }
            if !left.is_empty() {
                self.kill_each()?;
                if !deadline.pause() {
                    return Err(self.timed_out("empty", KILL_TIME_MAX));
                }
            }
        }
    }

    /// Whether the kernel has `cgroup.kill` (5.14) and took it.
    fn kill_unified(&self) -> bool {
        self.hierarchy
            .unified()
            .is_some_and(|root| root.write(&join(&self.relative, "cgroup.kill"), "1").is_ok())
    }

    /// Frozen while their numbers are read and used, so that no number can have passed to another process.
    fn kill_each(&self) -> Result<()> {
        let frozen = self.freeze().is_ok();
        let ids = self.process_ids_anywhere();
        for id in ids.iter().flatten() {
            // One that has ended since is what was wanted.
            if let Some(pid) = Pid::from_raw(*id) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if frozen {
            self.thaw_quietly();
        }
        ids.map(drop)
    }

    fn thaw_quietly(&self) {
        let _ = self.thaw();
    }

    /// Processes in the cgroup and in those below it.
    pub fn process_ids(&self) -> Result<Vec<i32>> {
        let mut ids = BTreeSet::new();
        let roots = self.hierarchy.roots();
        let root = match self.hierarchy.version() {
            Version::V2 => self.hierarchy.unified(),
            Version::V1 => roots.iter().find(|root| !root.controllers().is_empty()),
        };
        self.collect_process_ids(root.unwrap_or(&roots[0]), &self.relative, &mut ids)?;
        Ok(ids.into_iter().collect())
    }

    /// A process can have been moved out of the cgroup in one hierarchy and still be in it in another.
    fn process_ids_anywhere(&self) -> Result<BTreeSet<i32>> {
        let mut ids = BTreeSet::new();
        for root in self.hierarchy.roots() {
            self.collect_process_ids(root, &self.relative, &mut ids)?;
        }
        Ok(ids)
    }

    fn collect_process_ids(&self, root: &Root, relative: &str, ids: &mut BTreeSet<i32>) -> Result<()> {
        match root.read(&join(relative, "cgroup.procs")) {
            // Zero stands for a process of a pid namespace that cannot be seen from here.
            Ok(list) => ids.extend(
                list.lines()
                    .filter_map(|line| line.parse().ok())
                    .filter(|id: &i32| *id > 0),
            ),
            // A threaded v2 cgroup lists its processes in its domain only.
            Err(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(self.io("read the processes of", root, error)),
        }
        let children = root
            .children(relative)
            .map_err(|error| self.io("list", root, error))?;
        for child in children {
            self.collect_process_ids(root, &join(relative, &child), ids)?;
        }
        Ok(())
    }

    /// How many processes the out-of-memory killer has ended here; 0 where the kernel does not count them.
    pub fn oom_kill_count(&self) -> Result<u64> {
        let Some(root) = self.hierarchy.root_with("memory") else {
            return Ok(0);
        };
        let name = match root.version() {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        Ok(counter(&self.read(root, name)?, "oom_kill "))
    }

    /// How many processes were not made because there were as many as there may be.
    pub fn fork_refusal_count(&self) -> Result<u64> {
        let Some(root) = self.hierarchy.root_with("pids") else {
            return Ok(0);
        };
        Ok(counter(&self.read(root, "pids.events")?, "max "))
    }

    /// Removes the cgroup and those below it. One that does not exist is removed already.
    pub fn remove(&self) -> Result<()> {
        let deadline = Deadline::after(REMOVE_TIME_MAX);
        for root in self.hierarchy.roots() {
            loop {
                match remove_tree(root, &self.relative) {
                    Ok(()) => break,
                    Err(Errno::BUSY | Errno::NOTEMPTY) if deadline.pause() => {}
                    Err(error) => return Err(self.io("remove the cgroup", root, error)),
                }
            }
        }
        Ok(())
    }

    pub(crate) fn hierarchy(&self) -> &'static Hierarchy {
        self.hierarchy
    }

    pub(crate) fn relative(&self) -> &str {
        &self.relative
    }

    pub(crate) fn read(&self, root: &Root, name: &str) -> Result<String> {
        let file = join(&self.relative, name);
        root.read(&file)
            .map_err(|error| CgroupError::io("read", root.display(&file), error))
    }

    fn io(&self, action: &'static str, root: &Root, error: Errno) -> CgroupError {
        CgroupError::io(action, root.display(&self.relative), error)
    }

    fn timed_out(&self, state: &'static str, waited: Duration) -> CgroupError {
        CgroupError::TimedOut {
            cgroup: self.path(),
            state,
            waited,
        }
    }
}

/// Names of the cgroups directly below a path, in any hierarchy: for finding those that nobody owns any more.
pub fn list_children(path: &str) -> Result<Vec<String>> {
    let parent = Cgroup::open(path)?;
    let mut names = BTreeSet::new();
    for root in parent.hierarchy.roots() {
        names.extend(
            root.children(&parent.relative)
                .map_err(|error| parent.io("list", root, error))?,
        );
    }
    Ok(names.into_iter().collect())
}

/// The number behind a name in a file of names and numbers, one pair a line.
fn counter(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        .unwrap_or(0)
}

fn write(root: &Root, file: &str, value: &str) -> Result<()> {
    root.write(file, value)
        .map_err(|error| CgroupError::io("write", root.display(file), error))
}

fn is_v1_cpuset(root: &Root) -> bool {
    root.version() == Version::V1 && root.has_controller("cpuset")
}

/// Tries the directory itself first: nearly always it has no children.
fn remove_tree(root: &Root, relative: &str) -> Result<(), Errno> {
    match root.remove_directory(relative) {
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        other => return other,
    }
    for child in root.children(relative)? {
        remove_tree(root, &join(relative, &child))?;
    }
    match root.remove_directory(relative) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Waits in growing steps until a point in time.
struct Deadline {
    end: Instant,
    step: std::cell::Cell<Duration>,
}

impl Deadline {
    fn after(time_max: Duration) -> Self {
        Self {
            end: Instant::now() + time_max,
            step: std::cell::Cell::new(Duration::from_micros(100)),
        }
    }

    /// Sleeps one step; `false` when the time is up.
    fn pause(&self) -> bool {
        let step = self.step.get();
        std::thread::sleep(step);
        self.step.set((step * 2).min(Duration::from_millis(20)));
        Instant::now() < self.end
    }
}
