//! Which daemon a command talks to, and starting one where nobody listens.

use crate::args::Arguments;
use crate::error::{CliError, Result};
use crate::http::{Address, Client, Starter};
use crate::{Hooks, Session};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const DEFAULT_EXEC_ROOT: &str = "/run/naru";
/// A daemon is ready in well under a second; a host under load may take several.
const START_SECONDS_MAX: u64 = 5;
/// Enough of a log to see why a daemon ended.
const LOG_LINES_SHOWN: usize = 10;

/// Global settings of an invocation.
#[derive(Debug, Clone)]
pub struct Global {
    /// The exec-root of the daemon on the default socket, or the folder of the socket that was named.
    pub exec_root: PathBuf,
    pub config_dir: Option<PathBuf>,
}

impl Global {
    /// The client's configuration file, empty when there is none.
    pub fn read_config(&self) -> crate::json::Value {
        let directory = self
            .config_dir
            .clone()
            .or_else(|| std::env::var_os("DOCKER_CONFIG").map(PathBuf::from))
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker")));
        let text = directory.and_then(|directory| std::fs::read(directory.join("config.json")).ok());
        text.and_then(|text| crate::json::Value::parse(&text).ok())
            .unwrap_or_default()
    }
}

/// Decides the address (`-H`, `NARU_HOST`, `DOCKER_HOST`, the default) without connecting.
pub fn open_session(program: &str, globals: &Arguments, hooks: Hooks) -> Result<Session> {
    if globals.is_set("tls") || globals.is_set("tlsverify") {
        return Err(CliError::message(
            "TLS is not supported yet: use a unix socket or an SSH tunnel",
        ));
    }
    let context = globals
        .text("context")
        .map(str::to_owned)
        .or_else(|| variable("DOCKER_CONTEXT"));
    if let Some(context) = context.filter(|name| name != "default") {
        return Err(CliError::message(format!(
            "context {context:?} is not supported yet: use --host"
        )));
    }
    if globals.list("host").count() > 1 {
        return Err(CliError::message("specify only one -H"));
    }
    let named = globals
        .text("host")
        .map(str::to_owned)
        .or_else(|| variable("NARU_HOST"))
        .or_else(|| variable("DOCKER_HOST"));
    let is_default = named.is_none();
    let address = match named {
        Some(host) => Address::parse(&host)?,
        None => Address::Unix(Path::new(DEFAULT_EXEC_ROOT).join("naru.sock")),
    };
    let exec_root = address
        .unix_path()
        .and_then(Path::parent)
        .unwrap_or(Path::new(DEFAULT_EXEC_ROOT))
        .to_path_buf();
    let starter = is_default.then(|| starter(address.clone(), exec_root.clone(), hooks));
    let api_version = variable("DOCKER_API_VERSION");
    let client = Client::new(address, api_version.as_deref(), starter);
    let config_dir = globals.text("config").map(PathBuf::from);
    Ok(Session {
        program: program.to_owned(),
        client,
        config: Global {
            exec_root,
            config_dir,
        },
    })
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn starter(address: Address, exec_root: PathBuf, hooks: Hooks) -> Starter {
    Box::new(move || {
        (hooks.start_daemon)(&exec_root).map_err(|error| {
            CliError::message(format!(
                "no daemon listens at {address} and starting one failed: {error}"
            ))
        })?;
        wait_until_answering(&address, &exec_root)
    })
}

fn wait_until_answering(address: &Address, exec_root: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(START_SECONDS_MAX);
    let mut pause = Duration::from_millis(1);
    loop {
        match address.connect() {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= deadline => {
                let log = exec_root.join("naru.log");
                let tail =
                    log_tail(&log).map(|tail| format!("\nits log ({}) ends with:\n{tail}", log.display()));
                return Err(CliError::message(format!(
                    "the daemon that was started does not answer at {address} after {START_SECONDS_MAX} s: {error}{}",
                    tail.unwrap_or_default()
                )));
            }
            Err(_) => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn log_tail(path: &Path) -> Option<String> {
    let text = std::fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    Some(lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n"))
}
