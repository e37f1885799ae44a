//! Changing what a container is called and what it may use, and looking at it.

use super::{Container, lock, names};
use crate::Engine;
use crate::error::{EngineError, Result};
use crate::networks::linked_names;
use crate::plan;
use crate::record::{ContainerRecord, ContainerState};
use crate::spec::ContainerSpec;
use crate::views::{ContainerView, ListedContainer};
use naru_base::ContainerId;
use std::sync::Arc;

impl Engine {
    pub async fn rename_container(&self, name: &str, new_name: &str) -> Result<()> {
        let container = self.registry.find(name)?;
        let _operation = container.operation.lock().await;
        let new_name = names::parse(new_name)?;
        self.registry.reserve_name(&new_name, &container.id)?;
        let old = container.record().name.clone();
        container.change(|record| record.name.clone_from(&new_name));
        if let Err(error) = self.write_record(&container) {
            container.change(|record| record.name.clone_from(&old));
            self.registry.release_name(&new_name, &container.id);
            return Err(error);
        }
        self.registry.release_name(&old, &container.id);
        self.container_event("rename", &container, &[("oldName", &old)]);
        self.rename_endpoints(&container.record()).await;
        Ok(())
    }

    /// Changes limits and restart policy, of a running container at once. `change` gets the spec as it is now, with
    /// nobody else changing it; what it does to other fields means nothing.
    pub async fn update_container<E: From<EngineError>>(
        &self,
        name: &str,
        change: impl FnOnce(&mut ContainerSpec) -> Result<(), E> + Send,
    ) -> Result<(), E> {
        let container = self.registry.find(name)?;
        let _operation = container.operation.lock().await;
        let record = container.record();
        if record.state == ContainerState::Removing {
            return Err(EngineError::conflict(format!(
                "Cannot update container {}: Container is marked for removal and cannot be \"update\".",
                record.id
            ))
            .into());
        }
        let mut spec = record.spec.clone();
        change(&mut spec)?;
        apply_live(&container, &record, &spec)?;
        container.change(|record| {
            record.spec.resources = spec.resources;
            record.spec.restart = spec.restart;
            record.spec.origin = spec.origin;
        });
        self.write_record(&container)?;
        self.container_event("update", &container, &[]);
        Ok(())
    }

    /// Those that run, or all of them, newest first.
    pub fn list_containers(&self, all: bool) -> Vec<ListedContainer> {
        let containers = self.registry.all();
        let records: Vec<_> = containers.iter().map(|container| container.record()).collect();
        let mut linked_names = linked_names(&records);
        let shown = containers.iter().zip(records);
        shown
            .filter(|(_, record)| all || record.is_running() || is_restarting(record))
            .map(|(container, record)| ListedContainer {
                health: Self::health_status_of(container, &record),
                linked_names: linked_names.remove(&record.id).unwrap_or_default(),
                record,
            })
            .collect()
    }

    pub async fn inspect_container(&self, name: &str, with_sizes: bool) -> Result<ContainerView> {
        let container = self.registry.find(name)?;
        let sizes = if with_sizes {
            self.container_sizes(vec![container.id.clone()]).await?.pop()
        } else {
            None
        };
        Ok(self.view(&container, sizes))
    }

    /// What the containers take up, counted off the async workers: read-write bytes, root filesystem bytes.
    pub async fn container_sizes(&self, containers: Vec<ContainerId>) -> Result<Vec<(u64, u64)>> {
        let content = Arc::clone(&self.content);
        crate::archive::blocking(move || Ok(content.snapshot_sizes(&containers))).await
    }

    pub(crate) fn view(&self, container: &Container, sizes: Option<(u64, u64)>) -> ContainerView {
        let record = container.record();
        ContainerView {
            run_directory: container.run_directory.clone(),
            log_path: plan::log_place(&record, &container.directory)
                .filter(|(_, format)| *format == naru_logs::Format::JsonFile)
                .map(|(path, _)| path),
            exec_ids: lock(&container.execs)
                .values()
                .filter(|exec| exec.is_running())
                .map(|exec| exec.id.clone())
                .collect(),
            sizes,
            links: self.shown_links(&record),
            health: Self::health_of(container),
            record,
        }
    }

    /// Containers whose image this is.
    pub async fn image_users(&self, image: &naru_base::Digest) -> Vec<ContainerView> {
        let containers = self.registry.all();
        let users = containers
            .iter()
            .filter(|container| container.record().resolved.image_id == *image);
        users.map(|container| self.view(container, None)).collect()
    }
}

fn apply_live(container: &Container, record: &ContainerRecord, wanted: &ContainerSpec) -> Result<()> {
    let limits = plan::plan_resources(&wanted.resources)?;
    let run = lock(&container.run);
    match (limits, run.as_ref()) {
        (Some(limits), Some(run)) if record.is_running() && wanted.resources != record.spec.resources => run
            .cgroup
            .apply(&limits)
            .map_err(|error| EngineError::system(format!("Cannot update container {}: {error}", record.id))),
        _ => Ok(()),
    }
}

fn is_restarting(record: &ContainerRecord) -> bool {
    matches!(record.state, ContainerState::Restarting { .. })
}
