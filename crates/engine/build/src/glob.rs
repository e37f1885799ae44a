//! Patterns with `*` and `?`, compared in time that the lengths of pattern and text bound: whoever writes a Dockerfile or
//! an ignore file must not be able to make a build think for ever.

/// What one part of a pattern stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Literal(char),
    /// One character; a slash too, if it may.
    One {
        crosses: bool,
    },
    /// Any number of characters; slashes too, if it may.
    Many {
        crosses: bool,
    },
    /// Nothing, or anything that ends in a slash: `**/`.
    Directories,
    Class {
        is_negated: bool,
        ranges: Vec<(char, char)>,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Glob(Vec<Part>);

impl Glob {
    pub(crate) fn new(parts: Vec<Part>) -> Self {
        Self(parts)
    }

    /// The same for a text that is read from its end. Not for [`Part::Directories`].
    pub(crate) fn reversed(mut self) -> Self {
        self.0.reverse();
        self
    }

    pub(crate) fn fits(&self, text: &str) -> bool {
        if let Some(literal) = self.as_literal() {
            return literal.eq(text.chars());
        }
        let text: Vec<char> = text.chars().collect();
        self.ends(&text).last() == Some(&true)
    }

    /// Most patterns are plain names.
    fn as_literal(&self) -> Option<impl Iterator<Item = char> + '_> {
        let is_plain = self.0.iter().all(|part| matches!(part, Part::Literal(_)));
        is_plain.then(|| {
            self.0.iter().filter_map(|part| match part {
                Part::Literal(letter) => Some(*letter),
                _ => None,
            })
        })
    }

    /// For each length of the text's beginning whether the whole pattern fits it.
    pub(crate) fn ends(&self, text: &[char]) -> Vec<bool> {
        let mut reached = vec![false; text.len() + 1];
        reached[0] = true;
        for part in &self.0 {
            reached = part.advance(&reached, text);
        }
        reached
    }

    /// How much work comparing with a text of this length is, about.
    pub(crate) fn cost(&self, length: usize) -> usize {
        (self.0.len() + 1).saturating_mul(length + 1)
    }
}

impl Part {
    /// Where the text can be after this part, given where it can be before.
    fn advance(&self, before: &[bool], text: &[char]) -> Vec<bool> {
        let mut after = vec![false; before.len()];
        match self {
            Self::Many { crosses } => {
                let mut goes_on = false;
                for (at, is_reached) in before.iter().enumerate() {
                    let crossed = at > 0 && (*crosses || text[at - 1] != '/');
                    goes_on = *is_reached || goes_on && crossed;
                    after[at] = goes_on;
                }
            }
            Self::Directories => {
                let mut has_begun = false;
                for (at, is_reached) in before.iter().enumerate() {
                    after[at] = *is_reached || has_begun && text[at - 1] == '/';
                    has_begun |= *is_reached;
                }
            }
            one => {
                for (at, letter) in text.iter().enumerate() {
                    after[at + 1] = before[at] && one.fits(*letter);
                }
            }
        }
        after
    }

    fn fits(&self, letter: char) -> bool {
        match self {
            Self::Literal(own) => *own == letter,
            Self::One { crosses } => *crosses || letter != '/',
            Self::Class { is_negated, ranges } => {
                let is_in = ranges
                    .iter()
                    .any(|(first, last)| (*first..=*last).contains(&letter));
                is_in != *is_negated
            }
            Self::Many { .. } | Self::Directories => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_patterns_take_no_time() {
        let many = |_| [Part::Many { crosses: true }, Part::Literal('a')];
        let glob = Glob::new((0..200).flat_map(many).collect());
        let text = "a".repeat(5000);
        assert!(glob.fits(&text));
        assert!(!glob.fits(&(text + "b")));
    }
}
