//! `system stop` and `system dial-stdio`.

use super::{Arity, Command};
use crate::args::Order;
use crate::error::{CliError, Result};
use crate::{Arguments, Session, output};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

pub const STOP: Command = Command {
    names: &["system stop"],
    usage: "",
    about: "Stop the daemon; containers keep running",
    flags: &[],
    order: Order::Mixed,
    arity: Arity::None,
    run: stop,
};

pub const DIAL_STDIO: Command = Command {
    names: &["system dial-stdio"],
    usage: "",
    about: "Proxy the stdio stream to the daemon connection; not for people: ssh:// runs it at the other end",
    flags: &[],
    order: Order::Mixed,
    arity: Arity::None,
    run: dial_stdio,
};

/// Longer than a daemon needs to end its parked processes.
const STOP_SECONDS_MAX: u64 = 20;

/// Ends when the daemon's side does; the end of standard input is passed on as a half-close.
fn dial_stdio(session: &Session, _: &Arguments) -> Result<u8> {
    let transport = CliError::Transport;
    let socket = session.client.connect()?;
    let mut from_daemon = socket.try_clone().map_err(transport)?;
    let mut to_daemon = socket;
    // It may stand in a read of standard input for ever: the process ends without it.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut to_daemon);
        let _ = to_daemon.shutdown_write();
    });
    copy_out(&mut from_daemon)
}

/// Every byte at once: the peer waits for it.
fn copy_out(from: &mut impl Read) -> Result<u8> {
    let mut block = vec![0; 64 * 1024];
    let mut stdout = std::io::stdout().lock();
    loop {
        let count = from.read(&mut block).map_err(CliError::Transport)?;
        if count == 0 {
            return Ok(0);
        }
        stdout
            .write_all(&block[..count])
            .and_then(|()| stdout.flush())
            .map_err(CliError::Output)?;
    }
}

fn stop(session: &Session, _: &Arguments) -> Result<u8> {
    let pidfile = session.config.exec_root.join("naru.pid");
    let Ok(text) = std::fs::read_to_string(&pidfile) else {
        return output::print_line("no daemon is running").map(|()| 0);
    };
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| CliError::message(format!("{} holds no process id", pidfile.display())))?;
    if !is_daemon(pid) {
        return output::print_line("no daemon is running").map(|()| 0);
    }
    kill_process(pid, Signal::TERM)
        .map_err(|error| CliError::message(format!("stop the daemon (process {}): {error}", text.trim())))?;
    let deadline = Instant::now() + Duration::from_secs(STOP_SECONDS_MAX);
    while test_kill_process(pid).is_ok() && is_daemon(pid) {
        if Instant::now() >= deadline {
            return Err(CliError::message(format!(
                "the daemon (process {}) has not ended after {STOP_SECONDS_MAX} s",
                text.trim()
            )));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(0)
}

/// Whether the process is a daemon of this program: a stale pidfile may name a stranger.
fn is_daemon(pid: Pid) -> bool {
    let command = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    command
        .split(|byte| *byte == 0)
        .take(3)
        .any(|word| word == b"daemon")
}
