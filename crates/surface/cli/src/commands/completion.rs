//! `completion`: scripts for shells, and `__complete`, which answers them.
//!
//! A script hands over the words so far; the answer is one candidate a line, with a tab before its description. What
//! stands in place of `CONTAINER`, `IMAGE`, `VOLUME`, `NETWORK` or `CONTEXT` in a command's usage is asked of the daemon,
//! which is not started for it.

use super::{Arity, COMMANDS, Command, Found, find};
use crate::args::{Flag, Kind, Order};
use crate::error::{CliError, Result};
use crate::json::Value;
use crate::{GLOBAL_FLAGS, Session, output};

pub const COMMAND: Command = Command {
    names: &["completion"],
    usage: "bash|zsh|fish",
    about: "Print the completion script of a shell",
    flags: &[],
    order: Order::Mixed,
    arity: Arity::Exactly(1),
    run: |session, arguments| print_script(session, &arguments.positional[0]),
};
pub const CANDIDATES: Command = Command {
    names: &["__complete"],
    usage: "WORD...",
    about: "Print what the last word may become; for completion scripts",
    flags: &[],
    order: Order::FlagsFirst,
    arity: Arity::AtLeast(0),
    run: |session, arguments| print_candidates(session, &arguments.positional),
};

const BASH: &str = r#"_PROGRAM_complete() {
    local line candidates=()
    while IFS= read -r line; do
        candidates+=("${line%%$'\t'*}")
    done < <(PROGRAM __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    COMPREPLY=($(compgen -W "${candidates[*]}" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _PROGRAM_complete PROGRAM
"#;

const ZSH: &str = r#"#compdef PROGRAM
_PROGRAM() {
    local line
    local -a candidates
    while IFS= read -r line; do
        candidates+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done < <(PROGRAM __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)
    if (( ${#candidates} )); then _describe 'PROGRAM' candidates; else _files; fi
}
compdef _PROGRAM PROGRAM
"#;

const FISH: &str = r"function __PROGRAM_complete
    set -l words (commandline -opc) (commandline -ct)
    PROGRAM __complete -- $words[2..-1] 2>/dev/null
end
complete -c PROGRAM -a '(__PROGRAM_complete)'
";

fn print_script(session: &Session, shell: &str) -> Result<u8> {
    let script = match shell {
        "bash" => BASH,
        "zsh" => ZSH,
        "fish" => FISH,
        other => {
            return Err(CliError::message(format!(
                "no completion for {other:?}: there is one for bash, zsh and fish"
            )));
        }
    };
    output::print(&script.replace("PROGRAM", &session.program))?;
    Ok(0)
}

fn print_candidates(session: &Session, words: &[String]) -> Result<u8> {
    let (before, last) = match words.split_last() {
        Some((last, before)) => (before, last.as_str()),
        None => (words, ""),
    };
    let mut found = candidates(&|kind| names_of(session, kind), before, last);
    found.retain(|(name, _)| name.starts_with(last));
    found.sort();
    found.dedup_by(|other, first| other.0 == first.0);
    output::print(
        &found
            .iter()
            .map(|(name, about)| format!("{name}\t{about}\n"))
            .collect::<String>(),
    )?;
    Ok(0)
}

type Candidates = Vec<(String, String)>;

/// Decides what may stand in the last word's place; `names` gives those of a kind of thing.
fn candidates(names: &dyn Fn(&str) -> Candidates, before: &[String], last: &str) -> Candidates {
    let words = without_globals(before);
    let found = find(&words);
    let Found::Command(command, path_words) = found else {
        return match words.first() {
            None if last.starts_with('-') => flags(&[GLOBAL_FLAGS]),
            None => commands(),
            Some(group) if words.len() == 1 => group_commands(group),
            Some(_) => Vec::new(),
        };
    };
    let given = &words[path_words..];
    if takes_value(command, given) {
        return Vec::new();
    }
    if last.starts_with('-') {
        return flags(command.flags);
    }
    let count = given.iter().filter(|word| !word.starts_with('-')).count();
    let mut found = kind_at(command, count).map_or_else(Vec::new, names);
    if words.len() == path_words && path_words == 1 {
        // A command's name may be a group's too.
        found.extend(group_commands(&words[0]));
    }
    found
}

/// The words from the command's name on.
fn without_globals(words: &[String]) -> Vec<String> {
    let mut rest = words.iter();
    while let Some(word) = rest.as_slice().first().filter(|word| word.starts_with('-')) {
        rest.next();
        if !word.contains('=') && value_follows(&[GLOBAL_FLAGS], word) {
            rest.next();
        }
    }
    rest.cloned().collect()
}

fn takes_value(command: &Command, given: &[String]) -> bool {
    given.last().is_some_and(|word| {
        word.starts_with('-') && !word.contains('=') && value_follows(command.flags, word)
    })
}

/// Whether the word is a flag whose value is the next word.
fn value_follows(tables: &[&'static [Flag]], word: &str) -> bool {
    let mut all = tables.iter().flat_map(|table| table.iter());
    let flag = match word.strip_prefix("--") {
        Some(long) => all.find(|flag| flag.long == long),
        None => all.find(|flag| flag.short.is_some() && word.chars().last() == flag.short),
    };
    flag.is_some_and(|flag| flag.kind != Kind::Bool)
}

fn flags(tables: &[&'static [Flag]]) -> Candidates {
    let all = tables.iter().flat_map(|table| table.iter());
    let mut found: Candidates = all
        .map(|flag| (format!("--{}", flag.long), flag.help.to_owned()))
        .collect();
    found.push(("--help".to_owned(), "Print usage".to_owned()));
    found
}

fn commands() -> Candidates {
    let names = COMMANDS.iter().flat_map(|command| {
        command.names.iter().map(|name| match name.split_once(' ') {
            Some((group, _)) => (group.to_owned(), format!("Manage {group}s")),
            None => ((*name).to_owned(), command.about.to_owned()),
        })
    });
    names.filter(|(name, _)| !name.starts_with("__")).collect()
}

fn group_commands(group: &str) -> Candidates {
    let of_group = |name: &&str| {
        name.split_once(' ')
            .filter(|(owner, _)| *owner == group)
            .map(|(_, name)| name.to_owned())
    };
    COMMANDS
        .iter()
        .filter_map(|command| Some((command.names.iter().find_map(of_group)?, command.about.to_owned())))
        .collect()
}

/// What a command's usage has at a place: `[OPTIONS] CONTAINER [CONTAINER...]`. The last goes on.
fn kind_at(command: &Command, place: usize) -> Option<&'static str> {
    let usage = command.usage;
    let mut words = usage
        .split([' ', '|', '[', ']'])
        .map(|word| word.trim_end_matches('.'))
        .filter(|word| !word.is_empty() && *word != "OPTIONS");
    let all: Vec<&str> = words.by_ref().collect();
    let kind = all
        .get(place)
        .or_else(|| all.last().filter(|_| usage.contains("...")))?;
    let kind = KINDS.iter().copied().find(|known| kind.starts_with(known))?;
    // `inspect` says NAME for whatever its group is about.
    let group = command.names[0]
        .split(' ')
        .next()
        .unwrap_or_default()
        .to_uppercase();
    let of_group = KINDS.iter().copied().find(|known| *known == group);
    Some(of_group.filter(|_| kind == "NAME").unwrap_or(kind))
}

const KINDS: &[&str] = &["CONTAINER", "IMAGE", "VOLUME", "NETWORK", "CONTEXT", "NAME"];

/// The names of all things of a kind, as far as the daemon tells.
fn names_of(session: &Session, kind: &str) -> Candidates {
    let ask = |path: &str| session.client.get(path).unwrap_or_default();
    let named = |list: &Value, about: &str| -> Candidates {
        list.items()
            .iter()
            .map(|one| {
                (
                    one.get("Name").text().to_owned(),
                    one.get(about).text().to_owned(),
                )
            })
            .collect()
    };
    match kind {
        "CONTAINER" | "NAME" => ask("/containers/json?all=1")
            .items()
            .iter()
            .flat_map(|one| one.get("Names").items().iter().map(move |name| (name, one)))
            .map(|(name, one)| {
                (
                    name.text().trim_start_matches('/').to_owned(),
                    one.get("Status").text().to_owned(),
                )
            })
            .collect(),
        "IMAGE" => ask("/images/json")
            .items()
            .iter()
            .flat_map(|one| one.get("RepoTags").items().iter())
            .map(|tag| (tag.text().to_owned(), String::new()))
            .collect(),
        "VOLUME" => named(ask("/volumes").get("Volumes"), "Driver"),
        "NETWORK" => named(&ask("/networks"), "Driver"),
        _ => session
            .config
            .contexts()
            .list()
            .into_iter()
            .map(|context| (context.name, context.host))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(line: &str) -> Vec<String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (last, before) = words.split_last().unwrap();
        let names = |kind: &str| vec![(format!("a-{}", kind.to_lowercase()), String::new())];
        let mut found: Vec<String> = candidates(&names, before, last)
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| name.starts_with(last))
            .collect();
        found.sort();
        found.dedup();
        found
    }

    #[test]
    fn words_are_completed_by_their_place() {
        assert_eq!(complete("unpa"), ["unpause"]);
        assert_eq!(complete("container unp"), ["unpause"]);
        assert_eq!(complete("stop a"), ["a-container"]);
        assert_eq!(complete("stop x a"), ["a-container"]);
        assert_eq!(complete("run a"), ["a-image"]);
        assert_eq!(complete("run --rm -it a"), ["a-image"]);
        assert_eq!(complete("run --name a"), [""; 0]);
        assert_eq!(complete("run --detach-"), ["--detach-keys"]);
        assert_eq!(complete("-H unix:///x volume rm a"), ["a-volume"]);
        assert_eq!(complete("context use a"), ["a-context"]);
        assert!(complete("").contains(&"run".to_owned()) && !complete("").contains(&"__complete".to_owned()));
    }
}
