//! Removing a container: its read-write layer, its log and its record go; volumes stay unless asked for.

use super::Container;
use crate::Engine;
use crate::error::{EngineError, Result};
use crate::record::{ContainerRecord, ContainerState};
use crate::views::RemoveOptions;
use naru_base::ContainerId;
use naru_sys::file;
use std::sync::Arc;
use std::time::Duration;

/// How long one `prune` waits, for all containers together, until nothing else is being done with them. One that hangs
/// must not keep the others.
const OPERATION_WAIT_MAX: Duration = Duration::from_secs(10);

/// Ends the name of a directory whose container has been removed.
pub(crate) const REMOVED: &str = ".removed";

impl Engine {
    pub async fn remove_container(&self, name: &str, options: RemoveOptions) -> Result<()> {
        let container = self.registry.find(name)?;
        if options.force {
            self.kill_and_wait(&container).await?;
        }
        let _operation = container.operation.lock().await;
        let record = container.record();
        match record.state {
            ContainerState::Running { .. } | ContainerState::Restarting { .. } if !options.force => {
                return Err(EngineError::conflict(format!(
                    "You cannot remove a running container {}. Stop the container before attempting removal or force remove",
                    container.id
                )));
            }
            ContainerState::Paused { .. } if !options.force => {
                return Err(EngineError::conflict(format!(
                    "You cannot remove a paused container {}. Unpause and then stop the container before attempting removal or force remove",
                    container.id
                )));
            }
            _ if container.phase().borrow().is_removed => return Ok(()),
            _ => {}
        }
        // A start may have slipped in between the kill and the lock.
        if container.record().is_running() {
            self.kill_and_wait(&container).await?;
        }
        if container.phase().borrow().is_removed {
            return Ok(());
        }
        self.remove_stopped(&container, options.volumes)
    }

    /// Removes a container that does not run. It is gone once its directory has another name; recovery finishes what
    /// is interrupted after that. What holds no data is deleted after the answer.
    pub(crate) fn remove_stopped(
        &self,
        container: &Arc<Container>,
        with_anonymous_volumes: bool,
    ) -> Result<()> {
        let before = container.record().state.clone();
        container.change(|record| record.state = ContainerState::Removing);
        let removed = self.removed_directory(&container.id);
        if let Err(error) = std::fs::rename(&container.directory, &removed)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            container.change(|record| record.state = before);
            return Err(file::FileError::at("rename", &container.directory)(error).into());
        }
        self.syncer.forget(&container.record_path());
        self.registry.remove(container);
        let released = self.content.release_snapshot(&container.id);
        let record = container.record();
        if with_anonymous_volumes {
            for mount in record.resolved.mounts.iter().filter(|mount| mount.is_anonymous) {
                let Some(name) = &mount.volume else { continue };
                let users = self.volumes.delete_unused(name, || self.volume_users(name))?;
                if users.is_empty() {
                    self.volume_event("destroy", name);
                }
            }
        }
        super::lock(&container.pending_attachments).clear();
        self.container_event("destroy", container, &[]);
        container.set_phase(|phase| phase.is_removed = true);
        let run_directory = container.run_directory.clone();
        let snapshot = released.map_err(|error| {
            EngineError::system(format!(
                "container {} is removed, but what it wrote could not be deleted; the next start of the daemon tries \
                 again: {error}",
                container.id
            ))
        });
        let (snapshot, result) = match snapshot {
            Ok(snapshot) => (Some(snapshot), Ok(())),
            Err(error) => (None, Err(error)),
        };
        tokio::task::spawn_blocking(move || {
            if let Some(snapshot) = snapshot {
                snapshot.remove();
            }
            for directory in [&run_directory, &removed] {
                if let Err(error) = file::remove_tree(directory) {
                    tracing::warn!(%error, "cannot delete a removed container's files");
                }
            }
        });
        result
    }

    /// What the directory of a container is called that has been removed.
    fn removed_directory(&self, id: &ContainerId) -> std::path::PathBuf {
        self.containers_directory().join(format!("{id}{REMOVED}"))
    }

    /// Removes every container that does not run and that `is_meant` names; returns their ids and the bytes they wrote.
    pub async fn prune_containers(
        &self,
        is_meant: impl Fn(&ContainerRecord) -> bool,
    ) -> Result<(Vec<ContainerId>, u64)> {
        let mut containers = self.registry.all();
        containers.retain(|container| is_ended(container) && is_meant(&container.record()));
        let ids = containers.iter().map(|container| container.id.clone()).collect();
        let sizes = self.container_sizes(ids).await?;
        let (mut removed, mut bytes) = (Vec::new(), 0);
        let deadline = tokio::time::Instant::now() + OPERATION_WAIT_MAX;
        for (container, (written, _)) in containers.iter().zip(sizes) {
            // Whoever has just started it may still be writing that down while its end is already known.
            let operation = tokio::time::timeout_at(deadline, container.operation.lock()).await;
            let Ok(_operation) = operation else {
                tracing::warn!(container = %container.id, "not pruned: something else is being done with it for long");
                continue;
            };
            // It may have been started or removed meanwhile.
            if !is_ended(container) {
                continue;
            }
            match self.remove_stopped(container, false) {
                Ok(()) => {
                    removed.push(container.id.clone());
                    bytes += written;
                }
                Err(error) => tracing::warn!(%error, container = %container.id, "cannot prune a container"),
            }
        }
        self.prune_event("container", bytes);
        Ok((removed, bytes))
    }
}

fn is_ended(container: &Container) -> bool {
    let is_stopped = matches!(
        container.record().state,
        ContainerState::Created | ContainerState::Exited { .. }
    );
    is_stopped && !container.phase().borrow().is_removed
}
