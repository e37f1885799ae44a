//! A new daemon finds what the one before left: the same settling of every record, whatever killed the other.

use crate::Engine;
use crate::containers::{
    Container, Exec, ExitCause, REMOVED, RunResources, Witness, derive_started_at, lock,
};
use crate::error::Result;
use crate::keepers::KeeperConnection;
use crate::record::{ContainerRecord, ContainerState, ExitSummary, RunRecord};
use crate::spec::RestartPolicy;
use crate::why::{StartedBy, policy_text};
use naru_base::{ContainerId, Timestamp};
use naru_cgroup::Cgroup;
use naru_keeper::protocol::{KeeperState, KeeperStatus, Reply, Request};
use naru_sys::file;
use naru_sys::seqpacket::SeqPacket;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a container waits at boot for those whose namespaces it shares.
const JOINED_START_WAIT: Duration = Duration::from_secs(30);

impl Engine {
    /// Reads every record, finds the keepers that still run, settles what ended meanwhile, and sweeps what no record
    /// needs.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<()> {
        let mut found: Vec<Arc<Container>> = Vec::new();
        for id in self.recorded_ids() {
            let directory = self.container_directory(&id);
            match naru_store::read::<ContainerRecord>(&directory.join("record.json")) {
                Ok(record) => {
                    let container = self.found(record, directory);
                    self.registry.insert(&container);
                    found.push(container);
                }
                // Creation writes the record last and removal takes it first: what is left is nobody's container.
                Err(naru_store::StoreError::Missing(_)) => {
                    let _ = file::remove_tree(&directory);
                }
                Err(error) => {
                    tracing::error!(%error, "a container's record cannot be read; its files are left as they are");
                }
            }
        }
        for container in &found {
            self.settle(container).await;
        }
        for container in found
            .iter()
            .filter(|container| container.record().spec.is_build_step)
        {
            // Its build died with the daemon.
            let options = crate::views::RemoveOptions {
                force: true,
                volumes: true,
            };
            if let Err(error) = self.remove_container(container.id.as_str(), options).await {
                tracing::warn!(container = container.id.short(), %error, "cannot remove what a build left");
            }
        }
        found.retain(|container| !container.record().spec.is_build_step);
        self.sweep(&found);
        self.recover_names(&found).await;
        self.start_by_policy(&found);
        Ok(())
    }

    /// A container with what its run, if it has one, left on record.
    fn found(&self, mut record: ContainerRecord, directory: PathBuf) -> Arc<Container> {
        let run_directory = self.run_directory(&record.id);
        record.run = None;
        let container = Container::new(record, directory, run_directory);
        Self::recall_health(&container);
        match naru_store::read::<RunRecord>(&container.run_record_path()) {
            Ok(run) => drop(container.change(|record| record.run = Some(run))),
            Err(naru_store::StoreError::Missing(_)) => {}
            Err(error) => {
                tracing::error!(%error, "what a run holds cannot be read; it is found by its keeper, or ended");
            }
        }
        container
    }

    fn recorded_ids(&self) -> Vec<ContainerId> {
        let entries = std::fs::read_dir(self.containers_directory())
            .into_iter()
            .flatten()
            .flatten();
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(REMOVED) {
                // Its removal was interrupted.
                let _ = file::remove_tree(&entry.path());
            } else if let Ok(id) = name.parse() {
                ids.push(id);
            }
        }
        ids
    }

    /// Brings one record in line with what its keeper says, or with what it left.
    async fn settle(self: &Arc<Self>, container: &Arc<Container>) {
        let record = container.record();
        if record.state == ContainerState::Removing {
            if let Err(error) = self.remove_stopped(container, record.spec.auto_remove) {
                tracing::warn!(container = container.id.short(), %error, "cannot finish a removal");
            }
            return;
        }
        let Some(run) = &record.run else {
            if record.is_running() {
                self.finish_run(container, ExitCause::RunLost, Witness::Nobody)
                    .await;
            }
            return;
        };
        for endpoint in &run.endpoints {
            self.network
                .reserve(&record.id, &crate::containers::endpoint_of_record(endpoint));
        }
        match Cgroup::open(&run.cgroup) {
            Ok(cgroup) => {
                *lock(&container.run) = Some(RunResources {
                    cgroup,
                    endpoints: run.endpoints.clone(),
                    has_resolver: run.has_resolver,
                    published: run.published.clone(),
                });
            }
            Err(error) => {
                tracing::error!(container = container.id.short(), %error, "cannot open a container's cgroup");
            }
        }
        match self.find_keeper(container).await {
            Some((connection, notices, status)) => match status.state {
                KeeperState::Running { pid, start_time } => {
                    self.adopt(container, pid, start_time, &status);
                    container.set_keeper(Some(connection));
                    self.follow_run(container, notices);
                }
                KeeperState::Exited(exit) => {
                    self.finish_run(container, ExitCause::Recorded(exit), Witness::Nobody)
                        .await;
                }
                // It never heard of its start: the daemon died in between, and the keeper has ended with it.
                KeeperState::Parked => self.forget_start(container),
            },
            None if is_exit_recorded(container) => {
                self.finish_run(container, ExitCause::found(container), Witness::Nobody)
                    .await;
            }
            None if record.is_running() => {
                self.finish_run(container, ExitCause::found(container), Witness::Nobody)
                    .await;
            }
            None => self.forget_start(container),
        }
    }

    /// A start in flight when the daemon died and never completed: the client saw its connection break.
    fn forget_start(&self, container: &Arc<Container>) {
        if let Some(resources) = lock(&container.run).take() {
            self.release(container, &resources);
        }
        container.change(|record| record.run = None);
        self.write_record_soon(container);
        if container.record().spec.auto_remove {
            let _ = self.remove_stopped(container, true);
        }
    }

    fn adopt(&self, container: &Arc<Container>, pid: i32, start_time: u64, status: &KeeperStatus) {
        let is_frozen = lock(&container.run)
            .as_ref()
            .is_some_and(|run| run.cgroup.is_frozen().unwrap_or(false));
        container.change(|record| {
            let started_at = match record.state {
                ContainerState::Running {
                    start_time: known,
                    started_at,
                    ..
                }
                | ContainerState::Paused {
                    start_time: known,
                    started_at,
                    ..
                } if known == start_time => started_at,
                _ => derive_started_at(start_time),
            };
            record.state = if is_frozen {
                ContainerState::Paused {
                    pid,
                    start_time,
                    started_at,
                }
            } else {
                ContainerState::Running {
                    pid,
                    start_time,
                    started_at,
                }
            };
        });
        container.set_phase(|phase| phase.is_running = true);
        self.recall_links(&container.record());
        for exec in &status.execs {
            let found = Exec::found(exec.exec.clone(), exec.pid, exec.exit_code);
            lock(&container.execs).insert(exec.exec.clone(), found);
            lock(&self.exec_containers).insert(exec.exec.clone(), Arc::downgrade(container));
        }
        self.write_record_soon(container);
    }

    async fn find_keeper(
        &self,
        container: &Container,
    ) -> Option<(
        Arc<KeeperConnection>,
        tokio::sync::mpsc::Receiver<crate::keepers::Notice>,
        KeeperStatus,
    )> {
        let socket = SeqPacket::connect(&container.keeper_socket()).ok()?;
        let (connection, notices) = KeeperConnection::new(socket, &container.id).ok()?;
        match connection.request(&Request::Status, &[]).await.ok()?.0 {
            Reply::Status(status) if status.container == container.id => Some((connection, notices, status)),
            _ => None,
        }
    }

    /// Removes what no container needs: directories, snapshots, sockets, cgroups, interfaces, ports.
    fn sweep(&self, found: &[Arc<Container>]) {
        let running: Vec<_> = found
            .iter()
            .filter(|container| lock(&container.run).is_some())
            .collect();
        self.volumes.sweep();
        for id in self.content.snapshots() {
            if !self.registry.has_id(&id) {
                let _ = self.content.remove_snapshot(&id);
            }
        }
        let runs: BTreeSet<_> = found.iter().map(|container| &container.run_directory).collect();
        for entry in std::fs::read_dir(self.runs_directory())
            .into_iter()
            .flatten()
            .flatten()
        {
            if !runs.contains(&entry.path()) {
                let _ = file::remove_tree(&entry.path());
            }
        }
        self.sweep_cgroups(&running);
        let endpoints: Vec<_> = running
            .iter()
            .flat_map(|container| {
                lock(&container.run)
                    .as_ref()
                    .map(|run| run.endpoints.clone())
                    .unwrap_or_default()
            })
            .map(|endpoint| crate::containers::endpoint_of_record(&endpoint))
            .collect();
        let published: Vec<_> = running
            .iter()
            .flat_map(|container| {
                lock(&container.run)
                    .as_ref()
                    .map(|run| run.published.clone())
                    .unwrap_or_default()
            })
            .map(|port| crate::containers::published_of_record(&port))
            .collect();
        if let Err(error) = self.network.sweep(&endpoints, &published) {
            tracing::warn!(%error, "cannot sweep interfaces and ports of containers that are gone");
        }
    }

    /// Cgroups of parked processes and of containers that are gone. What still runs in them belongs to nobody.
    fn sweep_cgroups(&self, running: &[&Arc<Container>]) {
        let parent = &self.workshop.cgroup_parent;
        let needed: BTreeSet<String> = running
            .iter()
            .filter_map(|container| container.record().run.as_ref().map(|run| run.cgroup.clone()))
            .collect();
        for name in naru_cgroup::list_children(parent).unwrap_or_default() {
            let path = format!("{}/{name}", parent.trim_end_matches('/'));
            if needed.contains(&path) || name.parse::<ContainerId>().is_err() {
                continue;
            }
            if let Ok(cgroup) = Cgroup::open(&path) {
                let _ = cgroup.kill_all();
                let _ = cgroup.remove();
            }
        }
    }

    /// Containers that should be up and are not: `always`, and `unless-stopped` where no client stopped them.
    fn start_by_policy(self: &Arc<Self>, found: &[Arc<Container>]) {
        let mut wanted: Vec<Arc<Container>> = found
            .iter()
            .filter(|container| is_wanted_up(container))
            .cloned()
            .collect();
        // The oldest first, and each after those whose namespaces it shares.
        wanted.sort_by_key(|container| container.record().created_at);
        let mut started: HashMap<ContainerId, watch::Receiver<bool>> = HashMap::new();
        let mut senders: HashMap<ContainerId, watch::Sender<bool>> = HashMap::new();
        for container in &wanted {
            let (sender, receiver) = watch::channel(false);
            started.insert(container.id.clone(), receiver);
            senders.insert(container.id.clone(), sender);
        }
        for container in wanted {
            let others: Vec<_> = container
                .record()
                .spec
                .joined_containers()
                .filter(|name| **name != *container.id.as_str())
                .filter_map(|name| started.get(&name.parse::<ContainerId>().ok()?).cloned())
                .collect();
            let done = senders.remove(&container.id);
            let engine = Arc::clone(self);
            tokio::spawn(async move {
                for mut other in others {
                    // One that could not be started lets the others try, and fail, by themselves; so does a circle.
                    let _ = tokio::time::timeout(JOINED_START_WAIT, other.wait_for(|is_done| *is_done)).await;
                }
                engine.start_found(&container).await;
                if let Some(done) = done {
                    let _ = done.send(true);
                }
            });
        }
    }

    async fn start_found(self: &Arc<Self>, container: &Arc<Container>) {
        let _operation = container.operation.lock().await;
        if container.record().is_running() || container.phase().borrow().is_removed {
            return;
        }
        let policy = policy_text(&container.record().spec.restart);
        let started_by = StartedBy::DaemonStart { policy };
        if let Err(error) = self.start(container, started_by).await {
            tracing::warn!(container = container.id.short(), %error, "cannot start a container by its restart policy");
            let exit = ExitSummary {
                exit_code: 128,
                oom_killed: false,
                started_at: None,
                finished_at: Timestamp::now(),
                error: error.message,
            };
            container.change(|record| record.state = ContainerState::Exited { exit });
        }
    }
}

/// Whether a new daemon is to start a container that it finds.
fn is_wanted_up(container: &Container) -> bool {
    let record = container.record();
    let was_started = matches!(
        record.state,
        ContainerState::Exited { .. } | ContainerState::Restarting { .. }
    );
    match record.spec.restart {
        RestartPolicy::Always => was_started,
        RestartPolicy::UnlessStopped => was_started && !record.stopped_by_client,
        RestartPolicy::OnFailure { .. } => matches!(record.state, ContainerState::Restarting { .. }),
        RestartPolicy::No => false,
    }
}

fn is_exit_recorded(container: &Container) -> bool {
    container.exit_record_path().exists()
}
