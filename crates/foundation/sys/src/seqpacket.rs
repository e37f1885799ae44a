//! Unix sockets that keep the bounds of messages (`SOCK_SEQPACKET`) and carry file descriptors.
//!
//! Every descriptor made or received here is close-on-exec. Names in the abstract namespace are never used, because
//! a process that shares the host's network namespace could reach them. Sockets are blocking unless
//! [`SeqPacket::set_nonblocking`] says otherwise; then an operation that would wait fails with
//! [`io::ErrorKind::WouldBlock`] and has done nothing.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Most descriptors in one packet. The kernel's own limit is 253; a container's start needs one for each attached
/// client and nothing else more than two.
pub const DESCRIPTORS_MAX: usize = 64;

/// Connections the kernel queues before `accept`.
const BACKLOG: i32 = 128;

/// One end of a connection.
#[derive(Debug)]
pub struct SeqPacket {
    socket: OwnedFd,
}

/// A socket with a path that others connect to.
#[derive(Debug)]
pub struct SeqPacketListener {
    socket: OwnedFd,
}

/// What arrived in one packet.
#[derive(Debug)]
pub struct Packet {
    pub bytes: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
}

impl SeqPacket {
    /// Two ends connected to each other.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self { socket: a }, Self { socket: b }))
    }

    /// Connects to the listener at `path`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = new_socket(SocketFlags::CLOEXEC)?;
        with_address(path, |address| rustix::net::connect(&socket, address))?;
        Ok(Self { socket })
    }

    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.socket, nonblocking)?)
    }

    /// Sends one packet whole. `bytes` and `descriptors` must not both be empty: that is how an end looks.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if bytes.is_empty() && descriptors.is_empty() || descriptors.len() > DESCRIPTORS_MAX {
            return Err(Errno::INVAL.into());
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(Errno::INVAL.into());
        }
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(
                &self.socket,
                &[IoSlice::new(bytes)],
                &mut control,
                SendFlags::NOSIGNAL,
            )
        })?;
        Ok(())
    }

    /// Receives one packet whole; `None` when the other end has closed. A packet with more than [`DESCRIPTORS_MAX`]
    /// descriptors, or longer than `bytes_max`, is an error, and what it carried is closed.
    pub fn receive(&self, bytes_max: usize) -> io::Result<Option<Packet>> {
        // The length is asked for first, so that a small message costs a small buffer.
        let peek = RecvFlags::PEEK | RecvFlags::TRUNC;
        let (_, length) =
            rustix::io::retry_on_intr(|| rustix::net::recv(&self.socket, &mut [0_u8; 0][..], peek))?;
        let mut bytes = vec![0; length.min(bytes_max)];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = rustix::io::retry_on_intr(|| {
            let mut slices = [IoSliceMut::new(&mut bytes)];
            rustix::net::recvmsg(&self.socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)
        })?;
        let descriptors = take_descriptors(&mut control);
        if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a packet was longer than allowed",
            ));
        }
        if message.bytes == 0 && descriptors.is_empty() {
            return Ok(None);
        }
        bytes.truncate(message.bytes);
        Ok(Some(Packet { bytes, descriptors }))
    }
}

impl SeqPacketListener {
    /// Makes the socket at `path`, which must not exist, with mode 0600.
    pub fn listen(path: &Path) -> io::Result<Self> {
        let socket = new_socket(SocketFlags::CLOEXEC)?;
        // The file takes the mode of the socket itself, so there is no moment in which others may connect.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        with_address(path, |address| rustix::net::bind(&socket, address))?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(Self { socket })
    }

    /// The next connection, in blocking mode.
    pub fn accept(&self) -> io::Result<SeqPacket> {
        let socket =
            rustix::io::retry_on_intr(|| rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC))?;
        Ok(SeqPacket { socket })
    }

    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.socket, nonblocking)?)
    }
}

impl From<OwnedFd> for SeqPacket {
    fn from(socket: OwnedFd) -> Self {
        Self { socket }
    }
}

impl From<OwnedFd> for SeqPacketListener {
    fn from(socket: OwnedFd) -> Self {
        Self { socket }
    }
}

impl From<SeqPacketListener> for OwnedFd {
    fn from(listener: SeqPacketListener) -> Self {
        listener.socket
    }
}

impl From<SeqPacket> for OwnedFd {
    fn from(packet: SeqPacket) -> Self {
        packet.socket
    }
}

impl AsFd for SeqPacket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for SeqPacket {
    fn as_raw_fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }
}

impl AsRawFd for SeqPacketListener {
    fn as_raw_fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }
}

impl AsFd for SeqPacketListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn new_socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

fn take_descriptors(control: &mut RecvAncillaryBuffer<'_>) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    descriptors
}

/// Calls `act` with the address of `path`. A path too long for `sun_path` (108 bytes) is reached through a
/// descriptor of its folder.
fn with_address(path: &Path, act: impl FnOnce(&SocketAddrUnix) -> rustix::io::Result<()>) -> io::Result<()> {
    match SocketAddrUnix::new(path) {
        Ok(address) => Ok(act(&address)?),
        Err(Errno::NAMETOOLONG) => {
            let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(Errno::NAMETOOLONG.into());
            };
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let folder = rustix::fs::open(folder, flags, Mode::empty())?;
            let short = Path::new("/proc/self/fd")
                .join(folder.as_raw_fd().to_string())
                .join(name);
            Ok(act(&SocketAddrUnix::new(&short)?)?)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_keep_their_bounds_and_descriptors() {
        let (a, b) = SeqPacket::pair().unwrap();
        a.send(b"one", &[]).unwrap();
        a.send(b"", &[a.as_fd(), a.as_fd()]).unwrap();
        let first = b.receive(100).unwrap().unwrap();
        assert_eq!(
            (first.bytes.as_slice(), first.descriptors.len()),
            (&b"one"[..], 0)
        );
        let second = b.receive(100).unwrap().unwrap();
        assert_eq!((second.bytes.len(), second.descriptors.len()), (0, 2));
        drop((a, second));
        assert!(b.receive(100).unwrap().is_none());
    }

    #[test]
    fn a_packet_over_the_limit_is_an_error_and_the_next_one_is_whole() {
        let (a, b) = SeqPacket::pair().unwrap();
        a.send(&[7; 200], &[]).unwrap();
        a.send(b"next", &[]).unwrap();
        assert_eq!(b.receive(100).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(b.receive(100).unwrap().unwrap().bytes, b"next");
    }

    #[test]
    fn a_nonblocking_socket_says_so() {
        let (a, b) = SeqPacket::pair().unwrap();
        b.set_nonblocking(true).unwrap();
        assert_eq!(b.receive(100).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(a);
        assert!(b.receive(100).unwrap().is_none());
    }

    #[test]
    fn long_paths_are_reached() {
        let folder =
            std::env::temp_dir().join(format!("seqpacket-{}-{}", std::process::id(), "x".repeat(120)));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("socket");
        let listener = SeqPacketListener::listen(&path).unwrap();
        let client = SeqPacket::connect(&path).unwrap();
        let server = listener.accept().unwrap();
        client.send(b"hello", &[]).unwrap();
        assert_eq!(server.receive(10).unwrap().unwrap().bytes, b"hello");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
