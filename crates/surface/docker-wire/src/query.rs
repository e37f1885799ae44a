//! Query strings: percent encoding both ways, and Docker's idea of a boolean.

/// The parameters of a request, in order; a key may come more than once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads `a=1&b=two%20words&c`. Bytes that are not UTF-8 become replacement characters, as Docker's server does.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|part| !part.is_empty()).map(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(key, true), decode(value, true))
        });
        Self(pairs.collect())
    }

    /// The same query with one more parameter.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.0.push((key.to_owned(), value.into()));
        self
    }

    /// Adds `key=1` when `wanted`.
    #[must_use]
    pub fn with_flag(self, key: &str, wanted: bool) -> Self {
        if wanted { self.with(key, "1") } else { self }
    }

    /// Adds the parameter when there is a value.
    #[must_use]
    pub fn with_option(self, key: &str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// The first value of this key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// The first value of this key, unless it is empty.
    pub fn non_empty(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|value| !value.is_empty())
    }

    /// Every value of this key.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// Docker's boolean: absent, empty, `0`, `no`, `false` and `none` in any case are false, all else is true.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(is_true)
    }

    /// As [`Query::flag`], with another answer for a key that is absent.
    pub fn flag_or(&self, key: &str, absent: bool) -> bool {
        self.get(key).map_or(absent, is_true)
    }

    /// The text after the question mark.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        for (key, value) in &self.0 {
            if !text.is_empty() {
                text.push('&');
            }
            encode_into(&mut text, key, b"");
            text.push('=');
            encode_into(&mut text, value, b"");
        }
        text
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Query {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        )
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

/// Percent-encodes everything but unreserved characters and `safe`.
pub(crate) fn encode_into(target: &mut String, text: &str, safe: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || safe.contains(&byte) {
            target.push(char::from(byte));
        } else {
            target.push('%');
            target.push(char::from(HEX[usize::from(byte >> 4)]));
            target.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_survives_a_round_trip() {
        let query = Query::new()
            .with("filters", r#"{"name":["a b&c=%"]}"#)
            .with("é", "+");
        assert_eq!(Query::parse(&query.encode()), query);
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
