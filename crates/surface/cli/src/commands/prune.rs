//! `prune`: removes what nothing uses.

use super::{Arity, Command};
use crate::args::Kind::{Bool, Bytes, List};
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
    run: |session, arguments| run_one(session, arguments, "containers", "all stopped containers"),
};
pub const IMAGE: Command = Command {
    names: &["image prune"],
    about: "Remove unused images",
    flags: &[&[FORCE, FILTER, ALL]],
    run: |session, arguments| {
        let all = arguments.is_set("all");
        run_one(session, arguments, "images", what_images(all))
    },
    ..CONTAINER
};
pub const VOLUME: Command = Command {
    names: &["volume prune"],
    about: "Remove unused local volumes",
    flags: &[&[FORCE, FILTER, ALL]],
    run: |session, arguments| {
        let what = if arguments.is_set("all") {
            "all local volumes not used by at least one container"
        } else {
            "anonymous local volumes not used by at least one container"
        };
        run_one(session, arguments, "volumes", what)
    },
    ..CONTAINER
};
pub const NETWORK: Command = Command {
    names: &["network prune"],
    about: "Remove all networks that no running container is on",
    flags: &[&[FORCE, FILTER]],
    run: |session, arguments| {
        let what = "all custom networks not used by at least one container";
        run_one(session, arguments, "networks", what)
    },
    ..CONTAINER
};
pub const BUILDER: Command = Command {
    names: &["builder prune"],
    about: "Remove build cache",
    flags: &[&[
        FORCE,
        FILTER,
        ALL,
        long(
            "keep-storage",
            Bytes,
            "Amount of disk space to keep for cache (another name of --reserved-space)",
        ),
        long(
            "reserved-space",
            Bytes,
            "Amount of disk space to always keep for cache",
        ),
        long(
            "max-used-space",
            Bytes,
            "Maximum amount of disk space allowed to keep for cache",
        ),
        long(
            "min-free-space",
            Bytes,
            "Target amount of free disk space after pruning",
        ),
    ]],
    run: |session, arguments| run_one(session, arguments, "build", what_cache(arguments.is_set("all"))),
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
    run: run_system,
    ..CONTAINER
};

fn what_images(all: bool) -> &'static str {
    if all {
        "all images without at least one container associated to them"
    } else {
        "all dangling images"
    }
}

fn what_cache(all: bool) -> &'static str {
    if all {
        "all build cache"
    } else {
        "unused build cache"
    }
}

fn run_one(session: &Session, arguments: &Arguments, kind: &str, what: &str) -> Result<u8> {
    let filters = table::filter_entries(arguments);
    if !arguments.is_set("force") && !is_confirmed(&format!("This will remove {what}."))? {
        return Ok(0);
    }
    let all = arguments.is_set("all");
    prune(session, &[(kind, all)], &filters, &bounds_of(arguments))
}

/// How much of the cache of builds stays.
const BOUNDS: &[&str] = &[
    "keep-storage",
    "reserved-space",
    "max-used-space",
    "min-free-space",
];

fn bounds_of(arguments: &Arguments) -> Vec<(&'static str, String)> {
    let bound = |name: &&'static str| Some((*name, arguments.bytes(name)?.to_string()));
    BOUNDS.iter().filter_map(bound).collect()
}

fn run_system(session: &Session, arguments: &Arguments) -> Result<u8> {
    let filters = table::filter_entries(arguments);
    let (all, with_volumes) = (arguments.is_set("all"), arguments.is_set("volumes"));
    // What is young is told by when it was made, and a volume may be young and in use for long.
    if with_volumes && filters.iter().any(|(name, _)| name == "until") {
        return Err(CliError::message(
            "the \"until\" filter is not supported with \"--volumes\"",
        ));
    }
    if !arguments.is_set("force") && !is_confirmed(&describe_system(&filters, all, with_volumes))? {
        return Ok(0);
    }
    let mut kinds = vec![("containers", false), ("networks", false)];
    // Without `all`: the daemon then takes anonymous volumes alone.
    kinds.extend(with_volumes.then_some(("volumes", false)));
    kinds.push(("images", all));
    kinds.push(("build", all));
    prune(session, &kinds, &filters, &[])
}

/// Prunes kinds of things one after the other, telling each, and at the end what it freed.
fn prune(
    session: &Session,
    kinds: &[(&str, bool)],
    filters: &[(String, Value)],
    bounds: &[(&str, String)],
) -> Result<u8> {
    let mut freed = 0.0;
    for (kind, all) in kinds {
        let mut filters = filters.to_vec();
        match *kind {
            "images" => filters.push(("dangling".to_owned(), Value::from(vec![(!all).to_string()]))),
            "volumes" if *all => filters.push(("all".to_owned(), Value::from(vec!["true".to_owned()]))),
            _ => {}
        }
        let mut path = Query::new(&format!("/{kind}/prune"));
        for (name, bytes) in bounds {
            path = path.set(name, bytes);
        }
        let path = path.set_if(*kind == "build" && *all, "all", "1").set_some(
            "filters",
            (!filters.is_empty())
                .then(|| Value::Map(filters).to_json())
                .as_deref(),
        );
        let report = session.client.json("POST", &path.build(), Body::Empty)?;
        freed += report.get("SpaceReclaimed").float();
        output::print(&describe(kind, &report))?;
    }
    if !matches!(kinds, [("networks", _)]) {
        output::print(&format!(
            "Total reclaimed space: {}\n",
            units::precise_size(freed)
        ))?;
    }
    Ok(0)
}

/// Docker's list of what goes.
fn describe_system(filters: &[(String, Value)], all: bool, with_volumes: bool) -> String {
    let mut text = String::from("This will remove:\n");
    let mut line = |what: &str| text.push_str(&format!("  - {what}\n"));
    line("all stopped containers");
    line("all networks not used by at least one container");
    if with_volumes {
        line("all anonymous volumes not used by at least one container");
    }
    line(what_images(all));
    line(what_cache(all));
    let named = filters.iter().flat_map(|(name, values)| {
        let values = values.items().iter();
        values.map(move |value| format!("  - {name}={}\n", value.text()))
    });
    let mut named: Vec<String> = named.collect();
    named.sort();
    if !named.is_empty() {
        text.push_str(&format!(
            "\n  Items to be pruned will be filtered with:\n{}",
            named.concat()
        ));
    }
    text
}

fn describe(kind: &str, report: &Value) -> String {
    let (title, key) = match kind {
        "containers" => ("Deleted Containers:", "ContainersDeleted"),
        "volumes" => ("Deleted Volumes:", "VolumesDeleted"),
        "networks" => ("Deleted Networks:", "NetworksDeleted"),
        "build" => ("Deleted build cache objects:", "CachesDeleted"),
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

fn is_confirmed(warning: &str) -> Result<bool> {
    output::print(&format!(
        "WARNING! {warning}\nAre you sure you want to continue? [y/N] "
    ))?;
    io::stdout().flush().map_err(CliError::Output)?;
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| CliError::message(format!("read the answer: {error}")))?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}
