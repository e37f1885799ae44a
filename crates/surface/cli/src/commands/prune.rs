//! `prune`: removes what nothing uses.

use super::{Arity, Command};
use crate::args::Kind::{Bool, List};
use crate::args::{Flag, Order, flag, long};
use crate::error::{CliError, Result};
use crate::http::{Body, Query};
use crate::json::Value;
use crate::{Arguments, Session, output, table, units};
use std::io::{self, BufRead, Write};

const FORCE: Flag = flag("force", 'f', Bool, "Do not prompt for confirmation");
const FILTER: Flag = long(
    "filter",
    List("filter"),
    "Provide filter values (e.g. \"label=<key>=<value>\")",
);
const ALL: Flag = flag(
    "all",
    'a',
    Bool,
    "Remove all unused ones, not just dangling or anonymous ones",
);

pub const CONTAINER: Command = Command {
    names: &["container prune"],
    usage: "[OPTIONS]",
    about: "Remove all stopped containers",
    flags: &[&[FORCE, FILTER]],
    order: Order::Mixed,
    arity: Arity::None,
    run: |session, arguments| run(session, arguments, &["containers"], "all stopped containers"),
};
pub const IMAGE: Command = Command {
    names: &["image prune"],
    about: "Remove unused images",
    flags: &[&[FORCE, FILTER, ALL]],
    run: |session, arguments| {
        let what = if arguments.is_set("all") {
            "all images without at least one container associated to them"
        } else {
            "all dangling images"
        };
        run(session, arguments, &["images"], what)
    },
    ..CONTAINER
};
pub const VOLUME: Command = Command {
    names: &["volume prune"],
    about: "Remove unused local volumes",
    flags: &[&[FORCE, FILTER, ALL]],
    run: |session, arguments| {
        run(
            session,
            arguments,
            &["volumes"],
            "anonymous local volumes not used by at least one container",
        )
    },
    ..CONTAINER
};
pub const NETWORK: Command = Command {
    names: &["network prune"],
    about: "Remove all networks that no running container is on",
    flags: &[&[FORCE, FILTER]],
    run: |session, arguments| {
        run(
            session,
            arguments,
            &["networks"],
            "all custom networks not used by at least one container",
        )
    },
    ..CONTAINER
};
pub const SYSTEM: Command = Command {
    names: &["system prune"],
    about: "Remove unused data",
    flags: &[&[
        FORCE,
        FILTER,
        ALL,
        long("volumes", Bool, "Prune anonymous volumes"),
    ]],
    run: |session, arguments| {
        let kinds: &[&str] = if arguments.is_set("volumes") {
            &["containers", "networks", "volumes", "images"]
        } else {
            &["containers", "networks", "images"]
        };
        run(
            session,
            arguments,
            kinds,
            "all stopped containers, and all networks and images that are not used",
        )
    },
    ..CONTAINER
};

fn run(session: &Session, arguments: &Arguments, kinds: &[&str], what: &str) -> Result<u8> {
    if !arguments.is_set("force") && !is_confirmed(what)? {
        return Ok(0);
    }
    let mut freed = 0.0;
    let mut text = String::new();
    for kind in kinds {
        let mut filters = table::filter_entries(arguments)?;
        match *kind {
            "images" => {
                let dangling = if arguments.is_set("all") { "false" } else { "true" };
                filters.push(("dangling".to_owned(), Value::from(vec![dangling.to_owned()])));
            }
            "volumes" if arguments.is_set("all") => {
                filters.push(("all".to_owned(), Value::from(vec!["true".to_owned()])));
            }
            _ => {}
        }
        let path = Query::new(&format!("/{kind}/prune")).set_some(
            "filters",
            (!filters.is_empty())
                .then(|| Value::Map(filters).to_json())
                .as_deref(),
        );
        let report = session.client.json("POST", &path.build(), Body::Empty)?;
        freed += report.get("SpaceReclaimed").float();
        text.push_str(&describe(kind, &report));
    }
    if kinds != ["networks"] {
        text.push_str(&format!("Total reclaimed space: {}\n", units::human_size(freed)));
    }
    output::print(&text)?;
    Ok(0)
}

fn describe(kind: &str, report: &Value) -> String {
    let (title, key) = match kind {
        "containers" => ("Deleted Containers:", "ContainersDeleted"),
        "volumes" => ("Deleted Volumes:", "VolumesDeleted"),
        "networks" => ("Deleted Networks:", "NetworksDeleted"),
        _ => ("Deleted Images:", "ImagesDeleted"),
    };
    let lines: String = report
        .get(key)
        .items()
        .iter()
        .map(|item| match item {
            Value::Text(name) => format!("{name}\n"),
            entry if entry.get("Deleted").text().is_empty() => {
                format!("untagged: {}\n", entry.get("Untagged").text())
            }
            entry => format!("deleted: {}\n", entry.get("Deleted").text()),
        })
        .collect();
    if lines.is_empty() {
        String::new()
    } else {
        format!("{title}\n{lines}\n")
    }
}

fn is_confirmed(what: &str) -> Result<bool> {
    output::print(&format!(
        "WARNING! This will remove {what}.\nAre you sure you want to continue? [y/N] "
    ))?;
    io::stdout().flush().map_err(CliError::Output)?;
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| CliError::message(format!("read the answer: {error}")))?;
    Ok(matches!(answer.trim(), "y" | "Y"))
}
