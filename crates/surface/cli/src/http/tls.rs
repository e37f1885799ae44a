//! TLS to a daemon elsewhere.
//!
//! ```text
//!  command ── socket pair ── thread that encrypts ── TCP ── daemon
//! ```
//! The rest of the client uses its end of the pair like any other socket; why the thread's end closed is asked of
//! [`TlsStream`]. It trusts the CA it is given and no other, as Docker's client does, and the system's without one.

use naru_tls::{AnyCertificate, PemError};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as Encrypted;

/// A file's name, for errors, and what is in it.
pub type Pem = (String, Vec<u8>);

/// Whom to trust, and what to show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// `None` trusts whom the system trusts.
    pub ca: Option<Pem>,
    /// A certificate and its key.
    pub identity: Option<(Pem, Pem)>,
    pub is_verified: bool,
}

/// The command's end of the pair.
#[derive(Debug)]
pub struct TlsStream {
    pub socket: UnixStream,
    failure: Arc<OnceLock<String>>,
}

impl TlsStream {
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
            failure: Arc::clone(&self.failure),
        })
    }

    /// What came of reading or writing; where the other end is gone, why.
    pub fn explain(&self, outcome: io::Result<usize>) -> io::Result<usize> {
        match (&outcome, self.failure.get()) {
            (Ok(0) | Err(_), Some(reason)) => Err(io::Error::other(reason.clone())),
            _ => outcome,
        }
    }
}

/// Connects to `HOST:PORT` and shakes hands. A daemon that does not like the client's certificate says so later, with
/// the first bytes read.
pub fn connect(address: &str, settings: &TlsSettings) -> io::Result<TlsStream> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::new(client_config(settings)?));
    let (ours, theirs) = UnixStream::pair()?;
    theirs.set_nonblocking(true)?;
    let failure = Arc::new(OnceLock::new());
    let (tell, told) = sync_channel(1);
    let thread = Pump {
        address: address.to_owned(),
        name,
        connector,
        failure: Arc::clone(&failure),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::spawn(move || runtime.block_on(thread.run(theirs, tell)));
    // A thread that is gone without a word has panicked.
    told.recv().map_err(io::Error::other)??;
    Ok(TlsStream {
        socket: ours,
        failure,
    })
}

/// What the thread does.
struct Pump {
    address: String,
    name: ServerName<'static>,
    connector: TlsConnector,
    failure: Arc<OnceLock<String>>,
}

impl Pump {
    async fn run(self, plain: UnixStream, tell: SyncSender<io::Result<()>>) {
        let opened = async { Ok((tokio::net::UnixStream::from_std(plain)?, self.open().await?)) };
        let (mut plain, mut encrypted) = match opened.await {
            Ok(streams) => streams,
            Err(error) => {
                let _ = tell.send(Err(error));
                return;
            }
        };
        let _ = tell.send(Ok(()));
        if let Err(error) = tokio::io::copy_bidirectional(&mut plain, &mut encrypted).await {
            // Told before the pair is closed, for then it is asked for.
            let _ = self.failure.set(explained(error).to_string());
        }
    }

    async fn open(&self) -> io::Result<Encrypted<tokio::net::TcpStream>> {
        let stream = tokio::net::TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        self.connector
            .connect(self.name.clone(), stream)
            .await
            .map_err(explained)
    }
}

/// In the words of who has to do something about it.
fn explained(error: io::Error) -> io::Error {
    let Some(inner) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    else {
        return error;
    };
    let words = match inner {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "tls: the daemon's certificate is signed by an unknown authority: name its CA with --tlscacert"
        }
        rustls::Error::InvalidMessage(_) => "tls: the daemon does not speak TLS at this port",
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "tls: the daemon wants to see a certificate: give --tlscert and --tlskey"
        }
        rustls::Error::AlertReceived(AlertDescription::UnknownCA) => {
            "tls: the daemon does not know the CA of the client's certificate (--tlscert)"
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateExpired) => {
            "tls: the client's certificate (--tlscert) is expired"
        }
        rustls::Error::AlertReceived(alert) => {
            return io::Error::other(format!("tls: the daemon turned the connection away: {alert:?}"));
        }
        other => return io::Error::other(format!("tls: {other}")),
    };
    io::Error::other(words)
}

fn client_config(settings: &TlsSettings) -> io::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = if settings.is_verified {
        let roots = Arc::new(trusted_roots(settings.ca.as_ref())?);
        WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(io::Error::other)?
    } else {
        Arc::new(AnyCertificate::new(Arc::clone(&provider)))
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some((certificate, key)) = &settings.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let private = naru_tls::parse_key(&key.0, &key.1).map_err(unusable)?;
    let chain = naru_tls::parse_certificates(&certificate.0, &certificate.1).map_err(unusable)?;
    builder.with_client_auth_cert(chain, private).map_err(|source| {
        let name = certificate.0.clone();
        unusable(PemError::Refused { name, source })
    })
}

fn trusted_roots(ca: Option<&Pem>) -> io::Result<RootCertStore> {
    let Some((name, text)) = ca else {
        return Ok(naru_tls::system_roots());
    };
    let mut roots = RootCertStore::empty();
    let certificates = naru_tls::parse_certificates(name, text).map_err(unusable)?;
    naru_tls::add_roots(&mut roots, name, &certificates).map_err(unusable)?;
    Ok(roots)
}

fn unusable(error: PemError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
