//! The daemon's options for what containers get that ask for nothing else, with dockerd's words.

use naru_engine::ContainerDefaults;
use naru_engine::spec::LogSpec;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// dockerd's word for Naru's own profile.
const BUILTIN: &str = "builtin";
const UNCONFINED: &str = "unconfined";

#[derive(Debug, Default, clap::Args)]
pub struct ContainerArguments {
    /// Run an init in containers that forwards signals and reaps processes [default: false]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    init: Option<bool>,
    /// Keep processes of containers from gaining privileges [default: false]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    no_new_privileges: Option<bool>,
    /// The seccomp profile of containers, a file in Docker's form, builtin or unconfined [default: builtin]
    #[arg(long)]
    seccomp_profile: Option<PathBuf>,
    /// The log driver of containers [default: json-file]
    #[arg(long)]
    log_driver: Option<String>,
    /// An option of that log driver, KEY=VALUE; may be given more than once
    #[arg(long = "log-opt")]
    log_options: Vec<String>,
    /// Seconds that containers without a stop timeout of their own have when the daemon ends and does not leave them
    /// running; -1 for as long as they take [default: 10]
    #[arg(long, allow_negative_numbers = true)]
    shutdown_timeout: Option<i64>,
}

/// The same in the configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct ContainerConfig {
    init: Option<bool>,
    no_new_privileges: Option<bool>,
    seccomp_profile: Option<PathBuf>,
    log_driver: Option<String>,
    log_opts: BTreeMap<String, String>,
    shutdown_timeout: Option<i64>,
}

/// Takes its keys out of the file, whose other keys are somebody else's.
pub fn take(all: &mut serde_json::Map<String, serde_json::Value>) -> serde_json::Result<ContainerConfig> {
    let own = [
        "init",
        "no-new-privileges",
        "seccomp-profile",
        "log-driver",
        "log-opts",
        "shutdown-timeout",
    ];
    crate::options::take_keys(all, &own)
}

/// The command line over the file, checked; and the timeout for the daemon's end, if one is given.
pub fn resolve(
    arguments: ContainerArguments,
    file: ContainerConfig,
) -> Result<(ContainerDefaults, Option<i64>), String> {
    let mut options = file.log_opts;
    for text in &arguments.log_options {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| format!("invalid --log-opt {text:?}: expected KEY=VALUE"))?;
        options.insert(key.to_owned(), value.to_owned());
    }
    let driver = arguments
        .log_driver
        .or(file.log_driver)
        .filter(|name| !name.is_empty());
    let log = LogSpec {
        driver: driver.unwrap_or_else(|| LogSpec::default().driver),
        options,
    };
    naru_docker_api::check_log(&log).map_err(|error| format!("--log-driver and --log-opt: {error}"))?;
    let timeout = arguments.shutdown_timeout.or(file.shutdown_timeout);
    let profile = arguments.seccomp_profile.or(file.seccomp_profile);
    let defaults = ContainerDefaults {
        with_init: arguments.init.or(file.init).unwrap_or(false),
        no_new_privileges: arguments
            .no_new_privileges
            .or(file.no_new_privileges)
            .unwrap_or(false),
        seccomp: profile
            .as_deref()
            .map(read_profile)
            .transpose()?
            .unwrap_or_default(),
        log,
    };
    Ok((defaults, timeout))
}

fn read_profile(path: &Path) -> Result<naru_engine::spec::SeccompSpec, String> {
    use naru_engine::spec::SeccompSpec;
    match path.to_str() {
        Some("" | BUILTIN) => return Ok(SeccompSpec::Default),
        Some(UNCONFINED) => return Ok(SeccompSpec::Unconfined),
        _ => {}
    }
    let failed = |reason: String| format!("--seccomp-profile {}: {reason}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    naru_engine::check_seccomp_profile(&text).map_err(|error| failed(error.message))?;
    Ok(SeccompSpec::Custom(text))
}
