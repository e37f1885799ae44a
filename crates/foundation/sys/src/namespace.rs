//! Entering and leaving namespaces.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Moves the calling process into new namespaces of the kinds in `kinds` (`CLONE_NEW*`).
pub fn unshare(kinds: i32) -> io::Result<()> {
    // SAFETY: only namespace flags are passed on, which share or copy no memory of this process.
    check(unsafe { libc::unshare(kinds & NAMESPACE_KINDS) })
}

const NAMESPACE_KINDS: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWTIME;

/// Gives the calling thread a root, a working directory and a umask of its own: a process of several threads may enter
/// a mount namespace only so.
pub fn unshare_file_system_state() -> io::Result<()> {
    // SAFETY: no memory is shared or copied; other threads keep the state they had.
    check(unsafe { libc::unshare(libc::CLONE_FS) })
}

/// Moves the calling process into the namespace (or, for a pidfd, the namespaces) behind `fd`; `kinds` says which.
pub fn join(fd: BorrowedFd<'_>, kinds: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::setns(fd.as_raw_fd(), kinds) })
}

/// Sets the loopback interface of the present network namespace up.
pub fn set_loopback_up() -> io::Result<()> {
    // SAFETY: no memory is involved.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(raw)?;
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: an ifreq of zeros is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which lives until the call returns.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })
}

fn check(result: i32) -> io::Result<()> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
