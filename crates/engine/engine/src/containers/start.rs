//! Starting a container: decide, record the decision, then apply it in order; a failure undoes the same list.

use super::{Container, RunResources, lock};
use crate::Engine;
use crate::containers::create::wants_bridge;
use crate::error::{EngineError, Result};
use crate::keepers::{BridgePlace, KeeperGone, Parked, StemNeeds, keeper_gone};
use crate::metrics::Action;
use crate::networks::{DEFAULT_NETWORK, needs_resolver, way_out};
use crate::plan::{self, StartContext};
use crate::record::{
    ContainerRecord, ContainerState, EndpointRecord, FailedStart, MountKind, PublishedPort, RunRecord,
};
use crate::spec::{NamespaceMode, NetworkMode, Protocol};
use crate::why::{StartFault, StartedBy};
use naru_base::{ContainerId, ErrorKind, Timestamp};
use naru_keeper::protocol::{Reply, Request};
use naru_network::Endpoint;
use naru_runtime::plan::{MappedRoot, RootfsPlan, StartFailure, StartFailureKind};
use naru_sys::file;
use oci_spec::runtime::LinuxNamespaceType;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

impl Engine {
    pub async fn start_container(self: &Arc<Self>, name: &str) -> Result<()> {
        let container = self.registry.find(name)?;
        let _operation = container.operation.lock().await;
        let record = container.record();
        if matches!(record.state, ContainerState::Paused { .. }) {
            return Err(EngineError::conflict(
                "cannot start a paused container, try unpause instead",
            ));
        }
        if record.is_running() {
            return Err(EngineError::new(
                ErrorKind::NotModified,
                format!("container {} is already running", record.name),
            ));
        }
        if record.state == ContainerState::Removing {
            return Err(EngineError::conflict(
                "container is marked for removal and cannot be started",
            ));
        }
        container.restart_doublings.store(0, Ordering::Release);
        container.change(|record| {
            record.restart_count = 0;
            record.stopped_by_client = false;
        });
        self.start(&container, StartedBy::StartRequest).await
    }

    /// Starts a container whose operation lock the caller holds. A failure is recorded and leaves nothing running; with
    /// `--rm` it leaves no container either.
    pub(crate) async fn start(self: &Arc<Self>, container: &Arc<Container>, by: StartedBy) -> Result<()> {
        drop(container.cleanup.lock().await);
        container.stop_wanted.store(false, Ordering::Release);
        container.kill_sent.store(false, Ordering::SeqCst);
        match self.try_start(container, by).await {
            Ok(()) => Ok(()),
            Err(failure) => {
                lock(&container.pending_attachments).clear();
                let exit_code = failure.exit_code;
                container.change(|record| {
                    record.failed_start = Some(FailedStart {
                        exit_code,
                        message: failure.error.message.clone(),
                        fault: failure.error.fault.unwrap_or_default(),
                        failed_at: Some(Timestamp::now()),
                    });
                    record.run = None;
                });
                // On a full disk the record cannot be written; who waits must be told all the same.
                if let Err(error) = self.write_record(container) {
                    tracing::error!(%error, "cannot write the record of a container that did not start");
                }
                container.set_phase(|phase| {
                    phase.exits += 1;
                    phase.exit_code = exit_code;
                    phase.error = Some(failure.error.message.clone());
                });
                if container.record().spec.auto_remove {
                    self.remove_stopped(container, true)?;
                }
                Err(failure.error)
            }
        }
    }

    async fn try_start(
        self: &Arc<Self>,
        container: &Arc<Container>,
        by: StartedBy,
    ) -> std::result::Result<(), FailedToStart> {
        let record = container.record();
        let joined = self
            .joined_namespaces(&record)
            .map_err(EngineError::at(StartFault::SharedNamespace))?;
        let (needs, mapped_root) = self
            .plan_user(&record)
            .map_err(EngineError::at(StartFault::UserNamespace))?;
        self.begin_links(&record)?;
        make_bind_sources(&record, mapped_root)?;
        let log_receiver = find_log_receiver(&record)
            .await
            .map_err(EngineError::at(StartFault::LogDriver))?;
        container.clear_run_directory()?;
        let (record, _shared_turn) = self
            .settle_backings(record)
            .await
            .map_err(EngineError::at(StartFault::Volume))?;
        let parked = self.ready_keeper(&record, &needs).await?;
        let Parked {
            connection,
            notices,
            cgroup_path,
            cgroup,
            has_default_devices,
            endpoint,
            namespace,
            ..
        } = parked;
        let mut undo = Undo {
            engine: self,
            container,
            connection: Some(Arc::clone(&connection)),
            resources: Some(RunResources {
                cgroup,
                endpoints: endpoint.iter().map(endpoint_record).collect(),
                has_resolver: false,
                published: Vec::new(),
            }),
        };

        let resources = undo.resources.as_mut().expect("just made");
        apply_limits(&record, &resources.cgroup, has_default_devices)
            .map_err(EngineError::at(StartFault::Limit))?;
        let begun = Instant::now();
        if record.spec.attachments.len() > resources.endpoints.len() {
            // From here on there may be names to take back.
            resources.has_resolver = true;
            self.join_networks(&record, &namespace, &mut resources.endpoints)
                .await
                .map_err(EngineError::at(StartFault::Network))?;
            resources.has_resolver = needs_resolver(&resources.endpoints);
        }
        if let Some(endpoint) = way_out(&record, &resources.endpoints) {
            resources.published = self.publish(&record, endpoint)?;
        }
        if !resources.endpoints.is_empty() {
            self.metrics.note_action(Action::NetworkAllocate, begun.elapsed());
        }
        let record = self.builds.with_secrets(self.add_linked_variables(record));
        let network_files =
            self.write_network_files(container, &record, &resources.endpoints, mapped_root)?;
        let snapshot = self
            .content
            .snapshot(&container.id)
            .map_err(crate::images::error)
            .map_err(EngineError::at(StartFault::RootFilesystem))?;
        let (attached, sockets): (Vec<_>, Vec<OwnedFd>) =
            lock(&container.pending_attachments).drain(..).unzip();
        let plan = plan::plan_start(
            &record,
            StartContext {
                rootfs: RootfsPlan::Overlay {
                    lower: snapshot.lower,
                    upper: snapshot.upper,
                    work: snapshot.work,
                },
                directory: &container.directory,
                exit_record: container.exit_record_path(),
                keeper_socket: container.keeper_socket(),
                cgroup: &cgroup_path,
                joined,
                network_files,
                user: needs.user,
                attached,
                log_receiver,
            },
        )?;

        let run = RunRecord {
            cgroup: cgroup_path,
            endpoints: resources.endpoints.clone(),
            has_resolver: resources.has_resolver,
            published: resources.published.clone(),
            mapped_root,
        };
        container.change(|record| record.run = Some(run.clone()));

        let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        let started = connection
            .begin(&Request::Start(Box::new(plan)), &sockets)
            .await
            .map_err(keeper_gone)?;
        // While the container is being set up. With this a daemon that dies leaves enough behind for the next one to
        // find the run; before it, the next one finds a cgroup that nobody has recorded, and ends what is in it.
        naru_store::write(&container.run_record_path(), &run)?;
        let (reply, _) = started.await.map_err(|_| keeper_gone(KeeperGone))?;
        let (pid, start_time) = match reply {
            Reply::Started { pid, start_time } => (pid, start_time),
            Reply::Failed(failure) => return Err(failure.into()),
            reply => {
                return Err(EngineError::system(format!("the keeper answered {reply:?} to Start")).into());
            }
        };
        if undo
            .resources
            .as_ref()
            .is_some_and(|resources| resources.has_resolver)
        {
            self.watch_for_resolver(&container.id, pid);
        }
        undo.disarm();
        container.set_keeper(Some(connection));
        container.change(|record| {
            record.state = ContainerState::Running {
                pid,
                start_time,
                started_at: Timestamp::now(),
            };
            record.failed_start = None;
            record.started_by = Some(by);
            record.boot_id.clone_from(&self.boot_id);
        });
        container.set_phase(|phase| phase.is_running = true);
        self.tell_links(&container.id, &run.endpoints);
        self.begin_events(&record, &run.endpoints);
        self.container_event("start", container, &[]);
        self.write_record_soon(container);
        self.follow_run(container, notices);
        Ok(())
    }

    /// A keeper parked ahead of need, or one made now.
    async fn ready_keeper(&self, record: &ContainerRecord, needs: &StemNeeds) -> Result<Parked> {
        let wants_bridge = wants_bridge(&record.spec);
        let mac_address = record
            .spec
            .mac_address
            .as_deref()
            .filter(|text| !text.is_empty())
            .map(parse_mac)
            .transpose()?;
        if mac_address.is_none()
            && record.spec.cgroup_parent.is_none()
            && *needs == self.workshop.parked_with
            && let Some(parked) = self.pool.take(&record.id, wants_bridge)
        {
            return Ok(parked);
        }
        let parent = record
            .spec
            .cgroup_parent
            .clone()
            .unwrap_or_else(|| self.workshop.cgroup_parent.clone());
        let parent = format!("/{}", parent.trim_matches('/'));
        // The set that bore this container's id may serve another by now, with a cgroup and an interface of that name.
        self.workshop
            .prepare(
                ContainerId::generate(),
                &parent,
                wants_bridge.then_some(BridgePlace { mac_address }),
                needs,
            )
            .await
    }

    /// The user namespace the container is to be in: that of containers whose namespaces it joins, else the engine's.
    pub(super) fn plan_user(&self, record: &ContainerRecord) -> Result<(StemNeeds, Option<MappedRoot>)> {
        let spec = &record.spec;
        let joined = match &spec.network {
            NetworkMode::Container(id) => Some(id),
            _ => None,
        };
        let modes = [&spec.pid_mode, &spec.ipc_mode, &spec.uts_mode];
        let joined = joined
            .into_iter()
            .chain(modes.into_iter().filter_map(|mode| match mode {
                NamespaceMode::Container(id) => Some(id),
                _ => None,
            }));
        let mut donors: Vec<plan::Donor> = Vec::new();
        for id in joined {
            let other = self.registry.find(id)?.record();
            let root = other.run.as_ref().and_then(|run| run.mapped_root);
            let pid = other.pid().unwrap_or_default();
            donors.push(root.map(|root| (PathBuf::from(format!("/proc/{pid}/ns/user")), root)));
        }
        plan::plan_user(spec, self.options.remap.as_ref(), &donors)
    }

    /// `/proc/<pid>/ns/<type>` of the containers whose namespaces this one shares.
    fn joined_namespaces(&self, record: &ContainerRecord) -> Result<HashMap<LinuxNamespaceType, PathBuf>> {
        let spec = &record.spec;
        let mut joined = HashMap::new();
        let mut join = |id: &str, kind: LinuxNamespaceType, name: &str| -> Result<()> {
            let other = self.registry.find(id)?;
            let pid = other.record().pid().ok_or_else(|| {
                EngineError::conflict(format!(
                    "cannot join the {name} namespace of a non running container: {}",
                    other.id
                ))
            })?;
            let keeps_ipc = matches!(
                other.record().spec.ipc_mode,
                NamespaceMode::Private | NamespaceMode::None
            );
            if kind == LinuxNamespaceType::Ipc && keeps_ipc {
                return Err(EngineError::invalid(format!(
                    "can't join IPC of container {}: non-shareable IPC (hint: use IpcMode:shareable for the donor \
                     container)",
                    other.id
                )));
            }
            joined.insert(kind, PathBuf::from(format!("/proc/{pid}/ns/{name}")));
            Ok(())
        };
        if let NetworkMode::Container(id) = &spec.network {
            join(id, LinuxNamespaceType::Network, "net")?;
            if spec.uts_mode == NamespaceMode::Private {
                join(id, LinuxNamespaceType::Uts, "uts")?;
            }
        }
        for (mode, kind, name) in [
            (&spec.pid_mode, LinuxNamespaceType::Pid, "pid"),
            (&spec.ipc_mode, LinuxNamespaceType::Ipc, "ipc"),
            (&spec.uts_mode, LinuxNamespaceType::Uts, "uts"),
        ] {
            if let NamespaceMode::Container(id) = mode {
                join(id, kind, name)?;
            }
        }
        Ok(joined)
    }
}

/// A start that failed: the error for the client, and the exit code Docker shows for it.
pub(super) struct FailedToStart {
    error: EngineError,
    exit_code: i32,
}

/// Docker's exit code for a start that failed before the command was looked at.
const EXIT_CODE_NOT_STARTED: i32 = 128;

impl<E: Into<EngineError>> From<E> for FailedToStart {
    fn from(error: E) -> Self {
        Self {
            error: error.into(),
            exit_code: EXIT_CODE_NOT_STARTED,
        }
    }
}

impl From<StartFailure> for FailedToStart {
    fn from(failure: StartFailure) -> Self {
        let (kind, exit_code) = match failure.kind {
            StartFailureKind::CommandNotFound | StartFailureKind::InterpreterMissing => {
                (ErrorKind::InvalidParameter, 127)
            }
            StartFailureKind::CommandNotExecutable | StartFailureKind::FormatUnknown => {
                (ErrorKind::InvalidParameter, 126)
            }
            StartFailureKind::Invalid => (ErrorKind::InvalidParameter, EXIT_CODE_NOT_STARTED),
            StartFailureKind::System => (ErrorKind::System, EXIT_CODE_NOT_STARTED),
        };
        let message = format!(
            "failed to create task for container: {}: unknown",
            failure.message
        );
        Self {
            error: EngineError::new(kind, message).with_fault(fault_of(&failure)),
            exit_code,
        }
    }
}

/// The keeper's words for the step that failed, in the engine's.
pub(crate) fn fault_of(failure: &StartFailure) -> StartFault {
    match failure.kind {
        StartFailureKind::CommandNotFound => return StartFault::CommandNotFound,
        StartFailureKind::CommandNotExecutable => return StartFault::CommandNotExecutable,
        StartFailureKind::InterpreterMissing => return StartFault::InterpreterMissing,
        StartFailureKind::FormatUnknown => return StartFault::FormatUnknown,
        StartFailureKind::Invalid | StartFailureKind::System => {}
    }
    // The system's words, which the runtime hands on as they are.
    if failure.message.contains("no space left on device") {
        return StartFault::DiskFull;
    }
    match failure.step.as_str() {
        "cwd" => StartFault::WorkingDirectory,
        "user" => StartFault::UserUnknown,
        "mount" if failure.message.contains("bind source path does not exist") => {
            StartFault::BindSourceMissing
        }
        "mount" | "mask" | "readonly" => StartFault::Mount,
        "devices" => StartFault::DeviceMissing,
        "rootfs" => StartFault::RootFilesystem,
        "cgroup" => StartFault::Cgroup,
        "rlimits" => StartFault::Limit,
        "user namespace" => StartFault::UserNamespace,
        "seccomp" => StartFault::Seccomp,
        "log" => StartFault::LogDriver,
        _ => StartFault::Other,
    }
}

/// Takes back what a failed start took, in the opposite order.
struct Undo<'a> {
    engine: &'a Engine,
    container: &'a Arc<Container>,
    connection: Option<Arc<crate::keepers::KeeperConnection>>,
    resources: Option<RunResources>,
}

impl Undo<'_> {
    /// The start succeeded: the run's resources now belong to the container.
    fn disarm(mut self) {
        self.connection = None;
        *lock(&self.container.run) = self.resources.take();
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close();
        }
        if let Some(resources) = self.resources.take() {
            self.engine.release(self.container, &resources);
        }
    }
}

/// The address of the host that the log is sent to, where it is.
async fn find_log_receiver(record: &ContainerRecord) -> Result<Option<SocketAddr>> {
    if !plan::is_shipped(&record.spec.log.driver) {
        return Ok(None);
    }
    let Some((host, port)) = plan::host_to_find(&record.spec.log)? else {
        return Ok(None);
    };
    let mut found = tokio::net::lookup_host((host.as_str(), port))
        .await
        .map_err(|error| {
            EngineError::system(format!(
                "failed to initialize logging driver: dial {host}:{port}: {error}"
            ))
        })?
        .collect::<Vec<_>>();
    // As most resolvers of names have it for localhost.
    found.sort_by_key(|address| !address.is_ipv4());
    Ok(found.first().copied())
}

fn apply_limits(
    record: &ContainerRecord,
    cgroup: &naru_cgroup::Cgroup,
    has_default_devices: bool,
) -> Result<()> {
    let failed = |error: naru_cgroup::CgroupError| {
        EngineError::invalid(format!("cannot apply a resource limit: {error}"))
    };
    if let Some(resources) = plan::plan_first_resources(&record.spec.resources)? {
        cgroup.apply(&resources).map_err(failed)?;
    }
    let rules = plan::plan_device_rules(&record.spec)?;
    if has_default_devices && rules == naru_cgroup::default_device_rules() {
        return Ok(());
    }
    cgroup.apply_devices(&rules).map_err(failed)
}

/// `-v` makes a missing source a directory, at each start, as Docker does.
fn make_bind_sources(record: &ContainerRecord, owner: Option<MappedRoot>) -> Result<()> {
    for mount in record
        .resolved
        .mounts
        .iter()
        .filter(|mount| mount.kind == MountKind::Bind)
    {
        if std::fs::symlink_metadata(&mount.source).is_ok() {
            continue;
        }
        let may_create = record.spec.mounts.iter().any(|wanted| {
            matches!(&wanted.source, crate::spec::MountSource::Bind { path, create_missing: true, .. } if *path == mount.source)
        });
        if !may_create {
            return Err(EngineError::invalid(format!(
                "invalid mount config for type \"bind\": bind source path does not exist: {}",
                mount.source.display()
            ))
            .with_fault(StartFault::BindSourceMissing));
        }
        let missing = first_missing(&mount.source);
        file::make_directories(&mount.source, 0o755)?;
        for made in mount
            .source
            .ancestors()
            .take_while(|path| path.starts_with(missing))
        {
            give_to(owner, made)?;
        }
    }
    Ok(())
}

/// The highest directory on the way to `path` that is not there.
fn first_missing(path: &Path) -> &Path {
    path.ancestors()
        .take_while(|ancestor| std::fs::symlink_metadata(ancestor).is_err())
        .last()
        .unwrap_or(path)
}

/// What the engine makes for a container in a user namespace belongs to that one's root.
pub(crate) fn give_to(owner: Option<MappedRoot>, path: &Path) -> Result<()> {
    let Some(root) = owner else { return Ok(()) };
    std::os::unix::fs::lchown(path, Some(root.uid), Some(root.gid))
        .map_err(file::FileError::at("change the owner of", path))?;
    Ok(())
}

pub(crate) fn network_protocol(protocol: Protocol) -> naru_network::Protocol {
    match protocol {
        Protocol::Tcp => naru_network::Protocol::Tcp,
        Protocol::Udp => naru_network::Protocol::Udp,
    }
}

pub(crate) fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let wrong = || EngineError::invalid(format!("invalid MAC address: {text}"));
    let parts: Vec<u8> = text
        .split([':', '-'])
        .map(|part| u8::from_str_radix(part, 16).map_err(|_| wrong()))
        .collect::<Result<_>>()?;
    parts.try_into().map_err(|_| wrong())
}

pub(crate) fn endpoint_record(endpoint: &Endpoint) -> EndpointRecord {
    EndpointRecord {
        network: DEFAULT_NETWORK.to_owned(),
        network_id: String::new(),
        is_internal: false,
        id: String::new(),
        bridge: endpoint.bridge.clone(),
        interface: endpoint.interface.clone(),
        address: endpoint.address,
        prefix_length: endpoint.prefix_length,
        gateway: endpoint.gateway,
        mac_address: endpoint.mac_text(),
        host_interface: endpoint.host_interface.clone(),
        ipv6: endpoint.ipv6,
    }
}

pub(crate) fn endpoint_of_record(record: &EndpointRecord) -> Endpoint {
    Endpoint {
        bridge: record.bridge.clone(),
        interface: record.interface.clone(),
        address: record.address,
        prefix_length: record.prefix_length,
        gateway: record.gateway,
        mac_address: parse_mac(&record.mac_address).unwrap_or_default(),
        host_interface: record.host_interface.clone(),
        ipv6: record.ipv6,
    }
}

pub(crate) fn published_record(port: &naru_network::Published) -> PublishedPort {
    PublishedPort {
        container_port: crate::spec::ContainerPort {
            port: port.container_port,
            protocol: match port.protocol {
                naru_network::Protocol::Tcp => Protocol::Tcp,
                naru_network::Protocol::Udp => Protocol::Udp,
            },
        },
        host_ip: port.host_ip,
        host_port: port.host_port,
    }
}

/// A publication in the network crate's words.
pub(crate) fn published_of_record(port: &PublishedPort) -> naru_network::Published {
    naru_network::Published {
        container_port: port.container_port.port,
        protocol: network_protocol(port.container_port.protocol),
        host_ip: port.host_ip,
        host_port: port.host_port,
    }
}
