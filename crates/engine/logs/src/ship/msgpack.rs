//! The few kinds of MessagePack that fluentd's forward protocol needs.

/// What a receiver has answered, as far as it has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ack<'a> {
    /// There must be more of it.
    Partial,
    /// It has the message of this chunk.
    Of(&'a [u8]),
    /// Something else.
    Other,
}

/// Reads `{"ack": chunk}`.
pub(super) fn read_ack(bytes: &[u8]) -> Ack<'_> {
    let rest = match bytes {
        [0x81, rest @ ..] | [0xde, 0, 1, rest @ ..] => rest,
        [] | [0xde] | [0xde, 0] => return Ack::Partial,
        _ => return Ack::Other,
    };
    let (key, rest) = match read_string(rest) {
        Ok(read) => read,
        Err(incomplete) => return incomplete,
    };
    if key != b"ack" {
        return Ack::Other;
    }
    match read_string(rest) {
        Ok((chunk, [])) => Ack::Of(chunk),
        Ok(_) => Ack::Other,
        Err(incomplete) => incomplete,
    }
}

/// A string, or bytes, and what follows; how it fails is what the whole answer is.
fn read_string(bytes: &[u8]) -> Result<(&[u8], &[u8]), Ack<'_>> {
    let (length, rest) = match bytes {
        [first, rest @ ..] if first & 0xe0 == 0xa0 => (usize::from(first & 0x1f), rest),
        [0xd9 | 0xc4, length, rest @ ..] => (usize::from(*length), rest),
        [0xda | 0xc5, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        [] | [0xd9 | 0xc4 | 0xda | 0xc5] | [0xda | 0xc5, _] => return Err(Ack::Partial),
        _ => return Err(Ack::Other),
    };
    rest.split_at_checked(length).ok_or(Ack::Partial)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_they_come() {
        let mut whole = vec![0x81];
        string(&mut whole, b"ack");
        string(&mut whole, &[b'x'; 32]);
        for length in 0..whole.len() {
            assert_eq!(read_ack(&whole[..length]), Ack::Partial, "{length}");
        }
        assert_eq!(read_ack(&whole), Ack::Of(&[b'x'; 32]));
        whole.push(0);
        assert_eq!(read_ack(&whole), Ack::Other);
        assert_eq!(read_ack(b"\x81\xa3nak\xa1x"), Ack::Other);
        assert_eq!(read_ack(b"HTTP"), Ack::Other);
    }
}
