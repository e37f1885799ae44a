//! Comments that stand right above an argument or a named stage describe it: they should begin with its name.

use super::Findings;
use crate::dockerfile::{Dockerfile, Instruction};
use crate::error::Place;

pub(super) fn check(file: &Dockerfile, findings: &mut Findings) {
    let physical: Vec<&str> = file.text.lines().map(str::trim).collect();
    let mut check = |name: &str, place: Place| {
        let Some(first) = comment_above(&physical, place.line) else {
            return;
        };
        if !first.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')) {
            let message = format!("the comment above should describe {name}: `# {name} <description>`");
            findings.add("InvalidDefinitionDescription", place, message);
        }
    };
    for (name, _, place) in file.global_arguments() {
        check(name, place);
    }
    for stage in &file.stages {
        if let [_, _, _, name] = super::words_of(stage)[..] {
            check(name, stage.place);
        }
        for line in &stage.instructions {
            if let Instruction::Arg(arguments) = &line.value
                && let [(name, _)] = &arguments[..]
            {
                check(name, line.place);
            }
        }
    }
}

/// A file's lines, for what its comments say.
pub(crate) struct Comments<'a>(Vec<&'a str>);

impl<'a> Comments<'a> {
    pub(crate) fn of(file: &'a Dockerfile) -> Self {
        Self(file.text.lines().map(str::trim).collect())
    }

    /// What the comment right above a line says of a name, if it begins with it.
    pub(crate) fn describe(&self, name: &str, place: Place) -> &'a str {
        let first = comment_above(&self.0, place.line);
        let rest = first.and_then(|first| first.strip_prefix(name));
        rest.filter(|rest| rest.starts_with(' '))
            .map_or("", |rest| rest.trim())
    }
}

/// The first line of the comment that ends right above a line; directives are none.
fn comment_above<'a>(physical: &[&'a str], line: usize) -> Option<&'a str> {
    let above = physical.get(..line.checked_sub(1)?)?;
    let is_directive = |text: &str| {
        let name = text.split('=').next().unwrap_or_default().trim();
        text.contains('=') && ["syntax", "escape", "check"].contains(&name)
    };
    let comments = above.iter().rev().map_while(|text| text.strip_prefix('#'));
    comments
        .map(str::trim)
        .take_while(|text| !is_directive(text))
        .last()
}
