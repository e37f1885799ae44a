//! `volume create`, `ls` and `rm`.

use super::{Arity, Command};
use crate::args::Kind::{Bool, Bytes, Int, List, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::{CliError, Result};
use crate::http::{Body, Query, escape};
use crate::json::Value;
use crate::output::{for_each_name, print_line};
use crate::table::{self, Column};
use crate::{Arguments, Session};

/// What makes a volume of a swarm's; the daemon says that it has none.
const CLUSTER_FLAGS: &[Flag] = &[
    long(
        "availability",
        Text("string"),
        "Cluster Volume availability (\"active\", \"pause\", \"drain\") (default \"active\")",
    ),
    long("group", Text("string"), "Cluster Volume group (cluster volumes)"),
    long(
        "limit-bytes",
        Bytes,
        "Maximum size of the Cluster Volume in bytes",
    ),
    long(
        "required-bytes",
        Bytes,
        "Minimum size of the Cluster Volume in bytes",
    ),
    long(
        "scope",
        Text("string"),
        "Cluster Volume access scope (\"single\", \"multi\") (default \"single\")",
    ),
    long("secret", List("map"), "Cluster Volume secrets"),
    long(
        "sharing",
        Text("string"),
        "Cluster Volume access sharing (\"none\", \"readonly\", \"onewriter\", \"all\") (default \"none\")",
    ),
    long(
        "topology-preferred",
        List("list"),
        "A topology that the Cluster Volume would be preferred in",
    ),
    long(
        "topology-required",
        List("list"),
        "A topology that the Cluster Volume must be accessible from",
    ),
    long(
        "type",
        Text("string"),
        "Cluster Volume access type (\"mount\", \"block\") (default \"block\")",
    ),
];
const CREATE_FLAGS: &[Flag] = &[
    flag(
        "driver",
        'd',
        Text("string"),
        "Specify volume driver name (default \"local\")",
    ),
    long("gid", Int, "Group that the volume's directory belongs to"),
    long("label", List("list"), "Set metadata for a volume"),
    long("name", Text("string"), "Specify volume name"),
    flag("opt", 'o', List("map"), "Set driver specific options"),
    long("uid", Int, "User that the volume's directory belongs to"),
];
const LIST_FLAGS: &[Flag] = &[
    flag(
        "filter",
        'f',
        List("filter"),
        "Provide filter values (e.g. \"dangling=true\")",
    ),
    long(
        "cluster",
        Bool,
        "Display only cluster volumes, of which there are none",
    ),
    long("format", Text("string"), "Format output using a custom template"),
    flag("quiet", 'q', Bool, "Only display volume names"),
];

pub const CREATE: Command = Command {
    names: &["volume create"],
    usage: "[OPTIONS] [VOLUME]",
    about: "Create a volume",
    flags: &[CREATE_FLAGS, CLUSTER_FLAGS],
    order: Order::Mixed,
    arity: Arity::AtMost(1),
    run: create,
};
pub const LIST: Command = Command {
    names: &["volume ls", "volume list"],
    usage: "[OPTIONS]",
    about: "List volumes",
    flags: &[LIST_FLAGS],
    order: Order::Mixed,
    arity: Arity::None,
    run: list,
};
pub const REMOVE: Command = Command {
    names: &["volume rm", "volume remove"],
    usage: "[OPTIONS] VOLUME [VOLUME...]",
    about: "Remove one or more volumes",
    flags: &[&[flag(
        "force",
        'f',
        Bool,
        "Force the removal of one or more volumes",
    )]],
    order: Order::Mixed,
    arity: Arity::AtLeast(1),
    run: remove,
};

pub const UPDATE: Command = Command {
    names: &["volume update"],
    usage: "[OPTIONS] VOLUME",
    about: "Update a volume (cluster volumes only)",
    flags: &[&[long(
        "availability",
        Text("string"),
        "Cluster Volume availability (\"active\", \"pause\", \"drain\")",
    )]],
    order: Order::Mixed,
    arity: Arity::Exactly(1),
    run: |session, arguments| {
        let path = format!("/volumes/{}", escape(&arguments.positional[0]));
        session.client.call("PUT", &path, Body::Empty)?;
        Ok(0)
    },
};

const COLUMNS: &[Column] = &[
    ("Name", "VOLUME NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Size", "SIZE"),
];

fn pairs(arguments: &Arguments, flag: &str) -> Value {
    Value::object(arguments.list(flag).map(|text| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_owned(), Value::from(value))
    }))
}

/// `--uid` and `--gid` are words of the option `o`.
fn driver_options(arguments: &Arguments) -> Value {
    let mut options = pairs(arguments, "opt");
    let owner: Vec<String> = ["uid", "gid"]
        .into_iter()
        .filter_map(|flag| arguments.int(flag).map(|id| format!("{flag}={id}")))
        .collect();
    let Value::Map(entries) = &mut options else {
        return options;
    };
    if owner.is_empty() {
        return if entries.is_empty() { Value::Null } else { options };
    }
    match entries.iter_mut().find(|(key, _)| key == "o") {
        Some((_, value)) => *value = Value::Text(format!("{},{}", value.text(), owner.join(","))),
        None => entries.push(("o".to_owned(), Value::Text(owner.join(",")))),
    }
    options
}

/// `Null` unless one of its flags is given.
fn cluster_spec(arguments: &Arguments) -> Value {
    if !CLUSTER_FLAGS.iter().any(|flag| arguments.is_given(flag.long)) {
        return Value::Null;
    }
    let text = |flag: &str, default: &str| Value::from(arguments.text(flag).unwrap_or(default));
    let topologies = |flag: &'static str| {
        let segments = |text: &str| {
            let pairs = text
                .split(',')
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            let pairs = pairs.map(|(key, value)| (key.to_owned(), Value::from(value)));
            Value::object([("Segments", Value::object(pairs))])
        };
        Value::List(arguments.list(flag).map(segments).collect())
    };
    let bytes = |flag: &str| Value::Integer(arguments.bytes(flag).unwrap_or(0));
    let kind = if arguments.text("type") == Some("mount") {
        "MountVolume"
    } else {
        "BlockVolume"
    };
    let access = Value::object([
        ("Scope", text("scope", "single")),
        ("Sharing", text("sharing", "none")),
        (kind, Value::Map(Vec::new())),
    ]);
    let secrets = arguments.list("secret").filter_map(|text| text.split_once('='));
    let secrets = secrets
        .map(|(key, secret)| Value::object([("Key", Value::from(key)), ("Secret", Value::from(secret))]));
    Value::object([
        ("Group", text("group", "")),
        ("AccessMode", access),
        ("Secrets", Value::List(secrets.collect())),
        (
            "AccessibilityRequirements",
            Value::object([
                ("Requisite", topologies("topology-required")),
                ("Preferred", topologies("topology-preferred")),
            ]),
        ),
        (
            "CapacityRange",
            Value::object([
                ("LimitBytes", bytes("limit-bytes")),
                ("RequiredBytes", bytes("required-bytes")),
            ]),
        ),
        ("Availability", text("availability", "active")),
    ])
}

fn create(session: &Session, arguments: &Arguments) -> Result<u8> {
    let name = arguments
        .text("name")
        .or(arguments.positional.first().map(String::as_str));
    if arguments.is_given("name") && !arguments.positional.is_empty() {
        return Err(CliError::message(
            "conflicting options: either specify --name or provide positional arg, not both",
        ));
    }
    let body = Value::object([
        ("Name", Value::from(name.unwrap_or_default())),
        ("Driver", Value::from(arguments.text("driver").unwrap_or("local"))),
        ("DriverOpts", driver_options(arguments)),
        ("Labels", pairs(arguments, "label")),
        ("ClusterVolumeSpec", cluster_spec(arguments)),
    ]);
    let volume = session
        .client
        .json("POST", "/volumes/create", Body::Json(&body))?;
    print_line(volume.get("Name").text())?;
    Ok(0)
}

fn list(session: &Session, arguments: &Arguments) -> Result<u8> {
    let path = Query::new("/volumes")
        .set_some("filters", table::filters(arguments).as_deref())
        .build();
    let answer = session.client.get(&path)?;
    let mut volumes: Vec<&Value> = answer.get("Volumes").items().iter().collect();
    volumes.sort_by(|left, right| left.get("Name").text().cmp(right.get("Name").text()));
    let row = |volume: &&Value| {
        let labels: Vec<String> = volume
            .get("Labels")
            .entries()
            .iter()
            .map(|(key, value)| format!("{key}={}", value.text()))
            .collect();
        let copy = |key: &str| volume.get(key).clone();
        let absent = || Value::from("N/A");
        Value::object([
            ("Name", copy("Name")),
            ("Driver", copy("Driver")),
            ("Scope", copy("Scope")),
            ("Mountpoint", copy("Mountpoint")),
            ("Labels", Value::Text(labels.join(","))),
            // Of volumes of a swarm, which this is not.
            ("Availability", absent()),
            ("Group", absent()),
            ("Status", absent()),
            ("Links", absent()),
            ("Size", absent()),
        ])
    };
    let rows: Vec<Value> = volumes.iter().map(row).collect();
    if arguments.is_set("quiet") && arguments.text("format").is_none() {
        table::print_field(&rows, "Name")?;
        return Ok(0);
    }
    table::print_rows(arguments.text("format"), COLUMNS, &["Driver", "Name"], rows)?;
    Ok(0)
}

fn remove(session: &Session, arguments: &Arguments) -> Result<u8> {
    for_each_name(&arguments.positional, |name| {
        let path =
            Query::new(&format!("/volumes/{}", escape(name))).set_if(arguments.is_set("force"), "force", "1");
        session.client.call("DELETE", &path.build(), Body::Empty)?;
        print_line(name)
    })
}
