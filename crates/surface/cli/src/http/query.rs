//! Paths and their queries.

/// Joins a path and its query, escaping the values.
pub struct Query {
    text: String,
    has_any: bool,
}

impl Query {
    pub fn new(path: &str) -> Self {
        Self {
            text: path.to_owned(),
            has_any: false,
        }
    }

    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.text.push(if self.has_any { '&' } else { '?' });
        self.has_any = true;
        self.text.push_str(key);
        self.text.push('=');
        self.text.push_str(&escape(value));
        self
    }

    pub fn set_if(self, condition: bool, key: &str, value: &str) -> Self {
        if condition { self.set(key, value) } else { self }
    }

    pub fn set_some(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.set(key, value),
            None => self,
        }
    }

    pub fn build(self) -> String {
        self.text
    }
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
pub fn escape(text: &str) -> String {
    use std::fmt::Write;
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// As [`escape`], leaving `/` and `:` alone: image references are path segments with slashes.
pub fn escape_reference(text: &str) -> String {
    escape(text)
        .replace("%2F", "/")
        .replace("%3A", ":")
        .replace("%40", "@")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_escape_their_values() {
        let path = Query::new("/x")
            .set("a", "b c&d")
            .set_if(false, "n", "1")
            .set("f", "{\"k\":[\"v\"]}")
            .build();
        assert_eq!(path, "/x?a=b%20c%26d&f=%7B%22k%22%3A%5B%22v%22%5D%7D");
    }
}
