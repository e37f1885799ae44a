//! Containers joining and leaving networks: at their start, and while they run.

use super::names::{DnsFacts, container_settings, endpoint_names, needs_resolver};
use super::places::{DEFAULT_NETWORK, check_mode, plan_place, way_out};
use super::resolver::Change;
use super::{files, network_error};
use crate::Engine;
use crate::containers::{Container, RunResources, endpoint_of_record, endpoint_record, lock};
use crate::error::{EngineError, Result};
use crate::metrics::Action;
use crate::record::{ContainerRecord, EndpointRecord, PublishedPort};
use crate::spec::AttachmentSpec;
use crate::why::StartFault;
use naru_base::{ContainerId, ErrorKind};
use naru_network::Place;
use naru_sys::netlink;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

/// A container's network namespace, and a `NETLINK_ROUTE` socket opened in it.
#[derive(Debug)]
pub struct NetworkNamespace {
    pub netns: OwnedFd,
    pub route_socket: OwnedFd,
}

/// The namespace of a running container's first process.
pub fn namespace_of(pid: i32) -> Result<NetworkNamespace> {
    let failed = |error: std::io::Error| {
        EngineError::system(format!(
            "cannot enter the network namespace of process {pid}: {error}"
        ))
    };
    let netns: OwnedFd = File::open(format!("/proc/{pid}/ns/net")).map_err(failed)?.into();
    // A thread of its own, which ends inside.
    let opened = std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            naru_sys::namespace::join(netns.as_fd(), libc::CLONE_NEWNET)?;
            netlink::open(netlink::Protocol::Route).map_err(std::io::Error::from)
        });
        worker
            .join()
            .unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into()))
    });
    Ok(NetworkNamespace {
        route_socket: opened.map_err(failed)?,
        netns,
    })
}

impl Engine {
    /// Gives a container that is about to start its places on the networks that users made; `endpoints` holds its place
    /// on the default one, if it has that, and gets each further one as soon as it is there.
    pub(crate) async fn join_networks(
        &self,
        record: &ContainerRecord,
        namespace: &NetworkNamespace,
        endpoints: &mut Vec<EndpointRecord>,
    ) -> Result<()> {
        let _unchanged = self.networks.changing.read().await;
        for attachment in &record.spec.attachments {
            if endpoints
                .iter()
                .any(|endpoint| endpoint.network == attachment.network)
            {
                continue;
            }
            let endpoint = self.attach_place(&record.id, attachment, namespace, endpoints)?;
            endpoints.push(endpoint);
        }
        self.lead_out(record, namespace, endpoints)?;
        if needs_resolver(endpoints) {
            self.open_resolver(record, namespace, endpoints).await?;
        }
        for endpoint in endpoints.iter() {
            self.resolver_endpoint(record, endpoint).await?;
        }
        Ok(())
    }

    fn attach_place(
        &self,
        container: &ContainerId,
        attachment: &AttachmentSpec,
        namespace: &NetworkNamespace,
        endpoints: &[EndpointRecord],
    ) -> Result<EndpointRecord> {
        let begun = Instant::now();
        let planned = plan_place(
            self.network_facts(&attachment.network)
                .map_err(EngineError::at(StartFault::NetworkMissing))?,
            attachment,
            endpoints,
        )?;
        let place = Place {
            interface: &planned.interface,
            mac_address: planned.mac_address,
            address: planned.address,
            ipv6_address: planned.ipv6_address,
            link_local: &planned.link_local,
            is_gateway: false,
        };
        let network = planned.network;
        let endpoint = self
            .network
            .attach_to(
                &network.bridge,
                container,
                namespace.netns.as_fd(),
                namespace.route_socket.as_fd(),
                &place,
            )
            .map_err(network_error)?;
        self.metrics.note_action(Action::NetworkConnect, begun.elapsed());
        Ok(EndpointRecord {
            network: network.name,
            network_id: network.id,
            is_internal: network.is_internal,
            id: ContainerId::generate().to_string(),
            ..endpoint_record(&endpoint)
        })
    }

    /// Has the default route go the way that the container's networks say.
    fn lead_out(
        &self,
        record: &ContainerRecord,
        namespace: &NetworkNamespace,
        endpoints: &[EndpointRecord],
    ) -> Result<()> {
        let endpoint = way_out(record, endpoints).map(endpoint_of_record);
        let route_socket = namespace.route_socket.as_fd();
        self.network
            .change_default_route(route_socket, endpoint.as_ref())
            .map_err(network_error)?;
        let ipv6: Vec<EndpointRecord> = endpoints
            .iter()
            .filter(|endpoint| endpoint.ipv6.is_some())
            .cloned()
            .collect();
        if ipv6.is_empty() {
            return Ok(());
        }
        let endpoint = way_out(record, &ipv6).map(endpoint_of_record);
        self.network
            .change_default_route6(route_socket, endpoint.as_ref())
            .map_err(network_error)
    }

    pub(crate) fn dns_facts(&self) -> DnsFacts {
        let defaults = &self.options.network;
        DnsFacts {
            servers: defaults.dns.clone(),
            options: defaults.dns_options.clone(),
            host_address: Some(self.host_gateway()),
        }
    }

    /// What `host-gateway` means.
    pub(crate) fn host_gateway(&self) -> std::net::Ipv4Addr {
        self.options
            .network
            .host_gateway
            .unwrap_or_else(|| self.network.gateway())
    }

    fn settings_of(
        &self,
        record: &ContainerRecord,
        endpoints: &[EndpointRecord],
    ) -> naru_resolver::ContainerSettings {
        let has_way_out = way_out(record, endpoints).is_some();
        container_settings(record, endpoints, has_way_out, &self.dns_facts())
    }

    async fn open_resolver(
        &self,
        record: &ContainerRecord,
        namespace: &NetworkNamespace,
        endpoints: &[EndpointRecord],
    ) -> Result<()> {
        let netns = namespace
            .netns
            .try_clone()
            .map_err(|error| EngineError::system(format!("cannot copy a descriptor: {error}")))?;
        self.resolver
            .tell(Change::Open {
                container: record.id.to_string(),
                settings: self.settings_of(record, endpoints),
                netns,
            })
            .await
    }

    async fn resolver_endpoint(&self, record: &ContainerRecord, endpoint: &EndpointRecord) -> Result<()> {
        if endpoint.network == DEFAULT_NETWORK {
            return Ok(());
        }
        self.resolver.tell(set_endpoint(record, endpoint)).await
    }

    /// Has the resolver let go of a container when its first process ends, should no daemon be there then.
    pub(crate) fn watch_for_resolver(&self, container: &ContainerId, pid: i32) {
        if let Some(pidfd) = open_pidfd(pid) {
            self.resolver.mention(Change::Watch {
                container: container.to_string(),
                pidfd,
            });
        }
    }

    /// Takes a container's names back, in the order in which they were given.
    pub(crate) fn forget_names(&self, container: &ContainerId, resources: &RunResources) {
        for endpoint in &resources.endpoints {
            if endpoint.network != DEFAULT_NETWORK {
                self.resolver.mention(Change::RemoveEndpoint {
                    network: endpoint.network_id.clone(),
                    container: container.to_string(),
                });
            }
        }
        if resources.has_resolver {
            self.resolver.mention(Change::Close {
                container: container.to_string(),
            });
        }
    }

    /// Tells a resolver from before this daemon what runs.
    pub(crate) async fn recover_names(&self, running: &[Arc<Container>]) {
        let mut changes = Vec::new();
        for container in running {
            let record = container.record();
            let (Some(run), Some(pid)) = (&record.run, record.pid()) else {
                continue;
            };
            let user_made = run
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.network != DEFAULT_NETWORK);
            changes.extend(user_made.map(|endpoint| set_endpoint(&record, endpoint)));
            let netns = File::open(format!("/proc/{pid}/ns/net"));
            if let (true, Ok(netns)) = (run.has_resolver, netns) {
                let id = container.id.to_string();
                changes.push(Change::Open {
                    container: id.clone(),
                    settings: self.settings_of(&record, &run.endpoints),
                    netns: netns.into(),
                });
                changes.extend(open_pidfd(pid).map(|pidfd| Change::Watch { container: id, pidfd }));
            }
        }
        self.resolver.adopt(changes).await;
    }

    /// A running container's new name.
    pub(crate) async fn rename_endpoints(&self, record: &ContainerRecord) {
        for endpoint in record.run.iter().flat_map(|run| &run.endpoints) {
            if let Err(error) = self.resolver_endpoint(record, endpoint).await {
                tracing::warn!(container = record.id.short(), %error, "a new name is not answered");
            }
        }
    }

    /// Connects a container to one more network, at once if it runs.
    pub async fn connect_network(
        &self,
        network: &str,
        container: &str,
        mut attachment: AttachmentSpec,
    ) -> Result<()> {
        refuse_without_bridge(network)?;
        let facts = self.network_facts(network)?;
        let container = self.registry.find(container)?;
        let _operation = container.operation.lock().await;
        let record = container.record();
        check_mode(&record)?;
        attachment.network.clone_from(&facts.name);
        let run = record.run.as_ref().filter(|_| record.is_running());
        let is_connected = run.is_some_and(|run| {
            run.endpoints
                .iter()
                .any(|endpoint| endpoint.network == facts.name)
        });
        if is_connected {
            return Err(EngineError::new(
                ErrorKind::Forbidden,
                format!(
                    "endpoint with name {} already exists in network {}",
                    record.name, facts.name
                ),
            ));
        }
        let record = container.change(|record| {
            record
                .spec
                .attachments
                .retain(|other| other.network != attachment.network);
            record.spec.attachments.push(attachment.clone());
        });
        let connected = if record.is_running() {
            self.connect_running(&container, &record, &attachment).await
        } else {
            plan_place(facts, &attachment, &[]).map(drop)
        };
        if let Err(error) = connected {
            container.change(|record| {
                record
                    .spec
                    .attachments
                    .retain(|other| other.network != attachment.network);
            });
            return Err(error);
        }
        self.write_record(&container)
    }

    async fn connect_running(
        &self,
        container: &Container,
        record: &ContainerRecord,
        attachment: &AttachmentSpec,
    ) -> Result<()> {
        let _unchanged = self.networks.changing.read().await;
        let namespace = namespace_of(record.pid().unwrap_or_default())?;
        let mut endpoints = run_endpoints(record);
        let endpoint = self.attach_place(&record.id, attachment, &namespace, &endpoints)?;
        endpoints.push(endpoint.clone());
        let settled = self
            .settle_running(container, record, &namespace, endpoints.clone())
            .await;
        let named = match settled {
            Ok(()) => self.resolver_endpoint(record, &endpoint).await,
            Err(error) => Err(error),
        };
        if let Err(error) = named {
            endpoints.pop();
            let _ = self.network.disconnect(&endpoint_of_record(&endpoint));
            let _ = self
                .settle_running(container, record, &namespace, endpoints)
                .await;
            return Err(error);
        }
        self.connect_event("connect", record, &endpoint);
        Ok(())
    }

    /// Takes a container off a network, at once if it runs.
    pub async fn disconnect_network(&self, network: &str, container: &str, force: bool) -> Result<()> {
        refuse_without_bridge(network)?;
        let name = self.network_facts(network)?.name;
        let container = match self.registry.find(container) {
            // Forced, a container that is gone is no longer connected.
            Err(_) if force => return Ok(()),
            found => found?,
        };
        let _operation = container.operation.lock().await;
        let record = container.record();
        check_mode(&record)?;
        let is_attached = record
            .spec
            .attachments
            .iter()
            .any(|attachment| attachment.network == name);
        if !is_attached {
            return Err(EngineError::new(
                ErrorKind::Forbidden,
                format!("container {} is not connected to network {name}", record.id),
            ));
        }
        let mut endpoints = run_endpoints(&record);
        let position = endpoints.iter().position(|endpoint| endpoint.network == name);
        if let Some(position) = position.filter(|_| record.is_running()) {
            let endpoint = endpoints.remove(position);
            self.disconnect_running(&container, &record, &endpoint, endpoints)
                .await?;
        }
        container.change(|record| {
            record
                .spec
                .attachments
                .retain(|attachment| attachment.network != name);
        });
        self.write_record(&container)
    }

    async fn disconnect_running(
        &self,
        container: &Container,
        record: &ContainerRecord,
        endpoint: &EndpointRecord,
        rest: Vec<EndpointRecord>,
    ) -> Result<()> {
        if endpoint.network != DEFAULT_NETWORK {
            self.resolver
                .tell(Change::RemoveEndpoint {
                    network: endpoint.network_id.clone(),
                    container: record.id.to_string(),
                })
                .await?;
        }
        let namespace = namespace_of(record.pid().unwrap_or_default())?;
        let (network, gone) = (Arc::clone(&self.network), endpoint_of_record(endpoint));
        // It waits for the kernel for some 30 ms.
        tokio::task::spawn_blocking(move || network.disconnect(&gone))
            .await
            .map_err(|error| EngineError::system(error.to_string()))?
            .map_err(network_error)?;
        self.settle_running(container, record, &namespace, rest).await?;
        self.connect_event("disconnect", record, endpoint);
        Ok(())
    }

    /// Brings a running container in line with the endpoints it has now: record, routes, ports, names and files.
    async fn settle_running(
        &self,
        container: &Container,
        record: &ContainerRecord,
        namespace: &NetworkNamespace,
        endpoints: Vec<EndpointRecord>,
    ) -> Result<()> {
        let before = run_endpoints(record);
        let was_answered = record.run.as_ref().is_some_and(|run| run.has_resolver);
        let has_resolver = was_answered || needs_resolver(&endpoints);
        self.lead_out(record, namespace, &endpoints)?;
        let published = self.move_ports(container, record, &endpoints)?;
        if let Some(resources) = lock(&container.run).as_mut() {
            resources.endpoints.clone_from(&endpoints);
            resources.has_resolver = has_resolver;
            resources.published.clone_from(&published);
        }
        container.change(|record| {
            if let Some(run) = &mut record.run {
                run.endpoints.clone_from(&endpoints);
                run.has_resolver = has_resolver;
                run.published = published;
            }
        });
        Self::write_run(container)?;
        if has_resolver {
            if was_answered {
                let settings = self.settings_of(record, &endpoints);
                let container = record.id.to_string();
                self.resolver.tell(Change::Set { container, settings }).await?;
            } else {
                self.open_resolver(record, namespace, &endpoints).await?;
                self.watch_for_resolver(&record.id, record.pid().unwrap_or_default());
                files::write_resolv_conf(container, &self.resolv_conf(record, true))?;
            }
        }
        files::update_hosts(container, record, &before, &endpoints)
    }

    /// Published ports lead to the endpoint that leads out.
    fn move_ports(
        &self,
        container: &Container,
        record: &ContainerRecord,
        endpoints: &[EndpointRecord],
    ) -> Result<Vec<PublishedPort>> {
        let before = run_endpoints(record);
        let published = lock(&container.run)
            .as_ref()
            .map(|run| run.published.clone())
            .unwrap_or_default();
        let (old, new) = (way_out(record, &before), way_out(record, endpoints));
        if old == new {
            return Ok(published);
        }
        self.unpublish(record, &published)?;
        match new {
            Some(endpoint) if published.is_empty() => self.publish(record, endpoint),
            Some(endpoint) => self.publish_again(record, endpoint, &published),
            None => Ok(Vec::new()),
        }
    }
}

fn set_endpoint(record: &ContainerRecord, endpoint: &EndpointRecord) -> Change {
    Change::SetEndpoint {
        network: endpoint.network_id.clone(),
        container: record.id.to_string(),
        endpoint: endpoint_names(record, endpoint),
    }
}

fn run_endpoints(record: &ContainerRecord) -> Vec<EndpointRecord> {
    record
        .run
        .as_ref()
        .map(|run| run.endpoints.clone())
        .unwrap_or_default()
}

fn open_pidfd(pid: i32) -> Option<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid)?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

/// Nobody joins or leaves `host` and `none` while there.
fn refuse_without_bridge(network: &str) -> Result<()> {
    match network {
        "host" => Err(EngineError::invalid(
            "container cannot be disconnected from host network or connected to host network",
        )),
        "none" => Err(EngineError::invalid(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        )),
        _ => Ok(()),
    }
}
