//! Decides where a name is looked for: plain data, no I/O.

use crate::error::RegistryError;
use crate::proxy::Proxies;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The name of Docker's hub in references, and where it answers.
const HUB_DOMAIN: &str = "docker.io";
const HUB_HOST: &str = "registry-1.docker.io";

/// What a daemon was told about registries.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// Hosts, `host:port` or CIDR, that may be spoken to without a trusted certificate or without TLS at all.
    pub insecure: Vec<String>,
    /// Base URLs tried before docker.io.
    pub mirrors: Vec<String>,
    /// How long a registry may be silent.
    pub timeout: Duration,
    /// Tries of one transfer before it fails; a try that brought something does not count.
    pub attempts: u32,
    pub concurrent_downloads: usize,
    pub concurrent_uploads: usize,
    /// Folders with a folder for each `host:port` that holds its CAs and client certificates.
    pub certificate_folders: Vec<PathBuf>,
    pub proxies: Proxies,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            mirrors: Vec::new(),
            timeout: Duration::from_secs(30),
            // dockerd's defaults for the three.
            attempts: 5,
            concurrent_downloads: 3,
            concurrent_uploads: 5,
            certificate_folders: vec!["/etc/naru/certs.d".into(), "/etc/docker/certs.d".into()],
            proxies: Proxies::default(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Pull,
    Push,
}

/// One place where a registry answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub is_tls: bool,
    /// Whether its certificate must be good.
    pub is_verified: bool,
    /// `host` or `host:port`.
    pub host: String,
    /// What precedes `/v2/`; mirrors may have one. Without a slash at its end.
    pub prefix: String,
    /// Credentials are for the registry that was named, never for its mirrors.
    pub takes_credentials: bool,
}

impl Endpoint {
    pub fn url(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.host, self.prefix)
    }
}

/// Where `domain` answers, in the order to try.
pub fn plan_endpoints(
    options: &RegistryOptions,
    domain: &str,
    purpose: Purpose,
) -> Result<Vec<Endpoint>, RegistryError> {
    let mut endpoints = Vec::new();
    let is_hub = domain == HUB_DOMAIN;
    if is_hub && purpose == Purpose::Pull {
        for mirror in &options.mirrors {
            endpoints.push(mirror_endpoint(options, mirror)?);
        }
    }
    let host = if is_hub { HUB_HOST } else { domain };
    let endpoint = |is_tls, is_verified| Endpoint {
        is_tls,
        is_verified,
        host: host.to_owned(),
        prefix: String::new(),
        takes_credentials: true,
    };
    if is_insecure(options, host) {
        // As Docker: TLS first even here, since a registry that has it should be spoken to by it.
        endpoints.push(endpoint(true, false));
        endpoints.push(endpoint(false, false));
    } else {
        endpoints.push(endpoint(true, true));
    }
    Ok(endpoints)
}

fn mirror_endpoint(options: &RegistryOptions, mirror: &str) -> Result<Endpoint, RegistryError> {
    let wrong = || RegistryError::Invalid {
        what: "registry mirror".to_owned(),
        reason: format!("{mirror:?} is not http:// or https:// and a host"),
    };
    let (is_tls, rest) = match mirror.split_once("://") {
        Some(("https", rest)) => (true, rest),
        Some(("http", rest)) => (false, rest),
        _ => return Err(wrong()),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.is_empty() || host.contains('@') {
        return Err(wrong());
    }
    let path = path.trim_matches('/');
    Ok(Endpoint {
        is_tls,
        is_verified: is_tls && !is_insecure(options, host),
        host: host.to_owned(),
        prefix: if path.is_empty() {
            String::new()
        } else {
            format!("/{path}")
        },
        takes_credentials: false,
    })
}

/// Loopback, and what the daemon was told.
pub(crate) fn is_insecure(options: &RegistryOptions, host: &str) -> bool {
    let address: Option<IpAddr> = host_name(host).parse().ok();
    is_loopback(host)
        || options
            .insecure
            .iter()
            .any(|entry| entry == host || address.is_some_and(|address| is_in_network(address, entry)))
}

/// Whether it is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = host_name(host);
    let address: Option<IpAddr> = name.parse().ok();
    name == "localhost" || address.is_some_and(|address| address.is_loopback())
}

/// The host without its port and without brackets.
fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    host.split(':').next().unwrap_or(host)
}

fn is_in_network(address: IpAddr, network: &str) -> bool {
    let Some((base, bits)) = network.split_once('/') else {
        return false;
    };
    let (Ok(base), Ok(bits)) = (base.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    match (address, base) {
        (IpAddr::V4(address), IpAddr::V4(base)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            u32::from(address) & mask == u32::from(base) & mask
        }
        (IpAddr::V6(address), IpAddr::V6(base)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            u128::from(address) & mask == u128::from(base) & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(options: &RegistryOptions, domain: &str, purpose: Purpose) -> Vec<String> {
        let endpoints = plan_endpoints(options, domain, purpose).unwrap();
        endpoints.iter().map(Endpoint::url).collect()
    }

    #[test]
    fn mirrors_come_first_for_the_hub_alone_and_only_to_pull() {
        let options = RegistryOptions {
            mirrors: vec!["http://mirror:5000/hub/".to_owned()],
            ..RegistryOptions::default()
        };
        assert_eq!(
            urls(&options, "docker.io", Purpose::Pull),
            ["http://mirror:5000/hub", "https://registry-1.docker.io"]
        );
        assert_eq!(
            urls(&options, "docker.io", Purpose::Push),
            ["https://registry-1.docker.io"]
        );
        assert_eq!(
            urls(&options, "example.com", Purpose::Pull),
            ["https://example.com"]
        );
        let endpoints = plan_endpoints(&options, "docker.io", Purpose::Pull).unwrap();
        assert!(!endpoints[0].takes_credentials);
    }

    #[test]
    fn plain_http_is_for_loopback_and_what_was_named() {
        let options = RegistryOptions {
            insecure: vec!["old:5000".to_owned(), "10.1.0.0/16".to_owned()],
            ..RegistryOptions::default()
        };
        for host in [
            "127.0.0.1:5000",
            "localhost",
            "[::1]:80",
            "old:5000",
            "10.1.2.3:443",
        ] {
            assert_eq!(
                urls(&options, host, Purpose::Push),
                [format!("https://{host}"), format!("http://{host}")]
            );
        }
        for host in ["old", "10.2.0.1", "128.0.0.1", "example.com:5000"] {
            assert_eq!(urls(&options, host, Purpose::Push), [format!("https://{host}")]);
        }
    }
}
