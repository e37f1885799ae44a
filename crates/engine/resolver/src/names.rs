//! Which names there are on which network. Pure: nothing here touches a socket.

use crate::settings::{ContainerSettings, EndpointNames};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// Every endpoint of the engine, by network.
#[derive(Debug, Default)]
pub struct Directory {
    networks: HashMap<String, Network>,
}

#[derive(Debug, Default)]
struct Network {
    /// As in `container.network`, lower case.
    name: String,
    /// By container.
    endpoints: BTreeMap<String, EndpointNames>,
    /// Containers that have a name, lower case.
    by_name: HashMap<String, Vec<String>>,
    by_address: HashMap<IpAddr, String>,
}

impl Directory {
    pub fn set(&mut self, network: &str, container: &str, endpoint: EndpointNames) {
        self.remove(network, container);
        let entry = self.networks.entry(network.to_owned()).or_default();
        entry.name = endpoint.network_name.to_ascii_lowercase();
        for name in &endpoint.names {
            let holders = entry.by_name.entry(name.to_ascii_lowercase()).or_default();
            if !holders.iter().any(|holder| holder == container) {
                holders.push(container.to_owned());
            }
        }
        for address in &endpoint.addresses {
            entry.by_address.insert(*address, container.to_owned());
        }
        entry.endpoints.insert(container.to_owned(), endpoint);
    }

    pub fn remove(&mut self, network: &str, container: &str) {
        let Some(entry) = self.networks.get_mut(network) else {
            return;
        };
        if let Some(endpoint) = entry.endpoints.remove(container) {
            for name in &endpoint.names {
                let name = name.to_ascii_lowercase();
                if let Some(holders) = entry.by_name.get_mut(&name) {
                    holders.retain(|holder| holder != container);
                    if holders.is_empty() {
                        entry.by_name.remove(&name);
                    }
                }
            }
            for address in &endpoint.addresses {
                if entry
                    .by_address
                    .get(address)
                    .is_some_and(|holder| holder == container)
                {
                    entry.by_address.remove(address);
                }
            }
        }
        if entry.endpoints.is_empty() {
            self.networks.remove(network);
        }
    }

    /// Takes a container off every network.
    pub fn remove_container(&mut self, container: &str) {
        let networks: Vec<String> = self.networks.keys().cloned().collect();
        for network in networks {
            self.remove(&network, container);
        }
    }

    /// Network and container of every endpoint.
    pub fn endpoints(&self) -> Vec<(String, String)> {
        let pairs = self.networks.iter().flat_map(|(network, entry)| {
            let containers = entry.endpoints.keys();
            containers.map(move |container| (network.clone(), container.clone()))
        });
        pairs.collect()
    }

    /// The addresses behind a name (lower case, no dot at its end), as this container may see them; of several networks
    /// the first that has it. `None` if it is nobody's name.
    pub fn find(&self, viewer: &ContainerSettings, name: &str) -> Option<Vec<IpAddr>> {
        for view in &viewer.networks {
            let Some(network) = self.networks.get(&view.network) else {
                continue;
            };
            let link = view
                .links
                .iter()
                .find(|(alias, _)| alias.eq_ignore_ascii_case(name));
            let wanted = link.map_or_else(|| name.to_owned(), |(_, target)| target.to_ascii_lowercase());
            let found = network.addresses_of(&wanted).or_else(|| {
                let short = wanted.strip_suffix(&network.name)?.strip_suffix('.')?;
                network.addresses_of(short)
            });
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// `container.network` of the container that has an address on a network that this one is on too.
    pub fn find_by_address(&self, viewer: &ContainerSettings, address: IpAddr) -> Option<String> {
        viewer.networks.iter().find_map(|view| {
            let network = self.networks.get(&view.network)?;
            let endpoint = network.endpoints.get(network.by_address.get(&address)?)?;
            Some(format!("{}.{}", endpoint.names.first()?, endpoint.network_name))
        })
    }
}

impl Network {
    fn addresses_of(&self, name: &str) -> Option<Vec<IpAddr>> {
        let holders = self.by_name.get(name)?;
        let endpoints = holders.iter().filter_map(|holder| self.endpoints.get(holder));
        Some(
            endpoints
                .flat_map(|endpoint| endpoint.addresses.iter().copied())
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::NetworkView;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn endpoint(network_name: &str, names: &[&str], last: u8) -> EndpointNames {
        EndpointNames {
            network_name: network_name.to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            addresses: vec![address(last)],
        }
    }

    fn viewer(networks: &[&str]) -> ContainerSettings {
        let view = |name: &&str| NetworkView {
            network: (*name).to_owned(),
            links: BTreeMap::from([("database".to_owned(), "DB".to_owned())]),
        };
        ContainerSettings {
            networks: networks.iter().map(view).collect(),
            ..ContainerSettings::default()
        }
    }

    #[test]
    fn only_networks_of_ones_own_are_seen() {
        let mut directory = Directory::default();
        directory.set("1", "a", endpoint("Blue", &["db", "alias", "0123abcd"], 2));
        directory.set("1", "b", endpoint("Blue", &["web", "alias"], 3));
        directory.set("2", "c", endpoint("red", &["secret"], 4));
        let blue = viewer(&["1"]);
        for name in ["db", "0123abcd", "database", "db.blue"] {
            assert_eq!(directory.find(&blue, name), Some(vec![address(2)]), "{name}");
        }
        assert_eq!(directory.find(&blue, "alias"), Some(vec![address(2), address(3)]));
        for name in ["secret", "secret.red", "blue", ".blue", ""] {
            assert_eq!(directory.find(&blue, name), None, "{name}");
        }
        assert_eq!(
            directory.find_by_address(&blue, address(3)).as_deref(),
            Some("web.Blue")
        );
        assert_eq!(directory.find_by_address(&blue, address(4)), None);
        assert!(directory.find(&viewer(&["2", "1"]), "secret").is_some());
    }

    #[test]
    fn names_go_with_their_endpoint() {
        let mut directory = Directory::default();
        directory.set("1", "a", endpoint("blue", &["db"], 2));
        directory.set("1", "a", endpoint("blue", &["renamed"], 3));
        let blue = viewer(&["1"]);
        assert_eq!(directory.find(&blue, "db"), None);
        assert_eq!(directory.find(&blue, "renamed"), Some(vec![address(3)]));
        directory.remove_container("a");
        assert_eq!(directory.find(&blue, "renamed"), None);
        assert!(directory.endpoints().is_empty());
    }
}
