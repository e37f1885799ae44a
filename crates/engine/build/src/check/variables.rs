//! Variables that nothing has set, paths that depend on what is not said, sources that never reach the builder.

use super::{Facts, Findings, meant};
use crate::configure::PREDEFINED_ARGUMENTS;
use crate::dockerfile::{Dockerfile, Instruction, Line, Stage, Transfer};
use crate::error::nearest;
use crate::stages::find_named;
use crate::words;
use std::collections::BTreeSet;

/// What a stage knows of variables, as far as it has come.
#[derive(Debug, Clone, Default)]
struct Known {
    environment: BTreeSet<String>,
    arguments: BTreeSet<String>,
    /// Whether all of the base's environment is among them.
    is_whole: bool,
    has_directory: bool,
}

pub(super) fn check(file: &Dockerfile, facts: &Facts, findings: &mut Findings) {
    let mut ends: Vec<Known> = Vec::new();
    for stage in &file.stages {
        let mut known = begin(file, stage, &ends, facts);
        for line in &stage.instructions {
            check_line(file, line, &mut known, facts, findings);
        }
        ends.push(known);
    }
}

fn begin(file: &Dockerfile, stage: &Stage, ends: &[Known], facts: &Facts) -> Known {
    if let Some(base) = find_named(&file.stages[..ends.len()], &stage.base) {
        return Known {
            arguments: BTreeSet::new(),
            ..ends[base].clone()
        };
    }
    if stage.base == "scratch" {
        return Known {
            environment: ["PATH".to_owned()].into(),
            is_whole: true,
            ..Known::default()
        };
    }
    let environment = facts.environment.and_then(|of| of(&stage.base));
    let Some(environment) = environment else {
        return Known {
            environment: ["PATH".to_owned()].into(),
            ..Known::default()
        };
    };
    let names = environment.iter().filter_map(|entry| entry.split('=').next());
    Known {
        environment: names.map(str::to_owned).chain(["PATH".to_owned()]).collect(),
        is_whole: true,
        ..Known::default()
    }
}

fn check_line(
    file: &Dockerfile,
    line: &Line<Instruction>,
    known: &mut Known,
    facts: &Facts,
    findings: &mut Findings,
) {
    let needed = texts_of(&line.value);
    let needed = needed.iter().flat_map(|text| needed_in(text, file.escape));
    for name in needed.collect::<BTreeSet<String>>() {
        check_name(&name, line, known, findings);
    }
    match &line.value {
        // What an instruction sets holds from the next one on.
        Instruction::Env(pairs) => known
            .environment
            .extend(pairs.iter().map(|(name, _)| name.clone())),
        Instruction::Arg(arguments) => known
            .arguments
            .extend(arguments.iter().map(|(name, _)| name.clone())),
        Instruction::Workdir(path) => {
            if !path.starts_with(['/', '$']) && !known.has_directory {
                let message =
                    format!("{path} is below a directory that only the base knows: use an absolute path");
                findings.add("WorkdirRelativePath", line.place, message);
            }
            known.has_directory = true;
        }
        Instruction::Copy(transfer) | Instruction::Add(transfer) => {
            check_sources(transfer, line, facts, findings);
        }
        _ => {}
    }
}

fn check_name(name: &str, line: &Line<Instruction>, known: &Known, findings: &mut Findings) {
    let all: Vec<&str> = known
        .environment
        .iter()
        .chain(&known.arguments)
        .map(String::as_str)
        .collect();
    if all.contains(&name) || PREDEFINED_ARGUMENTS.contains(&name) {
        return;
    }
    let near = nearest(name, &all);
    // An unknown base may have set it, unless it is nearly what stands here.
    if known.is_whole || near.is_some() {
        let message = format!("the variable ${name} is not set here{}", meant(near, "$"));
        findings.add("UndefinedVar", line.place, message);
    }
}

/// The texts of an instruction whose variables are replaced.
fn texts_of(instruction: &Instruction) -> Vec<&str> {
    fn of_pairs(pairs: &[(String, String)]) -> Vec<&str> {
        pairs
            .iter()
            .flat_map(|(key, value)| [key.as_str(), value])
            .collect()
    }
    match instruction {
        Instruction::Env(pairs) | Instruction::Label(pairs) => of_pairs(pairs),
        Instruction::Arg(arguments) => arguments
            .iter()
            .filter_map(|(_, default)| default.as_deref())
            .collect(),
        Instruction::Expose(words) | Instruction::Volume(words) => words.iter().map(String::as_str).collect(),
        Instruction::Workdir(text) | Instruction::User(text) | Instruction::StopSignal(text) => vec![text],
        Instruction::Run(run) => run.mounts.iter().map(String::as_str).collect(),
        Instruction::Copy(transfer) | Instruction::Add(transfer) => {
            let documents = transfer.heredocs.iter().filter(|document| document.expands);
            let flags = [&transfer.chown, &transfer.chmod].into_iter().flatten();
            let words = transfer.sources.iter().chain([&transfer.target]).chain(flags);
            words
                .map(String::as_str)
                .chain(documents.map(|document| document.content.as_str()))
                .collect()
        }
        _ => Vec::new(),
    }
}

/// The variables that a text cannot do without: those with a word for their absence can.
pub(super) fn needed_in(text: &str, escape: char) -> BTreeSet<String> {
    let names = words::names_in(text, escape).into_iter();
    names
        .filter(|name| name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_'))
        .filter(|name| is_bare(text, name))
        .collect()
}

fn is_bare(text: &str, name: &str) -> bool {
    text.match_indices('$').any(|(at, _)| {
        let rest = &text[at + 1..];
        let (rest, is_braced) = rest.strip_prefix('{').map_or((rest, false), |rest| (rest, true));
        let Some(after) = rest.strip_prefix(name) else {
            return false;
        };
        match after.chars().next() {
            Some(letter) if letter.is_ascii_alphanumeric() || letter == '_' => false,
            Some(':' | '-' | '+' | '?') if is_braced => false,
            _ => true,
        }
    })
}

fn check_sources(transfer: &Transfer, line: &Line<Instruction>, facts: &Facts, findings: &mut Findings) {
    let Some(ignore) = facts.ignore.filter(|_| transfer.from.is_none()) else {
        return;
    };
    for source in &transfer.sources {
        let path = source.trim_start_matches("./").trim_matches('/');
        let is_plain = !path.is_empty() && path != "." && !path.contains(['*', '?', '[', '$', ':']);
        if is_plain && ignore.excludes(path) {
            let message = format!("{source} is left out of the context by .dockerignore");
            findings.add("CopyIgnoredFile", line.place, message);
        }
    }
}
