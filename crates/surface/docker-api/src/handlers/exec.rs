//! Processes started in a running container.

use super::containers::terminal_size;
use crate::error::{ApiError, ApiResult};
use crate::request::Call;
use crate::respond::{self, Answer};
use crate::stream;
use crate::translate::create::console_size;
use crate::translate::exec::{exec_inspect, exec_spec};
use hyper::StatusCode;
use naru_docker_wire::types::{ExecCreateRequest, ExecStartRequest, IdResponse};

pub async fn create(mut call: Call) -> ApiResult<Answer> {
    let request: ExecCreateRequest = call.json().await?;
    let id = call.engine.create_exec(&call.name, exec_spec(request)?).await?;
    Ok(respond::json(
        StatusCode::CREATED,
        &IdResponse { id: id.to_string() },
    ))
}

pub async fn start(mut call: Call) -> ApiResult<Answer> {
    let request: ExecStartRequest = call.json_or_default().await?;
    let size = console_size(request.console_size.as_deref())?;
    match call.engine.start_exec(&call.name, request.detach, size).await? {
        Some(attached) => Ok(stream::hijack(call.upgrade, call.version, attached)),
        None => Ok(respond::empty(StatusCode::OK)),
    }
}

pub async fn resize(call: Call) -> ApiResult<Answer> {
    let (rows, columns) = terminal_size(&call)?;
    call.engine.resize_exec(&call.name, rows, columns).await?;
    Ok(respond::empty(StatusCode::OK))
}

pub async fn inspect(call: Call) -> ApiResult<Answer> {
    if call.name.is_empty() {
        return Err(ApiError::not_found("No such exec instance"));
    }
    let view = call.engine.inspect_exec(&call.name).await?;
    Ok(respond::ok(&exec_inspect(&view)))
}
