//! What the daemon was told that containers get: it stands in where a create request says nothing.

use super::log::log_spec;
use naru_docker_wire::types::HostConfig;
use naru_engine::ContainerDefaults;
use naru_engine::spec::{ContainerSpec, LogSpec, SeccompSpec};

/// The driver where none is asked for; its options too where that driver is asked for by name, as Docker has it.
pub fn merge_log(host: &mut HostConfig, defaults: &LogSpec) {
    let log = &mut host.log_config;
    if log.kind.is_empty() {
        log.kind.clone_from(&defaults.driver);
    }
    if log.kind == defaults.driver {
        for (key, value) in &defaults.options {
            log.config.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
}

/// `options`: the request's security options, by which it may have said otherwise.
pub fn merge_spec(spec: &mut ContainerSpec, defaults: &ContainerDefaults, options: &[String]) {
    let is_said = |name: &str| {
        options.iter().any(|option| {
            option
                .strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['=', ':']))
        })
    };
    spec.with_init.get_or_insert(defaults.with_init);
    if !is_said("no-new-privileges") {
        spec.no_new_privileges |= defaults.no_new_privileges;
    }
    if !is_said("seccomp") && spec.seccomp == SeccompSpec::Default {
        spec.seccomp.clone_from(&defaults.seccomp);
    }
}

/// Says what is wrong with a driver and its options.
pub fn check_log(log: &LogSpec) -> Result<(), String> {
    let mut host = HostConfig::default();
    merge_log(&mut host, log);
    log_spec(&host).map(drop).map_err(|error| error.message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn log(driver: &str, options: &[(&str, &str)]) -> LogSpec {
        let options = options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        LogSpec {
            driver: driver.to_owned(),
            options: options.collect(),
        }
    }

    #[test]
    fn the_daemons_log_stands_in_where_nothing_is_asked_for() {
        let defaults = log("local", &[("max-size", "1m"), ("max-file", "2")]);
        let merged = |kind: &str, size: &str| {
            let mut host = HostConfig::default();
            host.log_config.kind = kind.to_owned();
            if !size.is_empty() {
                host.log_config.config = BTreeMap::from([("max-size".to_owned(), size.to_owned())]);
            }
            merge_log(&mut host, &defaults);
            (
                host.log_config.kind,
                host.log_config.config.get("max-size").cloned(),
            )
        };
        assert_eq!(merged("", ""), ("local".to_owned(), Some("1m".to_owned())));
        assert_eq!(merged("local", "9m"), ("local".to_owned(), Some("9m".to_owned())));
        assert_eq!(merged("json-file", ""), ("json-file".to_owned(), None));
        assert!(check_log(&defaults).is_ok());
        assert!(check_log(&log("nosuch", &[])).is_err());
        assert!(check_log(&log("local", &[("nosuch", "1")])).is_err());
    }

    #[test]
    fn a_container_may_ask_for_something_else() {
        let defaults = ContainerDefaults {
            with_init: true,
            no_new_privileges: true,
            seccomp: SeccompSpec::Unconfined,
            ..ContainerDefaults::default()
        };
        let merged = |options: &[&str], init: Option<bool>| {
            let mut spec = ContainerSpec {
                with_init: init,
                ..ContainerSpec::default()
            };
            let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
            merge_spec(&mut spec, &defaults, &options);
            (spec.with_init, spec.no_new_privileges, spec.seccomp)
        };
        assert_eq!(merged(&[], None), (Some(true), true, SeccompSpec::Unconfined));
        let said = ["no-new-privileges=false", "seccomp=builtin"];
        assert_eq!(
            merged(&said, Some(false)),
            (Some(false), false, SeccompSpec::Default)
        );
    }
}
