//! A daemon's connection to this keeper: requests in, replies and events out.

use crate::codec;
use crate::protocol::{FromKeeper, Request};
use naru_sys::seqpacket::SeqPacket;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Packets kept for a daemon that does not read. One that is this far behind is cut off; it may connect again.
const QUEUE_LENGTH_MAX: usize = 1024;

/// One connection; nonblocking.
#[derive(Debug)]
pub struct Connection {
    socket: SeqPacket,
    queue: VecDeque<(FromKeeper, Vec<OwnedFd>)>,
    is_closed: bool,
}

impl Connection {
    pub fn new(socket: SeqPacket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            queue: VecDeque::new(),
            is_closed: false,
        })
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The other end is gone, or has broken the protocol.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Something waits for the other end to read.
    pub fn has_queue(&self) -> bool {
        !self.queue.is_empty() && !self.is_closed
    }

    /// The next request, if one is there.
    pub fn receive(&mut self) -> Option<(Request, Vec<OwnedFd>)> {
        match codec::receive_message(&self.socket) {
            Ok(Some(request)) => Some(request),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Ok(None) | Err(_) => {
                self.is_closed = true;
                None
            }
        }
    }

    /// Sends a message, now or when the other end has made room.
    pub fn send(&mut self, message: FromKeeper, descriptors: &[BorrowedFd<'_>]) {
        if self.is_closed {
            return;
        }
        if self.queue.is_empty() && self.try_send(&message, descriptors) {
            return;
        }
        let copies: io::Result<Vec<OwnedFd>> =
            descriptors.iter().map(BorrowedFd::try_clone_to_owned).collect();
        match copies {
            Ok(copies) if self.queue.len() < QUEUE_LENGTH_MAX => self.queue.push_back((message, copies)),
            _ => self.is_closed = true,
        }
    }

    /// Sends what waits, as far as there is room.
    pub fn flush(&mut self) {
        while let Some((message, descriptors)) = self.queue.pop_front() {
            let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            if !self.try_send(&message, &borrowed) {
                self.queue.push_front((message, descriptors));
                return;
            }
        }
    }

    /// `false` when there is no room now.
    fn try_send(&mut self, message: &FromKeeper, descriptors: &[BorrowedFd<'_>]) -> bool {
        match codec::send_message(&self.socket, message, descriptors) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(_) => {
                self.is_closed = true;
                true
            }
        }
    }
}
