//! Logical lines become instructions, and instructions stages.

use super::flags::Flags;
use super::instruction::{Arguments, Command, Instruction, Run, Transfer, WORDS};
use super::lines::{self, LogicalLine, RawHeredoc};
use super::{Dockerfile, Line, Stage};
use crate::error::{DockerfileError, Place, Result, nearest};
use crate::stages::STAGES_MAX;
use crate::words;
use naru_oci::Healthcheck;

/// Reads a whole Dockerfile.
pub fn parse(bytes: &[u8]) -> Result<Dockerfile> {
    let (directives, lines) = lines::read(bytes)?;
    let escape = directives.escape;
    let mut file = Dockerfile {
        text: String::from_utf8_lossy(bytes).into_owned(),
        escape,
        syntax: directives.syntax,
        check: directives.check,
        empty_continuations: lines.iter().filter_map(|line| line.empty).collect(),
        arguments: Vec::new(),
        stages: Vec::new(),
    };
    if lines.is_empty() {
        return Err(DockerfileError::new(
            Place::default(),
            "the Dockerfile cannot be empty",
        ));
    }
    for line in lines {
        let (word, rest) = head(&line.text);
        if word.eq_ignore_ascii_case("FROM") {
            if file.stages.len() == STAGES_MAX {
                let message = format!("the Dockerfile has more than {STAGES_MAX} stages");
                return Err(DockerfileError::new(line.place, message));
            }
            file.stages.push(from(&line, rest, escape)?);
            continue;
        }
        let value = instruction(&line, escape)?;
        let place = line.place;
        match (file.stages.last_mut(), value) {
            (Some(stage), value) => stage.instructions.push(Line {
                place,
                text: line.text,
                value,
            }),
            (None, Instruction::Arg(value)) => file.arguments.push(Line {
                place,
                text: line.text,
                value,
            }),
            (None, _) => {
                return Err(DockerfileError::new(
                    place,
                    "no build stage in current context: the first instruction must be FROM",
                ));
            }
        }
    }
    if file.stages.is_empty() {
        return Err(DockerfileError::new(
            Place::default(),
            "the Dockerfile has no FROM: no build stage",
        ));
    }
    Ok(file)
}

/// Reads one instruction that stands in no file: of `ONBUILD`, or of `commit --change`.
pub fn parse_instruction(text: &str, place: Place) -> Result<Line<Instruction>> {
    let (_, lines) = lines::read(text.as_bytes()).map_err(|error| DockerfileError { place, ..error })?;
    let [line] = &lines[..] else {
        return Err(DockerfileError::new(
            place,
            format!("{text:?} is not one instruction"),
        ));
    };
    let line = LogicalLine {
        place,
        ..line.clone()
    };
    let value = instruction(&line, '\\')?;
    Ok(Line {
        place,
        text: line.text,
        value,
    })
}

fn head(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (word, rest.trim())
}

fn from(line: &LogicalLine, rest: &str, escape: char) -> Result<Stage> {
    let wrong = |message: &str| DockerfileError::new(line.place, message);
    let (mut flags, rest) = Flags::take(line.place, "FROM", rest, escape);
    let platform = flags.value("platform")?;
    flags.finish()?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let (base, name) = match words[..] {
        [base] => (base, None),
        [base, word, name] if word.eq_ignore_ascii_case("AS") => (base, Some(name.to_ascii_lowercase())),
        _ => {
            return Err(wrong(
                "FROM requires either one or three arguments: FROM IMAGE [AS NAME]",
            ));
        }
    };
    if let Some(name) = &name {
        let is_letter = |character: char| {
            character.is_ascii_lowercase() || character.is_ascii_digit() || "._-".contains(character)
        };
        if !name.starts_with(|first: char| first.is_ascii_lowercase()) || !name.chars().all(is_letter) {
            return Err(wrong(&format!(
                "invalid name for build stage: {name:?}, name can't start with a number or contain symbols"
            )));
        }
    }
    Ok(Stage {
        place: line.place,
        text: line.text.clone(),
        name,
        base: base.to_owned(),
        platform,
        instructions: Vec::new(),
    })
}

fn instruction(line: &LogicalLine, escape: char) -> Result<Instruction> {
    let (word, rest) = head(&line.text);
    let upper = word.to_ascii_uppercase();
    let Some(known) = WORDS.iter().find(|known| **known == upper) else {
        let hint = nearest(&upper, WORDS).map_or_else(String::new, |near| format!(" (did you mean {near}?)"));
        return Err(DockerfileError::new(
            line.place,
            format!("unknown instruction: {word}{hint}"),
        ));
    };
    let wrong = |message: String| DockerfileError::new(line.place, message);
    let (flags, rest) = match *known {
        "ADD" | "COPY" | "RUN" | "HEALTHCHECK" => {
            let (flags, rest) = Flags::take(line.place, known, rest, escape);
            (Some(flags), rest)
        }
        _ => (None, rest),
    };
    if rest.is_empty() && !matches!(*known, "CMD" | "ENTRYPOINT") {
        let what = if matches!(*known, "ADD" | "COPY") {
            "at least two arguments"
        } else {
            "at least one argument"
        };
        return Err(wrong(format!("{known} requires {what}")));
    }
    let flags = |known: &'static str| flags.unwrap_or_else(|| Flags::take(line.place, known, "", escape).0);
    Ok(match *known {
        "ADD" => Instruction::Add(transfer(line, flags("ADD"), rest, escape, true)?),
        "COPY" => Instruction::Copy(transfer(line, flags("COPY"), rest, escape, false)?),
        "RUN" => Instruction::Run(run(line, flags("RUN"), rest, escape)?),
        "HEALTHCHECK" => Instruction::Healthcheck(healthcheck(line.place, flags("HEALTHCHECK"), rest)?),
        "ARG" => Instruction::Arg(arguments(line.place, rest, escape)?),
        "CMD" => Instruction::Cmd(command(rest)),
        "ENTRYPOINT" => Instruction::Entrypoint(command(rest)),
        "ENV" => Instruction::Env(pairs(line.place, "ENV", rest, escape)?),
        "LABEL" => Instruction::Label(pairs(line.place, "LABEL", rest, escape)?),
        "EXPOSE" => Instruction::Expose(words::split(rest, escape)),
        "VOLUME" => {
            let paths = json_list(rest).unwrap_or_else(|| words::split(rest, escape));
            if paths.iter().any(|path| path.trim().is_empty()) {
                return Err(wrong("VOLUME specified can not be an empty string".to_owned()));
            }
            Instruction::Volume(paths)
        }
        "SHELL" => match json_list(rest) {
            Some(words) if !words.is_empty() => Instruction::Shell(words),
            _ => {
                return Err(wrong(
                    "SHELL requires the arguments to be in JSON form".to_owned(),
                ));
            }
        },
        "ONBUILD" => Instruction::OnBuild(on_build(line.place, rest)?),
        "MAINTAINER" => Instruction::Maintainer(rest.to_owned()),
        "STOPSIGNAL" => Instruction::StopSignal(rest.to_owned()),
        "USER" => Instruction::User(rest.to_owned()),
        "WORKDIR" => Instruction::Workdir(rest.to_owned()),
        // `FROM` opens a stage and is no instruction of one.
        _ => return Err(wrong(format!("{known} isn't allowed here"))),
    })
}

fn json_list(text: &str) -> Option<Vec<String>> {
    text.starts_with('[')
        .then(|| serde_json::from_str(text).ok())
        .flatten()
}

/// A list in JSON, else a line for the shell.
fn command(text: &str) -> Command {
    json_list(text).map_or_else(|| Command::Shell(text.to_owned()), Command::Exec)
}

/// `key=value …`, or the older `key value`. Values keep their quotes: they go when variables are expanded.
fn pairs(place: Place, instruction: &str, rest: &str, escape: char) -> Result<Vec<(String, String)>> {
    let all = words::split(rest, escape);
    let no_sign = || {
        DockerfileError::new(
            place,
            format!("Syntax error - can't find = in {rest:?}. Must be of the form: name=value"),
        )
    };
    let is_old = !all.first().is_some_and(|word| word.contains('='));
    if is_old {
        let (key, value) = rest
            .split_once(char::is_whitespace)
            .ok_or_else(|| DockerfileError::new(place, format!("{instruction} must have two arguments")))?;
        return Ok(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    all.iter()
        .map(|word| {
            let (key, value) = word.split_once('=').ok_or_else(no_sign)?;
            if key.is_empty() {
                return Err(DockerfileError::new(
                    place,
                    format!("{instruction} names can not be blank"),
                ));
            }
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

fn arguments(place: Place, rest: &str, escape: char) -> Result<Arguments> {
    words::split(rest, escape)
        .iter()
        .map(|word| {
            let (key, value) = word
                .split_once('=')
                .map_or((word.as_str(), None), |(key, value)| (key, Some(value)));
            if key.is_empty() {
                return Err(DockerfileError::new(place, "ARG names can not be blank"));
            }
            Ok((key.to_owned(), value.map(str::to_owned)))
        })
        .collect()
}

fn transfer(
    line: &LogicalLine,
    mut flags: Flags,
    rest: &str,
    escape: char,
    is_add: bool,
) -> Result<Transfer> {
    let mut transfer = Transfer {
        chown: flags.value("chown")?,
        chmod: flags.value("chmod")?,
        link: flags.switch("link")?.unwrap_or(false),
        excludes: flags.values("exclude")?,
        ..Transfer::default()
    };
    if is_add {
        transfer.checksum = flags.value("checksum")?;
        transfer.keep_git_dir = flags.switch("keep-git-dir")?.unwrap_or(false);
        transfer.unpack = flags.switch("unpack")?;
    } else {
        transfer.from = flags.value("from")?;
        transfer.parents = flags.switch("parents")?.unwrap_or(false);
    }
    flags.finish()?;
    let mut all = json_list(rest).unwrap_or_else(|| words::split(rest, escape));
    let word = if is_add { "ADD" } else { "COPY" };
    if all.len() < 2 {
        let message = format!(
            "{word} requires at least two arguments, but only one was provided. Destination could not be determined"
        );
        return Err(DockerfileError::new(line.place, message));
    }
    transfer.target = all.pop().unwrap_or_default();
    let heredocs: Vec<_> = line.heredocs.iter().map(|raw| raw.heredoc.clone()).collect();
    transfer.sources = all
        .into_iter()
        .filter(|source| {
            let name = lines::heredoc_name(source, escape);
            !name.is_some_and(|name| heredocs.iter().any(|heredoc| heredoc.name == name))
        })
        .collect();
    transfer.heredocs = heredocs;
    Ok(transfer)
}

fn run(line: &LogicalLine, mut flags: Flags, rest: &str, escape: char) -> Result<Run> {
    let mounts = flags.values("mount")?;
    let network = flags.value("network")?;
    let security = flags.value("security")?;
    let devices = flags.values("device")?;
    flags.finish()?;
    if !devices.is_empty() {
        return Err(DockerfileError::new(
            line.place,
            "RUN --device is not supported: a step gets no device of the host",
        ));
    }
    let (command, script) = match &line.heredocs[..] {
        [] => (command(rest), None),
        // The document alone is the program.
        [only] if lines::heredoc_name(rest, escape).is_some_and(|name| name == only.heredoc.name) => {
            let content = only.heredoc.content.clone();
            let script = content.starts_with("#!").then(|| only.heredoc.clone());
            (Command::Shell(content), script)
        }
        several => (Command::Shell(with_documents(rest, several)), None),
    };
    if let Some(network) = &network
        && !["default", "none", "host"].contains(&network.as_str())
    {
        return Err(DockerfileError::new(
            line.place,
            format!("unsupported network mode {network:?}: use default, none or host"),
        ));
    }
    Ok(Run {
        command,
        script,
        mounts,
        network,
        security,
    })
}

/// The line and its documents, as the shell reads them.
fn with_documents(rest: &str, documents: &[RawHeredoc]) -> String {
    let mut text = format!("{rest}\n");
    text.extend(documents.iter().map(|document| document.raw.as_str()));
    text.trim_end_matches('\n').to_owned() + "\n"
}

fn healthcheck(place: Place, mut flags: Flags, rest: &str) -> Result<Healthcheck> {
    let wrong = |message: String| DockerfileError::new(place, message);
    let mut check = Healthcheck::default();
    let mut duration = |name: &'static str| -> Result<i64> {
        match flags.value(name)? {
            None => Ok(0),
            Some(text) => duration_ns(&text).ok_or_else(|| {
                wrong(format!(
                    "invalid duration {text:?} of --{name}: use 30s, 1m30s and the like"
                ))
            }),
        }
    };
    check.interval = duration("interval")?;
    check.timeout = duration("timeout")?;
    check.start_period = duration("start-period")?;
    check.start_interval = duration("start-interval")?;
    if let Some(text) = flags.value("retries")? {
        check.retries = text
            .parse()
            .ok()
            .filter(|retries| *retries >= 0)
            .ok_or_else(|| wrong(format!("--retries must be a number from 0, not {text:?}")))?;
    }
    flags.finish()?;
    let (kind, rest) = head(rest);
    check.test = match kind.to_ascii_uppercase().as_str() {
        "NONE" if rest.is_empty() => vec!["NONE".to_owned()],
        "NONE" => return Err(wrong("HEALTHCHECK NONE takes no arguments".to_owned())),
        "CMD" if rest.is_empty() => return Err(wrong("Missing command after HEALTHCHECK CMD".to_owned())),
        "CMD" => match command(rest) {
            Command::Shell(line) => vec!["CMD-SHELL".to_owned(), line],
            Command::Exec(words) => std::iter::once("CMD".to_owned()).chain(words).collect(),
        },
        _ => return Err(wrong(format!("Unknown type {kind:?} in HEALTHCHECK (try CMD)"))),
    };
    Ok(check)
}

/// At least one millisecond, or 0: Docker's bounds.
fn duration_ns(text: &str) -> Option<i64> {
    let nanoseconds = naru_base::parse_duration(text).ok()?;
    (nanoseconds == 0 || nanoseconds >= 1_000_000).then_some(nanoseconds)
}

fn on_build(place: Place, rest: &str) -> Result<String> {
    let (word, _) = head(rest);
    match word.to_ascii_uppercase().as_str() {
        "ONBUILD" => Err(DockerfileError::new(
            place,
            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        )),
        word @ ("FROM" | "MAINTAINER") => Err(DockerfileError::new(
            place,
            format!("{word} isn't allowed as an ONBUILD trigger"),
        )),
        _ => {
            // What is wrong is told to whoever writes it, not to whoever builds upon it.
            parse_instruction(rest, place)?;
            Ok(rest.to_owned())
        }
    }
}
