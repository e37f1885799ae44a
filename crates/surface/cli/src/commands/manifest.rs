//! `manifest`: one name for the images of several platforms.

use super::{Arity, Command};
use crate::args::Kind::{Bool, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::{CliError, Result};
use crate::json::indent_json;
use crate::manifests::{Entry, Fetched, ManifestList, Platform, Remote, check_platform, parse_name};
use crate::{Arguments, Session, output};
use naru_oci::Reference;

const ANNOTATE_FLAGS: &[Flag] = &[
    long("arch", Text("string"), "Set architecture"),
    long("os", Text("string"), "Set operating system"),
    long("os-features", Text("strings"), "Set operating system feature"),
    long("os-version", Text("string"), "Set operating system version"),
    long("variant", Text("string"), "Set architecture variant"),
];

pub const ANNOTATE: Command = Command {
    names: &["manifest annotate"],
    usage: "[OPTIONS] MANIFEST_LIST MANIFEST",
    about: "Add additional information to a local image manifest",
    flags: &[ANNOTATE_FLAGS],
    order: Order::Mixed,
    arity: Arity::Exactly(2),
    run: annotate,
};

const CREATE_FLAGS: &[Flag] = &[
    flag("amend", 'a', Bool, "Amend an existing manifest list"),
    long("insecure", Bool, "Allow communication with an insecure registry"),
];

pub const CREATE: Command = Command {
    names: &["manifest create"],
    usage: "MANIFEST_LIST MANIFEST [MANIFEST...]",
    about: "Create a local manifest list for annotating and pushing to a registry",
    flags: &[CREATE_FLAGS],
    order: Order::Mixed,
    arity: Arity::AtLeast(2),
    run: create,
};

const INSPECT_FLAGS: &[Flag] = &[
    long("insecure", Bool, "Allow communication with an insecure registry"),
    flag(
        "verbose",
        'v',
        Bool,
        "Output additional info including layers and platform",
    ),
];

pub const INSPECT: Command = Command {
    names: &["manifest inspect"],
    usage: "[OPTIONS] [MANIFEST_LIST] MANIFEST",
    about: "Display an image manifest, or manifest list",
    flags: &[INSPECT_FLAGS],
    order: Order::Mixed,
    arity: Arity::Between(1, 2),
    run: inspect,
};

const PUSH_FLAGS: &[Flag] = &[
    long("insecure", Bool, "Allow push to an insecure registry"),
    flag("purge", 'p', Bool, "Remove the local manifest list after push"),
];

pub const PUSH: Command = Command {
    names: &["manifest push"],
    usage: "[OPTIONS] MANIFEST_LIST",
    about: "Push a manifest list to a repository",
    flags: &[PUSH_FLAGS],
    order: Order::Mixed,
    arity: Arity::Exactly(1),
    run: push,
};

pub const REMOVE: Command = Command {
    names: &["manifest rm"],
    usage: "MANIFEST_LIST [MANIFEST_LIST...]",
    about: "Delete one or more manifest lists from local storage",
    flags: &[],
    order: Order::Mixed,
    arity: Arity::AtLeast(1),
    run: remove,
};

fn parse_list(text: &str) -> Result<Reference> {
    parse_name("manifest list", text)
}

fn missing(name: &Reference) -> CliError {
    CliError::message(format!("No such manifest: {name}"))
}

fn create(session: &Session, arguments: &Arguments) -> Result<u8> {
    let list = parse_list(&arguments.positional[0])?;
    let store = session.config.manifests();
    if store.list(&list)?.is_some() && !arguments.is_set("amend") {
        return Err(CliError::message(
            "refusing to amend an existing manifest list with no --amend flag",
        ));
    }
    let remote = Remote::new(&session.config, arguments.is_set("insecure"))?;
    let mut entries: Vec<(Reference, Entry)> = Vec::new();
    for text in &arguments.positional[1..] {
        let image = parse_name("manifest", text)?;
        let entry = match store.get(&list, &image)? {
            Some(known) => known,
            None => match remote.fetch(&image)? {
                Fetched::Image(entry) => entry,
                Fetched::List(_) => return Err(CliError::message(format!("{image} is a manifest list"))),
            },
        };
        entries.push((image, entry));
    }
    // Only when everything is there: a list with some of its images would be pushed as if it were whole.
    for (image, entry) in &entries {
        store.save(&list, image, entry)?;
    }
    output::print_line(&format!("Created manifest list {list}"))?;
    Ok(0)
}

fn annotate(session: &Session, arguments: &Arguments) -> Result<u8> {
    let [list, image] = [&arguments.positional[0], &arguments.positional[1]];
    let (list_name, image_name) = (parse_list(list)?, parse_name("manifest", image)?);
    let store = session.config.manifests();
    let Some(mut entry) = store.get(&list_name, &image_name)? else {
        return Err(CliError::message(format!(
            "manifest for image {image} does not exist in {list}"
        )));
    };
    change_platform(&mut entry.platform, arguments);
    check_platform(&entry.platform)?;
    store.save(&list_name, &image_name, &entry)?;
    Ok(0)
}

fn change_platform(platform: &mut Platform, arguments: &Arguments) {
    let set = |value: &mut String, name: &str| {
        if let Some(text) = arguments.text(name).filter(|text| !text.is_empty()) {
            text.clone_into(value);
        }
    };
    set(&mut platform.os, "os");
    set(&mut platform.architecture, "arch");
    set(&mut platform.os_version, "os-version");
    set(&mut platform.variant, "variant");
    let features = arguments.list("os-features").flat_map(|text| text.split(','));
    for feature in features.filter(|feature| !feature.is_empty()) {
        if !platform.os_features.iter().any(|known| known == feature) {
            platform.os_features.push(feature.to_owned());
        }
    }
}

fn inspect(session: &Session, arguments: &Arguments) -> Result<u8> {
    let is_verbose = arguments.is_set("verbose");
    let store = session.config.manifests();
    if let [list, image] = arguments.positional.as_slice() {
        let (list, image) = (parse_list(list)?, parse_name("manifest", image)?);
        let entry = store.get(&list, &image)?.ok_or_else(|| missing(&image))?;
        return show_image(&entry, is_verbose);
    }
    let name = parse_name("manifest", &arguments.positional[0])?;
    if let Some(entries) = store.list(&name)? {
        return show_list(&entries, is_verbose);
    }
    let remote = Remote::new(&session.config, arguments.is_set("insecure"))?;
    match remote.fetch(&name)? {
        Fetched::Image(entry) => show_image(&entry, is_verbose),
        Fetched::List(entries) => show_list(&entries, is_verbose),
    }
}

fn show_image(entry: &Entry, is_verbose: bool) -> Result<u8> {
    let value = if is_verbose {
        entry.to_value()
    } else {
        entry.manifest()
    };
    output::print_line(&indent_json(&value.to_escaped_json(), "\t"))?;
    Ok(0)
}

fn show_list(entries: &[Entry], is_verbose: bool) -> Result<u8> {
    if !is_verbose {
        output::print_line(&ManifestList::of(entries).text)?;
        return Ok(0);
    }
    let values: Vec<crate::json::Value> = entries.iter().map(Entry::to_value).collect();
    let text = crate::json::Value::from(values).to_escaped_json();
    output::print_line(&indent_json(&text, "\t"))?;
    Ok(0)
}

fn push(session: &Session, arguments: &Arguments) -> Result<u8> {
    let list = parse_list(&arguments.positional[0])?;
    let store = session.config.manifests();
    let entries = store
        .list(&list)?
        .filter(|entries| !entries.is_empty())
        .ok_or_else(|| missing(&list))?;
    let remote = Remote::new(&session.config, arguments.is_set("insecure"))?;
    // A reader that has gone away must not leave the list half sent.
    let tell = |line: String| drop(output::print_line(&line));
    let digest = remote.push(&list, &entries, tell)?;
    output::print_line(&digest)?;
    if arguments.is_set("purge") {
        store.remove(&list)?;
    }
    Ok(0)
}

fn remove(session: &Session, arguments: &Arguments) -> Result<u8> {
    let store = session.config.manifests();
    output::for_each_name(&arguments.positional, |text| {
        let list = parse_list(text)?;
        if store.remove(&list)? {
            Ok(())
        } else {
            Err(missing(&list))
        }
    })
}
