//! Which daemon a command talks to, and starting one where nobody listens.

use crate::args::Arguments;
use crate::contexts::{self, Store};
use crate::error::{CliError, Result};
use crate::http::{Address, Client, Starter};
use crate::manifests::ManifestStore;
use crate::{Hooks, Session};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const TLS_UNSUPPORTED: &str = "TLS is not supported yet: use a unix socket, or ssh://";
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
    /// The context that decides, or would if nothing were named beside it.
    pub context_name: String,
    /// What the context `default` stands for.
    pub default_host: String,
}

impl Global {
    /// Where the client's configuration file is, or would be.
    pub fn config_path(&self) -> PathBuf {
        config_folder(self.config_dir.as_ref()).join("config.json")
    }

    /// The client's configuration file, empty when there is none.
    pub fn read_config(&self) -> crate::json::Value {
        let text = std::fs::read(self.config_path()).ok();
        text.and_then(|text| crate::json::Value::parse(&text).ok())
            .unwrap_or_default()
    }

    pub fn contexts(&self) -> Store {
        Store::new(config_folder(self.config_dir.as_ref()))
    }

    pub fn manifests(&self) -> ManifestStore {
        ManifestStore::new(&config_folder(self.config_dir.as_ref()))
    }
}

fn config_folder(named: Option<&PathBuf>) -> PathBuf {
    named
        .cloned()
        .or_else(|| std::env::var_os("DOCKER_CONFIG").map(PathBuf::from))
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker")))
        .unwrap_or_else(|| PathBuf::from(".docker"))
}

/// Decides the address without connecting: `-H`, `--context`, `NARU_HOST`, `DOCKER_HOST`, `DOCKER_CONTEXT`, the context
/// that `context use` chose, and without any of these the daemon of this machine.
/// Without hooks none is started.
pub fn open_session(program: &str, globals: &Arguments, hooks: Option<Hooks>) -> Result<Session> {
    if globals.is_set("tls") || globals.is_set("tlsverify") {
        return Err(CliError::message(TLS_UNSUPPORTED));
    }
    if globals.list("host").count() > 1 {
        return Err(CliError::message("specify only one -H"));
    }
    if globals.is_given("host") && globals.is_given("context") {
        return Err(CliError::message(
            "conflicting options: cannot specify both --host and --context",
        ));
    }
    let config = read_global(globals);
    let named = named_host(globals, &config)?;
    let address = match &named {
        Some(host) => Address::parse(host)?,
        None => default_address(),
    };
    let exec_root = address
        .unix_path()
        .and_then(Path::parent)
        .unwrap_or(Path::new(DEFAULT_EXEC_ROOT))
        .to_path_buf();
    let hooks = hooks.filter(|_| named.is_none());
    let starter = hooks.map(|hooks| starter(address.clone(), exec_root.clone(), hooks));
    let api_version = variable("DOCKER_API_VERSION");
    Ok(Session {
        program: program.to_owned(),
        client: Client::new(address, api_version.as_deref(), starter),
        config: Global { exec_root, ..config },
    })
}

/// For commands that speak to no daemon.
pub fn open_offline(program: &str, globals: &Arguments) -> Session {
    Session {
        program: program.to_owned(),
        client: Client::new(default_address(), None, None),
        config: read_global(globals),
    }
}

fn default_address() -> Address {
    Address::Unix(Path::new(DEFAULT_EXEC_ROOT).join("naru.sock"))
}

fn read_global(globals: &Arguments) -> Global {
    let config_dir = globals.text("config").map(PathBuf::from);
    let host = || variable("NARU_HOST").or_else(|| variable("DOCKER_HOST"));
    let chosen = || Store::new(config_folder(config_dir.as_ref())).current();
    let context_name = match globals.text("context").filter(|name| !name.is_empty()) {
        Some(name) => name.to_owned(),
        None if globals.is_given("host") || host().is_some() => contexts::DEFAULT.to_owned(),
        None => variable("DOCKER_CONTEXT")
            .or_else(chosen)
            .unwrap_or_else(|| contexts::DEFAULT.to_owned()),
    };
    Global {
        exec_root: PathBuf::from(DEFAULT_EXEC_ROOT),
        config_dir,
        context_name,
        default_host: host().unwrap_or_else(|| default_address().to_string()),
    }
}

/// The host that flags, environment or context name; `None` for the daemon of this machine.
fn named_host(globals: &Arguments, config: &Global) -> Result<Option<String>> {
    if let Some(host) = globals.text("host") {
        return Ok(Some(host.to_owned()));
    }
    if config.context_name == contexts::DEFAULT {
        return Ok(variable("NARU_HOST").or_else(|| variable("DOCKER_HOST")));
    }
    let context = config.contexts().read(&config.context_name)?;
    if !context.tls.is_empty() {
        return Err(CliError::message(format!(
            "context {:?}: {TLS_UNSUPPORTED}",
            context.name
        )));
    }
    Ok(Some(context.host).filter(|host| !host.is_empty()))
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
