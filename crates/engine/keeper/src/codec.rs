//! Messages on a seqpacket connection: JSON in the packet, or, when large, in a sealed memfd that comes first among
//! the packet's descriptors.
//!
//! The functions work on blocking and on nonblocking sockets; on the latter [`io::ErrorKind::WouldBlock`] means that
//! nothing has happened yet. Any other error leaves the connection usable only for closing it.

use crate::protocol::INLINE_BYTES_MAX;
use naru_sys::seqpacket::SeqPacket;
use rustix::fs::{MemfdFlags, SealFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Largest message accepted. A start request with the largest seccomp profile and a full environment stays under
/// 4 MiB (the kernel's limit on arguments and environment is 6 MiB).
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why a packet is not a message; found inside an [`io::Error`] of kind `InvalidData`.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("a message of {bytes} bytes is over the limit of {MESSAGE_BYTES_MAX}")]
    TooLarge { bytes: u64 },
    #[error("a large message came without its sealed memory file")]
    NotSealed,
    #[error("a message is not what the protocol says: {0}")]
    Malformed(#[from] serde_json::Error),
}

impl From<CodecError> for io::Error {
    fn from(error: CodecError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Sends `message` and, with it, `descriptors`.
pub fn send_message<T: Serialize>(
    socket: &SeqPacket,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = encode(message)?;
    if bytes.len() <= INLINE_BYTES_MAX {
        return socket.send(&bytes, descriptors);
    }
    let file = seal_in_memory(&bytes)?;
    let mut all = Vec::with_capacity(descriptors.len() + 1);
    all.push(file.as_fd());
    all.extend_from_slice(descriptors);
    socket.send(&[], &all)
}

/// The JSON text of a message.
pub fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let bytes = serde_json::to_vec(message).map_err(CodecError::from)?;
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(CodecError::TooLarge {
            bytes: bytes.len() as u64,
        }
        .into());
    }
    Ok(bytes)
}

/// Receives one message with its descriptors; `None` when the other end has closed.
pub fn receive_message<T: DeserializeOwned>(socket: &SeqPacket) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let Some(mut packet) = socket.receive(INLINE_BYTES_MAX)? else {
        return Ok(None);
    };
    if packet.bytes.is_empty() {
        let file = packet.descriptors.remove(0);
        packet.bytes = read_sealed(&file)?;
    }
    let message = serde_json::from_slice(&packet.bytes).map_err(CodecError::from)?;
    Ok(Some((message, packet.descriptors)))
}

fn seal_in_memory(bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create("naru-message", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest))?;
        rest = &rest[written..];
    }
    naru_sys::memory::seal(&file)?;
    Ok(file)
}

fn required_seals() -> SealFlags {
    SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK
}

/// Reads a memory file that its sender can no longer change.
fn read_sealed(file: &OwnedFd) -> io::Result<Vec<u8>> {
    match rustix::fs::fcntl_get_seals(file) {
        Ok(seals) if seals.contains(required_seals()) => {}
        _ => return Err(CodecError::NotSealed.into()),
    }
    let size = rustix::fs::fstat(file)?.st_size as u64;
    if size > MESSAGE_BYTES_MAX as u64 {
        return Err(CodecError::TooLarge { bytes: size }.into());
    }
    let mut bytes = vec![0; size as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        let count =
            rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut bytes[filled..], filled as u64))?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += count;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_messages_arrive_with_their_descriptors() {
        let (a, b) = SeqPacket::pair().unwrap();
        for size in [10, INLINE_BYTES_MAX - 2, INLINE_BYTES_MAX, 3_000_000] {
            let text = "x".repeat(size);
            send_message(&a, &text, &[a.as_fd()]).unwrap();
            let (got, descriptors) = receive_message::<String>(&b).unwrap().unwrap();
            assert_eq!(got, text);
            assert_eq!(descriptors.len(), 1);
        }
    }

    #[test]
    fn a_large_message_must_be_sealed() {
        let (a, b) = SeqPacket::pair().unwrap();
        let file = rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::io::write(&file, b"\"x\"").unwrap();
        a.send(&[], &[file.as_fd()]).unwrap();
        let error = receive_message::<String>(&b).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        a.send(&[], &[pipe.as_fd()]).unwrap();
        assert_eq!(
            receive_message::<String>(&b).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }

    #[test]
    fn nonsense_is_an_error_and_an_end_is_none() {
        let (a, b) = SeqPacket::pair().unwrap();
        a.send(b"{", &[]).unwrap();
        assert!(receive_message::<String>(&b).is_err());
        a.send(b"\xff\xfe", &[]).unwrap();
        assert!(receive_message::<String>(&b).is_err());
        drop(a);
        assert!(receive_message::<String>(&b).unwrap().is_none());
    }
}
