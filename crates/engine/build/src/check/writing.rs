//! How instructions are written, each by itself or beside others of its stage.

use super::{Findings, words_of};
use crate::dockerfile::{Command, Dockerfile, Instruction, Line, Stage};
use crate::error::Place;
use crate::stages::find_named;
use crate::words;
use std::collections::HashMap;

/// Names of stages that mean something else.
const RESERVED: &[&str] = &["context", "scratch"];

/// Parts of a variable's name that tell of a secret.
const SECRET: &[&str] = &[
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "passwd",
    "password",
    "pword",
    "secret",
    "token",
];

pub(super) fn check(file: &Dockerfile, findings: &mut Findings) {
    check_casing(file, findings);
    for line in &file.empty_continuations {
        let place = Place {
            line: *line,
            last_line: *line,
        };
        findings.add(
            "NoEmptyContinuation",
            place,
            "an empty line continues the instruction",
        );
    }
    for (name, _, place) in file.global_arguments() {
        check_secret(name, place, "ARG", findings);
    }
    for (index, stage) in file.stages.iter().enumerate() {
        check_name(stage, &file.stages[..index], findings);
        check_once(stage, findings);
        let has_shell = |line: &Line<Instruction>| matches!(line.value, Instruction::Shell(_));
        let shell = stage.instructions.iter().position(has_shell);
        for (index, line) in stage.instructions.iter().enumerate() {
            check_line(line, shell.is_some_and(|shell| shell < index), findings);
        }
    }
}

fn is_upper(word: &str) -> bool {
    !word.contains(|letter: char| letter.is_ascii_lowercase())
}

fn is_lower(word: &str) -> bool {
    !word.contains(|letter: char| letter.is_ascii_uppercase())
}

fn check_casing(file: &Dockerfile, findings: &mut Findings) {
    let arguments = file.arguments.iter().map(|line| (line.place, &line.text));
    let stages = file.stages.iter().flat_map(|stage| {
        let lines = stage.instructions.iter();
        std::iter::once((stage.place, &stage.text)).chain(lines.map(|line| (line.place, &line.text)))
    });
    let words = arguments
        .chain(stages)
        .filter_map(|(place, text)| Some((place, text.split_whitespace().next()?)));
    let all: Vec<(Place, &str)> = words.collect();
    let lower = all.iter().filter(|(_, word)| is_lower(word)).count();
    let upper = all.iter().filter(|(_, word)| is_upper(word)).count();
    let (usual, name): (fn(&str) -> bool, _) = if lower > upper {
        (is_lower, "lower")
    } else {
        (is_upper, "upper")
    };
    for (place, word) in all.into_iter().filter(|(_, word)| !usual(word)) {
        let message = format!("{word} should be in {name} case, as most instructions here are");
        findings.add("ConsistentInstructionCasing", place, message);
    }
}

fn check_name(stage: &Stage, earlier: &[Stage], findings: &mut Findings) {
    let [from, _, word, name] = words_of(stage)[..] else {
        return;
    };
    if is_upper(from) != is_upper(word) || is_lower(from) != is_lower(word) {
        let message = format!("{word} should be written as {from} is, in capitals or not");
        findings.add("FromAsCasing", stage.place, message);
    }
    if !is_lower(name) {
        let message = format!("the stage's name {name} should be in lower case");
        findings.add("StageNameCasing", stage.place, message);
    }
    if RESERVED.contains(&name.to_ascii_lowercase().as_str()) {
        let message = format!("the stage's name {name} has a meaning of its own: choose another");
        findings.add("ReservedStageName", stage.place, message);
    }
    if find_named(earlier, name).is_some() {
        let message = format!("an earlier stage is called {name} too: each should have a name of its own");
        findings.add("DuplicateStageName", stage.place, message);
    }
}

/// Of what counts once, the earlier ones count for nothing.
fn check_once(stage: &Stage, findings: &mut Findings) {
    let mut seen: HashMap<&str, Place> = HashMap::new();
    for line in &stage.instructions {
        let word = match &line.value {
            Instruction::Cmd(_) => "CMD",
            Instruction::Entrypoint(_) => "ENTRYPOINT",
            Instruction::Healthcheck(_) => "HEALTHCHECK",
            _ => continue,
        };
        if let Some(place) = seen.insert(word, line.place) {
            let message = format!("only the last {word} of a stage counts: this one does not");
            findings.add("MultipleInstructionsDisallowed", place, message);
        }
    }
}

fn check_line(line: &Line<Instruction>, has_shell: bool, findings: &mut Findings) {
    match &line.value {
        Instruction::Cmd(Command::Shell(_)) | Instruction::Entrypoint(Command::Shell(_)) if !has_shell => {
            let message = "the shell that this form starts keeps signals from the program: use a JSON list";
            findings.add("JSONArgsRecommended", line.place, message);
        }
        Instruction::Maintainer(_) => {
            let message = "MAINTAINER is deprecated: use LABEL org.opencontainers.image.authors=…";
            findings.add("MaintainerDeprecated", line.place, message);
        }
        Instruction::Env(pairs) => {
            check_legacy(line, "ENV", findings);
            for (name, _) in pairs {
                check_secret(name, line.place, "ENV", findings);
            }
        }
        Instruction::Label(_) => check_legacy(line, "LABEL", findings),
        Instruction::Arg(arguments) => {
            for (name, _) in arguments {
                check_secret(name, line.place, "ARG", findings);
            }
        }
        Instruction::Expose(ports) => {
            for port in ports {
                check_port(port, line.place, findings);
            }
        }
        _ => {}
    }
}

fn check_legacy(line: &Line<Instruction>, word: &str, findings: &mut Findings) {
    let rest = line
        .text
        .split_once(char::is_whitespace)
        .map_or("", |(_, rest)| rest);
    // An escape only keeps words together here, whichever it is.
    let first = words::split(rest, '\\').into_iter().next().unwrap_or_default();
    if !first.contains('=') {
        let message = format!("{word} {first}=value should be written with a sign between name and value");
        findings.add("LegacyKeyValueFormat", line.place, message);
    }
}

/// Whether a variable's name tells of a secret.
pub fn is_secret(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let mut parts = lower.split('_');
    lower.split('_').any(|part| SECRET.contains(&part)) && !parts.any(|part| part == "public")
}

fn check_secret(name: &str, place: Place, word: &str, findings: &mut Findings) {
    if is_secret(name) {
        let message =
            format!("{word} {name} stays readable in the image or its history: use RUN --mount=type=secret");
        findings.add("SecretsUsedInArgOrEnv", place, message);
    }
}

fn check_port(port: &str, place: Place, findings: &mut Findings) {
    let (range, protocol) = port.split_once('/').unwrap_or((port, ""));
    // The colons of a substitution are its own.
    if range.contains(':') && !range.contains("${") {
        let message =
            format!("{port} names an address or a port of the host: EXPOSE takes the container's port alone");
        findings.add("ExposeInvalidFormat", place, message);
    }
    if !is_lower(protocol) && !protocol.contains('$') {
        let message = format!("the protocol of {port} should be in lower case");
        findings.add("ExposeProtoCasing", place, message);
    }
}
