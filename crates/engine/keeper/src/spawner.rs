//! The spawner: a small process without threads that forks keepers on demand, so that the daemon never forks.

use crate::codec;
use crate::keeper::run_keeper;
use crate::protocol::SpawnKeeper;
use naru_base::ContainerId;
use naru_sys::process::Fork;
use naru_sys::seqpacket::SeqPacket;
use naru_sys::{process, signal, title};
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::AssertUnwindSafe;

/// Runs the spawner on its socket; ends when the daemon's end of it closes. The calling process must be
/// single-threaded. Every other descriptor from 3 on is closed: nothing else may own any.
pub fn run_spawner(socket: OwnedFd) -> ! {
    let code = match spawn_until_closed(SeqPacket::from(socket)) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("naru-spawner: {error}");
            1
        }
    };
    process::exit_now(code)
}

fn spawn_until_closed(socket: SeqPacket) -> std::io::Result<()> {
    rustix::thread::set_name(c"naru-spawner")?;
    title::find()?;
    title::set("naru-spawner");
    process::close_between(3, socket.as_raw_fd() - 1)?;
    process::close_from((socket.as_raw_fd() + 1).max(3))?;
    // In a session of its own no terminal and no signal to the daemon's process group reaches it. It fails for the
    // leader of a process group, which then is alone in its group already.
    let _ = rustix::process::setsid();
    signal::ignore(libc::SIGCHLD)?;
    signal::ignore(libc::SIGPIPE)?;
    // What a killed keeper leaves comes here and, with SIGCHLD ignored, is reaped by the kernel at once.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    naru_runtime::warm_up();
    // Found once for all keepers, which ask for out-of-memory kills at the end.
    let _ = naru_cgroup::hierarchy();
    while let Some((request, mut descriptors)) = codec::receive_message::<SpawnKeeper>(&socket)? {
        // A keeper that cannot be made shows as its socket closing; the daemon sees that and says so.
        let Some(keeper_socket) = descriptors.pop() else {
            continue;
        };
        if let Ok(Fork::Child) = process::fork(0) {
            become_keeper(socket, keeper_socket, request.container);
        }
    }
    Ok(())
}

fn become_keeper(spawner_socket: SeqPacket, socket: OwnedFd, container: ContainerId) -> ! {
    // Held on to, it would keep the daemon from seeing the spawner's end.
    drop(spawner_socket);
    let prepared = replace_inherited();
    let _ = rustix::thread::set_name(c"naru-keeper");
    title::set(&keeper_title(&container));
    let _ = rustix::process::setsid();
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
        prepared?;
        run_keeper(SeqPacket::from(socket), container)
    }));
    process::exit_now(i32::from(!matches!(outcome, Ok(Ok(())))))
}

/// A keeper as `ps` shows it.
pub(crate) fn keeper_title(container: &ContainerId) -> String {
    format!("naru-keeper {}", container.short())
}

/// Standard streams become `/dev/null`; signals become a keeper's.
fn replace_inherited() -> std::io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    for number in 0..3 {
        process::set_standard_stream(null.as_fd(), number)?;
    }
    process::reset_signals()?;
    for ignored in [
        libc::SIGPIPE,
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
    ] {
        signal::ignore(ignored)?;
    }
    Ok(())
}
