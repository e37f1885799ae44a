//! Sockets inside a container's network namespace, opened by entering it for a moment.

use crate::RESOLVER_ADDRESS;
use naru_sys::{namespace, netlink};
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

/// Does `work` in a network namespace and comes back to `home`. A process that could not come back would go on in the
/// wrong namespace: it ends instead, and the daemon starts another.
pub fn within<T>(
    netns: BorrowedFd<'_>,
    home: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    namespace::join(netns, libc::CLONE_NEWNET)?;
    let result = work();
    if namespace::join(home, libc::CLONE_NEWNET).is_err() {
        std::process::exit(1);
    }
    result
}

/// The two sockets that a container's questions arrive at, with the rules that lead them there.
pub fn open(netns: BorrowedFd<'_>, home: BorrowedFd<'_>) -> io::Result<(UdpSocket, TcpListener)> {
    within(netns, home, || {
        let udp = UdpSocket::bind((RESOLVER_ADDRESS, 0))?;
        let tcp = TcpListener::bind((RESOLVER_ADDRESS, 0))?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        let nft = netlink::open(netlink::Protocol::Netfilter)?;
        let ports = (udp.local_addr()?.port(), tcp.local_addr()?.port());
        naru_network::redirect_dns(nft.as_fd(), RESOLVER_ADDRESS, ports.0, ports.1)
            .map_err(io::Error::other)?;
        Ok((udp, tcp))
    })
}
