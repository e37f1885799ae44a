//! Changing what a container is called and what it may use, and looking at it.

use super::{Container, lock, names};
use crate::Engine;
use crate::error::{EngineError, Result};
use crate::plan;
use crate::record::{ContainerRecord, ContainerState};
use crate::spec::ContainerSpec;
use crate::views::ContainerView;
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

    pub async fn list_containers(&self, all: bool, with_sizes: bool) -> Result<Vec<ContainerView>> {
        let containers = self.registry.all();
        let shown: Vec<_> = containers
            .into_iter()
            .filter(|container| all || container.record().is_running() || is_restarting(container))
            .collect();
        let sizes = self.sizes(&shown, with_sizes).await?;
        Ok(shown
            .iter()
            .zip(sizes)
            .map(|(container, sizes)| self.view(container, sizes))
            .collect())
    }

    pub async fn inspect_container(&self, name: &str, with_sizes: bool) -> Result<ContainerView> {
        let container = self.registry.find(name)?;
        let sizes = self.sizes(std::slice::from_ref(&container), with_sizes).await?;
        Ok(self.view(&container, sizes.into_iter().next().flatten()))
    }

    /// What the containers take up, counted off the async workers; `None` where it is not asked for.
    pub(crate) async fn sizes(
        &self,
        containers: &[Arc<Container>],
        wanted: bool,
    ) -> Result<Vec<Option<(u64, u64)>>> {
        if !wanted {
            return Ok(vec![None; containers.len()]);
        }
        let content = Arc::clone(&self.content);
        let ids: Vec<_> = containers.iter().map(|container| container.id.clone()).collect();
        let sizes = crate::archive::blocking(move || Ok(content.snapshot_sizes(&ids))).await?;
        Ok(sizes.into_iter().map(Some).collect())
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

fn is_restarting(container: &Arc<Container>) -> bool {
    matches!(
        container.record().state,
        crate::record::ContainerState::Restarting { .. }
    )
}
