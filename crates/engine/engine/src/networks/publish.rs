//! Published ports of a container: asked for, moved to another address, taken back.

use super::host_error;
use crate::Engine;
use crate::containers::{network_protocol, published_of_record, published_record};
use crate::error::{EngineError, Result};
use crate::record::{ContainerRecord, EndpointRecord, PublishedPort};
use naru_base::ErrorKind;
use naru_network::{PublishRequest, Published};
use std::net::{IpAddr, Ipv4Addr};

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
        let requests = plan_requests(record, default)?;
        self.publish_requests(record, endpoint.address, &requests)
    }

    /// Publishes the same ports of the host toward another address.
    pub(crate) fn publish_again(
        &self,
        record: &ContainerRecord,
        address: Ipv4Addr,
        published: &[PublishedPort],
    ) -> Result<Vec<PublishedPort>> {
        let requests: Vec<PublishRequest> = published
            .iter()
            .map(published_of_record)
            .map(|port| PublishRequest {
                container_port: port.container_port,
                protocol: port.protocol,
                host_ip: port.host_ip,
                host_ports: Some((port.host_port, port.host_port)),
            })
            .collect();
        self.publish_requests(record, address, &requests)
    }

    fn publish_requests(
        &self,
        record: &ContainerRecord,
        address: Ipv4Addr,
        requests: &[PublishRequest],
    ) -> Result<Vec<PublishedPort>> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let published = self
            .network
            .publish(&record.id, &record.name, address, requests)
            .map_err(|error| {
                host_error(
                    &error,
                    format!(
                        "driver failed programming external connectivity on endpoint {}: {error}",
                        record.name
                    ),
                )
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

/// `default`: the address of the host for ports that name none.
fn plan_requests(record: &ContainerRecord, default: Option<Ipv4Addr>) -> Result<Vec<PublishRequest>> {
    let usable = |address: Option<Ipv4Addr>| address.filter(|address| !address.is_unspecified());
    let mut requests = Vec::new();
    for binding in &record.spec.ports {
        let host_ip = match binding.host_ip {
            None => default,
            Some(IpAddr::V4(address)) => Some(address),
            Some(IpAddr::V6(address)) => {
                return Err(EngineError::new(
                    ErrorKind::NotImplemented,
                    format!("publishing on the IPv6 address {address} is not supported yet"),
                ));
            }
        };
        requests.push(PublishRequest {
            container_port: binding.container_port.port,
            protocol: network_protocol(binding.container_port.protocol),
            host_ip: usable(host_ip),
            host_ports: binding.host_ports.filter(|(first, _)| *first != 0),
        });
    }
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
                    host_ip: usable(default),
                    host_ports: None,
                }),
        );
    }
    Ok(requests)
}
