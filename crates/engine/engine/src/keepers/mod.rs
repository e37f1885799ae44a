//! Keepers as the daemon sees them: making one ready, ahead of need or on demand, and talking to it.

mod connection;
mod pool;
mod spawner;

pub use connection::{KeeperConnection, KeeperGone, Notice};
pub use pool::{Pool, refill};
pub use spawner::{SPAWNER_ROLE, Spawner};

use crate::error::{EngineError, Result};
use crate::networks::NetworkNamespace;
use crate::why::StartFault;
use naru_base::ContainerId;
use naru_cgroup::Cgroup;
use naru_keeper::protocol::{Reply, Request};
use naru_network::{Endpoint, Network};
use naru_runtime::plan::{StemPlan, UserNamespacePlan};
use oci_spec::runtime::LinuxNamespaceType;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;

/// A keeper with a stem in its namespaces and cgroup, ready for a plan.
#[derive(Debug)]
pub struct Parked {
    /// Names the cgroup and the interface; becomes a container's id when the set was offered to its creation.
    pub id: ContainerId,
    pub connection: Arc<KeeperConnection>,
    pub notices: mpsc::Receiver<Notice>,
    /// Path relative to every hierarchy's root.
    pub cgroup_path: String,
    pub cgroup: Cgroup,
    /// The cgroup has the device rules that most containers have.
    pub has_default_devices: bool,
    /// Its place on the bridge, where it has one.
    pub endpoint: Option<Endpoint>,
    pub namespace: NetworkNamespace,
}

impl Parked {
    /// Its keeper has not closed the socket. A parked keeper sends nothing, so any notice is its end.
    pub fn is_alive(&self) -> bool {
        self.notices.is_empty() && !self.notices.is_closed()
    }
}

/// Makes keepers ready.
pub struct Workshop {
    pub spawner: Arc<Spawner>,
    pub network: Arc<Network>,
    /// The parent of every container's cgroup: `/naru`.
    pub cgroup_parent: String,
    /// What stems are parked with.
    pub parked_with: StemNeeds,
    is_open: AtomicBool,
}

/// What a stem must have been made with, since it cannot be changed in one that is parked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StemNeeds {
    pub user: Option<UserNamespacePlan>,
    /// Kinds of namespaces that a container with a user namespace of its own shares with the host.
    pub shared: Vec<LinuxNamespaceType>,
}

impl Workshop {
    pub fn new(
        spawner: Arc<Spawner>,
        network: Arc<Network>,
        cgroup_parent: String,
        parked_with: StemNeeds,
    ) -> Arc<Self> {
        Arc::new(Self {
            spawner,
            network,
            cgroup_parent,
            parked_with,
            is_open: AtomicBool::new(true),
        })
    }

    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// No more parking.
    pub fn close(&self) {
        self.is_open.store(false, Ordering::Release);
    }

    /// A ready keeper under the engine's own cgroup parent.
    pub async fn park(&self, id: ContainerId, with_bridge: bool) -> Result<Parked> {
        let place = with_bridge.then(BridgePlace::default);
        self.prepare(id, &self.cgroup_parent, place, &self.parked_with)
            .await
    }

    /// A ready keeper: cgroup directories, the keeper, its stem, and a place on the bridge if one is wanted. What was
    /// made is undone on failure.
    pub async fn prepare(
        &self,
        id: ContainerId,
        cgroup_parent: &str,
        place: Option<BridgePlace>,
        needs: &StemNeeds,
    ) -> Result<Parked> {
        let cgroup_path = format!("{}/{id}", cgroup_parent.trim_end_matches('/'));
        let cgroup = Cgroup::create(&cgroup_path).map_err(|error| {
            EngineError::new(error.kind(), error.to_string()).with_fault(StartFault::Cgroup)
        })?;
        // Most containers want these, and a start need not wait for a dozen writes.
        let has_default_devices = cgroup.apply_devices(&naru_cgroup::default_device_rules()).is_ok();
        match self.prepare_in(id, &cgroup_path, place, needs).await {
            Ok((id, connection, notices, endpoint, namespace)) => Ok(Parked {
                id,
                connection,
                notices,
                cgroup_path,
                cgroup,
                has_default_devices,
                endpoint,
                namespace,
            }),
            Err(error) => {
                let _ = cgroup.kill_all();
                let _ = cgroup.remove();
                Err(error)
            }
        }
    }

    async fn prepare_in(
        &self,
        id: ContainerId,
        cgroup_path: &str,
        place: Option<BridgePlace>,
        needs: &StemNeeds,
    ) -> Result<(
        ContainerId,
        Arc<KeeperConnection>,
        mpsc::Receiver<Notice>,
        Option<Endpoint>,
        NetworkNamespace,
    )> {
        let socket = self.spawner.spawn_keeper(&id)?;
        let (connection, notices) = KeeperConnection::new(socket, &id)
            .map_err(|error| EngineError::system(format!("keeper's socket: {error}")))?;
        let request = Request::Prepare(StemPlan {
            cgroup: cgroup_path.to_owned(),
            user: needs.user.clone(),
            shared: needs.shared.clone(),
        });
        let (reply, fds) = connection.request(&request, &[]).await.map_err(keeper_gone)?;
        match reply {
            Reply::Prepared => {}
            Reply::Failed(failure) => {
                let fault = crate::containers::fault_of(&failure);
                return Err(EngineError::system(failure.message).with_fault(fault));
            }
            reply => {
                return Err(EngineError::system(format!(
                    "the keeper answered {reply:?} to Prepare"
                )));
            }
        }
        let [netns, route_socket] = <[OwnedFd; 2]>::try_from(fds)
            .map_err(|_| EngineError::system("the keeper sent no network namespace"))?;
        let namespace = NetworkNamespace { netns, route_socket };
        let endpoint = place
            .map(|place| self.attach(&id, &namespace, &place))
            .transpose()?;
        Ok((id, connection, notices, endpoint, namespace))
    }

    fn attach(
        &self,
        id: &ContainerId,
        namespace: &NetworkNamespace,
        place: &BridgePlace,
    ) -> Result<Endpoint> {
        self.network
            .attach(
                id,
                namespace.netns.as_fd(),
                namespace.route_socket.as_fd(),
                place.mac_address,
                None,
            )
            .map_err(|error| {
                EngineError::new(error.kind(), error.to_string()).with_fault(StartFault::Network)
            })
    }
}

/// What a container asks of its place on the bridge.
#[derive(Debug, Clone, Default)]
pub struct BridgePlace {
    pub mac_address: Option<[u8; 6]>,
}

/// The error for an operation whose keeper went away in the middle.
pub fn keeper_gone(_: KeeperGone) -> EngineError {
    EngineError::new(
        naru_base::ErrorKind::Unavailable,
        "the container's keeper ended before it answered; try again",
    )
    .with_fault(StartFault::KeeperLost)
}
