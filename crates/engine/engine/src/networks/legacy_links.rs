//! `--link` on the default network: lines in `hosts` and environment variables, as Docker has them. Pure.

use crate::record::ContainerRecord;
use std::fmt::Write;
use std::net::Ipv4Addr;

/// A container that another one links to.
pub struct LinkTarget<'a> {
    pub alias: &'a str,
    pub record: &'a ContainerRecord,
    pub address: Ipv4Addr,
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
