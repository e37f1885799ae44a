//! Whom a TLS connection trusts: the system's roots, and what `certs.d/<host:port>/` adds for one registry.
//!
//! ```text
//! certs.d/<host:port>/*.crt           CAs, trusted besides the system's
//! certs.d/<host:port>/<name>.cert     a client certificate
//! certs.d/<host:port>/<name>.key      its key
//! ```

use crate::Result;
use crate::endpoint::{Endpoint, RegistryOptions};
use crate::error::RegistryError;
use naru_tls::{AnyCertificate, NamedOrChained, PemError};
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;

type ClientIdentity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What connections to this endpoint are made with.
pub(crate) fn client_config(options: &RegistryOptions, endpoint: &Endpoint) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let versions = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(endpoint, &error))?;
    let folders: Vec<PathBuf> = options
        .certificate_folders
        .iter()
        .map(|folder| folder.join(&endpoint.host))
        .collect();
    let verifier: Arc<dyn ServerCertVerifier> = if endpoint.is_verified {
        trusted_verifier(endpoint, &folders, provider)?
    } else {
        Arc::new(AnyCertificate::new(provider))
    };
    let builder = versions.dangerous().with_custom_certificate_verifier(verifier);
    match find_identity(endpoint, &folders)? {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| failed(endpoint, &error)),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// For endpoints without TLS: trusts nobody.
pub(crate) fn no_config() -> Result<ClientConfig, rustls::Error> {
    Ok(
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth(),
    )
}

fn failed(endpoint: &Endpoint, reason: &dyn std::fmt::Display) -> RegistryError {
    RegistryError::Tls {
        host: endpoint.host.clone(),
        reason: reason.to_string(),
    }
}

fn trusted_verifier(
    endpoint: &Endpoint,
    folders: &[PathBuf],
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>> {
    let mut roots = naru_tls::system_roots();
    let mut named = Vec::new();
    for path in folders.iter().flat_map(|folder| files_with(folder, "crt")) {
        let certificates = match naru_tls::read_certificates(&path) {
            // As Docker has it, such a file adds nobody.
            Err(PemError::Empty { .. }) => continue,
            read => read.map_err(|error| failed(endpoint, &error))?,
        };
        naru_tls::add_roots(&mut roots, &path.display().to_string(), &certificates)
            .map_err(|error| failed(endpoint, &error))?;
        named.extend(certificates);
    }
    let verifier = NamedOrChained::new(roots, named, provider).map_err(|error| failed(endpoint, &error))?;
    Ok(Arc::new(verifier))
}

fn find_identity(endpoint: &Endpoint, folders: &[PathBuf]) -> Result<Option<ClientIdentity>> {
    let Some(path) = folders
        .iter()
        .flat_map(|folder| files_with(folder, "cert"))
        .next()
    else {
        return Ok(None);
    };
    let unusable = |error: PemError| failed(endpoint, &error);
    let key = naru_tls::read_key(&path.with_extension("key")).map_err(unusable)?;
    let chain = naru_tls::read_certificates(&path).map_err(unusable)?;
    Ok(Some((chain, key)))
}

/// Files with this extension, in order; a folder that is not there has none.
fn files_with(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    paths.sort();
    paths
}
