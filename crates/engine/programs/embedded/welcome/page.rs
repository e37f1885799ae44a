//! The facts as one page of HTML that loads nothing else.

use crate::facts::{Facts, Mount};
use std::fmt::Write;

const STYLE: &str = include_str!("style.css");
/// A ferry at its landing, drawn by hand.
const FERRY: &str = include_str!("ferry.svg");

/// Mounts shown before "and more": a container has about thirty.
const MOUNTS_MAX: usize = 60;

pub fn render(facts: &Facts) -> String {
    let mut page = String::with_capacity(32 * 1024);
    page.push_str("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    page.push_str("<meta name=\"color-scheme\" content=\"light dark\"><link rel=\"icon\" href=\"data:,\">");
    let _ = write!(
        page,
        "<title>Naru · {}</title><style>{STYLE}</style></head><body>",
        escape(&facts.hostname)
    );
    page.push_str(&hero(facts));
    page.push_str("<main>");
    for (id, title, lead, body) in [
        ("namespaces", "Namespaces", "What it can see.", namespaces(facts)),
        ("limits", "Limits", "What it can use.", limits(facts)),
        ("privileges", "Privileges", "What it can do.", privileges(facts)),
        ("network", "Network", "Whom it can reach.", network(facts)),
        ("files", "Files", "What it is made of.", files(facts)),
    ] {
        let _ = write!(
            page,
            "<section id=\"{id}\" aria-labelledby=\"{id}-title\"><header><h2 id=\"{id}-title\">{title}</h2>\
             <p>{lead}</p></header>{body}</section>"
        );
    }
    page.push_str("</main>");
    let _ = write!(
        page,
        "<footer><p>Read a moment ago from this container’s own <code>/proc</code> and <code>/sys</code>, \
         by a server that uses {} of memory. Linux {}.</p>\
         <p><a href=\"/\">Read again</a> · <a href=\"/json\">the same as JSON</a></p></footer></body></html>\n",
        bytes(facts.resident_bytes),
        escape(&facts.kernel)
    );
    page
}

fn hero(facts: &Facts) -> String {
    let address = facts.addresses.first().map_or("no address", String::as_str);
    let processes = match facts.visible_processes {
        1 => "one process, this one".to_owned(),
        count => format!("{count} processes"),
    };
    let numbers = [
        (format!("{}", facts.pid), "process number", ""),
        (duration(facts.uptime_seconds), "running", ""),
        (escape(address), "address", "address"),
        (escape(&facts.hostname), "host name", "address"),
    ];
    let numbers: String = numbers
        .iter()
        .map(|(value, name, class)| format!("<div class=\"{class}\"><dt>{name}</dt><dd>{value}</dd></div>"))
        .collect();
    format!(
        "<header class=\"hero\"><div class=\"wide\"><p class=\"brand\"><strong>Naru</strong> \
         <em>a ferry landing</em></p>\
         <h1>Your container is running.</h1>\
         <p class=\"lead\">This page comes from inside it. The machine around it has been up for {}; \
         from in here there is {processes}.</p><dl class=\"numbers\">{numbers}</dl></div>{FERRY}</header>",
        duration(facts.host_uptime_seconds)
    )
}

fn namespaces(facts: &Facts) -> String {
    let rows: String = facts
        .namespaces
        .iter()
        .map(|one| {
            format!(
                "<tr><th scope=\"row\"><code>{}</code></th><td>{}</td><td class=\"number\">{}</td></tr>",
                one.kind,
                if one.is_initial {
                    "nothing, it is the host’s"
                } else {
                    one.meaning
                },
                escape(&one.id)
            )
        })
        .collect();
    format!(
        "<table><thead><tr><th scope=\"col\">kind</th><th scope=\"col\">gives it</th>\
         <th scope=\"col\" class=\"number\">id</th></tr></thead><tbody>{rows}</tbody></table>"
    )
}

fn limits(facts: &Facts) -> String {
    let cgroup = &facts.cgroup;
    if cgroup.version == 0 {
        return "<p>No control group can be seen from here.</p>".to_owned();
    }
    let mut rows = String::new();
    rows.push_str(&meter(
        "Memory",
        cgroup.memory_used_bytes.map(|used| used as f64),
        cgroup.memory_limit_bytes.map(|limit| limit as f64),
        |value| bytes(value as u64),
    ));
    rows.push_str(&meter(
        "Processes",
        cgroup.processes.map(|count| count as f64),
        cgroup.processes_limit.map(|limit| limit as f64),
        |value| format!("{value:.0}"),
    ));
    let cpu = match cgroup.cpu_limit {
        Some(1.0) => "one CPU at most".to_owned(),
        Some(limit) => format!("{limit} CPUs at most"),
        None => "as much as is free".to_owned(),
    };
    let mut more = vec![("CPU time".to_owned(), cpu)];
    let name = if cgroup.version == 2 {
        "CPU weight"
    } else {
        "CPU shares"
    };
    more.extend(
        cgroup
            .cpu_weight
            .iter()
            .map(|weight| (name.to_owned(), escape(weight))),
    );
    more.extend(
        cgroup
            .cpus
            .iter()
            .map(|cpus| ("On CPUs".to_owned(), escape(cpus))),
    );
    more.extend(
        cgroup
            .cpu_used_seconds
            .map(|used| ("Used so far".to_owned(), format!("{:.1} ms", used * 1e3))),
    );
    more.push(("Enforced by".to_owned(), format!("cgroup v{}", cgroup.version)));
    format!("{rows}{}", pairs(&more))
}

fn meter(name: &str, used: Option<f64>, limit: Option<f64>, show: impl Fn(f64) -> String) -> String {
    let Some(used) = used else { return String::new() };
    let Some(limit) = limit.filter(|limit| *limit > 0.0) else {
        return format!(
            "<div class=\"meter\"><span>{name}</span><span>{} <small>no limit</small></span></div>",
            show(used)
        );
    };
    let percent = (used / limit * 100.0).clamp(0.0, 100.0);
    format!(
        "<div class=\"meter\"><span id=\"meter-{name}\">{name}</span><span>{} <small>of {}</small></span>\
         <div role=\"meter\" aria-labelledby=\"meter-{name}\" aria-valuemin=\"0\" aria-valuemax=\"100\" \
         aria-valuenow=\"{percent:.0}\"><i style=\"width:{:.1}%\"></i></div></div>",
        show(used),
        show(limit),
        percent.max(1.0)
    )
}

fn privileges(facts: &Facts) -> String {
    let held: Vec<_> = facts.capabilities.iter().filter(|one| one.is_held).collect();
    let chips = |is_held: bool| -> String {
        let some = facts.capabilities.iter().filter(|one| one.is_held == is_held);
        some.map(|one| format!("<li>{}</li>", one.name.to_lowercase()))
            .collect()
    };
    let seccomp = match facts.seccomp_filters {
        0 if facts.seccomp == "off" => "not filtered".to_owned(),
        0 => facts.seccomp.to_owned(),
        1 => format!("{}, one filter", facts.seccomp),
        count => format!("{}, {count} filters", facts.seccomp),
    };
    let rows = [
        (
            "User".to_owned(),
            if facts.user == "0" {
                "0, root in here only".to_owned()
            } else {
                escape(&facts.user)
            },
        ),
        ("System calls".to_owned(), seccomp),
        (
            "New privileges".to_owned(),
            if facts.no_new_privileges {
                "never"
            } else {
                "by set-user-id programs"
            }
            .to_owned(),
        ),
    ];
    let dropped = facts.capabilities.len() - held.len();
    format!(
        "{}<h3>{} of {} capabilities held</h3><ul class=\"chips held\">{}</ul>\
         <details open><summary>{dropped} taken away</summary><ul class=\"chips\">{}</ul></details>",
        pairs(&rows),
        held.len(),
        facts.capabilities.len(),
        chips(true),
        chips(false)
    )
}

fn network(facts: &Facts) -> String {
    let join = |items: &[String]| match items {
        [] => "none".to_owned(),
        items => items
            .iter()
            .map(|item| escape(item))
            .collect::<Vec<_>>()
            .join(", "),
    };
    pairs(&[
        ("Address".to_owned(), join(&facts.addresses)),
        ("Interface".to_owned(), join(&facts.interfaces)),
        (
            "Way out".to_owned(),
            facts.gateway.as_deref().map_or_else(|| "none".to_owned(), escape),
        ),
    ])
}

fn files(facts: &Facts) -> String {
    let writable = if facts.root_read_only {
        "read-only"
    } else {
        "its own, thrown away with it"
    };
    let mut stack = format!("<li class=\"top\"><span>changes</span><span>{writable}</span></li>");
    for layer in &facts.layers {
        let _ = write!(stack, "<li><span>layer</span><code>{}</code></li>", escape(layer));
    }
    let title = match facts.layers.len() {
        0 => format!("Root file system: {}", escape(&facts.root_filesystem)),
        1 => "One shared layer below its own".to_owned(),
        count => format!("{count} shared layers below its own"),
    };
    let rows: String = facts.mounts.iter().take(MOUNTS_MAX).map(mount_row).collect();
    format!(
        "<h3>{title}</h3><ol class=\"layers\">{stack}</ol>\
         <details><summary>{} mounts</summary><table><thead><tr><th scope=\"col\">at</th><th scope=\"col\">kind</th>\
         <th scope=\"col\">access</th></tr></thead><tbody>{rows}</tbody></table></details>",
        facts.mounts.len()
    )
}

fn mount_row(mount: &Mount) -> String {
    format!(
        "<tr><td><code>{}</code></td><td>{}</td><td>{}</td></tr>",
        escape(&mount.target),
        escape(&mount.filesystem),
        if mount.is_read_only {
            "read only"
        } else {
            "read and write"
        }
    )
}

fn pairs(rows: &[(String, String)]) -> String {
    let rows: String = rows
        .iter()
        .map(|(name, value)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>"))
        .collect();
    format!("<dl class=\"pairs\">{rows}</dl>")
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            character => escaped.push(character),
        }
    }
    escaped
}

fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 {
        format!("{value:.0} {}", units[unit])
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60) {
        (0, 0, 0, _) if seconds < 10.0 => format!("{seconds:.1} s"),
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, _, _) => format!("{days} d {hours} h"),
    }
}
