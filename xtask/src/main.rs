//! The project's own commands, for a person and for CI alike: `cargo xtask ci`.
//!
//! Needs the Rust toolchain and a C linker to start; `setup` brings the rest.

mod arrows;
mod incidents;
mod run;
mod setup;
mod steps;
mod tidy;
mod vm;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask COMMAND

  ci           everything below that checks, in order, with one closing line
  setup        installs what the checks need: Debian packages, and a Python environment under target/
  tidy         the project's own rules about its source
  e2e [ARGS]   end-to-end tests with real clients; ARGS go to pytest
  vm           the end-to-end subset on a kernel with cgroup v2 only
  bench [NAME] measures against Docker, Podman and the bare runtimes
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rest = arguments.get(1..).unwrap_or_default();
    let outcome = match arguments.first().map(String::as_str) {
        Some("ci") => steps::ci(),
        Some("setup") => setup::install(),
        Some("tidy") => tidy::check_and_report(),
        Some("e2e") => steps::e2e(rest),
        Some("bench") => steps::bench(rest),
        Some("vm") => steps::vm(rest),
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
