//! Removing a container: its read-write layer, its log and its record go; volumes stay unless asked for.

use super::Container;
use crate::Engine;
use crate::error::{EngineError, Result};
use crate::record::ContainerState;
use crate::views::RemoveOptions;
use naru_base::ContainerId;
use naru_sys::file;
use std::sync::Arc;

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

    /// Removes a container that does not run. The record goes last: a removal that is interrupted is seen by recovery,
    /// which finishes it.
    pub(crate) fn remove_stopped(
        &self,
        container: &Arc<Container>,
        with_anonymous_volumes: bool,
    ) -> Result<()> {
        container.change(|record| record.state = ContainerState::Removing);
        self.content
            .remove_snapshot(&container.id)
            .map_err(crate::images::error)?;
        self.forget_record(container);
        file::remove_tree(&container.directory)?;
        self.registry.remove(container);
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
        Ok(())
    }

    /// Removes every container that does not run; returns their ids.
    pub async fn prune_containers(&self) -> Result<Vec<ContainerId>> {
        let mut removed = Vec::new();
        for container in self.registry.all() {
            let Ok(_operation) = container.operation.try_lock() else {
                continue;
            };
            if matches!(
                container.record().state,
                ContainerState::Created | ContainerState::Exited { .. }
            ) {
                self.remove_stopped(&container, false)?;
                removed.push(container.id.clone());
            }
        }
        Ok(removed)
    }
}
