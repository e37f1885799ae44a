//! Certificates and keys as people keep them: in PEM.

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;

/// What cannot be used; `name` is the file's path, or what else people know it by.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    #[error("{name}: {source}")]
    Unreadable { name: String, source: pem::Error },
    #[error("{name}: there is no {what} in it")]
    Empty { name: String, what: &'static str },
    #[error("{name}: {source}")]
    Refused { name: String, source: rustls::Error },
}

/// The certificates of a file, in its order; there is at least one.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let name = path.display().to_string();
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    some_certificates(name, read)
}

/// The first key of a file.
pub fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| no_key(path.display().to_string(), source))
}

/// As [`read_certificates`], of a file that was read.
pub fn parse_certificates(name: &str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let read = CertificateDer::pem_slice_iter(text).collect();
    some_certificates(name.to_owned(), read)
}

/// As [`read_key`], of a file that was read.
pub fn parse_key(name: &str, text: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_slice(text).map_err(|source| no_key(name.to_owned(), source))
}

fn some_certificates(
    name: String,
    read: Result<Vec<CertificateDer<'static>>, pem::Error>,
) -> Result<Vec<CertificateDer<'static>>, PemError> {
    match read {
        Ok(certificates) if certificates.is_empty() => Err(PemError::Empty {
            name,
            what: "certificate",
        }),
        Ok(certificates) => Ok(certificates),
        Err(source) => Err(PemError::Unreadable { name, source }),
    }
}

fn no_key(name: String, source: pem::Error) -> PemError {
    match source {
        pem::Error::NoItemsFound => PemError::Empty { name, what: "key" },
        source => PemError::Unreadable { name, source },
    }
}

/// Adds authorities; `name` is where they are from.
pub fn add_roots(
    roots: &mut RootCertStore,
    name: &str,
    certificates: &[CertificateDer<'static>],
) -> Result<(), PemError> {
    for certificate in certificates {
        roots
            .add(certificate.clone())
            .map_err(|source| PemError::Refused {
                name: name.to_owned(),
                source,
            })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_named() {
        let told = |error: PemError| error.to_string();
        let none = read_certificates(Path::new("/nosuch/ca.pem")).unwrap_err();
        assert!(told(none).starts_with("/nosuch/ca.pem: "));
        let none = read_key(Path::new("/nosuch/key.pem")).unwrap_err();
        assert!(told(none).starts_with("/nosuch/key.pem: "));
        let empty = parse_certificates("ca.pem of x", b"words\n").unwrap_err();
        assert_eq!(told(empty), "ca.pem of x: there is no certificate in it");
        assert_eq!(
            told(parse_key("key.pem", b"").unwrap_err()),
            "key.pem: there is no key in it"
        );
        let broken = b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        assert!(matches!(
            parse_certificates("a", broken),
            Err(PemError::Unreadable { .. })
        ));
        let hollow = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let hollow = parse_certificates("a.crt", hollow).unwrap();
        let refused = add_roots(&mut RootCertStore::empty(), "a.crt", &hollow).unwrap_err();
        assert!(told(refused).starts_with("a.crt: "));
    }
}
