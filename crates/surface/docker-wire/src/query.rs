//! Query strings: percent encoding, and Docker's idea of a boolean.

/// The parameters of a request, in order; a key may come more than once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=1&b=two%20words&c`. Bytes that are not UTF-8 become replacement characters, as Docker's server does.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|part| !part.is_empty()).map(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(key, true), decode(value, true))
        });
        Self(pairs.collect())
    }

    /// The first value of this key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// Every value of this key, in order.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// The first value of this key, unless it is empty.
    pub fn non_empty(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|value| !value.is_empty())
    }

    /// Docker's boolean: absent, empty, `0`, `no`, `false` and `none` in any case are false, all else is true.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(is_true)
    }

    /// As [`Query::flag`], with another answer for a key that is absent.
    pub fn flag_or(&self, key: &str, absent: bool) -> bool {
        self.get(key).map_or(absent, is_true)
    }
}

fn is_true(value: &str) -> bool {
    let value = value.trim();
    !(value.is_empty()
        || ["0", "no", "false", "none"]
            .iter()
            .any(|no| value.eq_ignore_ascii_case(no)))
}

/// Undoes percent encoding; a stray `%` stands for itself.
pub fn decode(text: &str, plus_is_space: bool) -> String {
    if !text
        .bytes()
        .any(|byte| byte == b'%' || (plus_is_space && byte == b'+'))
    {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        match bytes[index] {
            b'%' => {
                if let Some(byte) = hex_pair(bytes.get(index + 1), bytes.get(index + 2)) {
                    decoded.push(byte);
                    index += 3;
                    continue;
                }
                decoded.push(b'%');
            }
            b'+' if plus_is_space => decoded.push(b' '),
            byte => decoded.push(byte),
        }
        index += 1;
    }
    String::from_utf8(decoded).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn hex_pair(high: Option<&u8>, low: Option<&u8>) -> Option<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    u8::try_from(digit(high?)? * 16 + digit(low?)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse("filters=%7B%22name%22%3A%5B%22a+b%26c%3D%25%22%5D%7D&%C3%A9=%2B&empty");
        assert_eq!(query.get("filters"), Some(r#"{"name":["a b&c=%"]}"#));
        assert_eq!(query.get("é"), Some("+"));
        assert_eq!((query.get("empty"), query.non_empty("empty")), (Some(""), None));
    }

    #[test]
    fn booleans_are_dockers() {
        let query = Query::parse("a=1&b=False&c&d=none&e=anything&f=0");
        let flags: Vec<bool> = ["a", "b", "c", "d", "e", "f", "g"]
            .iter()
            .map(|key| query.flag(key))
            .collect();
        assert_eq!(flags, [true, false, false, false, true, false, false]);
    }

    #[test]
    fn broken_escapes_and_bytes_do_not_fail() {
        assert_eq!(decode("%", true), "%");
        assert_eq!(decode("%zz%4", true), "%zz%4");
        assert_eq!(decode("%ff", true), "\u{fffd}");
        assert_eq!(decode("a+b", false), "a+b");
    }
}
