//! The few kinds of MessagePack that fluentd's forward protocol needs.

pub(super) fn array(out: &mut Vec<u8>, length: u8) {
    // Arrays here have four places, a fixarray up to fifteen.
    out.push(0x90 | (length & 0x0f));
}

pub(super) fn map(out: &mut Vec<u8>, length: usize) {
    match u8::try_from(length) {
        Ok(small) if small < 16 => out.push(0x80 | small),
        _ => {
            out.push(0xde);
            out.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
}

pub(super) fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = bytes.len();
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(small), _) if small < 32 => out.push(0xa0 | small),
        (Ok(small), _) => out.extend_from_slice(&[0xd9, small]),
        (_, Ok(middle)) => {
            out.push(0xda);
            out.extend_from_slice(&middle.to_be_bytes());
        }
        _ => {
            out.push(0xdb);
            out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
    out.extend_from_slice(bytes);
}

pub(super) fn unsigned(out: &mut Vec<u8>, number: u64) {
    out.push(0xcf);
    out.extend_from_slice(&number.to_be_bytes());
}

/// fluentd's `EventTime`: extension type 0, seconds and nanoseconds.
pub(super) fn event_time(out: &mut Vec<u8>, seconds: u32, nanoseconds: u32) {
    out.extend_from_slice(&[0xd7, 0x00]);
    out.extend_from_slice(&seconds.to_be_bytes());
    out.extend_from_slice(&nanoseconds.to_be_bytes());
}
