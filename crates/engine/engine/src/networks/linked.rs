//! `--link` on the default network, applied: what a container is told of those it links to, and when they change.
//!
//! A link holds the other container's id, so it outlives a new name. Where that container is removed or does not run, the
//! one that links to it does not start.

use super::legacy_links::{self, LinkTarget};
use super::places::DEFAULT_NETWORK;
use crate::Engine;
use crate::containers::{Container, lock};
use crate::error::{EngineError, Result};
use crate::record::{ContainerRecord, EndpointRecord};
use crate::spec::{ContainerSpec, NetworkMode};
use naru_base::{ContainerId, ErrorKind};
use naru_sys::file::FileError;
use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

/// Which containers that were started link to a container, so that a start need not look at all of them.
#[derive(Debug, Default)]
pub struct LinkIndex(Mutex<HashMap<ContainerId, BTreeSet<ContainerId>>>);

impl LinkIndex {
    fn add(&self, target: &ContainerId, parent: &ContainerId) {
        lock(&self.0)
            .entry(target.clone())
            .or_default()
            .insert(parent.clone());
    }

    fn parents(&self, target: &ContainerId) -> BTreeSet<ContainerId> {
        lock(&self.0).get(target).cloned().unwrap_or_default()
    }

    fn remove(&self, target: &ContainerId, parent: &ContainerId) {
        let mut index = lock(&self.0);
        if let Some(parents) = index.get_mut(target) {
            parents.remove(parent);
            if parents.is_empty() {
                index.remove(target);
            }
        }
    }
}

/// By container, the names that others have given it by linking to it: `/web/alias`.
pub(crate) fn linked_names(records: &[Arc<ContainerRecord>]) -> HashMap<ContainerId, Vec<String>> {
    let mut names: HashMap<ContainerId, Vec<String>> = HashMap::new();
    for record in records {
        for link in &record.spec.links {
            if let Some((Ok(target), alias)) = link.split_once(':').map(|(id, alias)| (id.parse(), alias)) {
                names
                    .entry(target)
                    .or_default()
                    .push(format!("/{}/{alias}", record.name));
            }
        }
    }
    names
}

/// One link of a container whose other end is there.
struct Linked {
    alias: String,
    target: Arc<Container>,
}

impl Engine {
    /// Gives every link its container's id and its alias, or says which one cannot be.
    pub(crate) fn resolve_links(&self, spec: &mut ContainerSpec) -> Result<()> {
        for link in &mut spec.links {
            let (name, alias) = legacy_links::parse(link)?;
            let mut target = self.find_linked(&name, &name)?;
            while let NetworkMode::Container(other) = &target.record().spec.network {
                target = self.find_linked(other, &name)?;
            }
            if target.record().spec.network == NetworkMode::Host {
                return Err(EngineError::invalid(
                    "conflicting options: host type networking can't be used with links. This would result in \
                     undefined behavior",
                ));
            }
            *link = format!("{}:{alias}", target.id);
        }
        Ok(())
    }

    fn find_linked(&self, name: &str, asked: &str) -> Result<Arc<Container>> {
        self.registry.find(name).map_err(|error| {
            // Not a 404: clients take that for a missing image.
            let kind = match error.kind {
                ErrorKind::NotFound => ErrorKind::InvalidParameter,
                kind => kind,
            };
            EngineError::new(
                kind,
                format!("could not get container for {asked}: {}", error.message),
            )
        })
    }

    fn links_of(&self, record: &ContainerRecord) -> Vec<Linked> {
        let links = record.spec.links.iter().filter_map(|link| {
            let (name, alias) = link.split_once(':')?;
            let target = self.registry.find(name).ok()?;
            Some(Linked {
                alias: alias.to_owned(),
                target,
            })
        });
        links.collect()
    }

    /// As Docker shows them: `/db:/web/alias`.
    pub(crate) fn shown_links(&self, record: &ContainerRecord) -> Vec<String> {
        let links = self.links_of(record);
        let shown = links.iter().map(|link| {
            let target = link.target.record();
            format!("/{}:/{}/{}", target.name, record.name, link.alias)
        });
        shown.collect()
    }

    /// Refuses a start for which a linked container does not run, and remembers who is to be told of its next address.
    pub(crate) fn begin_links(&self, record: &ContainerRecord) -> Result<()> {
        let links = self.links_of(record);
        if links.len() < record.spec.links.len() {
            return Err(EngineError::conflict(format!(
                "Cannot link to a container that has been removed: create container {} anew, or take its link away with \
                 rm --link",
                record.name
            )));
        }
        for link in links {
            let target = link.target.record();
            if !target.is_running() {
                return Err(EngineError::conflict(format!(
                    "Cannot link to a non running container: /{} AS /{}/{}",
                    target.name, record.name, link.alias
                )));
            }
            if address_of(&target).is_none() {
                return Err(EngineError::conflict(format!(
                    "container {} not attached to default bridge network",
                    target.id
                )));
            }
            self.linked_by.add(&target.id, &record.id);
        }
        Ok(())
    }

    /// A container that a new daemon finds running goes on being told.
    pub(crate) fn recall_links(&self, record: &ContainerRecord) {
        for link in self.links_of(record) {
            self.linked_by.add(&link.target.id, &record.id);
        }
    }

    /// The lines of `hosts` for linked containers.
    pub(crate) fn linked_hosts(&self, record: &ContainerRecord) -> String {
        self.each_linked(record, |target| vec![legacy_links::hosts_line(target)])
            .concat()
    }

    /// Variables that tell of linked containers, in front of those that the container has itself. What does not run any
    /// more is left out.
    pub(crate) fn add_linked_variables(&self, record: Arc<ContainerRecord>) -> Arc<ContainerRecord> {
        if record.spec.links.is_empty() {
            return record;
        }
        let mut variables =
            self.each_linked(&record, |target| legacy_links::environment(&record.name, target));
        let mut changed = ContainerRecord::clone(&record);
        variables.append(&mut changed.resolved.env);
        changed.resolved.env = variables;
        Arc::new(changed)
    }

    fn each_linked(
        &self,
        record: &ContainerRecord,
        tell: impl Fn(&LinkTarget<'_>) -> Vec<String>,
    ) -> Vec<String> {
        let links = self.links_of(record);
        let told = links.iter().filter_map(|link| {
            let target = link.target.record();
            let address = address_of(&target)?;
            Some(tell(&LinkTarget {
                alias: &link.alias,
                record: &target,
                address,
            }))
        });
        told.flatten().collect()
    }

    /// Tells containers that link to this one where it is now. Containers nobody links to cost one look-up.
    pub(crate) fn tell_links(&self, target: &ContainerId, endpoints: &[EndpointRecord]) {
        let Some(address) = default_address(endpoints) else {
            return;
        };
        for parent in self.linked_by.parents(target) {
            // One that is being started may have written its file already; another's is written anew when it starts.
            let Ok(container) = self.registry.find(parent.as_str()) else {
                self.linked_by.remove(target, &parent);
                continue;
            };
            let links = self.links_of(&container.record());
            for link in links.iter().filter(|link| link.target.id == *target) {
                if let Err(error) = change_hosts(&container, &link.alias, Some(address)) {
                    tracing::warn!(container = container.id.short(), %error, "it is not told where a linked container is now");
                }
            }
        }
    }

    /// Undoes one link: `parent/alias`, as it is listed.
    pub async fn remove_link(&self, name: &str) -> Result<()> {
        let name = name.trim_start_matches('/');
        let Some((parent, alias)) = name.rsplit_once('/') else {
            return Err(EngineError::conflict(
                "Conflict, cannot remove the default link name of the container",
            ));
        };
        let container = self.registry.find(parent)?;
        let _operation = container.operation.lock().await;
        let is_meant = |link: &String| link.split_once(':').is_some_and(|(_, known)| known == alias);
        let before = container.record();
        let Some(link) = before.spec.links.iter().find(|link| is_meant(link)) else {
            return Err(EngineError::not_found(format!("no such link: {name}")));
        };
        container.change(|record| record.spec.links.retain(|link| !is_meant(link)));
        if let Err(error) = self.write_record(&container) {
            container.change(|record| record.spec.links.clone_from(&before.spec.links));
            return Err(error);
        }
        let target = link.split_once(':').and_then(|(id, _)| id.parse().ok());
        if let Some(target) = target {
            self.linked_by.remove(&target, &container.id);
        }
        change_hosts(&container, alias, None)
    }
}

fn address_of(record: &ContainerRecord) -> Option<Ipv4Addr> {
    let run = record.run.as_ref().filter(|_| record.is_running())?;
    default_address(&run.endpoints)
}

fn default_address(endpoints: &[EndpointRecord]) -> Option<Ipv4Addr> {
    let of_default = endpoints
        .iter()
        .find(|endpoint| endpoint.network == DEFAULT_NETWORK)?;
    Some(of_default.address)
}

fn change_hosts(container: &Container, alias: &str, address: Option<Ipv4Addr>) -> Result<()> {
    let path = container.network_file("hosts");
    let Ok(text) = std::fs::read_to_string(&path) else {
        return Ok(());
    };
    let changed = legacy_links::change_hosts(&text, alias, address);
    if changed == text {
        return Ok(());
    }
    Ok(std::fs::write(&path, changed).map_err(FileError::at("write", &path))?)
}
