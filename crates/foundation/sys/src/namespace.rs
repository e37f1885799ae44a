//! Entering and leaving namespaces.

use crate::process;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

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

/// Makes a user namespace that nobody is in, with these ids: the texts of `uid_map` and `gid_map`
/// (`user_namespaces(7)`). Only a process can have one made, so one sleeps in it until its ids are written.
pub fn make_user_namespace(uid_map: &str, gid_map: &str) -> io::Result<OwnedFd> {
    // Its descriptors are the caller's own, not copies that would keep files open.
    match process::fork((libc::CLONE_NEWUSER | libc::CLONE_FILES) as u64)? {
        process::Fork::Child => loop {
            // SAFETY: no memory is involved, nor any lock that another thread of the parent may have held.
            unsafe { libc::pause() };
        },
        process::Fork::Parent { pid, pidfd } => {
            let opened = write_ids(pid, uid_map, gid_map);
            rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL)?;
            let by_pidfd = rustix::process::WaitId::PidFd(pidfd.as_fd());
            while let Err(rustix::io::Errno::INTR) =
                rustix::process::waitid(by_pidfd.clone(), rustix::process::WaitIdOptions::EXITED)
            {
            }
            opened
        }
    }
}

fn write_ids(pid: i32, uid_map: &str, gid_map: &str) -> io::Result<OwnedFd> {
    std::fs::write(format!("/proc/{pid}/gid_map"), gid_map)?;
    std::fs::write(format!("/proc/{pid}/uid_map"), uid_map)?;
    std::fs::File::open(format!("/proc/{pid}/ns/user")).map(OwnedFd::from)
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
