//! Published ports of a container: asked for, moved to another address, taken back.

use super::host_error;
use crate::Engine;
use crate::containers::{network_protocol, published_of_record, published_record};
use crate::error::Result;
use crate::record::{ContainerRecord, EndpointRecord, PublishedPort};
use crate::why::StartFault;
use naru_network::{PublishRequest, Published, Target};
use std::net::IpAddr;

impl Engine {
    /// Publishes what the creator asked for, toward this endpoint.
    pub(crate) fn publish(
        &self,
        record: &ContainerRecord,
        endpoint: &EndpointRecord,
    ) -> Result<Vec<PublishedPort>> {
        let default = self
            .host_binding(&endpoint.network)
            .or(self.options.network.publish_on);
        let requests = plan_requests(record, default);
        self.publish_requests(record, target_of(endpoint), &requests)
    }

    /// Publishes the same ports of the host toward another place, as far as that has the family of address.
    pub(crate) fn publish_again(
        &self,
        record: &ContainerRecord,
        endpoint: &EndpointRecord,
        published: &[PublishedPort],
    ) -> Result<Vec<PublishedPort>> {
        let requests: Vec<PublishRequest> = published
            .iter()
            .map(published_of_record)
            .filter(|port| port.host_ip.is_ipv4() || endpoint.ipv6.is_some())
            .map(|port| PublishRequest {
                container_port: port.container_port,
                protocol: port.protocol,
                host_ip: Some(port.host_ip),
                host_ports: Some((port.host_port, port.host_port)),
            })
            .collect();
        self.publish_requests(record, target_of(endpoint), &requests)
    }

    fn publish_requests(
        &self,
        record: &ContainerRecord,
        target: Target,
        requests: &[PublishRequest],
    ) -> Result<Vec<PublishedPort>> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let published = self
            .network
            .publish(&record.id, &record.name, target, requests)
            .map_err(|error| {
                let fault = if error.is_port_in_use() {
                    StartFault::PortTaken
                } else {
                    StartFault::Network
                };
                host_error(
                    &error,
                    format!(
                        "driver failed programming external connectivity on endpoint {}: {error}",
                        record.name
                    ),
                )
                .with_fault(fault)
            })?;
        Ok(published.iter().map(published_record).collect())
    }

    pub(crate) fn unpublish(&self, record: &ContainerRecord, published: &[PublishedPort]) -> Result<()> {
        if published.is_empty() {
            return Ok(());
        }
        let published: Vec<Published> = published.iter().map(published_of_record).collect();
        self.network
            .unpublish(&record.id, &published)
            .map_err(|error| host_error(&error, error.to_string()))
    }
}

fn target_of(endpoint: &EndpointRecord) -> Target {
    Target {
        ipv4: endpoint.address,
        ipv6: endpoint.ipv6.map(|ipv6| ipv6.address),
    }
}

/// `default`: the address of the host for ports that name none.
fn plan_requests(record: &ContainerRecord, default: Option<IpAddr>) -> Vec<PublishRequest> {
    let mut requests: Vec<PublishRequest> = record
        .spec
        .ports
        .iter()
        .map(|binding| PublishRequest {
            container_port: binding.container_port.port,
            protocol: network_protocol(binding.container_port.protocol),
            host_ip: binding.host_ip.or(default),
            host_ports: binding.host_ports.filter(|(first, _)| *first != 0),
        })
        .collect();
    if record.spec.publish_all {
        let is_bound = |port| {
            record
                .spec
                .ports
                .iter()
                .any(|binding| binding.container_port == port)
        };
        let exposed = &record.resolved.exposed_ports;
        requests.extend(
            exposed
                .iter()
                .filter(|port| !is_bound(**port))
                .map(|port| PublishRequest {
                    container_port: port.port,
                    protocol: network_protocol(port.protocol),
                    host_ip: default,
                    host_ports: None,
                }),
        );
    }
    requests
}
