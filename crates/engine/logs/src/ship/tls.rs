//! TLS to a receiver: one session over a socket that never blocks. It reads the files of its plan when it is made.

use super::plan::TlsPlan;
use naru_tls::{AnyCertificate, NamedOrChained, PemError};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What makes sessions: the plan's files as they were at the start.
#[derive(Clone)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({:?})", self.name)
    }
}

fn wrong(what: &str) -> impl Fn(PemError) -> io::Error {
    move |error| io::Error::other(format!("could not read {what} {error}"))
}

impl Tls {
    pub fn of(plan: &TlsPlan) -> io::Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let verifier: Arc<dyn ServerCertVerifier> = if plan.skips_verification {
            Arc::new(AnyCertificate::new(provider))
        } else {
            trusted(plan, provider)?
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let config = match (&plan.certificate, &plan.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(certificate), Some(key)) => {
                let chain = naru_tls::read_certificates(certificate).map_err(wrong("the certificate"))?;
                let secret = naru_tls::read_key(key).map_err(wrong("the key"))?;
                let refused = |source| {
                    let name = certificate.display().to_string();
                    wrong("the certificate")(PemError::Refused { name, source })
                };
                builder.with_client_auth_cert(chain, secret).map_err(refused)?
            }
            _ => {
                let message = "syslog-tls-cert and syslog-tls-key belong together: give both or neither";
                return Err(io::Error::other(message));
            }
        };
        let name = ServerName::try_from(plan.server_name.clone()).map_err(io::Error::other)?;
        Ok(Self {
            config: Arc::new(config),
            name,
        })
    }

    pub fn begin(&self) -> io::Result<Session> {
        let session = ClientConnection::new(Arc::clone(&self.config), self.name.clone());
        session
            .map(|session| Session(Box::new(session)))
            .map_err(io::Error::other)
    }
}

/// The host's authorities, and the one that was named.
fn trusted(plan: &TlsPlan, provider: Arc<CryptoProvider>) -> io::Result<Arc<dyn ServerCertVerifier>> {
    let mut roots = naru_tls::system_roots();
    let mut named = Vec::new();
    if let Some(path) = &plan.authority {
        named = naru_tls::read_certificates(path).map_err(wrong("the CA certificate"))?;
        naru_tls::add_roots(&mut roots, &path.display().to_string(), &named)
            .map_err(wrong("the CA certificate"))?;
    }
    let verifier = NamedOrChained::new(roots, named, provider).map_err(io::Error::other)?;
    Ok(Arc::new(verifier))
}

/// One connection's state.
#[derive(Debug)]
pub(super) struct Session(Box<ClientConnection>);

impl Session {
    pub fn is_shaking_hands(&self) -> bool {
        self.0.is_handshaking()
    }

    /// Something encrypted is still to go out.
    pub fn has_output(&self) -> bool {
        self.0.wants_write()
    }

    /// Takes of a message what fits.
    pub fn add(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.writer().write(bytes)
    }

    /// Exchanges what can be without waiting. An error ends the connection.
    pub fn exchange(&mut self, socket: &OwnedFd) -> io::Result<()> {
        let mut socket = Socket(socket);
        loop {
            match self.0.read_tls(&mut socket) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {
                    let state = self.0.process_new_packets();
                    // The other side is told why.
                    let told = self.0.write_tls(&mut socket);
                    state.map_err(io::Error::other)?;
                    ignore_blocking(told)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        while self.0.wants_write() {
            if ignore_blocking(self.0.write_tls(&mut socket))? == 0 {
                break;
            }
        }
        Ok(())
    }
}

/// Nothing, where it would have to wait.
fn ignore_blocking(done: io::Result<usize>) -> io::Result<usize> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        done => done,
    }
}

struct Socket<'a>(&'a OwnedFd);

impl Read for Socket<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let received = rustix::net::recv(self.0, bytes, RecvFlags::DONTWAIT);
        Ok(received.map(|(count, _)| count)?)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = rustix::net::send(self.0, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        sent.map_err(|errno: Errno| errno.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
