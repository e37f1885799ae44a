//! The commands, one file each, and the table that finds them.

mod attach;
mod build;
mod build_agents;
mod build_annotate;
mod build_attest;
mod build_caches;
mod build_call;
mod build_extras;
mod build_kept;
mod build_outputs;
mod build_refused;
mod commit;
mod completion;
mod context;
mod cp;
mod create;
mod diff;
mod disk_usage;
mod events;
mod exec;
mod export;
mod history;
mod image_explore;
mod image_provenance;
mod image_sbom;
mod image_tree;
mod images;
mod import;
mod info;
mod inspect;
mod kill;
mod load;
mod login;
mod logout;
mod logs;
mod man;
mod manifest;
mod network;
mod pause;
mod port;
mod prune;
mod ps;
mod pull;
mod push;
mod rename;
mod rm;
mod rmi;
mod run;
mod save;
mod search;
mod start;
mod stats;
mod stop;
mod system;
mod tag;
mod top;
mod update;
pub mod version;
mod volume;
mod volume_extra;
mod wait;
mod why;

use crate::args::{Flag, Order, describe_flags};
use crate::error::{CliError, Result};
use crate::{Arguments, Session, output};

/// One command: how it is called and what it does.
pub struct Command {
    /// Full path first (`container run`), then its aliases.
    pub names: &'static [&'static str],
    /// What follows the name in its usage line.
    pub usage: &'static str,
    pub about: &'static str,
    pub flags: &'static [&'static [Flag]],
    pub order: Order,
    pub arity: Arity,
    pub run: fn(&Session, &Arguments) -> Result<u8>,
}

/// How many arguments a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arity {
    None,
    Exactly(usize),
    AtLeast(usize),
    AtMost(usize),
    Between(usize, usize),
}

impl Arity {
    /// What is wrong with a number of arguments, in Docker's words.
    pub fn complaint(self, count: usize) -> Option<String> {
        let plural = |number: usize| if number == 1 { "argument" } else { "arguments" };
        match self {
            Self::None if count > 0 => Some("accepts no arguments".to_owned()),
            Self::Exactly(number) if count != number => {
                Some(format!("requires exactly {number} {}", plural(number)))
            }
            Self::AtLeast(number) if count < number => {
                Some(format!("requires at least {number} {}", plural(number)))
            }
            Self::AtMost(number) if count > number => {
                Some(format!("requires at most {number} {}", plural(number)))
            }
            Self::Between(least, most) if count < least || count > most => Some(format!(
                "requires at least {least} and at most {most} {}",
                plural(most)
            )),
            _ => None,
        }
    }
}

static COMMANDS: &[&Command] = &[
    &build::COMMAND,
    &run::COMMAND,
    &create::COMMAND,
    &start::COMMAND,
    &attach::COMMAND,
    &exec::COMMAND,
    &commit::COMMAND,
    &cp::COMMAND,
    &diff::COMMAND,
    &export::COMMAND,
    &inspect::COMMAND,
    &inspect::CONTAINER,
    &inspect::IMAGE,
    &inspect::VOLUME,
    &inspect::NETWORK,
    &kill::COMMAND,
    &logs::COMMAND,
    &pause::COMMAND,
    &pause::UNPAUSE,
    &port::COMMAND,
    &prune::CONTAINER,
    &prune::IMAGE,
    &prune::VOLUME,
    &prune::SYSTEM,
    &prune::BUILDER,
    &ps::COMMAND,
    &rename::COMMAND,
    &stop::RESTART,
    &stats::COMMAND,
    &update::COMMAND,
    &rm::COMMAND,
    &stop::COMMAND,
    &top::COMMAND,
    &wait::COMMAND,
    &why::COMMAND,
    &images::COMMAND,
    &history::COMMAND,
    &load::COMMAND,
    &import::COMMAND,
    &login::COMMAND,
    &logout::COMMAND,
    &pull::COMMAND,
    &push::COMMAND,
    &save::COMMAND,
    &search::COMMAND,
    &rmi::COMMAND,
    &tag::COMMAND,
    &volume::CREATE,
    &volume::LIST,
    &volume::REMOVE,
    &network::CREATE,
    &volume::UPDATE,
    &volume_extra::RENAME,
    &volume_extra::CLONE,
    &volume_extra::EXPORT,
    &volume_extra::IMPORT,
    &volume_extra::UNDO,
    &network::LIST,
    &network::CONNECT,
    &network::DISCONNECT,
    &network::REMOVE,
    &prune::NETWORK,
    &info::COMMAND,
    &events::COMMAND,
    &disk_usage::COMMAND,
    &system::STOP,
    &system::DIAL_STDIO,
    &completion::COMMAND,
    &completion::CANDIDATES,
    &man::COMMAND,
    &manifest::ANNOTATE,
    &manifest::CREATE,
    &manifest::INSPECT,
    &manifest::PUSH,
    &manifest::REMOVE,
    &image_explore::COMMAND,
    &image_sbom::COMMAND,
    &image_provenance::COMMAND,
    &context::CREATE,
    &context::EXPORT,
    &context::IMPORT,
    &context::INSPECT,
    &context::LIST,
    &context::REMOVE,
    &context::SHOW,
    &context::UPDATE,
    &context::USE,
    &version::COMMAND,
];

/// Commands of Docker's that this version does not have.
const UNSUPPORTED: &[&str] = &[
    "buildx",
    "checkpoint",
    "compose",
    "config",
    "node",
    "plugin",
    "secret",
    "service",
    "stack",
    "swarm",
    "trust",
];

pub enum Found {
    /// And how many words its path takes.
    Command(&'static Command, usize),
    Group(&'static str),
    Unsupported(String),
    Nothing,
}

/// Finds the command that the first words name.
pub fn find(words: &[String]) -> Found {
    let Some(first) = words.first() else {
        return Found::Nothing;
    };
    let by_name = |name: &str| COMMANDS.iter().find(|command| command.names.contains(&name));
    if let Some(command) = by_name(first) {
        return Found::Command(command, 1);
    }
    let second = words.get(1).map(String::as_str).unwrap_or_default();
    let path = format!("{first} {second}");
    if let Some(command) = by_name(&path) {
        return Found::Command(command, 2);
    }
    if UNSUPPORTED.contains(&first.as_str()) {
        return Found::Unsupported(first.clone());
    }
    let group = COMMANDS
        .iter()
        .filter_map(|command| command.names[0].split_once(' '))
        .find(|(group, _)| group == first);
    match group {
        Some(_) if UNSUPPORTED.contains(&second) || second == "connect" || second == "disconnect" => {
            Found::Unsupported(path)
        }
        Some((group, _)) => Found::Group(group),
        None => Found::Nothing,
    }
}

/// A command's own help.
pub fn describe(command: &Command, path: &str) -> String {
    let mut text = format!("Usage:  {path} {}\n\n{}\n", command.usage, command.about);
    if command.names.len() > 1 {
        let program = path.split(' ').next().unwrap_or_default();
        let names: Vec<String> = command
            .names
            .iter()
            .map(|name| format!("{program} {name}"))
            .collect();
        text.push_str(&format!("\nAliases:\n  {}\n", names.join(", ")));
    }
    if command.flags.iter().any(|table| !table.is_empty()) {
        text.push_str(&format!("\nOptions:\n{}", describe_flags(command.flags)));
    }
    text
}

/// The help of a group (`container`), and the complaint about a word it does not know.
pub fn describe_group(program: &str, group: &str, word: Option<&str>) -> Result<u8> {
    if let Some(word) = word.filter(|word| word.starts_with('-') && !["-h", "--help"].contains(word)) {
        return Err(CliError::Usage {
            message: format!("unknown flag: {word}"),
            command: format!("{program} {group}"),
        });
    }
    if let Some(word) = word.filter(|word| !word.starts_with('-')) {
        let names = COMMANDS
            .iter()
            .filter_map(|command| command.names[0].strip_prefix(group))
            .map(str::trim_start);
        let suggestion = nearest(word, names)
            .map(|name| format!(" Did you mean '{group} {name}'?"))
            .unwrap_or_default();
        crate::output::tell!(
            "{program}: '{group} {word}' is not a {program} command.{suggestion}\nSee '{program} {group} --help'"
        );
        return Err(CliError::Status(1));
    }
    let mut text = format!("Usage:  {program} {group} COMMAND\n\nCommands:\n");
    for command in COMMANDS {
        if let Some((_, name)) = command.names[0]
            .split_once(' ')
            .filter(|(owner, _)| *owner == group)
        {
            text.push_str(&format!("  {name:11} {}\n", command.about));
        }
    }
    text.push_str(&format!(
        "\nRun '{program} {group} COMMAND --help' for more information on a command.\n"
    ));
    output::print(&text)?;
    Ok(0)
}

pub fn describe_all(program: &str, globals: &'static [Flag]) -> String {
    let mut text = format!("Usage:  {program} [OPTIONS] COMMAND\n\nRuns containers.\n\nCommands:\n");
    let mut lines: Vec<(&str, &str)> = COMMANDS
        .iter()
        .filter_map(|command| {
            // Those that scripts alone call begin with an underscore.
            let name = command.names.iter().find(|name| !name.contains([' ', '_']))?;
            Some((*name, command.about))
        })
        .collect();
    lines.sort_unstable();
    for (name, about) in lines {
        text.push_str(&format!("  {name:11} {about}\n"));
    }
    let mut groups: Vec<&str> = COMMANDS
        .iter()
        .filter_map(|command| command.names[0].split_once(' '))
        .map(|(group, _)| group)
        .collect();
    groups.sort_unstable();
    groups.dedup();
    text.push_str(&format!(
        "\nManagement Commands:\n  {}\n\nGlobal Options:\n",
        groups.join(", ")
    ));
    text.push_str(&describe_flags(&[globals]));
    text.push_str(&format!(
        "\nRun '{program} COMMAND --help' for more information on a command.\n"
    ));
    text
}

/// The complaint about an unknown command.
pub fn unknown(program: &str, word: &str) -> String {
    let names = COMMANDS
        .iter()
        .flat_map(|command| command.names.iter().copied())
        .filter(|name| !name.contains(' '));
    let suggestion = nearest(word, names)
        .map(|name| format!(" Did you mean '{name}'?"))
        .unwrap_or_default();
    format!("{program}: '{word}' is not a {program} command.{suggestion}\nSee '{program} --help'")
}

/// The name nearest to a word, when it is near enough to be what was meant.
fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 2).clamp(1, 3);
    names
        .map(|name| (edit_distance(word, name), name))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|best| best.1)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other.
fn edit_distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut rows = vec![vec![0; right.len() + 1]; left.len() + 1];
    for (row, cells) in rows.iter_mut().enumerate() {
        cells[0] = row;
    }
    rows[0] = (0..=right.len()).collect();
    for i in 1..=left.len() {
        for j in 1..=right.len() {
            let cost = usize::from(left[i - 1] != right[j - 1]);
            let mut best = (rows[i - 1][j] + 1)
                .min(rows[i][j - 1] + 1)
                .min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_command_is_answered_with_the_nearest() {
        assert!(unknown("naru", "rnu").contains("Did you mean 'run'?"));
        assert!(!unknown("naru", "frobnicate").contains("Did you mean"));
    }

    #[test]
    fn names_are_unique_and_flags_too() {
        let mut names: Vec<&str> = COMMANDS
            .iter()
            .flat_map(|command| command.names.iter().copied())
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for command in COMMANDS {
            let flags = || command.flags.iter().flat_map(|table| table.iter());
            let mut longs: Vec<&str> = flags().map(|flag| flag.long).collect();
            let mut shorts: Vec<char> = flags().filter_map(|flag| flag.short).collect();
            longs.sort_unstable();
            shorts.sort_unstable();
            assert!(
                longs.windows(2).all(|pair| pair[0] != pair[1]),
                "{}: {longs:?}",
                command.names[0]
            );
            assert!(
                shorts.windows(2).all(|pair| pair[0] != pair[1]),
                "{}: {shorts:?}",
                command.names[0]
            );
        }
    }
}
