//! The Dockerfile instructions that `commit --change` and `import --change` take: they change an image's configuration
//! and nothing else.

use crate::error::{EngineError, Result};
use naru_oci::{ContainerConfig, Healthcheck};

/// Applies instructions in order; the first that is wrong refuses them all.
pub fn apply_instructions(config: &mut ContainerConfig, lines: &[String]) -> Result<()> {
    let mut changed = config.clone();
    let mut is_command_new = false;
    for line in lines
        .iter()
        .flat_map(|text| text.lines())
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        apply(&mut changed, line)?;
        let word = line.split_whitespace().next().unwrap_or_default();
        is_command_new |= word.eq_ignore_ascii_case("CMD");
        // The command was the old entry point's arguments.
        if word.eq_ignore_ascii_case("ENTRYPOINT") && !is_command_new {
            changed.cmd = None;
        }
    }
    *config = changed;
    Ok(())
}

fn apply(config: &mut ContainerConfig, line: &str) -> Result<()> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let (word, rest) = (word.to_ascii_uppercase(), rest.trim());
    if rest.is_empty() {
        return Err(EngineError::invalid(format!(
            "{word} requires at least one argument"
        )));
    }
    match word.as_str() {
        "CMD" => config.cmd = Some(command(rest)),
        "ENTRYPOINT" => {
            config.entrypoint = Some(command(rest));
        }
        "ENV" => {
            for (key, value) in pairs("ENV", rest)? {
                set_variable(&mut config.env, &key, &value);
            }
        }
        "LABEL" => config.labels.extend(pairs("LABEL", rest)?),
        "EXPOSE" => {
            for port in words(rest) {
                config.exposed_ports.extend(ports(&port)?);
            }
        }
        "VOLUME" => {
            let paths = json_list(rest).unwrap_or_else(|| words(rest));
            if paths.iter().any(String::is_empty) {
                return Err(EngineError::invalid(
                    "VOLUME specified can not be an empty string",
                ));
            }
            config.volumes.extend(paths);
        }
        "USER" => rest.clone_into(&mut config.user),
        "WORKDIR" => config.working_dir = joined_directory(&config.working_dir, rest),
        "STOPSIGNAL" => {
            crate::containers::parse_signal(rest)?;
            rest.clone_into(&mut config.stop_signal);
        }
        "ONBUILD" => config.on_build.push(rest.to_owned()),
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(rest)?),
        "SHELL" => {
            config.shell =
                Some(json_list(rest).ok_or_else(|| {
                    EngineError::invalid("SHELL requires the arguments to be in JSON form")
                })?);
        }
        _ => {
            return Err(EngineError::invalid(format!(
                "{} is not a valid change command",
                word.to_ascii_lowercase()
            )));
        }
    }
    Ok(())
}

/// A list in JSON, else a line for the shell.
fn command(text: &str) -> Vec<String> {
    json_list(text).unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()])
}

fn json_list(text: &str) -> Option<Vec<String>> {
    text.starts_with('[')
        .then(|| serde_json::from_str(text).ok())
        .flatten()
}

fn set_variable(environment: &mut Vec<String>, key: &str, value: &str) {
    let entry = format!("{key}={value}");
    let is_same = |other: &&mut String| other.split('=').next() == Some(key);
    match environment.iter_mut().find(is_same) {
        Some(other) => *other = entry,
        None => environment.push(entry),
    }
}

/// `key=value …` with quotes, or the older `key value`.
fn pairs(instruction: &str, text: &str) -> Result<Vec<(String, String)>> {
    let all = words(text);
    let wrong = || {
        EngineError::invalid(format!(
            "Syntax error - can't find = in {text:?}. Must be of the form: name=value"
        ))
    };
    if !all.first().is_some_and(|word| word.contains('=')) {
        let (key, value) = text.split_once(char::is_whitespace).ok_or_else(wrong)?;
        return Ok(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    all.iter()
        .map(|word| {
            let (key, value) = word.split_once('=').ok_or_else(wrong)?;
            if key.is_empty() {
                return Err(EngineError::invalid(format!(
                    "{instruction} names can not be blank"
                )));
            }
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

/// Words as a shell splits them: quotes keep spaces, a backslash keeps the next character.
fn words(text: &str) -> Vec<String> {
    let (mut all, mut word, mut is_word, mut quote) = (Vec::new(), String::new(), false, None);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('\\', Some('"') | None) => {
                is_word = true;
                word.extend(characters.next());
            }
            (character, Some(open)) if character == open => quote = None,
            ('"' | '\'', None) => (quote, is_word) = (Some(character), true),
            (character, None) if character.is_whitespace() => {
                if is_word {
                    all.push(std::mem::take(&mut word));
                }
                is_word = false;
            }
            (character, _) => {
                is_word = true;
                word.push(character);
            }
        }
    }
    if is_word {
        all.push(word);
    }
    all
}

/// `80`, `80/udp`, `8000-8002`.
fn ports(text: &str) -> Result<Vec<String>> {
    let wrong = || EngineError::invalid(format!("invalid containerPort: {text}"));
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(wrong());
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let parse = |text: &str| {
        text.parse::<u16>()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(wrong)
    };
    let (first, last) = (parse(first)?, parse(last)?);
    if first > last {
        return Err(wrong());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn joined_directory(present: &str, wanted: &str) -> String {
    let base = if present.is_empty() { "/" } else { present };
    let path = std::path::Path::new(base).join(wanted);
    super::place::clean(&path).to_string_lossy().into_owned()
}

fn healthcheck(text: &str) -> Result<Healthcheck> {
    let mut check = Healthcheck::default();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option
            .split_once(char::is_whitespace)
            .ok_or_else(|| EngineError::invalid("HEALTHCHECK requires a type"))?;
        rest = after.trim_start();
        let wrong = || EngineError::invalid(format!("HEALTHCHECK: invalid option --{option}"));
        let (key, value) = option.split_once('=').ok_or_else(wrong)?;
        let duration = || parse_duration(value).ok_or_else(wrong);
        match key {
            "interval" => check.interval = duration()?,
            "timeout" => check.timeout = duration()?,
            "start-period" => check.start_period = duration()?,
            "start-interval" => check.start_interval = duration()?,
            "retries" => check.retries = value.parse().map_err(|_| wrong())?,
            _ => return Err(wrong()),
        }
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    check.test = match (kind.to_ascii_uppercase().as_str(), command.trim()) {
        ("NONE", "") => vec!["NONE".to_owned()],
        ("CMD", command) if !command.is_empty() => match json_list(command) {
            Some(list) => std::iter::once("CMD".to_owned()).chain(list).collect(),
            None => vec!["CMD-SHELL".to_owned(), command.to_owned()],
        },
        ("NONE" | "CMD", _) => {
            return Err(EngineError::invalid(format!(
                "Missing or surplus command after HEALTHCHECK {kind}"
            )));
        }
        _ => {
            return Err(EngineError::invalid(format!(
                "Unknown type {kind:?} in HEALTHCHECK (try CMD)"
            )));
        }
    };
    Ok(check)
}

/// Go's durations, in nanoseconds: `1m30s`, `500ms`.
fn parse_duration(text: &str) -> Option<i64> {
    let mut total = 0_f64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        total += number
            * match &rest[..end] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return None,
            };
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total as i64)
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
        assert!(message("ENV A").contains("can't find ="));
        assert!(message("STOPSIGNAL SIGNOPE").contains("invalid signal"));
        assert!(message("HEALTHCHECK --interval=soon CMD x").contains("--interval"));
    }
}
