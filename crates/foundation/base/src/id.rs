//! Identifiers: each is a type of its own, checked when it is made, so that a path built from one is safe.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Why a text is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("{0:?} is not 64 lowercase hexadecimal digits")]
    NotHex64(String),
    #[error("{0:?} is not a digest; expected sha256:<64 lowercase hexadecimal digits>")]
    NotDigest(String),
}

fn is_hex64(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn random_hex64() -> String {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).expect("the kernel's random source answers");
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        use fmt::Write;
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

/// As a container's hostname a number would be a name that resolvers take for an address and never look up; one id in
/// 280 begins with twelve decimal digits.
fn is_number(short: &str) -> bool {
    short.bytes().all(|digit| digit.is_ascii_digit())
}

macro_rules! hex64_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// A new random identifier, whose short form is no number.
            pub fn generate() -> Self {
                loop {
                    let id = Self(random_hex64());
                    if !is_number(id.short()) {
                        return id;
                    }
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first twelve digits, as listings show it.
            pub fn short(&self) -> &str {
                &self.0[..12]
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                if is_hex64(&text) { Ok(Self(text)) } else { Err(IdError::NotHex64(text)) }
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

hex64_id!(
    /// A container: 64 lowercase hexadecimal digits, random.
    ContainerId
);
hex64_id!(
    /// A network: 64 lowercase hexadecimal digits, random.
    NetworkId
);
hex64_id!(
    /// A process started in a running container by `exec`: 64 lowercase hexadecimal digits, random.
    ExecId
);

/// A content digest, `sha256:` and 64 lowercase hexadecimal digits (OCI image specification, "Digests").
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The digest whose hash is these 32 bytes.
    pub fn from_sha256(hash: [u8; 32]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(71);
        text.push_str("sha256:");
        for byte in hash {
            for digit in [byte >> 4, byte & 0xf] {
                text.push(char::from(DIGITS[usize::from(digit)]));
            }
        }
        Self(text)
    }

    /// The hash itself.
    pub fn to_sha256(&self) -> [u8; 32] {
        let value = |digit: u8| (digit & 0xf) + if digit.is_ascii_digit() { 0 } else { 9 };
        let digits = self.hex().as_bytes();
        std::array::from_fn(|at| value(digits[2 * at]) << 4 | value(digits[2 * at + 1]))
    }

    /// The whole text, algorithm included.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 hexadecimal digits without the algorithm; safe as a file name.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// The first twelve digits, as listings show an image id.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
}

impl TryFrom<String> for Digest {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        match text.strip_prefix("sha256:") {
            Some(hex) if is_hex64(hex) => Ok(Self(text)),
            _ => Err(IdError::NotDigest(text)),
        }
    }
}

impl FromStr for Digest {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::try_from(text.to_owned())
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_reject_anything_that_could_be_a_path() {
        for text in ["", "../../etc", &"A".repeat(64), &"g".repeat(64), &"a".repeat(63)] {
            assert!(text.parse::<ContainerId>().is_err(), "{text:?}");
        }
        assert!("a".repeat(64).parse::<ContainerId>().is_ok());
    }

    #[test]
    fn generated_ids_differ() {
        assert_ne!(ContainerId::generate(), ContainerId::generate());
    }

    #[test]
    fn no_generated_id_is_short_for_a_number() {
        // Of so many, 35 would be.
        for _ in 0..10_000 {
            let id = ContainerId::generate();
            assert!(
                id.short().contains(|digit: char| digit.is_ascii_alphabetic()),
                "{id}"
            );
        }
    }

    #[test]
    fn digests_need_their_algorithm() {
        assert!("a".repeat(64).parse::<Digest>().is_err());
        let digest: Digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        assert_eq!(digest, Digest::from_sha256([0; 32]));
        assert_eq!(digest.hex().len(), 64);
    }
}
