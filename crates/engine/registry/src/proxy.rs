//! The way to a host: straight, or through a proxy of the network.
//!
//! ```text
//! https  CONNECT host:port at the proxy, then TLS with the host: the proxy sees neither requests nor credentials
//! http   the request itself, with the whole URL, to the proxy
//! ```

use crate::endpoint::{Endpoint, RegistryOptions, is_loopback};
use crate::error::RegistryError;
use hyper::Uri;
use hyper::header::HeaderValue;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tower_service::Service;

type BoxError = Box<dyn Error + Send + Sync>;

/// Proxies as a daemon was told of them, or found in its environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http://`: `http://[user:password@]host:port`. Empty for none.
    pub http: String,
    /// For `https://`.
    pub https: String,
    /// Hosts that are spoken to straight: names, domains, addresses, CIDR, `*`; separated by commas.
    pub exceptions: String,
}

impl Proxies {
    /// Refuses what is no proxy before anything is sent anywhere. The message never shows a password.
    pub fn check(&self) -> Result<(), RegistryError> {
        for (name, text) in [("http-proxy", &self.http), ("https-proxy", &self.https)] {
            if text.is_empty() {
                continue;
            }
            let authority = match text.split_once("://") {
                Some(("http", rest)) => rest,
                Some(_) => {
                    return Err(RegistryError::Invalid {
                        what: name.to_owned(),
                        reason: "a proxy is spoken to by http://".to_owned(),
                    });
                }
                None => text,
            };
            let host = authority.rsplit('@').next().unwrap_or_default();
            let parsed: Result<Uri, _> = format!("http://{host}").parse();
            if host.is_empty() || parsed.is_err() {
                return Err(RegistryError::Invalid {
                    what: name.to_owned(),
                    reason: format!("{host:?} is no host"),
                });
            }
        }
        Ok(())
    }

    /// As they may be shown.
    #[must_use]
    pub fn without_passwords(&self) -> Self {
        Self {
            http: shown(&self.http),
            https: shown(&self.https),
            exceptions: self.exceptions.clone(),
        }
    }
}

fn shown(text: &str) -> String {
    let Some((before, host)) = text.rsplit_once('@') else {
        return text.to_owned();
    };
    match before.split_once("://") {
        Some((scheme, _)) => format!("{scheme}://xxxxx:xxxxx@{host}"),
        None => format!("xxxxx:xxxxx@{host}"),
    }
}

/// What makes connections, and what each request to a forwarding proxy must carry.
pub(crate) fn plan_way(
    options: &RegistryOptions,
    endpoint: &Endpoint,
    connector: HttpConnector,
) -> (Way, Option<HeaderValue>) {
    let proxies = &options.proxies;
    if proxies == &Proxies::default() || is_loopback(&endpoint.host) {
        return (Way::Straight(connector), None);
    }
    let matcher = Matcher::builder()
        .http(proxies.http.clone())
        .https(proxies.https.clone())
        .no(proxies.exceptions.clone())
        .build();
    let target: Result<Uri, _> = endpoint.url().parse();
    let Some(proxy) = target.ok().and_then(|target| matcher.intercept(&target)) else {
        return (Way::Straight(connector), None);
    };
    let authorization = proxy.basic_auth().cloned();
    if !endpoint.is_tls {
        return (Way::Forwarded(connector, proxy.uri().clone()), authorization);
    }
    let tunnel = Tunnel::new(proxy.uri().clone(), connector);
    let tunnel = match authorization {
        Some(value) => tunnel.with_auth(value),
        None => tunnel,
    };
    (Way::Tunnelled(tunnel, proxy.uri().clone()), None)
}

#[derive(Debug, Clone)]
pub(crate) enum Way {
    Straight(HttpConnector),
    Tunnelled(Tunnel<HttpConnector>, Uri),
    Forwarded(HttpConnector, Uri),
}

impl Service<Uri> for Way {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        match self {
            Self::Straight(connector) => {
                let connecting = connector.call(target);
                Box::pin(async move { Ok(Stream::new(connecting.await?, false)) })
            }
            Self::Tunnelled(tunnel, proxy) => {
                let (connecting, proxy) = (tunnel.call(target), proxy.clone());
                Box::pin(async move {
                    let stream = connecting.await.map_err(|error| named(&proxy, &error))?;
                    Ok(Stream::new(stream, false))
                })
            }
            Self::Forwarded(connector, proxy) => {
                let (connecting, proxy) = (connector.call(proxy.clone()), proxy.clone());
                Box::pin(async move {
                    let stream = connecting.await.map_err(|error| named(&proxy, &error))?;
                    Ok(Stream::new(stream, true))
                })
            }
        }
    }
}

/// Whose failure it was: not the registry's.
fn named(proxy: &Uri, error: &(dyn Error + 'static)) -> BoxError {
    let mut reason = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        reason = cause.to_string();
        next = cause.source();
    }
    let host = proxy.authority().map(|authority| {
        let text = authority.as_str();
        text.rsplit('@').next().unwrap_or(text).to_owned()
    });
    io::Error::other(format!("proxy {}: {reason}", host.unwrap_or_default())).into()
}

/// A connection that knows whether what is written goes to a proxy.
#[derive(Debug)]
pub(crate) struct Stream {
    inner: TokioIo<TcpStream>,
    is_forwarded: bool,
}

impl Stream {
    fn new(inner: TokioIo<TcpStream>, is_forwarded: bool) -> Self {
        Self { inner, is_forwarded }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.inner.connected().proxy(self.is_forwarded)
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(host: &str, is_tls: bool) -> &'static str {
        let options = RegistryOptions {
            proxies: Proxies {
                http: "http://user:secret@proxy:3128".to_owned(),
                https: "proxy:3129".to_owned(),
                exceptions: "inside.example,10.0.0.0/8".to_owned(),
            },
            ..RegistryOptions::default()
        };
        let endpoint = Endpoint {
            is_tls,
            is_verified: true,
            host: host.to_owned(),
            prefix: String::new(),
            takes_credentials: true,
        };
        match plan_way(&options, &endpoint, HttpConnector::new()) {
            (Way::Straight(_), None) => "straight",
            (Way::Tunnelled(_, proxy), None) if proxy.port_u16() == Some(3129) => "tunnelled",
            (Way::Forwarded(_, proxy), Some(_)) if proxy.port_u16() == Some(3128) => "forwarded",
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn exceptions_and_this_machine_are_spoken_to_straight() {
        assert_eq!(way("registry.example:5000", true), "tunnelled");
        assert_eq!(way("registry.example:5000", false), "forwarded");
        for host in [
            "localhost:5000",
            "127.0.0.1:5000",
            "[::1]:5000",
            "inside.example",
            "a.inside.example:1",
            "10.1.2.3:5000",
        ] {
            assert_eq!(way(host, false), "straight", "{host}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_refused_and_passwords_are_never_shown() {
        let check = |http: &str| {
            let proxies = Proxies {
                http: http.to_owned(),
                ..Proxies::default()
            };
            proxies.check().map_err(|error| error.to_string())
        };
        for good in ["", "proxy:3128", "http://proxy", "http://u:p@proxy:1/"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "https://u:secret@proxy",
            "socks5://x",
            "http://",
            "http://u:secret@a b",
        ] {
            let error = check(bad).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
        assert_eq!(shown("http://u:p@proxy:1"), "http://xxxxx:xxxxx@proxy:1");
        assert_eq!(shown("proxy:1"), "proxy:1");
    }
}
