//! Why a step is made anew: what it stood on, was told and brought when it was last made, beside what it has now.
//!
//! ```text
//! <data-root>/builds/why/<place>   inputs of the step at that place of a build, when it was last made; bounded
//! ```
//! A place is the instructions before it in its stage, for images of the same names. Only a step that is made is looked
//! up and written down: one that the cache answers costs nothing here. A record says nothing of what is right to reuse;
//! keys alone do.

use super::BuildStep;
use super::cache;
use super::redact::redact_argument;
use super::solve::{Builder, Stage};
use super::transfer::Item;
use super::tree::Content;
use crate::archive::blocking;
use crate::error::Result;
use naru_base::Digest;
use naru_build::{Instruction, Line};
use naru_oci::Reference;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Paths of one step: five times what a large context has, and some megabytes. Of more only the sum is compared.
const PATHS_MAX: usize = 50_000;

/// Steps that are remembered.
const RECORDS_MAX: usize = 1000;

/// Causes told of one step.
const CAUSES_MAX: usize = 3;

/// Letters of a value that are told; of a longer one that it changed.
const VALUE_LETTERS_MAX: usize = 60;

/// What a step is made of, as far as people know it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Inputs {
    text: String,
    layers: Vec<Digest>,
    /// By what they are called: `ARG VERSION`.
    facts: BTreeMap<String, Fact>,
    /// Sorted, with a digest of all that matters of each.
    paths: Vec<(String, u64)>,
}

/// A value, or a digest of one that is too long to tell or not meant to be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Fact {
    Shown(String),
    Hidden(u64),
}

impl Inputs {
    pub(super) fn new(line: &Line<Instruction>, stage: &Stage) -> Self {
        Self {
            text: line.text.clone(),
            layers: stage.layers().to_vec(),
            ..Self::default()
        }
    }

    /// Adds something by what it is called; `what it brings` is never told with its value.
    pub(super) fn fact(&mut self, name: &str, value: &str) {
        let variable = name.strip_prefix("ARG ").or_else(|| name.strip_prefix("ENV "));
        let has_secret = variable.is_some_and(|variable| redact_argument(variable, value) != value);
        let is_hidden = value.len() > VALUE_LETTERS_MAX || has_secret;
        let fact = if is_hidden {
            Fact::Hidden(hash_of(&value))
        } else {
            Fact::Shown(value.to_owned())
        };
        self.facts.insert(name.to_owned(), fact);
    }

    /// Adds something that only a digest is known of.
    pub(super) fn sum(&mut self, name: &str, value: &str) {
        self.facts.insert(name.to_owned(), Fact::Hidden(hash_of(&value)));
    }

    /// Adds what a transfer brings.
    pub(super) fn bring(&mut self, items: &[Item]) {
        if items.iter().map(|item| item.listed.len()).sum::<usize>() > PATHS_MAX {
            return;
        }
        for item in items {
            for listed in &item.listed {
                let name = String::from_utf8_lossy(&listed.member.name);
                let path = match (item.base.trim_matches('/'), &name[..]) {
                    (_, "") if item.is_directory => continue,
                    ("", name) => name.to_owned(),
                    (base, "") => base.to_owned(),
                    (base, name) => format!("{base}/{name}"),
                };
                let member = &listed.member;
                let mut hash = DefaultHasher::new();
                (
                    member.kind.as_byte(),
                    member.mode,
                    member.uid,
                    member.gid,
                    &member.link,
                )
                    .hash(&mut hash);
                match &listed.content {
                    Content::None => {}
                    Content::Packed { digest, .. } => digest.as_str().hash(&mut hash),
                    Content::Text(text) => text.hash(&mut hash),
                    // To read it again would take as long as to bring it.
                    Content::File(_) => (member.bytes, member.modified_at).hash(&mut hash),
                }
                self.paths.push((path, hash.finish()));
            }
        }
        self.paths.sort_unstable();
    }
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hash = DefaultHasher::new();
    value.hash(&mut hash);
    hash.finish()
}

/// Inputs of a step that is being made, to be written down when it is.
pub(super) struct PendingInputs {
    path: PathBuf,
    inputs: Inputs,
}

impl Builder {
    /// Where a stage's steps are told apart from those of other builds.
    pub(super) fn place_of_stage(&self, text: &str) -> Digest {
        let names = self.request.names.iter();
        let repositories: Vec<String> = names
            .filter_map(|name| Reference::parse(name).ok())
            .map(|name| name.repository())
            .collect();
        cache::key_of(&("place", repositories, text))
    }

    /// Tells why a step is made, and remembers that its stage has changed there.
    pub(super) async fn tell_why(
        &self,
        stage: &mut Stage,
        line: &Line<Instruction>,
        inputs: Inputs,
    ) -> PendingInputs {
        let place = stage.history.place.as_ref().map_or("none", Digest::hex);
        let path = self.engine.why_directory().join(place);
        let below = stage.history.made_anew.replace(line.place.line);
        if !stage.history.ignores_cache {
            let known = path.clone();
            let read = blocking(move || Ok(naru_store::read::<Inputs>(&known)?)).await;
            let reason = match read {
                Ok(before) => reason(&before, &inputs, &stage.history.base, below),
                Err(_) => "never built before".to_owned(),
            };
            stage.teller.tell(BuildStep::Anew(reason)).await;
        }
        PendingInputs { path, inputs }
    }
}

impl PendingInputs {
    /// The step is made. What cannot be written is only missed by the next explanation.
    pub(super) async fn keep(self) {
        let written = blocking(move || {
            if let Some(directory) = self.path.parent() {
                bound(directory);
            }
            Ok(naru_store::write(&self.path, &self.inputs)?)
        });
        if let Err(error) = written.await {
            tracing::warn!(%error, "cannot note what a step was made of");
        }
    }
}

/// Removes the records that were written first, a tenth of all at once.
fn bound(directory: &Path) {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    if paths.len() < RECORDS_MAX {
        return;
    }
    let time_of = |path: &PathBuf| {
        let metadata = std::fs::symlink_metadata(path);
        metadata
            .and_then(|metadata| metadata.modified())
            .unwrap_or(SystemTime::UNIX_EPOCH)
    };
    let mut aged: Vec<(SystemTime, PathBuf)> = paths.into_iter().map(|path| (time_of(&path), path)).collect();
    aged.sort_unstable();
    for (_, path) in aged.into_iter().take(RECORDS_MAX / 10) {
        drop(naru_sys::file::remove_tree(&path));
    }
}

impl crate::Engine {
    fn why_directory(&self) -> PathBuf {
        self.builds_directory().join("why")
    }

    /// Forgets what all steps were made of.
    pub(super) fn clear_why(&self) -> Result<()> {
        naru_sys::file::remove_tree(&self.why_directory())?;
        Ok(naru_sys::file::make_directories(&self.why_directory(), 0o700)?)
    }
}

/// What changed, in words. `below` is a line of the same stage that was made anew before this one.
fn reason(before: &Inputs, now: &Inputs, base: &str, below: Option<usize>) -> String {
    if before.text != now.text {
        return format!("the instruction was {}", shortened(&before.text));
    }
    let mut causes = changed_paths(&before.paths, &now.paths);
    let has_paths = !causes.is_empty();
    let names = before.facts.keys().chain(now.facts.keys());
    let names: std::collections::BTreeSet<&String> = names.collect();
    for name in names {
        let cause = match (before.facts.get(name), now.facts.get(name)) {
            (before, now) if before == now => continue,
            // The paths say it better.
            (Some(Fact::Hidden(_)), Some(_)) if has_paths && name == BROUGHT => continue,
            (None, Some(_)) => format!("{name} is new"),
            (Some(_), None) => format!("{name} is gone"),
            (Some(Fact::Shown(before)), Some(Fact::Shown(now))) => format!("{name} was {before}, is {now}"),
            _ => format!("{name} changed"),
        };
        causes.push(cause);
    }
    if causes.is_empty() {
        return match below {
            _ if before.layers == now.layers => "what it made is no longer kept".to_owned(),
            Some(line) => format!("line {line} was made anew"),
            None => format!("base {base} changed"),
        };
    }
    let more = causes.len().saturating_sub(CAUSES_MAX);
    causes.truncate(CAUSES_MAX);
    if more > 0 {
        causes.push(format!("and {more} more"));
    }
    causes.join(", ")
}

/// What the digest of all that a transfer brings is called.
pub(super) const BROUGHT: &str = "what it brings";

fn shortened(text: &str) -> String {
    let cut: String = text.chars().take(VALUE_LETTERS_MAX).collect();
    if cut.len() < text.len() { cut + "…" } else { cut }
}

/// Compares two sorted lists.
fn changed_paths(before: &[(String, u64)], now: &[(String, u64)]) -> Vec<String> {
    let (mut old, mut new) = (before.iter().peekable(), now.iter().peekable());
    let mut causes = Vec::new();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return causes,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(old), Some(new)) => old.0.cmp(&new.0),
        };
        let (word, path) = match order {
            std::cmp::Ordering::Less => ("is gone", old.next()),
            std::cmp::Ordering::Greater => ("is new", new.next()),
            std::cmp::Ordering::Equal => {
                let (old, new) = (old.next(), new.next());
                if old == new {
                    continue;
                }
                ("changed", new)
            }
        };
        causes.extend(path.map(|(path, _)| format!("{path} {word}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(facts: &[(&str, &str)], paths: &[(&str, u64)]) -> Inputs {
        let mut inputs = Inputs {
            text: "COPY . /".to_owned(),
            paths: paths
                .iter()
                .map(|(path, digest)| ((*path).to_owned(), *digest))
                .collect(),
            ..Inputs::default()
        };
        for (name, value) in facts {
            inputs.fact(name, value);
        }
        inputs
    }

    #[test]
    fn what_changed_is_told() {
        let long = "x".repeat(100);
        let before = inputs(
            &[
                ("ARG V", "1"),
                ("ARG TOKEN", "a"),
                ("ENV L", "short"),
                ("ENV G", ""),
            ],
            &[("a", 1), ("b/c", 2), ("d", 3)],
        );
        for (now, expected) in [
            (
                inputs(
                    &[
                        ("ARG V", "2"),
                        ("ARG TOKEN", "a"),
                        ("ENV L", "short"),
                        ("ENV G", ""),
                    ],
                    &before_paths(),
                ),
                "ARG V was 1, is 2",
            ),
            (
                inputs(
                    &[("ARG V", "1"), ("ARG TOKEN", "b"), ("ENV L", &long)],
                    &before_paths(),
                ),
                "ARG TOKEN changed, ENV G is gone, ENV L changed",
            ),
            (
                inputs(
                    &[
                        ("ARG V", "1"),
                        ("ARG TOKEN", "a"),
                        ("ENV L", "short"),
                        ("ENV G", ""),
                    ],
                    &[("a", 1), ("b/c", 9), ("e", 4)],
                ),
                "b/c changed, d is gone, e is new",
            ),
            (
                inputs(&[("ARG TOKEN", "a"), ("ENV L", "short"), ("ENV G", "")], &[]),
                "a is gone, b/c is gone, d is gone, and 1 more",
            ),
            (before.clone(), "what it made is no longer kept"),
        ] {
            assert_eq!(reason(&before, &now, "x", Some(2)), expected);
        }
        let stored = serde_json::to_string(&before).unwrap();
        assert!(
            !stored.contains("\"a\"}"),
            "a secret's value is not kept: {stored}"
        );
        let mut now = before.clone();
        now.layers.push(cache::key_of(&1));
        assert_eq!(reason(&before, &now, "x", Some(2)), "line 2 was made anew");
        assert_eq!(reason(&before, &now, "x", None), "base x changed");
        now.text = "RUN y".to_owned();
        assert_eq!(reason(&before, &now, "x", None), "the instruction was COPY . /");
    }

    fn before_paths() -> [(&'static str, u64); 3] {
        [("a", 1), ("b/c", 2), ("d", 3)]
    }
}
