//! The two kinds of pattern that filters take: Go's regular expressions and Go's shell patterns.

use std::iter::Peekable;
use std::str::Chars;

/// Whether an unanchored regular expression is found in the text. One that cannot be read fits nothing, as with Docker.
pub fn is_found(pattern: &str, text: &str) -> bool {
    regex::Regex::new(pattern).is_ok_and(|expression| expression.is_match(text))
}

/// Docker's `name` filters of containers and networks, read once: an expression may count on the slash that names begin with, or not.
pub struct NamePatterns {
    is_absent: bool,
    expressions: Vec<regex::Regex>,
}

impl NamePatterns {
    pub fn new(patterns: &[String]) -> Self {
        let readable = patterns
            .iter()
            .filter_map(|pattern| regex::Regex::new(pattern).ok());
        Self {
            is_absent: patterns.is_empty(),
            expressions: readable.collect(),
        }
    }

    /// Whether one of them is found in the name; no pattern at all lets everything through.
    pub fn fit(&self, name: &str) -> bool {
        let slashed = format!("/{name}");
        let is_in = |expression: &regex::Regex| expression.is_match(name) || expression.is_match(&slashed);
        self.is_absent || self.expressions.iter().any(is_in)
    }
}

/// Go's `path.Match`: `*` stands for any text without a slash, `?` for one character, `[a-z]` and `[^a-z]` for one of a
/// class, a backslash takes a meaning away. A pattern that is wrong fits nothing.
pub fn fits(pattern: &str, text: &str) -> bool {
    let mut rest = pattern.chars().peekable();
    let Some(first) = rest.next() else {
        return text.is_empty();
    };
    let mut characters = text.chars();
    match first {
        '*' => {
            let after: String = rest.collect();
            let ends = text
                .char_indices()
                .map(|(index, _)| index)
                .chain([text.len()])
                .take_while(|index| !text[..*index].contains('/'));
            ends.into_iter().any(|index| fits(&after, &text[index..]))
        }
        '?' => {
            characters.next().is_some_and(|c| c != '/')
                && fits(&rest.collect::<String>(), characters.as_str())
        }
        '[' => {
            let Some(character) = characters.next() else {
                return false;
            };
            is_in_class(&mut rest, character) == Some(true)
                && character != '/'
                && fits(&rest.collect::<String>(), characters.as_str())
        }
        '\\' => rest.next() == characters.next() && fits(&rest.collect::<String>(), characters.as_str()),
        literal => characters.next() == Some(literal) && fits(&rest.collect::<String>(), characters.as_str()),
    }
}

/// Reads a class to its end; `None` when it has none.
fn is_in_class(pattern: &mut Peekable<Chars<'_>>, character: char) -> Option<bool> {
    let is_negated = pattern.next_if_eq(&'^').is_some();
    let mut is_found = false;
    let mut is_first = true;
    loop {
        let low = match pattern.next()? {
            ']' if !is_first => return Some(is_found != is_negated),
            '\\' => pattern.next()?,
            low => low,
        };
        is_first = false;
        let high = if pattern.next_if_eq(&'-').is_some() {
            match pattern.next()? {
                '\\' => pattern.next()?,
                high => high,
            }
        } else {
            low
        };
        is_found |= (low..=high).contains(&character);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_expressions() {
        let is_named = |pattern: &str, name: &str| NamePatterns::new(&[pattern.to_owned()]).fit(name);
        assert!(is_named("eb", "web-1"));
        assert!(is_named("^/web-1$", "web-1") && is_named("^web-1$", "web-1"));
        assert!(is_named("^(web|db)-[0-9]+$", "db-12"));
        assert!(!is_named("^eb", "web-1") && !is_named("^web-1$", "web-10"));
        assert!(!is_named("(", "web-1") && NamePatterns::new(&[]).fit("web-1"));
    }

    #[test]
    fn shell_patterns_are_gos() {
        assert!(fits("busybox*", "busybox:latest") && fits("*/web:?", "team/web:1"));
        assert!(!fits("*web", "team/web") && !fits("busybox", "busybox:latest"));
        assert!(fits("busy[a-c]ox", "busybox") && fits("b[^x-z]sybox", "busybox"));
        assert!(!fits("busy[^b]ox", "busybox") && !fits("busy[bo", "busybox") && !fits("[]", "a"));
        assert!(fits("a\\*", "a*") && !fits("a\\*", "ab"));
    }
}
