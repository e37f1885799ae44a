//! A Dockerfile: its directives, stages and instructions, as written. Variables are not expanded here.

mod flags;
mod instruction;
mod lines;
mod parse;

pub use instruction::{Arguments, Command, Heredoc, Instruction, Run, Transfer};
pub use parse::{parse, parse_instruction};

use crate::error::Place;

/// Something on a line, with the line's own text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<T> {
    pub place: Place,
    /// The instruction as written, its lines joined.
    pub text: String,
    pub value: T,
}

/// A whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// The file as it was read.
    pub text: String,
    /// `\` or `` ` ``: what continues lines and takes a character's meaning away.
    pub escape: char,
    /// The frontend that `# syntax=` names. Instructions are always read by this crate.
    pub syntax: Option<String>,
    /// What `# check=` says.
    pub check: Option<Line<String>>,
    /// The lines, counted from 1, that are empty inside an instruction; the first of each.
    pub empty_continuations: Vec<usize>,
    /// `ARG` lines before the first stage, for `FROM` lines.
    pub arguments: Vec<Line<Arguments>>,
    /// At least one.
    pub stages: Vec<Stage>,
}

impl Dockerfile {
    /// The arguments declared before the first stage, with their defaults.
    pub fn global_arguments(&self) -> impl DoubleEndedIterator<Item = (&str, Option<&str>, Place)> {
        self.arguments.iter().flat_map(|line| {
            let pairs = line.value.iter();
            pairs.map(|(name, default)| (name.as_str(), default.as_deref(), line.place))
        })
    }
}

/// From one `FROM` to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    pub place: Place,
    pub text: String,
    /// In lower case.
    pub name: Option<String>,
    pub base: String,
    pub platform: Option<String>,
    pub instructions: Vec<Line<Instruction>>,
}
