//! Signals: which ones a process ignores, and sending any of them, the real-time ones included.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Ignores `signal` in this process and, until they say otherwise, in those it forks.
pub fn ignore(signal: i32) -> io::Result<()> {
    // SAFETY: a zeroed sigaction is valid; it gets the ignoring action and no old one is asked for.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_IGN;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut())
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sends `signal` to the process that `pidfd` refers to; 0 only asks whether it is there.
pub fn send(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo asks the kernel to fill in its own.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            none,
            0_u32,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
