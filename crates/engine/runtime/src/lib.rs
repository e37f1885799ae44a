//! From an OCI runtime specification to a process: namespaces, root filesystem, limits, privileges, `execve`.
//!
//! The entry points fork and must be called from a single-threaded process. This crate never waits for a container,
//! writes no state, makes no cgroup and no network interface, and starts no helper program.

mod ahead;
mod attributes;
mod cgroup;
mod channel;
mod command;
mod container;
mod defaults;
mod devices;
mod exec;
mod failure;
mod mapped_overlay;
mod mounts;
mod namespaces;
mod parked;
pub mod plan;
mod privileges;
mod root;
pub mod seccomp;
mod sources;
mod stem;
mod time;
mod user_namespace;
mod users;
pub mod view;

pub use defaults::{
    default_capabilities, default_masked_paths, default_readonly_paths, supported_capabilities,
};
pub use exec::ExecStem;
pub use seccomp::{default_seccomp, parse_docker_seccomp};
pub use stem::{ChildStdio, Init, Remains, Stem};
pub use user_namespace::as_mapped_root;

/// Does once what every later start would do again: finds the cgroup hierarchies, asks for the kernel's capabilities,
/// compiles the default seccomp profile. The spawner calls it before it forks keepers, which inherit the results.
pub fn warm_up() {
    cgroup::hierarchies();
    privileges::warm_up();
    seccomp::warm_up();
    plan::warm_up();
}

/// Names the static program that `--init` runs as PID 1. The process that forks keepers calls it once.
pub fn set_init_program(bytes: &'static [u8]) {
    command::set_init_program(bytes);
}
