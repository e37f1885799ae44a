//! System calls decided by an agent outside the container (`SCMP_ACT_NOTIFY`, OCI runtime specification, "Seccomp").
//!
//! The agent listens on a unix socket of the host's. It is connected to while the host's files are still in sight, and
//! gets the filter's descriptor and the container's state from the process that has just installed the filter.

use crate::failure::{invalid, system};
use crate::plan::{SeccompPlan, StartFailure};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction as Action, LinuxSyscall};
use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, sendmsg, socket_with,
};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// What the specification calls the filter's descriptor.
const DESCRIPTOR_NAME: &str = "seccompFd";
/// The version of the specification that is followed.
const OCI_VERSION: &str = "1.2.0";

pub(super) fn notifies(profile: &LinuxSeccomp) -> bool {
    let rules = profile.syscalls().iter().flatten();
    profile.default_action() == Action::ScmpActNotify
        || rules
            .map(LinuxSyscall::action)
            .any(|action| action == Action::ScmpActNotify)
}

/// Refuses what would leave the starting process waiting for itself, or nobody to ask.
pub(super) fn check(profile: &LinuxSeccomp) -> Result<(), String> {
    if profile.default_action() == Action::ScmpActNotify {
        return Err("SCMP_ACT_NOTIFY cannot be the default action of a seccomp profile".to_owned());
    }
    if profile.listener_path().is_none() {
        return Err("a seccomp profile with SCMP_ACT_NOTIFY needs a listenerPath".to_owned());
    }
    let waits_for_itself = profile
        .syscalls()
        .iter()
        .flatten()
        .filter(|rule| rule.action() == Action::ScmpActNotify)
        .any(|rule| rule.names().iter().any(|name| name == "sendmsg"));
    if waits_for_itself {
        return Err(
            "SCMP_ACT_NOTIFY cannot be used for sendmsg, by which the agent gets the notifications"
                .to_owned(),
        );
    }
    Ok(())
}

/// A connection to the agent, and the host's view of the process that will write to it.
#[derive(Debug)]
pub(crate) struct Agent {
    socket: OwnedFd,
    /// The host's /proc: its `self` is the reader's number on the host.
    proc: OwnedFd,
}

impl Agent {
    /// Connects to the agent that a plan names, while the host's files can be seen. `None` where no call is its.
    pub(crate) fn of(plan: &SeccompPlan) -> Result<Option<Self>, StartFailure> {
        let path = Self::path(plan);
        path.map(|path| Self::with(Self::connect(path)?)).transpose()
    }

    /// As [`Agent::of`], with a socket that the keeper has connected.
    pub(crate) fn with(socket: OwnedFd) -> Result<Self, StartFailure> {
        Ok(Self::new(socket, Self::open_proc()?))
    }

    /// As [`Agent::with`], where the host's files were seen only before: `proc` is what [`Agent::open_proc`] gave then.
    pub(crate) fn new(socket: OwnedFd, proc: OwnedFd) -> Self {
        Self { socket, proc }
    }

    /// The host's /proc.
    pub(crate) fn open_proc() -> Result<OwnedFd, StartFailure> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open("/proc", flags, Mode::empty()).map_err(system("seccomp", "open /proc"))
    }

    pub(crate) fn path(plan: &SeccompPlan) -> Option<&Path> {
        match plan {
            SeccompPlan::Profile(profile) if notifies(profile) => profile.listener_path().as_deref(),
            _ => None,
        }
    }

    pub(crate) fn connect(path: &Path) -> Result<OwnedFd, StartFailure> {
        let what = || format!("connect to the seccomp agent at {}", path.display());
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(system("seccomp", what()))?;
        let address = SocketAddrUnix::new(path).map_err(system("seccomp", what()))?;
        connect(&socket, &address).map_err(|error| {
            invalid(
                "seccomp",
                format!("{}: {}", what(), crate::failure::reason(&error)),
            )
        })?;
        Ok(socket)
    }

    /// Writes the message before the filter is there: afterwards only what is needed to send it is called.
    pub(crate) fn describe(self, plan: &SeccompPlan, container: &str) -> Result<Described, StartFailure> {
        let pid = rustix::fs::readlinkat(&self.proc, "self", Vec::new())
            .map_err(system("seccomp", "find the process's number on the host"))?;
        let pid: i32 = pid
            .to_string_lossy()
            .parse()
            .map_err(system("seccomp", "read the process's number on the host"))?;
        let metadata = match plan {
            SeccompPlan::Profile(profile) => profile.listener_metadata().clone(),
            _ => None,
        };
        let mut state = serde_json::json!({
            "ociVersion": OCI_VERSION,
            "fds": [DESCRIPTOR_NAME],
            "pid": pid,
            "state": {"ociVersion": OCI_VERSION, "id": container, "status": "creating", "pid": pid, "bundle": ""},
        });
        if let Some(metadata) = metadata {
            state["metadata"] = metadata.into();
        }
        Ok(Described {
            socket: self.socket,
            message: state.to_string(),
        })
    }
}

/// An agent, and what it is to be told.
#[derive(Debug)]
pub(crate) struct Described {
    socket: OwnedFd,
    message: String,
}

impl Described {
    /// Hands the filter's descriptor over (the specification's `ContainerProcessState`).
    pub(crate) fn send(self, listener: &OwnedFd) -> Result<(), StartFailure> {
        let fds = [listener.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        let parts = [IoSlice::new(self.message.as_bytes())];
        let sent = sendmsg(&self.socket, &parts, &mut ancillary, SendFlags::NOSIGNAL)
            .map_err(system("seccomp", "send the filter's descriptor to the agent"))?;
        if sent == self.message.len() {
            Ok(())
        } else {
            Err(system("seccomp", "send the state to the agent")(
                "it took only a part",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(json: serde_json::Value) -> LinuxSeccomp {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_profile_that_nobody_can_decide_is_refused() {
        let rule = |name: &str| serde_json::json!([{"names": [name], "action": "SCMP_ACT_NOTIFY"}]);
        let good = profile(serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/agent", "syscalls": rule("mkdir"),
        }));
        assert!(notifies(&good) && check(&good).is_ok());
        for bad in [
            serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rule("mkdir")}),
            serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/a", "syscalls": rule("sendmsg")}),
            serde_json::json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/a"}),
        ] {
            let bad = profile(bad);
            assert!(notifies(&bad) && check(&bad).is_err());
        }
        let plain = profile(serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/agent"}));
        assert!(!notifies(&plain) && Agent::path(&SeccompPlan::Profile(Box::new(plain))).is_none());
    }
}
