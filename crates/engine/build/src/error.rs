//! What is wrong with a Dockerfile, and where.

use naru_base::ErrorKind;
use thiserror::Error;

/// A line of a Dockerfile, counted from 1; 0 where the text came from no file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: usize,
    pub last_line: usize,
}

/// A Dockerfile that cannot be built as it is. The message names what, where and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}{message}", prefix(*.place))]
pub struct DockerfileError {
    pub place: Place,
    pub message: String,
}

fn prefix(place: Place) -> String {
    match place {
        Place { line: 0, .. } => String::new(),
        Place { line, .. } => format!("dockerfile parse error on line {line}: "),
    }
}

impl DockerfileError {
    pub fn new(place: Place, message: impl Into<String>) -> Self {
        Self {
            place,
            message: message.into(),
        }
    }

    /// A Dockerfile is the client's own: every fault in it is a fault of the request.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidParameter
    }
}

pub(crate) type Result<T> = std::result::Result<T, DockerfileError>;

/// The nearest of `valid` words to one that is not among them, if one is near enough to have been meant.
pub(crate) fn nearest<'a>(word: &str, valid: &[&'a str]) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    valid
        .iter()
        .map(|candidate| (distance(&word, &candidate.to_ascii_lowercase()), *candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many letters must be changed, added or taken away (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, letter) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, other) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_named_only_if_it_is_near() {
        let valid = ["RUN", "COPY", "ENTRYPOINT", "WORKDIR"];
        assert_eq!(nearest("COPPY", &valid), Some("COPY"));
        assert_eq!(nearest("entripoint", &valid), Some("ENTRYPOINT"));
        assert_eq!(nearest("BANANA", &valid), None);
    }
}
