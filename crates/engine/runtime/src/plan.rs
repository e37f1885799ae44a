//! What the runtime is told: plain data, complete, with no choices left in it.
//!
//! The container itself is an OCI runtime specification (`config.json`, version 1.2); the types here add what that
//! specification leaves to its caller: the layers under the root filesystem, names of users still to be resolved
//! inside it, and the cgroup that already exists.

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::OnceLock;

/// Everything needed to turn a prepared stem process into a running container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerPlan {
    /// The container's id, for those outside who are told of it.
    #[serde(default)]
    pub container: String,
    /// The OCI runtime specification. `root.path`, `process.user` and `linux.seccomp` are passed over in favour of what
    /// is named here; `linux.resources` and `linux.cgroupsPath` are the caller's, who makes the cgroup. What else the
    /// runtime does not do it refuses.
    pub spec: Spec,
    pub rootfs: RootfsPlan,
    /// `--user` as given: `name`, `uid`, `name:group`, `uid:gid`, or empty for root. Resolved in the root filesystem.
    pub user: String,
    /// `--group-add`: group names or numbers, resolved in the root filesystem.
    pub additional_groups: Vec<String>,
    /// Run Naru's own init as PID 1, which forwards signals and reaps (`--init`).
    pub with_init: bool,
    /// Taken instead of `spec.linux.seccomp`, so that the default profile need not travel with every start.
    pub seccomp: SeccompPlan,
}

/// A [`ContainerPlan`] on its way: written once, and read once by the process that carries it out.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EncodedPlan(String);

impl EncodedPlan {
    pub fn encode(plan: &ContainerPlan) -> Result<Self, serde_json::Error> {
        serde_json::to_string(plan).map(Self)
    }

    pub fn decode(&self) -> Result<ContainerPlan, serde_json::Error> {
        serde_json::from_str(&self.0)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// A plan as large as most, for [`rehearse`].
static SAMPLE: OnceLock<EncodedPlan> = OnceLock::new();

pub(crate) fn warm_up() {
    let sample = ContainerPlan {
        spec: Spec::default(),
        rootfs: RootfsPlan::Directory { path: PathBuf::new() },
        container: String::new(),
        user: String::new(),
        additional_groups: Vec::new(),
        with_init: false,
        seccomp: SeccompPlan::Default,
    };
    if let Ok(sample) = EncodedPlan::encode(&sample) {
        let _ = SAMPLE.set(sample);
    }
}

/// Reads a plan for practice. A process forked from another takes a page fault at the first touch of each page of its
/// own memory and of its program; whoever parks takes them before the start rather than during it.
pub(crate) fn rehearse() {
    if let Some(sample) = SAMPLE.get() {
        std::hint::black_box(sample.decode().is_ok());
    }
}

/// Which system calls a process may make.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeccompPlan {
    /// The default profile for the process's bounding capabilities, compiled ahead and cached.
    #[default]
    Default,
    Unconfined,
    Profile(Box<oci_spec::runtime::LinuxSeccomp>),
}

/// The root filesystem of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootfsPlan {
    /// An overlay, mounted inside the container's own mount namespace only. `lower` has the topmost layer first.
    Overlay {
        lower: Vec<PathBuf>,
        upper: PathBuf,
        work: PathBuf,
    },
    /// A directory used as it is.
    Directory { path: PathBuf },
}

/// Which namespaces a stem process makes before it parks. Those that the container is to join instead are joined at
/// start, from the paths in `spec.linux.namespaces`; the mount namespace is always new.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StemPlan {
    /// Path of the container's cgroup, relative to the root of every hierarchy: `/naru/<id>`. It exists already.
    pub cgroup: String,
    /// The user namespace that all others are to belong to; `None` stays in the caller's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserNamespacePlan>,
    /// Kinds that the container shares with the host. A stem in a user namespace could not go back for them, so it
    /// never leaves them; any other stem leaves all and goes back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<LinuxNamespaceType>,
}

/// A user namespace for a stem (OCI runtime specification, "User namespace mappings").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserNamespacePlan {
    /// A new one; both mappings have a place for root.
    New {
        uid_mappings: Vec<LinuxIdMapping>,
        gid_mappings: Vec<LinuxIdMapping>,
    },
    /// Another container's: `/proc/<pid>/ns/user`.
    Join { path: PathBuf },
}

/// The ids that the root of a user namespace has on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedRoot {
    pub uid: u32,
    pub gid: u32,
}

/// A process to start in a running container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecPlan {
    /// As in [`ContainerPlan::container`].
    #[serde(default)]
    pub container: String,
    /// `args`, `env`, `cwd`, `capabilities`, `no_new_privileges`, `rlimits`, `terminal` and `console_size`.
    pub process: oci_spec::runtime::Process,
    /// As in [`ContainerPlan::user`], resolved in the container's root filesystem.
    pub user: String,
    pub additional_groups: Vec<String>,
    pub seccomp: SeccompPlan,
    pub place: ExecPlace,
}

/// Where the processes of a container are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecPlace {
    /// The container's own cgroup path, as in [`StemPlan::cgroup`].
    pub cgroup: String,
    /// The root of the container's user namespace, where it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapped_root: Option<MappedRoot>,
    /// The container has a time namespace of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_time_namespace: bool,
    /// The number of its processes is limited.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_process_limit: bool,
}

/// Why a container or an exec did not start. Docker's exit codes follow from `kind`: 127, 126 or 125.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct StartFailure {
    /// The step that failed, a short stable word: `rootfs`, `mount`, `user`, `exec`, …
    pub step: String,
    pub kind: StartFailureKind,
    /// One sentence for people: what, where, the system's reason.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartFailureKind {
    /// The command does not exist in the container (exit code 127).
    CommandNotFound,
    /// The command exists but cannot be run: permission, a directory, for instance (exit code 126).
    CommandNotExecutable,
    /// The command is there, and what is to read it, a script's interpreter or a program's loader, is not (127).
    InterpreterMissing,
    /// The command is for another kind of machine, or no program at all (126).
    FormatUnknown,
    /// The request cannot be satisfied: unknown user, missing bind source, impossible limit (exit code 125).
    Invalid,
    /// The host refused or failed (exit code 125).
    System,
}
