//! What a stage begins with: an image, another stage, a named context, or nothing.

use super::solve::{Builder, Stage, StageHistory, TIME_REAL, time_of};
use super::{BuildStep, NamedContext, Teller};
use crate::error::{EngineError, Result};
use crate::images::{PullRequest, Teller as TransferTeller, TransferStep};
use naru_base::{ErrorKind, Timestamp};
use naru_build::configure::StageState;
use naru_build::stages::{PlannedStage, Source};
use naru_content::Image;
use naru_oci::{ContainerConfig, ImageConfig, Platform, Reference};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Where commands are looked for in an image that stands on nothing.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Builder {
    pub(super) async fn begin_stage(&self, planned: &PlannedStage, teller: &Teller) -> Result<Stage> {
        let mut stage = match &planned.base {
            Source::Stage(index) => {
                let base = self.stage_done(*index)?;
                // What the base has declared is not declared here; its command is a base's.
                return Ok(Stage {
                    state: StageState::new(base.state.config.clone()),
                    teller: teller.clone(),
                    ..base
                });
            }
            Source::Context(name) => match self.request.contexts.get(name) {
                Some(NamedContext::Image(image)) => {
                    let platform = planned.platform.as_deref().map(parse_platform).transpose()?;
                    let image = self.base_image(image, platform).await?;
                    stage_of(image, teller)
                }
                _ => {
                    return Err(EngineError::invalid(format!(
                        "a stage cannot begin with the named context {name}: it holds files, not an image; copy from it \
                         with COPY --from={name}"
                    )));
                }
            },
            Source::Scratch => {
                let platform = self.request.platform.clone().unwrap_or_else(Platform::host);
                let config = ImageConfig {
                    os: platform.os,
                    architecture: platform.architecture,
                    variant: platform.variant,
                    config: ContainerConfig {
                        env: vec![format!("PATH={PATH_DEFAULT}")],
                        ..ContainerConfig::default()
                    },
                    ..ImageConfig::default()
                };
                Stage {
                    image: None,
                    state: StageState::new(config),
                    time: 0,
                    history: StageHistory::default(),
                    teller: teller.clone(),
                }
            }
            Source::Image(name) => {
                let platform = planned.platform.as_deref().map(parse_platform).transpose()?;
                let image = self.base_image(name, platform).await?;
                stage_of(image, teller)
            }
        };
        if let Some(time) = self.source_date()? {
            stage.time = time;
        }
        stage.state.config.created = Some(time_of(stage.time));
        Ok(stage)
    }

    /// `SOURCE_DATE_EPOCH`: seconds.
    fn source_date(&self) -> Result<Option<i64>> {
        let given = self.request.arguments.get("SOURCE_DATE_EPOCH").cloned().flatten();
        let real = self.request.real_times.then_some(TIME_REAL);
        let Some(text) = given.filter(|text| !text.is_empty()) else {
            return Ok(real);
        };
        if real.is_some() {
            return Err(EngineError::invalid(
                "SOURCE_DATE_EPOCH and real times cannot both be asked for: leave one out",
            ));
        }
        let seconds = text.parse().ok().filter(|seconds| *seconds >= 0);
        seconds.map(Some).ok_or_else(|| {
            EngineError::invalid(format!(
                "SOURCE_DATE_EPOCH must be seconds since 1970, not {text:?}"
            ))
        })
    }

    pub(super) async fn base_image(&self, name: &str, platform: Option<Platform>) -> Result<Arc<Image>> {
        let image = self.find_base_image(name, platform).await?;
        self.gather_image(name, &image);
        Ok(image)
    }

    async fn find_base_image(&self, name: &str, platform: Option<Platform>) -> Result<Arc<Image>> {
        if !self.request.pull {
            match self.engine.content.image(name).map_err(crate::images::error) {
                Err(error) if error.kind == ErrorKind::NotFound => {}
                found => return found,
            }
        }
        let reference = Reference::parse(name).map_err(|error| EngineError::invalid(error.to_string()))?;
        let reference = reference.or_latest();
        let request = PullRequest {
            credentials: self.credentials_for(&reference).await?,
            reference: reference.clone(),
            has_all_tags: false,
            platform: platform.or_else(|| self.request.platform.clone()),
        };
        let (steps, mut told) = mpsc::channel(64);
        let engine = Arc::clone(&self.engine);
        let work =
            tokio::task::spawn_blocking(move || engine.pull_image(&request, &TransferTeller::new(steps)));
        while let Some(step) = told.recv().await {
            if let TransferStep::Status { id, text } = step {
                let text = id.map_or_else(|| format!("{text}\n"), |id| format!("{id}: {text}\n"));
                self.teller.tell(BuildStep::Note(text)).await;
            }
        }
        let pulled = work
            .await
            .unwrap_or_else(|error| Err(EngineError::system(error.to_string())));
        match (pulled, self.engine.content.image(name)) {
            (Err(error), _) => Err(error),
            (Ok(()), found) => found.map_err(crate::images::error),
        }
    }

    pub(super) async fn credentials_for(
        &self,
        reference: &Reference,
    ) -> Result<Option<naru_registry::Credentials>> {
        let name = reference.to_string();
        let registry = name.split('/').next().unwrap_or_default();
        let known = &self.request.credentials;
        let given = known.get(registry).or_else(|| {
            known
                .get("https://index.docker.io/v1/")
                .filter(|_| registry == "docker.io")
        });
        match (given, &self.request.client) {
            (Some(given), _) => Ok(Some(given.clone())),
            (None, Some(client)) => client.credentials(registry).await,
            (None, None) => Ok(None),
        }
    }
}

fn stage_of(image: Arc<Image>, teller: &Teller) -> Stage {
    let mut config = ImageConfig::clone(&image.config);
    // Where it was made, not what it is.
    config.container = String::new();
    config.comment = String::new();
    // Of its own steps, not of those made on it.
    config.cache = None;
    Stage {
        time: image.created.map_or(0, Timestamp::as_second),
        history: StageHistory::default(),
        image: Some(image),
        state: StageState::new(config),
        teller: teller.clone(),
    }
}

fn parse_platform(text: &str) -> Result<Platform> {
    Platform::parse(text)
        .ok_or_else(|| EngineError::invalid(format!("\"{text}\": unknown operating system or architecture")))
}
