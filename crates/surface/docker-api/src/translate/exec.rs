//! Exec requests and answers.

use super::create::{console_size, non_empty};
use crate::error::{ApiError, ApiResult};
use naru_docker_wire::types::{ExecCreateRequest, ExecInspect, ProcessConfig};
use naru_engine::{ExecSpec, ExecView};

pub fn exec_spec(wire: ExecCreateRequest) -> ApiResult<ExecSpec> {
    let command = wire.cmd.map(|command| command.0).unwrap_or_default();
    if command.is_empty() {
        return Err(ApiError::invalid("No exec command specified"));
    }
    if let Some(bad) = wire
        .env
        .iter()
        .flatten()
        .find(|entry| entry.is_empty() || entry.starts_with('='))
    {
        return Err(ApiError::invalid(format!("invalid environment variable: {bad}")));
    }
    Ok(ExecSpec {
        command,
        env: wire.env.unwrap_or_default(),
        working_dir: non_empty(wire.working_dir),
        user: non_empty(wire.user),
        privileged: wire.privileged,
        terminal: wire.tty,
        attach_stdin: wire.attach_stdin,
        attach_stdout: wire.attach_stdout,
        attach_stderr: wire.attach_stderr,
        detach_keys: non_empty(wire.detach_keys),
        console_size: console_size(wire.console_size.as_deref())?,
    })
}

pub fn exec_inspect(view: &ExecView) -> ExecInspect {
    let spec = &view.spec;
    ExecInspect {
        id: view.id.to_string(),
        running: view.is_running,
        exit_code: view.exit_code.map(i64::from),
        process_config: ProcessConfig {
            tty: spec.terminal,
            entrypoint: spec.command.first().cloned().unwrap_or_default(),
            arguments: spec.command.iter().skip(1).cloned().collect(),
            privileged: spec.privileged,
            user: spec.user.clone().unwrap_or_default(),
        },
        open_stdin: spec.attach_stdin,
        open_stderr: spec.attach_stderr,
        open_stdout: spec.attach_stdout,
        can_remove: false,
        container_id: view.container.to_string(),
        detach_keys: spec.detach_keys.clone().unwrap_or_default(),
        pid: i64::from(view.pid),
    }
}
