//! Limits that several commands set, each with the same flags.

use crate::args::Kind::{Bytes, BytesOrMinusOne, Decimal, Int, Text, Uint16};
use crate::args::{Flag, flag, long};

/// Of containers and of a build's steps.
pub const LIMITS: &[Flag] = &[
    long(
        "cpu-period",
        Int,
        "Limit CPU CFS (Completely Fair Scheduler) period",
    ),
    long(
        "cpu-quota",
        Int,
        "Limit CPU CFS (Completely Fair Scheduler) quota",
    ),
    flag("cpu-shares", 'c', Int, "CPU shares (relative weight)"),
    long(
        "cpuset-cpus",
        Text("string"),
        "CPUs in which to allow execution (0-3, 0,1)",
    ),
    long(
        "cpuset-mems",
        Text("string"),
        "MEMs in which to allow execution (0-3, 0,1)",
    ),
    flag("memory", 'm', Bytes, "Memory limit"),
    long(
        "memory-swap",
        BytesOrMinusOne,
        "Swap limit equal to memory plus swap: '-1' to enable unlimited swap",
    ),
];

/// Of containers alone.
pub const CONTAINER_LIMITS: &[Flag] = &[
    long(
        "blkio-weight",
        Uint16,
        "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)",
    ),
    long("cpu-rt-period", Int, "Limit CPU real-time period in microseconds"),
    long(
        "cpu-rt-runtime",
        Int,
        "Limit CPU real-time runtime in microseconds",
    ),
    long("cpus", Decimal, "Number of CPUs"),
    long("memory-reservation", Bytes, "Memory soft limit"),
    long(
        "pids-limit",
        Int,
        "Tune container pids limit (set -1 for unlimited)",
    ),
];
