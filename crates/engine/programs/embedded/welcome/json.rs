//! The facts as JSON.

use crate::facts::Facts;
use std::fmt::Write;

pub fn render(facts: &Facts) -> String {
    let list = |items: &[String]| array(items.iter().map(|item| text(item)));
    let cgroup = &facts.cgroup;
    let mut fields: Vec<(&str, String)> = vec![
        ("hostname", text(&facts.hostname)),
        ("kernel", text(&facts.kernel)),
        ("pid", facts.pid.to_string()),
        ("uid", text(&facts.user)),
        ("visible_processes", facts.visible_processes.to_string()),
        ("uptime_seconds", format!("{:.2}", facts.uptime_seconds)),
        ("host_uptime_seconds", format!("{:.2}", facts.host_uptime_seconds)),
        ("resident_bytes", facts.resident_bytes.to_string()),
        ("addresses", list(&facts.addresses)),
        ("interfaces", list(&facts.interfaces)),
        ("gateway", optional(facts.gateway.as_deref().map(text))),
    ];
    let namespaces = facts
        .namespaces
        .iter()
        .map(|namespace| (namespace.kind, text(&namespace.id)));
    fields.push(("namespaces", object(namespaces)));
    fields.push((
        "cgroup",
        object([
            ("version", cgroup.version.to_string()),
            ("memory_used_bytes", optional(cgroup.memory_used_bytes)),
            ("memory_limit_bytes", optional(cgroup.memory_limit_bytes)),
            ("processes", optional(cgroup.processes)),
            ("processes_limit", optional(cgroup.processes_limit)),
            ("cpu_limit", optional(cgroup.cpu_limit)),
            ("cpu_weight", optional(cgroup.cpu_weight.as_deref().map(text))),
            ("cpus", optional(cgroup.cpus.as_deref().map(text))),
            ("cpu_used_seconds", optional(cgroup.cpu_used_seconds)),
        ]),
    ));
    let held = facts.capabilities.iter().filter(|capability| capability.is_held);
    fields.push((
        "capabilities",
        array(held.map(|capability| text(&format!("CAP_{}", capability.name)))),
    ));
    fields.push(("seccomp", text(facts.seccomp)));
    fields.push(("seccomp_filters", facts.seccomp_filters.to_string()));
    fields.push(("no_new_privileges", facts.no_new_privileges.to_string()));
    fields.push(("root_filesystem", text(&facts.root_filesystem)));
    fields.push(("root_read_only", facts.root_read_only.to_string()));
    fields.push(("layers", list(&facts.layers)));
    let mounts = facts.mounts.iter().map(|mount| {
        object([
            ("target", text(&mount.target)),
            ("filesystem", text(&mount.filesystem)),
            ("read_only", mount.is_read_only.to_string()),
        ])
    });
    fields.push(("mounts", array(mounts)));
    object(fields) + "\n"
}

fn optional(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "null".to_owned(), |value| value.to_string())
}

fn array(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(","))
}

fn object<'a>(fields: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let fields = fields
        .into_iter()
        .map(|(name, value)| format!("{}:{value}", text(name)));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

fn text(value: &str) -> String {
    let mut quoted = String::from("\"");
    for character in value.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            character if character.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(character));
            }
            character => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}
