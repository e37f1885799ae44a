//! Packets that no honest daemon, keeper or stem sends.

use naru_fuzz::feed;
use naru_keeper::codec::receive_message;
use naru_keeper::protocol::{Event, Reply, Request};
use naru_sys::seqpacket::SeqPacket;
use std::os::fd::AsFd;

const EXAMPLES: &[&[u8]] = &[
    br#"{"request":"status"}"#,
    br#"{"request":"signal","target":"init","signal":9}"#,
    br#"{"request":"resize","target":{"exec":"aa"},"rows":1,"columns":65535}"#,
    br#"{"request":"mount_ahead","overlay":{"lower":["/a","/b"],"upper":"/u","work":"/w"}}"#,
    br#"{"request":"attach","stdin":true,"stdout":true,"stderr":true,"detach_keys":[16,17]}"#,
    br#"{"reply":"started","pid":1,"start_time":18446744073709551615}"#,
    br#"{"event":"exec_exited","exec":"aa","exit_code":-1}"#,
];

#[test]
fn messages_in_packets() {
    let (ours, theirs) = SeqPacket::pair().unwrap();
    feed(EXAMPLES, |bytes| {
        // A packet over the limit is never sent; that it would be refused is the sender's own test.
        if bytes.is_empty() || ours.send(bytes, &[]).is_err() {
            return;
        }
        let _ = receive_message::<Request>(&theirs);
        let _ = serde_json::from_slice::<Reply>(bytes);
        let _ = serde_json::from_slice::<Event>(bytes);
    });
}

#[test]
fn messages_in_memory_files() {
    let (ours, theirs) = SeqPacket::pair().unwrap();
    feed(EXAMPLES, |bytes| {
        let file = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
        let _ = rustix::io::write(&file, bytes);
        let seals = bytes.first().copied().unwrap_or_default();
        let _ =
            rustix::fs::fcntl_add_seals(&file, rustix::fs::SealFlags::from_bits_truncate(u32::from(seals)));
        ours.send(&[], &[file.as_fd()]).unwrap();
        let _ = receive_message::<Request>(&theirs);
    });
}

#[test]
fn an_empty_packet_without_a_file_is_refused() {
    let (ours, theirs) = SeqPacket::pair().unwrap();
    if ours.send(&[], &[]).is_ok() {
        drop(ours);
        assert!(receive_message::<Request>(&theirs).map_or(true, |message| message.is_none()));
    }
}
