//! Where the daemon listens, and the certificates without which it does not listen on TCP.

use naru_docker_api::{Tls, TlsFiles};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Docker's port for TLS.
const PORT: u16 = 2376;

const WITHOUT_CERTIFICATES: &str =
    "whoever reaches the port would be root here, and such ports are found within hours";

#[derive(Debug, Default, clap::Args)]
pub struct ListenArguments {
    /// Where to listen: unix://PATH, or tcp://HOST:PORT with --tlsverify; may be given more than once [default:
    /// unix://<exec-root>/naru.sock]
    #[arg(short = 'H', long = "host")]
    hosts: Vec<String>,
    /// Use TLS on TCP; --tlsverify means it too, and is needed
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    tls: Option<bool>,
    /// Serve those alone on TCP who show a certificate of the CA
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    tlsverify: Option<bool>,
    /// The CA of those who may speak to the daemon over TCP [default: ~/.docker/ca.pem]
    #[arg(long)]
    tlscacert: Option<PathBuf>,
    /// The daemon's certificate [default: ~/.docker/cert.pem]
    #[arg(long)]
    tlscert: Option<PathBuf>,
    /// The key of the daemon's certificate [default: ~/.docker/key.pem]
    #[arg(long)]
    tlskey: Option<PathBuf>,
}

/// The same in the configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ListenConfig {
    hosts: Vec<String>,
    tls: Option<bool>,
    tlsverify: Option<bool>,
    tlscacert: Option<PathBuf>,
    tlscert: Option<PathBuf>,
    tlskey: Option<PathBuf>,
}

/// Where to listen.
#[derive(Debug)]
pub struct Listening {
    pub sockets: Vec<PathBuf>,
    pub tcp: Option<TcpListening>,
}

/// TCP, for those who show a certificate.
#[derive(Debug)]
pub struct TcpListening {
    /// `HOST:PORT`.
    pub addresses: Vec<String>,
    pub tls: Tls,
}

impl TcpListening {
    pub fn each(&self) -> impl Iterator<Item = (&str, &Tls)> {
        self.addresses.iter().map(|address| (address.as_str(), &self.tls))
    }
}

/// One `-H`.
#[derive(Debug, PartialEq, Eq)]
enum Host {
    Unix(PathBuf),
    Tcp(String),
}

/// Takes its keys out of the file, whose other keys are somebody else's.
pub fn take(all: &mut serde_json::Map<String, serde_json::Value>) -> serde_json::Result<ListenConfig> {
    let own = ["hosts", "tls", "tlsverify", "tlscacert", "tlscert", "tlskey"];
    crate::options::take_keys(all, &own)
}

/// The command line over the file, checked; certificates are read where they are needed.
pub fn resolve(
    arguments: ListenArguments,
    file: ListenConfig,
    exec_root: &Path,
) -> Result<Listening, String> {
    let is_verified = arguments.tlsverify.or(file.tlsverify).unwrap_or(false);
    if arguments.tls.or(file.tls).unwrap_or(false) && !is_verified {
        return Err(format!(
            "--tls without --tlsverify is refused: {WITHOUT_CERTIFICATES}, encrypted or not"
        ));
    }
    let mut hosts = if arguments.hosts.is_empty() {
        file.hosts
    } else {
        arguments.hosts
    };
    if hosts.is_empty() {
        hosts.push(format!("unix://{}", exec_root.join("naru.sock").display()));
    }
    let (mut sockets, mut addresses) = (Vec::new(), Vec::new());
    for host in &hosts {
        match parse_host(host)? {
            Host::Unix(path) => sockets.push(path),
            Host::Tcp(_) if !is_verified => {
                return Err(format!(
                    "{host} is refused without mutual TLS: {WITHOUT_CERTIFICATES}; give --tlsverify, --tlscacert, \
                     --tlscert and --tlskey, or use unix://PATH, over ssh from elsewhere"
                ));
            }
            Host::Tcp(address) => addresses.push(address),
        }
    }
    if addresses.is_empty() {
        return Ok(Listening { sockets, tcp: None });
    }
    let files = TlsFiles {
        ca: file_or_default(arguments.tlscacert.or(file.tlscacert), "ca.pem"),
        certificate: file_or_default(arguments.tlscert.or(file.tlscert), "cert.pem"),
        key: file_or_default(arguments.tlskey.or(file.tlskey), "key.pem"),
    };
    let tls = Tls::load(&files).map_err(|error| error.to_string())?;
    Ok(Listening {
        sockets,
        tcp: Some(TcpListening { addresses, tls }),
    })
}

/// Dockerd's places: `$DOCKER_CERT_PATH`, or Docker's folder in the home directory.
fn file_or_default(named: Option<PathBuf>, name: &str) -> PathBuf {
    let folder = || match std::env::var_os("DOCKER_CERT_PATH").filter(|path| !path.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(&std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".docker"),
    };
    named.unwrap_or_else(|| folder().join(name))
}

fn parse_host(host: &str) -> Result<Host, String> {
    match host.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') => Ok(Host::Unix(path.into())),
        Some(("unix", _)) => Err(format!(
            "invalid host {host:?}: the socket's path must be absolute"
        )),
        Some(("tcp", address)) => parse_address(address)
            .map(Host::Tcp)
            .ok_or_else(|| format!("invalid host {host:?}: expected tcp://HOST:PORT")),
        _ => Err(format!(
            "invalid host {host:?}: use unix://PATH or tcp://HOST:PORT"
        )),
    }
}

/// As dockerd reads them: without a host it is this machine's own, without a port the one for TLS.
fn parse_address(text: &str) -> Option<String> {
    let text = text.trim_end_matches('/');
    let is_bare_ipv6 = text.ends_with(']');
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !is_bare_ipv6 => (host, port.parse().ok()?),
        _ => (text, PORT),
    };
    let is_good = !host.contains(['/', '@', ' ']) && (host.starts_with('[') || !host.contains(':'));
    let host = if host.is_empty() { "localhost" } else { host };
    is_good.then(|| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(words: &[&str]) -> Result<Listening, String> {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            listen: ListenArguments,
        }
        let line = <Line as clap::Parser>::parse_from(std::iter::once("daemon").chain(words.iter().copied()));
        resolve(line.listen, ListenConfig::default(), Path::new("/run/x"))
    }

    #[test]
    fn tcp_without_certificates_is_refused_with_its_reason() {
        for words in [
            &["-H", "tcp://127.0.0.1:2375"] as &[_],
            &["-H", "tcp://0.0.0.0:2376", "--tls"],
            &["--tls"],
            &["-H", "tcp://h:1", "--tlsverify=false"],
        ] {
            assert!(
                resolved(words).unwrap_err().contains("found within hours"),
                "{words:?}"
            );
        }
        let missing = ["-H", "tcp://h:1", "--tlsverify", "--tlscacert", "/nosuch/ca.pem"];
        let message = resolved(&missing).unwrap_err();
        assert!(
            message.contains("/nosuch/ca.pem") && message.contains("--tlscacert"),
            "{message}"
        );
        assert_eq!(
            resolved(&[]).unwrap().sockets,
            [PathBuf::from("/run/x/naru.sock")]
        );
    }

    #[test]
    fn hosts_are_read_as_dockerd_reads_them() {
        for (text, address) in [
            ("tcp://h:1", "h:1"),
            ("tcp://h", "h:2376"),
            ("tcp://:2376", "localhost:2376"),
            ("tcp://[::1]:5/", "[::1]:5"),
            ("tcp://[::1]", "[::1]:2376"),
        ] {
            assert_eq!(parse_host(text), Ok(Host::Tcp(address.to_owned())), "{text}");
        }
        for wrong in [
            "tcp://h:x",
            "tcp://::1",
            "tcp://u@h:1",
            "tcp://h/p:1",
            "fd://",
            "h:1",
            "unix://x",
            "tcp://h:70000",
        ] {
            assert!(parse_host(wrong).is_err(), "{wrong}");
        }
    }
}
