//! What a build can be given: the arguments, secrets and agents that a target's stages ask for, and the targets there are.
//!
//! Read off the file and its plan; nothing is built for it.

mod shown;

pub use shown::{shown, shown_targets, table};

use crate::check::comments::Comments;
use crate::dockerfile::{Dockerfile, Instruction, Line, Stage};
use crate::error::{DockerfileError, Place, Result};
use crate::mount::{Mount, MountError, MountKind};
use crate::stages::StagePlan;
use crate::words;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// The target's name and what the comment above it says.
    pub name: String,
    pub description: String,
    /// Each list in the order of the file.
    pub arguments: Vec<Argument>,
    pub secrets: Vec<Asked>,
    pub agents: Vec<Asked>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    pub name: String,
    pub description: String,
    /// What it is worth in this build; empty without a value.
    pub value: String,
    pub place: Place,
}

/// A secret or an agent, by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub name: String,
    pub is_required: bool,
    pub place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub name: String,
    pub description: String,
    /// Built where no target is named.
    pub is_default: bool,
    pub base: String,
    pub platform: String,
    pub place: Place,
}

/// All stages, each of which can be a target.
pub fn targets(file: &Dockerfile) -> Vec<Target> {
    let comments = Comments::of(file);
    let stages = file.stages.iter().enumerate();
    stages
        .map(|(index, stage)| Target {
            name: stage.name.clone().unwrap_or_default(),
            description: stage_description(&comments, stage),
            is_default: index + 1 == file.stages.len(),
            base: stage.base.clone(),
            platform: stage.platform.clone().unwrap_or_default(),
            place: stage.place,
        })
        .collect()
}

fn stage_description(comments: &Comments, stage: &Stage) -> String {
    // The name as it is written: the comment begins with it.
    let mut words = stage.text.split_whitespace();
    let name = words.next_back().filter(|_| stage.name.is_some());
    let said = name.map(|name| comments.describe(name, stage.place));
    said.unwrap_or_default().to_owned()
}

/// What the plan's target, its last stage, and all that it needs can be given; an error where the words of a mount are none.
pub fn outline(file: &Dockerfile, plan: &StagePlan, given: &BTreeMap<String, String>) -> Result<Outline> {
    let stages: Vec<&Stage> = plan
        .stages
        .iter()
        .map(|planned| &file.stages[planned.index])
        .collect();
    let mut reading = Reading {
        file,
        plan,
        given,
        comments: Comments::of(file),
        declared: file.global_arguments().map(|(name, ..)| name).collect(),
        globals: global_names_used(file, &stages),
        known: BTreeSet::new(),
        outline: Outline::default(),
    };
    // What the target itself declares counts before what it stands on.
    for stage in stages.iter().rev() {
        for line in &stage.instructions {
            reading.read(line)?;
        }
    }
    reading.read_globals();
    let mut outline = reading.outline;
    if let Some(target) = stages.last() {
        outline.name = target.name.clone().unwrap_or_default();
        outline.description = stage_description(&reading.comments, target);
    }
    outline.arguments.sort_by_key(|one| one.place);
    outline.secrets.sort_by_key(|one| one.place);
    outline.agents.sort_by_key(|one| one.place);
    Ok(outline)
}

/// Names of arguments before the first stage that the stages' `FROM` lines use.
fn global_names_used(file: &Dockerfile, stages: &[&Stage]) -> BTreeSet<String> {
    let texts = stages
        .iter()
        .flat_map(|stage| [Some(&stage.base), stage.platform.as_ref()]);
    texts
        .flatten()
        .flat_map(|text| words::names_in(text, file.escape))
        .collect()
}

struct Reading<'a> {
    file: &'a Dockerfile,
    plan: &'a StagePlan,
    given: &'a BTreeMap<String, String>,
    comments: Comments<'a>,
    /// Before the first stage.
    declared: BTreeSet<&'a str>,
    /// Those of them that are used.
    globals: BTreeSet<String>,
    /// What the outline has: arguments, secrets and agents, each by its kind and name.
    known: BTreeSet<(&'static str, String)>,
    outline: Outline,
}

impl Reading<'_> {
    fn read(&mut self, line: &Line<Instruction>) -> Result<()> {
        match &line.value {
            Instruction::Arg(arguments) => {
                for (name, default) in arguments {
                    self.read_argument(name, default.as_deref(), line.place);
                }
            }
            Instruction::Run(run) => {
                for text in &run.mounts {
                    let wrong = |error: MountError| DockerfileError::new(line.place, error.to_string());
                    self.read_mount(&Mount::parse(text).map_err(wrong)?, line.place);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn read_argument(&mut self, name: &str, default: Option<&str>, place: Place) {
        if default.is_none() && self.declared.contains(name) {
            self.globals.insert(name.to_owned());
            return;
        }
        let expand = |text| words::expand(text, self.file.escape, &self.plan.arguments).ok();
        let value = self.given.get(name).cloned().or(default.and_then(expand));
        self.add(name, value, place);
    }

    /// The arguments before the first stage that are used, and those that their defaults use.
    fn read_globals(&mut self) {
        let file = self.file;
        // A default can only use what stands before it.
        for (name, default, place) in file.global_arguments().rev() {
            if self.globals.contains(name) {
                let needed = default.into_iter();
                self.globals
                    .extend(needed.flat_map(|text| words::names_in(text, file.escape)));
                self.add(name, self.plan.arguments.get(name).cloned(), place);
            }
        }
    }

    fn add(&mut self, name: &str, value: Option<String>, place: Place) {
        if !self.known.insert(("argument", name.to_owned())) {
            return;
        }
        self.outline.arguments.push(Argument {
            name: name.to_owned(),
            description: self.comments.describe(name, place).to_owned(),
            value: value.unwrap_or_default(),
            place,
        });
    }

    fn read_mount(&mut self, mount: &Mount, place: Place) {
        let (kind, name, list) = match mount.kind {
            MountKind::Secret => ("secret", mount.secret_id(), &mut self.outline.secrets),
            MountKind::Ssh => ("agent", mount.agent_id(), &mut self.outline.agents),
            MountKind::Bind | MountKind::Cache | MountKind::Tmpfs => return,
        };
        if self.known.insert((kind, name.to_owned())) {
            list.push(Asked {
                name: name.to_owned(),
                is_required: mount.is_required,
                place,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::parse;
    use crate::stages::{PlanOptions, plan};

    const TEXT: &str = "ARG UNUSED=1\n# VERSION of the base\nARG VERSION=3\nARG NAME=x:$VERSION\n\
        # Tools for building\nFROM $NAME AS Tools\nARG MODE=fast\nRUN --mount=type=secret,id=token,required x\n\
        FROM y AS other\nARG OTHER\n\
        # final is shipped\nFROM --platform=$BUILDPLATFORM tools AS final\nARG VERSION\nARG MODE\n\
        RUN --mount=type=ssh --mount=type=secret,target=/run/secrets/late y\n";

    fn outlined(target: Option<&str>) -> Outline {
        let file = parse(TEXT.as_bytes()).unwrap();
        let given: BTreeMap<String, String> = [("MODE".to_owned(), "slow".to_owned())].into();
        let options = PlanOptions {
            target,
            build_arguments: given.clone(),
            ..PlanOptions::default()
        };
        outline(&file, &plan(&file, &options).unwrap(), &given).unwrap()
    }

    #[test]
    fn a_target_tells_what_it_can_be_given() {
        let told = outlined(None);
        assert_eq!(
            (told.name.as_str(), told.description.as_str()),
            ("final", "is shipped")
        );
        let arguments: Vec<_> = told
            .arguments
            .iter()
            .map(|one| {
                (
                    one.name.as_str(),
                    one.value.as_str(),
                    one.description.as_str(),
                    one.place.line,
                )
            })
            .collect();
        assert_eq!(
            arguments,
            [
                ("VERSION", "3", "of the base", 3),
                ("NAME", "x:3", "", 4),
                ("MODE", "slow", "", 14)
            ]
        );
        let asked = |list: &[Asked]| -> Vec<(String, bool)> {
            list.iter()
                .map(|one| (one.name.clone(), one.is_required))
                .collect()
        };
        assert_eq!(
            asked(&told.secrets),
            [("token".to_owned(), true), ("late".to_owned(), false)]
        );
        assert_eq!(asked(&told.agents), [("default".to_owned(), false)]);
        let other = outlined(Some("other"));
        assert_eq!(
            (other.arguments.len(), other.arguments[0].name.as_str()),
            (1, "OTHER")
        );
    }

    #[test]
    fn all_stages_are_targets() {
        let told = targets(&parse(TEXT.as_bytes()).unwrap());
        let shown: Vec<_> = told
            .iter()
            .map(|one| (one.name.as_str(), one.base.as_str(), one.is_default))
            .collect();
        assert_eq!(
            shown,
            [
                ("tools", "$NAME", false),
                ("other", "y", false),
                ("final", "tools", true)
            ]
        );
        assert_eq!(
            (told[0].description.as_str(), told[2].platform.as_str()),
            ("for building", "$BUILDPLATFORM")
        );
    }

    #[test]
    fn a_mount_that_cannot_be_built_is_told_of() {
        let file = parse(b"FROM x\nRUN true\nRUN --mount=type=secret,id=a,colour=red y\n").unwrap();
        let plan = plan(&file, &PlanOptions::default()).unwrap();
        let error = outline(&file, &plan, &BTreeMap::new()).unwrap_err();
        assert_eq!(
            (error.place.line, error.message.as_str()),
            (3, "unexpected key \"colour\" in \"type=secret,id=a,colour=red\"")
        );
    }
}
