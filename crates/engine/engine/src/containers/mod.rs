//! Containers in memory: one handle each, found by id, name or unambiguous prefix.

mod attach;
mod create;
mod exec;
mod exit;
mod logs;
mod names;
mod remove;
mod running;
mod start;
mod stats;
mod stop;
mod top;
mod update;

pub use exec::Exec;
pub use exit::{ExitCause, Witness, derive_started_at};
pub(crate) use remove::REMOVED;
pub(crate) use start::{
    endpoint_of_record, endpoint_record, fault_of, give_to, network_protocol, parse_mac, published_of_record,
    published_record,
};
pub(crate) use stop::{parse_signal, signal_word};

use crate::error::{EngineError, Result};
use crate::keepers::KeeperConnection;
use crate::record::{ContainerRecord, EndpointRecord, PublishedPort};
use crate::views::WaitCondition;
use naru_base::{ContainerId, ExecId};
use naru_cgroup::Cgroup;
use naru_keeper::protocol::AttachOptions;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::watch;

/// Takes a lock whose holder cannot leave the data half changed: every critical section here is one assignment.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One container: its record and what its present run holds.
pub struct Container {
    pub id: ContainerId,
    /// `<data-root>/containers/<id>`: record and log.
    pub directory: PathBuf,
    /// `<exec-root>/runs/<id>`: what concerns its present run, or its last, and no machine that has been restarted.
    pub run_directory: PathBuf,
    record: Mutex<Arc<ContainerRecord>>,
    /// Held by whoever starts, stops, pauses or removes it, one at a time; never needed to read or to kill.
    pub operation: tokio::sync::Mutex<()>,
    /// Held while an ended run's cgroup is taken down; the next start waits for it.
    pub cleanup: tokio::sync::Mutex<()>,
    keeper: Mutex<Option<Arc<KeeperConnection>>>,
    /// What the present run holds on the host; taken by whoever undoes it.
    pub run: Mutex<Option<RunResources>>,
    phase: watch::Sender<Phase>,
    /// Clients attached before the start; their sockets go to the keeper with it.
    pub pending_attachments: Mutex<Vec<(AttachOptions, OwnedFd)>>,
    pub execs: Mutex<BTreeMap<ExecId, Arc<Exec>>>,
    /// Held in common while a signal is sent and told of; the end that it brings is told of afterwards.
    pub signalling: tokio::sync::RwLock<()>,
    /// Set by a client's stop or kill, so that the restart policy leaves it alone.
    pub stop_wanted: std::sync::atomic::AtomicBool,
    /// The present run has been sent SIGKILL, which a frozen one would never hear of.
    pub kill_sent: std::sync::atomic::AtomicBool,
    /// How many restarts are under way: until they are done, `--rm` leaves it alone.
    pub restarts_wanted: std::sync::atomic::AtomicU32,
    /// What checks of the present run, or of the last one, have found; `None` where there are none.
    pub health: Mutex<Option<crate::health::HealthRecord>>,
    /// How often the pause before a restart by policy has been doubled.
    pub restart_doublings: std::sync::atomic::AtomicU32,
}

/// What one run holds outside its process.
pub struct RunResources {
    pub cgroup: Cgroup,
    pub endpoints: Vec<EndpointRecord>,
    /// Names are answered for it.
    pub has_resolver: bool,
    pub published: Vec<PublishedPort>,
}

/// What waiters watch.
#[derive(Debug, Clone, Default)]
pub struct Phase {
    pub is_running: bool,
    /// How many runs have ended while this daemon watched.
    pub exits: u64,
    pub exit_code: i32,
    pub error: Option<String>,
    pub is_removed: bool,
}

impl Container {
    pub fn new(record: ContainerRecord, directory: PathBuf, run_directory: PathBuf) -> Arc<Self> {
        let phase = Phase {
            is_running: record.is_running(),
            exit_code: record.last_exit().map_or(0, |exit| exit.exit_code),
            ..Phase::default()
        };
        Arc::new(Self {
            id: record.id.clone(),
            directory,
            run_directory,
            record: Mutex::new(Arc::new(record)),
            operation: tokio::sync::Mutex::new(()),
            cleanup: tokio::sync::Mutex::new(()),
            keeper: Mutex::new(None),
            run: Mutex::new(None),
            phase: watch::Sender::new(phase),
            pending_attachments: Mutex::new(Vec::new()),
            execs: Mutex::new(BTreeMap::new()),
            signalling: tokio::sync::RwLock::new(()),
            stop_wanted: std::sync::atomic::AtomicBool::new(false),
            kill_sent: std::sync::atomic::AtomicBool::new(false),
            restarts_wanted: std::sync::atomic::AtomicU32::new(0),
            health: Mutex::new(None),
            restart_doublings: std::sync::atomic::AtomicU32::new(0),
        })
    }

    pub fn record(&self) -> Arc<ContainerRecord> {
        Arc::clone(&lock(&self.record))
    }

    /// Changes the record in memory and returns the new one; the caller decides whether it is written at once.
    pub fn change(&self, change: impl FnOnce(&mut ContainerRecord)) -> Arc<ContainerRecord> {
        let mut slot = lock(&self.record);
        let mut record = ContainerRecord::clone(&slot);
        change(&mut record);
        *slot = Arc::new(record);
        Arc::clone(&slot)
    }

    pub fn record_path(&self) -> PathBuf {
        self.directory.join("record.json")
    }

    /// Its `hosts`, `resolv.conf` or `hostname`.
    pub fn network_file(&self, name: &str) -> PathBuf {
        self.run_directory.join(name)
    }

    pub fn exit_record_path(&self) -> PathBuf {
        self.run_directory.join("exit.json")
    }

    pub fn run_record_path(&self) -> PathBuf {
        self.run_directory.join("run.json")
    }

    pub fn health_record_path(&self) -> PathBuf {
        self.run_directory.join("health.json")
    }

    /// Where the keeper of the present run listens.
    pub fn keeper_socket(&self) -> PathBuf {
        self.run_directory.join("sock")
    }

    /// Has the run directory ready for a new run: nothing in it tells of an earlier one.
    pub fn clear_run_directory(&self) -> Result<()> {
        let failed = |error| {
            EngineError::from(naru_sys::file::FileError::at(
                "make directory",
                &self.run_directory,
            )(error))
        };
        match std::fs::DirBuilder::new().mode(0o700).create(&self.run_directory) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                self.forget_run();
                Ok(())
            }
            made => made.map_err(failed),
        }
    }

    /// Removes what would tell the next daemon of a run: it is over, and the container's record says so.
    pub fn forget_run(&self) {
        let _ = std::fs::remove_file(self.run_record_path());
        let _ = std::fs::remove_file(self.exit_record_path());
    }

    /// The keeper of the present run.
    pub fn keeper(&self) -> Option<Arc<KeeperConnection>> {
        lock(&self.keeper).clone()
    }

    /// The keeper of a run that a request needs; Docker's words when there is none.
    pub fn running_keeper(&self) -> Result<Arc<KeeperConnection>> {
        self.keeper()
            .ok_or_else(|| EngineError::conflict(format!("container {} is not running", self.id)))
    }

    pub fn set_keeper(&self, keeper: Option<Arc<KeeperConnection>>) {
        *lock(&self.keeper) = keeper;
    }

    pub fn set_phase(&self, change: impl FnOnce(&mut Phase)) {
        self.phase.send_modify(change);
    }

    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }
}

impl Phase {
    /// Whether a wait that began when `before` held is over.
    pub fn satisfies(&self, condition: WaitCondition, before: &Phase) -> bool {
        match condition {
            WaitCondition::NotRunning => !self.is_running || self.is_removed,
            WaitCondition::NextExit => self.exits > before.exits || self.is_removed,
            WaitCondition::Removed => self.is_removed,
        }
    }
}

/// Every container of the engine, by id and by name.
#[derive(Default)]
pub struct Registry {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    by_id: BTreeMap<ContainerId, Arc<Container>>,
    by_name: HashMap<String, ContainerId>,
}

impl Registry {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a name for a container not yet inserted.
    pub fn reserve_name(&self, name: &str, id: &ContainerId) -> Result<()> {
        let mut inner = self.write();
        if let Some(holder) = inner.by_name.get(name) {
            return Err(EngineError::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". You have to remove (or rename) that container to be able to reuse that name."
            )));
        }
        inner.by_name.insert(name.to_owned(), id.clone());
        Ok(())
    }

    pub fn release_name(&self, name: &str, id: &ContainerId) {
        let mut inner = self.write();
        if inner.by_name.get(name) == Some(id) {
            inner.by_name.remove(name);
        }
    }

    pub fn insert(&self, container: &Arc<Container>) {
        let mut inner = self.write();
        inner
            .by_name
            .insert(container.record().name.clone(), container.id.clone());
        inner.by_id.insert(container.id.clone(), Arc::clone(container));
    }

    pub fn remove(&self, container: &Container) {
        let name = container.record().name.clone();
        self.release_name(&name, &container.id);
        self.write().by_id.remove(&container.id);
    }

    pub fn has_id(&self, id: &ContainerId) -> bool {
        self.read().by_id.contains_key(id)
    }

    /// By full id, then name, then prefix of an id, as Docker looks them up.
    pub fn find(&self, name: &str) -> Result<Arc<Container>> {
        let inner = self.read();
        let name = name.strip_prefix('/').unwrap_or(name);
        let missing = || EngineError::not_found(format!("No such container: {name}"));
        if let Some(container) = name
            .parse::<ContainerId>()
            .ok()
            .and_then(|id| inner.by_id.get(&id))
        {
            return Ok(Arc::clone(container));
        }
        if let Some(id) = inner.by_name.get(name) {
            // A name may be reserved by a creation that is not finished.
            return inner.by_id.get(id).cloned().ok_or_else(missing);
        }
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(missing());
        }
        let mut found = inner
            .by_id
            .iter()
            .filter(|(id, _)| id.as_str().starts_with(name))
            .map(|(_, container)| container);
        match (found.next(), found.next()) {
            (Some(container), None) => Ok(Arc::clone(container)),
            (Some(_), Some(_)) => Err(EngineError::invalid(format!(
                "multiple IDs found with provided prefix: {name}"
            ))),
            _ => Err(missing()),
        }
    }

    /// All of them, newest first, as listings show them.
    pub fn all(&self) -> Vec<Arc<Container>> {
        let mut all: Vec<_> = self.read().by_id.values().cloned().collect();
        all.sort_by_cached_key(|container| std::cmp::Reverse(container.record().created_at));
        all
    }
}
