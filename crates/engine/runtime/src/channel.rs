//! How a keeper and its stem (later: PID 1 before `execve`) talk: frames on a stream socket, descriptors alongside.
//!
//! A frame is its body's length in four bytes (native order) and the body in JSON; descriptors travel with the length.

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, sendmsg, socketpair,
};
use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The most descriptors a frame carries: three standard streams.
const DESCRIPTORS_MAX: usize = 4;
/// A longer frame is an error; a custom seccomp profile is some tens of KiB, a large environment up to 2 MiB.
const FRAME_BYTES_MAX: usize = 16 << 20;

#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
}

impl Channel {
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self { socket: a }, Self { socket: b }))
    }

    pub(crate) fn from_socket(socket: OwnedFd) -> Self {
        Self { socket }
    }

    pub(crate) fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_bytes(&serde_json::to_vec(message)?, fds)
    }

    /// Sends a frame whose body is there already.
    pub(crate) fn send_bytes(&self, body: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let length = u32::try_from(body.len())
            .map_err(|_| io::ErrorKind::InvalidInput)?
            .to_ne_bytes();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let parts = [IoSlice::new(&length), IoSlice::new(body)];
        let mut sent = retry(|| sendmsg(&self.socket, &parts, &mut ancillary, SendFlags::NOSIGNAL))?;
        while sent < length.len() + body.len() {
            // The length is tiny: the first call always takes it whole.
            let rest = body.get(sent.saturating_sub(length.len())..).unwrap_or_default();
            sent += retry(|| rustix::net::send(&self.socket, rest, SendFlags::NOSIGNAL))?;
        }
        Ok(())
    }

    /// The next frame, or `None` when the other side has closed.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let Some((body, fds)) = self.receive_bytes()? else {
            return Ok(None);
        };
        Ok(Some((serde_json::from_slice(&body)?, fds)))
    }

    /// As [`Channel::receive`], the frame's body unread.
    pub(crate) fn receive_bytes(&self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        let mut length = [0_u8; 4];
        let mut fds = Vec::new();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
        let count = retry(|| {
            recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut length)],
                &mut ancillary,
                flags,
            )
            .map(|message| message.bytes)
        })?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        match count {
            0 => return Ok(None),
            4 => {}
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        let length = u32::from_ne_bytes(length) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut body = vec![0; length];
        let mut filled = 0;
        while filled < length {
            let (count, _) = retry(|| recv(&self.socket, &mut body[filled..], RecvFlags::WAITALL))?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += count;
        }
        Ok(Some((body, fds)))
    }
}

impl Channel {
    /// Lets the other side pass its gate.
    pub(crate) fn open_gate(&self) -> io::Result<()> {
        retry(|| rustix::net::send(&self.socket, &[0], SendFlags::NOSIGNAL)).map(drop)
    }

    /// Lets the other side execute its program, and gives it a descriptor to hold until it has.
    pub(crate) fn permit(&self, notice: BorrowedFd<'_>) -> io::Result<()> {
        self.send_bytes(&[], &[notice])
    }

    /// Sends nothing more: whoever waits at the gate gives up.
    pub(crate) fn close_gate(&self) {
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write);
    }

    /// Waits until the other side opens the gate.
    pub(crate) fn pass_gate(&self) -> io::Result<()> {
        let mut byte = [0_u8; 1];
        match retry(|| recv(&self.socket, &mut byte, RecvFlags::empty()))? {
            (1.., _) => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Waits for the permission to execute. The descriptor that comes with it is closed by `execve` or the process's
    /// end, and so tells of it.
    pub(crate) fn await_permit(&self) -> io::Result<OwnedFd> {
        let received = self.receive_bytes()?;
        let notice = received.and_then(|(_, fds)| fds.into_iter().next());
        notice.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_larger_than_the_socket_buffer_arrive_whole() {
        let (a, b) = Channel::pair().unwrap();
        let text = "x".repeat(1 << 20);
        let sender = {
            let text = text.clone();
            std::thread::spawn(move || a.send(&text, &[a.as_fd()]).unwrap())
        };
        let (received, fds) = b.receive::<String>().unwrap().unwrap();
        sender.join().unwrap();
        assert_eq!(received, text);
        assert_eq!(fds.len(), 1);
        drop(fds);
        assert!(b.receive::<String>().unwrap().is_none());
    }
}
