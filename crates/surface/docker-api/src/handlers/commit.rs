//! Images made from containers.

use crate::error::{ApiError, ApiResult};
use crate::request::{Call, parse_json};
use crate::respond::{self, Answer};
use hyper::StatusCode;
use naru_docker_wire::types::IdResponse;
use naru_engine::archive::{CommitRequest, ContainerConfig};

pub async fn commit(mut call: Call) -> ApiResult<Answer> {
    let bytes = call.bytes().await?;
    let config: Option<ContainerConfig> = match bytes.trim_ascii() {
        b"" | b"null" => None,
        text => Some(parse_json(text)?),
    };
    let Some(container) = call.query.non_empty("container").map(ToOwned::to_owned) else {
        return Err(ApiError::invalid("bad parameter: container cannot be empty"));
    };
    let text = |key: &str| call.query.get(key).unwrap_or_default().to_owned();
    let reference = call
        .query
        .non_empty("repo")
        .map(|repository| match call.query.non_empty("tag") {
            Some(tag) => format!("{repository}:{tag}"),
            None => repository.to_owned(),
        });
    let request = CommitRequest {
        reference,
        comment: text("comment"),
        author: text("author"),
        pause: call.query.flag_or("pause", true),
        changes: call.query.all("changes").map(ToOwned::to_owned).collect(),
        config,
    };
    let id = call.engine.commit_container(&container, request).await?;
    Ok(respond::json(StatusCode::CREATED, &IdResponse { id }))
}
