//! `ps`: lists containers.

use super::{Arity, Command};
use crate::args::Kind::{Bool, Int, List, Text};
use crate::args::{Flag, Order, flag, long};
use crate::error::Result;
use crate::http::Query;
use crate::json::Value;
use crate::table::{self, Column};
use crate::{Arguments, Session, output, units};

const FLAGS: &[Flag] = &[
    flag(
        "all",
        'a',
        Bool,
        "Show all containers (default shows just running)",
    ),
    flag(
        "filter",
        'f',
        List("filter"),
        "Filter output based on conditions provided",
    ),
    long("format", Text("string"), "Format output using a custom template"),
    flag(
        "last",
        'n',
        Int,
        "Show n last created containers (includes all states) (default -1)",
    ),
    flag(
        "latest",
        'l',
        Bool,
        "Show the latest created container (includes all states)",
    ),
    long("no-trunc", Bool, "Don't truncate output"),
    flag("quiet", 'q', Bool, "Only display container IDs"),
    flag("size", 's', Bool, "Display total file sizes"),
];

pub const COMMAND: Command = Command {
    names: &["container ls", "container list", "container ps", "ps"],
    usage: "[OPTIONS]",
    about: "List containers",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::None,
    run,
};

/// What the usual table shows, by the API's names.
const TABLE_KEYS: &[&str] = &[
    "Id",
    "Image",
    "Command",
    "Created",
    "Status",
    "Ports",
    "Names",
    "SizeRw",
    "SizeRootFs",
];

pub const COLUMNS: &[Column] = &[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("State", "STATE"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
    ("Size", "SIZE"),
];

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let format = arguments.text("format");
    let with_size = arguments.is_set("size")
        || format.is_some_and(|format| format.contains(".Size") || format == "{{json .}}");
    let last = if arguments.is_set("latest") {
        Some(1)
    } else {
        arguments.int("last").filter(|count| *count > 0)
    };
    let path = Query::new("/containers/json")
        .set_if(arguments.is_set("all"), "all", "1")
        .set_some("limit", last.map(|count| count.to_string()).as_deref())
        .set_if(with_size, "size", "1")
        .set_some("filters", table::filters(arguments).as_deref())
        .build();
    let full = arguments.is_set("no-trunc");
    if arguments.is_set("quiet") && format.is_none() {
        let containers = session.client.get_list(&path, &["Id"])?;
        let ids: String = containers
            .iter()
            .map(|container| format!("{}\n", shown_id(container, full)))
            .collect();
        output::print(&ids)?;
        return Ok(0);
    }
    let containers = match format.filter(|format| *format != "table") {
        None => session.client.get_list(&path, TABLE_KEYS)?,
        Some(_) => session.client.get(&path)?.into_items(),
    };
    let rows: Vec<Value> = containers.iter().map(|container| row(container, full)).collect();
    let mut shown = vec!["ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"];
    if with_size {
        shown.push("Size");
    }
    table::print_rows(format, COLUMNS, &shown, rows)?;
    Ok(0)
}

fn shown_id(container: &Value, full: bool) -> &str {
    let id = container.get("Id").text();
    if full { id } else { id.get(..12).unwrap_or(id) }
}

pub fn row(container: &Value, full: bool) -> Value {
    let image = container.get("Image").text();
    let image = if full {
        image
    } else {
        image
            .strip_prefix("sha256:")
            .map_or(image, |hex| hex.get(..12).unwrap_or(hex))
    };
    let command = if full {
        container.get("Command").text().to_owned()
    } else {
        ellipsis(container.get("Command").text(), 20)
    };
    let created = container.get("Created").integer();
    let mut names: Vec<&str> = container
        .get("Names")
        .items()
        .iter()
        .map(|name| name.text().trim_start_matches('/'))
        .collect();
    if !full {
        names.retain(|name| !name.contains('/'));
    }
    let labels: Vec<String> = container
        .get("Labels")
        .entries()
        .iter()
        .map(|(key, value)| format!("{key}={}", value.text()))
        .collect();
    let mounts: Vec<String> = container
        .get("Mounts")
        .items()
        .iter()
        .map(|mount| mount_name(mount, full))
        .collect();
    let volumes = container
        .get("Mounts")
        .items()
        .iter()
        .filter(|mount| mount.get("Driver").text() == "local")
        .count();
    let networks: Vec<&str> = container
        .at(&["NetworkSettings", "Networks"])
        .entries()
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    Value::object([
        ("ID", Value::from(shown_id(container, full))),
        (
            "Image",
            Value::from(if image.is_empty() { "<no image>" } else { image }),
        ),
        ("Command", Value::Text(format!("{command:?}").replace("\\'", "'"))),
        ("CreatedAt", Value::Text(local_time(created))),
        ("RunningFor", Value::Text(units::human_age(created))),
        ("Status", container.get("Status").clone()),
        ("State", container.get("State").clone()),
        // Which variant of a multi-platform image it is: only some daemons say.
        (
            "Platform",
            container.at(&["ImageManifestDescriptor", "platform"]).clone(),
        ),
        ("Ports", Value::Text(ports(container.get("Ports")))),
        ("Names", Value::Text(names.join(","))),
        ("Labels", Value::Text(labels.join(","))),
        ("Mounts", Value::Text(mounts.join(","))),
        ("LocalVolumes", Value::Text(volumes.to_string())),
        ("Networks", Value::Text(networks.join(","))),
        ("Size", Value::Text(size(container))),
    ])
}

/// The moment as Go prints it, in UTC.
pub fn local_time(seconds: i64) -> String {
    let text = naru_base::Timestamp::from_parts(seconds, 0).to_string();
    format!("{} {} +0000 UTC", &text[..10], &text[11..19])
}

fn ellipsis(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let start: String = text.chars().take(limit - 1).collect();
    start + "…"
}

fn mount_name(mount: &Value, full: bool) -> String {
    let name = mount.get("Name").text();
    let name = if name.is_empty() {
        mount.get("Source").text()
    } else {
        name
    };
    if full { name.to_owned() } else { ellipsis(name, 15) }
}

fn size(container: &Value) -> String {
    let written = units::human_size(container.get("SizeRw").float());
    match container.get("SizeRootFs").float() {
        whole if whole > 0.0 => format!("{written} (virtual {})", units::human_size(whole)),
        _ => written,
    }
}

/// `0.0.0.0:80->80/tcp`, neighbouring ports joined to ranges.
fn ports(list: &Value) -> String {
    let mut ports: Vec<(String, i64, i64, String)> = list
        .items()
        .iter()
        .map(|port| {
            let text = |key: &str| port.get(key).text().to_owned();
            (
                text("IP"),
                port.get("PrivatePort").integer(),
                port.get("PublicPort").integer(),
                text("Type"),
            )
        })
        .collect();
    ports.sort_by(|left, right| {
        (left.1, &left.0, &left.3, left.2).cmp(&(right.1, &right.0, &right.3, right.2))
    });
    let mut groups: Vec<(String, String, i64, i64, i64)> = Vec::new();
    for (ip, private, public, kind) in ports {
        let shift = if public == 0 { 0 } else { public - private };
        let joins = |group: &&mut (String, String, i64, i64, i64)| {
            group.0 == ip
                && group.1 == kind
                && group.3 + 1 == private
                && group.4 == shift
                && (public == 0 || shift == 0)
        };
        match groups.iter_mut().find(joins) {
            Some(group) => group.3 = private,
            None => groups.push((ip, kind, private, private, if public == 0 { 0 } else { shift })),
        }
    }
    groups
        .iter()
        .map(|(ip, kind, first, last, shift)| port_group(ip, kind, *first, *last, *shift))
        .collect::<Vec<_>>()
        .join(", ")
}

fn port_group(ip: &str, kind: &str, first: i64, last: i64, shift: i64) -> String {
    let range = |first: i64, last: i64| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    };
    if ip.is_empty() {
        return format!("{}/{kind}", range(first, last));
    }
    let ip = if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_owned()
    };
    format!(
        "{ip}:{}->{}/{kind}",
        range(first + shift, last + shift),
        range(first, last)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_read_as_docker_prints_them() {
        let list = br#"[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},
            {"PrivatePort":443,"Type":"tcp"},{"PrivatePort":444,"Type":"tcp"},
            {"IP":"::","PrivatePort":80,"PublicPort":8080,"Type":"tcp"}]"#;
        let text = ports(&Value::parse(list).unwrap());
        assert_eq!(text, "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 443-444/tcp");
    }
}
