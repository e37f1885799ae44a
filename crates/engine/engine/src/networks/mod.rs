//! Networks that users make: records, the bridges behind them, and containers' places on them.
//!
//! ```text
//! <data-root>/networks/<id>.json    a network; written before its bridge is made, removed after it is gone
//! <exec-root>/resolver.sock         where the process that answers names listens
//! ```
//! A network whose record is there exists: a daemon that finds no bridge for it makes one. Containers name their networks
//! by name, so that one that is made again under its name is found again.

mod connect;
mod files;
mod legacy_links;
mod linked;
mod names;
mod places;
mod publish;
pub mod record;
mod request;
mod resolver;

pub(crate) use connect::NetworkNamespace;
pub(crate) use linked::{LinkIndex, linked_names};
pub(crate) use names::needs_resolver;
pub(crate) use places::{DEFAULT_NETWORK, way_out};
pub(crate) use resolver::Resolver;

use crate::Engine;
use crate::error::{EngineError, Result};
use crate::record::EndpointRecord;
use crate::views::NetworkView;
use naru_base::{ContainerId, ErrorKind, NetworkId, Timestamp};
use naru_network::{BridgeOptions, NetworkError};
use naru_sys::file;
use places::{INTERFACE_PREFIX_DEFAULT, NetworkFacts};
use record::{NetworkRecord, NetworkSpec};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

/// Every network of the engine that a user made.
pub struct Networks {
    directory: PathBuf,
    records: RwLock<BTreeMap<NetworkId, Arc<NetworkRecord>>>,
    /// Read by whoever gives a container a place, written by whoever makes or removes a network.
    changing: tokio::sync::RwLock<()>,
}

impl Networks {
    /// Reads every record. One that cannot be read is left as it is, with an error in the log.
    pub fn open(directory: PathBuf) -> Result<Self> {
        file::make_directories(&directory, 0o700)?;
        let mut records = BTreeMap::new();
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match naru_store::read::<NetworkRecord>(&path) {
                Ok(record) => drop(records.insert(record.id.clone(), Arc::new(record))),
                Err(error) => tracing::error!(%error, "a network's record cannot be read"),
            }
        }
        Ok(Self {
            directory,
            records: RwLock::new(records),
            changing: tokio::sync::RwLock::new(()),
        })
    }

    fn path(&self, id: &NetworkId) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    /// The bridges as they were made.
    pub fn bridges(&self) -> Vec<BridgeOptions> {
        self.all().iter().map(|record| record.bridge.clone()).collect()
    }

    /// Oldest first.
    fn all(&self) -> Vec<Arc<NetworkRecord>> {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = records.values().cloned().collect();
        all.sort_by_key(|record| record.created_at);
        all
    }

    fn insert(&self, record: NetworkRecord) {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        records.insert(record.id.clone(), Arc::new(record));
    }

    fn remove(&self, id: &NetworkId) {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        records.remove(id);
    }

    fn by_name(&self, name: &str) -> Option<Arc<NetworkRecord>> {
        self.all().into_iter().find(|record| record.name() == name)
    }

    /// By full id, then name, then prefix of an id.
    pub fn find(&self, name: &str) -> Result<Arc<NetworkRecord>> {
        let all = self.all();
        let exact = all
            .iter()
            .find(|record| record.id.as_str() == name)
            .or_else(|| all.iter().find(|record| record.name() == name));
        if let Some(record) = exact {
            return Ok(Arc::clone(record));
        }
        let mut found = all
            .iter()
            .filter(|record| !name.is_empty() && record.id.as_str().starts_with(name));
        match (found.next(), found.next()) {
            (Some(record), None) => Ok(Arc::clone(record)),
            (Some(_), Some(_)) => Err(EngineError::invalid(format!(
                "network {name} is ambiguous ({} matches found based on ID prefix)",
                found.count() + 2
            ))),
            _ => Err(EngineError::not_found(format!("network {name} not found"))),
        }
    }
}

impl Engine {
    /// Makes a network and returns its id.
    pub async fn create_network(&self, spec: NetworkSpec) -> Result<NetworkId> {
        let _changing = self.networks.changing.write().await;
        let id = NetworkId::generate();
        let request = request::plan_bridge(&id, &spec)?;
        if self.networks.by_name(&spec.name).is_some() {
            return Err(EngineError::conflict(format!(
                "network with name {} already exists",
                spec.name
            )));
        }
        let taken: Vec<_> = self
            .networks
            .bridges()
            .iter()
            .map(|bridge| bridge.subnet)
            .collect();
        let path = self.networks.path(&id);
        let mut record = None;
        let made = self.network.create_bridge(&request, &taken, |bridge| {
            let decided = NetworkRecord {
                id: id.clone(),
                created_at: Timestamp::now(),
                spec: spec.clone(),
                bridge: bridge.clone(),
            };
            naru_store::write(&path, &decided)?;
            self.syncer.note(&path);
            record = Some(decided);
            Ok::<_, CreateError>(())
        });
        if let Err(error) = made {
            self.syncer.forget(&path);
            let _ = std::fs::remove_file(&path);
            return Err(error.0);
        }
        if let Some(record) = record {
            self.network_event("create", id.as_str(), record.name());
            self.networks.insert(record);
        }
        Ok(id)
    }

    /// Removes a network that no running container is on.
    pub async fn remove_network(&self, name: &str) -> Result<()> {
        let _changing = self.networks.changing.write().await;
        if self.networks.by_name(name).is_none() && self.is_predefined(name) {
            return Err(EngineError::new(
                ErrorKind::Forbidden,
                format!("{name} is a pre-defined network and cannot be removed"),
            ));
        }
        let record = self.networks.find(name)?;
        if !self.endpoints_on(record.name()).is_empty() {
            return Err(EngineError::new(
                ErrorKind::Forbidden,
                format!(
                    "error while removing network: network {} id {} has active endpoints",
                    record.name(),
                    record.id
                ),
            ));
        }
        self.remove_unused(&record)
    }

    /// Removes every network that no running container is on and that `wanted` names; returns their names.
    pub async fn prune_networks(&self, wanted: impl Fn(&NetworkRecord) -> bool) -> Result<Vec<String>> {
        let _changing = self.networks.changing.write().await;
        let mut removed = Vec::new();
        for record in self.networks.all() {
            if wanted(&record) && self.endpoints_on(record.name()).is_empty() {
                self.remove_unused(&record)?;
                removed.push(record.name().to_owned());
            }
        }
        self.prune_event("network", 0);
        Ok(removed)
    }

    fn remove_unused(&self, record: &NetworkRecord) -> Result<()> {
        // First of all nobody finds it any more: without its bridge it would look like one that could not be made.
        self.networks.remove(&record.id);
        if let Err(error) = self.take_down(record) {
            self.networks.insert(record.clone());
            return Err(error);
        }
        self.network_event("destroy", record.id.as_str(), record.name());
        Ok(())
    }

    fn take_down(&self, record: &NetworkRecord) -> Result<()> {
        // A network that is not up has only its record.
        if let Some(bridge) = self.network.find_bridge(&record.bridge.name) {
            self.network.remove_bridge(&bridge).map_err(network_error)?;
        }
        let path = self.networks.path(&record.id);
        self.syncer.forget(&path);
        std::fs::remove_file(&path).map_err(file::FileError::at("remove", &path))?;
        Ok(())
    }

    /// Every network's id by its name.
    pub fn network_ids(&self) -> BTreeMap<String, String> {
        let made = self.networks.all().into_iter();
        let mut ids: BTreeMap<String, String> = made
            .map(|record| (record.name().to_owned(), record.id.to_string()))
            .collect();
        ids.extend(["bridge", "host", "none"].map(|name| (name.to_owned(), self.network_id(name))));
        ids
    }

    fn is_predefined(&self, name: &str) -> bool {
        let is_name = ["bridge", "host", "none"].contains(&name);
        is_name
            || ["bridge", "host", "none"]
                .iter()
                .any(|known| self.network_id(known) == name)
    }

    /// All networks: those every engine has, then those made.
    pub async fn list_networks(&self) -> Result<Vec<NetworkView>> {
        let mut endpoints = self.endpoints_by_network();
        let created_at = self.content_opened_at();
        let plain = |name: &str, driver: &str| NetworkView {
            name: name.to_owned(),
            id: self.network_id(name),
            driver: driver.to_owned(),
            subnet: None,
            gateway: None,
            ipv6: None,
            interface: None,
            endpoints: Vec::new(),
            created_at,
            record: None,
        };
        let bridge = self.network.default_bridge();
        let default = NetworkView {
            subnet: Some(bridge.subnet().to_string()),
            gateway: Some(bridge.gateway().to_string()),
            ipv6: bridge.options().ipv6.clone(),
            interface: Some(bridge.name().to_owned()),
            endpoints: endpoints.remove(DEFAULT_NETWORK).unwrap_or_default(),
            ..plain(DEFAULT_NETWORK, "bridge")
        };
        let mut views = vec![default, plain("host", "host"), plain("none", "null")];
        views.extend(self.networks.all().into_iter().map(|record| NetworkView {
            name: record.name().to_owned(),
            id: record.id.to_string(),
            driver: "bridge".to_owned(),
            subnet: Some(record.bridge.subnet.to_string()),
            gateway: Some(record.bridge.gateway.to_string()),
            ipv6: record.bridge.ipv6.clone(),
            interface: Some(record.bridge.name.clone()),
            endpoints: endpoints.remove(record.name()).unwrap_or_default(),
            created_at: record.created_at,
            record: Some(record),
        }));
        Ok(views)
    }

    /// By full id, name or prefix of an id.
    pub async fn inspect_network(&self, name: &str) -> Result<NetworkView> {
        let views = self.list_networks().await?;
        let found = views.iter().find(|view| view.id == name || view.name == name);
        if let Some(view) = found {
            return Ok(view.clone());
        }
        let mut found = views
            .iter()
            .filter(|view| !name.is_empty() && view.id.starts_with(name));
        match (found.next(), found.next()) {
            (Some(view), None) => Ok(view.clone()),
            (Some(_), Some(_)) => Err(EngineError::invalid(format!("network {name} is ambiguous"))),
            _ => Err(EngineError::not_found(format!("network {name} not found"))),
        }
    }

    fn endpoints_by_network(&self) -> HashMap<String, Vec<(ContainerId, String, EndpointRecord)>> {
        let mut found: HashMap<String, Vec<_>> = HashMap::new();
        for container in self.registry.all() {
            let record = container.record();
            for endpoint in record.run.iter().flat_map(|run| &run.endpoints) {
                found.entry(endpoint.network.clone()).or_default().push((
                    container.id.clone(),
                    record.name.clone(),
                    endpoint.clone(),
                ));
            }
        }
        found
    }

    fn endpoints_on(&self, network: &str) -> Vec<(ContainerId, String, EndpointRecord)> {
        self.endpoints_by_network().remove(network).unwrap_or_default()
    }

    /// A network that containers can have a place on.
    pub(crate) fn network_facts(&self, name: &str) -> Result<NetworkFacts> {
        if name == DEFAULT_NETWORK || name == "default" || name == self.network_id(DEFAULT_NETWORK) {
            return Ok(NetworkFacts {
                name: DEFAULT_NETWORK.to_owned(),
                id: self.network_id(DEFAULT_NETWORK),
                is_internal: false,
                has_own_subnet: false,
                has_own_subnet6: false,
                interface_prefix: INTERFACE_PREFIX_DEFAULT.to_owned(),
                bridge: Arc::clone(self.network.default_bridge()),
            });
        }
        let record = self.networks.find(name)?;
        let bridge = self
            .network
            .find_bridge(&record.bridge.name)
            .ok_or_else(|| {
                EngineError::new(
                    ErrorKind::Unavailable,
                    format!(
                        "network {} is not up: its bridge {} could not be made when the daemon started; see the log",
                        record.name(),
                        record.bridge.name
                    ),
                )
            })?;
        Ok(NetworkFacts {
            name: record.name().to_owned(),
            id: record.id.to_string(),
            is_internal: record.bridge.is_internal,
            has_own_subnet: record.has_own_subnet(),
            has_own_subnet6: record.has_own_subnet6(),
            interface_prefix: record
                .option(request::INTERFACE_PREFIX)
                .unwrap_or(INTERFACE_PREFIX_DEFAULT)
                .to_owned(),
            bridge,
        })
    }

    /// Ids become names, so that a network made again under its name is found. One that does not exist is the start's
    /// concern, as with Docker.
    pub(crate) fn network_name(&self, name: &str) -> Option<String> {
        self.network_facts(name).ok().map(|facts| facts.name)
    }

    /// Where a container's ports are published when it names no address of the host: the network's own choice.
    pub(crate) fn host_binding(&self, network: &str) -> Option<std::net::IpAddr> {
        let record = self.networks.by_name(network)?;
        record.option(request::HOST_BINDING)?.parse().ok()
    }
}

/// What can go wrong while a network is decided on and written down.
struct CreateError(EngineError);

impl From<NetworkError> for CreateError {
    fn from(error: NetworkError) -> Self {
        Self(network_error(error))
    }
}

impl From<naru_store::StoreError> for CreateError {
    fn from(error: naru_store::StoreError) -> Self {
        Self(error.into())
    }
}

pub(crate) fn network_error(error: NetworkError) -> EngineError {
    host_error(&error, error.to_string())
}

fn host_error(error: &NetworkError, message: String) -> EngineError {
    EngineError::new(error.kind(), message)
}
