//! What a container's streams need: attach, logs, wait.

use super::events::parse_time;
use crate::error::{ApiError, ApiResult};
use crate::request::Call;
use crate::respond::{self, Answer};
use crate::stream;
use futures_util::stream as streams;
use naru_docker_wire::types::{WaitError, WaitResponse};
use naru_engine::{AttachRequest, LogRequest, WaitCondition};

pub async fn attach(call: Call) -> ApiResult<Answer> {
    let request = AttachRequest {
        stdin: call.query.flag("stdin"),
        stdout: call.query.flag("stdout"),
        stderr: call.query.flag("stderr"),
        stream: call.query.flag("stream"),
        logs: call.query.flag("logs"),
        detach_keys: call.query.non_empty("detachKeys").map(ToOwned::to_owned),
    };
    let attached = call.engine.attach_container(&call.name, request).await?;
    Ok(stream::hijack(call.upgrade, call.version, attached))
}

pub async fn logs(call: Call) -> ApiResult<Answer> {
    let request = LogRequest {
        stdout: call.query.flag("stdout"),
        stderr: call.query.flag("stderr"),
        follow: call.query.flag("follow"),
        timestamps: call.query.flag("timestamps"),
        details: call.query.flag("details"),
        since: log_time(&call, "since")?,
        until: log_time(&call, "until")?,
        // Docker takes anything that is no number, above all `all`, for everything.
        tail: call.query.get("tail").and_then(|text| text.parse().ok()),
    };
    if !request.stdout && !request.stderr {
        return Err(ApiError::invalid(
            "Bad parameters: you must choose at least one stream",
        ));
    }
    let log = call.engine.container_logs(&call.name, request).await?;
    let chunks = streams::unfold(log.chunks, |mut chunks| async move {
        chunks.recv().await.map(|chunk| (chunk, chunks))
    });
    Ok(respond::stream(
        stream::media_type(call.version, log.terminal),
        chunks,
    ))
}

fn log_time(call: &Call, key: &str) -> ApiResult<Option<naru_base::Timestamp>> {
    match call.query.non_empty(key) {
        None | Some("0") => Ok(None),
        Some(text) => parse_time(text).map(Some),
    }
}

/// The head goes out as soon as the wait is registered: Docker's client starts the container only after that.
pub async fn wait(call: Call) -> ApiResult<Answer> {
    let condition = match call.query.get("condition") {
        None | Some("" | "not-running") => WaitCondition::NotRunning,
        Some("next-exit") => WaitCondition::NextExit,
        Some("removed") => WaitCondition::Removed,
        Some(other) => return Err(ApiError::invalid(format!("invalid condition: \"{other}\""))),
    };
    let waiter = call.engine.wait_container(&call.name, condition).await?;
    let outcome = streams::once(async move {
        let response = match waiter.await {
            Ok(outcome) => WaitResponse {
                status_code: i64::from(outcome.exit_code),
                error: outcome.error.map(|message| WaitError { message }),
            },
            Err(error) => WaitResponse {
                status_code: -1,
                error: Some(WaitError {
                    message: error.message,
                }),
            },
        };
        Ok(respond::json_line(&response))
    });
    Ok(respond::stream(respond::JSON, outcome))
}
