//! Logs that go elsewhere: the options of Docker's drivers journald, syslog, fluentd and gelf, checked and made a plan.

use super::log::{expand, log_attributes, parse_size, parse_truth};
use crate::error::{EngineError, Result};
use crate::record::ContainerRecord;
use crate::spec::LogSpec;
use naru_logs::ship::{
    Address, Compression, DriverPlan, FluentdPlan, GelfPlan, JournaldPlan, ShipMode, ShipPlan, SyslogFormat,
    SyslogPlan, TlsPlan,
};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Where systemd's journal takes messages, and where a syslog daemon of this host does: fixed for every client.
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
const SYSLOG_SOCKETS: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// Docker's ports where an address names none.
const SYSLOG_PORT: u16 = 514;
const FLUENTD_PORT: u16 = 24224;

/// Docker's size of the buffer in mode `non-blocking`, and what fluentd's driver holds when it connects later.
const BUFFER_BYTES: usize = 1 << 20;

/// `LOG_DAEMON`.
const FACILITY_DEFAULT: u8 = 3;

/// An address as the option has it, its host not yet looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receiver {
    Local(Address),
    /// `/dev/log` or one of its kin.
    LocalSyslog,
    Udp {
        host: String,
        port: u16,
    },
    Tcp {
        host: String,
        port: u16,
    },
}

/// Whether the driver sends its messages elsewhere.
pub fn is_shipped(driver: &str) -> bool {
    matches!(driver, "journald" | "syslog" | "fluentd" | "gelf")
}

/// Refuses, when a container is created, what its start could not carry out.
pub fn check(log: &LogSpec) -> Result<()> {
    let receiver = receiver(log)?;
    match log.driver.as_str() {
        "syslog" => {
            parse_facility(option(log, "syslog-facility"))?;
            parse_format(option(log, "syslog-format")).map(drop)
        }
        "fluentd" => plan_fluentd_numbers(log).map(drop),
        "gelf" => check_gelf(log, &receiver),
        _ => Ok(()),
    }
}

fn option<'a>(log: &'a LogSpec, name: &str) -> Option<&'a str> {
    log.options
        .get(name)
        .map(String::as_str)
        .filter(|text| !text.is_empty())
}

fn refuse(message: impl Into<String>) -> EngineError {
    EngineError::invalid(message)
}

/// The host and port to be looked up before the start, for an address that has them.
pub fn host_to_find(log: &LogSpec) -> Result<Option<(String, u16)>> {
    Ok(match receiver(log)? {
        Receiver::Udp { host, port } | Receiver::Tcp { host, port } => Some((host, port)),
        Receiver::Local(_) | Receiver::LocalSyslog => None,
    })
}

fn receiver(log: &LogSpec) -> Result<Receiver> {
    match log.driver.as_str() {
        "journald" => Ok(Receiver::Local(Address::UnixDatagram(JOURNAL_SOCKET.into()))),
        "syslog" => parse_syslog_address(option(log, "syslog-address")),
        "fluentd" => parse_fluentd_address(option(log, "fluentd-address")),
        _ => parse_gelf_address(option(log, "gelf-address")),
    }
}

fn parse_syslog_address(address: Option<&str>) -> Result<Receiver> {
    let Some(address) = address else {
        return Ok(Receiver::LocalSyslog);
    };
    let (scheme, rest) = split_scheme(address).ok_or_else(|| {
        refuse(format!(
            "syslog-address should be in form proto://address, got {address}"
        ))
    })?;
    match scheme {
        "unix" | "unixgram" => {
            let path = PathBuf::from(rest);
            if std::fs::metadata(&path).is_err() {
                return Err(refuse(format!(
                    "stat {}: no such file or directory",
                    path.display()
                )));
            }
            Ok(Receiver::Local(if scheme == "unix" {
                Address::UnixStream(path)
            } else {
                Address::UnixDatagram(path)
            }))
        }
        "udp" => split_host(rest, Some(SYSLOG_PORT)).map(|(host, port)| Receiver::Udp { host, port }),
        "tcp" | "tcp+tls" => {
            split_host(rest, Some(SYSLOG_PORT)).map(|(host, port)| Receiver::Tcp { host, port })
        }
        other => Err(refuse(format!("unsupported scheme: '{other}'"))),
    }
}

fn parse_fluentd_address(address: Option<&str>) -> Result<Receiver> {
    let address = address.unwrap_or("localhost");
    let (scheme, rest) = split_scheme(address).unwrap_or(("tcp", address));
    match scheme {
        "unix" if rest.trim_matches('/').is_empty() => Err(refuse("path is empty")),
        "unix" => Ok(Receiver::Local(Address::UnixStream(rest.into()))),
        "tcp" if rest.contains('/') => Err(refuse(format!(
            "fluentd-address: a host and port is expected, without a path: {address}"
        ))),
        "tcp" => split_host(rest, Some(FLUENTD_PORT)).map(|(host, port)| Receiver::Tcp { host, port }),
        other => Err(refuse(format!("unsupported scheme: '{other}'"))),
    }
}

fn parse_gelf_address(address: Option<&str>) -> Result<Receiver> {
    let address = address.ok_or_else(|| refuse("gelf-address is a required parameter"))?;
    let (scheme, rest) = split_scheme(address).ok_or_else(|| {
        refuse(format!(
            "gelf-address should be in form proto://address, got {address}"
        ))
    })?;
    let host = || {
        split_host(rest, None).map_err(|_| refuse("gelf: please provide gelf-address as proto://host:port"))
    };
    match scheme {
        "udp" => host().map(|(host, port)| Receiver::Udp { host, port }),
        "tcp" => host().map(|(host, port)| Receiver::Tcp { host, port }),
        _ => Err(refuse("gelf: endpoint needs to be TCP or UDP")),
    }
}

fn split_scheme(address: &str) -> Option<(&str, &str)> {
    address
        .split_once("://")
        .filter(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty())
}

/// `host:port`, `[::1]:port`, or a host alone where there is a default.
fn split_host(text: &str, default: Option<u16>) -> Result<(String, u16)> {
    let wrong = || refuse(format!("invalid address {text:?}: expected HOST:PORT"));
    let has_port = !text.ends_with(']') && text.rsplit_once(':').is_some();
    let (host, port) = match (has_port.then(|| text.rsplit_once(':')).flatten(), default) {
        (Some((host, port)), _) => (host, port.parse().map_err(|_| wrong())?),
        (None, Some(port)) => (text, port),
        (None, None) => return Err(wrong()),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(wrong());
    }
    Ok((host.to_owned(), port))
}

/// By name or number.
fn parse_facility(text: Option<&str>) -> Result<u8> {
    const NAMES: [(&str, u8); 20] = [
        ("kern", 0),
        ("user", 1),
        ("mail", 2),
        ("daemon", 3),
        ("auth", 4),
        ("syslog", 5),
        ("lpr", 6),
        ("news", 7),
        ("uucp", 8),
        ("cron", 9),
        ("authpriv", 10),
        ("ftp", 11),
        ("local0", 16),
        ("local1", 17),
        ("local2", 18),
        ("local3", 19),
        ("local4", 20),
        ("local5", 21),
        ("local6", 22),
        ("local7", 23),
    ];
    let Some(text) = text else {
        return Ok(FACILITY_DEFAULT);
    };
    let named = NAMES.iter().find(|(name, _)| *name == text);
    let number = || text.parse().ok().filter(|number| *number < 24);
    named
        .map(|(_, number)| *number)
        .or_else(number)
        .ok_or_else(|| refuse("invalid syslog facility"))
}

fn parse_format(text: Option<&str>) -> Result<SyslogFormat> {
    match text {
        None => Ok(SyslogFormat::Unix),
        Some("rfc3164") => Ok(SyslogFormat::Rfc3164),
        Some("rfc5424") => Ok(SyslogFormat::Rfc5424),
        Some("rfc5424micro") => Ok(SyslogFormat::Rfc5424Micro),
        Some(_) => Err(refuse("Invalid syslog format")),
    }
}

fn check_gelf(log: &LogSpec, receiver: &Receiver) -> Result<()> {
    let is_udp = matches!(receiver, Receiver::Udp { .. });
    for name in ["gelf-compression-level", "gelf-compression-type"] {
        if !is_udp && log.options.contains_key(name) {
            return Err(refuse("compression is only supported on UDP"));
        }
    }
    for name in ["gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"] {
        if is_udp && log.options.contains_key(name) {
            return Err(refuse(format!("{name:?} is only valid for TCP")));
        }
    }
    plan_gelf_numbers(log).map(drop)
}

fn plan_gelf_numbers(log: &LogSpec) -> Result<(Compression, u32, u64)> {
    let unknown = |name: &str, value: &str| {
        refuse(format!(
            "unknown value {value:?} for log opt {name:?} for gelf log driver"
        ))
    };
    let level: i8 = match option(log, "gelf-compression-level") {
        None => 1,
        Some(text) => text
            .parse()
            .ok()
            .filter(|level| (-1..=9).contains(level))
            .ok_or_else(|| unknown("gelf-compression-level", text))?,
    };
    let compression = match option(log, "gelf-compression-type") {
        None | Some("gzip") => Compression::Gzip { level },
        Some("zlib") => Compression::Zlib { level },
        Some("none") => Compression::None,
        Some(text) => return Err(unknown("gelf-compression-type", text)),
    };
    let number = |name: &str, default: u32| match option(log, name) {
        None => Ok(default),
        Some(text) => text
            .parse()
            .map_err(|_| refuse(format!("{name:?} must be a positive integer"))),
    };
    Ok((
        compression,
        number("gelf-tcp-max-reconnect", 3)?,
        u64::from(number("gelf-tcp-reconnect-delay", 1)?) * 1000,
    ))
}

struct FluentdNumbers {
    is_async: bool,
    is_precise: bool,
    asks_for_ack: bool,
    buffer_bytes: usize,
    retry_wait_ms: u64,
    retries_max: u32,
}

fn plan_fluentd_numbers(log: &LogSpec) -> Result<FluentdNumbers> {
    let truth = |name: &str| option(log, name).map_or(Ok(false), |text| parse_truth(name, text));
    if option(log, "fluentd-async").is_some() && option(log, "fluentd-async-connect").is_some() {
        return Err(refuse(
            "conflicting options: cannot specify both 'fluentd-async' and 'fluentd-async-connect'",
        ));
    }
    let limit = match option(log, "fluentd-buffer-limit") {
        None => BUFFER_BYTES as u64,
        Some(text) => parse_size(text)?.unwrap_or(BUFFER_BYTES as u64),
    };
    Ok(FluentdNumbers {
        is_async: truth("fluentd-async")? || truth("fluentd-async-connect")?,
        is_precise: truth("fluentd-sub-second-precision")?,
        asks_for_ack: truth("fluentd-request-ack")?,
        buffer_bytes: usize::try_from(limit).unwrap_or(BUFFER_BYTES),
        retry_wait_ms: match option(log, "fluentd-retry-wait") {
            None => 1000,
            Some(text) => parse_duration_ms(text)
                .ok_or_else(|| refuse(format!("invalid fluentd-retry-wait: {text:?} is no duration")))?,
        },
        retries_max: match option(log, "fluentd-max-retries") {
            None => u32::MAX,
            Some(text) => text
                .parse()
                .map_err(|_| refuse(format!("invalid fluentd-max-retries: {text:?} is no number")))?,
        },
    })
}

/// In whole milliseconds; none of before.
fn parse_duration_ms(text: &str) -> Option<u64> {
    let nanoseconds = naru_base::parse_duration(text).ok()?;
    u64::try_from(nanoseconds)
        .ok()
        .map(|nanoseconds| nanoseconds / 1_000_000)
}

/// Everything about the receiver. `found`: what its host's name stands for.
pub fn plan_ship(record: &ContainerRecord, found: Option<SocketAddr>) -> Result<ShipPlan> {
    let log = &record.spec.log;
    let addresses = addresses(log, found)?;
    let first = || {
        addresses
            .first()
            .cloned()
            .ok_or_else(|| EngineError::system("the log's receiver was not looked up"))
    };
    let tag = expand(record, option(log, "tag").unwrap_or("{{.ID}}"))?;
    let mut mode = plan_mode(log)?;
    let driver = match log.driver.as_str() {
        "journald" => {
            if !Path::new(JOURNAL_SOCKET).exists() {
                return Err(EngineError::system(
                    "failed to initialize logging driver: journald is not enabled on this host",
                )
                .with_fault(crate::why::StartFault::LogDriver));
            }
            DriverPlan::Journald(JournaldPlan {
                socket: JOURNAL_SOCKET.into(),
                fields: journal_fields(record, &tag),
            })
        }
        "syslog" => DriverPlan::Syslog(SyslogPlan {
            addresses,
            facility: parse_facility(option(log, "syslog-facility"))?,
            format: parse_format(option(log, "syslog-format"))?,
            hostname: hostname(),
            tag,
            tls: plan_tls(log),
        }),
        "fluentd" => {
            let numbers = plan_fluentd_numbers(log)?;
            if numbers.is_async {
                mode = ShipMode::NonBlocking {
                    bytes_max: numbers.buffer_bytes,
                };
            }
            DriverPlan::Fluentd(FluentdPlan {
                address: first()?,
                tag,
                fields: fluentd_fields(record),
                is_async: numbers.is_async,
                retry_wait_ms: numbers.retry_wait_ms,
                retries_max: numbers.retries_max,
                is_precise: numbers.is_precise,
                asks_for_ack: numbers.asks_for_ack,
            })
        }
        _ => {
            let (compression, reconnects_max, reconnect_delay_ms) = plan_gelf_numbers(log)?;
            DriverPlan::Gelf(GelfPlan {
                address: first()?,
                compression,
                hostname: hostname(),
                fields: gelf_fields(record, &tag),
                reconnects_max,
                reconnect_delay_ms,
            })
        }
    };
    Ok(ShipPlan { driver, mode })
}

/// Of `syslog-address=tcp+tls://…`; without it the options for TLS count for nothing, as with Docker.
fn plan_tls(log: &LogSpec) -> Option<TlsPlan> {
    let address = option(log, "syslog-address")?;
    let (host, _) = split_host(address.strip_prefix("tcp+tls://")?, Some(SYSLOG_PORT)).ok()?;
    let path = |name: &str| option(log, name).map(PathBuf::from);
    Some(TlsPlan {
        server_name: host,
        authority: path("syslog-tls-ca-cert"),
        certificate: path("syslog-tls-cert"),
        key: path("syslog-tls-key"),
        // That it is there is enough, whatever it says.
        skips_verification: log.options.contains_key("syslog-tls-skip-verify"),
    })
}

fn addresses(log: &LogSpec, found: Option<SocketAddr>) -> Result<Vec<Address>> {
    Ok(match receiver(log)? {
        Receiver::Local(address) => vec![address],
        Receiver::LocalSyslog => SYSLOG_SOCKETS
            .iter()
            .flat_map(|path| {
                [
                    Address::UnixDatagram(path.into()),
                    Address::UnixStream(path.into()),
                ]
            })
            .collect(),
        Receiver::Udp { .. } => found.map(Address::Udp).into_iter().collect(),
        Receiver::Tcp { .. } => found.map(Address::Tcp).into_iter().collect(),
    })
}

fn plan_mode(log: &LogSpec) -> Result<ShipMode> {
    if option(log, "mode") != Some("non-blocking") {
        return Ok(ShipMode::Blocking);
    }
    let bytes = match option(log, "max-buffer-size") {
        None => None,
        Some(text) => parse_size(text)?,
    };
    let bytes_max = bytes.map_or(Ok(BUFFER_BYTES), usize::try_from);
    Ok(ShipMode::NonBlocking {
        bytes_max: bytes_max.unwrap_or(usize::MAX),
    })
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn journal_fields(record: &ContainerRecord, tag: &str) -> Vec<(String, String)> {
    let mut fields = vec![
        ("CONTAINER_ID".to_owned(), record.id.short().to_owned()),
        ("CONTAINER_ID_FULL".to_owned(), record.id.to_string()),
        ("CONTAINER_NAME".to_owned(), record.name.clone()),
        ("CONTAINER_TAG".to_owned(), tag.to_owned()),
        ("IMAGE_NAME".to_owned(), record.spec.image.clone()),
        ("SYSLOG_IDENTIFIER".to_owned(), tag.to_owned()),
    ];
    let own = own_attributes(record)
        .into_iter()
        .map(|(name, value)| (journal_name(&name), value))
        .filter(|(name, _)| !name.is_empty());
    fields.extend(own);
    fields
}

/// journald takes capital letters, digits and underscores, and no underscore first.
fn journal_name(name: &str) -> String {
    let allowed = |character: char| {
        let upper = character.to_ascii_uppercase();
        if upper.is_ascii_uppercase() || upper.is_ascii_digit() {
            upper
        } else {
            '_'
        }
    };
    let name: String = name.chars().map(allowed).collect();
    name.trim_start_matches('_').to_owned()
}

fn fluentd_fields(record: &ContainerRecord) -> Vec<(String, String)> {
    let mut fields = vec![
        ("container_id".to_owned(), record.id.to_string()),
        ("container_name".to_owned(), format!("/{}", record.name)),
    ];
    fields.extend(own_attributes(record));
    fields
}

fn gelf_fields(record: &ContainerRecord, tag: &str) -> Vec<(String, String)> {
    let resolved = &record.resolved;
    let command: Vec<&str> = resolved
        .entrypoint
        .iter()
        .chain(&resolved.command)
        .map(String::as_str)
        .collect();
    let mut fields = vec![
        ("_container_id".to_owned(), record.id.to_string()),
        ("_container_name".to_owned(), record.name.clone()),
        ("_image_id".to_owned(), resolved.image_id.to_string()),
        ("_image_name".to_owned(), record.spec.image.clone()),
        ("_command".to_owned(), command.join(" ")),
        ("_tag".to_owned(), tag.to_owned()),
        ("_created".to_owned(), record.created_at.to_string()),
    ];
    let own = own_attributes(record).into_iter().map(|(name, value)| {
        let name = if name.starts_with('_') {
            name
        } else {
            format!("_{name}")
        };
        (name, value)
    });
    fields.extend(own);
    fields
}

/// Labels and variables that the options name.
fn own_attributes(record: &ContainerRecord) -> Vec<(String, String)> {
    let mut attributes = log_attributes(record);
    // The tag has a place of its own in each of these forms.
    if record.spec.log.options.contains_key("tag") {
        attributes.retain(|(name, _)| name != "tag");
    }
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(driver: &str, options: &[(&str, &str)]) -> LogSpec {
        LogSpec {
            driver: driver.to_owned(),
            options: options
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn addresses_are_read_as_docker_reads_them() {
        let tcp = |host: &str, port| Receiver::Tcp {
            host: host.to_owned(),
            port,
        };
        assert_eq!(
            receiver(&log("syslog", &[("syslog-address", "tcp://h")])).unwrap(),
            tcp("h", 514)
        );
        assert_eq!(receiver(&log("syslog", &[])).unwrap(), Receiver::LocalSyslog);
        assert_eq!(
            receiver(&log("fluentd", &[("fluentd-address", "[::1]:5")])).unwrap(),
            tcp("::1", 5)
        );
        assert_eq!(receiver(&log("fluentd", &[])).unwrap(), tcp("localhost", 24224));
        assert_eq!(
            receiver(&log("gelf", &[("gelf-address", "tcp://h:1")])).unwrap(),
            tcp("h", 1)
        );
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused() {
        for (driver, options, words) in [
            ("gelf", &[][..], "required parameter"),
            (
                "gelf",
                &[("gelf-address", "udp://h")],
                "please provide gelf-address as proto://host:port",
            ),
            (
                "gelf",
                &[("gelf-address", "http://h:1")],
                "endpoint needs to be TCP or UDP",
            ),
            (
                "gelf",
                &[("gelf-address", "tcp://h:1"), ("gelf-compression-type", "gzip")],
                "only supported on UDP",
            ),
            (
                "gelf",
                &[("gelf-address", "udp://h:1"), ("gelf-compression-level", "10")],
                "unknown value",
            ),
            (
                "gelf",
                &[("gelf-address", "udp://h:1"), ("gelf-tcp-max-reconnect", "1")],
                "only valid for TCP",
            ),
            (
                "syslog",
                &[("syslog-address", "http://h")],
                "unsupported scheme: 'http'",
            ),
            ("syslog", &[("syslog-facility", "x")], "invalid syslog facility"),
            ("syslog", &[("syslog-format", "x")], "Invalid syslog format"),
            ("syslog", &[("syslog-address", "unix:///nothing")], "no such file"),
            ("fluentd", &[("fluentd-address", "tcp://h/x")], "without a path"),
            (
                "fluentd",
                &[("fluentd-retry-wait", "soon")],
                "invalid fluentd-retry-wait",
            ),
            (
                "fluentd",
                &[("fluentd-async", "true"), ("fluentd-async-connect", "true")],
                "conflicting options",
            ),
        ] {
            let error = check(&log(driver, options)).unwrap_err();
            assert!(
                error.message.contains(words),
                "{driver} {options:?}: {}",
                error.message
            );
        }
    }

    #[test]
    fn names_become_journald_s() {
        assert_eq!(journal_name("__com.example/Name-1"), "COM_EXAMPLE_NAME_1");
    }
}
