//! From an OCI runtime specification to a process: namespaces, root filesystem, limits, privileges, `execve`.
pub mod plan;
