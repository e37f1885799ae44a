//! What the Dockerfile's frontend answers without building: what a file is warned of, its targets, what one can be given.
//!
//! ```text
//!  option requestid=frontend.lint ─▶ the Dockerfile, read ─▶ result.json (for programs), result.txt (for people), version
//! ```
//! The answers have the fields and names of BuildKit's own frontend, which buildx shows for `--check` and `--call`.

use crate::Builders;
use crate::attributes::read_options;
use crate::build::Remote;
use crate::client::SessionClient;
use crate::control::Job;
use crate::error::{KitError, Result};
use crate::trace::{range_of, source_info};
use crate::wire::{Position, SourceInfo};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use naru_build::check::{Finding, description_of, page_of};
use naru_build::ignore::Ignore;
use naru_build::outline::{self, Asked, Outline, Target};
use naru_build::{DockerfileError, Place, excerpt};
use naru_engine::{Engine, Examined};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use tokio::sync::mpsc;

/// The option that says what is asked for.
pub const KEY: &str = "requestid";

/// Of each answer's form; BuildKit's own.
const VERSION: &str = "1.0.0";

/// Fetches told of and not yet passed on.
const TOLD_MAX: usize = 16;

/// Something else than a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    Describe,
    Lint,
    Outline,
    Targets,
}

/// Each with the name that asks for it and what it is, as `Describe` tells.
const QUESTIONS: &[(Question, &str, &str)] = &[
    (
        Question::Outline,
        "frontend.outline",
        "List all parameters current build takes",
    ),
    (
        Question::Targets,
        "frontend.targets",
        "List all targets current build supports",
    ),
    (Question::Lint, "frontend.lint", "Lint a Dockerfile"),
    (
        Question::Describe,
        "frontend.subrequests.describe",
        "List available subrequest types",
    ),
];

/// What is told, by its name: `result.json` and others.
pub type Answer = HashMap<String, String>;

impl Question {
    /// What is asked for, if it is not a build.
    pub fn read(options: &HashMap<String, String>) -> Result<Option<Self>> {
        let Some(asked) = options.get(KEY) else {
            return Ok(None);
        };
        let known = QUESTIONS.iter().find(|(_, name, _)| name == asked);
        let unknown = || {
            let hint =
                "ask for frontend.lint, frontend.outline, frontend.targets or frontend.subrequests.describe";
            KitError::NotSupported(format!("the request {asked:?}"), hint)
        };
        known.map(|(question, ..)| Some(*question)).ok_or_else(unknown)
    }
}

impl Builders {
    /// Answers for the build of this name; the Dockerfile is where a build with these options would have it.
    pub(crate) async fn answer(
        &self,
        engine: &Arc<Engine>,
        question: Question,
        (name, job): (&str, &Job),
        (session, options): (&str, &HashMap<String, String>),
    ) -> Result<Answer> {
        if question == Question::Describe {
            return Ok(described());
        }
        let (request, remote) = read_options(options)?;
        let session = self.sessions.find(session).await?;
        let (told, mut fetches) = mpsc::channel(TOLD_MAX);
        let examining = async {
            let mut client = SessionClient::new(engine, &session, name, told);
            let is_served = matches!(remote, Remote::Client { .. });
            let source = self.open(&mut client, name, remote, &request).await?;
            let ignore = match question {
                Question::Lint if is_served => Ignore::parse(&client.ignored().await?).ok(),
                _ => None,
            };
            let examined = engine.examine_dockerfile(request, source).await?;
            match question {
                Question::Lint => Ok(linted(
                    &examined,
                    engine.check_examined(&examined, ignore.as_ref()),
                )),
                Question::Outline => Ok(outlined(&examined, &examined.outline()?)),
                _ => Ok(targeted(&examined, &outline::targets(examined.readable()?))),
            }
        };
        let telling = async {
            while let Some(fetch) = fetches.recv().await {
                job.tell(fetch);
            }
        };
        let asking = async { tokio::join!(examining, telling).0 };
        tokio::select! {
            answer = asking => answer,
            () = session.closed() => Err(KitError::broken("the build", "its session ended")),
        }
    }
}

fn answer(told: &Value, text: String) -> Answer {
    let entries = [
        ("result.json", format!("{told:#}")),
        ("result.txt", text),
        ("version", VERSION.to_owned()),
    ];
    entries.map(|(key, text)| (key.to_owned(), text)).into()
}

fn described() -> Answer {
    let all = QUESTIONS.iter().map(|(question, name, description)| {
        let mut metadata = vec![json!({ "name": "result.json" }), json!({ "name": "result.txt" })];
        if *question == Question::Lint {
            metadata.push(json!({ "name": "result.statuscode" }));
        }
        let options = match question {
            Question::Outline => json!([{ "name": "target", "description": "Target build stage" }]),
            _ => json!([]),
        };
        json!({
            "name": name, "version": VERSION, "type": "rpc", "description": description,
            "opts": options, "metadata": metadata,
        })
    });
    let mut rows = vec![["NAME", "VERSION", "DESCRIPTION"].map(str::to_owned)];
    rows.extend(QUESTIONS.iter().map(|(_, name, description)| {
        let short = name.trim_start_matches("frontend.");
        [short, VERSION, description].map(str::to_owned)
    }));
    answer(&Value::Array(all.collect()), outline::table(&rows, 1))
}

fn linted(examined: &Examined, findings: Result<Vec<Finding>, DockerfileError>) -> Answer {
    let (findings, error) = match findings {
        Ok(findings) => (findings, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let warnings = findings.iter().map(|one| {
        json!({
            "ruleName": one.rule, "description": description_of(one.rule), "url": page_of(one.rule),
            "detail": one.message, "location": location(one.place),
        })
    });
    let source = source_of(&source_info(&examined.name, &examined.text));
    let mut told = json!({ "warnings": warnings.collect::<Vec<_>>(), "sources": [source] });
    let mut text = String::new();
    let lines = excerpt::Lines::of(&examined.text);
    for one in &findings {
        let head = format!("WARNING: {} - {}\n{}", one.rule, page_of(one.rule), one.message);
        let shown = excerpt::locate_word(&head, &one.message, &examined.name, &lines, one.place);
        let _ = write!(text, "\n{shown}\n");
    }
    if let Some(error) = &error {
        told["buildError"] = json!({ "message": error.to_string(), "location": location(error.place) });
        let shown = excerpt::locate(&error.to_string(), &examined.name, &examined.text, error.place);
        let _ = writeln!(text, "{shown}");
    }
    let is_clean = findings.is_empty() && error.is_none();
    let mut answer = answer(&told, text);
    let status = if is_clean { "0" } else { "1" };
    answer.insert("result.statuscode".to_owned(), status.to_owned());
    answer
}

fn outlined(examined: &Examined, outline: &Outline) -> Answer {
    let arguments = outline.arguments.iter().map(|one| {
        json!({
            "name": one.name, "description": one.description, "value": one.value, "location": location(one.place),
        })
    });
    let asked = |list: &[Asked]| -> Vec<Value> {
        let entry = |one: &Asked| json!({ "name": one.name, "required": one.is_required, "location": location(one.place) });
        list.iter().map(entry).collect()
    };
    let told = json!({
        "name": outline.name, "description": outline.description, "args": arguments.collect::<Vec<_>>(),
        "secrets": asked(&outline.secrets), "ssh": asked(&outline.agents), "sources": [STANDARD.encode(&examined.text)],
    });
    answer(&told, outline::shown(outline))
}

fn targeted(examined: &Examined, targets: &[Target]) -> Answer {
    let all = targets.iter().map(|one| {
        json!({
            "name": one.name, "default": one.is_default, "description": one.description, "base": one.base,
            "platform": one.platform, "location": location(one.place),
        })
    });
    let told = json!({ "targets": all.collect::<Vec<_>>(), "sources": [STANDARD.encode(&examined.text)] });
    answer(&told, outline::shown_targets(targets))
}

/// Of the only source, 0; no lines where none is known.
fn location(place: Place) -> Value {
    if place.line == 0 {
        return json!({ "ranges": [] });
    }
    let range = range_of(place);
    let at = |position: Option<Position>| json!({ "line": position.map_or(0, |position| position.line) });
    json!({ "ranges": [{ "start": at(range.start), "end": at(range.end) }] })
}

fn source_of(source: &SourceInfo) -> Value {
    json!({ "filename": source.filename, "language": source.language, "data": STANDARD.encode(&source.data) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_asked_is_told_and_the_rest_refused() {
        let read = |name: &str| Question::read(&[(KEY.to_owned(), name.to_owned())].into());
        let told = described();
        let all: Value = serde_json::from_str(&told["result.json"]).unwrap();
        for entry in all.as_array().unwrap() {
            assert!(read(entry["name"].as_str().unwrap()).unwrap().is_some());
        }
        assert!(
            told["result.txt"].starts_with("NAME                 VERSION DESCRIPTION\noutline "),
            "{told:?}"
        );
        assert!(
            read("frontend.nosuch")
                .unwrap_err()
                .to_string()
                .contains("frontend.nosuch")
        );
        assert_eq!(Question::read(&HashMap::new()).unwrap(), None);
    }
}
