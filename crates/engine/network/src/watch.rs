//! News of changes to the host's nftables rules, for putting back what a reload of the firewall took away.

use crate::error::{Result, refused};
use crate::nftables::{DELETE_ELEMENT, FIXED_BYTES, MULTICAST_GROUP, NEW_ELEMENT, NEW_GENERATION, SUBSYSTEM};
use crate::{Network, open_socket};
use naru_sys::netlink::{self, Messages, Protocol as Family};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A socket that becomes readable when tables, chains or rules change. Changes of map elements alone, such as every
/// published port, do not wake it.
#[derive(Debug)]
pub struct RulesetWatch {
    socket: OwnedFd,
}

impl Network {
    /// Starts watching. Poll the result for reading, then call [`RulesetWatch::drain`].
    pub fn watch_rulesets(&self) -> Result<RulesetWatch> {
        let socket = open_socket(Family::Netfilter)?;
        let ignored = [NEW_ELEMENT, DELETE_ELEMENT, NEW_GENERATION].map(|kind| SUBSYSTEM << 8 | kind);
        netlink::ignore_message_types(socket.as_fd(), &ignored)
            .and_then(|()| netlink::join_group(socket.as_fd(), MULTICAST_GROUP))
            .map_err(|errno| refused("watch nftables")(errno.into()))?;
        Ok(RulesetWatch { socket })
    }
}

impl RulesetWatch {
    /// Reads all that is waiting; true if something changed and [`Network::ensure_foreign_accept`] should be called.
    /// Naru's own rules cause no second call: with them in place nothing is written.
    pub fn drain(&self) -> bool {
        let mut has_changed = false;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match netlink::receive_waiting(self.socket.as_fd(), &mut buffer) {
                Ok(Some(length)) => {
                    has_changed |=
                        Messages(&buffer[..length]).any(|message| message.payload.len() > FIXED_BYTES);
                }
                Ok(None) => return has_changed,
                // More happened than the queue holds.
                Err(Errno::NOBUFS) => has_changed = true,
                Err(_) => return true,
            }
        }
    }
}

impl AsFd for RulesetWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
