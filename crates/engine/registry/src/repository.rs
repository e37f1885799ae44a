//! One repository at one endpoint: its manifests and blobs, and the requests they take.

use crate::Result;
use crate::auth::{Credentials, answer_challenge, parse_challenges};
use crate::connection::{Connection, full, resolve};
use crate::endpoint::{Endpoint, Purpose, RegistryOptions, is_insecure};
use crate::error::RegistryError;
use bytes::{Buf, Bytes};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LINK, LOCATION, RANGE,
};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use naru_base::Digest;
use naru_oci::{Descriptor, ManifestDocument, Reference, media_type};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Docker's own limit on manifests.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Content deliveries need one or two.
const REDIRECTS_MAX: usize = 5;
/// Tags of one repository; the largest in the field have some thousand.
const TAGS_MAX: usize = 100_000;
/// What is asked for, the richest first.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

pub struct Repository {
    pub(crate) options: RegistryOptions,
    pub(crate) endpoint: Endpoint,
    path: String,
    credentials: Option<Credentials>,
    scopes: Vec<String>,
    home: Arc<Connection>,
    /// Hosts that redirects led to.
    others: Mutex<HashMap<String, Arc<Connection>>>,
    authorization: Mutex<Option<HeaderValue>>,
    /// Held while a token is fetched, so that parallel requests fetch one.
    authorizing: tokio::sync::Mutex<()>,
}

/// A manifest or index as it came; its digest was computed from its bytes.
#[derive(Debug, Clone)]
pub struct FetchedManifest {
    pub bytes: Bytes,
    pub digest: Digest,
    pub media_type: String,
    pub document: ManifestDocument,
}

/// A request that can be sent again, after authentication or a redirect.
pub(crate) struct Call<'a> {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// For messages.
    pub what: &'a str,
}

impl Repository {
    /// Prepares to speak to the repository of `reference`; nothing is sent yet. `mount_from` are repositories of the
    /// same registry that blobs may be taken from.
    pub fn new(
        options: &RegistryOptions,
        endpoint: Endpoint,
        reference: &Reference,
        purpose: Purpose,
        credentials: Option<Credentials>,
        mount_from: &[String],
    ) -> Result<Self> {
        let path = reference.path().to_owned();
        let actions = match purpose {
            Purpose::Pull => "pull",
            Purpose::Push => "pull,push",
        };
        let mut scopes = vec![format!("repository:{path}:{actions}")];
        scopes.extend(mount_from.iter().map(|from| format!("repository:{from}:pull")));
        Ok(Self {
            home: Arc::new(Connection::new(options, &endpoint)?),
            options: options.clone(),
            credentials: credentials.filter(|_| endpoint.takes_credentials),
            endpoint,
            path,
            scopes,
            others: Mutex::default(),
            authorization: Mutex::default(),
            authorizing: tokio::sync::Mutex::default(),
        })
    }

    /// At the root of a registry, for requests that are about no repository.
    pub(crate) fn root(
        options: &RegistryOptions,
        endpoint: Endpoint,
        credentials: Option<Credentials>,
    ) -> Result<Self> {
        Ok(Self {
            home: Arc::new(Connection::new(options, &endpoint)?),
            options: options.clone(),
            credentials,
            endpoint,
            path: String::new(),
            scopes: Vec::new(),
            others: Mutex::default(),
            authorization: Mutex::default(),
            authorizing: tokio::sync::Mutex::default(),
        })
    }

    pub fn host(&self) -> &str {
        &self.endpoint.host
    }

    /// The URL of something in this repository: `manifests/latest`.
    pub(crate) fn uri(&self, rest: &str) -> Result<Uri> {
        let path = if self.path.is_empty() {
            String::new()
        } else {
            format!("{}/", self.path)
        };
        format!("{}/v2/{path}{rest}", self.endpoint.url())
            .parse()
            .map_err(|_| RegistryError::Invalid {
                what: "registry".to_owned(),
                reason: format!("{:?} is no host name", self.endpoint.host),
            })
    }

    fn lock_authorization(&self) -> MutexGuard<'_, Option<HeaderValue>> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches a manifest or index by tag or digest.
    pub async fn manifest(&self, reference: &str, what: &str) -> Result<FetchedManifest> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(MANIFEST_TYPES));
        let call = Call {
            method: Method::GET,
            uri: self.uri(&format!("manifests/{reference}"))?,
            headers,
            body: Bytes::new(),
            what,
        };
        let (response, connection) = self.call(call).await?;
        if response.status() != StatusCode::OK {
            return Err(connection.failure(response, what).await);
        }
        let header = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some(value.split(';').next().unwrap_or_default().trim().to_owned())
        };
        let content_type = header("content-type").filter(|text| is_telling(text));
        let promised: Option<Digest> = reference
            .parse()
            .ok()
            .or_else(|| header("docker-content-digest")?.parse().ok());
        let bytes = connection
            .read_all(response.into_body(), MANIFEST_BYTES_MAX, what)
            .await?;
        let digest = digest_of(&bytes);
        if let Some(promised) = promised
            && promised != digest
        {
            return Err(self.wrong_digest(what, promised, digest));
        }
        let document = ManifestDocument::parse(&bytes, content_type.as_deref()).map_err(|source| {
            RegistryError::Document {
                what: what.to_owned(),
                source,
            }
        })?;
        let media_type = match &document {
            ManifestDocument::Manifest(manifest) => manifest.media_type.clone(),
            ManifestDocument::Index(index) => index.media_type.clone(),
        };
        let of_document = if matches!(document, ManifestDocument::Index(_)) {
            media_type::OCI_INDEX
        } else {
            media_type::OCI_MANIFEST
        };
        let media_type = [Some(media_type), content_type, Some(of_document.to_owned())]
            .into_iter()
            .flatten()
            .find(|text| !text.is_empty());
        Ok(FetchedManifest {
            bytes,
            digest,
            media_type: media_type.unwrap_or_default(),
            document,
        })
    }

    /// Every tag of the repository.
    pub async fn tags(&self, what: &str) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let mut tags = Vec::new();
        let mut next = Some(self.uri("tags/list")?);
        while let Some(uri) = next.take() {
            let call = Call {
                method: Method::GET,
                uri: uri.clone(),
                headers: HeaderMap::new(),
                body: Bytes::new(),
                what,
            };
            let (response, connection) = self.call(call).await?;
            if response.status() != StatusCode::OK {
                return Err(connection.failure(response, what).await);
            }
            let link = response.headers().get(LINK).and_then(|value| value.to_str().ok());
            next = link.and_then(|link| resolve(&uri, link.split_once('<')?.1.split_once('>')?.0));
            let bytes = connection
                .read_all(response.into_body(), MANIFEST_BYTES_MAX, what)
                .await?;
            let page: Page = serde_json::from_slice(&bytes).map_err(|error| RegistryError::Unexpected {
                host: self.host().to_owned(),
                what: what.to_owned(),
                reason: error.to_string(),
            })?;
            let before = tags.len();
            tags.extend(page.tags.unwrap_or_default());
            // A page without anything on it ends what might be a circle.
            if tags.len() == before || tags.len() > TAGS_MAX {
                break;
            }
        }
        Ok(tags)
    }

    /// Fetches the manifest a descriptor of an index points to.
    pub async fn described_manifest(&self, descriptor: &Descriptor, what: &str) -> Result<FetchedManifest> {
        let fetched = self.manifest(descriptor.digest.as_str(), what).await?;
        self.check_size(what, descriptor.size, fetched.bytes.len() as u64)?;
        if !descriptor.media_type.is_empty() {
            ManifestDocument::parse(&fetched.bytes, Some(&descriptor.media_type)).map_err(|source| {
                RegistryError::Document {
                    what: what.to_owned(),
                    source,
                }
            })?;
        }
        Ok(fetched)
    }

    /// Fetches a small blob, compared with its descriptor.
    pub async fn blob(&self, descriptor: &Descriptor, bytes_max: u64, what: &str) -> Result<Vec<u8>> {
        if descriptor.size > bytes_max {
            return Err(RegistryError::Unexpected {
                host: self.host().to_owned(),
                what: what.to_owned(),
                reason: format!("it is longer than {bytes_max} bytes"),
            });
        }
        let mut stream = self.open_blob(descriptor, 0, what).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > descriptor.size {
                break;
            }
        }
        self.check_size(what, descriptor.size, bytes.len() as u64)?;
        let found = digest_of(&bytes);
        if found != descriptor.digest {
            return Err(self.wrong_digest(what, descriptor.digest.clone(), found));
        }
        Ok(bytes)
    }

    /// Opens a blob from `offset` on.
    pub async fn open_blob(&self, descriptor: &Descriptor, offset: u64, what: &str) -> Result<BlobStream> {
        let mut headers = HeaderMap::new();
        if offset > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={offset}-"))
        {
            headers.insert(RANGE, range);
        }
        let call = Call {
            method: Method::GET,
            uri: self.uri(&format!("blobs/{}", descriptor.digest))?,
            headers,
            body: Bytes::new(),
            what,
        };
        let (response, connection) = self.call(call).await?;
        let skip = match response.status() {
            // The range was ignored; what is there already is passed over.
            StatusCode::OK => offset,
            StatusCode::PARTIAL_CONTENT if starts_at(&response, offset) => 0,
            StatusCode::RANGE_NOT_SATISFIABLE if offset > 0 => {
                return Err(RegistryError::Size {
                    host: self.host().to_owned(),
                    what: what.to_owned(),
                    expected: descriptor.size,
                    found: offset,
                });
            }
            _ => return Err(connection.failure(response, what).await),
        };
        let is_whole = response.status() == StatusCode::OK;
        let length = content_length(&response);
        let promised = length.map(|length| if is_whole { length } else { offset + length });
        if let Some(promised) = promised
            && promised != descriptor.size
        {
            return Err(self.size_error(what, descriptor.size, promised));
        }
        Ok(BlobStream {
            body: response.into_body(),
            connection,
            skip,
            what: what.to_owned(),
        })
    }

    pub(crate) fn wrong_digest(&self, what: &str, expected: Digest, found: Digest) -> RegistryError {
        RegistryError::Digest {
            host: self.host().to_owned(),
            what: what.to_owned(),
            expected,
            found,
        }
    }

    fn size_error(&self, what: &str, expected: u64, found: u64) -> RegistryError {
        RegistryError::Size {
            host: self.host().to_owned(),
            what: what.to_owned(),
            expected,
            found,
        }
    }

    fn check_size(&self, what: &str, expected: u64, found: u64) -> Result<()> {
        if expected == found {
            return Ok(());
        }
        Err(self.size_error(what, expected, found))
    }

    /// Sends a request; answers a challenge once, and follows redirects of what only reads.
    pub(crate) async fn call(&self, call: Call<'_>) -> Result<(Response<Incoming>, Arc<Connection>)> {
        let is_reading = matches!(call.method, Method::GET | Method::HEAD);
        let mut uri = call.uri.clone();
        let mut has_answered = false;
        let mut redirects = 0;
        loop {
            let connection = self.connection_to(&uri)?;
            let used = self.lock_authorization().clone();
            let request = self.request(&call, &uri, used.as_ref());
            let response = connection.send(request, call.what).await?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && self.is_home(&uri) && !has_answered {
                has_answered = true;
                let challenges = parse_challenges(response.headers());
                if challenges.is_empty() {
                    return Ok((response, connection));
                }
                self.authorize(&challenges, used, call.what).await?;
                continue;
            }
            if !(is_reading && status.is_redirection()) || status == StatusCode::NOT_MODIFIED {
                return Ok((response, connection));
            }
            redirects += 1;
            uri = self.next_location(&uri, &response, redirects, call.what)?;
        }
    }

    /// Authorization goes to the registry itself only, wherever a redirect leads.
    fn request(
        &self,
        call: &Call<'_>,
        uri: &Uri,
        authorization: Option<&HeaderValue>,
    ) -> Request<crate::connection::Body> {
        let mut request = Request::new(full(call.body.clone()));
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = call.headers.clone();
        if call.body.is_empty() && matches!(call.method, Method::POST | Method::PUT) {
            request
                .headers_mut()
                .insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        if let Some(value) = authorization.filter(|_| self.is_home(uri)) {
            request.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        request
    }

    /// A request with no authorization but what the call itself has.
    pub(crate) fn plain_request(&self, call: &Call<'_>) -> Request<crate::connection::Body> {
        self.request(call, &call.uri, None)
    }

    pub(crate) fn is_home(&self, uri: &Uri) -> bool {
        let scheme = if self.endpoint.is_tls { "https" } else { "http" };
        uri.scheme_str() == Some(scheme)
            && uri
                .authority()
                .is_some_and(|authority| authority.as_str() == self.endpoint.host)
    }

    pub(crate) fn connection_to(&self, uri: &Uri) -> Result<Arc<Connection>> {
        if self.is_home(uri) {
            return Ok(Arc::clone(&self.home));
        }
        let host = uri.authority().map(ToString::to_string).unwrap_or_default();
        let is_tls = uri.scheme_str() == Some("https");
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let key = format!("{is_tls} {host}");
        if let Some(known) = others.get(&key) {
            return Ok(Arc::clone(known));
        }
        let endpoint = Endpoint {
            is_tls,
            is_verified: !is_insecure(&self.options, &host),
            host,
            prefix: String::new(),
            takes_credentials: false,
        };
        let connection = Arc::new(Connection::new(&self.options, &endpoint)?);
        others.insert(key, Arc::clone(&connection));
        Ok(connection)
    }

    fn next_location(
        &self,
        uri: &Uri,
        response: &Response<Incoming>,
        redirects: usize,
        what: &str,
    ) -> Result<Uri> {
        let wrong = |reason: String| RegistryError::Unexpected {
            host: self.host().to_owned(),
            what: what.to_owned(),
            reason,
        };
        if redirects > REDIRECTS_MAX {
            return Err(wrong(format!("more than {REDIRECTS_MAX} redirects")));
        }
        let location = location_of(uri, response).ok_or_else(|| wrong("a redirect to nowhere".to_owned()))?;
        self.check_transport(uri, &location).map_err(wrong)?;
        Ok(location)
    }

    /// What was asked with TLS is never answered without.
    pub(crate) fn check_transport(&self, from: &Uri, to: &Uri) -> Result<(), String> {
        let host = to.authority().map(ToString::to_string).unwrap_or_default();
        let is_kept = match (from.scheme_str(), to.scheme_str()) {
            (_, Some("https")) => true,
            (Some("http"), Some("http")) => self.is_home(to) || is_insecure(&self.options, &host),
            _ => false,
        };
        if is_kept && !host.contains('@') {
            return Ok(());
        }
        Err(format!("it leads to {to}, which is not to be trusted"))
    }

    /// Answers a challenge, unless another request has done so meanwhile.
    async fn authorize(
        &self,
        challenges: &[crate::auth::Challenge],
        used: Option<HeaderValue>,
        what: &str,
    ) -> Result<()> {
        let _turn = self.authorizing.lock().await;
        if *self.lock_authorization() != used {
            return Ok(());
        }
        let credentials = self.credentials.as_ref();
        let answered = answer_challenge(
            &self.options,
            &self.endpoint,
            credentials,
            challenges,
            &self.scopes,
            false,
        );
        let (value, _) = answered.await.map_err(|error| match error {
            RegistryError::Unauthorized { host, reason, .. } => RegistryError::Unauthorized {
                host,
                what: what.to_owned(),
                reason,
            },
            other => other,
        })?;
        *self.lock_authorization() = Some(value);
        Ok(())
    }

    pub(crate) fn authorization(&self) -> Option<HeaderValue> {
        self.lock_authorization().clone()
    }

    /// A token may have run out in a long transfer; the next request asks for another.
    pub(crate) fn forget_authorization(&self) {
        *self.lock_authorization() = None;
    }

    pub(crate) async fn send_body(
        &self,
        mut request: Request<crate::connection::Body>,
        what: &str,
        sent: &AtomicU64,
    ) -> Result<(Response<Incoming>, Arc<Connection>)> {
        let connection = self.connection_to(request.uri())?;
        if let Some(value) = self.authorization().filter(|_| self.is_home(request.uri())) {
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let response = connection.send_watched(request, what, sent).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.forget_authorization();
        }
        Ok((response, connection))
    }
}

/// A blob as it comes.
pub struct BlobStream {
    body: Incoming,
    connection: Arc<Connection>,
    skip: u64,
    what: String,
}

impl BlobStream {
    /// The next piece; `None` where the answer ends, be that early or late.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        while let Some(mut piece) = self.connection.next_piece(&mut self.body, &self.what).await? {
            let skipped = self.skip.min(piece.len() as u64);
            self.skip -= skipped;
            piece.advance(skipped as usize);
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }
}

pub(crate) fn location_of(base: &Uri, response: &Response<Incoming>) -> Option<Uri> {
    resolve(base, response.headers().get(LOCATION)?.to_str().ok()?)
}

/// Whether a content type says what a document is; some servers send these for anything.
fn is_telling(content_type: &str) -> bool {
    !matches!(
        content_type,
        "" | "application/json" | "application/octet-stream" | "text/plain" | "binary/octet-stream"
    )
}

fn starts_at(response: &Response<Incoming>, offset: u64) -> bool {
    let range = response
        .headers()
        .get(CONTENT_RANGE)
        .and_then(|value| value.to_str().ok());
    range
        .and_then(|text| text.trim().strip_prefix("bytes "))
        .and_then(|text| text.split('-').next())
        .is_some_and(|start| start.trim().parse() == Ok(offset))
}

fn content_length(response: &Response<Incoming>) -> Option<u64> {
    response
        .headers()
        .get(CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

pub(crate) fn content_type(media_type: &str) -> Option<(hyper::header::HeaderName, HeaderValue)> {
    Some((CONTENT_TYPE, HeaderValue::from_str(media_type).ok()?))
}

pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}
