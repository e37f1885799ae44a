//! Where a daemon listens, and the socket to it.

use super::tls::{self, TlsSettings, TlsStream};
use crate::error::{CliError, Result};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    Tcp(String),
    Tls(String, Box<TlsSettings>),
    /// `[user@]host[:port]`: at the other end of ssh somebody runs `docker system dial-stdio`.
    Ssh(String),
}

impl Address {
    /// Reads `unix:///path`, `tcp://host:port`, `ssh://[user@]host[:port]`, or a bare path or `host:port`.
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_with(text, None)
    }

    /// The same, with TLS wherever it is reached over TCP.
    pub fn parse_with(text: &str, tls: Option<TlsSettings>) -> Result<Self> {
        let over_tcp = |address: String| match tls.clone() {
            Some(settings) => Self::Tls(address, Box::new(settings)),
            None => Self::Tcp(address),
        };
        match text.split_once("://") {
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(("tcp" | "http", address)) => {
                let address = address.trim_end_matches('/');
                let port = match tls {
                    _ if address.contains(':') => "",
                    Some(_) => ":2376",
                    None => ":2375",
                };
                Ok(over_tcp(format!("{address}{port}")))
            }
            Some(("ssh", place)) => parse_ssh(place),
            Some((scheme, _)) => Err(CliError::message(format!(
                "unable to use host {text:?}: the scheme {scheme:?} is not supported (unix, tcp and ssh are)"
            ))),
            None if text.starts_with('/') => Ok(Self::Unix(text.into())),
            None if text.contains(':') => Ok(over_tcp(text.to_owned())),
            None => Err(CliError::message(format!("unable to parse docker host `{text}`"))),
        }
    }

    pub fn unix_path(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Tcp(_) | Self::Tls(..) | Self::Ssh(_) => None,
        }
    }

    pub fn connect(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(path) => UnixStream::connect(path).map(Stream::Unix),
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Self::Tls(address, settings) => tls::connect(address, settings).map(Stream::Tls),
            Self::Ssh(place) => connect_by_ssh(place).map(Stream::Unix),
        }
    }
}

fn parse_ssh(place: &str) -> Result<Address> {
    let place = place.trim_end_matches('/');
    let host = place.rsplit_once('@').map_or(place, |(_, host)| host);
    // What begins with a dash would be an option of ssh.
    let is_bad =
        host.is_empty() || place.starts_with('-') || host.starts_with('-') || place.contains(['/', ' ']);
    if is_bad {
        return Err(CliError::message(format!(
            "unable to use host \"ssh://{place}\": expected ssh://[user@]host[:port]"
        )));
    }
    Ok(Address::Ssh(place.to_owned()))
}

/// A socket whose other end is the standard input and output of ssh. It ends when the socket does.
fn connect_by_ssh(place: &str) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = std::process::Command::new("ssh");
    let (place, port) = match place.rsplit_once(':') {
        Some((place, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (place, Some(port)),
        _ => (place, None),
    };
    if let Some(port) = port {
        command.args(["-p", port]);
    }
    command.args(["-T", "--", place, "docker", "system", "dial-stdio"]);
    command.stdin(std::os::fd::OwnedFd::from(theirs.try_clone()?));
    command.stdout(std::os::fd::OwnedFd::from(theirs));
    // In a group of its own: a Ctrl-C is the command's to handle, not the tunnel's.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn()?;
    Ok(ours)
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) | Self::Tls(address, _) => write!(f, "tcp://{address}"),
            Self::Ssh(place) => write!(f, "ssh://{place}"),
        }
    }
}

#[derive(Debug)]
pub enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(TlsStream),
}

impl Stream {
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
            Self::Tls(stream) => stream.try_clone().map(Self::Tls),
        }
    }

    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_nonblocking(on),
            Self::Tcp(stream) => stream.set_nonblocking(on),
            Self::Tls(stream) => stream.socket.set_nonblocking(on),
        }
    }

    /// Tells the peer that no more input comes.
    pub fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.shutdown(std::net::Shutdown::Write),
            Self::Tcp(stream) => stream.shutdown(std::net::Shutdown::Write),
            Self::Tls(stream) => stream.socket.shutdown(std::net::Shutdown::Write),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
            Self::Tls(stream) => stream.socket.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
            Self::Tls(stream) => {
                let outcome = stream.socket.read(buffer);
                stream.explain(outcome)
            }
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(buffer),
            Self::Tcp(stream) => stream.write(buffer),
            Self::Tls(stream) => {
                let outcome = stream.socket.write(buffer);
                stream.explain(outcome)
            }
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_docker_reads_them() {
        assert_eq!(
            Address::parse("unix:///a/b.sock").unwrap(),
            Address::Unix("/a/b.sock".into())
        );
        assert_eq!(Address::parse("tcp://h:1").unwrap(), Address::Tcp("h:1".into()));
        assert_eq!(Address::parse("tcp://h").unwrap(), Address::Tcp("h:2375".into()));
        let tls = || TlsSettings::default();
        assert_eq!(
            Address::parse_with("tcp://h", Some(tls())).unwrap(),
            Address::Tls("h:2376".into(), Box::new(tls()))
        );
        assert_eq!(
            Address::parse("ssh://u@h:22").unwrap(),
            Address::Ssh("u@h:22".into())
        );
        for bad in [
            "ssh://",
            "ssh://-oProxyCommand=x",
            "ssh://u@-x",
            "ssh://h/path",
            "fd://",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
        assert!(Address::parse("nonsense").is_err());
    }
}
