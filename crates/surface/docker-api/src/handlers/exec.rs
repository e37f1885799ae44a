//! Processes started in a running container.

use super::containers::terminal_size;
use crate::error::{ApiError, ApiResult};
use crate::request::Call;
use crate::respond::{self, Answer};
use crate::stream;
use crate::translate::create::console_size;
use crate::translate::exec::{exec_inspect, exec_spec};
use hyper::StatusCode;
use naru_base::ErrorKind;
use naru_docker_wire::frames::{self, StreamKind};
use naru_docker_wire::types::{ExecCreateRequest, ExecStartRequest, IdResponse};
use naru_engine::AttachStream;

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
    match call.engine.start_exec(&call.name, request.detach, size).await {
        Ok(Some(attached)) => Ok(stream::hijack(call.upgrade, call.version, attached)),
        Ok(None) => Ok(respond::empty(StatusCode::OK)),
        Err(error) if !request.detach && is_told_in_the_stream(error.kind) => {
            let terminal = call.engine.inspect_exec(&call.name).await?.spec.terminal;
            let told = AttachStream {
                replay: told_failure(&error.message, terminal),
                socket: None,
                terminal,
            };
            Ok(stream::hijack(call.upgrade, call.version, told))
        }
        Err(error) => Err(error.into()),
    }
}

/// Docker leaves HTTP before it starts the process, so what then fails can only be told in the stream. Clients show it
/// and take the exit code from inspect. What it knows before is a status as ever.
fn is_told_in_the_stream(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::InvalidParameter | ErrorKind::System)
}

fn told_failure(message: &str, terminal: bool) -> Vec<u8> {
    let text = format!("{message}\r\n");
    if terminal {
        text.into_bytes()
    } else {
        frames::encode(StreamKind::Stdout, text.as_bytes())
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
