//! What stages stand on: names and platforms of `FROM` lines with the arguments in them.

use super::{Facts, Findings, meant};
use crate::dockerfile::{Dockerfile, Stage};
use crate::error::nearest;
use crate::stages::find_named;
use crate::words;
use naru_oci::Reference;
use std::collections::BTreeMap;

/// Arguments that every build has for its `FROM` lines.
pub(super) const PLATFORM_ARGUMENTS: &[&str] = &[
    "BUILDARCH",
    "BUILDOS",
    "BUILDPLATFORM",
    "BUILDVARIANT",
    "TARGETARCH",
    "TARGETOS",
    "TARGETPLATFORM",
    "TARGETSTAGE",
    "TARGETVARIANT",
];

pub(super) fn check(file: &Dockerfile, facts: &Facts, findings: &mut Findings) {
    let defaults = default_arguments(file);
    for (index, stage) in file.stages.iter().enumerate() {
        let is_known = check_arguments(file, stage, findings);
        check_platform(stage, findings);
        if is_known && stage.base.contains('$') {
            let earlier = &file.stages[..index];
            check_default(earlier, stage, file.escape, &defaults, facts, findings);
        }
    }
}

/// What arguments are worth when a build gives none.
fn default_arguments(file: &Dockerfile) -> BTreeMap<String, String> {
    // Their values only have to fit into a name.
    let mut values: BTreeMap<String, String> = PLATFORM_ARGUMENTS
        .iter()
        .map(|name| ((*name).to_owned(), "x".to_owned()))
        .collect();
    for (name, default, _) in file.global_arguments() {
        let default = default.and_then(|text| words::expand(text, file.escape, &values).ok());
        if let Some(value) = default {
            values.insert(name.to_owned(), value);
        }
    }
    values
}

/// Whether all arguments of the line are declared before the first stage.
fn check_arguments(file: &Dockerfile, stage: &Stage, findings: &mut Findings) -> bool {
    let declared: Vec<&str> = file.global_arguments().map(|(name, ..)| name).collect();
    let known: Vec<&str> = declared
        .iter()
        .copied()
        .chain(PLATFORM_ARGUMENTS.iter().copied())
        .collect();
    let mut is_known = true;
    for text in [Some(&stage.base), stage.platform.as_ref()].into_iter().flatten() {
        for name in super::variables::needed_in(text, file.escape) {
            if known.contains(&name.as_str()) {
                continue;
            }
            is_known = false;
            let near = meant(nearest(&name, &known), "$");
            let message = format!("the argument {name} of FROM is not declared before the first stage{near}");
            findings.add("UndefinedArgInFrom", stage.place, message);
        }
    }
    is_known
}

fn check_platform(stage: &Stage, findings: &mut Findings) {
    let Some(platform) = &stage.platform else { return };
    if matches!(platform.as_str(), "$TARGETPLATFORM" | "${TARGETPLATFORM}") {
        let message = format!("--platform={platform} is what a stage has anyway");
        findings.add("RedundantTargetPlatform", stage.place, message);
        return;
    }
    // A stage that carries the platform in its name is chosen by it.
    let name = stage.name.as_deref().unwrap_or_default();
    let is_chosen = platform
        .split('/')
        .any(|part| !part.is_empty() && name.contains(part));
    if !platform.contains('$') && !is_chosen {
        let message =
            format!("--platform={platform} makes the image for one platform only: use an argument, or none");
        findings.add("FromPlatformFlagConstDisallowed", stage.place, message);
    }
}

fn check_default(
    earlier: &[Stage],
    stage: &Stage,
    escape: char,
    defaults: &BTreeMap<String, String>,
    facts: &Facts,
    findings: &mut Findings,
) {
    let Ok(name) = words::expand(&stage.base, escape, defaults) else {
        return;
    };
    let is_stage = find_named(earlier, &name).is_some();
    if name.is_empty() || !is_stage && !facts.contexts.contains(&name) && Reference::parse(&name).is_err() {
        let message = format!(
            "without build arguments the base {} becomes {name:?}, which is no image's name",
            stage.base
        );
        findings.add("InvalidDefaultArgInFrom", stage.place, message);
    }
}
