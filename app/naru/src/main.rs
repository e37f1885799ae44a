//! The one binary. Its first argument decides which role this process plays; there is no other logic here.

mod container_options;
mod daemon;
mod foreign_options;
mod listen_options;
mod network_options;
mod options;

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    match args.get(1).and_then(|arg| arg.to_str()) {
        // Before anything else: this process must stay small and single-threaded.
        Some(naru_engine::SPAWNER_ROLE) if is_started_by_daemon() => run_spawner(),
        Some(naru_resolver::RESOLVER_ROLE) if is_started_by_daemon() => run_resolver(),
        Some("daemon") => daemon::main(&args[1..]),
        _ => naru_cli::main(
            args,
            naru_cli::Hooks {
                start_daemon: daemon::start_detached,
            },
        ),
    }
}

/// A person who types `naru spawner` or `naru resolver` gets the command line's answer; the daemon hands over a socket.
fn is_started_by_daemon() -> bool {
    rustix::net::sockopt::socket_type(std::io::stdin())
        .is_ok_and(|kind| kind == rustix::net::SocketType::SEQPACKET)
}

/// Its listening socket is standard input.
fn run_resolver() -> ExitCode {
    use std::os::fd::AsFd;
    match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(listener) => naru_resolver::run(listener),
        Err(_) => ExitCode::FAILURE,
    }
}

fn run_spawner() -> ExitCode {
    use std::os::fd::AsFd;
    naru_runtime::set_init_program(naru_programs::INIT);
    match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(socket) => naru_keeper::run_spawner(socket),
        Err(_) => ExitCode::FAILURE,
    }
}
