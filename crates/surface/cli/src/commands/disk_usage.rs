//! `system df`: what takes up the disk, in sum or one by one.

use super::{Arity, Command, images, ps};
use crate::args::Kind::{Bool, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::Result;
use crate::json::Value;
use crate::table::{self, Column};
use crate::{Arguments, Session, output, units};
use naru_base::Timestamp;

const DF_FLAGS: &[Flag] = &[
    long("format", Text("string"), "Format output using a custom template"),
    flag("verbose", 'v', Bool, "Show detailed information on space usage"),
];

pub const COMMAND: Command = Command {
    names: &["system df"],
    usage: "[OPTIONS]",
    about: "Show disk usage",
    flags: &[DF_FLAGS],
    order: Order::Mixed,
    arity: Arity::None,
    run: disk_usage,
};

const COLUMNS: &[Column] = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];

fn disk_usage(session: &Session, arguments: &Arguments) -> Result<u8> {
    let usage = session.client.get("/system/df")?;
    if arguments.is_set("verbose") {
        print_details(&usage, arguments.text("format"))?;
        print_account(&usage, arguments)?;
        return Ok(0);
    }
    let sum = |items: &[Value], size: &dyn Fn(&Value) -> f64| items.iter().map(size).sum::<f64>();
    let row = |name: &str, count: usize, active: usize, size: f64, free: f64| {
        let percent = if size > 0.0 {
            format!(" ({:.0}%)", free / size * 100.0)
        } else {
            String::new()
        };
        Value::object([
            ("Type", Value::from(name)),
            ("TotalCount", Value::Text(count.to_string())),
            ("Active", Value::Text(active.to_string())),
            ("Size", Value::Text(units::precise_size(size))),
            (
                "Reclaimable",
                Value::Text(format!("{}{percent}", units::precise_size(free))),
            ),
        ])
    };
    let images = usage.get("Images").items();
    let is_used = |image: &&Value| image.get("Containers").integer() > 0;
    let layers = usage.get("LayersSize").float();
    let used = sum(images, &|image| {
        if is_used(&image) {
            image.get("Size").float() - image.get("SharedSize").float().max(0.0)
        } else {
            0.0
        }
    });
    let containers = usage.get("Containers").items();
    let is_running =
        |container: &&Value| matches!(container.get("State").text(), "running" | "paused" | "restarting");
    let written = |container: &Value| container.get("SizeRw").float();
    let volumes = usage.get("Volumes").items();
    let volume_size = |volume: &Value| volume.at(&["UsageData", "Size"]).float().max(0.0);
    let in_use = |volume: &&Value| volume.at(&["UsageData", "RefCount"]).integer() > 0;
    let caches = usage.get("BuildCache").items();
    // A layer that an image has too counts with the images.
    let size_of = own_bytes;
    let rows = vec![
        row(
            "Images",
            images.len(),
            images.iter().filter(is_used).count(),
            layers,
            (layers - used).max(0.0),
        ),
        row(
            "Containers",
            containers.len(),
            containers.iter().filter(is_running).count(),
            sum(containers, &written),
            sum(containers, &|container| {
                if is_running(&container) {
                    0.0
                } else {
                    written(container)
                }
            }),
        ),
        row(
            "Local Volumes",
            volumes.len(),
            volumes.iter().filter(in_use).count(),
            sum(volumes, &volume_size),
            sum(volumes, &|volume| {
                if in_use(&volume) { 0.0 } else { volume_size(volume) }
            }),
        ),
        row(
            "Build Cache",
            caches.len(),
            caches.iter().filter(|cache| cache.get("InUse").is_true()).count(),
            sum(caches, &size_of),
            sum(caches, &|cache| {
                if cache.get("InUse").is_true() {
                    0.0
                } else {
                    size_of(cache)
                }
            }),
        ),
    ];
    table::print_rows(
        arguments.text("format"),
        COLUMNS,
        &["Type", "TotalCount", "Active", "Size", "Reclaimable"],
        rows,
    )?;
    print_account(&usage, arguments)?;
    Ok(0)
}

const ACCOUNT_COLUMNS: &[Column] = &[("Part", "ON DISK"), ("Size", "SIZE")];

/// The parts of the account and its names for them.
const ACCOUNT_PARTS: &[(&str, &str)] = &[
    ("Layers of several images", "LayersShared"),
    ("Layers of one image", "LayersUnique"),
    ("Image descriptions", "Images"),
    ("Containers' own files", "Writable"),
    ("Logs", "Logs"),
    ("Volumes", "Volumes"),
    ("Removed volumes", "Trash"),
    ("Partial downloads", "Downloads"),
    ("Records", "Other"),
    ("Total", "Total"),
];

/// What Docker's tables leave out: bytes as `du` counts them, and the room that is left. Only an engine of ours tells.
fn print_account(usage: &Value, arguments: &Arguments) -> Result<()> {
    let account = usage.get("DiskAccount");
    if arguments.text("format").is_some() || account.get("DataRoot").text().is_empty() {
        return Ok(());
    }
    let size = |key: &str| units::precise_size(account.get(key).float());
    output::print(&format!(
        "\nData root {}: {} of {} free\n\n",
        account.get("DataRoot").text(),
        size("FreeBytes"),
        size("FileSystemBytes")
    ))?;
    let rows = ACCOUNT_PARTS.iter().map(|(name, key)| {
        Value::object([
            ("Part", Value::Text((*name).to_owned())),
            ("Size", Value::Text(size(key))),
        ])
    });
    table::print_rows(None, ACCOUNT_COLUMNS, &["Part", "Size"], rows.collect())
}

const VOLUME_COLUMNS: &[Column] = &[("Name", "VOLUME NAME"), ("Links", "LINKS"), ("Size", "SIZE")];

const CACHE_COLUMNS: &[Column] = &[
    ("ID", "CACHE ID"),
    ("CacheType", "CACHE TYPE"),
    ("Size", "SIZE"),
    ("CreatedSince", "CREATED"),
    ("LastUsedSince", "LAST USED"),
    ("UsageCount", "USAGE"),
    ("Shared", "SHARED"),
];

/// Everything by itself: Docker's four tables, or one object with four lists.
fn print_details(usage: &Value, format: Option<&str>) -> Result<()> {
    let rows = |key: &str, row: &dyn Fn(&Value) -> Vec<Value>| -> Vec<Value> {
        usage.get(key).items().iter().flat_map(row).collect()
    };
    let images = rows("Images", &|image| {
        images::rows(image, false, false).into_iter().take(1).collect()
    });
    let containers = rows("Containers", &|container| vec![container_row(container)]);
    let volumes = rows("Volumes", &|volume| vec![volume_row(volume)]);
    let caches = rows("BuildCache", &|cache| vec![cache_row(cache)]);
    if let Some(format) = format.filter(|format| !format.is_empty() && !format.starts_with("table")) {
        let whole = Value::object([
            ("Images", Value::List(images)),
            ("Containers", Value::List(containers)),
            ("Volumes", Value::List(volumes)),
            ("BuildCache", Value::List(caches)),
        ]);
        return match format {
            "json" => output::print_line(&whole.to_json()),
            template => output::print(&table::render(&table::parse(template)?, &whole)?),
        };
    }
    let print = |heading: &str, columns: &[Column], shown: &[&str], rows: Vec<Value>| {
        output::print(&format!("{heading}\n\n"))?;
        table::print_rows(None, columns, shown, rows)
    };
    let shown = [
        "Repository",
        "Tag",
        "ID",
        "CreatedSince",
        "Size",
        "SharedSize",
        "UniqueSize",
        "Containers",
    ];
    print("Images space usage:", images::COLUMNS, &shown, images)?;
    let shown = [
        "ID",
        "Image",
        "Command",
        "LocalVolumes",
        "Size",
        "RunningFor",
        "Status",
        "Names",
    ];
    print("\nContainers space usage:", ps::COLUMNS, &shown, containers)?;
    print(
        "\nLocal Volumes space usage:",
        VOLUME_COLUMNS,
        &["Name", "Links", "Size"],
        volumes,
    )?;
    let cache_bytes: f64 = usage.get("BuildCache").items().iter().map(own_bytes).sum();
    let heading = format!("\nBuild cache usage: {}", units::precise_size(cache_bytes));
    let shown = [
        "ID",
        "CacheType",
        "Size",
        "CreatedSince",
        "LastUsedSince",
        "UsageCount",
        "Shared",
    ];
    print(&heading, CACHE_COLUMNS, &shown, caches)
}

/// Only what the container has written counts: its image counts by itself.
fn container_row(container: &Value) -> Value {
    let mut row = ps::row(container, false);
    if let Value::Map(entries) = &mut row {
        entries.retain(|(key, _)| key != "Size");
        let size = units::human_size(container.get("SizeRw").float());
        entries.push(("Size".to_owned(), Value::Text(size)));
    }
    row
}

fn volume_row(volume: &Value) -> Value {
    let usage = volume.get("UsageData");
    let size = match usage.get("Size").float() {
        size if size < 0.0 || usage.is_null() => "N/A".to_owned(),
        size => units::precise_size(size),
    };
    Value::object([
        ("Name", volume.get("Name").clone()),
        ("Links", Value::Text(usage.get("RefCount").integer().to_string())),
        ("Size", Value::Text(size)),
    ])
}

fn own_bytes(cache: &Value) -> f64 {
    if cache.get("Shared").is_true() {
        0.0
    } else {
        cache.get("Size").float()
    }
}

fn cache_row(cache: &Value) -> Value {
    let id = cache.get("ID").text();
    let age = |key: &str| match Timestamp::parse_partial(cache.get(key).text()) {
        Ok(time) if time.as_second() > 0 => Value::Text(units::human_age(time.as_second())),
        _ => Value::from(""),
    };
    Value::object([
        ("ID", Value::from(id.get(..12).unwrap_or(id))),
        ("CacheType", cache.get("Type").clone()),
        ("Size", Value::Text(units::human_size(cache.get("Size").float()))),
        ("CreatedSince", age("CreatedAt")),
        ("LastUsedSince", age("LastUsedAt")),
        (
            "UsageCount",
            Value::Text(cache.get("UsageCount").integer().to_string()),
        ),
        (
            "Shared",
            Value::from(if cache.get("Shared").is_true() {
                "true"
            } else {
                "false"
            }),
        ),
    ])
}
