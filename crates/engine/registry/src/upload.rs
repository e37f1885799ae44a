//! Sending: blobs in pieces that can be resumed, or taken from another repository of the registry, and manifests.

use crate::Result;
use crate::connection::Body;
use crate::error::RegistryError;
use crate::outgoing::Outgoing;
use crate::repository::{Call, Repository, content_type, digest_of, location_of};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use naru_base::Digest;

/// A blob on its way to the registry.
#[derive(Debug)]
pub struct Upload {
    location: Uri,
    /// Bytes the registry has.
    pub offset: u64,
}

#[derive(Debug)]
pub enum UploadStart {
    /// The registry took the blob from another repository of its own.
    Mounted,
    Started(Upload),
}

impl Repository {
    fn call_of<'a>(&self, method: Method, rest: &str, what: &'a str) -> Result<Call<'a>> {
        Ok(Call {
            method,
            uri: self.uri(rest)?,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            what,
        })
    }

    /// Whether the repository has this blob.
    pub async fn has_blob(&self, digest: &Digest, what: &str) -> Result<bool> {
        let call = self.call_of(Method::HEAD, &format!("blobs/{digest}"), what)?;
        let (response, connection) = self.call(call).await?;
        match response.status() {
            status if status.is_success() => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(connection.failure(response, what).await),
        }
    }

    /// Begins an upload; with `from`, asks to take the blob from that repository first.
    pub async fn start_upload(&self, digest: &Digest, from: Option<&str>, what: &str) -> Result<UploadStart> {
        let query = match from {
            Some(from) => {
                let pairs = [("mount", digest.as_str()), ("from", from)];
                format!("?{}", crate::auth::encode_form(&pairs))
            }
            None => String::new(),
        };
        let call = self.call_of(Method::POST, &format!("blobs/uploads/{query}"), what)?;
        let uri = call.uri.clone();
        let (response, connection) = self.call(call).await?;
        match response.status() {
            StatusCode::CREATED if from.is_some() => Ok(UploadStart::Mounted),
            StatusCode::ACCEPTED => Ok(UploadStart::Started(Upload {
                location: self.upload_location(&uri, &response, what)?,
                offset: 0,
            })),
            _ => Err(connection.failure(response, what).await),
        }
    }

    fn upload_location(&self, base: &Uri, response: &Response<Incoming>, what: &str) -> Result<Uri> {
        let wrong = |reason: String| RegistryError::Unexpected {
            host: self.host().to_owned(),
            what: what.to_owned(),
            reason,
        };
        let location =
            location_of(base, response).ok_or_else(|| wrong("no location to upload to".to_owned()))?;
        self.check_transport(base, &location).map_err(wrong)?;
        Ok(location)
    }

    /// Sends `body`, the blob's bytes from `upload.offset` on, as one piece.
    pub async fn send_piece(
        &self,
        upload: &mut Upload,
        body: Body,
        bytes: u64,
        outgoing: &Outgoing,
        what: &str,
    ) -> Result<()> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::PATCH;
        *request.uri_mut() = upload.location.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
        let range = format!("{}-{}", upload.offset, (upload.offset + bytes).saturating_sub(1));
        if let Ok(range) = HeaderValue::from_str(&range) {
            headers.insert(CONTENT_RANGE, range);
        }
        let (response, connection) = self.send_body(request, what, &outgoing.sent).await?;
        if !response.status().is_success() {
            return Err(connection.failure(response, what).await);
        }
        upload.location = self.upload_location(&upload.location, &response, what)?;
        upload.offset += bytes;
        Ok(())
    }

    /// Asks how much of a broken upload the registry has.
    pub async fn resume_upload(&self, upload: &mut Upload, what: &str) -> Result<()> {
        let mut call = self.call_of(Method::GET, "", what)?;
        call.uri = upload.location.clone();
        let (response, connection) = self.call(call).await?;
        if response.status() != StatusCode::NO_CONTENT {
            return Err(connection.failure(response, what).await);
        }
        let range = response
            .headers()
            .get(RANGE)
            .and_then(|value| value.to_str().ok());
        let end = range.and_then(|text| text.rsplit('-').next()?.parse::<u64>().ok());
        // `0-0` is also what an upload without any byte says; one byte more or less is found out by the digest.
        upload.offset = end.filter(|end| *end > 0).map_or(0, |end| end + 1);
        upload.location = self.upload_location(&upload.location, &response, what)?;
        Ok(())
    }

    /// Ends an upload; the registry compares the digest.
    pub async fn finish_upload(&self, upload: Upload, digest: &Digest, what: &str) -> Result<()> {
        let text = upload.location.to_string();
        let separator = if text.contains('?') { '&' } else { '?' };
        let digest_query = crate::auth::encode_form(&[("digest", digest.as_str())]);
        let mut call = self.call_of(Method::PUT, "", what)?;
        call.uri =
            format!("{text}{separator}{digest_query}")
                .parse()
                .map_err(|_| RegistryError::Unexpected {
                    host: self.host().to_owned(),
                    what: what.to_owned(),
                    reason: format!("upload location {text:?}"),
                })?;
        let (response, connection) = self.call(call).await?;
        if response.status() != StatusCode::CREATED && response.status() != StatusCode::NO_CONTENT {
            return Err(connection.failure(response, what).await);
        }
        Ok(())
    }

    /// Sends a manifest under a tag or its digest.
    pub async fn put_manifest(
        &self,
        reference: &str,
        media_type: &str,
        bytes: &[u8],
        what: &str,
    ) -> Result<Digest> {
        let digest = digest_of(bytes);
        let mut call = self.call_of(Method::PUT, &format!("manifests/{reference}"), what)?;
        call.headers.extend(content_type(media_type));
        call.body = Bytes::copy_from_slice(bytes);
        let (response, connection) = self.call(call).await?;
        if !response.status().is_success() {
            return Err(connection.failure(response, what).await);
        }
        let header = response.headers().get("docker-content-digest");
        let said: Option<Digest> = header.and_then(|value| value.to_str().ok()?.parse().ok());
        match said {
            Some(said) if said != digest => Err(self.wrong_digest(what, digest, said)),
            _ => Ok(digest),
        }
    }
}
