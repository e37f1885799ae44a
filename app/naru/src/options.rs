//! The daemon's options: the command line over the configuration file, with dockerd's names.

use crate::container_options::{self, ContainerArguments, ContainerConfig};
use crate::foreign_options;
use crate::listen_options::{self, ListenArguments, ListenConfig, Listening};
use crate::network_options::{self, NetworkArguments, NetworkConfig};
use clap::Parser;
use naru_engine::registry::{Proxies, RegistryOptions};
use naru_engine::{ContainerDefaults, NetworkDefaults};
use serde::Deserialize;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub const DATA_ROOT: &str = "/var/lib/naru";
pub const EXEC_ROOT: &str = "/run/naru";

/// Runs the engine in the foreground.
#[derive(Debug, Parser)]
#[command(name = "naru daemon", disable_version_flag = true)]
struct Arguments {
    /// Where images, containers and volumes are kept [default: /var/lib/naru]
    #[arg(long)]
    data_root: Option<PathBuf>,
    /// Where sockets of running things are kept [default: /run/naru]
    #[arg(long)]
    exec_root: Option<PathBuf>,
    #[command(flatten)]
    listen: ListenArguments,
    /// Where to write the daemon's process id [default: <exec-root>/naru.pid]
    #[arg(long, short = 'p')]
    pidfile: Option<PathBuf>,
    /// The bridge's own address with its prefix length, 172.17.0.1/16
    #[arg(long)]
    bip: Option<String>,
    #[command(flatten)]
    network: NetworkArguments,
    #[command(flatten)]
    containers: ContainerArguments,
    /// Only check the options and the configuration file
    #[arg(long)]
    validate: bool,
    /// A JSON file with these options under the same names
    #[arg(long)]
    config_file: Option<PathBuf>,
    /// A registry spoken to without TLS or a trusted certificate: HOST[:PORT] or CIDR
    #[arg(long = "insecure-registry")]
    insecure_registries: Vec<String>,
    /// A registry asked before docker.io, by its URL
    #[arg(long = "registry-mirror")]
    registry_mirrors: Vec<String>,
    /// Seconds a registry may be silent [default: 30]
    #[arg(long)]
    registry_timeout: Option<u64>,
    /// Layers of one image downloaded at once [default: 3]
    #[arg(long)]
    max_concurrent_downloads: Option<usize>,
    /// Layers of one image uploaded at once [default: 5]
    #[arg(long)]
    max_concurrent_uploads: Option<usize>,
    /// Tries of one download before it fails [default: 5]
    #[arg(long)]
    max_download_attempts: Option<u32>,
    /// The proxy for http:// registries and URLs, http://[USER:PASSWORD@]HOST:PORT [default: $HTTP_PROXY]
    #[arg(long)]
    http_proxy: Option<String>,
    /// The proxy for https:// registries and URLs [default: $HTTPS_PROXY]
    #[arg(long)]
    https_proxy: Option<String>,
    /// Hosts reached without a proxy, separated by commas [default: $NO_PROXY]
    #[arg(long)]
    no_proxy: Option<String>,
    /// Leave containers running when the daemon ends by SIGTERM [default: true]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    live_restore: Option<bool>,
    /// Give containers ids of their own on the host, those set aside for a user in /etc/subuid and /etc/subgid:
    /// default, USER, UID, USER:GROUP or UID:GID
    #[arg(long)]
    userns_remap: Option<String>,
    /// debug, info, warn, error
    #[arg(short = 'l', long)]
    log_level: Option<String>,
    /// How the daemon's own log is written: text, or json, an object a line [default: text]
    #[arg(long)]
    log_format: Option<String>,
    /// Where to serve the engine's metrics for Prometheus, over plain HTTP: an address of the loopback, 127.0.0.1:9323
    #[arg(long)]
    metrics_addr: Option<String>,
    /// The same as --log-level debug
    #[arg(short = 'D', long)]
    debug: bool,
}

/// The configuration file; dockerd's keys. One that Naru does not know is refused by name.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct ConfigFile {
    data_root: Option<PathBuf>,
    exec_root: Option<PathBuf>,
    pidfile: Option<PathBuf>,
    bip: Option<String>,
    insecure_registries: Vec<String>,
    registry_mirrors: Vec<String>,
    registry_timeout: Option<u64>,
    max_concurrent_downloads: Option<usize>,
    max_concurrent_uploads: Option<usize>,
    max_download_attempts: Option<u32>,
    proxies: ProxyConfig,
    live_restore: Option<bool>,
    userns_remap: Option<String>,
    log_level: Option<String>,
    log_format: Option<String>,
    metrics_addr: Option<String>,
    debug: Option<bool>,
}

/// `proxies` in the configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ProxyConfig {
    #[serde(rename = "http-proxy")]
    http: Option<String>,
    #[serde(rename = "https-proxy")]
    https: Option<String>,
    #[serde(rename = "no-proxy")]
    exceptions: Option<String>,
}

/// What the daemon runs with: complete and checked.
#[derive(Debug)]
pub struct DaemonOptions {
    pub data_root: PathBuf,
    pub exec_root: PathBuf,
    pub listening: Listening,
    pub pidfile: PathBuf,
    pub bridge_address: Option<(Ipv4Addr, u8)>,
    pub network: NetworkDefaults,
    pub containers: ContainerDefaults,
    pub shutdown_timeout_seconds: Option<i64>,
    /// Nothing is to be run.
    pub is_validation: bool,
    pub live_restore: bool,
    pub registry: RegistryOptions,
    pub userns_remap: Option<String>,
    pub log_level: String,
    pub log_format: LogFormat,
    pub metrics_address: Option<SocketAddr>,
}

/// How the daemon's own log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Reads command line and configuration file. `Err` holds the text to show and the exit code.
pub fn parse(args: &[std::ffi::OsString]) -> Result<DaemonOptions, (String, u8)> {
    let failed = |message| (format!("naru daemon: {message}\n"), 1);
    let args = foreign_options::take_arguments(args).map_err(failed)?;
    let arguments = Arguments::try_parse_from(args).map_err(|error| {
        (
            error.render().to_string(),
            u8::try_from(error.exit_code()).unwrap_or(1),
        )
    })?;
    resolve(arguments).map_err(failed)
}

fn resolve(mut arguments: Arguments) -> Result<DaemonOptions, String> {
    let Config {
        file,
        network,
        containers,
        listen,
    } = match &arguments.config_file {
        Some(path) => read_config(path)?,
        None => Config::default(),
    };
    let (containers, shutdown_timeout_seconds) =
        container_options::resolve(std::mem::take(&mut arguments.containers), containers)?;
    let registry = registry_options(&arguments, &file)?;
    let network = network_options::resolve(arguments.network, network)?;
    let exec_root = absolute(
        arguments
            .exec_root
            .or(file.exec_root)
            .unwrap_or_else(|| EXEC_ROOT.into()),
    )?;
    let listening = listen_options::resolve(arguments.listen, listen, &exec_root)?;
    let is_debug = arguments.debug || file.debug.unwrap_or(false);
    let log_level = arguments
        .log_level
        .or(file.log_level)
        .unwrap_or_else(|| "info".to_owned());
    if !["trace", "debug", "info", "warn", "error"].contains(&log_level.as_str()) {
        return Err(format!(
            "unable to parse logging level: {log_level}; use debug, info, warn or error"
        ));
    }
    Ok(DaemonOptions {
        data_root: absolute(
            arguments
                .data_root
                .or(file.data_root)
                .unwrap_or_else(|| DATA_ROOT.into()),
        )?,
        listening,
        pidfile: arguments
            .pidfile
            .or(file.pidfile)
            .unwrap_or_else(|| exec_root.join("naru.pid")),
        bridge_address: arguments
            .bip
            .or(file.bip)
            .map(|text| parse_bip(&text))
            .transpose()?,
        network,
        containers,
        shutdown_timeout_seconds,
        is_validation: arguments.validate,
        live_restore: arguments.live_restore.or(file.live_restore).unwrap_or(true),
        registry,
        userns_remap: arguments
            .userns_remap
            .or(file.userns_remap)
            .filter(|text| !text.is_empty()),
        log_level: if is_debug { "debug".to_owned() } else { log_level },
        log_format: parse_log_format(arguments.log_format.or(file.log_format).as_deref())?,
        metrics_address: arguments
            .metrics_addr
            .or(file.metrics_addr)
            .filter(|text| !text.is_empty())
            .map(|text| parse_metrics_address(&text))
            .transpose()?,
        exec_root,
    })
}

fn registry_options(arguments: &Arguments, file: &ConfigFile) -> Result<RegistryOptions, String> {
    let both = |first: &[String], second: &[String]| [first, second].concat();
    let mirrors = both(&arguments.registry_mirrors, &file.registry_mirrors);
    if let Some(mirror) = mirrors
        .iter()
        .find(|mirror| !mirror.starts_with("http://") && !mirror.starts_with("https://"))
    {
        return Err(format!(
            "invalid mirror {mirror:?}: it must begin with http:// or https://"
        ));
    }
    let insecure = both(&arguments.insecure_registries, &file.insecure_registries);
    if let Some(wrong) = insecure
        .iter()
        .find(|name| name.is_empty() || name.contains("://"))
    {
        return Err(format!(
            "invalid insecure registry {wrong:?}: it is HOST, HOST:PORT or a CIDR"
        ));
    }
    let defaults = RegistryOptions::default();
    let chosen = RegistryOptions {
        mirrors,
        insecure,
        timeout: arguments
            .registry_timeout
            .or(file.registry_timeout)
            .map_or(defaults.timeout, Duration::from_secs),
        concurrent_downloads: arguments
            .max_concurrent_downloads
            .or(file.max_concurrent_downloads)
            .unwrap_or(defaults.concurrent_downloads),
        concurrent_uploads: arguments
            .max_concurrent_uploads
            .or(file.max_concurrent_uploads)
            .unwrap_or(defaults.concurrent_uploads),
        attempts: arguments
            .max_download_attempts
            .or(file.max_download_attempts)
            .unwrap_or(defaults.attempts),
        certificate_folders: defaults.certificate_folders,
        proxies: proxies(arguments, &file.proxies)?,
    };
    let is_zero = chosen.timeout.is_zero()
        || chosen.attempts == 0
        || chosen.concurrent_downloads.min(chosen.concurrent_uploads) == 0;
    if is_zero {
        return Err(
            "--registry-timeout, --max-concurrent-downloads, --max-concurrent-uploads and --max-download-attempts \
             must be 1 or more"
                .to_owned(),
        );
    }
    Ok(chosen)
}

/// The command line over the file over the environment, as dockerd has it.
fn proxies(arguments: &Arguments, file: &ProxyConfig) -> Result<Proxies, String> {
    let choose = |argument: &Option<String>, file: &Option<String>, variable: &str| {
        let from_environment = || {
            std::env::var(variable)
                .or_else(|_| std::env::var(variable.to_lowercase()))
                .unwrap_or_default()
        };
        argument
            .clone()
            .or_else(|| file.clone())
            .unwrap_or_else(from_environment)
    };
    let proxies = Proxies {
        http: choose(&arguments.http_proxy, &file.http, "HTTP_PROXY"),
        https: choose(&arguments.https_proxy, &file.https, "HTTPS_PROXY"),
        exceptions: choose(&arguments.no_proxy, &file.exceptions, "NO_PROXY"),
    };
    proxies.check().map_err(|error| error.to_string())?;
    Ok(proxies)
}

fn absolute(path: PathBuf) -> Result<PathBuf, String> {
    std::path::absolute(&path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The whole file, by whose its keys are.
#[derive(Default)]
struct Config {
    file: ConfigFile,
    network: NetworkConfig,
    containers: ContainerConfig,
    listen: ListenConfig,
}

/// Takes keys out of the configuration file, for one group of options; the other keys are somebody else's.
pub fn take_keys<T: serde::de::DeserializeOwned>(
    all: &mut serde_json::Map<String, serde_json::Value>,
    own: &[&str],
) -> serde_json::Result<T> {
    let taken = own
        .iter()
        .filter_map(|key| Some(((*key).to_owned(), all.remove(*key)?)));
    let taken: serde_json::Map<String, serde_json::Value> = taken.collect();
    serde_json::from_value(taken.into())
}

fn read_config(path: &Path) -> Result<Config, String> {
    let failed = |reason: String| {
        format!(
            "unable to configure the daemon with file {}: {reason}",
            path.display()
        )
    };
    let text = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let mut all: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
    foreign_options::take_keys(&mut all).map_err(failed)?;
    let network = network_options::take(&mut all).map_err(|error| failed(error.to_string()))?;
    let containers = container_options::take(&mut all).map_err(|error| failed(error.to_string()))?;
    let listen = listen_options::take(&mut all).map_err(|error| failed(error.to_string()))?;
    let file = serde_json::from_value(all.into()).map_err(|error| failed(error.to_string()))?;
    Ok(Config {
        file,
        network,
        containers,
        listen,
    })
}

fn parse_log_format(text: Option<&str>) -> Result<LogFormat, String> {
    match text {
        None | Some("" | "text") => Ok(LogFormat::Text),
        Some("json") => Ok(LogFormat::Json),
        Some(other) => Err(format!("invalid log format: {other}; use text or json")),
    }
}

/// The loopback's alone: names of containers and images are nobody else's, and there is no TLS.
fn parse_metrics_address(text: &str) -> Result<SocketAddr, String> {
    let address = text
        .strip_prefix("localhost:")
        .map(|port| format!("127.0.0.1:{port}"));
    let address: SocketAddr = address.as_deref().unwrap_or(text).parse().map_err(|_| {
        format!("invalid --metrics-addr {text:?}: expected ADDRESS:PORT such as 127.0.0.1:9323")
    })?;
    if !address.ip().is_loopback() {
        return Err(format!(
            "--metrics-addr {text} is refused: metrics would be open to everyone who reaches the port; use 127.0.0.1 or [::1]"
        ));
    }
    Ok(address)
}

fn parse_bip(text: &str) -> Result<(Ipv4Addr, u8), String> {
    let wrong =
        || format!("invalid --bip {text:?}: expected an address and prefix length such as 172.17.0.1/16");
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
    let prefix: u8 = prefix
        .parse()
        .ok()
        .filter(|prefix| (8..=30).contains(prefix))
        .ok_or_else(wrong)?;
    Ok((address, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<DaemonOptions, (String, u8)> {
        let args: Vec<_> = std::iter::once("daemon")
            .chain(words.iter().copied())
            .map(Into::into)
            .collect();
        parse(&args)
    }

    #[test]
    fn defaults_follow_the_exec_root() {
        let options = parse_words(&["--exec-root", "/run/other"]).unwrap();
        assert_eq!(options.listening.sockets, [PathBuf::from("/run/other/naru.sock")]);
        assert_eq!(options.pidfile, PathBuf::from("/run/other/naru.pid"));
        assert!(options.live_restore);
        assert!(!parse_words(&["--live-restore=false"]).unwrap().live_restore);
    }

    #[test]
    fn impossible_values_are_named() {
        for words in [
            ["--bip", "172.17.0.1"],
            ["--bip", "x/16"],
            ["-H", "unix://relative"],
            ["-l", "loud"],
            ["--http-proxy", "socks5://x"],
            ["--log-format", "xml"],
            ["--metrics-addr", "0.0.0.0:9323"],
            ["--metrics-addr", "9323"],
        ] {
            let (message, _) = parse_words(&words).unwrap_err();
            assert!(
                message.contains(
                    words[1]
                        .trim_start_matches("unix://")
                        .trim_start_matches("socks5://x")
                ),
                "{message}"
            );
        }
    }
}
