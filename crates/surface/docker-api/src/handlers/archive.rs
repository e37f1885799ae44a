//! Files of containers: copied, listed, exported.

use crate::error::{ApiError, ApiResult};
use crate::request::Call;
use crate::respond::{self, Answer};
use crate::upload;
use base64::Engine as _;
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use naru_docker_wire::types::{ContainerPathStat, FilesystemChange};
use naru_engine::archive::{Change, ChangeKind, Chunks, PathStat, PutOptions};

const TAR: HeaderValue = HeaderValue::from_static("application/x-tar");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const PATH_STAT: HeaderName = HeaderName::from_static("x-docker-container-path-stat");

/// The header of a `HEAD`, and beside the archive of a `GET`: base64 of JSON.
fn stat_header(stat: PathStat) -> HeaderValue {
    let wire = ContainerPathStat {
        name: stat.name,
        size: stat.bytes,
        mode: stat.mode,
        mtime: stat.modified_at.to_string(),
        link_target: stat.link_target,
    };
    let json = serde_json::to_vec(&wire).unwrap_or_default();
    let text = base64::engine::general_purpose::STANDARD.encode(json);
    // Base64 has no character that a header cannot hold.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

fn path(call: &Call) -> ApiResult<String> {
    match call.query.non_empty("path") {
        Some(path) => Ok(path.to_owned()),
        None => Err(ApiError::invalid("bad parameter: path cannot be empty")),
    }
}

pub async fn head(call: Call) -> ApiResult<Answer> {
    let stat = call.engine.stat_path(&call.name, &path(&call)?).await?;
    let mut answer = respond::empty(StatusCode::OK);
    answer.headers_mut().insert(PATH_STAT, stat_header(stat));
    Ok(answer)
}

pub async fn get(call: Call) -> ApiResult<Answer> {
    let (stat, chunks) = call.engine.read_archive(&call.name, &path(&call)?).await?;
    let mut answer = stream(TAR, chunks);
    answer.headers_mut().insert(PATH_STAT, stat_header(stat));
    Ok(answer)
}

pub async fn put(call: Call) -> ApiResult<Answer> {
    let path = path(&call)?;
    let options = PutOptions {
        keep_kinds: call.query.flag("noOverwriteDirNonDir"),
        to_container_user: call.query.flag("copyUIDGID"),
    };
    let archive = upload::chunks(call.body);
    call.engine
        .write_archive(&call.name, &path, archive, options)
        .await?;
    Ok(respond::empty(StatusCode::OK))
}

pub async fn changes(call: Call) -> ApiResult<Answer> {
    let changes = call.engine.container_changes(&call.name).await?;
    let wire = |change: Change| FilesystemChange {
        path: change.path,
        kind: match change.kind {
            ChangeKind::Modified => 0,
            ChangeKind::Added => 1,
            ChangeKind::Removed => 2,
        },
    };
    let listed: Vec<FilesystemChange> = changes.into_iter().map(wire).collect();
    // Nothing changed is `null`, as with Docker.
    Ok(respond::ok(&Some(listed).filter(|listed| !listed.is_empty())))
}

pub async fn export(call: Call) -> ApiResult<Answer> {
    let chunks = call.engine.export_container(&call.name).await?;
    Ok(stream(OCTETS, chunks))
}

/// An archive as the body of an answer.
pub fn stream(media_type: HeaderValue, chunks: Chunks) -> Answer {
    let body = futures_util::stream::unfold(chunks, |mut chunks| async move {
        chunks.recv().await.map(|chunk| (chunk, chunks))
    });
    respond::stream(media_type, body)
}
