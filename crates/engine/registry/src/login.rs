//! What concerns a registry as a whole: whether credentials are good, and what it offers.

use crate::Result;
use crate::auth::{Credentials, answer_challenge, encode_form, parse_challenges};
use crate::endpoint::{Endpoint, Purpose, RegistryOptions, plan_endpoints};
use crate::error::RegistryError;
use crate::repository::{Call, Repository};
use bytes::Bytes;
use hyper::header::AUTHORIZATION;
use hyper::{HeaderMap, Method, StatusCode};
use serde::Deserialize;

const SEARCH_BYTES_MAX: u64 = 4 << 20;
/// Where Docker's hub answers searches.
const HUB_INDEX_HOST: &str = "index.docker.io";

/// Good credentials.
#[derive(Debug, Clone, Default)]
pub struct LoggedIn {
    /// A token that takes the password's place, from registries that give one.
    pub identity_token: String,
}

/// One result of a search; the members are the protocol's.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Found {
    pub name: String,
    pub description: Option<String>,
    pub star_count: i64,
    pub is_official: bool,
    pub is_automated: bool,
}

/// The host a server address means: `https://index.docker.io/v1/` is the hub, anything else its host.
fn domain_of(server_address: &str) -> &str {
    let rest = server_address
        .split_once("://")
        .map_or(server_address, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or_default() {
        "" | "index.docker.io" | "docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

/// Tries credentials at the registry they name.
pub async fn log_in(options: &RegistryOptions, credentials: &Credentials) -> Result<LoggedIn> {
    let domain = domain_of(&credentials.serveraddress);
    let mut last = None;
    for endpoint in plan_endpoints(options, domain, Purpose::Push)? {
        match log_in_at(options, endpoint, credentials).await {
            Err(error @ (RegistryError::Connect { .. } | RegistryError::Tls { .. })) => {
                last = last.or(Some(error));
            }
            result => return result,
        }
    }
    Err(last.unwrap_or_else(|| RegistryError::Invalid {
        what: "registry".to_owned(),
        reason: format!("{domain:?} has no endpoint"),
    }))
}

fn root_call<'a>(repository: &Repository, what: &'a str) -> Result<Call<'a>> {
    Ok(Call {
        method: Method::GET,
        uri: repository.uri("")?,
        headers: HeaderMap::new(),
        body: Bytes::new(),
        what,
    })
}

async fn log_in_at(
    options: &RegistryOptions,
    endpoint: Endpoint,
    credentials: &Credentials,
) -> Result<LoggedIn> {
    const WHAT: &str = "the login";
    let repository = Repository::root(options, endpoint.clone(), None)?;
    let call = root_call(&repository, WHAT)?;
    let connection = repository.connection_to(&call.uri)?;
    let response = connection.send(repository.plain_request(&call), WHAT).await?;
    if response.status() != StatusCode::UNAUTHORIZED {
        // Nothing to log in to: the registry lets everybody in.
        return if response.status().is_success() {
            Ok(LoggedIn::default())
        } else {
            Err(connection.failure(response, WHAT).await)
        };
    }
    let challenges = parse_challenges(response.headers());
    let answered = answer_challenge(options, &endpoint, Some(credentials), &challenges, &[], true);
    let (value, answer) = answered.await?;
    let mut call = root_call(&repository, WHAT)?;
    call.headers.insert(AUTHORIZATION, value);
    let response = connection.send(repository.plain_request(&call), WHAT).await?;
    if !response.status().is_success() {
        return Err(connection.failure(response, WHAT).await);
    }
    Ok(LoggedIn {
        identity_token: answer.refresh_token,
    })
}

/// Asks a registry for repositories; the hub unless the term begins with a host.
pub async fn search(
    options: &RegistryOptions,
    term: &str,
    results_max: u32,
    credentials: Option<Credentials>,
) -> Result<Vec<Found>> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        results: Vec<Found>,
    }
    const WHAT: &str = "the search";
    let is_host = |text: &str| text.contains(['.', ':']) || text == "localhost";
    let (domain, term) = match term.split_once('/') {
        Some((host, rest)) if is_host(host) => (host, rest),
        _ => (HUB_INDEX_HOST, term),
    };
    let mut last = None;
    for endpoint in plan_endpoints(options, domain, Purpose::Push)? {
        let repository = Repository::root(options, endpoint.clone(), credentials.clone())?;
        let count = results_max.to_string();
        let query = encode_form(&[("q", term), ("n", &count)]);
        let mut call = root_call(&repository, WHAT)?;
        call.uri = format!("{}/v1/search?{query}", endpoint.url())
            .parse()
            .map_err(|_| RegistryError::Invalid {
                what: "search term".to_owned(),
                reason: format!("{term:?}"),
            })?;
        let (response, connection) = match repository.call(call).await {
            Err(error @ (RegistryError::Connect { .. } | RegistryError::Tls { .. })) => {
                last = last.or(Some(error));
                continue;
            }
            result => result?,
        };
        if !response.status().is_success() {
            return Err(connection.failure(response, WHAT).await);
        }
        let bytes = connection
            .read_all(response.into_body(), SEARCH_BYTES_MAX, WHAT)
            .await?;
        let answer: Answer = serde_json::from_slice(&bytes).map_err(|error| RegistryError::Unexpected {
            host: endpoint.host,
            what: WHAT.to_owned(),
            reason: error.to_string(),
        })?;
        return Ok(answer.results);
    }
    Err(last.unwrap_or_else(|| RegistryError::Invalid {
        what: "registry".to_owned(),
        reason: format!("{domain:?} has no endpoint"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_addresses_name_hosts() {
        for (address, domain) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("", "docker.io"),
            ("localhost:5000", "localhost:5000"),
            ("https://registry.example.com/v2/", "registry.example.com"),
        ] {
            assert_eq!(domain_of(address), domain);
        }
    }
}
