//! `man`: manual pages, made from the same tables as the help.

use super::{Arity, COMMANDS, Command, Found, find};
use crate::args::Kind::Text;
use crate::args::{Flag, Order, flag_words, long};
use crate::error::{CliError, Result};
use crate::{Arguments, GLOBAL_FLAGS, Session, output};
use std::path::Path;

pub const COMMAND: Command = Command {
    names: &["man"],
    usage: "[OPTIONS] [COMMAND...]",
    about: "Print a manual page, or write all of them: `man -l <(naru man run)`",
    flags: &[&[long(
        "output",
        Text("directory"),
        "Write the page of every command to this directory",
    )]],
    order: Order::Mixed,
    arity: Arity::AtLeast(0),
    run,
};

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let program = &session.program;
    if let Some(directory) = arguments.text("output") {
        return write_all(program, Path::new(directory));
    }
    let words = &arguments.positional;
    let page = match find(words) {
        _ if words.is_empty() => main_page(program),
        Found::Command(command, path_words) if path_words == words.len() => command_page(program, command),
        _ => {
            return Err(CliError::message(format!(
                "no manual page for {:?}",
                words.join(" ")
            )));
        }
    };
    output::print(&page)?;
    Ok(0)
}

fn write_all(program: &str, directory: &Path) -> Result<u8> {
    let write = |name: String, page: String| {
        let path = directory.join(name + ".1");
        std::fs::write(&path, page)
            .map_err(|error| CliError::message(format!("write {}: {error}", path.display())))
    };
    std::fs::create_dir_all(directory)
        .map_err(|error| CliError::message(format!("make {}: {error}", directory.display())))?;
    write(program.to_owned(), main_page(program))?;
    for command in public() {
        write(page_name(program, command), command_page(program, command))?;
    }
    Ok(0)
}

fn public() -> impl Iterator<Item = &'static &'static Command> {
    COMMANDS
        .iter()
        .filter(|command| !command.names[0].starts_with("__"))
}

fn page_name(program: &str, command: &Command) -> String {
    format!("{program}-{}", command.names[0].replace(' ', "-"))
}

fn main_page(program: &str) -> String {
    let mut page = head(program, "runs containers");
    page += &format!(
        ".SH SYNOPSIS\n\\fB{}\\fR [OPTIONS] COMMAND\n.SH COMMANDS\n",
        escape(program)
    );
    let mut commands: Vec<&&Command> = public().collect();
    commands.sort_by_key(|command| command.names[0]);
    for command in commands {
        page += &format!(
            ".TP\n\\fB{}\\fR(1)\n{}\n",
            escape(&page_name(program, command)),
            text(command.about)
        );
    }
    page + &options("OPTIONS", &[GLOBAL_FLAGS])
}

fn command_page(program: &str, command: &Command) -> String {
    let mut page = head(&page_name(program, command), command.about);
    page += ".SH SYNOPSIS\n";
    for (at, name) in command.names.iter().enumerate() {
        let lead = if at == 0 { "" } else { ".br\n" };
        page += &format!(
            "{lead}\\fB{} {}\\fR {}\n",
            escape(program),
            escape(name),
            escape(command.usage)
        );
    }
    if command.flags.iter().any(|table| !table.is_empty()) {
        page += &options("OPTIONS", command.flags);
    }
    page + &format!(".SH SEE ALSO\n\\fB{}\\fR(1)\n", escape(program))
}

fn head(name: &str, about: &str) -> String {
    format!(
        ".TH \"{}\" 1 \"\" \"{}\" \"\"\n.SH NAME\n{} \\- {}\n",
        escape(&name.to_uppercase()),
        env!("CARGO_PKG_VERSION"),
        escape(name),
        text(about)
    )
}

fn options(heading: &str, tables: &[&'static [Flag]]) -> String {
    let mut flags: Vec<&Flag> = tables.iter().flat_map(|table| table.iter()).collect();
    flags.sort_by_key(|flag| flag.long);
    let lines = flags.iter().map(|flag| {
        format!(
            ".TP\n\\fB{}\\fR\n{}\n",
            escape(&flag_words(flag)),
            text(flag.help)
        )
    });
    format!(".SH {heading}\n{}", lines.collect::<String>())
}

/// A hyphen that can be copied, and backslashes that are no commands.
fn escape(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

/// A line of its own: one that began with a dot or an apostrophe would be a command.
fn text(line: &str) -> String {
    let line = escape(line);
    if line.starts_with(['.', '\'']) {
        format!("\\&{line}")
    } else {
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_names_its_options_and_begins_no_line_as_a_command() {
        for command in public() {
            let page = command_page("naru", command);
            for flag in command.flags.iter().flat_map(|table| table.iter()) {
                assert!(
                    page.contains(&escape(&format!("--{}", flag.long))),
                    "{}",
                    command.names[0]
                );
            }
            for line in page.lines().filter(|line| line.starts_with(['.', '\''])) {
                assert!(
                    [".TH", ".SH", ".TP", ".br"]
                        .iter()
                        .any(|known| line.starts_with(known)),
                    "{line}"
                );
            }
        }
    }
}
