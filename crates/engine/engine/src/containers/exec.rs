//! Processes started in a running container.

use super::attach::{parse_detach_keys, refused_is_error, stream_pair};
use super::{Container, lock};
use crate::Engine;
use crate::error::{EngineError, Result};
use crate::keepers::keeper_gone;
use crate::plan;
use crate::record::{ContainerRecord, ContainerState};
use crate::views::{AttachStream, ExecSpec, ExecView};
use naru_base::{ErrorKind, ExecId};
use naru_keeper::protocol::{AttachOptions, ExecRequest, Reply, Request, StdioPlan, Target};
use naru_runtime::plan::{ExecPlace, ExecPlan, StartFailureKind};
use oci_spec::runtime as oci;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Ended execs a container remembers; the oldest are forgotten first.
const ENDED_EXECS_MAX: usize = 256;

/// One exec, from its creation to the end of its container.
#[derive(Debug)]
pub struct Exec {
    pub id: ExecId,
    pub spec: ExecSpec,
    state: Mutex<ExecState>,
    /// Told of when it has ended.
    ended: tokio::sync::Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExecState {
    /// Left by start.
    Created,
    /// Left when the process starts or cannot.
    Starting,
    /// Left when its process ends.
    Running {
        pid: i32,
    },
    Ended {
        pid: i32,
        exit_code: i32,
    },
}

impl Exec {
    pub fn is_running(&self) -> bool {
        matches!(
            *lock(&self.state),
            ExecState::Running { .. } | ExecState::Starting
        )
    }

    /// Its process as the host sees it, once it has one; of an ended one, too.
    pub fn pid(&self) -> Option<i32> {
        match *lock(&self.state) {
            ExecState::Running { pid } | ExecState::Ended { pid, .. } if pid > 0 => Some(pid),
            _ => None,
        }
    }

    /// An exec found running by a daemon that did not start it.
    pub fn found(id: ExecId, pid: i32, exit_code: Option<i32>) -> Arc<Self> {
        let state = exit_code.map_or(ExecState::Running { pid }, |exit_code| ExecState::Ended {
            pid,
            exit_code,
        });
        Arc::new(Self {
            id,
            spec: ExecSpec::default(),
            state: Mutex::new(state),
            ended: tokio::sync::Notify::new(),
        })
    }

    /// An exec is started once.
    fn can_start(&self, state: ExecState) -> Result<()> {
        let what = match state {
            ExecState::Created => return Ok(()),
            ExecState::Starting | ExecState::Running { .. } => "is already running",
            ExecState::Ended { .. } => "has already run",
        };
        Err(EngineError::conflict(format!(
            "Error: Exec command {} {what}",
            self.id
        )))
    }

    fn end(&self, exit_code: i32) {
        let mut state = lock(&self.state);
        let pid = if let ExecState::Running { pid } = *state {
            pid
        } else {
            0
        };
        if !matches!(*state, ExecState::Ended { .. }) {
            *state = ExecState::Ended { pid, exit_code };
        }
        drop(state);
        self.ended.notify_waiters();
    }

    /// Waits for its end; returns its exit code.
    async fn wait(&self) -> i32 {
        loop {
            // Before the look, so that an end in between is not missed.
            let ended = self.ended.notified();
            if let ExecState::Ended { exit_code, .. } = *lock(&self.state) {
                return exit_code;
            }
            ended.await;
        }
    }
}

impl Engine {
    pub async fn create_exec(&self, name: &str, spec: ExecSpec) -> Result<ExecId> {
        let container = self.registry.find(name)?;
        can_exec(&container.record())?;
        if spec.command.is_empty() {
            return Err(EngineError::invalid("No exec command specified"));
        }
        parse_detach_keys(spec.detach_keys.as_deref())?;
        let id = ExecId::generate();
        let exec = Arc::new(Exec {
            id: id.clone(),
            spec,
            state: Mutex::new(ExecState::Created),
            ended: tokio::sync::Notify::new(),
        });
        let event = format!("exec_create: {}", exec.spec.command.join(" "));
        {
            let mut execs = lock(&container.execs);
            forget_ended(&mut execs);
            execs.insert(id.clone(), exec);
        }
        lock(&self.exec_containers).insert(id.clone(), Arc::downgrade(&container));
        self.container_event(&event, &container, &[("execID", id.as_str())]);
        Ok(id)
    }

    /// What can be said against a start before it is tried.
    pub async fn check_exec_start(&self, exec: &str) -> Result<ExecView> {
        let (container, exec) = self.find_exec(exec)?;
        can_exec(&container.record())?;
        let state = *lock(&exec.state);
        exec.can_start(state)?;
        self.inspect_exec(exec.id.as_str()).await
    }

    /// `None` when detached.
    pub async fn start_exec(
        &self,
        exec: &str,
        detach: bool,
        console_size: Option<(u16, u16)>,
    ) -> Result<Option<AttachStream>> {
        let (container, exec) = self.find_exec(exec)?;
        {
            let mut state = lock(&exec.state);
            exec.can_start(*state)?;
            *state = ExecState::Starting;
        }
        let result = self
            .start_exec_process(&container, &exec, detach, console_size)
            .await;
        if result.is_err() && *lock(&exec.state) == ExecState::Starting {
            *lock(&exec.state) = ExecState::Ended {
                pid: 0,
                exit_code: EXIT_CODE_CANNOT_RUN,
            };
        }
        result
    }

    async fn start_exec_process(
        &self,
        container: &Arc<Container>,
        exec: &Arc<Exec>,
        detach: bool,
        console_size: Option<(u16, u16)>,
    ) -> Result<Option<AttachStream>> {
        let record = self.add_linked_variables(container.record());
        can_exec(&record)?;
        let keeper = container.running_keeper()?;
        let spec = &exec.spec;
        let attached = (!detach).then(|| -> Result<_> {
            Ok(AttachOptions {
                stdin: spec.attach_stdin,
                stdout: spec.attach_stdout,
                stderr: spec.attach_stderr,
                detach_keys: parse_detach_keys(spec.detach_keys.as_deref())?,
            })
        });
        let attached = attached.transpose()?;
        let request = ExecRequest {
            exec: exec.id.clone(),
            plan: plan_exec(&record, spec, console_size)?,
            stdio: StdioPlan {
                terminal: spec.terminal,
                open_stdin: spec.attach_stdin && !detach,
                stdin_once: true,
            },
            attached,
        };
        let (ours, theirs) = stream_pair()?;
        let request = Request::Exec(Box::new(request));
        let reply = if detach {
            keeper.request(&request, &[]).await
        } else {
            keeper.request(&request, &[theirs.as_fd()]).await
        };
        match reply.map_err(keeper_gone)?.0 {
            Reply::ExecStarted { pid, .. } => {
                let mut state = lock(&exec.state);
                // Its end may have been noticed before its start.
                if *state == ExecState::Starting {
                    *state = ExecState::Running { pid };
                }
            }
            Reply::Failed(failure) => {
                let kind = match failure.kind {
                    StartFailureKind::System => ErrorKind::System,
                    _ => ErrorKind::InvalidParameter,
                };
                *lock(&exec.state) = ExecState::Ended {
                    pid: 0,
                    exit_code: EXIT_CODE_CANNOT_RUN,
                };
                return Err(EngineError::new(
                    kind,
                    format!(
                        "OCI runtime exec failed: exec failed: unable to start container process: {}: unknown",
                        failure.message
                    ),
                ));
            }
            Reply::Refused { message } => return Err(EngineError::conflict(message)),
            reply => {
                return Err(EngineError::system(format!(
                    "the keeper answered {reply:?} to Exec"
                )));
            }
        }
        self.container_event(
            &format!("exec_start: {}", spec.command.join(" ")),
            container,
            &[("execID", exec.id.as_str())],
        );
        Ok((!detach).then(|| AttachStream {
            replay: Vec::new(),
            socket: Some(ours),
            terminal: spec.terminal,
        }))
    }

    pub async fn inspect_exec(&self, exec: &str) -> Result<ExecView> {
        let (container, exec) = self.find_exec(exec)?;
        if exec.is_running() {
            settle_exec(&container, &exec).await;
        }
        let (is_running, exit_code, pid) = match *lock(&exec.state) {
            ExecState::Created => (false, None, 0),
            ExecState::Starting => (true, None, 0),
            ExecState::Running { pid } => (true, None, pid),
            ExecState::Ended { pid, exit_code } => (false, Some(exit_code), pid),
        };
        Ok(ExecView {
            id: exec.id.clone(),
            container: container.id.clone(),
            spec: exec.spec.clone(),
            is_running,
            exit_code,
            pid,
        })
    }

    /// The exit code, once it has ended.
    pub(crate) async fn wait_exec(&self, exec: &str) -> Result<i32> {
        let (_, exec) = self.find_exec(exec)?;
        Ok(exec.wait().await)
    }

    pub async fn resize_exec(&self, exec: &str, rows: u16, columns: u16) -> Result<()> {
        let (container, exec) = self.find_exec(exec)?;
        let request = Request::Resize {
            target: Target::Exec(exec.id.clone()),
            rows,
            columns,
        };
        refused_is_error(
            container
                .running_keeper()?
                .request(&request, &[])
                .await
                .map_err(keeper_gone)?
                .0,
        )
    }

    fn find_exec(&self, text: &str) -> Result<(Arc<Container>, Arc<Exec>)> {
        let missing = || EngineError::not_found(format!("No such exec instance: {text}"));
        let id: ExecId = text.parse().map_err(|_| missing())?;
        let container = lock(&self.exec_containers)
            .get(&id)
            .and_then(std::sync::Weak::upgrade)
            .ok_or_else(missing)?;
        let exec = lock(&container.execs).get(&id).cloned().ok_or_else(missing)?;
        Ok((container, exec))
    }

    pub(super) fn exec_exited(&self, container: &Arc<Container>, exec: &ExecId, exit_code: i32) {
        if let Some(exec) = lock(&container.execs).get(exec) {
            exec.end(exit_code);
        }
        self.container_event(
            "exec_die",
            container,
            &[("execID", exec.as_str()), ("exitCode", &exit_code.to_string())],
        );
    }
}

/// A client asks for the exit code the moment its stream ends, which may be before the keeper's event has been read:
/// the keeper itself knows by then.
async fn settle_exec(container: &Container, exec: &Exec) {
    let Some(keeper) = container.keeper() else { return };
    if let Ok((Reply::Status(status), _)) = keeper.request(&Request::Status, &[]).await {
        let ended = status.execs.iter().find(|known| known.exec == exec.id);
        if let Some(exit_code) = ended.and_then(|known| known.exit_code) {
            exec.end(exit_code);
        }
    }
}

impl Container {
    /// Execs end with their container.
    pub(super) fn fail_execs(&self) {
        for exec in lock(&self.execs).values().filter(|exec| exec.is_running()) {
            exec.end(EXIT_CODE_WITH_CONTAINER);
        }
    }
}

/// An exec that could not be run, for whatever reason: Docker has one code for a missing command too.
const EXIT_CODE_CANNOT_RUN: i32 = 126;

/// An exec killed with its container: 128 + SIGKILL.
const EXIT_CODE_WITH_CONTAINER: i32 = 137;

fn can_exec(record: &ContainerRecord) -> Result<()> {
    match record.state {
        ContainerState::Running { .. } => Ok(()),
        ContainerState::Paused { .. } => Err(EngineError::conflict(format!(
            "Container {} is paused, unpause the container before exec",
            record.id
        ))),
        ContainerState::Restarting { .. } => Err(EngineError::conflict(format!(
            "Container {} is restarting, wait until the container is running",
            record.id
        ))),
        _ => Err(EngineError::conflict(format!(
            "Container {} is not running",
            record.id
        ))),
    }
}

fn forget_ended(execs: &mut std::collections::BTreeMap<ExecId, Arc<Exec>>) {
    while execs.len() >= ENDED_EXECS_MAX {
        let Some(id) = execs
            .values()
            .find(|exec| !exec.is_running())
            .map(|exec| exec.id.clone())
        else {
            return;
        };
        execs.remove(&id);
    }
}

fn plan_exec(
    record: &ContainerRecord,
    spec: &ExecSpec,
    console_size: Option<(u16, u16)>,
) -> Result<ExecPlan> {
    let mut process = oci::Process::default();
    process.set_terminal(Some(spec.terminal));
    process.set_console_size(console_size.or(spec.console_size).map(plan::console_size));
    process.set_args(Some(spec.command.clone()));
    let mut env = plan::plan_environment(&record.resolved.env, &record.resolved.hostname, spec.terminal);
    let key = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    env.retain(|entry| !spec.env.iter().any(|own| key(own) == key(entry)));
    env.extend(spec.env.iter().filter(|entry| entry.contains('=')).cloned());
    process.set_env(Some(env));
    let cwd = spec
        .working_dir
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or(&record.resolved.working_dir);
    process.set_cwd(PathBuf::from(if cwd.is_empty() { "/" } else { cwd }));
    let capabilities = if spec.privileged {
        naru_runtime::supported_capabilities()
    } else {
        plan::capabilities(&record.spec)?
    };
    process.set_capabilities(Some(plan::capability_sets(&capabilities)));
    process.set_rlimits(Some(plan::plan_rlimits(&record.spec)?));
    process.set_no_new_privileges(Some(record.spec.no_new_privileges));
    Ok(ExecPlan {
        container: record.id.to_string(),
        process,
        user: spec
            .user
            .clone()
            .filter(|user| !user.is_empty())
            .unwrap_or_else(|| record.resolved.user.clone()),
        additional_groups: record.spec.additional_groups.clone(),
        seccomp: if spec.privileged {
            naru_runtime::plan::SeccompPlan::Unconfined
        } else {
            plan::plan_seccomp(&record.spec, &capabilities)?
        },
        place: ExecPlace {
            cgroup: record
                .run
                .as_ref()
                .map(|run| run.cgroup.clone())
                .unwrap_or_default(),
            mapped_root: record.run.as_ref().and_then(|run| run.mapped_root),
            has_time_namespace: false,
            has_process_limit: record.spec.resources.pids_max.is_some_and(|max| max > 0),
        },
    })
}
