//! What Docker's client has no words for: `volume rename`, `clone`, `export`, `import` and `undo`.

use super::{Arity, Command};
use crate::args::Kind::{Bool, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::{CliError, Result};
use crate::http::{Body, Query, escape};
use crate::json::Value;
use crate::output::print_line;
use crate::table::{self, Column};
use crate::{Arguments, Session, terminal, units};
use std::fs::File;
use std::io::{self, IsTerminal, Read};

pub const RENAME: Command = Command {
    names: &["volume rename"],
    usage: "VOLUME NEW_NAME",
    about: "Rename a volume that is not in use",
    flags: &[],
    order: Order::Mixed,
    arity: Arity::Exactly(2),
    run: |session, arguments| with_new_name(session, arguments, "rename"),
};
pub const CLONE: Command = Command {
    names: &["volume clone"],
    usage: "VOLUME NEW_VOLUME",
    about: "Make a volume with a copy of another's files, labels and options",
    flags: &[],
    order: Order::Mixed,
    arity: Arity::Exactly(2),
    run: |session, arguments| with_new_name(session, arguments, "clone"),
};
pub const EXPORT: Command = Command {
    names: &["volume export"],
    usage: "[OPTIONS] VOLUME",
    about: "Export a volume's files as a tar archive",
    flags: &[&[flag(
        "output",
        'o',
        Text("string"),
        "Write to a file, instead of STDOUT",
    )]],
    order: Order::Mixed,
    arity: Arity::Exactly(1),
    run: export,
};
pub const IMPORT: Command = Command {
    names: &["volume import"],
    usage: "VOLUME [FILE|-]",
    about: "Unpack a tar archive into a volume",
    flags: &[],
    order: Order::Mixed,
    arity: Arity::Between(1, 2),
    run: import,
};
const UNDO_FLAGS: &[Flag] = &[
    long("empty", Bool, "Remove for good what could be had back"),
    long("list", Bool, "List removed volumes that can be had back"),
];
pub const UNDO: Command = Command {
    names: &["volume undo"],
    usage: "[OPTIONS] [VOLUME]",
    about: "Take back the removal of a volume, of the last one or of the one named",
    flags: &[UNDO_FLAGS],
    order: Order::Mixed,
    arity: Arity::AtMost(1),
    run: undo,
};

const TRASH: &str = "/naru/volumes/trash";

fn volume_path(name: &str, action: &str) -> String {
    format!("/volumes/{}/{action}", escape(name))
}

fn with_new_name(session: &Session, arguments: &Arguments, action: &str) -> Result<u8> {
    let path = Query::new(&volume_path(&arguments.positional[0], action))
        .set("name", &arguments.positional[1])
        .build();
    let volume = session.client.json("POST", &path, Body::Empty)?;
    print_line(volume.get("Name").text())?;
    Ok(0)
}

fn export(session: &Session, arguments: &Arguments) -> Result<u8> {
    let output = arguments.text("output").filter(|path| !path.is_empty());
    if output.is_none() && io::stdout().is_terminal() {
        return Err(CliError::message(
            "cowardly refusing to save to a terminal. Use the -o flag or redirect",
        ));
    }
    let path = volume_path(&arguments.positional[0], "export");
    let response = session.client.send("GET", &path, Body::Empty)?;
    super::export::save(response, output)
}

fn import(session: &Session, arguments: &Arguments) -> Result<u8> {
    let file = arguments.positional.get(1).filter(|path| *path != "-");
    let mut input: Box<dyn Read> = match file {
        Some(path) => {
            let named = |error| CliError::message(format!("open {path}: {error}"));
            Box::new(File::open(path).map_err(named)?)
        }
        None if terminal::stdin_is_terminal() => {
            return Err(CliError::message(
                "requested import from stdin, but stdin is empty",
            ));
        }
        None => Box::new(io::stdin()),
    };
    let path = volume_path(&arguments.positional[0], "import");
    let body = Body::Stream(&mut *input, "application/x-tar");
    session.client.call("PUT", &path, body)?;
    print_line(&arguments.positional[0])?;
    Ok(0)
}

const COLUMNS: &[Column] = &[("Name", "VOLUME NAME"), ("Size", "SIZE"), ("Removed", "REMOVED")];

fn undo(session: &Session, arguments: &Arguments) -> Result<u8> {
    if arguments.is_set("empty") {
        let freed = session.client.json("DELETE", TRASH, Body::Empty)?;
        let bytes = freed.get("SpaceReclaimed").float();
        print_line(&format!("Total reclaimed space: {}", units::human_size(bytes)))?;
        return Ok(0);
    }
    if arguments.is_set("list") {
        return list(session);
    }
    let name = if let Some(name) = arguments.positional.first() {
        name.clone()
    } else {
        let trash = session.client.get(TRASH)?;
        let last = trash
            .items()
            .last()
            .map(|entry| entry.get("Name").text().to_owned());
        last.ok_or_else(|| CliError::message("no removed volume can be had back"))?
    };
    let volume = session
        .client
        .json("POST", &volume_path(&name, "undo"), Body::Empty)?;
    print_line(volume.get("Name").text())?;
    Ok(0)
}

fn list(session: &Session) -> Result<u8> {
    let trash = session.client.get(TRASH)?;
    let row = |entry: &Value| {
        Value::object([
            ("Name", entry.get("Name").clone()),
            ("Size", Value::Text(units::human_size(entry.get("Size").float()))),
            ("Removed", entry.get("RemovedAt").clone()),
        ])
    };
    let rows = trash.items().iter().rev().map(row).collect();
    table::print_rows(None, COLUMNS, &["Name", "Size", "Removed"], rows)?;
    Ok(0)
}
