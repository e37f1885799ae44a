//! `.dockerignore`: which paths of a context are left out.

use crate::glob::{Glob, Part};

/// The patterns of one file, in order; the last that fits decides.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone)]
struct Pattern {
    glob: Glob,
    is_exception: bool,
}

impl Ignore {
    /// Reads the file. A pattern that cannot be read is an error: it would leave in what was to stay out.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut patterns = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.starts_with('#') {
                continue;
            }
            let line = line.trim();
            let (is_exception, pattern) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            let cleaned = clean(pattern);
            if cleaned.is_empty() {
                if is_exception {
                    return Err(format!("line {}: illegal exclusion pattern: \"!\"", index + 1));
                }
                continue;
            }
            let glob =
                translate(&cleaned).map_err(|reason| format!("line {}: {pattern:?}: {reason}", index + 1))?;
            patterns.push(Pattern { glob, is_exception });
        }
        Ok(Self { patterns })
    }

    /// Adds a pattern after all others.
    pub fn push(&mut self, pattern: &str, is_exception: bool) -> Result<(), String> {
        let glob = translate(&clean(pattern))?;
        self.patterns.push(Pattern { glob, is_exception });
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// A path below the context, without a leading slash: it, or a directory it is in, is left out.
    pub fn excludes(&self, path: &str) -> bool {
        self.patterns.iter().fold(false, |excluded, pattern| {
            // Only what would change the outcome is looked at.
            if pattern.is_exception != excluded {
                return excluded;
            }
            let fits = ancestors(path).any(|part| pattern.glob.fits(part));
            excluded != fits
        })
    }

    /// Something below an excluded directory may yet be let in, so it must be walked.
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.is_exception)
    }
}

/// The file's patterns as they are, for a client that applies them itself; exceptions begin with `!`.
pub fn patterns(text: &str) -> Vec<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().filter(|line| !line.starts_with('#')).map(str::trim);
    lines
        .filter_map(|line| {
            let (mark, pattern) = line
                .strip_prefix('!')
                .map_or(("", line), |rest| ("!", rest.trim()));
            let cleaned = clean(pattern);
            (!cleaned.is_empty()).then(|| format!("{mark}{cleaned}"))
        })
        .collect()
}

/// One pattern of `COPY` and `ADD`, for names in one directory.
#[derive(Debug, Clone)]
pub struct NamePattern(Glob);

impl NamePattern {
    /// `None` for a name that is no pattern.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        if !text.contains(['*', '?', '[', '\\']) {
            return Ok(None);
        }
        translate(text).map(Self).map(Some)
    }

    pub fn fits(&self, name: &str) -> bool {
        self.0.fits(name)
    }
}

/// The path and the directories it is in.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| {
        path.rsplit_once('/').map(|(directory, _)| directory)
    })
}

/// Without `.`, `..`, doubled and leading slashes.
fn clean(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Go's `filepath.Match`, and `**` for any number of directories.
fn translate(pattern: &str) -> Result<Glob, String> {
    let mut parts = Vec::new();
    let mut characters = pattern.chars().peekable();
    while let Some(character) = characters.next() {
        parts.push(match character {
            '*' if characters.next_if_eq(&'*').is_some() => {
                while characters.next_if_eq(&'*').is_some() {}
                if characters.next_if_eq(&'/').is_some() {
                    Part::Directories
                } else {
                    Part::Many { crosses: true }
                }
            }
            '*' => Part::Many { crosses: false },
            '?' => Part::One { crosses: false },
            '[' => class(&mut characters)?,
            '\\' => {
                let next = characters.next();
                Part::Literal(next.ok_or("syntax error in pattern: it ends in a backslash")?)
            }
            character => Part::Literal(character),
        });
    }
    Ok(Glob::new(parts))
}

/// `[a-z]` and `[^a-z]`.
fn class(characters: &mut std::iter::Peekable<std::str::Chars>) -> Result<Part, String> {
    let open = "syntax error in pattern: [ is not closed";
    let is_negated = characters.next_if(|next| matches!(next, '^' | '!')).is_some();
    let mut ranges = Vec::new();
    loop {
        let first = match characters.next().ok_or(open)? {
            ']' if !ranges.is_empty() => return Ok(Part::Class { is_negated, ranges }),
            '\\' => characters.next().ok_or(open)?,
            character => character,
        };
        let mut last = first;
        let mut ahead = characters.clone();
        if ahead.next() == Some('-') && ahead.next().is_some_and(|next| next != ']') {
            characters.next();
            last = match characters.next().ok_or(open)? {
                '\\' => characters.next().ok_or(open)?,
                character => character,
            };
        }
        if last < first {
            return Err(format!("syntax error in pattern: {first}-{last} is no range"));
        }
        ranges.push((first, last));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pattern_that_fits_decides() {
        for (text, path, excluded) in [
            ("*.md\n!README.md", "README.md", false),
            ("*.md\n!README.md", "other.md", true),
            ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", true),
            ("*.md", "sub/x.md", false),
            ("**/*.md", "sub/deep/x.md", true),
            ("**/*.md", "x.md", true),
            ("sub", "sub/deep/x", true),
            ("sub\n!sub/deep", "sub/deep/x", false),
            ("sub/**", "sub", false),
            ("sub/**", "sub/a", true),
            ("/a/./b/../c", "a/c", true),
            ("# comment\n\n  spaced  ", "spaced", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("**", "any/thing", true),
            ("*\n!a", "a/b", false),
            (".", "a", false),
        ] {
            assert_eq!(
                Ignore::parse(text).unwrap().excludes(path),
                excluded,
                "{text:?} {path:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for text in ["a[", "[]", "a\\", "!"] {
            assert!(Ignore::parse(text).is_err(), "{text:?}");
        }
    }
}
