//! The daemon's role: roots locked, socket bound, engine opened, API served until a signal.

use crate::listen_options::TcpListening;
use crate::options::{self, DaemonOptions, LogFormat};
use naru_engine::{Engine, EngineOptions, Remap};
use naru_sys::file;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};

/// Runs `naru daemon` until SIGTERM or SIGINT.
pub fn main(args: &[std::ffi::OsString]) -> ExitCode {
    let options = match options::parse(args) {
        Ok(options) => options,
        Err((text, code)) => {
            // Help was asked for, anything else was not.
            let _ = if code == 0 {
                io::stdout().write_all(text.as_bytes())
            } else {
                io::stderr().write_all(text.as_bytes())
            };
            return ExitCode::from(code);
        }
    };
    if options.is_validation {
        let _ = io::stdout().write_all(b"configuration OK\n");
        return ExitCode::SUCCESS;
    }
    raise_open_files();
    let log = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(&options.log_level))
        .with_writer(io::stderr)
        .with_ansi(false);
    match options.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build();
    match runtime
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(run(&options)))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            tracing::error!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// Requests are short; more threads would only wake each other.
const WORKER_THREADS: usize = 2;

async fn run(options: &DaemonOptions) -> Result<(), String> {
    let named = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| format!("{what}: {error}")
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(named("cannot watch signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(named("cannot watch signals"))?;
    file::make_directories(&options.data_root, 0o711).map_err(|error| error.to_string())?;
    file::make_directories(&options.exec_root, 0o711).map_err(|error| error.to_string())?;
    // Held for the daemon's life and by nobody else, so that a killed daemon can be replaced at once.
    let _data_lock = lock_root(&options.data_root)?;
    let _exec_lock = lock_root(&options.exec_root)?;
    let engine = Engine::open(EngineOptions {
        data_root: options.data_root.clone(),
        exec_root: options.exec_root.clone(),
        bridge_address: options.bridge_address,
        network: options.network.clone(),
        containers: options.containers.clone(),
        shutdown_timeout_seconds: options.shutdown_timeout_seconds,
        live_restore: options.live_restore,
        registry: options.registry.clone(),
        remap: find_remap(options.userns_remap.as_deref())?,
    })
    .await
    .map_err(|error| error.to_string())?;
    let api = naru_docker_api::Api {
        engine: std::sync::Arc::clone(&engine),
        builders: std::sync::Arc::default(),
        agents: std::sync::Arc::default(),
    };
    // Whoever is answered finds it.
    let pidfile = Pidfile::write(&options.pidfile)?;
    let mut servers = Vec::new();
    let (stop, _) = tokio::sync::watch::channel(false);
    let sockets = &options.listening.sockets;
    for path in sockets {
        let listener = listen(path).map_err(named(&format!("cannot listen on {}", path.display())))?;
        let server = naru_docker_api::serve(api.clone(), listener, stopped(&stop));
        servers.push(tokio::spawn(server));
    }
    for (address, tls) in options.listening.tcp.iter().flat_map(TcpListening::each) {
        let listener = TcpListener::bind(address)
            .await
            .map_err(named(&format!("cannot listen on tcp://{address}")))?;
        let server = naru_docker_api::serve_tls(api.clone(), listener, tls.clone(), stopped(&stop));
        servers.push(tokio::spawn(server));
    }
    if let Some(address) = options.metrics_address {
        let listener = TcpListener::bind(address)
            .await
            .map_err(named(&format!("cannot serve metrics on {address}")))?;
        let engine = std::sync::Arc::clone(&engine);
        servers.push(tokio::spawn(naru_docker_api::serve_metrics(engine, listener)));
    }
    let tcp = options.listening.tcp.iter().flat_map(TcpListening::each);
    let tcp: Vec<&str> = tcp.map(|(address, _)| address).collect();
    tracing::info!(?sockets, ?tcp, "ready");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("ending");
    let _ = stop.send(true);
    engine.shutdown().await;
    for path in sockets {
        let _ = std::fs::remove_file(path);
    }
    drop(pidfile);
    for server in servers {
        server.abort();
    }
    Ok(())
}

/// The file with the daemon's process id, there for as long as this is.
struct Pidfile<'a>(&'a Path);

impl<'a> Pidfile<'a> {
    fn write(path: &'a Path) -> Result<Self, String> {
        let text = format!("{}\n", std::process::id());
        file::replace(path, text.as_bytes()).map_err(|error| error.to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Pidfile<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}

/// Resolves when the daemon is to end.
fn stopped(stop: &tokio::sync::watch::Sender<bool>) -> impl Future<Output = ()> + Send + use<> {
    let mut stopped = stop.subscribe();
    async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    }
}

/// Whom containers are remapped to; root means nobody, as with dockerd.
fn find_remap(text: Option<&str>) -> Result<Option<Remap>, String> {
    let Some(text) = text else { return Ok(None) };
    let remap = Remap::find(text).map_err(|error| error.to_string())?;
    match &remap {
        Some(remap) => tracing::info!(root = ?remap.root(), "containers have a user namespace of their own"),
        None => {
            tracing::warn!("root cannot be remapped with itself; containers share the host's user namespace");
        }
    }
    Ok(remap)
}

/// Every running container and every published port takes a descriptor; the customary soft limit of 1,024 is for
/// programs that use select(2).
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}

/// One daemon a root.
fn lock_root(root: &Path) -> Result<File, String> {
    let path = root.join("naru.lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path);
    let file = file.map_err(|error| format!("cannot open {}: {error}", path.display()))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(_) => Err(format!(
            "another naru daemon uses {}; stop it first, or give this one roots of its own",
            root.display()
        )),
    }
}

/// Binds beside and renames over, so that a stale socket is replaced and clients never find none.
fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&beside)?;
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o660))?;
    std::fs::rename(&beside, path)?;
    Ok(listener)
}

/// Starts a daemon that outlives its starter: the command line does this when nobody listens. Its log goes to
/// `<exec-root>/naru.log`.
pub fn start_detached(exec_root: &Path) -> io::Result<()> {
    std::fs::create_dir_all(exec_root)?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(exec_root.join("naru.log"))?;
    // A process group of its own: the terminal's ctrl-c is not for the daemon.
    std::process::Command::new(std::env::current_exe()?)
        .arg("daemon")
        .arg("--exec-root")
        .arg(exec_root)
        .current_dir("/")
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(log)
        .process_group(0)
        .spawn()?;
    Ok(())
}
