//! `update`: changes limits and the restart policy of containers.

use super::{Arity, Command};
use crate::args::Kind::{Bytes, BytesOrMinusOne, Decimal, Int, Text, Uint16};
use crate::args::{Flag, Order, flag, long};
use crate::error::{CliError, Result};
use crate::http::Body;
use crate::options::plan_update;
use crate::session_io::container_path;
use crate::{Arguments, Session, output};

const FLAGS: &[Flag] = &[
    long(
        "blkio-weight",
        Uint16,
        "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)",
    ),
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
    long(
        "cpu-rt-period",
        Int,
        "Limit the CPU real-time period in microseconds",
    ),
    long(
        "cpu-rt-runtime",
        Int,
        "Limit the CPU real-time runtime in microseconds",
    ),
    flag("cpu-shares", 'c', Int, "CPU shares (relative weight)"),
    long("cpus", Decimal, "Number of CPUs"),
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
    long("memory-reservation", Bytes, "Memory soft limit"),
    long(
        "memory-swap",
        BytesOrMinusOne,
        "Swap limit equal to memory plus swap: -1 to enable unlimited swap",
    ),
    long(
        "pids-limit",
        Int,
        "Tune container pids limit (set -1 for unlimited)",
    ),
    long(
        "restart",
        Text("string"),
        "Restart policy to apply when a container exits",
    ),
];

pub const COMMAND: Command = Command {
    names: &["container update", "update"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Update configuration of one or more containers",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::AtLeast(1),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    if !FLAGS.iter().any(|flag| arguments.is_given(flag.long)) {
        return Err(CliError::message(
            "you must provide one or more flags when using this command",
        ));
    }
    let body = plan_update(arguments).map_err(CliError::Message)?;
    output::for_each_name(&arguments.positional, |name| {
        let path = format!("{}/update", container_path(name));
        let answer = session.client.json("POST", &path, Body::Json(&body))?;
        for warning in answer.get("Warnings").items() {
            crate::output::tell!("{}", warning.text());
        }
        output::print_line(name)
    })
}
