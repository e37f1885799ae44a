//! Stream sockets.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Bytes written to a unix socket which its peer has not read (unix(7), `SIOCOUTQ`), with the kernel's own overhead
/// for them: only zero says something exact.
pub fn unread_bytes(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open for the borrow's life, and SIOCOUTQ (the same number as TIOCOUTQ) writes one int.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_count_until_they_are_read() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        assert_eq!(unread_bytes(ours.as_fd()).unwrap(), 0);
        ours.write_all(b"four").unwrap();
        assert!(unread_bytes(ours.as_fd()).unwrap() > 0);
        theirs.read_exact(&mut [0; 4]).unwrap();
        assert_eq!(unread_bytes(ours.as_fd()).unwrap(), 0);
    }
}
