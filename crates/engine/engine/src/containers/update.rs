//! Changing what a container is called, and looking at it.

use super::{Container, lock, names};
use crate::Engine;
use crate::error::Result;
use crate::plan;
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
        Ok(())
    }

    pub async fn list_containers(&self, all: bool, with_sizes: bool) -> Result<Vec<ContainerView>> {
        let containers = self.registry.all();
        let shown = containers
            .iter()
            .filter(|container| all || container.record().is_running() || is_restarting(container));
        shown.map(|container| self.view(container, with_sizes)).collect()
    }

    pub async fn inspect_container(&self, name: &str, with_sizes: bool) -> Result<ContainerView> {
        self.view(&*self.registry.find(name)?, with_sizes)
    }

    pub(crate) fn view(&self, container: &Container, with_sizes: bool) -> Result<ContainerView> {
        let record = container.record();
        Ok(ContainerView {
            directory: container.directory.clone(),
            log_path: plan::log_path(&record, &container.directory),
            exec_ids: lock(&container.execs)
                .values()
                .filter(|exec| exec.is_running())
                .map(|exec| exec.id.clone())
                .collect(),
            sizes: with_sizes
                .then(|| {
                    self.content
                        .snapshot_sizes(&container.id)
                        .map_err(crate::images::error)
                })
                .transpose()?,
            record,
        })
    }

    /// Containers whose image this is.
    pub async fn image_users(&self, image: &naru_base::Digest) -> Vec<ContainerView> {
        let containers = self.registry.all();
        let users = containers
            .iter()
            .filter(|container| container.record().resolved.image_id == *image);
        users
            .filter_map(|container| self.view(container, false).ok())
            .collect()
    }
}

fn is_restarting(container: &Arc<Container>) -> bool {
    matches!(
        container.record().state,
        crate::record::ContainerState::Restarting { .. }
    )
}
