//! `LogConfig`: which drivers there are, and which options each takes. What the values mean is the engine's to check.

use crate::error::{ApiError, ApiResult};
use naru_docker_wire::types::HostConfig;
use naru_engine::spec::LogSpec;

/// Told with messages, by every driver that can.
const ATTRIBUTES: [&str; 5] = ["labels", "labels-regex", "env", "env-regex", "tag"];

/// Of the copy that is kept here of a log that goes elsewhere.
const CACHE: [&str; 4] = [
    "cache-disabled",
    "cache-max-size",
    "cache-max-file",
    "cache-compress",
];

/// A driver with its own options, and whether it takes those of [`ATTRIBUTES`] and of [`CACHE`].
struct Driver {
    name: &'static str,
    own: &'static [&'static str],
    has_attributes: bool,
    has_cache: bool,
}

const FILES: &[&str] = &["max-size", "max-file", "compress"];

const DRIVERS: [Driver; 7] = [
    Driver {
        name: "json-file",
        own: FILES,
        has_attributes: true,
        has_cache: false,
    },
    Driver {
        name: "local",
        own: FILES,
        has_attributes: false,
        has_cache: false,
    },
    Driver {
        name: "none",
        own: &[],
        has_attributes: false,
        has_cache: false,
    },
    Driver {
        name: "journald",
        own: &[],
        has_attributes: true,
        has_cache: true,
    },
    Driver {
        name: "syslog",
        own: &[
            "syslog-address",
            "syslog-facility",
            "syslog-format",
            "syslog-tls-ca-cert",
            "syslog-tls-cert",
            "syslog-tls-key",
            "syslog-tls-skip-verify",
        ],
        has_attributes: true,
        has_cache: true,
    },
    Driver {
        name: "fluentd",
        own: &[
            "fluentd-address",
            "fluentd-async",
            "fluentd-async-connect",
            "fluentd-buffer-limit",
            "fluentd-max-retries",
            "fluentd-request-ack",
            "fluentd-retry-wait",
            "fluentd-sub-second-precision",
        ],
        has_attributes: true,
        has_cache: true,
    },
    Driver {
        name: "gelf",
        own: &[
            "gelf-address",
            "gelf-compression-level",
            "gelf-compression-type",
            "gelf-tcp-max-reconnect",
            "gelf-tcp-reconnect-delay",
        ],
        has_attributes: true,
        has_cache: true,
    },
];

impl Driver {
    fn takes(&self, option: &str) -> bool {
        self.own.contains(&option)
            || self.has_attributes && ATTRIBUTES.contains(&option)
            || self.has_cache && CACHE.contains(&option)
            || self.name != "none" && matches!(option, "mode" | "max-buffer-size")
    }
}

/// Names of the drivers, as `info` lists them.
pub fn driver_names() -> Vec<String> {
    let mut names: Vec<String> = DRIVERS
        .iter()
        .filter(|driver| driver.name != "none")
        .map(|driver| driver.name.to_owned())
        .collect();
    names.sort();
    names
}

pub fn log_spec(host: &HostConfig) -> ApiResult<LogSpec> {
    let asked = match host.log_config.kind.as_str() {
        "" => "json-file",
        kind => kind,
    };
    let driver = DRIVERS
        .iter()
        .find(|driver| driver.name == asked)
        .ok_or_else(|| ApiError::invalid(format!("logger: no log driver named '{asked}' is registered")))?;
    let options = host.log_config.config.clone();
    if let Some(unknown) = options.keys().find(|key| !driver.takes(key)) {
        return Err(ApiError::invalid(format!(
            "unknown log opt '{unknown}' for {asked} log driver"
        )));
    }
    if let Some(kept) = options.get("max-file")
        && kept.parse::<u32>().map_or(true, |files| files < 1)
    {
        return Err(ApiError::invalid(format!(
            "invalid max-file: {kept}: max-file cannot be less than 1"
        )));
    }
    if let Some(mode) = options.get("mode")
        && !matches!(mode.as_str(), "" | "blocking" | "non-blocking")
    {
        return Err(ApiError::invalid(format!("logger: invalid mode \"{mode}\"")));
    }
    if options.contains_key("max-buffer-size")
        && options.get("mode").is_none_or(|mode| mode != "non-blocking")
    {
        return Err(ApiError::invalid(
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        ));
    }
    if options.contains_key("max-file") && !options.contains_key("max-size") && asked == "json-file" {
        // Docker refuses it at start; nothing would ever be rotated.
        return Err(ApiError::invalid("max-file option can't be set without max-size"));
    }
    Ok(LogSpec {
        driver: asked.to_owned(),
        options,
    })
}
