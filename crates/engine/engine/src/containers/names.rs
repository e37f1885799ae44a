//! Names: which are allowed, and one made up when none is given.

use crate::error::{EngineError, Result};
use naru_base::ContainerId;

const QUALITIES: [&str; 32] = [
    "amber", "brisk", "calm", "clear", "eager", "early", "easy", "fair", "fleet", "fond", "gentle", "glad",
    "golden", "grand", "keen", "kind", "light", "lively", "lucky", "mellow", "merry", "nimble", "patient",
    "plain", "quick", "quiet", "ready", "silver", "steady", "still", "sunny", "warm",
];

const CRAFT: [&str; 32] = [
    "barge",
    "beacon",
    "bollard",
    "buoy",
    "canoe",
    "catamaran",
    "clipper",
    "coracle",
    "cutter",
    "dhow",
    "dinghy",
    "dory",
    "ferry",
    "frigate",
    "galleon",
    "gondola",
    "harbour",
    "jetty",
    "junk",
    "kayak",
    "ketch",
    "landing",
    "lantern",
    "lugger",
    "packet",
    "pier",
    "punt",
    "raft",
    "schooner",
    "skiff",
    "sloop",
    "yawl",
];

/// A name such as `calm_ferry_3f9`, from the id's own random digits, so that it is as good as never taken.
pub fn made_up(id: &ContainerId) -> String {
    let digit = |at: usize| usize::from_str_radix(&id.as_str()[at..at + 2], 16).unwrap_or_default();
    format!(
        "{}_{}_{}",
        QUALITIES[digit(0) % 32],
        CRAFT[digit(2) % 32],
        &id.as_str()[4..8]
    )
}

/// Checks a name given by a client: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`, a leading slash taken off.
pub fn parse(name: &str) -> Result<String> {
    let name = name.strip_prefix('/').unwrap_or(name);
    let is_word = |byte: u8| byte.is_ascii_alphanumeric();
    let is_good = name.len() >= 2
        && name.bytes().next().is_some_and(is_word)
        && name
            .bytes()
            .all(|byte| is_word(byte) || matches!(byte, b'_' | b'.' | b'-'));
    if is_good {
        Ok(name.to_owned())
    } else {
        Err(EngineError::invalid(format!(
            "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_paths_are_refused() {
        for name in ["", "a", "/", "../x", "a/b", ".hidden", "-flag", "a b", "ü1"] {
            assert!(parse(name).is_err(), "{name:?}");
        }
        assert_eq!(parse("/web-1.x_y").unwrap(), "web-1.x_y");
    }

    #[test]
    fn made_up_names_are_allowed_names() {
        let name = made_up(&ContainerId::generate());
        assert_eq!(parse(&name).unwrap(), name);
    }
}
