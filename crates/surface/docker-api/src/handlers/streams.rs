//! What a container's streams need: attach, logs, wait.

use crate::error::{ApiError, ApiResult};
use crate::request::Call;
use crate::respond::{self, Answer};
use crate::stream;
use crate::translate::stats::stats_response;
use crate::translate::time::parse_time;
use crate::websocket::{self, Handshake};
use futures_util::StreamExt;
use futures_util::stream as streams;
use naru_docker_wire::types::{WaitError, WaitResponse};
use naru_engine::{AttachRequest, LogRequest, WaitCondition};
use std::time::Duration;

pub async fn attach(call: Call) -> ApiResult<Answer> {
    let request = attach_request(&call);
    let attached = call.engine.attach_container(&call.name, request).await?;
    Ok(stream::hijack(call.upgrade, call.version, attached))
}

pub async fn attach_websocket(call: Call) -> ApiResult<Answer> {
    let request = attach_request(&call);
    let handshake = Handshake::read(&call.headers, call.upgrade)?;
    let attached = call.engine.attach_container(&call.name, request).await?;
    Ok(websocket::carry(
        handshake,
        !call.version.is_at_least(28),
        attached,
    ))
}

fn attach_request(call: &Call) -> AttachRequest {
    AttachRequest {
        stdin: call.query.flag("stdin"),
        stdout: call.query.flag("stdout"),
        stderr: call.query.flag("stderr"),
        stream: call.query.flag("stream"),
        logs: call.query.flag("logs"),
        detach_keys: call.query.non_empty("detachKeys").map(ToOwned::to_owned),
    }
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

/// Docker's interval between two readings.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

/// Readings until the container is removed, or one. A single one comes with another taken a moment before, for
/// clients to compare, unless they say that they want none.
pub async fn stats(call: Call) -> ApiResult<Answer> {
    let is_stream = call.query.flag_or("stream", true);
    let one_shot = call.version.is_at_least(41) && call.query.flag("one-shot");
    if is_stream && one_shot {
        return Err(ApiError::invalid("cannot have stream=true and one-shot=true"));
    }
    let first = call.engine.container_stats(&call.name).await?;
    if !is_stream {
        if one_shot || first.usage.is_none() {
            return Ok(respond::ok(&stats_response(&first, None)));
        }
        tokio::time::sleep(STATS_INTERVAL).await;
        let second = call.engine.container_stats(first.id.as_str()).await?;
        return Ok(respond::ok(&stats_response(&second, Some(&first))));
    }
    let head = respond::json_line(&stats_response(&first, None));
    let tail = streams::unfold((call.engine, first), |(engine, before)| async move {
        tokio::time::sleep(STATS_INTERVAL).await;
        let now = engine.container_stats(before.id.as_str()).await.ok()?;
        let line = respond::json_line(&stats_response(&now, Some(&before)));
        Some((Ok(line), (engine, now)))
    });
    let lines = streams::once(async { Ok(head) }).chain(tail);
    Ok(respond::stream(respond::JSON, lines))
}
