//! The engine: containers, images, volumes and what happens to them.
//!
//! ```text
//! <data-root>/containers/<id>/   record.json, <id>-json.log
//! <data-root>/volumes/<name>/    see `volumes`
//! <data-root>/networks/<id>.json see `networks`
//! <data-root>/builds/            see `build`
//! <data-root>/…                  images and snapshots: see crate `naru-content`
//! <exec-root>/runs/<id>/         run.json, exit.json, hostname, hosts, resolv.conf; `sock`, where the keeper listens
//! ```
//!
//! It is called by the surfaces and never knows which one. It prints nothing, and runs no program but its own spawner.
//! What a restart must not lose is in a record, in a keeper or in the kernel, never only here.

// Callers await every operation alike; which of them wait for anything is the engine's affair.
#![allow(clippy::unused_async)]

pub mod archive;
mod build;
mod containers;
mod disk;
mod error;
mod events;
mod firewall;
mod health;
mod images;
mod info;
mod keepers;
pub mod metrics;
mod networks;
mod plan;
pub mod record;
mod recovery;
mod remap;
pub mod spec;
mod views;
mod volumes;
mod why;

pub use build::{
    AgentStream, AnnotateRequest, Answer, AttestRequest, AttestedFile, BuildClient, BuildRequest, BuildStep,
    Built, CacheEntry, CacheFilter, CacheKind, CachePlace, CacheSource, CacheTarget, ContextSource,
    ContextUpdate, Examined, ImageTree, KeptContext, ListedUpdate, NamedContext, PruneCacheRequest,
    TreeEntry, Warnings, is_matched,
};
pub use disk::{DiskAccount, DiskParts, DiskReport, FileSystemSpace};
pub use error::{EngineError, Result};
pub use images::{Distribution, ImportRequest, PullRequest, PushRequest, Teller, TransferStep};
pub use keepers::SPAWNER_ROLE;
pub use naru_content as content;
pub use naru_network as network;
pub use naru_oci as oci;
pub use naru_registry as registry;
pub use networks::record::{IpamPool, NetworkRecord, NetworkSpec};
pub use plan::check_seccomp_profile;
pub use remap::Remap;
pub use views::*;
pub use volumes::trash::TrashEntry;
pub use why::WhyView;

use containers::{Container, Registry};
use events::Events;
use keepers::{Pool, Spawner, StemNeeds, Workshop};
use naru_base::{ContainerId, ExecId};
use naru_content::ContentStore;
use naru_keeper::cause::Requester;
use naru_network::{Network, NetworkOptions};
use naru_sys::file;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// How long an observed change may wait to be written. It is recoverable: the keeper or its exit record tells it.
const WRITE_DELAY: Duration = Duration::from_millis(100);

/// How long a daemon that ends waits for ends of runs to be settled; the next one settles what is left.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything a daemon on one pair of roots can do. A name is a container's name, its id, or an unambiguous prefix of it.
pub struct Engine {
    options: EngineOptions,
    id: String,
    /// The kernel's id of this boot.
    boot_id: String,
    metrics: metrics::Metrics,
    content: Arc<ContentStore>,
    network: Arc<Network>,
    networks: networks::Networks,
    resolver: networks::Resolver,
    linked_by: networks::LinkIndex,
    blob_locks: images::BlobLocks,
    volumes: volumes::Volumes,
    registry: Registry,
    workshop: Arc<Workshop>,
    pool: Arc<Pool>,
    events: Events,
    disk: disk::DiskMemory,
    builds: build::Builds,
    syncer: naru_store::Syncer,
    /// Which container an exec belongs to.
    exec_containers: Mutex<HashMap<ExecId, Weak<Container>>>,
    is_shutting_down: AtomicBool,
    /// Held by each run's end while it is settled; a daemon that ends waits for all of them.
    finishing: tokio::sync::RwLock<()>,
    /// Parks ahead; ended before the parked sets are.
    refill: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Engine {
    /// Opens the roots, finds what runs, and begins to park ahead. Must be called inside a tokio runtime.
    pub async fn open(options: EngineOptions) -> Result<Arc<Self>> {
        let names = HostNames::of(&options.exec_root);
        file::make_directories(&options.data_root, 0o711)?;
        file::make_directories(&options.data_root.join("containers"), 0o700)?;
        file::make_directories(&options.exec_root.join("runs"), 0o700)?;
        let content = ContentStore::open(&options.data_root).map_err(images::error)?;
        let networks = networks::Networks::open(options.data_root.join("networks"))?;
        let defaults = &options.network;
        let network = Network::open(NetworkOptions {
            bridge: names.bridge,
            table: names.table,
            address: options.bridge_address,
            state_file: options.data_root.join("network.json"),
            range: defaults.range,
            mtu: defaults.mtu,
            allows_between: defaults.allows_between,
            masquerades: defaults.masquerades,
            turns_on_forwarding: defaults.turns_on_forwarding,
            pools: defaults.pools.clone(),
            ipv6: defaults.ipv6.clone(),
            rules_ipv6: defaults.rules_ipv6,
            bridges: networks.bridges(),
        })
        .map_err(|error| EngineError::new(error.kind(), error.to_string()))?;
        let network = Arc::new(network);
        let root = options.remap.as_ref().map(Remap::root);
        let spawner = Spawner::start()?;
        let resolver =
            networks::Resolver::start(options.exec_root.join("resolver.sock"), Arc::clone(&spawner));
        let parked_with = StemNeeds {
            user: options.remap.as_ref().map(Remap::plan),
            ..StemNeeds::default()
        };
        let syncer = naru_store::Syncer::start();
        let engine = Arc::new(Self {
            id: read_or_make_id(&options.data_root)?,
            boot_id: why::read_boot_id(),
            metrics: metrics::Metrics::default(),
            linked_by: networks::LinkIndex::default(),
            blob_locks: images::BlobLocks::default(),
            volumes: volumes::Volumes::open(options.data_root.join("volumes"), syncer.clone(), root)?,
            registry: Registry::default(),
            workshop: Workshop::new(spawner, Arc::clone(&network), names.cgroup_parent, parked_with),
            pool: Pool::new(),
            events: Events::new(),
            disk: disk::DiskMemory::default(),
            builds: build::Builds::default(),
            syncer,
            exec_containers: Mutex::new(HashMap::new()),
            is_shutting_down: AtomicBool::new(false),
            finishing: tokio::sync::RwLock::new(()),
            refill: Mutex::new(None),
            content: Arc::new(content),
            network,
            networks,
            resolver,
            options,
        });
        engine.clear_builds()?;
        engine.recover().await?;
        tokio::spawn(volumes::trash::keep_bounded(Arc::downgrade(&engine)));
        tokio::spawn(firewall::keep_accepted(Arc::clone(&engine.network)));
        let refill = keepers::refill(Arc::clone(&engine.pool), Arc::clone(&engine.workshop));
        *containers::lock(&engine.refill) = Some(tokio::spawn(refill));
        Ok(engine)
    }

    /// Ends the spawner and parked processes, and the containers too unless `live_restore`.
    pub async fn shutdown(self: &Arc<Self>) {
        self.is_shutting_down.store(true, Ordering::Release);
        if !self.options.live_restore {
            self.stop_all().await;
        }
        self.workshop.close();
        self.pool.wake();
        let refill = containers::lock(&self.refill).take();
        if let Some(refill) = refill {
            let _ = refill.await;
        }
        for parked in self.pool.clear() {
            self.end_parked(parked).await;
        }
        // A cgroup half taken down would wait for the next daemon.
        let _ = tokio::time::timeout(FINISH_TIMEOUT, self.finishing.write()).await;
        self.workshop.spawner.stop();
        let is_anything_running = self
            .registry
            .all()
            .iter()
            .any(|container| container.record().is_running());
        self.resolver.leave(!is_anything_running).await;
        if !is_anything_running {
            let _ = self.network.close();
            naru_cgroup::Cgroup::open(&self.workshop.cgroup_parent)
                .and_then(|cgroup| cgroup.remove())
                .ok();
        }
    }

    async fn stop_all(self: &Arc<Self>) {
        let stops = self.registry.all().into_iter().map(|container| {
            let engine = Arc::clone(self);
            tokio::spawn(async move {
                let own = container.record().spec.stop_timeout_seconds;
                let timeout = own.or(engine.options.shutdown_timeout_seconds);
                let _ = engine
                    .stop(&container, timeout, None, Requester::DaemonShutdown)
                    .await;
            })
        });
        for stop in stops.collect::<Vec<_>>() {
            let _ = stop.await;
        }
    }

    /// Closes a parked keeper's socket, waits for it to go, and takes down its cgroup.
    async fn end_parked(&self, mut parked: keepers::Parked) {
        parked.connection.close();
        while parked.notices.recv().await.is_some() {}
        if let Some(endpoint) = &parked.endpoint {
            self.network.detach(endpoint);
        }
        let _ = parked.cgroup.kill_all();
        let _ = parked.cgroup.remove();
    }

    /// What containers get that ask for nothing else.
    pub fn container_defaults(&self) -> &ContainerDefaults {
        &self.options.containers
    }

    fn is_shutting_down(&self) -> bool {
        self.is_shutting_down.load(Ordering::Acquire)
    }

    fn containers_directory(&self) -> PathBuf {
        self.options.data_root.join("containers")
    }

    fn container_directory(&self, id: &ContainerId) -> PathBuf {
        self.containers_directory().join(id.as_str())
    }

    fn runs_directory(&self) -> PathBuf {
        self.options.exec_root.join("runs")
    }

    /// Half an id names it: the path of a socket has room for no more.
    fn run_directory(&self, id: &ContainerId) -> PathBuf {
        self.runs_directory().join(&id.as_str()[..32])
    }

    /// Writes a container's record now: what a client was told must survive any process.
    fn write_record(&self, container: &Container) -> Result<()> {
        let path = container.record_path();
        naru_store::write(&path, &*container.record())?;
        self.syncer.note(&path);
        Ok(())
    }

    /// Writes down what a container's present run holds, after it has changed.
    fn write_run(container: &Container) -> Result<()> {
        let record = container.record();
        if let Some(run) = &record.run {
            naru_store::write(&container.run_record_path(), run)?;
        }
        Ok(())
    }

    /// Writes a container's record a moment later, unless it is gone by then: what it tells can be found out again.
    ///
    /// Once an end is written, the files that told of the run are of no more use.
    fn write_record_soon(&self, container: &Arc<Container>) {
        let (container, syncer) = (Arc::downgrade(container), self.syncer.clone());
        tokio::spawn(async move {
            tokio::time::sleep(WRITE_DELAY).await;
            let Some(container) = container.upgrade() else {
                return;
            };
            let _operation = container.operation.lock().await;
            if container.phase().borrow().is_removed {
                return;
            }
            let path = container.record_path();
            let record = container.record();
            match naru_store::write(&path, &*record) {
                Ok(()) => {
                    syncer.note(&path);
                    if record.run.is_none() {
                        container.forget_run();
                    }
                }
                Err(error) => tracing::error!(%error, "cannot write a container's record"),
            }
        });
    }
}

/// What the engine calls its things on the host; derived from the exec-root, so that two engines never meet.
struct HostNames {
    bridge: String,
    table: String,
    cgroup_parent: String,
}

impl HostNames {
    fn of(exec_root: &Path) -> Self {
        if exec_root == Path::new("/run/naru") {
            return Self {
                bridge: "naru0".to_owned(),
                table: "naru".to_owned(),
                cgroup_parent: "/naru".to_owned(),
            };
        }
        // FNV-1a: stable over versions, and eight digits tell the engines of one host apart.
        let hash = exec_root
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(0x811c_9dc5_u32, |hash, byte| {
                (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
            });
        Self {
            bridge: format!("naru-{hash:08x}"),
            table: format!("naru_{hash:08x}"),
            cgroup_parent: format!("/naru-{hash:08x}"),
        }
    }
}

/// The engine's own id, made once for a data root.
fn read_or_make_id(data_root: &Path) -> Result<String> {
    let path = data_root.join("engine-id");
    match file::read_bounded(&path, 64)
        .ok()
        .and_then(|text| String::from_utf8(text).ok())
    {
        Some(id) if id.len() == 64 => Ok(id),
        _ => {
            let id = ContainerId::generate().to_string();
            file::replace(&path, id.as_bytes())?;
            Ok(id)
        }
    }
}
