//! `context`: names for daemons, kept where Docker's own client keeps them.

use super::{Arity, Command};
use crate::args::Kind::{Bool, List, Text};
use crate::args::{Flag, Order, flag, long};
use crate::contexts::{self, Context, DEFAULT, Store, TLS_FILES};
use crate::error::{CliError, Result};
use crate::json::{Value, indent_json};
use crate::table::{self, Column};
use crate::{Arguments, Session, output};
use std::io::{Read, Write};

const DESCRIPTION: Flag = long("description", Text("string"), "Description of the context");
const DOCKER: Flag = long("docker", List("stringToString"), "set the docker endpoint");
const FROM: Flag = long("from", Text("string"), "create context from a named context");
const FORMAT: Flag = long("format", Text("string"), "Format output using a custom template");

const LOCAL: Command = Command {
    names: &[],
    usage: "",
    about: "",
    flags: &[],
    order: Order::Mixed,
    arity: Arity::None,
    run: |_, _| Ok(0),
};
pub const CREATE: Command = Command {
    names: &["context create"],
    usage: "[OPTIONS] CONTEXT",
    about: "Create a context",
    flags: &[&[DESCRIPTION, DOCKER, FROM]],
    arity: Arity::Exactly(1),
    run: create,
    ..LOCAL
};
pub const EXPORT: Command = Command {
    names: &["context export"],
    usage: "[OPTIONS] CONTEXT [FILE|-]",
    about: "Export a context to a tar archive FILE or a tar stream on STDOUT.",
    arity: Arity::Between(1, 2),
    run: export,
    ..LOCAL
};
pub const IMPORT: Command = Command {
    names: &["context import"],
    usage: "CONTEXT FILE|-",
    about: "Import a context from a tar file",
    arity: Arity::Exactly(2),
    run: import,
    ..LOCAL
};
pub const INSPECT: Command = Command {
    names: &["context inspect"],
    usage: "[OPTIONS] [CONTEXT] [CONTEXT...]",
    about: "Display detailed information on one or more contexts",
    flags: &[&[flag(
        "format",
        'f',
        Text("string"),
        "Format output using a custom template",
    )]],
    arity: Arity::AtLeast(0),
    run: inspect,
    ..LOCAL
};
pub const LIST: Command = Command {
    names: &["context ls", "context list"],
    usage: "[OPTIONS]",
    about: "List contexts",
    flags: &[&[FORMAT, flag("quiet", 'q', Bool, "Only show context names")]],
    run: list,
    ..LOCAL
};
pub const REMOVE: Command = Command {
    names: &["context rm", "context remove"],
    usage: "CONTEXT [CONTEXT...]",
    about: "Remove one or more contexts",
    flags: &[&[flag("force", 'f', Bool, "Force the removal of a context in use")]],
    arity: Arity::AtLeast(1),
    run: remove,
    ..LOCAL
};
pub const SHOW: Command = Command {
    names: &["context show"],
    about: "Print the name of the current context",
    run: |session, _| output::print_line(&session.config.context_name).map(|()| 0),
    ..LOCAL
};
pub const UPDATE: Command = Command {
    names: &["context update"],
    usage: "[OPTIONS] CONTEXT",
    about: "Update a context",
    flags: &[&[DESCRIPTION, DOCKER]],
    arity: Arity::Exactly(1),
    run: update,
    ..LOCAL
};
pub const USE: Command = Command {
    names: &["context use"],
    usage: "CONTEXT",
    about: "Set the current docker context",
    arity: Arity::Exactly(1),
    run: choose,
    ..LOCAL
};

const COLUMNS: &[Column] = &[
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("DockerEndpoint", "DOCKER ENDPOINT"),
    ("Error", "ERROR"),
    ("Current", "CURRENT"),
];

fn store(session: &Session) -> Store {
    session.config.contexts()
}

/// The daemon of the environment, or of this machine.
fn default_context(session: &Session) -> Context {
    Context {
        name: DEFAULT.to_owned(),
        description: "Current DOCKER_HOST based configuration".to_owned(),
        host: session.config.default_host.clone(),
        ..Context::default()
    }
}

fn find(session: &Session, name: &str) -> Result<Context> {
    if name == DEFAULT {
        return Ok(default_context(session));
    }
    store(session).read(name)
}

fn create(session: &Session, arguments: &Arguments) -> Result<u8> {
    let name = &arguments.positional[0];
    contexts::check_name(name)?;
    if store(session).read(name).is_ok() {
        return Err(CliError::message(format!("context {name:?} already exists")));
    }
    let base = match arguments.text("from") {
        Some(from) => find(session, from)?,
        None if arguments.is_given("docker") => Context::default(),
        None => return Err(CliError::message("docker endpoint configuration is required")),
    };
    let description = match arguments.text("from") {
        Some(_) => base.description.clone(),
        None => String::new(),
    };
    let context = Context {
        name: name.clone(),
        description,
        ..base
    };
    let context = with_options(session, context, arguments)?;
    store(session).write(&context)?;
    output::print_line(name)?;
    crate::output::tell!("Successfully created context {name:?}");
    Ok(0)
}

fn update(session: &Session, arguments: &Arguments) -> Result<u8> {
    let name = &arguments.positional[0];
    contexts::check_name(name)?;
    let context = with_options(session, store(session).read(name)?, arguments)?;
    store(session).write(&context)?;
    output::print_line(name)?;
    crate::output::tell!("Successfully updated context {name:?}");
    Ok(0)
}

/// `--description` and `--docker host=…,ca=…,cert=…,key=…,skip-tls-verify=…,from=…`.
fn with_options(session: &Session, mut context: Context, arguments: &Arguments) -> Result<Context> {
    if let Some(description) = arguments.text("description") {
        description.clone_into(&mut context.description);
    }
    for pair in arguments.list("docker").flat_map(|text| text.split(',')) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(CliError::message(format!(
                "{pair} must be formatted as key=value"
            )));
        };
        match key.trim() {
            "host" => {
                crate::http::Address::parse(value)?;
                value.clone_into(&mut context.host);
            }
            "skip-tls-verify" => {
                context.skip_tls_verify = crate::args::parse_bool(value).ok_or_else(|| {
                    CliError::message(format!("skip-tls-verify: {value:?} is neither true nor false"))
                })?;
            }
            "from" => {
                let other = find(session, value)?;
                (context.host, context.tls) = (other.host, other.tls);
            }
            file @ ("ca" | "cert" | "key") => {
                let bytes = std::fs::read(value)
                    .map_err(|error| CliError::message(format!("read {value}: {error}")))?;
                let file = format!("{file}.pem");
                context.tls.retain(|(name, _)| *name != file);
                context.tls.push((file, bytes));
            }
            other => return Err(CliError::message(format!("unrecognized config key: {other}"))),
        }
    }
    Ok(context)
}

fn list(session: &Session, arguments: &Arguments) -> Result<u8> {
    let current = &session.config.context_name;
    let mut all = vec![default_context(session)];
    all.extend(store(session).list());
    let is_missing = !all.iter().any(|context| context.name == *current);
    if is_missing {
        all.push(Context {
            name: current.clone(),
            ..Context::default()
        });
    }
    let is_table = arguments
        .text("format")
        .is_none_or(|format| format.starts_with("table"));
    let row = |context: &Context| {
        let is_current = context.name == *current;
        let name = if is_current && is_table && !arguments.is_set("quiet") {
            format!("{} *", context.name)
        } else {
            context.name.clone()
        };
        let error = if is_current && is_missing {
            "context not found"
        } else {
            ""
        };
        Value::object([
            ("Current", Value::Bool(is_current)),
            ("Description", Value::from(context.description.as_str())),
            ("DockerEndpoint", Value::from(context.host.as_str())),
            ("Error", Value::from(error)),
            ("Name", Value::Text(name)),
        ])
    };
    let rows: Vec<Value> = all.iter().map(row).collect();
    if arguments.is_set("quiet") {
        table::print_field(&rows, "Name")?;
    } else {
        let shown = ["Name", "Description", "DockerEndpoint", "Error"];
        table::print_rows(arguments.text("format"), COLUMNS, &shown, rows)?;
    }
    Ok(0)
}

fn inspect(session: &Session, arguments: &Arguments) -> Result<u8> {
    let current = [session.config.context_name.clone()];
    let names = if arguments.positional.is_empty() {
        &current[..]
    } else {
        &arguments.positional
    };
    let shown = names
        .iter()
        .map(|name| Ok(describe(session, &find(session, name)?)))
        .collect::<Result<Vec<Value>>>()?;
    match arguments
        .text("format")
        .filter(|format| !format.is_empty() && *format != "json")
    {
        Some(format) => {
            let template = table::parse(format)?;
            for value in &shown {
                output::print_line(&table::render(&template, value)?)?;
            }
        }
        None => {
            output::print_line(&indent_json(&Value::List(shown).to_escaped_json(), "    "))?;
        }
    }
    Ok(0)
}

fn describe(session: &Session, context: &Context) -> Value {
    let folder = |path: std::path::PathBuf| Value::from(path.to_string_lossy().as_ref());
    let (mut material, mut storage) = (
        Vec::new(),
        [Value::from("<IN MEMORY>"), Value::from("<IN MEMORY>")],
    );
    let mut entries = context.to_meta();
    if context.name == DEFAULT {
        entries = Context {
            description: String::new(),
            ..context.clone()
        }
        .to_meta();
    } else {
        storage = [
            folder(store(session).meta_folder(&context.name)),
            folder(store(session).tls_folder(&context.name)),
        ];
    }
    if !context.tls.is_empty() {
        let files = context
            .tls
            .iter()
            .map(|(file, _)| file.clone())
            .collect::<Vec<String>>();
        material.push(("docker".to_owned(), Value::from(files)));
    }
    let [meta_path, tls_path] = storage;
    if let Value::Map(entries) = &mut entries {
        entries.push(("TLSMaterial".to_owned(), Value::Map(material)));
        let storage = Value::object([("MetadataPath", meta_path), ("TLSPath", tls_path)]);
        entries.push(("Storage".to_owned(), storage));
    }
    entries
}

fn remove(session: &Session, arguments: &Arguments) -> Result<u8> {
    let current = session.config.context_name.clone();
    output::for_each_name(&arguments.positional, |name| {
        if name == DEFAULT {
            return Err(CliError::message("context \"default\" cannot be removed"));
        }
        if !arguments.is_set("force") {
            store(session).read(name)?;
            if *name == current {
                return Err(CliError::message(format!(
                    "context {name:?} is in use, set -f flag to force remove"
                )));
            }
        }
        if *name == current {
            store(session).set_current(DEFAULT)?;
        }
        store(session).remove(name)?;
        output::print_line(name)
    })
}

fn choose(session: &Session, arguments: &Arguments) -> Result<u8> {
    let name = &arguments.positional[0];
    find(session, name)?;
    store(session).set_current(name)?;
    output::print_line(name)?;
    crate::output::tell!("Current context is now {name:?}");
    if name != DEFAULT && std::env::var_os("DOCKER_HOST").is_some_and(|host| !host.is_empty()) {
        crate::output::tell!(
            "Warning: DOCKER_HOST environment variable overrides the active context. To use {name:?}, either set the global --context flag, or unset DOCKER_HOST environment variable."
        );
    }
    Ok(0)
}

fn export(session: &Session, arguments: &Arguments) -> Result<u8> {
    let name = &arguments.positional[0];
    if name == DEFAULT {
        return Err(CliError::message(
            "context \"default\" cannot be exported: it is no more than the environment",
        ));
    }
    let context = store(session).read(name)?;
    let failed = |error: std::io::Error| CliError::message(format!("write the archive: {error}"));
    let mut archive = tar::Builder::new(Vec::new());
    let meta = context.to_meta().to_json();
    let files = context
        .tls
        .iter()
        .map(|(file, bytes)| (format!("tls/docker/{file}"), bytes.as_slice()));
    for (path, bytes) in std::iter::once(("meta.json".to_owned(), meta.as_bytes())).chain(files) {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        archive.append_data(&mut header, path, bytes).map_err(failed)?;
    }
    let bytes = archive.into_inner().map_err(failed)?;
    let path = arguments
        .positional
        .get(1)
        .cloned()
        .unwrap_or_else(|| format!("{name}.dockercontext"));
    if path == "-" {
        std::io::stdout().write_all(&bytes).map_err(CliError::Output)?;
        return Ok(0);
    }
    let mut file = std::fs::File::create_new(&path)
        .map_err(|error| CliError::message(format!("create {path}: {error}")))?;
    file.write_all(&bytes).map_err(failed)?;
    crate::output::tell!("Written file {path:?}");
    Ok(0)
}

/// Largest archive read; Docker's own limit.
const ARCHIVE_BYTES_MAX: u64 = 10 << 20;

fn import(session: &Session, arguments: &Arguments) -> Result<u8> {
    let (name, path) = (&arguments.positional[0], &arguments.positional[1]);
    contexts::check_name(name)?;
    if store(session).read(name).is_ok() {
        return Err(CliError::message(format!("context {name:?} already exists")));
    }
    let context = if path == "-" {
        read_archive(std::io::stdin().lock())
    } else {
        let file =
            std::fs::File::open(path).map_err(|error| CliError::message(format!("open {path}: {error}")))?;
        read_archive(file)
    }?;
    store(session).write(&Context {
        name: name.clone(),
        ..context
    })?;
    output::print_line(name)?;
    crate::output::tell!("Successfully imported context {name:?}");
    Ok(0)
}

fn read_archive(archive: impl Read) -> Result<Context> {
    let failed =
        |error: std::io::Error| CliError::message(format!("read the archive of the context: {error}"));
    // Docker's client leaves out the zeros that should follow the last file.
    let archive = archive
        .take(ARCHIVE_BYTES_MAX)
        .chain(std::io::repeat(0).take(1024));
    let mut archive = tar::Archive::new(archive);
    let (mut context, mut tls) = (None, Vec::new());
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let path = entry.path().map_err(failed)?.to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(failed)?;
        // Known names alone: none is a path of the archive's choosing.
        if path == "meta.json" {
            let meta =
                Value::parse(&bytes).map_err(|error| CliError::message(format!("meta.json: {error}")))?;
            context = Some(Context::from_meta(&meta));
        } else if let Some(file) = path
            .strip_prefix("tls/docker/")
            .filter(|file| TLS_FILES.contains(file))
        {
            tls.push((file.to_owned(), bytes));
        }
    }
    let context = context.ok_or_else(|| CliError::message("invalid context: no metadata found"))?;
    if !context.host.is_empty() {
        crate::http::Address::parse(&context.host)?;
    }
    Ok(Context { tls, ..context })
}
