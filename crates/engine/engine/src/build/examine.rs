//! A Dockerfile that is read and not built: what it is warned of, and what a build of it can be given.

use super::{BuildRequest, ContextSource, dockerfile_name, located};
use crate::Engine;
use crate::error::{EngineError, Result};
use naru_build::check::{self, Facts, Finding, Report};
use naru_build::ignore::Ignore;
use naru_build::outline::{self, Outline};
use naru_build::stages::{self, PlanOptions};
use naru_build::{Dockerfile, DockerfileError};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What takes the place of a file's `# check=`; BuildKit's name for it.
pub(super) const CHECK_ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// Warnings told at the end of a build; all of them are told by a check alone.
const WARNINGS_MAX: usize = 20;

/// What is probably not meant in a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warnings {
    /// What people call the file, and what is in it.
    pub file: String,
    pub text: String,
    /// In the order of the file.
    pub findings: Vec<Finding>,
}

impl Warnings {
    /// Those that the end of a build tells, and how many there are besides.
    pub fn told(&self) -> (&[Finding], usize) {
        let count = self.findings.len().min(WARNINGS_MAX);
        (&self.findings[..count], self.findings.len() - count)
    }

    /// The same as lines without their ends.
    pub fn lines(&self) -> Vec<String> {
        let (told, more) = self.told();
        let lines = told.iter().map(|one| {
            let (line, rule, message) = (one.place.line, one.rule, &one.message);
            format!("{}:{line}: {rule}: {message}", self.file)
        });
        lines
            .chain((more > 0).then(|| format!("… and {more} more")))
            .collect()
    }
}

/// A Dockerfile as far as it could be read.
#[derive(Debug)]
pub struct Examined {
    /// What people call the file, and what is in it.
    pub name: String,
    pub text: String,
    pub file: std::result::Result<Dockerfile, DockerfileError>,
    request: BuildRequest,
}

impl Examined {
    /// The file; an error tells the place, as that of a build does.
    pub fn readable(&self) -> Result<&Dockerfile> {
        self.file.as_ref().map_err(|error| self.located(error))
    }

    /// What the target of the request can be given.
    pub fn outline(&self) -> Result<Outline> {
        let file = self.readable()?;
        let options = plan_options(&self.request);
        let wrong = |error| self.located(&error);
        let plan = stages::plan(file, &options).map_err(wrong)?;
        outline::outline(file, &plan, &options.build_arguments).map_err(wrong)
    }

    fn located(&self, error: &DockerfileError) -> EngineError {
        located(
            &self.request.dockerfile,
            &self.text,
            error.place,
            error.clone().into(),
        )
    }
}

impl Engine {
    /// Reads the Dockerfile of a request and builds nothing.
    pub async fn examine_dockerfile(
        self: &Arc<Self>,
        mut request: BuildRequest,
        context: ContextSource,
    ) -> Result<Examined> {
        let opened = self.open_build(&mut request, context).await?;
        Ok(Examined {
            name: dockerfile_name(&request.dockerfile).to_owned(),
            file: naru_build::parse(&opened.text),
            text: String::from_utf8_lossy(&opened.text).into_owned(),
            request,
        })
    }

    /// What an examined file is warned of; `ignore` is what its context leaves out, where that is known.
    pub fn check_examined(
        &self,
        examined: &Examined,
        ignore: Option<&Ignore>,
    ) -> std::result::Result<Vec<Finding>, DockerfileError> {
        let file = examined.file.as_ref().map_err(Clone::clone)?;
        let report = self.check_dockerfile(file, &examined.request, ignore)?;
        Ok(report.findings)
    }

    pub(super) fn check_dockerfile(
        &self,
        file: &Dockerfile,
        request: &BuildRequest,
        ignore: Option<&Ignore>,
    ) -> std::result::Result<Report, DockerfileError> {
        let environment = |name: &str| {
            let image = self.content.image(name).ok()?;
            Some(image.config.config.env.clone())
        };
        let given = request.arguments.get(CHECK_ARGUMENT);
        let facts = Facts {
            environment: Some(&environment),
            ignore,
            contexts: context_names(request),
            directive: given.and_then(|value| value.as_deref()),
        };
        check::check(file, &facts)
    }
}

pub(super) fn context_names(request: &BuildRequest) -> BTreeSet<String> {
    request.contexts.keys().cloned().collect()
}

/// What of a request decides which stages it needs.
pub(super) fn plan_options(request: &BuildRequest) -> PlanOptions<'_> {
    let given = request.arguments.iter();
    PlanOptions {
        target: request.target.as_deref(),
        build_arguments: given
            .filter_map(|(name, value)| Some((name.clone(), value.clone()?)))
            .collect(),
        platform_arguments: stages::platform_arguments(request.platform.as_ref()),
        contexts: context_names(request),
    }
}
