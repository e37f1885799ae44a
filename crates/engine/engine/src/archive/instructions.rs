//! The Dockerfile instructions that `commit --change` and `import --change` take: they change an image's configuration
//! and nothing else.

use crate::error::{EngineError, Result};
use naru_build::configure::StageState;
use naru_build::{Instruction, Place, parse_instruction};
use naru_oci::{ContainerConfig, ImageConfig};

/// Instructions that only configure.
const WORDS: &[&str] = &[
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Applies instructions in order; the first that is wrong refuses them all.
pub fn apply_instructions(config: &mut ContainerConfig, lines: &[String]) -> Result<()> {
    let mut state = StageState::new(ImageConfig {
        config: config.clone(),
        ..ImageConfig::default()
    });
    for line in lines
        .iter()
        .flat_map(|text| text.lines())
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        apply(&mut state, line)?;
    }
    *config = state.config.config;
    Ok(())
}

fn apply(state: &mut StageState, line: &str) -> Result<()> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let upper = word.to_ascii_uppercase();
    if !WORDS.contains(&upper.as_str()) {
        return Err(EngineError::invalid(format!(
            "{} is not a valid change command",
            word.to_ascii_lowercase()
        )));
    }
    if rest.trim().is_empty() {
        return Err(EngineError::invalid(format!(
            "{upper} requires at least one argument"
        )));
    }
    let line = parse_instruction(line, Place::default())?;
    if let Instruction::StopSignal(signal) = &line.value {
        crate::containers::parse_signal(&state.expand(&line, signal, '\\')?)?;
    }
    Ok(state.apply(&line, '\\')?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(lines: &[&str]) -> Result<ContainerConfig> {
        let mut config = ContainerConfig {
            env: vec!["A=1".to_owned()],
            working_dir: "/srv".to_owned(),
            ..ContainerConfig::default()
        };
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        apply_instructions(&mut config, &lines).map(|()| config)
    }

    #[test]
    fn instructions_change_what_they_name() {
        let config = changed(&[
            "ENV A=2 B=\"two words\"",
            "env C three words",
            "LABEL a=b 'c d'=e",
            "EXPOSE 80 8000-8001/udp",
            "CMD [\"x\", \"y z\"]",
            "ENTRYPOINT run it",
            "WORKDIR ../opt/./a",
            "VOLUME /a /b",
            "STOPSIGNAL SIGINT",
            "HEALTHCHECK --interval=1m30s --retries=2 CMD test -f /x",
        ])
        .unwrap();
        assert_eq!(config.env, ["A=2", "B=two words", "C=three words"]);
        assert_eq!(config.labels["c d"], "e");
        assert_eq!(config.exposed_ports.len(), 3);
        assert_eq!(config.cmd.unwrap(), ["x", "y z"]);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "run it"]);
        assert_eq!(config.working_dir, "/opt/a");
        assert!(config.volumes.contains("/b"));
        let check = config.healthcheck.unwrap();
        assert_eq!((check.interval, check.retries), (90_000_000_000, 2));
        assert_eq!(check.test, ["CMD-SHELL", "test -f /x"]);
    }

    #[test]
    fn wrong_instructions_are_refused() {
        let message = |line: &str| changed(&[line]).unwrap_err().message;
        assert_eq!(message("RUN true"), "run is not a valid change command");
        assert_eq!(message("CMD"), "CMD requires at least one argument");
        assert!(message("EXPOSE 99999").contains("invalid containerPort"));
        assert!(message("ENV A").contains("must have two arguments"));
        assert!(message("STOPSIGNAL SIGNOPE").contains("invalid signal"));
        assert!(message("HEALTHCHECK --interval=soon CMD x").contains("--interval"));
    }
}
