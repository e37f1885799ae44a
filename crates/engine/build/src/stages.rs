//! Which stages a target needs, what each stands on, and in which order they can be built.

use crate::dockerfile::{Dockerfile, Instruction, Stage};
use crate::error::{DockerfileError, Place, Result, nearest};
use crate::mount::Mount;
use crate::words::{self, Variables};
use naru_oci::Platform;
use std::collections::{BTreeMap, BTreeSet};

/// Stages of one file, refused when it is read. They need each other to any depth, and each is looked at by a call of its
/// own.
pub(crate) const STAGES_MAX: usize = 1000;

/// What a stage begins with, or files are copied from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `FROM scratch`: nothing.
    Scratch,
    /// Another stage, by its index.
    Stage(usize),
    /// A context that the client gave a name.
    Context(String),
    Image(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedStage {
    pub index: usize,
    pub base: Source,
    /// Of the base; expanded.
    pub platform: Option<String>,
    /// Stages that must be there first.
    pub needs: BTreeSet<usize>,
}

/// The stages that a target needs, each after what it needs itself; the target is the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagePlan {
    pub stages: Vec<PlannedStage>,
    /// Arguments declared before the first stage, with their values.
    pub arguments: BTreeMap<String, String>,
}

/// What the caller gives from outside.
#[derive(Debug, Clone, Default)]
pub struct PlanOptions<'a> {
    /// A stage's name or number; the last stage if none.
    pub target: Option<&'a str>,
    pub build_arguments: BTreeMap<String, String>,
    /// `TARGETPLATFORM` and the like.
    pub platform_arguments: BTreeMap<String, String>,
    /// Names of further contexts.
    pub contexts: BTreeSet<String>,
}

pub fn plan(file: &Dockerfile, options: &PlanOptions) -> Result<StagePlan> {
    let arguments = global_arguments(file, options)?;
    let planned = (0..file.stages.len())
        .map(|index| plan_stage(file, index, &arguments, options))
        .collect::<Result<Vec<_>>>()?;
    let target = match options.target.filter(|target| !target.is_empty()) {
        None => file.stages.len() - 1,
        Some(name) => find_stage(file, name).ok_or_else(|| {
            let hint =
                stage_meant(file, name).map_or_else(String::new, |near| format!(" (did you mean {near}?)"));
            DockerfileError::new(
                Place::default(),
                format!("target stage {name:?} could not be found{hint}"),
            )
        })?,
    };
    let mut order = Order {
        file,
        planned: &planned,
        done: Vec::new(),
        open: BTreeSet::new(),
    };
    order.visit(target)?;
    let done = order.done;
    Ok(StagePlan {
        stages: done.into_iter().map(|index| planned[index].clone()).collect(),
        arguments,
    })
}

/// The stage whose name is near to one that no stage has.
pub fn stage_meant<'a>(file: &'a Dockerfile, name: &str) -> Option<&'a str> {
    let names: Vec<&str> = file
        .stages
        .iter()
        .filter_map(|stage| stage.name.as_deref())
        .collect();
    nearest(name, &names)
}

/// What to say of an instruction that failed because it copies from, or mounts, what is no stage.
pub fn hint_for(file: &Dockerfile, instruction: &Instruction, contexts: &BTreeSet<String>) -> Option<String> {
    froms(instruction).iter().find_map(|from| {
        let Source::Image(name) = copy_source(file, from, contexts) else {
            return None;
        };
        let near = stage_meant(file, &name)?;
        Some(format!("no stage is called {name} (did you mean {near}?)"))
    })
}

/// A stage by its name, in any case, or by its number.
pub fn find_stage(file: &Dockerfile, name: &str) -> Option<usize> {
    find_named(&file.stages, name).or_else(|| name.parse().ok().filter(|index| *index < file.stages.len()))
}

/// Of several stages of one name the last has it, as with BuildKit, which only warns of them.
pub(crate) fn find_named(stages: &[Stage], name: &str) -> Option<usize> {
    let lower = name.to_ascii_lowercase();
    stages
        .iter()
        .rposition(|stage| stage.name.as_deref() == Some(lower.as_str()))
}

fn global_arguments(file: &Dockerfile, options: &PlanOptions) -> Result<BTreeMap<String, String>> {
    let mut values = options.platform_arguments.clone();
    for (name, default, place) in file.global_arguments() {
        let wrong = |message| DockerfileError::new(place, message);
        let default = default
            .map(|text| words::expand(text, file.escape, &values).map_err(wrong))
            .transpose()?;
        if let Some(value) = options.build_arguments.get(name).cloned().or(default) {
            values.insert(name.to_owned(), value);
        }
    }
    Ok(values)
}

fn plan_stage(
    file: &Dockerfile,
    index: usize,
    arguments: &BTreeMap<String, String>,
    options: &PlanOptions,
) -> Result<PlannedStage> {
    let stage = &file.stages[index];
    let expand = |text: &str| {
        words::expand(text, file.escape, arguments as &dyn Variables)
            .map_err(|message| DockerfileError::new(stage.place, message))
    };
    let name = expand(&stage.base)?;
    if name.is_empty() {
        return Err(DockerfileError::new(
            stage.place,
            format!(
                "base name ({}) should not be blank: an argument in it has no value",
                stage.base
            ),
        ));
    }
    let base = match find_named(&file.stages[..index], &name) {
        Some(earlier) => Source::Stage(earlier),
        None if options.contexts.contains(&name) => Source::Context(name),
        None if name == "scratch" => Source::Scratch,
        None => Source::Image(name),
    };
    let mut needs = BTreeSet::new();
    if let Source::Stage(earlier) = base {
        needs.insert(earlier);
    }
    for line in &stage.instructions {
        for from in froms(&line.value) {
            match copy_source(file, &from, &options.contexts) {
                Source::Stage(other) if other == index => {
                    return Err(DockerfileError::new(
                        line.place,
                        format!("stage {from:?} copies from itself"),
                    ));
                }
                Source::Stage(other) => {
                    needs.insert(other);
                }
                _ => {}
            }
        }
    }
    Ok(PlannedStage {
        index,
        base,
        platform: stage
            .platform
            .as_deref()
            .map(expand)
            .transpose()?
            .filter(|platform| !platform.is_empty()),
        needs,
    })
}

/// What `--from` means.
pub fn copy_source(file: &Dockerfile, from: &str, contexts: &BTreeSet<String>) -> Source {
    match find_stage(file, from) {
        Some(index) => Source::Stage(index),
        None if contexts.contains(from) => Source::Context(from.to_owned()),
        None => Source::Image(from.to_owned()),
    }
}

/// The `from`s of an instruction: `COPY --from`, and `from=` of `RUN --mount`. Words that are no mount have none: the step
/// itself tells what is wrong with them.
fn froms(instruction: &Instruction) -> Vec<String> {
    match instruction {
        Instruction::Copy(transfer) => transfer.from.clone().into_iter().collect(),
        Instruction::Run(run) => run
            .mounts
            .iter()
            .filter_map(|text| Mount::parse(text).ok())
            .map(|mount| mount.from)
            .filter(|from| !from.is_empty())
            .collect(),
        _ => Vec::new(),
    }
}

struct Order<'a> {
    file: &'a Dockerfile,
    planned: &'a [PlannedStage],
    done: Vec<usize>,
    open: BTreeSet<usize>,
}

impl Order<'_> {
    fn visit(&mut self, index: usize) -> Result<()> {
        if self.done.contains(&index) {
            return Ok(());
        }
        let stage = &self.file.stages[index];
        if !self.open.insert(index) {
            let name = stage.name.clone().unwrap_or_else(|| index.to_string());
            return Err(DockerfileError::new(
                stage.place,
                format!("circular dependency detected on stage: {name}"),
            ));
        }
        for need in self.planned[index].needs.clone() {
            self.visit(need)?;
        }
        self.open.remove(&index);
        self.done.push(index);
        Ok(())
    }
}

/// What every `FROM` line may ask for.
pub fn platform_arguments(wanted: Option<&Platform>) -> BTreeMap<String, String> {
    let host = Platform::host();
    let target = wanted.unwrap_or(&host);
    let mut arguments = BTreeMap::new();
    for (prefix, platform) in [("BUILD", &host), ("TARGET", target)] {
        let mut whole = format!("{}/{}", platform.os, platform.architecture);
        if !platform.variant.is_empty() {
            whole = format!("{whole}/{}", platform.variant);
        }
        arguments.insert(format!("{prefix}PLATFORM"), whole);
        arguments.insert(format!("{prefix}OS"), platform.os.clone());
        arguments.insert(format!("{prefix}ARCH"), platform.architecture.clone());
        arguments.insert(format!("{prefix}VARIANT"), platform.variant.clone());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::parse;

    fn order(text: &str, target: Option<&str>) -> Result<Vec<usize>> {
        let file = parse(text.as_bytes())?;
        let options = PlanOptions {
            target,
            ..PlanOptions::default()
        };
        Ok(plan(&file, &options)?
            .stages
            .iter()
            .map(|stage| stage.index)
            .collect())
    }

    #[test]
    fn only_what_the_target_needs_is_built_and_in_order() {
        let text = "FROM a AS one\nFROM b AS unused\nFROM one AS two\nFROM scratch\nCOPY --from=two /x /\nRUN --mount=type=bind,from=0,target=/m x\n";
        assert_eq!(order(text, None).unwrap(), [0, 2, 3]);
        assert_eq!(order(text, Some("ONE")).unwrap(), [0]);
        assert_eq!(order(text, Some("1")).unwrap(), [1]);
        assert!(
            order(text, Some("nine"))
                .unwrap_err()
                .message
                .contains("could not be found")
        );
        assert!(
            order(text, Some("twoo"))
                .unwrap_err()
                .message
                .contains("mean two")
        );
        let file = parse(b"FROM a AS made\nCOPY --from=mdae /x /\n").unwrap();
        let hint = hint_for(&file, &file.stages[0].instructions[0].value, &BTreeSet::new());
        assert!(hint.unwrap().contains("did you mean made?"));
    }

    #[test]
    fn of_stages_of_one_name_the_last_has_it() {
        let text = "FROM a AS one\nFROM one AS one\nFROM one\nCOPY --from=ONE /x /\n";
        assert_eq!(order(text, None).unwrap(), [0, 1, 2]);
        assert_eq!(order(text, Some("one")).unwrap(), [0, 1]);
        let text = "FROM a AS one\nFROM b\nCOPY --from=one /x /\nFROM c AS one\n";
        assert_eq!(order(text, Some("1")).unwrap(), [2, 1]);
    }

    #[test]
    fn circles_are_refused() {
        let text = "FROM a AS one\nCOPY --from=two /x /\nFROM b AS two\nCOPY --from=one /x /\n";
        assert!(order(text, None).unwrap_err().message.contains("circular"));
        assert!(
            order("FROM a AS one\nCOPY --from=one /x /", None)
                .unwrap_err()
                .message
                .contains("itself")
        );
    }

    #[test]
    fn stages_are_bounded() {
        let chain = |count: usize| {
            let stage = |number: usize| format!("FROM s{} AS s{number}\n", number.saturating_sub(1));
            (0..count).map(stage).collect::<String>()
        };
        assert_eq!(order(&chain(STAGES_MAX), None).unwrap().len(), STAGES_MAX);
        let error = order(&chain(STAGES_MAX + 1), None).unwrap_err();
        assert!(error.message.contains("more than 1000 stages"), "{error}");
        assert_eq!(error.place.line, STAGES_MAX + 1);
    }

    #[test]
    fn arguments_of_from_lines() {
        let file = parse(b"ARG V=1\nARG N=x:$V\nFROM $N\nFROM ${NONE}\n").unwrap();
        assert!(
            plan(&file, &PlanOptions::default())
                .unwrap_err()
                .message
                .contains("blank")
        );
        let file = parse(b"ARG V=1\nARG N=x:$V\nFROM $N\n").unwrap();
        let options = PlanOptions {
            build_arguments: [("V".to_owned(), "2".to_owned())].into(),
            ..PlanOptions::default()
        };
        assert_eq!(
            plan(&file, &options).unwrap().stages[0].base,
            Source::Image("x:2".to_owned())
        );
    }
}
