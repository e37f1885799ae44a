//! Bytes as a JSON string, in the form Docker's json-file driver gives them.

/// Appends one line of the file.
pub fn append_line(out: &mut Vec<u8>, message: &[&[u8]], stream: &str, time: &str) {
    out.extend_from_slice(b"{\"log\":\"");
    append_text(out, message);
    out.extend_from_slice(b"\",\"stream\":\"");
    out.extend_from_slice(stream.as_bytes());
    out.extend_from_slice(b"\",\"time\":\"");
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(b"\"}\n");
}

/// The parts make one text: a character may lie across two of them.
fn append_text(out: &mut Vec<u8>, parts: &[&[u8]]) {
    match parts {
        [part] => append_escaped(out, part),
        _ => append_escaped(out, &parts.concat()),
    }
}

/// Each invalid byte becomes U+FFFD, as Go's decoder counts them.
fn append_escaped(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        append_valid(out, chunk.valid());
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

fn append_valid(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut plain_from = 0;
    let mut index = 0;
    while index < bytes.len() {
        let byte = bytes[index];
        let width = if is_line_separator(&bytes[index..]) { 3 } else { 1 };
        if width == 1 && !needs_escape(byte) {
            index += 1;
            continue;
        }
        out.extend_from_slice(&bytes[plain_from..index]);
        append_escape(out, byte, bytes.get(index + 2).copied().unwrap_or(0));
        index += width;
        plain_from = index;
    }
    out.extend_from_slice(&bytes[plain_from..]);
}

/// U+2028 and U+2029, which are not safe inside JavaScript and which Go therefore escapes.
fn is_line_separator(bytes: &[u8]) -> bool {
    matches!(bytes, [0xe2, 0x80, 0xa8 | 0xa9, ..])
}

fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&')
}

fn append_escape(out: &mut Vec<u8>, byte: u8, third: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        0xe2 => out.extend_from_slice(if third == 0xa8 { b"\\u2028" } else { b"\\u2029" }),
        _ => {
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(parts: &[&[u8]]) -> String {
        let mut out = Vec::new();
        append_text(&mut out, parts);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_is_escaped_as_docker_does() {
        assert_eq!(encoded(&[b"a\"b\\c\n"]), r#"a\"b\\c\n"#);
        assert_eq!(
            encoded(&[b"<a>&\t\x1b[0m\r\x7f"]),
            "\\u003ca\\u003e\\u0026\\u0009\\u001b[0m\\r\x7f"
        );
        assert_eq!(encoded(&["x\u{2028}\u{2029}€".as_bytes()]), "x\\u2028\\u2029€");
    }

    #[test]
    fn invalid_bytes_are_replaced_one_by_one() {
        assert_eq!(encoded(&[b"a\xff\xfeb"]), "a\\ufffd\\ufffdb");
        assert_eq!(encoded(&[b"a\xe2\x82"]), "a\\ufffd\\ufffd");
        assert_eq!(encoded(&[b"a\xe2\x82", b"\xac!"]), "a€!");
    }
}
