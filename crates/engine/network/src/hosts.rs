//! The text of a container's `/etc/resolv.conf` and `/etc/hosts`, as Docker writes them on its default bridge. Pure.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};

/// What Docker falls back to when the host has only name servers a container cannot reach.
const FALLBACK_SERVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// The container's `resolv.conf`: the host's, without name servers that only the host can reach (loopback, and IPv6,
/// which the bridge does not have), and with each of the three lists replaced where the container has its own. A search
/// list of a single `.` means none.
pub fn resolv_conf(host: &str, servers: &[IpAddr], search: &[String], options: &[String]) -> String {
    let host = HostResolv::parse(host);
    let mut text = String::new();
    let search: Vec<&str> = if search.is_empty() {
        host.search
    } else {
        search.iter().map(String::as_str).collect()
    };
    if !search.is_empty() && search != ["."] {
        line(&mut text, "search", &search.join(" "));
    }
    if servers.is_empty() {
        let reachable: Vec<&str> = host
            .servers
            .into_iter()
            .filter(|server| is_reachable(server))
            .collect();
        let servers = if reachable.is_empty() {
            &FALLBACK_SERVERS[..]
        } else {
            &reachable
        };
        for server in servers {
            line(&mut text, "nameserver", server);
        }
    } else {
        for server in servers {
            line(&mut text, "nameserver", &server.to_string());
        }
    }
    let options: Vec<&str> = if options.is_empty() {
        host.options
    } else {
        options.iter().map(String::as_str).collect()
    };
    if !options.is_empty() {
        line(&mut text, "options", &options.join(" "));
    }
    text
}

fn line(text: &mut String, keyword: &str, value: &str) {
    // A line break in a value must not become another keyword.
    let value: String = value
        .chars()
        .filter(|character| !character.is_control())
        .collect();
    let _ = writeln!(text, "{keyword} {value}");
}

fn is_reachable(server: &str) -> bool {
    server
        .parse::<Ipv4Addr>()
        .is_ok_and(|address| !address.is_loopback() && !address.is_unspecified())
}

#[derive(Default)]
struct HostResolv<'a> {
    servers: Vec<&'a str>,
    search: Vec<&'a str>,
    options: Vec<&'a str>,
}

impl<'a> HostResolv<'a> {
    fn parse(text: &'a str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let mut words = line
                .split(['#', ';'])
                .next()
                .unwrap_or_default()
                .split_whitespace();
            match words.next() {
                Some("nameserver") => found.servers.extend(words.next()),
                // The last line of the two keywords wins (resolv.conf(5)).
                Some("search" | "domain") => found.search = words.collect(),
                Some("options") => found.options.extend(words),
                _ => {}
            }
        }
        found
    }
}

/// The `resolv.conf` of a container whose questions go to a resolver of ours: the search list and the options as
/// [`resolv_conf`] has them, and `ndots:0` unless the creator chose another figure, so that names of one label are asked
/// as they are.
pub fn resolv_conf_of_resolver(
    host: &str,
    resolver: Ipv4Addr,
    search: &[String],
    options: &[String],
) -> String {
    let mut text = resolv_conf(host, &[IpAddr::V4(resolver)], search, options);
    if text.contains("ndots:") {
        return text;
    }
    match text.find("options ") {
        Some(_) => text = format!("{} ndots:0\n", text.trim_end()),
        None => line(&mut text, "options", "ndots:0"),
    }
    text
}

/// The line that a container's `hosts` file has for one of its own addresses, without its end.
pub fn own_hosts_line(address: IpAddr, hostname: &str, domainname: &str) -> String {
    let names = if domainname.is_empty() {
        hostname.to_owned()
    } else {
        format!("{hostname}.{domainname} {hostname}")
    };
    let mut text = String::new();
    hosts_line(&mut text, &address.to_string(), &names);
    text.trim_end().to_owned()
}

/// The container's `hosts` file. `extra_hosts` are `name:address` as `--add-host` gives them (`name=address` too); the
/// address `host-gateway` stands for the bridge's own.
pub fn hosts_file(
    addresses: &[IpAddr],
    hostname: &str,
    domainname: &str,
    extra_hosts: &[String],
    gateway: Ipv4Addr,
) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         ff00::0\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    for extra in extra_hosts {
        if let Some((name, value)) = split_extra_host(extra) {
            let value = if value == "host-gateway" {
                gateway.to_string()
            } else {
                value.to_owned()
            };
            hosts_line(&mut text, &value, name);
        }
    }
    for address in addresses {
        text.push_str(&own_hosts_line(*address, hostname, domainname));
        text.push('\n');
    }
    text
}

fn hosts_line(text: &mut String, address: &str, names: &str) {
    let clean = |part: &str| -> String { part.chars().filter(|character| !character.is_control()).collect() };
    let _ = writeln!(text, "{}\t{}", clean(address), clean(names));
}

/// The first separator counts: an IPv6 address has colons of its own.
fn split_extra_host(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.split_once(['=', ':'])?;
    let value = value
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(value);
    Some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_of_the_host_alone_are_dropped() {
        let host = "# made by hand\nnameserver 127.0.0.53\nnameserver 10.0.0.2 # office\nnameserver ::1\n\
                    search a.example b.example\noptions edns0 trust-ad\n";
        let text = resolv_conf(host, &[], &[], &[]);
        assert_eq!(
            text,
            "search a.example b.example\nnameserver 10.0.0.2\noptions edns0 trust-ad\n"
        );
    }

    #[test]
    fn without_a_reachable_server_public_ones_are_used() {
        assert_eq!(
            resolv_conf("nameserver 127.0.0.1\n", &[], &[], &[]),
            "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
        );
        assert_eq!(
            resolv_conf("", &[], &[], &[]),
            "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
        );
    }

    #[test]
    fn own_settings_replace_those_of_the_host() {
        let host = "nameserver 10.0.0.2\nsearch a.example\noptions ndots:2\n";
        let text = resolv_conf(
            host,
            &["1.1.1.1".parse().unwrap(), "127.0.0.1".parse().unwrap()],
            &[".".to_owned()],
            &["ndots:5\nnameserver 6.6.6.6".to_owned()],
        );
        assert_eq!(
            text,
            "nameserver 1.1.1.1\nnameserver 127.0.0.1\noptions ndots:5nameserver 6.6.6.6\n"
        );
    }

    #[test]
    fn questions_go_to_the_resolver_with_short_names_as_they_are() {
        let resolver = Ipv4Addr::new(127, 0, 0, 11);
        let host = "nameserver 10.0.0.2\nsearch a.example\noptions edns0\n";
        assert_eq!(
            resolv_conf_of_resolver(host, resolver, &[], &[]),
            "search a.example\nnameserver 127.0.0.11\noptions edns0 ndots:0\n"
        );
        assert_eq!(
            resolv_conf_of_resolver("", resolver, &[".".to_owned()], &["ndots:3".to_owned()]),
            "nameserver 127.0.0.11\noptions ndots:3\n"
        );
        assert_eq!(
            resolv_conf_of_resolver("", resolver, &[], &[]),
            "nameserver 127.0.0.11\noptions ndots:0\n"
        );
    }

    #[test]
    fn hosts_has_the_container_and_its_extra_names() {
        let extra = ["db:10.1.2.3", "host.docker.internal:host-gateway", "six:::1"].map(str::to_owned);
        let gateway = Ipv4Addr::new(172, 17, 0, 1);
        let text = hosts_file(
            &[Ipv4Addr::new(172, 17, 0, 2).into()],
            "web",
            "example.org",
            &extra,
            gateway,
        );
        let lines: Vec<_> = text.lines().skip(6).collect();
        assert_eq!(
            lines,
            [
                "10.1.2.3\tdb",
                "172.17.0.1\thost.docker.internal",
                "::1\tsix",
                "172.17.0.2\tweb.example.org web"
            ]
        );
        assert!(text.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost "));
        assert!(!hosts_file(&[], "web", "", &[], gateway).contains("web"));
    }
}
