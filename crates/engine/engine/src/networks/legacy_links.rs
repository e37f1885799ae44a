//! `--link` on the default network: lines in `hosts` and environment variables, as Docker has them. Pure.

use crate::error::{EngineError, Result};
use crate::record::ContainerRecord;
use std::fmt::Write;
use std::net::Ipv4Addr;

/// A container that another one links to.
pub struct LinkTarget<'a> {
    pub alias: &'a str,
    pub record: &'a ContainerRecord,
    pub address: Ipv4Addr,
}

/// `name:alias`, `name` alone, or as Docker lists them: `/name:/parent/alias`.
pub fn parse(link: &str) -> Result<(String, String)> {
    let (name, alias) = link.split_once(':').unwrap_or((link, link));
    if link.is_empty() {
        return Err(EngineError::invalid("empty string specified for links"));
    }
    if name.is_empty() || alias.is_empty() || alias.contains(':') {
        return Err(EngineError::invalid(format!("bad format for links: {link}")));
    }
    let alias = alias.rsplit('/').next().unwrap_or(alias);
    Ok((name.trim_start_matches('/').to_owned(), alias.to_owned()))
}

/// Gives the line of a linked container another address, or takes it out. It is the last one that begins with the alias:
/// the container's own comes before all links.
pub fn change_hosts(text: &str, alias: &str, address: Option<Ipv4Addr>) -> String {
    let mut lines: Vec<String> = text.lines().map(ToOwned::to_owned).collect();
    let names = |line: &str| line.split_once('\t').map(|(_, names)| names.to_owned());
    let is_meant = |line: &String| names(line).is_some_and(|names| names.split(' ').next() == Some(alias));
    if let Some(index) = lines.iter().rposition(is_meant) {
        match (address, names(&lines[index])) {
            (Some(address), Some(names)) => lines[index] = format!("{address}\t{names}"),
            _ => drop(lines.remove(index)),
        }
    }
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

/// `address alias host-name container-name`, each name once.
pub fn hosts_line(target: &LinkTarget<'_>) -> String {
    let mut names = vec![target.alias];
    for name in [target.record.resolved.hostname.as_str(), &target.record.name] {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    format!("{}\t{}\n", target.address, names.join(" "))
}

/// `ALIAS_NAME`, `ALIAS_PORT…` for each exposed port, and `ALIAS_ENV_…` for the target's own variables.
pub fn environment(own_name: &str, target: &LinkTarget<'_>) -> Vec<String> {
    let prefix = target.alias.replace(['-', '.'], "_").to_uppercase();
    let address = target.address;
    let mut variables = vec![format!("{prefix}_NAME=/{own_name}/{}", target.alias)];
    let ports = &target.record.resolved.exposed_ports;
    if let Some(first) = ports.first() {
        variables.push(format!(
            "{prefix}_PORT={}://{address}:{}",
            first.protocol, first.port
        ));
    }
    for port in ports {
        let (number, protocol) = (port.port, port.protocol);
        let mut name = String::new();
        let _ = write!(
            name,
            "{prefix}_PORT_{number}_{}",
            protocol.to_string().to_uppercase()
        );
        variables.extend([
            format!("{name}={protocol}://{address}:{number}"),
            format!("{name}_ADDR={address}"),
            format!("{name}_PORT={number}"),
            format!("{name}_PROTO={protocol}"),
        ]);
    }
    let own = target.record.resolved.env.iter();
    // Docker leaves these two out.
    variables.extend(
        own.filter(|entry| !entry.starts_with("HOME=") && !entry.starts_with("PATH="))
            .map(|entry| format!("{prefix}_ENV_{entry}")),
    );
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_written_in_three_ways() {
        let parsed = |link: &str| parse(link).map_err(|error| error.message);
        let pair = |name: &str, alias: &str| Ok((name.to_owned(), alias.to_owned()));
        assert_eq!(parsed("db"), pair("db", "db"));
        assert_eq!(parsed("db:base"), pair("db", "base"));
        assert_eq!(parsed("/db:/web/base"), pair("db", "base"));
        for wrong in ["", ":", "a:", ":b", "a:b:c"] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_linked_container_that_moved_is_found_by_its_alias() {
        let text = "127.0.0.1\tlocalhost\n10.0.0.2\tdb x\n10.0.0.3\tdb abc real\n9.9.9.9\tdb2\n";
        let moved = change_hosts(text, "db", Some(Ipv4Addr::new(10, 0, 0, 9)));
        assert_eq!(moved, text.replace("10.0.0.3", "10.0.0.9"));
        assert_eq!(change_hosts(text, "real", Some(Ipv4Addr::LOCALHOST)), text);
        let gone = change_hosts(text, "db2", None);
        assert_eq!(gone, text.replace("9.9.9.9\tdb2\n", ""));
    }
}
