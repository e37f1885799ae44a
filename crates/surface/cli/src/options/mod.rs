//! From the flags of `run` and `create` to a create request, by the rules of Docker's own command line.
//!
//! It reads the files that flags name (`--env-file`, `--label-file`, a seccomp profile) and the environment; it sends
//! nothing and never asks the daemon.

mod environment;
mod flags;
mod gpus;
mod limits;
mod mount;
mod network;
mod port;
mod resource;

pub use environment::plan_environment;
pub use flags::FLAGS;
pub use limits::{CONTAINER_LIMITS, LIMITS};
pub use resource::ulimits;

use crate::args::Arguments;
use crate::json::Value;

/// What to ask of `POST /containers/create`, and what the client itself must know of it.
#[derive(Debug)]
pub struct CreatePlan {
    pub image: String,
    pub name: Option<String>,
    pub platform: Option<String>,
    pub body: Value,
    pub attach: Attach,
    pub terminal: bool,
    pub auto_remove: bool,
    pub cidfile: Option<String>,
    pub pull: PullPolicy,
    pub is_quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attach {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

impl Attach {
    pub fn any(self) -> bool {
        self.stdin || self.stdout || self.stderr
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    Missing,
    Never,
}

type Outcome<T> = Result<T, String>;

/// A JSON object under construction: what was not asked for is left out and the daemon's default holds.
#[derive(Debug, Default)]
struct Object(Vec<(String, Value)>);

impl Object {
    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.0.push((key.to_owned(), value.into()));
    }

    fn set_some<V: Into<Value>>(&mut self, key: &str, value: Option<V>) {
        if let Some(value) = value {
            self.set(key, value);
        }
    }

    fn set_list(&mut self, key: &str, items: Vec<String>) {
        if !items.is_empty() {
            self.set(key, items);
        }
    }

    fn set_map(&mut self, key: &str, entries: Vec<(String, Value)>) {
        if !entries.is_empty() {
            self.set(key, Value::Map(entries));
        }
    }

    fn set_true(&mut self, key: &str, fact: bool) {
        if fact {
            self.set(key, true);
        }
    }
}

fn texts(arguments: &Arguments, name: &str) -> Vec<String> {
    arguments.list(name).map(str::to_owned).collect()
}

/// Decides the request; the error is what to tell the user.
pub fn plan_create(arguments: &Arguments, detached: bool) -> Outcome<CreatePlan> {
    let image = arguments.positional[0].clone();
    let terminal = arguments.is_set("tty");
    let open_stdin = arguments.is_set("interactive");
    let attach = plan_attach(arguments, detached, open_stdin)?;
    let auto_remove = arguments.is_set("rm");
    if auto_remove && arguments.text("restart").is_some_and(|policy| policy != "no") {
        return Err("Conflicting options: --restart and --rm".to_owned());
    }

    let mut config = Object::default();
    config.set("Image", image.as_str());
    config.set_some("Hostname", arguments.text("hostname"));
    config.set_some("Domainname", arguments.text("domainname"));
    config.set_some("User", arguments.text("user"));
    config.set("AttachStdin", attach.stdin);
    config.set("AttachStdout", attach.stdout);
    config.set("AttachStderr", attach.stderr);
    config.set("Tty", terminal);
    config.set("OpenStdin", open_stdin);
    config.set("StdinOnce", open_stdin && attach.stdin);
    config.set_list("Env", environment::plan_environment(arguments)?);
    if arguments.positional.len() > 1 {
        config.set("Cmd", arguments.positional[1..].to_vec());
    }
    if let Some(entrypoint) = arguments.text("entrypoint") {
        config.set("Entrypoint", vec![entrypoint.to_owned()]);
    }
    config.set_some("WorkingDir", arguments.text("workdir"));
    config.set_map("Labels", environment::plan_labels(arguments)?);
    config.set_some("StopSignal", arguments.text("stop-signal"));
    config.set_some("StopTimeout", arguments.int("stop-timeout"));
    config.set_some("Healthcheck", resource::plan_healthcheck(arguments)?);

    let mut host = Object::default();
    let ports = port::plan_ports(arguments)?;
    config.set_map("ExposedPorts", ports.exposed);
    host.set_map("PortBindings", ports.bindings);
    let volumes = mount::plan_volumes(arguments)?;
    config.set_map("Volumes", volumes.anonymous);
    host.set_list("Binds", volumes.binds);
    host.set_map("Tmpfs", volumes.tmpfs);
    if !volumes.mounts.is_empty() {
        host.set("Mounts", volumes.mounts);
    }
    plan_host(arguments, auto_remove, &mut host)?;
    resource::plan_resources(arguments, &mut host)?;
    let endpoints = network::plan_network(arguments, &mut config, &mut host)?;

    config.set("HostConfig", Value::Map(host.0));
    config.set_some("NetworkingConfig", endpoints);
    Ok(CreatePlan {
        image,
        name: arguments.text("name").map(str::to_owned),
        platform: arguments.text("platform").map(str::to_owned),
        body: Value::Map(config.0),
        attach,
        terminal,
        auto_remove,
        cidfile: arguments.text("cidfile").map(str::to_owned),
        pull: plan_pull(arguments)?,
        is_quiet: arguments.is_set("quiet"),
    })
}

fn plan_attach(arguments: &Arguments, detached: bool, open_stdin: bool) -> Outcome<Attach> {
    let mut attach = Attach::default();
    for stream in arguments.list("attach") {
        match stream.to_ascii_lowercase().as_str() {
            "stdin" => attach.stdin = true,
            "stdout" => attach.stdout = true,
            "stderr" => attach.stderr = true,
            _ => {
                return Err(format!(
                    "invalid argument {stream:?} for \"-a, --attach\" flag: valid streams are STDIN, STDOUT and STDERR"
                ));
            }
        }
    }
    if detached && attach.any() {
        return Err("Conflicting options: -a and -d".to_owned());
    }
    if !attach.any() && !detached {
        attach = Attach {
            stdin: open_stdin,
            stdout: true,
            stderr: true,
        };
    }
    Ok(attach)
}

fn plan_pull(arguments: &Arguments) -> Outcome<PullPolicy> {
    match arguments.text("pull").unwrap_or("missing") {
        "always" => Ok(PullPolicy::Always),
        "missing" => Ok(PullPolicy::Missing),
        "never" => Ok(PullPolicy::Never),
        other => Err(format!(
            "invalid pull option: '{other}': must be one of \"always\", \"missing\" or \"never\""
        )),
    }
}

/// Flags that ask for something which is not done; taken silently they would promise it.
fn refuse_unsupported(arguments: &Arguments) -> Outcome<()> {
    if arguments.is_set("use-api-socket") {
        return Err("--use-api-socket is not supported: bind the daemon's socket with -v instead".to_owned());
    }
    if arguments.bool("disable-content-trust") == Some(false) {
        return Err(
            "--disable-content-trust=false is not supported: images are not verified by signature".to_owned(),
        );
    }
    Ok(())
}

fn plan_host(arguments: &Arguments, auto_remove: bool, host: &mut Object) -> Outcome<()> {
    refuse_unsupported(arguments)?;
    host.set_some("ContainerIDFile", arguments.text("cidfile"));
    host.set_true("AutoRemove", auto_remove);
    host.set_true("Privileged", arguments.is_set("privileged"));
    host.set_true("PublishAllPorts", arguments.is_set("publish-all"));
    host.set_true("ReadonlyRootfs", arguments.is_set("read-only"));
    host.set_some("Init", arguments.bool("init"));
    for (flag, key) in [
        ("link", "Links"),
        ("dns", "Dns"),
        ("dns-search", "DnsSearch"),
        ("volumes-from", "VolumesFrom"),
        ("cap-add", "CapAdd"),
        ("cap-drop", "CapDrop"),
        ("group-add", "GroupAdd"),
    ] {
        host.set_list(key, texts(arguments, flag));
    }
    let dns_options = texts(arguments, "dns-option")
        .into_iter()
        .chain(texts(arguments, "dns-opt"))
        .collect();
    host.set_list("DnsOptions", dns_options);
    for (flag, key) in [
        ("ipc", "IpcMode"),
        ("cgroupns", "CgroupnsMode"),
        ("volume-driver", "VolumeDriver"),
        ("isolation", "Isolation"),
        ("runtime", "Runtime"),
        ("cgroup-parent", "CgroupParent"),
    ] {
        host.set_some(key, arguments.text(flag));
    }
    host.set_some("PidMode", mode(arguments, "pid", "PID", true)?);
    host.set_some("UTSMode", mode(arguments, "uts", "UTS", false)?);
    host.set_some("UsernsMode", mode(arguments, "userns", "USER", false)?);
    host.set("RestartPolicy", plan_restart(arguments)?);
    host.set_map("StorageOpt", key_values(arguments, "storage-opt")?);
    host.set_map("Sysctls", optional_values(arguments, "sysctl"));
    host.set_map("Annotations", optional_values(arguments, "annotation"));
    plan_log(arguments, host)?;
    plan_security(arguments, host)
}

/// The body of an update: limits, and a restart policy if one is given.
pub fn plan_update(arguments: &Arguments) -> Outcome<Value> {
    let mut body = Object::default();
    resource::plan_resources(arguments, &mut body)?;
    if arguments.is_given("restart") {
        body.set("RestartPolicy", plan_restart(arguments)?);
    }
    Ok(Value::Map(body.0))
}

/// `host`, and where the flag knows it `container:NAME`.
fn mode<'a>(arguments: &'a Arguments, flag: &str, word: &str, joins: bool) -> Outcome<Option<&'a str>> {
    match arguments.text(flag) {
        None | Some("") => Ok(None),
        Some("host") => Ok(Some("host")),
        Some(text)
            if joins
                && text
                    .strip_prefix("container:")
                    .is_some_and(|name| !name.is_empty()) =>
        {
            Ok(Some(text))
        }
        Some(_) => Err(format!("--{flag}: invalid {word} mode")),
    }
}

fn plan_restart(arguments: &Arguments) -> Outcome<Value> {
    let policy = |name: &str, count: i64| {
        Value::object([
            ("Name", Value::from(name)),
            ("MaximumRetryCount", Value::Integer(count)),
        ])
    };
    let text = arguments.text("restart").unwrap_or("no");
    let (name, count) = match text.split_once(':') {
        None => (text, 0),
        Some((name, count)) => {
            let count = count.parse().map_err(|_| {
                "invalid restart policy format: maximum retry count must be an integer".to_owned()
            })?;
            (name, count)
        }
    };
    if name.is_empty() && text.contains(':') {
        return Err("invalid restart policy format: no policy provided before colon".to_owned());
    }
    Ok(policy(if name.is_empty() { "no" } else { name }, count))
}

fn plan_log(arguments: &Arguments, host: &mut Object) -> Outcome<()> {
    let options = optional_values(arguments, "log-opt");
    let driver = arguments.text("log-driver").unwrap_or_default();
    if driver == "none" && !options.is_empty() {
        return Err(format!("invalid logging opts for driver {driver}"));
    }
    if !driver.is_empty() || !options.is_empty() {
        let config = Value::object([("Type", Value::from(driver)), ("Config", Value::Map(options))]);
        host.set("LogConfig", config);
    }
    Ok(())
}

fn plan_security(arguments: &Arguments, host: &mut Object) -> Outcome<()> {
    let mut options = Vec::new();
    for option in arguments.list("security-opt") {
        if option == "systempaths=unconfined" {
            host.set("MaskedPaths", Value::List(Vec::new()));
            host.set("ReadonlyPaths", Value::List(Vec::new()));
            continue;
        }
        let (key, value) = option
            .split_once('=')
            .or_else(|| option.split_once(':'))
            .unwrap_or((option, ""));
        if value.is_empty() && key != "no-new-privileges" {
            return Err(format!("invalid --security-opt: {option:?}"));
        }
        if key == "seccomp" && value != "unconfined" && value != "builtin" {
            options.push(format!("seccomp={}", read_profile(value)?));
        } else {
            options.push(option.to_owned());
        }
    }
    host.set_list("SecurityOpt", options);
    Ok(())
}

fn read_profile(path: &str) -> Outcome<String> {
    let text =
        std::fs::read(path).map_err(|error| format!("opening seccomp profile ({path}) failed: {error}"))?;
    Value::parse(&text)
        .map(|profile| profile.to_json())
        .map_err(|error| format!("compacting json for seccomp profile ({path}) failed: {error}"))
}

/// `key=value` pairs, where the value must be there.
fn key_values(arguments: &Arguments, flag: &str) -> Outcome<Vec<(String, Value)>> {
    arguments
        .list(flag)
        .map(|text| match text.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), Value::from(value))),
            None => Err("invalid storage option".to_owned()),
        })
        .collect()
}

/// `key=value` pairs; a key alone has an empty value. The last of equal keys holds.
fn optional_values(arguments: &Arguments, flag: &str) -> Vec<(String, Value)> {
    let mut entries: Vec<(String, Value)> = Vec::new();
    for text in arguments.list(flag) {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        put(&mut entries, key, Value::from(value));
    }
    entries
}

/// Sets a key of a map, replacing what it had.
fn put(entries: &mut Vec<(String, Value)>, key: &str, value: Value) {
    match entries.iter_mut().find(|(name, _)| name == key) {
        Some(entry) => entry.1 = value,
        None => entries.push((key.to_owned(), value)),
    }
}

#[cfg(test)]
mod tests;
