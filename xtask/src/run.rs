//! Runs programs and reads the closing lines of test runners. Knows nothing of what it runs.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How many checks passed and failed, as the runners themselves counted them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl Count {
    pub fn add(&mut self, other: Count) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    pub fn of_check(is_ok: bool) -> Count {
        Count {
            passed: u64::from(is_ok),
            failed: u64::from(!is_ok),
            skipped: 0,
        }
    }
}

/// The repository's root, wherever the command was called from.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Where cargo writes what it builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Runs to the end; the error says what failed and how.
pub fn complete(mut command: Command) -> Result<(), String> {
    let status = command
        .status()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{command:?} ended with {status}"))
    }
}

/// Runs to the end and returns standard output.
pub fn read_output(mut command: Command) -> Result<String, String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?} ended with {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a test runner, showing its output as it comes, and adds up its closing lines.
/// A runner that fails without having counted a failure counts as one.
pub fn count_tests(mut command: Command) -> Result<Count, String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{command:?}: {error}"))?;
    let mut count = Count::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let bytes = line.map_err(|error| format!("output of {command:?}: {error}"))?;
            let line = String::from_utf8_lossy(&bytes);
            let _ = writeln!(std::io::stdout(), "{line}");
            if let Some(closing) = parse_closing_line(&line) {
                count.add(closing);
            }
        }
    }
    let status = child.wait().map_err(|error| format!("{command:?}: {error}"))?;
    if !status.success() && count.failed == 0 {
        count.failed = 1;
    }
    Ok(count)
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …` and pytest's `= 1 failed, 3 passed, 2 skipped in 0.1s =`.
fn parse_closing_line(line: &str) -> Option<Count> {
    let line = line.trim_matches(['=', ' ']);
    let counts = if let Some((_, counts)) = line
        .split_once("test result: ")
        .map(|(_, rest)| rest)
        .and_then(|rest| rest.split_once(". "))
    {
        counts
    } else {
        let (counts, duration) = line.rsplit_once(" in ")?;
        if !duration.starts_with(|first: char| first.is_ascii_digit()) {
            return None;
        }
        counts
    };
    let mut count = Count::default();
    let mut is_found = false;
    for part in counts.split([',', ';']) {
        let mut words = part.split_whitespace();
        let (Some(number), Some(what)) = (words.next(), words.next()) else {
            continue;
        };
        let Ok(number) = number.parse::<u64>() else {
            continue;
        };
        is_found = true;
        match what {
            "passed" => count.passed += number,
            "failed" | "error" | "errors" => count.failed += number,
            "skipped" | "ignored" => count.skipped += number,
            _ => {}
        }
    }
    is_found.then_some(count)
}

#[cfg(test)]
mod tests {
    use super::{Count, parse_closing_line};

    #[test]
    fn closing_lines_are_read() {
        let cargo = "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(
            parse_closing_line(cargo),
            Some(Count {
                passed: 3,
                failed: 2,
                skipped: 1
            })
        );
        let pytest = "=== 1 failed, 3 passed, 2 skipped, 1 error in 65.10s (0:01:05) ===";
        assert_eq!(
            parse_closing_line(pytest),
            Some(Count {
                passed: 3,
                failed: 2,
                skipped: 2
            })
        );
        assert_eq!(parse_closing_line("compiled in 3s"), None);
        assert_eq!(parse_closing_line("5 things passed in review"), None);
    }
}
