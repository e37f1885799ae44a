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
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
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
        Arc::new(AnyCertificate(provider))
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
    let mut roots = RootCertStore::empty();
    // A root that cannot be read is one less to trust; what it would have vouched for is then refused by name.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let mut named = Vec::new();
    for path in folders.iter().flat_map(|folder| files_with(folder, "crt")) {
        for certificate in read_certificates(endpoint, &path)? {
            roots
                .add(certificate.clone())
                .map_err(|error| failed(endpoint, &format!("{}: {error}", path.display())))?;
            named.push(certificate);
        }
    }
    let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| failed(endpoint, &error))?;
    Ok(Arc::new(NamedOrChained { named, chain }))
}

/// Accepts what chains to a trusted root; and a certificate that was itself put into `certs.d`, for the names it has,
/// since many a registry's certificate is its own CA, which a chain may not end with.
#[derive(Debug)]
struct NamedOrChained {
    named: Vec<CertificateDer<'static>>,
    chain: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for NamedOrChained {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chained =
            self.chain
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match chained {
            Err(_) if self.named.iter().any(|named| named == end_entity) => {
                let certificate = ParsedCertificate::try_from(end_entity)?;
                verify_server_name(&certificate, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

fn read_certificates(endpoint: &Endpoint, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| failed(endpoint, &format!("{}: {error}", path.display())))
}

fn find_identity(endpoint: &Endpoint, folders: &[PathBuf]) -> Result<Option<ClientIdentity>> {
    let Some(path) = folders
        .iter()
        .flat_map(|folder| files_with(folder, "cert"))
        .next()
    else {
        return Ok(None);
    };
    let key_path = path.with_extension("key");
    let key = PrivateKeyDer::from_pem_file(&key_path)
        .map_err(|error| failed(endpoint, &format!("{}: {error}", key_path.display())))?;
    Ok(Some((read_certificates(endpoint, &path)?, key)))
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

/// Accepts every certificate: for registries the daemon was told are insecure, and for clients with `--tls` alone. The handshake itself is still checked.
#[derive(Debug)]
pub struct AnyCertificate(Arc<CryptoProvider>);

impl AnyCertificate {
    pub fn new(provider: Arc<CryptoProvider>) -> Self {
        Self(provider)
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
