//! `--volume`, `--tmpfs` and `--mount`.

use super::{Object, Outcome, put};
use crate::args::{Arguments, parse_bool};
use crate::json::Value;
use crate::units;

#[derive(Debug, Default)]
pub struct Volumes {
    /// Targets of `-v` without a source.
    pub anonymous: Vec<(String, Value)>,
    pub binds: Vec<String>,
    pub tmpfs: Vec<(String, Value)>,
    pub mounts: Vec<Value>,
}

pub fn plan_volumes(arguments: &Arguments) -> Outcome<Volumes> {
    let mut volumes = Volumes::default();
    for text in arguments.list("volume") {
        match text.split_once(':') {
            None if text.is_empty() => return Err("invalid empty volume spec".to_owned()),
            None => put(&mut volumes.anonymous, text, Value::Map(Vec::new())),
            Some((source, rest)) if source.starts_with('.') => {
                volumes.binds.push(format!("{}:{rest}", absolute(source)?));
            }
            // Docker's client sends what is said twice once.
            Some(_) if volumes.binds.iter().any(|bind| bind == text) => {}
            Some(_) => volumes.binds.push(text.to_owned()),
        }
    }
    for text in arguments.list("tmpfs") {
        let (path, options) = text.split_once(':').unwrap_or((text, ""));
        put(&mut volumes.tmpfs, path, Value::from(options));
    }
    for text in arguments.list("mount") {
        let mount = parse_mount(text);
        volumes.mounts.push(
            mount.map_err(|reason| format!("invalid argument {text:?} for \"--mount\" flag: {reason}"))?,
        );
    }
    Ok(volumes)
}

/// An absolute form of a path relative to the working directory, `.` and `..` resolved by text as Docker does.
fn absolute(path: &str) -> Outcome<String> {
    let base = std::env::current_dir().map_err(|error| format!("the working directory: {error}"))?;
    let mut parts: Vec<String> = Vec::new();
    for part in base.join(path).components() {
        match part {
            std::path::Component::ParentDir => drop(parts.pop()),
            std::path::Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            _ => {}
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

/// Fields between commas; a field may be quoted.
pub(super) fn split_fields(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                fields.last_mut().unwrap().push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => fields.last_mut().unwrap().push(other),
        }
    }
    fields
}

#[derive(Default)]
struct Mount {
    kind: String,
    source: String,
    target: String,
    read_only: bool,
    consistency: String,
    bind: Object,
    volume: Object,
    volume_labels: Vec<(String, Value)>,
    driver_name: String,
    driver_options: Vec<(String, Value)>,
    tmpfs: Object,
    image: Object,
}

fn parse_mount(text: &str) -> Outcome<Value> {
    let mut mount = Mount {
        kind: "volume".to_owned(),
        ..Mount::default()
    };
    for field in split_fields(text) {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.trim().to_ascii_lowercase(), Some(value)),
            None => (field.trim().to_ascii_lowercase(), None),
        };
        set_field(&mut mount, &key, value, &field)?;
    }
    finish_mount(mount)
}

fn boolean(key: &str, value: Option<&str>) -> Outcome<bool> {
    match value {
        None => Ok(true),
        Some(text) => parse_bool(text).ok_or_else(|| format!("invalid value for {key}: {text}")),
    }
}

fn set_field(mount: &mut Mount, key: &str, value: Option<&str>, field: &str) -> Outcome<()> {
    let invalid = || format!("invalid field '{field}' must be a key=value pair");
    let needed = || value.ok_or_else(invalid);
    match key {
        "readonly" | "ro" => mount.read_only = boolean(key, value)?,
        "volume-nocopy" => mount.volume.set("NoCopy", boolean(key, value)?),
        "bind-nonrecursive" => mount.bind.set("NonRecursive", boolean(key, value)?),
        "bind-create-src" | "bind-create-host-path" => {
            mount.bind.set("CreateMountpoint", boolean(key, value)?);
        }
        "bind-recursive" => match needed()? {
            "enabled" => {}
            "disabled" => mount.bind.set("NonRecursive", true),
            "writable" => mount.bind.set("ReadOnlyNonRecursive", true),
            "readonly" => mount.bind.set("ReadOnlyForceRecursive", true),
            other => {
                return Err(format!(
                    "invalid value for bind-recursive: {other} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
                ));
            }
        },
        "type" => mount.kind = needed()?.to_ascii_lowercase(),
        "source" | "src" => {
            let value = needed()?;
            let is_relative =
                value == "." || value.starts_with("./") || value.starts_with("../") || value == "..";
            mount.source = if is_relative {
                absolute(value)?
            } else {
                value.to_owned()
            };
        }
        "target" | "dst" | "destination" => needed()?.clone_into(&mut mount.target),
        "consistency" => mount.consistency = needed()?.to_ascii_lowercase(),
        "bind-propagation" => mount.bind.set("Propagation", needed()?.to_ascii_lowercase()),
        "volume-subpath" => mount.volume.set("Subpath", needed()?),
        "volume-label" => put_pair(&mut mount.volume_labels, needed()?),
        "volume-driver" => needed()?.clone_into(&mut mount.driver_name),
        "volume-opt" => put_pair(&mut mount.driver_options, needed()?),
        "tmpfs-size" => {
            let size = units::parse_ram_bytes(needed()?)
                .map_err(|_| format!("invalid value for {key}: {}", value.unwrap_or_default()))?;
            mount.tmpfs.set("SizeBytes", size);
        }
        "tmpfs-mode" => {
            let text = needed()?;
            let mode =
                i64::from_str_radix(text, 8).map_err(|_| format!("invalid value for {key}: {text}"))?;
            mount.tmpfs.set("Mode", mode);
        }
        "image-subpath" => mount.image.set("Subpath", needed()?),
        _ if value.is_none() => return Err(invalid()),
        _ => return Err(format!("unexpected key '{key}' in '{field}'")),
    }
    Ok(())
}

fn put_pair(entries: &mut Vec<(String, Value)>, text: &str) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    put(entries, key, Value::from(value));
}

fn finish_mount(mut mount: Mount) -> Outcome<Value> {
    if mount.target.is_empty() {
        return Err("target is required".to_owned());
    }
    if !mount.volume_labels.is_empty() {
        let labels = std::mem::take(&mut mount.volume_labels);
        mount.volume.set("Labels", Value::Map(labels));
    }
    if !mount.driver_name.is_empty() || !mount.driver_options.is_empty() {
        let options = Value::Map(std::mem::take(&mut mount.driver_options));
        let driver = Value::object([
            ("Name", Value::from(mount.driver_name.as_str())),
            ("Options", options),
        ]);
        mount.volume.set("DriverConfig", driver);
    }
    let kind = mount.kind.as_str();
    for (options, owner) in [
        (&mount.bind, "bind"),
        (&mount.volume, "volume"),
        (&mount.tmpfs, "tmpfs"),
        (&mount.image, "image"),
    ] {
        if !options.0.is_empty() && kind != owner {
            return Err(format!("cannot mix '{owner}-*' options with mount type '{kind}'"));
        }
    }
    let mut value = Object::default();
    value.set("Type", kind);
    value.set_some("Source", Some(mount.source).filter(|source| !source.is_empty()));
    value.set("Target", mount.target);
    value.set_true("ReadOnly", mount.read_only);
    value.set_some(
        "Consistency",
        Some(mount.consistency).filter(|text| !text.is_empty()),
    );
    value.set_map("BindOptions", mount.bind.0);
    value.set_map("VolumeOptions", mount.volume.0);
    value.set_map("TmpfsOptions", mount.tmpfs.0);
    value.set_map("ImageOptions", mount.image.0);
    Ok(Value::Map(value.0))
}
