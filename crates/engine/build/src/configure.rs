//! How instructions change an image's configuration.

use crate::dockerfile::{Command, Instruction, Line};
use crate::error::{DockerfileError, Result};
use crate::mount::Mount;
use crate::words::{self, Variables};
use naru_oci::{ContainerConfig, ImageConfig};
use std::collections::BTreeMap;

/// The names that may be given without being declared, and that leave no trace in the image.
pub const PREDEFINED_ARGUMENTS: &[&str] = &[
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// What a stage knows while it is built, besides its files.
#[derive(Debug, Clone, Default)]
pub struct StageState {
    pub config: ImageConfig,
    /// Arguments declared so far that have a value.
    pub arguments: BTreeMap<String, String>,
    /// This stage has said `CMD` itself: an `ENTRYPOINT` after it leaves it.
    is_command_own: bool,
}

/// The environment, and arguments where it says nothing.
impl Variables for StageState {
    fn value(&self, name: &str) -> Option<String> {
        let in_environment = self.config.config.env.iter().find_map(|entry| {
            let (key, value) = entry.split_once('=')?;
            (key == name).then(|| value.to_owned())
        });
        in_environment.or_else(|| self.arguments.get(name).cloned())
    }
}

/// The image's own shell, or the usual one.
pub fn shell_of(config: &ContainerConfig) -> Vec<String> {
    let usual = || vec!["/bin/sh".to_owned(), "-c".to_owned()];
    config
        .shell
        .clone()
        .filter(|words| !words.is_empty())
        .unwrap_or_else(usual)
}

/// The words of a command, with the shell before a line.
pub fn words_of(command: &Command, config: &ContainerConfig) -> Vec<String> {
    match command {
        Command::Exec(words) => words.clone(),
        Command::Shell(line) => shell_of(config).into_iter().chain([line.clone()]).collect(),
    }
}

impl StageState {
    pub fn new(config: ImageConfig) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }

    /// Expands a word of a line.
    pub fn expand<T>(&self, line: &Line<T>, text: &str, escape: char) -> Result<String> {
        words::expand(text, escape, self).map_err(|message| DockerfileError::new(line.place, message))
    }

    /// Reads the words of a mount of a `RUN`.
    pub fn mount<T>(&self, line: &Line<T>, text: &str, escape: char) -> Result<Mount> {
        let mount = Mount::parse_expanded(text, |value| words::expand(value, escape, self));
        mount.map_err(|error| DockerfileError::new(line.place, error.to_string()))
    }

    /// Applies an instruction that only changes the configuration. `RUN`, `COPY`, `ADD` and `ARG` change nothing here.
    pub fn apply(&mut self, line: &Line<Instruction>, escape: char) -> Result<()> {
        let expand = |text: &str| self.expand(line, text, escape);
        let wrong = |message: String| DockerfileError::new(line.place, message);
        match &line.value {
            Instruction::Env(pairs) => {
                // All see the variables as they were before the line.
                let pairs = pairs
                    .iter()
                    .map(|(key, value)| Ok((expand(key)?, expand(value)?)));
                for (key, value) in pairs.collect::<Result<Vec<_>>>()? {
                    set_variable(&mut self.config.config.env, &key, &value);
                }
            }
            Instruction::Label(pairs) => {
                let pairs = pairs
                    .iter()
                    .map(|(key, value)| Ok((expand(key)?, expand(value)?)));
                let pairs = pairs.collect::<Result<Vec<_>>>()?;
                self.config.config.labels.extend(pairs);
            }
            Instruction::Expose(ports) => {
                for word in ports {
                    let expanded = words::expand_list(word, escape, self).map_err(&wrong)?;
                    for port in expanded {
                        let ports = expand_ports(&port)
                            .ok_or_else(|| wrong(format!("invalid containerPort: {port}")))?;
                        self.config.config.exposed_ports.extend(ports);
                    }
                }
            }
            Instruction::Volume(paths) => {
                let paths = paths
                    .iter()
                    .map(|path| expand(path))
                    .collect::<Result<Vec<_>>>()?;
                if paths.iter().any(|path| path.trim().is_empty()) {
                    return Err(wrong("VOLUME specified can not be an empty string".to_owned()));
                }
                self.config.config.volumes.extend(paths);
            }
            Instruction::Workdir(path) => {
                let path = expand(path)?;
                self.config.config.working_dir = joined_path(&self.config.config.working_dir, &path);
            }
            Instruction::User(user) => self.config.config.user = expand(user)?,
            Instruction::StopSignal(signal) => self.config.config.stop_signal = expand(signal)?,
            Instruction::Maintainer(author) => self.config.author = expand(author)?,
            Instruction::Cmd(command) => {
                self.config.config.cmd = Some(words_of(command, &self.config.config));
                self.is_command_own = true;
            }
            Instruction::Entrypoint(command) => {
                self.config.config.entrypoint = Some(words_of(command, &self.config.config));
                // The command was the old entry point's arguments.
                if !self.is_command_own {
                    self.config.config.cmd = None;
                }
            }
            Instruction::Healthcheck(check) => self.config.config.healthcheck = Some(check.clone()),
            Instruction::Shell(words) => self.config.config.shell = Some(words.clone()),
            Instruction::OnBuild(trigger) => self.config.config.on_build.push(trigger.clone()),
            Instruction::Run(_) | Instruction::Copy(_) | Instruction::Add(_) | Instruction::Arg(_) => {}
        }
        Ok(())
    }
}

/// Sets `KEY=value` where the key is, or at the end.
pub fn set_variable(environment: &mut Vec<String>, key: &str, value: &str) {
    let entry = format!("{key}={value}");
    let is_same = |other: &&mut String| other.split('=').next() == Some(key);
    match environment.iter_mut().find(is_same) {
        Some(other) => *other = entry,
        None => environment.push(entry),
    }
}

/// `80`, `80/udp`, `8000-8002`.
fn expand_ports(text: &str) -> Option<Vec<String>> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return None;
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let parse = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let (first, last) = (parse(first)?, parse(last)?);
    (first <= last).then(|| (first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// A path taken from a directory, `.` and `..` folded, never above the root.
pub fn joined_path(directory: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let base = if path.starts_with('/') { "" } else { directory };
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::parse;

    fn configured(text: &str) -> Result<ImageConfig> {
        let file = parse(format!("FROM x\n{text}").as_bytes())?;
        let mut state = StageState::default();
        state.config.config.cmd = Some(vec!["of the base".to_owned()]);
        for line in &file.stages[0].instructions {
            state.apply(line, file.escape)?;
        }
        Ok(state.config)
    }

    #[test]
    fn instructions_change_the_configuration() {
        let image = configured(
            "ENV A=1 B=\"two words\"\nENV A=2 C=$A D=${B}\nENV OLD form is one value\nWORKDIR /a/$A\nWORKDIR ../b/.\nEXPOSE 80 90-91/UDP $A\nLABEL \"a b\"=c d=$A\nUSER u:$A\nVOLUME [\"/v\", \"/$A\"]\nCMD echo hi\nENTRYPOINT [\"/x\"]\nSTOPSIGNAL SIGINT\nMAINTAINER me\nONBUILD RUN x\nSHELL [\"/bin/bash\", \"-c\"]\nCMD later",
        )
        .unwrap();
        let config = image.config;
        assert_eq!(
            config.env,
            [
                "A=2",
                "B=two words",
                "C=1",
                "D=two words",
                "OLD=form is one value"
            ]
        );
        assert_eq!(config.working_dir, "/a/b");
        assert_eq!(
            config.exposed_ports.into_iter().collect::<Vec<_>>(),
            ["2/tcp", "80/tcp", "90/udp", "91/udp"]
        );
        assert_eq!(config.labels["a b"], "c");
        assert_eq!(config.labels["d"], "2");
        assert_eq!(config.user, "u:2");
        assert!(config.volumes.contains("/2"));
        assert_eq!(config.entrypoint.unwrap(), ["/x"]);
        assert_eq!(config.cmd.unwrap(), ["/bin/bash", "-c", "later"]);
        assert_eq!(
            (config.stop_signal.as_str(), image.author.as_str()),
            ("SIGINT", "me")
        );
        assert_eq!(config.on_build, ["RUN x"]);
    }

    #[test]
    fn an_entry_point_takes_the_bases_command_away() {
        assert_eq!(configured("ENTRYPOINT x").unwrap().config.cmd, None);
        assert_eq!(
            configured("CMD a\nENTRYPOINT x").unwrap().config.cmd.unwrap()[2],
            "a"
        );
    }

    #[test]
    fn what_is_wrong_names_its_line() {
        for (text, reason) in [
            ("EXPOSE 80x", "containerPort"),
            ("EXPOSE 9-8", "containerPort"),
            ("ENV A=${B:?no}", "B: no"),
            ("VOLUME $NONE", "empty string"),
        ] {
            let error = configured(text).unwrap_err();
            assert!(
                error.to_string().starts_with("dockerfile parse error on line 2")
                    && error.message.contains(reason),
                "{error}"
            );
        }
    }
}
