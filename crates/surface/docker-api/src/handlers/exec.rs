//! Processes started in a running container.

use super::containers::terminal_size;
use crate::error::{ApiError, ApiResult};
use crate::request::Call;
use crate::respond::{self, Answer};
use crate::stream;
use crate::translate::create::console_size;
use crate::translate::exec::{exec_inspect, exec_spec};
use hyper::StatusCode;
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

/// Docker leaves HTTP before it starts the process, and so do clients expect it: what then fails is told in the stream,
/// and they take the exit code from inspect. What can be said before is a status as ever.
pub async fn start(mut call: Call) -> ApiResult<Answer> {
    let request: ExecStartRequest = call.json_or_default().await?;
    let size = console_size(request.console_size.as_deref())?;
    let Call {
        engine,
        name,
        version,
        upgrade,
        ..
    } = call;
    if request.detach {
        engine.start_exec(&name, true, size).await?;
        return Ok(respond::empty(StatusCode::OK));
    }
    let terminal = engine.check_exec_start(&name).await?.spec.terminal;
    let started = async move {
        let (replay, socket) = match engine.start_exec(&name, false, size).await {
            Ok(attached) => (Vec::new(), attached.and_then(|attached| attached.socket)),
            Err(error) => (told_failure(&error.message, terminal), None),
        };
        AttachStream {
            replay,
            socket,
            terminal,
        }
    };
    match upgrade {
        Some(upgrade) => Ok(stream::hijack_then(upgrade, version, terminal, started)),
        None => Ok(stream::output_only(version, started.await)),
    }
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
