//! `--name=value` between an instruction's word and its arguments.

use crate::error::{DockerfileError, Place, Result, nearest};

/// The flags of one instruction, taken one by one; what is left over is unknown.
#[derive(Debug)]
pub(super) struct Flags {
    place: Place,
    instruction: &'static str,
    given: Vec<(String, Option<String>)>,
    known: Vec<&'static str>,
}

impl Flags {
    /// Splits flags from the rest of the line.
    pub(super) fn take<'a>(
        place: Place,
        instruction: &'static str,
        mut rest: &'a str,
        escape: char,
    ) -> (Self, &'a str) {
        let mut given = Vec::new();
        while let Some(after) = rest.strip_prefix("--") {
            let end = flag_end(after, escape);
            let (flag, tail) = after.split_at(end);
            rest = tail.trim_start();
            // A lone `--` ends the flags.
            if flag.is_empty() {
                break;
            }
            let (name, value) = flag
                .split_once('=')
                .map_or((flag, None), |(name, value)| (name, Some(value)));
            given.push((name.to_owned(), value.map(str::to_owned)));
        }
        let flags = Self {
            place,
            instruction,
            given,
            known: Vec::new(),
        };
        (flags, rest)
    }

    fn error(&self, message: String) -> DockerfileError {
        DockerfileError::new(self.place, message)
    }

    /// All values of a flag that may be repeated.
    pub(super) fn values(&mut self, name: &'static str) -> Result<Vec<String>> {
        self.known.push(name);
        let (mine, others) = std::mem::take(&mut self.given)
            .into_iter()
            .partition(|(given, _)| given == name);
        self.given = others;
        let mine: Vec<(String, Option<String>)> = mine;
        mine.into_iter()
            .map(|(_, value)| value.ok_or_else(|| self.error(format!("missing a value on flag: {name}"))))
            .collect()
    }

    pub(super) fn value(&mut self, name: &'static str) -> Result<Option<String>> {
        let mut values = self.values(name)?;
        if values.len() > 1 {
            return Err(self.error(format!("duplicate flag specified: {name}")));
        }
        Ok(values.pop())
    }

    /// A flag that stands alone or says true or false.
    pub(super) fn switch(&mut self, name: &'static str) -> Result<Option<bool>> {
        for (given, value) in &mut self.given {
            if given == name && value.is_none() {
                *value = Some("true".to_owned());
            }
        }
        match self.value(name)?.as_deref() {
            None => Ok(None),
            Some("true" | "1" | "t" | "T" | "TRUE" | "True") => Ok(Some(true)),
            Some("false" | "0" | "f" | "F" | "FALSE" | "False") => Ok(Some(false)),
            Some(other) => Err(self.error(format!("expecting boolean value for flag {name}, not: {other}"))),
        }
    }

    /// Refuses flags that nothing asked for.
    pub(super) fn finish(self) -> Result<()> {
        let Some((name, _)) = self.given.first() else {
            return Ok(());
        };
        let hint =
            nearest(name, &self.known).map_or_else(String::new, |near| format!(" (did you mean {near}?)"));
        Err(self.error(format!("unknown flag: --{name}{hint} for {}", self.instruction)))
    }
}

/// Where a flag ends: at the first space outside quotes.
fn flag_end(text: &str, escape: char) -> usize {
    let mut quote = None;
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match (character, quote) {
            (character, None) if character.is_whitespace() => return at,
            (character, _) if character == escape => drop(characters.next()),
            ('\'' | '"', None) => quote = Some(character),
            (character, Some(open)) if character == open => quote = None,
            _ => {}
        }
    }
    text.len()
}
