//! A file from a web server, for an import or a build: no registry, no credentials.

use crate::Result;
use crate::connection::{Connection, full};
use crate::endpoint::{Endpoint, RegistryOptions, is_insecure};
use crate::error::RegistryError;
use crate::repository::location_of;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{ETAG, HOST, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use hyper::{HeaderMap, Request, StatusCode, Uri};

/// How often a server may send us elsewhere; as many as Go's client follows.
const REDIRECTS_MAX: usize = 10;
const WHAT: &str = "the download";

/// A file as it comes.
pub struct Download {
    body: Incoming,
    connection: Connection,
    /// By what its server will tell that it is still the same.
    pub validators: Validators,
}

/// What a server says of a file's version, in its own words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validators {
    pub etag: Option<String>,
    pub last_modified: Option<String>,
}

impl Validators {
    pub fn is_empty(&self) -> bool {
        self.etag.is_none() && self.last_modified.is_none()
    }

    fn of(headers: &HeaderMap) -> Self {
        let text = |name| Some(headers.get(name)?.to_str().ok()?.to_owned());
        Self {
            etag: text(ETAG),
            last_modified: text(LAST_MODIFIED),
        }
    }
}

/// Asks for a file. Without a scheme it is http, as Docker has it; what was asked with TLS is never fetched without.
pub async fn download(options: &RegistryOptions, url: &str) -> Result<Download> {
    let fetched = download_unless_same(options, url, &Validators::default()).await?;
    fetched.ok_or_else(|| wrong(url, "it is said to be the same as before, and there is no before"))
}

/// As [`download`]; `None` where the server says that it is still the file these are of.
pub async fn download_unless_same(
    options: &RegistryOptions,
    url: &str,
    known: &Validators,
) -> Result<Option<Download>> {
    let mut uri = parse_url(url)?;
    for _ in 0..=REDIRECTS_MAX {
        let host = uri.authority().map(ToString::to_string).unwrap_or_default();
        let is_tls = uri.scheme_str() == Some("https");
        let endpoint = Endpoint {
            is_tls,
            is_verified: !is_insecure(options, &host),
            host: host.clone(),
            prefix: String::new(),
            takes_credentials: false,
        };
        let connection = Connection::new(options, &endpoint)?;
        let mut request = Request::get(&uri).header(HOST, &host);
        let conditions = [
            (IF_NONE_MATCH, &known.etag),
            (IF_MODIFIED_SINCE, &known.last_modified),
        ];
        for (name, value) in conditions {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        let request = request.body(full(Bytes::new()));
        let request = request.map_err(|error| wrong(url, &error.to_string()))?;
        let response = connection.send(request, WHAT).await?;
        if response.status() == StatusCode::NOT_MODIFIED && !known.is_empty() {
            return Ok(None);
        }
        if response.status().is_redirection() {
            let next = location_of(&uri, &response).ok_or_else(|| wrong(url, "it leads nowhere"))?;
            if is_tls && next.scheme_str() != Some("https") {
                return Err(wrong(url, "it leads to a place without TLS"));
            }
            uri = next;
            continue;
        }
        if !response.status().is_success() {
            return Err(connection.failure(response, WHAT).await);
        }
        let validators = Validators::of(response.headers());
        return Ok(Some(Download {
            body: response.into_body(),
            connection,
            validators,
        }));
    }
    Err(wrong(url, "it leads from place to place without an end"))
}

fn wrong(url: &str, reason: &str) -> RegistryError {
    RegistryError::Invalid {
        what: "URL".to_owned(),
        reason: format!("{url:?}: {reason}"),
    }
}

fn parse_url(url: &str) -> Result<Uri> {
    let text = if url.contains("://") {
        url.to_owned()
    } else {
        format!("http://{url}")
    };
    let uri: Uri = text.parse().map_err(|_| wrong(url, "it cannot be read"))?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(host)) if !host.as_str().contains('@') => Ok(uri),
        _ => Err(wrong(url, "it is not http:// or https:// and a host")),
    }
}

impl Download {
    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        self.connection.next_piece(&mut self.body, WHAT).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_host_and_nothing_secret() {
        assert_eq!(parse_url("host/a.tar").unwrap(), "http://host/a.tar");
        assert_eq!(parse_url("https://host:1/a").unwrap(), "https://host:1/a");
        for text in [
            "",
            "file:///etc/passwd",
            "http://",
            "http://me:secret@host/",
            "ftp://host/",
            "http://a b/",
        ] {
            assert!(parse_url(text).is_err(), "{text}");
        }
    }
}
