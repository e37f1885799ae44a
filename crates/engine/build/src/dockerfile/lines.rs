//! Logical lines: continuations joined, comments dropped, here-documents gathered.

use super::Line;
use super::instruction::Heredoc;
use crate::error::{DockerfileError, Place, Result};
use crate::words;

/// A Dockerfile is text for people; what is larger is something else.
const BYTES_MAX: usize = 16 << 20;

/// One instruction's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogicalLine {
    pub place: Place,
    pub text: String,
    pub heredocs: Vec<RawHeredoc>,
    /// The first of its lines that is empty, though the one before goes on.
    pub empty: Option<usize>,
}

/// A here-document, and how its end was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawHeredoc {
    pub heredoc: Heredoc,
    /// Its lines as they stand in the file, with the line that ends it.
    pub raw: String,
}

/// What comments at the very top say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directives {
    pub escape: char,
    pub syntax: Option<String>,
    pub check: Option<Line<String>>,
}

pub(super) fn read(bytes: &[u8]) -> Result<(Directives, Vec<LogicalLine>)> {
    let whole = |message: &str| DockerfileError::new(Place::default(), message);
    if bytes.len() > BYTES_MAX {
        return Err(whole("the Dockerfile is larger than 16 MiB"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].split(|byte| *byte == b'\n').count();
        DockerfileError::new(
            Place {
                line,
                last_line: line,
            },
            "the Dockerfile is not UTF-8 text",
        )
    })?;
    let physical: Vec<&str> = text
        .strip_prefix('\u{feff}')
        .unwrap_or(text)
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .collect();
    let directives = read_directives(&physical)?;
    let lines = Gathering {
        escape: directives.escape,
        physical,
        next: 0,
    }
    .run()?;
    Ok((directives, lines))
}

/// `# name=value` in the first lines, before anything else.
fn read_directives(physical: &[&str]) -> Result<Directives> {
    let mut directives = Directives {
        escape: '\\',
        syntax: None,
        check: None,
    };
    let mut seen = Vec::new();
    for (index, line) in physical.iter().enumerate() {
        let Some((name, value)) = line
            .trim()
            .strip_prefix('#')
            .and_then(|comment| comment.split_once('='))
        else {
            break;
        };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        let place = Place {
            line: index + 1,
            last_line: index + 1,
        };
        match name.as_str() {
            "escape" | "syntax" | "check" if seen.contains(&name) => {
                return Err(DockerfileError::new(
                    place,
                    format!("only one {name} parser directive can be used"),
                ));
            }
            "escape" => {
                directives.escape = match value {
                    "\\" => '\\',
                    "`" => '`',
                    other => {
                        return Err(DockerfileError::new(
                            place,
                            format!("invalid ESCAPE token '{other}' does not match ` or \\"),
                        ));
                    }
                }
            }
            "syntax" => directives.syntax = Some(value.to_owned()),
            "check" => {
                directives.check = Some(Line {
                    place,
                    text: (*line).to_owned(),
                    value: value.to_owned(),
                });
            }
            // An ordinary comment ends the directives.
            _ => break,
        }
        seen.push(name);
    }
    Ok(directives)
}

struct Gathering<'a> {
    escape: char,
    physical: Vec<&'a str>,
    next: usize,
}

impl<'a> Gathering<'a> {
    fn run(mut self) -> Result<Vec<LogicalLine>> {
        let mut lines = Vec::new();
        while let Some((first, line)) = self.take() {
            let trimmed = line.trim_start();
            if trimmed.trim_end().is_empty() || trimmed.starts_with('#') {
                continue;
            }
            let (text, empty) = self.join(trimmed);
            let heredocs = self.heredocs(&text, first)?;
            lines.push(LogicalLine {
                place: Place {
                    line: first,
                    last_line: self.next,
                },
                text: text.trim_end().to_owned(),
                heredocs,
                empty,
            });
        }
        Ok(lines)
    }

    /// The next physical line, with its number from 1.
    fn take(&mut self) -> Option<(usize, &'a str)> {
        let line = self.physical.get(self.next)?;
        self.next += 1;
        Some((self.next, line))
    }

    /// Adds continuation lines; comments and empty lines among them do not end the instruction. The first empty one is told.
    fn join(&mut self, first: &str) -> (String, Option<usize>) {
        let (mut text, mut empty) = (String::new(), None);
        let mut piece = first;
        while let Some(continued) = continued(piece, self.escape) {
            text.push_str(continued);
            piece = loop {
                match self.take() {
                    None => return (text, empty),
                    Some((number, line)) if line.trim().is_empty() => drop(empty.get_or_insert(number)),
                    Some((_, line)) if line.trim_start().starts_with('#') => {}
                    Some((_, line)) => break line,
                }
            };
        }
        text.push_str(piece);
        (text, empty)
    }

    fn heredocs(&mut self, text: &str, first: usize) -> Result<Vec<RawHeredoc>> {
        let mut words = words::split(text, self.escape).into_iter();
        let takes_them = |word: &str| {
            ["RUN", "COPY", "ADD"]
                .iter()
                .any(|known| word.eq_ignore_ascii_case(known))
        };
        let mut word = words.next();
        if word
            .as_deref()
            .is_some_and(|word| word.eq_ignore_ascii_case("ONBUILD"))
        {
            word = words.next();
        }
        if !word.is_some_and(|word| takes_them(&word)) {
            return Ok(Vec::new());
        }
        let starts: Vec<_> = words
            .filter_map(|word| HeredocStart::parse(&word, self.escape))
            .collect();
        starts
            .into_iter()
            .map(|start| self.read_heredoc(start, first))
            .collect()
    }

    fn read_heredoc(&mut self, start: HeredocStart, first: usize) -> Result<RawHeredoc> {
        let (mut content, mut raw) = (String::new(), String::new());
        loop {
            let Some((_, line)) = self.take() else {
                return Err(DockerfileError::new(
                    Place {
                        line: first,
                        last_line: self.next,
                    },
                    format!("unterminated heredoc: no line {:?} ends it", start.name),
                ));
            };
            raw.push_str(line);
            raw.push('\n');
            let line = if start.drops_tabs {
                line.trim_start_matches('\t')
            } else {
                line
            };
            if line == start.name {
                break;
            }
            content.push_str(line);
            content.push('\n');
        }
        let heredoc = Heredoc {
            name: start.name,
            content,
            expands: start.expands,
        };
        Ok(RawHeredoc { heredoc, raw })
    }
}

/// The line without its continuation mark, if it has one. A doubled mark is none.
fn continued(line: &str, escape: char) -> Option<&str> {
    let rest = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!rest.ends_with(escape)).then_some(rest)
}

struct HeredocStart {
    name: String,
    expands: bool,
    drops_tabs: bool,
}

impl HeredocStart {
    /// `<<NAME`, `<<-NAME`, `<<"NAME"`, `3<<NAME`.
    fn parse(word: &str, escape: char) -> Option<Self> {
        let rest = word
            .trim_start_matches(|digit: char| digit.is_ascii_digit())
            .strip_prefix("<<")?;
        let (rest, drops_tabs) = rest.strip_prefix('-').map_or((rest, false), |rest| (rest, true));
        if rest.is_empty() || rest.starts_with('<') || rest.contains('>') || rest.contains('(') {
            return None;
        }
        let name = words::expand(&rest.replace('$', "\\$"), escape, &()).ok()?;
        (!name.is_empty()).then(|| Self {
            expands: name == rest,
            name,
            drops_tabs,
        })
    }
}

/// The name of the here-document that a source means.
pub(super) fn heredoc_name(word: &str, escape: char) -> Option<String> {
    HeredocStart::parse(word, escape).map(|start| start.name)
}
