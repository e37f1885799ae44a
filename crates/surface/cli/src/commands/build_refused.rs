//! Flags of other builders' clients that mean nothing here: each is answered with why, and what to do.

use crate::Arguments;
use crate::args::Kind::{Bool, List, Text};
use crate::args::{Flag, long};
use crate::error::{CliError, Result};

pub const FLAGS: &[Flag] = &[
    long(
        "builder",
        Text("string"),
        "Not supported: use --host or --context",
    ),
    long("debug", Bool, "Not supported: use --enter"),
    long("policy", List("list"), "Not supported"),
    long(
        "resource",
        List("list"),
        "Not supported: use --memory, --cpu-quota and --ulimit",
    ),
];

const REASONS: [(&str, &str); 4] = [
    (
        "builder",
        "an engine builds for itself: choose one with --host or --context",
    ),
    (
        "debug",
        "use --enter, which opens a shell in what a failed step left",
    ),
    (
        "policy",
        "pin what a build brings: images by digest, ADD by --checksum",
    ),
    (
        "resource",
        "use --memory, --cpu-quota, --cpuset-cpus and --ulimit",
    ),
];

pub fn check(arguments: &Arguments) -> Result<()> {
    if let Some(other) = arguments.list("allow").find(|allowed| *allowed != "network.host") {
        return Err(CliError::message(format!(
            "--allow {other} is not supported: every step runs confined; network.host can be allowed"
        )));
    }
    let refused = REASONS
        .iter()
        .find(|(flag, _)| arguments.text(flag).is_some_and(|value| value != "false"));
    refused.map_or(Ok(()), |(flag, reason)| {
        Err(CliError::message(format!("--{flag} is not supported: {reason}")))
    })
}
