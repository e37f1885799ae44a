//! Which daemon a command talks to, and starting one where nobody listens.

use crate::args::Arguments;
use crate::contexts::{self, Context, Store};
use crate::error::{CliError, Result};
use crate::http::{Address, Client, Starter, TlsSettings};
use crate::manifests::ManifestStore;
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
    if globals.list("host").count() > 1 {
        return Err(CliError::message("specify only one -H"));
    }
    if globals.is_given("host") && globals.is_given("context") {
        return Err(CliError::message(
            "conflicting options: cannot specify both --host and --context",
        ));
    }
    let config = read_global(globals);
    let context = chosen_context(globals, &config)?;
    let named = match &context {
        Some(context) => Some(context.host.clone()).filter(|host| !host.is_empty()),
        None => named_host(globals),
    };
    let address = match &named {
        Some(host) => Address::parse_with(host, tls_settings(globals, &config, context)?)?,
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

/// The context that decides; `None` where flags and environment do.
fn chosen_context(globals: &Arguments, config: &Global) -> Result<Option<Context>> {
    if globals.text("host").is_some() || config.context_name == contexts::DEFAULT {
        return Ok(None);
    }
    config.contexts().read(&config.context_name).map(Some)
}

/// The host that flags or environment name; `None` for the daemon of this machine.
fn named_host(globals: &Arguments) -> Option<String> {
    let from_environment = || variable("NARU_HOST").or_else(|| variable("DOCKER_HOST"));
    globals
        .text("host")
        .map(ToOwned::to_owned)
        .or_else(from_environment)
}

/// A context's own, or what `--tls…` and Docker's variables say. A file that nobody named may be missing.
fn tls_settings(
    globals: &Arguments,
    config: &Global,
    context: Option<Context>,
) -> Result<Option<TlsSettings>> {
    if let Some(context) = context {
        return Ok(tls_of_context(context));
    }
    let is_asked = |flag: &str, name: &str| globals.bool(flag).unwrap_or_else(|| variable(name).is_some());
    let is_verified = is_asked("tlsverify", "DOCKER_TLS_VERIFY");
    // Docker's client takes even `--tlsverify=false` for a wish to use TLS.
    if !is_verified && !is_asked("tls", "DOCKER_TLS") && !globals.is_given("tlsverify") {
        return Ok(None);
    }
    let folder =
        variable("DOCKER_CERT_PATH").map_or_else(|| config_folder(config.config_dir.as_ref()), PathBuf::from);
    let read = |flag: &str, file: &str, is_needed: bool| {
        let path = globals
            .text(flag)
            .map_or_else(|| folder.join(file), PathBuf::from);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some((path.display().to_string(), bytes))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_needed => Ok(None),
            Err(error) => Err(CliError::message(format!(
                "cannot read {}, which --{flag} names: {error}",
                path.display()
            ))),
        }
    };
    let ca = if is_verified {
        read("tlscacert", "ca.pem", true)?
    } else {
        None
    };
    let certificate = read("tlscert", "cert.pem", globals.is_given("tlscert"))?;
    let key = read("tlskey", "key.pem", globals.is_given("tlskey"))?;
    Ok(Some(TlsSettings {
        ca,
        identity: certificate.zip(key),
        is_verified,
    }))
}

fn tls_of_context(context: Context) -> Option<TlsSettings> {
    if context.tls.is_empty() && !context.skip_tls_verify {
        return None;
    }
    let mut files = context.tls;
    let mut take = |name: &str| {
        let at = files.iter().position(|(file, _)| file == name)?;
        let (_, bytes) = files.swap_remove(at);
        Some((format!("{name} of context {:?}", context.name), bytes))
    };
    Some(TlsSettings {
        ca: take("ca.pem"),
        identity: take("cert.pem").zip(take("key.pem")),
        is_verified: !context.skip_tls_verify,
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
