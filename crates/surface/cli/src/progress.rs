//! Docker's progress messages: JSON objects one after another, shown as lines that are rewritten in a terminal.

use crate::error::{CliError, Result};
use crate::http::Response;
use crate::json::Value;
use crate::units;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};

/// Where progress is shown.
pub enum Sink {
    Silent,
    /// Whole lines, in order.
    Lines(Box<dyn Write>),
    /// A terminal: one line for each id, rewritten in place.
    Terminal {
        output: Box<dyn Write>,
        ids: Vec<String>,
    },
}

impl Sink {
    pub fn standard_error() -> Self {
        Self::of(Box::new(io::stderr()), io::stderr().is_terminal())
    }

    pub fn standard_output() -> Self {
        Self::of(Box::new(io::stdout()), io::stdout().is_terminal())
    }

    fn of(output: Box<dyn Write>, is_terminal: bool) -> Self {
        if is_terminal {
            Self::Terminal {
                output,
                ids: Vec::new(),
            }
        } else {
            Self::Lines(output)
        }
    }

    fn show(&mut self, message: &Value) -> io::Result<()> {
        let id = message.get("id").text();
        let stream = message.get("stream").text();
        let status = message.get("status").text();
        let progress = progress_text(message.get("progressDetail"));
        let prefix = if id.is_empty() {
            String::new()
        } else {
            format!("{id}: ")
        };
        match self {
            Self::Silent => Ok(()),
            Self::Lines(output) if !stream.is_empty() => output.write_all(stream.as_bytes()),
            // Without a terminal the steps of a transfer are left out, only its stages are told.
            Self::Lines(_) if !progress.is_empty() => Ok(()),
            // Meant for programs.
            _ if stream.is_empty() && status.is_empty() && !message.get("aux").is_null() => Ok(()),
            Self::Lines(output) => writeln!(output, "{prefix}{status}"),
            Self::Terminal { output, .. } if !stream.is_empty() => output.write_all(stream.as_bytes()),
            Self::Terminal { output, ids } => {
                if id.is_empty() {
                    ids.clear();
                    return writeln!(output, "{status}");
                }
                let at = ids.iter().position(|known| known == id).unwrap_or_else(|| {
                    ids.push(id.to_owned());
                    ids.len() - 1
                });
                rewrite(output, ids.len() - at, &format!("{prefix}{status} {progress}"))
            }
        }
    }
}

/// Writes a line `up` lines above the cursor; `1` is the line at the cursor when it has just been added.
fn rewrite(output: &mut dyn Write, up: usize, line: &str) -> io::Result<()> {
    if up > 1 {
        write!(output, "\x1b[{}A\r\x1b[2K{line}\x1b[{}B\r", up - 1, up - 1)?;
    } else {
        write!(output, "\r\x1b[2K{line}\r")?;
    }
    output.flush()
}

fn progress_text(detail: &Value) -> String {
    let (current, total) = (detail.get("current").integer(), detail.get("total").integer());
    if current <= 0 {
        return String::new();
    }
    if total <= 0 {
        return units::human_size(current as f64);
    }
    let filled = usize::try_from((current.min(total) * 50) / total).unwrap_or(0);
    let arrow = if filled < 50 { ">" } else { "" };
    let bar = format!("{:50}", format!("{}{arrow}", "=".repeat(filled)));
    format!(
        "[{bar}] {:>8}/{}",
        units::human_size(current as f64),
        units::human_size(total as f64)
    )
}

/// Shows every message of an answer; a message that carries an error is one.
pub fn show(response: Response, sink: &mut Sink) -> Result<()> {
    show_each(BufReader::new(response), sink, |_| ())
}

/// Shows how a build goes; returns the image's id. `left` gets that of what a failed step left.
pub fn show_build(response: impl BufRead, sink: &mut Sink, left: &mut String) -> Result<String> {
    let mut id = String::new();
    show_each(response, sink, |message| {
        let stream = message.get("stream").text().trim();
        let aux = message.at(&["aux", "ID"]).text();
        let kept = message.at(&["aux", "Left"]).text();
        if !kept.is_empty() {
            kept.clone_into(left);
        }
        if !aux.is_empty() {
            aux.clone_into(&mut id);
        } else if id.is_empty() && stream.starts_with("sha256:") {
            stream.clone_into(&mut id);
        }
    })?;
    Ok(id)
}

fn show_each(mut reader: impl BufRead, sink: &mut Sink, mut look: impl FnMut(&Value)) -> Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(CliError::Transport)? == 0 {
            return finish(sink);
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let message = Value::parse(&line).map_err(|error| CliError::Protocol(error.to_string()))?;
        if let Some(error) = error_of(&message) {
            finish(sink)?;
            return Err(error);
        }
        look(&message);
        sink.show(&message).map_err(CliError::Output)?;
    }
}

/// The error that a message carries.
pub fn error_of(message: &Value) -> Option<CliError> {
    let detail = message.get("errorDetail");
    let text = match detail.get("message").text() {
        "" => message.get("error").text(),
        text => text,
    };
    if text.is_empty() {
        return None;
    }
    // What the daemon refuses after its answer has begun.
    if detail.get("refused").is_true() {
        let status = u16::try_from(detail.get("code").integer()).unwrap_or(500);
        let message = text.to_owned();
        return Some(CliError::Daemon { status, message });
    }
    Some(CliError::message(text))
}

fn finish(sink: &mut Sink) -> Result<()> {
    match sink {
        Sink::Terminal { output, ids } if !ids.is_empty() => writeln!(output).map_err(CliError::Output),
        Sink::Lines(output) | Sink::Terminal { output, .. } => output.flush().map_err(CliError::Output),
        Sink::Silent => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_is_shown_as_a_bar() {
        let detail = Value::parse(br#"{"current":50,"total":100}"#).unwrap();
        let text = progress_text(&detail);
        assert!(
            text.starts_with(&format!("[{}>", "=".repeat(25))) && text.ends_with("50B/100B"),
            "{text}"
        );
        assert_eq!(progress_text(&Value::Null), "");
    }
}
