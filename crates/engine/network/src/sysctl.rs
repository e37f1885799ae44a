//! Settings of the calling thread's network namespace under `/proc/sys`.

use crate::error::{NetworkError, Result};
use crate::ruleset::Family;
use std::path::{Path, PathBuf};

pub fn path(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

/// Writes a setting unless it has the value already.
pub fn write(name: &str, value: &str) -> Result<()> {
    let path = path(name);
    let failed = |what| {
        let path = path.clone();
        move |source| NetworkError::File { what, path, source }
    };
    let present = std::fs::read_to_string(&path).map_err(failed("read"))?;
    if present.trim() == value {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(failed("write"))
}

pub const FORWARDING: &str = "net/ipv4/ip_forward";
const FORWARDING6: &str = "net/ipv6/conf/all/forwarding";

pub fn is_forwarding(family: Family) -> bool {
    let name = match family {
        Family::Ipv4 => FORWARDING,
        Family::Ipv6 => FORWARDING6,
    };
    std::fs::read_to_string(path(name)).is_ok_and(|text| text.trim() == "1")
}

/// Has the host forward IPv6. A host that forwards no longer learns its own routes from routers, unless each interface
/// that did so is told to go on (`accept_ra` 2).
pub fn forward_ipv6() -> Result<()> {
    for entry in std::fs::read_dir(path("net/ipv6/conf"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let setting = entry.path().join("accept_ra");
        if std::fs::read_to_string(&setting).is_ok_and(|text| text.trim() == "1") {
            // An interface that went away meanwhile learns nothing any more.
            let _ = std::fs::write(&setting, "2");
        }
    }
    write(FORWARDING6, "1")
}

/// First and last port to choose from when none is asked for.
pub fn read_ephemeral_ports() -> (u16, u16) {
    // The kernel's own default, for a /proc that does not show it.
    let default = (32768, 60999);
    let text = std::fs::read_to_string(path("net/ipv4/ip_local_port_range")).unwrap_or_default();
    let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) if first > 0 && first <= last => (first, last),
        _ => default,
    }
}
