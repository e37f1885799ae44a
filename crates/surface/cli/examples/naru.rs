//! The command line alone, for trying it against any Docker-compatible engine.

use std::process::ExitCode;

fn main() -> ExitCode {
    let no_daemon = |_: &std::path::Path| Err(std::io::Error::other("this build has no daemon"));
    naru_cli::main(
        std::env::args_os().collect(),
        naru_cli::Hooks {
            start_daemon: no_daemon,
        },
    )
}
