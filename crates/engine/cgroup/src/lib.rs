//! Control groups, version 1 and 2: made, entered, limited, frozen, killed, measured and removed.
//!
//! A [`Cgroup`] is a path below the root of every mounted hierarchy, `/naru/<id>`. Limits come as the OCI runtime
//! specification's `linux.resources`, in v1 terms as that specification has them, and are translated for v2.
//!
//! Calls block for as long as the kernel does: microseconds, except for the first attachment after a pause (11 ms) and
//! for [`Cgroup::freeze`], [`Cgroup::kill_all`] and [`Cgroup::remove`], which wait, within bounds, for processes.
//!
//! On a host run by systemd with v2 the parent directory is made at the root of the hierarchy, beside `system.slice`.
//! That works, and systemd leaves it alone; but systemd documents the root as its own, and expects others below a unit
//! with `Delegate=yes`. Whoever wants that gives such a unit's cgroup as the parent.
//!
//! This crate never starts a process, never moves one that it was not told to, and never changes a directory it did not
//! make, except that v2 controllers are enabled (never disabled) for the children of the directories above it.

mod cgroup;
mod devices;
mod error;
mod hierarchy;
mod limits;
mod stats;

pub use cgroup::{Cgroup, list_children};
pub use devices::default_device_rules;
pub use error::{CgroupError, Result};
pub use hierarchy::{Hierarchy, Root, Version, hierarchy};
pub use stats::{BlkioStats, CpuStats, IoEntry, MemoryStats, PidsStats, Stats};
