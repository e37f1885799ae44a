//! The same in sentences.

use super::{Aftermath, FailedCheck, RunEnd, StartFault, StartedBy, WhyView};
use crate::record::FailedStart;
use naru_keeper::cause::{
    EndCause, OomScope, OomVictim, Pressure, Requester, SentSignal, SignalReason, SignalSender,
};

/// A summary, and what else there is to say. `with_init`: PID 1 is `--init`, which stands for the program.
pub(super) fn tell(view: &WhyView, with_init: bool) -> (String, Vec<String>) {
    let mut details = Vec::new();
    let summary = match (&view.failed_start, view.status, &view.last_end) {
        (_, "running" | "paused", last) => {
            if let Some(end) = last {
                details.push(format!(
                    "The run before ended at {}: {}",
                    end.finished_at,
                    describe_end(end)
                ));
                details.extend(describe_circumstances(end, with_init));
            }
            format!(
                "{} is {}, {}.",
                view.name,
                view.status,
                describe_start(view.started_by.as_ref())
            )
        }
        (Some(failed), _, last) => {
            if let Some(end) = last {
                details.push(format!(
                    "Its last run ended at {}: {}",
                    end.finished_at,
                    describe_end(end)
                ));
                details.extend(describe_circumstances(end, with_init));
            }
            format!("{} did not start: {}", view.name, describe_failure(failed))
        }
        (None, _, Some(end)) => {
            details.extend(describe_circumstances(end, with_init));
            format!(
                "{} ended with exit code {}: {}",
                view.name,
                end.exit_code,
                describe_end(end)
            )
        }
        (None, "created", None) => format!("{} has not been started.", view.name),
        (None, status, None) => format!("{} is {status}; nothing is recorded of its end.", view.name),
    };
    if matches!(view.status, "running" | "paused") {
        details.extend(describe_pressure(&view.pressure));
        details.extend(view.failed_check.as_ref().map(describe_check));
    }
    (summary, details)
}

fn describe_failure(failed: &FailedStart) -> String {
    format!("{}: {}", describe_fault(failed.fault), failed.message)
}

fn describe_fault(fault: StartFault) -> &'static str {
    match fault {
        StartFault::CommandNotFound => "its command is not in the container",
        StartFault::CommandNotExecutable => "its command cannot be executed",
        StartFault::InterpreterMissing => "the interpreter that its command needs is not in the container",
        StartFault::FormatUnknown => "its command is for another kind of machine, or no program",
        StartFault::WorkingDirectory => "its working directory cannot be entered",
        StartFault::UserUnknown => "its user cannot be found",
        StartFault::BindSourceMissing => "the source of a bind mount is not there",
        StartFault::Mount => "a mount failed",
        StartFault::Volume => "a volume cannot be used",
        StartFault::DeviceMissing => "a device is not there",
        StartFault::PortTaken => "a port is taken",
        StartFault::NetworkMissing => "a network of its is not there",
        StartFault::Network => "its network cannot be set up",
        StartFault::RootFilesystem => "its root file system cannot be mounted",
        StartFault::DiskFull => "a disk of the host is full",
        StartFault::Cgroup => "its cgroup cannot be made",
        StartFault::Limit => "a limit cannot be set",
        StartFault::SharedNamespace => "the namespace it was to share is not there",
        StartFault::UserNamespace => "its user namespace is impossible",
        StartFault::Seccomp => "its seccomp filter cannot be loaded",
        StartFault::LogDriver => "its log cannot be opened",
        StartFault::KeeperLost => "its keeper process ended",
        StartFault::Other => "a step of its start failed",
    }
}

fn describe_start(by: Option<&StartedBy>) -> String {
    match by {
        None => "started by a daemon of an earlier version".to_owned(),
        Some(StartedBy::StartRequest) => "started by a request".to_owned(),
        Some(StartedBy::RestartRequest) => "restarted by a request".to_owned(),
        Some(StartedBy::Unhealthy) => "restarted because it was unhealthy".to_owned(),
        Some(StartedBy::Policy { policy, attempt }) => {
            format!("restarted by its policy {policy} (restart {attempt})")
        }
        Some(StartedBy::DaemonStart { policy }) => {
            format!("started with the daemon by its policy {policy}")
        }
    }
}

/// The cause, as a sentence that begins in the middle.
fn describe_end(end: &RunEnd) -> String {
    match &end.cause {
        EndCause::Exited { code, after } => {
            let after = after.as_ref().map(|sent| {
                let seconds = (end.finished_at.as_nanosecond() - sent.sent_at.as_nanosecond()) / 1_000_000;
                format!(
                    ", {}.{:03} s after {} for {}",
                    seconds / 1000,
                    seconds % 1000,
                    signal_name(sent.signal),
                    describe_reason(&sent.reason)
                )
            });
            format!(
                "its program returned {code} by itself{}.",
                after.unwrap_or_default()
            )
        }
        EndCause::Signaled {
            signal,
            core_dumped,
            sender,
        } => {
            let core = if *core_dumped { " (core dumped)" } else { "" };
            format!(
                "{} ended it{core}, {}.",
                signal_name(*signal),
                describe_sender(*signal, sender)
            )
        }
        EndCause::OutOfMemory { victim } => {
            format!(
                "the kernel's out-of-memory killer ended it: {}.",
                describe_victim(victim)
            )
        }
        EndCause::KeeperLost => {
            "its keeper process was killed, so the daemon ended what was left of it.".to_owned()
        }
        EndCause::MachineLost { boot_id, boot_id_now } => {
            format!("the machine went down while it ran (boot {boot_id}, now {boot_id_now}).")
        }
        EndCause::RunLost => {
            "what the exec-root held of its run is gone, while the machine was up; how it ended is unknown."
                .to_owned()
        }
        EndCause::StatusLost => {
            "its exit status was taken by another process; how it ended is unknown.".to_owned()
        }
        EndCause::Unrecorded => {
            "its keeper was of an earlier version, which did not record causes.".to_owned()
        }
    }
}

fn describe_sender(signal: i32, sender: &SignalSender) -> String {
    match sender {
        SignalSender::Naru(SentSignal { reason, .. }) => {
            format!("sent by Naru for {}", describe_reason(reason))
        }
        SignalSender::Kernel { log } => format!("from the kernel, whose log says: {log}"),
        SignalSender::Outside => {
            "sent from outside of Naru; the kernel does not record by whom".to_owned()
        }
        SignalSender::Unlogged if signal == libc::SIGSYS => {
            "with which the kernel answers a system call that a seccomp filter forbids; Naru did not send it, and the kernel's log does not say which call".to_owned()
        }
        SignalSender::Unlogged => {
            "which Naru did not send, and the kernel's log has no fault of the program: sent from outside, or left out of the log".to_owned()
        }
    }
}

fn describe_reason(reason: &SignalReason) -> String {
    let whose = match reason.by {
        Requester::KillRequest => "a kill request",
        Requester::StopRequest => "a stop request",
        Requester::RestartRequest => "a restart request",
        Requester::RemoveRequest => "a forced removal",
        Requester::DaemonShutdown => "the end of the daemon, which takes its containers along",
        Requester::Unhealthy => "a restart because it was unhealthy",
        Requester::HealthTimeout => "a health check that took too long",
        Requester::Unsaid => "a reason that was not recorded",
    };
    match reason.after_seconds {
        Some(seconds) => format!("{whose}, because it still ran {seconds} s after the first signal"),
        None => whose.to_owned(),
    }
}

fn describe_victim(victim: &OomVictim) -> String {
    let why = match victim.scope {
        OomScope::Limit => "the memory limit was reached",
        OomScope::Host => "the host was out of memory",
    };
    format!(
        "process {} (pid {}) with {} KiB of its own, because {why}",
        victim.name,
        victim.pid,
        victim.memory_bytes / 1024
    )
}

/// What else was the case when it ended, and what became of it.
fn describe_circumstances(end: &RunEnd, with_init: bool) -> Vec<String> {
    let mut told = Vec::new();
    if with_init && matches!(end.cause, EndCause::Exited { code, .. } if code > 128) {
        told.push(
            "PID 1 was --init, which returns 128 and the signal's number for a program that a signal ended."
                .to_owned(),
        );
    }
    let mut pressure = end.pressure.clone();
    if let EndCause::OutOfMemory { victim } = &end.cause {
        pressure.oom_victims.retain(|other| other != victim);
        pressure.oom_kills = pressure.oom_kills.saturating_sub(1);
    }
    told.extend(describe_pressure(&pressure));
    told.extend(end.failed_check.as_ref().map(describe_check));
    if end.was_found_later {
        told.push("No daemon was running then; the next one found it.".to_owned());
    }
    told.extend(describe_aftermath(&end.aftermath));
    told
}

fn describe_pressure(pressure: &Pressure) -> Vec<String> {
    let mut told: Vec<String> = pressure
        .oom_victims
        .iter()
        .map(|victim| {
            format!(
                "The kernel's out-of-memory killer ended {}.",
                describe_victim(victim)
            )
        })
        .collect();
    let unnamed = pressure
        .oom_kills
        .saturating_sub(pressure.oom_victims.len() as u64);
    if unnamed > 0 {
        told.push(format!(
            "The kernel counts {unnamed} more out-of-memory kills, which its log no longer names."
        ));
    }
    if pressure.forks_refused > 0 {
        told.push(format!(
            "The limit of processes was reached: {} forks failed.",
            pressure.forks_refused
        ));
    }
    told
}

fn describe_check(check: &FailedCheck) -> String {
    let output = check.output.trim();
    let said = if output.is_empty() {
        "it wrote nothing".to_owned()
    } else {
        format!("it wrote: {output}")
    };
    format!(
        "The last health check failed with exit code {}, {} in a row; {said}",
        check.exit_code, check.failing_streak
    )
}

fn describe_aftermath(aftermath: &Aftermath) -> Option<String> {
    Some(match aftermath {
        Aftermath::NoPolicy => return None,
        Aftermath::Restarts {
            policy,
            attempt,
            delay_ms,
        } => {
            format!("Its restart policy {policy} starts it again after {delay_ms} ms (restart {attempt}).")
        }
        Aftermath::GaveUp { policy, restarts } => {
            format!("Its restart policy {policy} has given up after {restarts} restarts.")
        }
        Aftermath::NotAFailure { policy } => {
            format!("Its restart policy {policy} starts it again only after a failure.")
        }
        Aftermath::LeftStopped { policy } => {
            format!("Its restart policy {policy} leaves it alone, because a request stopped it.")
        }
        Aftermath::DaemonEnding { policy } => {
            format!("The daemon was ending; the next one asks its restart policy {policy}.")
        }
    })
}

/// `SIGKILL`, or the number of one without a name.
fn signal_name(signal: i32) -> String {
    match crate::containers::signal_word(signal) {
        Some(word) => format!("SIG{word}"),
        None => format!("signal {signal}"),
    }
}
