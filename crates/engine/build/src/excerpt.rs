//! Shows where in a Dockerfile something is wrong: its file, line and column, the line itself, a mark below the word.
//!
//! The word is found again in the line by the message that names it, so that whoever finds a fault only says what it is.

use crate::error::Place;
use std::fmt::Write;

/// What every excerpt begins with, and no other line of a message.
const ARROW: &str = "\n  --> ";

/// Lines of one instruction that are shown; a script in a here-document has more.
const LINES_MAX: usize = 6;

/// Letters of one line that are shown.
const LINE_LETTERS_MAX: usize = 200;

/// Whether a message says already where.
pub fn is_located(message: &str) -> bool {
    message.contains(ARROW)
}

/// The message with the place in the text that it is about. A place that is in no file adds nothing.
pub fn locate(message: &str, file: &str, text: &str, place: Place) -> String {
    locate_word(message, message, file, &Lines::of(text), place)
}

/// The lines of a file, for many messages about it.
#[derive(Debug)]
pub struct Lines<'a>(Vec<&'a str>);

impl<'a> Lines<'a> {
    pub fn of(text: &'a str) -> Self {
        Self(
            text.trim_start_matches('\u{feff}')
                .lines()
                .map(str::trim_end)
                .collect(),
        )
    }

    /// Those of a place, with their numbers.
    fn at(&self, place: Place) -> Vec<(usize, &'a str)> {
        let numbers = place.line..=place.last_line.max(place.line);
        numbers
            .map_while(|number| Some((number, *self.0.get(number.checked_sub(1)?)?)))
            .collect()
    }
}

/// As [`locate`], for a message whose own words say nothing of the place: `about` has the one that does.
pub fn locate_word(message: &str, about: &str, file: &str, lines: &Lines, place: Place) -> String {
    if place.line == 0 || is_located(message) {
        return message.to_owned();
    }
    let lines = lines.at(place);
    let Some(mark) = find_mark(about, &lines) else {
        return message.to_owned();
    };
    let first = mark.line.saturating_sub(LINES_MAX - 1).max(place.line);
    let width = (first + LINES_MAX).to_string().len();
    let (line, column) = (mark.line, mark.column);
    let mut shown = format!("{message}{ARROW}{file}:{line}:{column}\n {:width$} |", "");
    for (number, line) in lines
        .iter()
        .filter(|(number, _)| (first..first + LINES_MAX).contains(number))
    {
        let cut: String = line.chars().take(LINE_LETTERS_MAX).collect();
        let _ = write!(shown, "\n {number:>width$} | {cut}");
        if *number == mark.line && mark.column <= LINE_LETTERS_MAX {
            // Tabs before the word stay tabs, or the mark would stand elsewhere.
            let before: String = line
                .chars()
                .take(mark.column - 1)
                .map(|letter| if letter == '\t' { '\t' } else { ' ' })
                .collect();
            let below = "^".repeat(mark.letters.min(LINE_LETTERS_MAX));
            let _ = write!(shown, "\n {:width$} | {before}{below}", "");
        }
    }
    shown
}

/// A word in a file; the column counts letters from 1.
#[derive(Debug, Clone, Copy)]
struct Mark {
    line: usize,
    column: usize,
    letters: usize,
}

/// The longest word of the lines that the message names, but for the first of all, which it is if there is none.
fn find_mark(message: &str, lines: &[(usize, &str)]) -> Option<Mark> {
    let words = lines
        .iter()
        .flat_map(|(number, line)| words_of(line).map(move |(at, word)| (*number, *line, at, word)));
    let mut first = None;
    let mut named: Option<Mark> = None;
    for (line, text, at, word) in words {
        let mark = Mark {
            line,
            column: text[..at].chars().count() + 1,
            letters: word.chars().count(),
        };
        // The instruction's own word is in many a message that is about another.
        if first.is_none() {
            first = Some(mark);
        } else if named.is_none_or(|named| named.letters < mark.letters) && names(message, word) {
            named = Some(mark);
        }
    }
    named.or(first)
}

/// Words between spaces and the signs of lists, pairs and quotes, and where they begin.
fn words_of(line: &str) -> impl Iterator<Item = (usize, &str)> {
    let start = line.as_ptr() as usize;
    line.split(|letter: char| letter.is_whitespace() || "=,\"'[](){}$?".contains(letter))
        .map(|word| word.trim_end_matches(':'))
        .filter(|word| !word.is_empty())
        .map(move |word| (word.as_ptr() as usize - start, word))
}

/// Whether a message has this word, standing for itself. One letter is too little to tell.
fn names(message: &str, word: &str) -> bool {
    if word.len() < 2 {
        return false;
    }
    let is_inner = |letter: char| letter.is_alphanumeric() || "_-./".contains(letter);
    message.match_indices(word).any(|(at, _)| {
        let before = message[..at].chars().next_back();
        let mut after = message[at + word.len()..].chars();
        // A sentence's full stop is none of the word's.
        let ends = match after.next() {
            None => true,
            Some('.') => after.next().is_none_or(char::is_whitespace),
            Some(letter) => !is_inner(letter),
        };
        !before.is_some_and(is_inner) && ends
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(line: usize, last_line: usize) -> Place {
        Place { line, last_line }
    }

    #[test]
    fn the_word_that_is_wrong_is_marked() {
        let text = "FROM a\n  COPPY x y\nCOPY --form=x \\\n  nosuch /b\n\tEXPOSE 80 abc\nRUN [\"x\"]\n";
        for (message, lines, at, line, below) in [
            (
                "unknown instruction: COPPY (did you mean COPY?)",
                (2, 2),
                "2:3",
                "  COPPY x y",
                "  ^^^^^",
            ),
            (
                "unknown flag: --form",
                (3, 4),
                "3:6",
                "COPY --form=x \\",
                "     ^^^^^^",
            ),
            (
                "file not found: stat nosuch: gone",
                (3, 4),
                "4:3",
                "  nosuch /b",
                "  ^^^^^^",
            ),
            (
                "invalid containerPort: abc.",
                (5, 5),
                "5:12",
                "\tEXPOSE 80 abc",
                "\t          ^^^",
            ),
            ("something else", (6, 6), "6:1", "RUN [\"x\"]", "^^^"),
        ] {
            let shown = locate(message, "Dockerfile", text, place(lines.0, lines.1));
            let expected = format!("{message}\n  --> Dockerfile:{at}\n");
            assert!(shown.starts_with(&expected), "{shown}");
            let has = |text: &str| {
                shown
                    .lines()
                    .any(|shown| shown.split_once("| ").is_some_and(|(_, rest)| rest == text))
            };
            assert!(has(line) && has(below), "{shown}");
            assert_eq!(locate(&shown, "Dockerfile", text, place(1, 1)), shown);
        }
    }

    #[test]
    fn long_instructions_are_cut_and_no_place_is_no_excerpt() {
        let text = format!("FROM a\nRUN <<E\n{}\nE\n", "x\n".repeat(100));
        let shown = locate("failed", "D", &text, place(2, 103));
        assert_eq!(shown.lines().count(), 3 + 1 + LINES_MAX, "{shown}");
        assert_eq!(locate("failed", "D", &text, place(0, 0)), "failed");
        assert_eq!(locate("failed", "D", &text, place(900, 900)), "failed");
        let deep = locate(
            "near the-end",
            "D",
            &format!("RUN a \\\n{}the-end\n", "b \\\n".repeat(50)),
            place(1, 52),
        );
        assert!(deep.contains("D:52:1") && deep.ends_with("^^^^^^^"), "{deep}");
    }
}
