//! Why a container's PID 1 ended: what its keeper knows at that moment, as plain data.
//!
//! It is never read out of an exit code: 137 is what a program returns, what `kill` leaves, what the kernel leaves when
//! memory is short, and what anybody on the host can do. The keeper is the parent of PID 1, so it has the kernel's own
//! status; every signal of Naru's goes through it, with the request it is for; and of a kill for want of memory, or of
//! a fault, the kernel's log tells the process.

use crate::process::{Ending, EndingKind};
use naru_base::Timestamp;
use serde::{Deserialize, Serialize};

/// Why PID 1 ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "Kind", rename_all_fields = "PascalCase")]
pub enum EndCause {
    /// It returned an exit code of its own will. `after`: the last signal that Naru had sent it.
    Exited { code: i32, after: Option<SentSignal> },
    /// A signal ended it.
    Signaled {
        signal: i32,
        core_dumped: bool,
        sender: SignalSender,
    },
    /// The kernel's out-of-memory killer chose it.
    OutOfMemory { victim: OomVictim },
    /// Its keeper was killed, and the daemon ended what was left of it.
    KeeperLost,
    /// The machine went down while it ran: these are the kernel's ids of the two boots.
    MachineLost { boot_id: String, boot_id_now: String },
    /// What the exec-root held of the run is gone, and not with the machine.
    RunLost,
    /// Somebody else took its status from the kernel.
    StatusLost,
    /// Its keeper was of a version that did not write this down.
    Unrecorded,
}

/// Who sent the signal that ended PID 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "Kind", rename_all_fields = "PascalCase")]
pub enum SignalSender {
    Naru(SentSignal),
    /// The kernel, for something that the process did, as its log has it.
    Kernel {
        log: String,
    },
    /// Neither Naru nor the container itself; the kernel does not tell who.
    Outside,
    /// A signal for a fault of the process, of which the kernel's log has nothing: its own, or one sent from outside.
    Unlogged,
}

/// A signal that Naru sent to PID 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SentSignal {
    pub signal: i32,
    pub reason: SignalReason,
    pub sent_at: Timestamp,
}

/// What a signal is for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SignalReason {
    pub by: Requester,
    /// SIGKILL, because a signal before it had not ended the container in this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_seconds: Option<u64>,
}

impl From<Requester> for SignalReason {
    fn from(by: Requester) -> Self {
        Self {
            by,
            after_seconds: None,
        }
    }
}

/// On whose account Naru sends a signal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Requester {
    KillRequest,
    StopRequest,
    RestartRequest,
    RemoveRequest,
    /// The daemon ends and takes its containers along (`--live-restore=false`).
    DaemonShutdown,
    /// The container was unhealthy and asks to be restarted then.
    Unhealthy,
    /// A health check took too long.
    HealthTimeout,
    /// A daemon of a version that did not say.
    #[default]
    Unsaid,
}

/// A process that the kernel ended for want of memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct OomVictim {
    /// As the host sees it.
    pub pid: i32,
    pub name: String,
    pub scope: OomScope,
    /// What it held in memory of its own.
    pub memory_bytes: u64,
}

/// Whose memory was used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OomScope {
    /// That of the container or of a cgroup above it.
    Limit,
    Host,
}

/// All that a keeper has to say of an end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EndReport {
    pub cause: EndCause,
    #[serde(flatten)]
    pub pressure: Pressure,
}

/// Where a container came up against its limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Pressure {
    /// Processes that were ended for want of memory, as the kernel counts them.
    pub oom_kills: u64,
    /// Those of them that the kernel's log names.
    pub oom_victims: Vec<OomVictim>,
    /// Processes that were not made, for the container had as many as it may.
    pub forks_refused: u64,
}

/// Signals with which the kernel answers what a process does itself.
const FAULTS: [i32; 6] = [
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGSYS,
];

/// Whether the kernel's log may tell of this signal.
pub(crate) fn is_fault(signal: i32) -> bool {
    FAULTS.contains(&signal)
}

/// Puts together what is known. `sent`: what Naru sent to PID 1, oldest first; `fault`: what the kernel's log has of it.
pub(crate) fn decide(
    pid: i32,
    ending: Ending,
    sent: &[SentSignal],
    victims: &[OomVictim],
    fault: Option<String>,
) -> EndCause {
    let (signal, core_dumped) = match ending.kind {
        EndingKind::Lost => return EndCause::StatusLost,
        EndingKind::Exited => {
            return EndCause::Exited {
                code: ending.exit_code,
                after: sent.last().cloned(),
            };
        }
        EndingKind::Signaled { signal, core_dumped } => (signal, core_dumped),
    };
    if signal == libc::SIGKILL
        && let Some(victim) = victims.iter().find(|victim| victim.pid == pid)
    {
        return EndCause::OutOfMemory {
            victim: victim.clone(),
        };
    }
    let own = sent.iter().rev().find(|sent| sent.signal == signal).cloned();
    let sender = match (own, fault) {
        (Some(sent), _) => SignalSender::Naru(sent),
        (None, Some(log)) => SignalSender::Kernel { log },
        (None, None) if is_fault(signal) => SignalSender::Unlogged,
        (None, None) => SignalSender::Outside,
    };
    EndCause::Signaled {
        signal,
        core_dumped,
        sender,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signaled(signal: i32) -> Ending {
        Ending {
            exit_code: 128 + signal,
            kind: EndingKind::Signaled {
                signal,
                core_dumped: false,
            },
        }
    }

    fn sent(signal: i32, by: Requester) -> SentSignal {
        SentSignal {
            signal,
            reason: by.into(),
            sent_at: Timestamp::from_parts(0, 0),
        }
    }

    fn victim(pid: i32) -> OomVictim {
        OomVictim {
            pid,
            name: "tail".to_owned(),
            scope: OomScope::Limit,
            memory_bytes: 1,
        }
    }

    #[test]
    fn four_ways_to_137_are_four_causes() {
        let kill = sent(9, Requester::KillRequest);
        let by_kill = decide(7, signaled(9), std::slice::from_ref(&kill), &[], None);
        let by_kernel = decide(7, signaled(9), &[], &[victim(7)], None);
        let by_outsider = decide(7, signaled(9), &[], &[victim(8)], None);
        let own = Ending {
            exit_code: 137,
            kind: EndingKind::Exited,
        };
        assert!(
            matches!(by_kill, EndCause::Signaled { sender: SignalSender::Naru(sent), .. } if sent == kill)
        );
        assert!(matches!(by_kernel, EndCause::OutOfMemory { victim } if victim.pid == 7));
        assert!(matches!(
            by_outsider,
            EndCause::Signaled {
                sender: SignalSender::Outside,
                ..
            }
        ));
        assert_eq!(
            decide(7, own, &[], &[], None),
            EndCause::Exited {
                code: 137,
                after: None
            }
        );
    }

    #[test]
    fn a_signal_is_naru_s_only_if_naru_sent_that_one() {
        let term = [sent(15, Requester::StopRequest)];
        let cause = decide(7, signaled(9), &term, &[], None);
        assert!(matches!(
            cause,
            EndCause::Signaled {
                sender: SignalSender::Outside,
                ..
            }
        ));
        let cause = decide(7, signaled(11), &[], &[], None);
        assert!(matches!(
            cause,
            EndCause::Signaled {
                sender: SignalSender::Unlogged,
                ..
            }
        ));
    }

    #[test]
    fn reports_come_back_from_their_text() {
        let report = EndReport {
            cause: decide(7, signaled(9), &[sent(9, Requester::RemoveRequest)], &[], None),
            pressure: Pressure {
                oom_victims: vec![victim(8)],
                ..Pressure::default()
            },
        };
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(
            serde_json::from_str::<EndReport>(&text).unwrap(),
            report,
            "{text}"
        );
    }
}
