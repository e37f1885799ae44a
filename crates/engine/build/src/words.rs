//! Words of a Dockerfile with their quotes, escapes and variables, as a POSIX shell would read them.

use crate::glob::{Glob, Part};
use std::collections::BTreeSet;

/// How deep substitutions may stand in each other.
const DEPTH_MAX: usize = 100;

/// Comparisons of letters that one replacement may take: far beyond any name or path.
const COST_MAX: usize = 1 << 24;

/// Bytes of one expanded word: no process can be given a longer one.
const WORD_BYTES_MAX: usize = 1 << 20;

/// Where variables come from.
pub trait Variables {
    fn value(&self, name: &str) -> Option<String>;
}

impl Variables for std::collections::BTreeMap<String, String> {
    fn value(&self, name: &str) -> Option<String> {
        self.get(name).cloned()
    }
}

/// Nothing is set.
impl Variables for () {
    fn value(&self, _name: &str) -> Option<String> {
        None
    }
}

/// Expands a word: quotes go, escapes are resolved, variables are replaced.
pub fn expand(text: &str, escape: char, variables: &dyn Variables) -> Result<String, String> {
    Ok(Expansion::new(text, escape, variables).run()?.text)
}

/// As [`expand`], but unquoted spaces, those of variables too, separate words.
pub fn expand_list(text: &str, escape: char, variables: &dyn Variables) -> Result<Vec<String>, String> {
    let mut expansion = Expansion::new(text, escape, variables);
    expansion.splits = true;
    Ok(expansion.run()?.words)
}

/// The names of the variables that a word asks for.
pub fn names_in(text: &str, escape: char) -> BTreeSet<String> {
    struct Names(std::cell::RefCell<BTreeSet<String>>);
    impl Variables for Names {
        fn value(&self, name: &str) -> Option<String> {
            self.0.borrow_mut().insert(name.to_owned());
            Some(String::new())
        }
    }
    let names = Names(std::cell::RefCell::default());
    let _ = expand(text, escape, &names);
    names.0.into_inner()
}

struct Expansion<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    escape: char,
    variables: &'a dyn Variables,
    splits: bool,
    /// Escapes stay: what is expanded is a pattern, or part of one, and has escapes of its own.
    keeps_escapes: bool,
    depth: usize,
    text: String,
    words: Vec<String>,
    word: String,
    /// There is a word, though it may be empty: `""`.
    is_word: bool,
}

struct Expanded {
    text: String,
    words: Vec<String>,
}

impl<'a> Expansion<'a> {
    fn new(text: &'a str, escape: char, variables: &'a dyn Variables) -> Self {
        Self {
            rest: text.chars().peekable(),
            escape,
            variables,
            splits: false,
            keeps_escapes: false,
            depth: 0,
            text: String::new(),
            words: Vec::new(),
            word: String::new(),
            is_word: false,
        }
    }

    fn run(mut self) -> Result<Expanded, String> {
        while let Some(character) = self.rest.next() {
            if self.text.len() > WORD_BYTES_MAX {
                return Err(format!(
                    "a word of more than {WORD_BYTES_MAX} bytes comes of its variables"
                ));
            }
            match character {
                '\'' => self.single_quoted()?,
                '"' => self.double_quoted()?,
                '$' => {
                    let value = self.variable()?;
                    self.push_splitting(&value);
                }
                character if character == self.escape => match self.rest.next() {
                    Some(next) => self.push_escaped(next),
                    // An escape at the very end stands for itself.
                    None => self.push(character),
                },
                character if self.splits && character.is_whitespace() => self.end_word(),
                character => self.push(character),
            }
        }
        self.end_word();
        Ok(Expanded {
            text: self.text,
            words: self.words,
        })
    }

    fn push(&mut self, character: char) {
        self.text.push(character);
        self.word.push(character);
        self.is_word = true;
    }

    /// What an escape stood before.
    fn push_escaped(&mut self, character: char) {
        if self.keeps_escapes {
            self.push(self.escape);
        }
        self.push(character);
    }

    fn push_whole(&mut self, value: &str) {
        self.text.push_str(value);
        self.word.push_str(value);
        self.is_word = true;
    }

    fn push_splitting(&mut self, value: &str) {
        if !self.splits {
            return self.push_whole(value);
        }
        for character in value.chars() {
            if character.is_whitespace() {
                self.end_word();
            } else {
                self.push(character);
            }
        }
    }

    fn end_word(&mut self) {
        if std::mem::take(&mut self.is_word) {
            self.words.push(std::mem::take(&mut self.word));
        }
    }

    fn single_quoted(&mut self) -> Result<(), String> {
        self.is_word = true;
        loop {
            match self.rest.next() {
                None => {
                    return Err(
                        "unexpected end of statement while looking for matching single-quote".to_owned(),
                    );
                }
                Some('\'') => return Ok(()),
                Some(character) if character == self.escape => self.push_escaped(character),
                Some(character) => self.push(character),
            }
        }
    }

    fn double_quoted(&mut self) -> Result<(), String> {
        self.is_word = true;
        loop {
            match self.rest.next() {
                None => {
                    return Err(
                        "unexpected end of statement while looking for matching double-quote".to_owned(),
                    );
                }
                Some('"') => return Ok(()),
                Some('$') => {
                    let value = self.variable()?;
                    self.push_whole(&value);
                }
                Some(character) if character == self.escape => match self.rest.next() {
                    None => {
                        return Err(
                            "unexpected end of statement while looking for matching double-quote".to_owned(),
                        );
                    }
                    // Inside quotes only these three lose their escape.
                    Some(next) if next == '"' || next == '$' || next == self.escape => {
                        self.push_escaped(next);
                    }
                    Some(next) => {
                        self.push(character);
                        self.push(next);
                    }
                },
                Some(character) => self.push(character),
            }
        }
    }

    /// What stands after a `$`.
    fn variable(&mut self) -> Result<String, String> {
        if self.rest.peek() == Some(&'{') {
            self.rest.next();
            return self.braced();
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        Ok(self.variables.value(&name).unwrap_or_default())
    }

    /// A variable's name: letters, digits and `_`, or one of the shell's own single characters.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.rest.peek() {
            Some(first) if first.is_ascii_digit() => {
                while let Some(next) = self.rest.next_if(char::is_ascii_digit) {
                    name.push(next);
                }
            }
            Some('@' | '*' | '#' | '!' | '?' | '-') => name.extend(self.rest.next()),
            _ => {
                while let Some(next) = self
                    .rest
                    .next_if(|next| next.is_ascii_alphanumeric() || *next == '_')
                {
                    name.push(next);
                }
            }
        }
        name
    }

    fn braced(&mut self) -> Result<String, String> {
        if self.depth >= DEPTH_MAX {
            return Err(format!("substitutions are nested more than {DEPTH_MAX} deep"));
        }
        let name = self.name();
        if name.is_empty() {
            return Err(match self.rest.peek() {
                None => "syntax error: missing '}'".to_owned(),
                Some('}') => "syntax error: bad substitution".to_owned(),
                Some(_) => "syntax error: missing variable name in substitution".to_owned(),
            });
        }
        let value = self.variables.value(&name);
        let operator = match self.rest.next() {
            None => return Err("syntax error: missing '}'".to_owned()),
            Some('}') => return Ok(value.unwrap_or_default()),
            Some(operator) => operator,
        };
        let (test, counts_empty) = match operator {
            ':' => (self.rest.next().unwrap_or_default(), true),
            other => (other, false),
        };
        match (test, counts_empty) {
            ('-' | '+' | '?', _) => self.conditional(&name, value, test, counts_empty),
            ('#' | '%' | '/', false) => self.pattern(&value.unwrap_or_default(), test),
            (other, _) => Err(format!("unsupported modifier ({other}) in substitution")),
        }
    }

    fn conditional(
        &mut self,
        name: &str,
        value: Option<String>,
        test: char,
        counts_empty: bool,
    ) -> Result<String, String> {
        let word = self.until(&['}'])?.0;
        let is_set = value
            .as_ref()
            .is_some_and(|value| !counts_empty || !value.is_empty());
        let expanded = |word: &str| self.expand_inside(word, self.keeps_escapes);
        match (test, is_set) {
            ('-' | '?', true) => Ok(value.unwrap_or_default()),
            ('-', false) | ('+', true) => expanded(&word),
            ('+', false) => Ok(String::new()),
            _ => {
                let word = expanded(&word)?;
                let reason = if word.is_empty() {
                    "is not allowed to be unset".to_owned()
                } else {
                    word
                };
                Err(format!("{name}: {reason}"))
            }
        }
    }

    /// `#`, `##`, `%`, `%%`: takes a pattern away from an end. `/`, `//`: replaces it.
    fn pattern(&mut self, value: &str, operator: char) -> Result<String, String> {
        let is_greedy = self.rest.next_if_eq(&operator).is_some();
        if operator == '/' {
            let (pattern, end) = self.until(&['/', '}'])?;
            let replacement = if end == '/' {
                self.until(&['}'])?.0
            } else {
                String::new()
            };
            let pattern = self.expand_inside(&pattern, true)?;
            let replacement = self.expand_inside(&replacement, self.keeps_escapes)?;
            return replaced(value, &glob(&pattern, self.escape), &replacement, is_greedy);
        }
        let pattern = self.until(&['}'])?.0;
        let pattern = glob(&self.expand_inside(&pattern, true)?, self.escape);
        let letters: Vec<char> = value.chars().collect();
        check_cost(pattern.cost(letters.len()))?;
        if operator == '#' {
            let taken = length_of(&pattern.ends(&letters), is_greedy).unwrap_or(0);
            return Ok(letters[taken..].iter().collect());
        }
        let backwards: Vec<char> = letters.iter().rev().copied().collect();
        let taken = length_of(&pattern.reversed().ends(&backwards), is_greedy).unwrap_or(0);
        Ok(letters[..letters.len() - taken].iter().collect())
    }

    /// Expands a text that stands in a substitution.
    fn expand_inside(&self, text: &str, keeps_escapes: bool) -> Result<String, String> {
        let mut expansion = Expansion::new(text, self.escape, self.variables);
        expansion.keeps_escapes = keeps_escapes;
        expansion.depth = self.depth + 1;
        Ok(expansion.run()?.text)
    }

    /// The raw text up to one of `ends`, which is passed over. Nested braces and quotes are kept whole.
    fn until(&mut self, ends: &[char]) -> Result<(String, char), String> {
        let (mut raw, mut depth, mut quote) = (String::new(), 0, None);
        while let Some(character) = self.rest.next() {
            if quote.is_none() && depth == 0 && ends.contains(&character) {
                return Ok((raw, character));
            }
            raw.push(character);
            match (character, quote) {
                (character, quote) if character == self.escape && quote != Some('\'') => {
                    raw.extend(self.rest.next());
                }
                ('\'' | '"', None) => quote = Some(character),
                (character, Some(open)) if character == open => quote = None,
                ('{', None) => depth += 1,
                ('}', None) => depth -= 1,
                _ => {}
            }
        }
        Err("syntax error: missing '}'".to_owned())
    }
}

/// A shell pattern: `*` and `?` stand for slashes too.
fn glob(pattern: &str, escape: char) -> Glob {
    let mut characters = pattern.chars();
    let mut parts = Vec::new();
    while let Some(character) = characters.next() {
        parts.push(match character {
            '*' => Part::Many { crosses: true },
            '?' => Part::One { crosses: true },
            character if character == escape => Part::Literal(characters.next().unwrap_or(character)),
            character => Part::Literal(character),
        });
    }
    Glob::new(parts)
}

/// The shortest length that fits, or the longest.
fn length_of(ends: &[bool], is_greedy: bool) -> Option<usize> {
    if is_greedy {
        ends.iter().rposition(|fits| *fits)
    } else {
        ends.iter().position(|fits| *fits)
    }
}

fn check_cost(cost: usize) -> Result<(), String> {
    if cost > COST_MAX {
        return Err("the value is too long to look for a pattern in".to_owned());
    }
    Ok(())
}

/// Replaces the first place that fits, or all of them; each as long as can be.
fn replaced(value: &str, pattern: &Glob, replacement: &str, all: bool) -> Result<String, String> {
    let letters: Vec<char> = value.chars().collect();
    check_cost(pattern.cost(letters.len()).saturating_mul(letters.len()))?;
    let (mut result, mut at, mut is_done) = (String::new(), 0, false);
    while at < letters.len() {
        let length = if is_done {
            0
        } else {
            length_of(&pattern.ends(&letters[at..]), true).unwrap_or(0)
        };
        if length == 0 {
            result.push(letters[at]);
            at += 1;
            continue;
        }
        result.push_str(replacement);
        if result.len() > WORD_BYTES_MAX {
            return Err(format!(
                "a word of more than {WORD_BYTES_MAX} bytes comes of a replacement"
            ));
        }
        at += length;
        is_done = !all;
    }
    Ok(result)
}

/// Splits at unquoted spaces and leaves quotes, escapes and variables as they are.
pub fn split(text: &str, escape: char) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            (character, None) if character.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            (character, quote) if character == escape && quote != Some('\'') => {
                word.push(character);
                word.extend(characters.next());
                continue;
            }
            ('\'' | '"', None) => quote = Some(character),
            (character, Some(open)) if character == open => quote = None,
            _ => {}
        }
        word.push(character);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn variables() -> BTreeMap<String, String> {
        [
            ("A", "one"),
            ("EMPTY", ""),
            ("PATHS", "a/b/c.tar.gz"),
            ("LIST", "x  y"),
            ("_U1", "under"),
            ("STARS", "*b*c"),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
    }

    #[test]
    fn words_are_read_as_a_shell_reads_them() {
        let variables = variables();
        for (text, expected) in [
            ("plain", "plain"),
            ("$A-$A", "one-one"),
            ("${A}b$_U1", "onebunder"),
            (r"\$A", "$A"),
            ("'$A'", "$A"),
            ("\"$A 'b'\"", "one 'b'"),
            (r#""a\"b\c""#, r#"a"b\c"#),
            (r"a\ b", "a b"),
            ("$NONE.", "."),
            ("${NONE:-x$A}", "xone"),
            ("${EMPTY:-x}", "x"),
            ("${EMPTY-x}", ""),
            ("${A:+yes}${NONE:+no}", "yes"),
            ("${EMPTY+yes}", "yes"),
            ("${A:?never}", "one"),
            ("${NONE:-${A:-b}}", "one"),
            ("${NONE:-'}'}", "}"),
            ("$", "$"),
            ("a$ b", "a$ b"),
            ("${PATHS##*/}", "c.tar.gz"),
            ("${PATHS#*/}", "b/c.tar.gz"),
            ("${PATHS%.*}", "a/b/c.tar"),
            ("${PATHS%%.*}", "a/b/c"),
            ("${PATHS/a/z}", "z/b/c.tar.gz"),
            ("${PATHS//\\//-}", "a-b-c.tar.gz"),
            (r"${STARS#\*}", "b*c"),
            (r"${STARS##\**}", ""),
            (r"${STARS/\*/${PATHS%%\/*}}", "ab*c"),
            (r"${STARS##${STARS%\*c}}", "*c"),
            (r"${STARS##'*b\*'}", "*b*c"),
            (r"${STARS/${NONE:-\*}/-}", "-b*c"),
        ] {
            assert_eq!(expand(text, '\\', &variables).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        for (text, reason) in [
            ("'a", "single-quote"),
            ("\"a", "double-quote"),
            ("${A", "missing '}'"),
            ("${}", "bad substitution"),
            ("${A:x}", "unsupported modifier"),
            ("${NONE:?gone}", "NONE: gone"),
            ("${NONE?}", "not allowed to be unset"),
        ] {
            let error = expand(text, '\\', &variables()).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        let text = format!("{}{}", "${X:-".repeat(100_000), "}".repeat(100_000));
        assert!(expand(&text, '\\', &variables()).unwrap_err().contains("nested"));
    }

    #[test]
    fn what_doubles_is_refused_before_it_fills_the_memory() {
        let nested = format!("{}\\*{}", "${A/x".repeat(99), "}".repeat(99));
        assert_eq!(expand(&nested, '\\', &variables()).as_deref(), Ok("one"));
        let long = [("A".to_owned(), "x".repeat(1 << 19))].into();
        let long: BTreeMap<String, String> = long;
        let error = expand("$A$A$A$A", '\\', &long).unwrap_err();
        assert!(error.contains("more than 1048576 bytes"), "{error}");
    }

    #[test]
    fn lists_split_at_spaces_that_are_not_quoted() {
        let list = expand_list("a $LIST \"$LIST\" '' 'b c'", '\\', &variables()).unwrap();
        assert_eq!(list, ["a", "x", "y", "x  y", "", "b c"]);
        assert_eq!(
            split(r#"a="b c" d\ e 'f "g'"#, '\\'),
            [r#"a="b c""#, r"d\ e", r#"'f "g'"#]
        );
        assert_eq!(expand(r"a`$A", '`', &variables()).unwrap(), "a$A");
    }

    #[test]
    fn names_are_found() {
        let names = names_in("$A ${B:-$C} '$D'", '\\');
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["A", "B", "C"]);
    }
}
