//! Netlink sockets: framing of requests, one exchange with the kernel, and the kernel's reasons for a refusal.
//!
//! A [`Batch`] holds one or more messages and is sent in one system call. The kernel works through it before the call
//! returns, so that every answer is already waiting when [`exchange`] reads. What the messages mean is the caller's.

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// `sizeof(struct nlmsghdr)`.
const HEADER_BYTES: usize = 16;
/// One answer of a dump is at most 32 KiB (`netlink_dump`), one acknowledgement far less.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Room for about 30,000 map elements in one transaction.
const SEND_BUFFER_BYTES: libc::c_int = 4 * 1024 * 1024;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Fail if the object exists.
pub const FLAG_EXCLUSIVE: u16 = 0x200;
/// Make the object if it does not exist.
pub const FLAG_CREATE: u16 = 0x400;
/// Replace the object if it exists.
pub const FLAG_REPLACE: u16 = 0x100;
/// Add at the end of a list.
pub const FLAG_APPEND: u16 = 0x800;
/// Answer with every object of the kind.
pub const FLAG_DUMP: u16 = 0x300;

/// The kernel subsystem a socket talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Route,
    Netfilter,
}

/// What the kernel refused.
#[derive(Debug)]
pub struct Refusal {
    pub errno: Errno,
    /// The kernel's own sentence, where it gave one (extended acknowledgement).
    pub reason: Option<String>,
    /// Which message of the batch, counted from 0; `None` when the exchange itself failed.
    pub message: Option<usize>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = io::Error::from(self.errno);
        match &self.reason {
            Some(reason) => write!(f, "{error}: {reason}"),
            None => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self {
            errno,
            reason: None,
            message: None,
        }
    }
}

/// Opens a netlink socket in the calling thread's network namespace, closed on exec, with full error texts.
pub fn open(protocol: Protocol) -> Result<OwnedFd, Errno> {
    let protocol = match protocol {
        Protocol::Route => None,
        Protocol::Netfilter => Some(netlink::NETFILTER),
    };
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    )?;
    request_error_texts(socket.as_fd());
    // Without the privilege the default stands, which holds some 1,500 elements.
    let _ = set_option(
        socket.as_fd(),
        libc::SOL_SOCKET,
        libc::SO_SNDBUFFORCE,
        SEND_BUFFER_BYTES,
    );
    Ok(socket)
}

/// Asks for extended acknowledgements that do not repeat the request. For sockets that somebody else opened; a kernel
/// without them still answers with a plain number.
pub fn request_error_texts(socket: BorrowedFd<'_>) {
    let _ = set_option(socket, libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1);
    let _ = set_option(socket, libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1);
}

/// Binds a fresh socket and subscribes it to a multicast group by number.
pub fn join_group(socket: BorrowedFd<'_>, group: u32) -> Result<(), Errno> {
    // News is sent to all but port 0, which is what a socket without an address looks like.
    rustix::net::bind(socket, &netlink::SocketAddrNetlink::new(0, 0))?;
    set_option(
        socket,
        libc::SOL_NETLINK,
        libc::NETLINK_ADD_MEMBERSHIP,
        group as libc::c_int,
    )
}

fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> Result<(), Errno> {
    // SAFETY: the pointer and length describe `value`, which lives through the call; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Drops packets whose first message has one of these types before they are queued, so that nobody is woken for them.
/// At most 16 types.
pub fn ignore_message_types(socket: BorrowedFd<'_>, types: &[u16]) -> Result<(), Errno> {
    if types.len() > 16 {
        return Err(Errno::INVAL);
    }
    let instruction = |code: u32, jump_true: u8, jump_false: u8, value: u32| libc::sock_filter {
        code: code as u16,
        jt: jump_true,
        jf: jump_false,
        k: value,
    };
    // The type is the header's bytes 4 and 5 in host order; the filter machine reads them in network order.
    let mut program = vec![instruction(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, 4)];
    for (index, kind) in types.iter().enumerate() {
        let to_drop = (types.len() - index) as u8;
        let value = u32::from(u16::from_be_bytes(kind.to_ne_bytes()));
        program.push(instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            to_drop,
            0,
            value,
        ));
    }
    program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX));
    program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0));
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: `filter` points at `program`, both live through the call; the kernel copies and verifies the program.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// The index of an interface in the namespace that `socket` (of any kind) belongs to.
pub fn interface_index(socket: BorrowedFd<'_>, name: &str) -> Result<u32, Errno> {
    rustix::net::netdevice::name_to_index(socket, name)
}

/// Carries a change of an interface's carrier through at once: queues start, and a bridge opens the port. The kernel
/// otherwise does so from a worker a little later, and drops what is sent meanwhile. `socket` is any socket of the
/// interface's namespace.
pub fn settle_carrier(socket: BorrowedFd<'_>, interface: &str) -> Result<(), Errno> {
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    const ETHTOOL_GLINK: u32 = 0x0a;
    let mut value = [ETHTOOL_GLINK, 0];
    // SAFETY: an all-zero `ifreq` is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(Errno::NODEV);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: `request` and the `ethtool_value` it points to (`value`) live through the call; the kernel writes the
    // link's state into the latter's second word.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Messages under construction.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    count: usize,
    message_start: usize,
}

/// Where a nested attribute began; close it with [`Batch::end_nested`].
#[derive(Debug)]
#[must_use]
pub struct Nested(usize);

impl Batch {
    pub fn new() -> Self {
        Self {
            bytes: Vec::with_capacity(1024),
            count: 0,
            message_start: 0,
        }
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Begins a message that is answered only if it fails, with its fixed part (`ifinfomsg`, `nfgenmsg`, …).
    pub fn begin(&mut self, kind: u16, flags: u16, fixed: &[u8]) {
        self.finish();
        self.message_start = self.bytes.len();
        self.count += 1;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes
            .extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        // Sequence numbers are positions, so that an answer names its message; exchanges never overlap on a socket.
        self.bytes.extend_from_slice(&(self.count as u32).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(fixed);
        self.pad();
    }

    /// Asks for an answer to the message just begun even when it succeeds. A batch needs one, on its last message or
    /// (nftables) on the last before the end marker.
    pub fn acknowledge(&mut self) {
        let at = self.message_start + 6;
        let flags = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]) | NLM_F_ACK;
        self.bytes[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
    }

    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = (4 + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// A text with its terminating zero.
    pub fn attribute_text(&mut self, kind: u16, text: &str) {
        let length = (4 + text.len() + 1) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    /// In the host's byte order, as rtnetlink has it.
    pub fn attribute_u32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// In network byte order, as nf_tables has it.
    pub fn attribute_be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    pub fn begin_nested(&mut self, kind: u16) -> Nested {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        Nested(start)
    }

    /// Bytes inside a nested attribute that are not an attribute themselves (`VETH_INFO_PEER` begins with such).
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    #[expect(clippy::needless_pass_by_value, reason = "an attribute is closed once")]
    pub fn end_nested(&mut self, nested: Nested) {
        let length = (self.bytes.len() - nested.0) as u16;
        self.bytes[nested.0..nested.0 + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn finish(&mut self) {
        if self.count > 0 {
            let length = (self.bytes.len() - self.message_start) as u32;
            let start = self.message_start;
            self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        }
    }
}

/// A message received.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes after a fixed part of so many bytes.
    pub fn attributes(&self, fixed_bytes: usize) -> Attributes<'a> {
        Attributes(
            self.payload
                .get(fixed_bytes.next_multiple_of(4)..)
                .unwrap_or_default(),
        )
    }
}

/// The messages in one packet; ends at the first malformed one.
#[derive(Debug)]
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;
    fn next(&mut self) -> Option<Message<'a>> {
        let header = self.0.get(..HEADER_BYTES)?;
        let length = u32_at(header, 0)? as usize;
        let payload = self.0.get(HEADER_BYTES..length)?;
        let message = Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: u32_at(header, 8)?,
            payload,
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

/// Attributes as (type, value); ends at the first malformed one.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first attribute of a type.
    pub fn get(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// A nested attribute's own attributes; none when it is missing.
    pub fn nested(self, kind: u16) -> Attributes<'a> {
        Attributes(self.get(kind).unwrap_or_default())
    }

    /// A text without its terminating zero.
    pub fn text(self, kind: u16) -> Option<&'a str> {
        let value = self.get(kind)?;
        let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
        std::str::from_utf8(&value[..end]).ok()
    }

    pub fn u32(self, kind: u16) -> Option<u32> {
        u32_at(self.get(kind)?, 0)
    }

    pub fn be32(self, kind: u16) -> Option<u32> {
        self.get(kind)?.first_chunk().copied().map(u32::from_be_bytes)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);
    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at + 4)?
        .first_chunk()
        .copied()
        .map(u32::from_ne_bytes)
}

/// Sends a batch and reads the answers. The first refusal is the result, but every message has been tried (rtnetlink)
/// or none has had an effect (nf_tables). The caller holds the socket for itself meanwhile.
pub fn exchange(socket: BorrowedFd<'_>, mut batch: Batch) -> Result<(), Refusal> {
    batch.finish();
    send(socket, &batch.bytes)?;
    let mut refusal = None;
    let mut is_acknowledged = false;
    let mut buffer = [0_u8; 8192];
    loop {
        let length = match receive(socket, &mut buffer, RecvFlags::DONTWAIT) {
            // All answers were queued while the batch was being sent.
            Err(Errno::AGAIN) => break,
            Err(errno) => return Err(refusal.unwrap_or(errno.into())),
            Ok(length) => length,
        };
        for message in Messages(&buffer[..length]) {
            match parse_acknowledgement(&message) {
                Some(Ok(())) => is_acknowledged = true,
                Some(Err(found)) if refusal.is_none() => refusal = Some(found),
                _ => {}
            }
        }
    }
    match refusal {
        Some(refusal) => Err(refusal),
        None if is_acknowledged => Ok(()),
        None => Err(Errno::PROTO.into()),
    }
}

/// Sends a request for a list (with [`FLAG_DUMP`]) and gives each object to `each`. A list that changed while it was
/// being read is what it is; callers that must know read again.
pub fn dump(
    socket: BorrowedFd<'_>,
    mut request: Batch,
    mut each: impl FnMut(Message<'_>),
) -> Result<(), Refusal> {
    request.finish();
    send(socket, &request.bytes)?;
    let mut buffer = vec![0_u8; RECEIVE_BYTES];
    loop {
        let length = receive(socket, &mut buffer, RecvFlags::empty())?;
        for message in Messages(&buffer[..length]) {
            match message.kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return parse_acknowledgement(&message).unwrap_or(Err(Errno::PROTO.into())),
                _ => each(message),
            }
        }
    }
}

/// Reads one packet that is waiting, without waiting for one; `None` when there is none.
pub fn receive_waiting(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
    match receive(socket, buffer, RecvFlags::DONTWAIT) {
        Ok(length) => Ok(Some(length)),
        Err(Errno::AGAIN) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> Result<(), Errno> {
    // A netlink socket that is not connected sends to the kernel.
    rustix::io::retry_on_intr(|| rustix::net::send(socket, bytes, SendFlags::empty())).map(drop)
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], flags: RecvFlags) -> Result<usize, Errno> {
    rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut *buffer, flags)).map(|(length, _)| length)
}

fn parse_acknowledgement(message: &Message<'_>) -> Option<Result<(), Refusal>> {
    if message.kind != NLMSG_ERROR {
        return None;
    }
    let code = u32_at(message.payload, 0)? as i32;
    if code == 0 {
        return Some(Ok(()));
    }
    // After the number comes the request's header, then (unless capped) its body, then the attributes.
    let request_bytes = match u32_at(message.payload, 4) {
        Some(length) if message.flags & NLM_F_CAPPED == 0 => length as usize,
        _ => HEADER_BYTES,
    };
    let reason = (message.flags & NLM_F_ACK_TLVS != 0)
        .then(|| {
            message
                .attributes(4 + request_bytes)
                .text(NLMSGERR_ATTR_MSG)
                .map(str::to_owned)
        })
        .flatten();
    Some(Err(Refusal {
        errno: Errno::from_raw_os_error(-code),
        reason,
        message: (message.sequence as usize).checked_sub(1),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_the_way_out_and_back() {
        let mut batch = Batch::new();
        batch.begin(16, FLAG_CREATE, &[1, 2, 3]);
        batch.attribute_text(3, "lo");
        let nested = batch.begin_nested(18);
        batch.attribute_be32(1, 7);
        batch.end_nested(nested);
        batch.begin(17, 0, &[]);
        batch.acknowledge();
        batch.finish();
        let messages: Vec<_> = Messages(&batch.bytes).collect();
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[0].attributes(3).text(3), Some("lo"));
        assert_eq!(messages[0].attributes(3).nested(18).be32(1), Some(7));
        assert_eq!(messages[1].flags, NLM_F_ACK | NLM_F_REQUEST);
        assert_eq!(messages[1].sequence, 2);
    }

    #[test]
    fn truncated_packets_end_quietly() {
        let mut batch = Batch::new();
        batch.begin(16, 0, &[0; 16]);
        batch.attribute_text(3, "eth0");
        batch.finish();
        for length in 0..batch.bytes.len() {
            for message in Messages(&batch.bytes[..length]) {
                assert!(message.attributes(16).count() <= 1);
            }
        }
        assert_eq!(Attributes(&[3, 0, 1, 0]).count(), 0);
    }

    #[test]
    fn the_kernel_gives_its_reason() {
        let socket = open(Protocol::Route).unwrap();
        let mut batch = Batch::new();
        // RTM_NEWLINK of an unknown kind without a name to create.
        batch.begin(18, 0, &[0; 16]);
        batch.acknowledge();
        let refusal = exchange(socket.as_fd(), batch).unwrap_err();
        assert_eq!(refusal.message, Some(0));
    }
}
