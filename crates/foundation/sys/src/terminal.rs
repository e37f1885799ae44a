//! Pseudo-terminals.

use rustix::pty;
use rustix::termios::Winsize;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Unlocks the pseudo-terminal behind `master` (an open `ptmx`), sets its size, and opens its other side without any
/// path, so that nothing in the file system can redirect it.
pub fn open_peer(master: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<OwnedFd> {
    pty::unlockpt(master)?;
    resize(master, rows, columns)?;
    let flags = pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY | pty::OpenptFlags::CLOEXEC;
    Ok(pty::ioctl_tiocgptpeer(master, flags)?)
}

/// Sets a terminal's size; its foreground processes get `SIGWINCH`.
pub fn resize(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// Makes `terminal` the controlling terminal of the calling session leader.
pub fn make_controlling(terminal: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(terminal)?)
}
