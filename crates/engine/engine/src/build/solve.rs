//! One build: its stages side by side as far as they need not wait for each other, each instruction a step.

use super::arguments::OF_THE_BUILDER;
use super::attest::Gathered;
use super::cache::{self, PendingStep};
use super::context::Context;
use super::examine::{self, CHECK_ARGUMENT, Warnings};
use super::exchange::{Imported, Steps};
use super::in_use::Uses;
use super::packed::PackedTree;
use super::{BuildRequest, BuildStep, Teller, layer, reproducible};
use crate::Engine;
use crate::archive::blocking;
use crate::archive::place::{self, Asked};
use crate::error::{EngineError, Result};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, try_join_all};
use naru_base::{Digest, Timestamp};
use naru_build::check;
use naru_build::configure::{PREDEFINED_ARGUMENTS, StageState};
use naru_build::stages::{self, PlannedStage, Source, StagePlan};
use naru_build::{Dockerfile, Instruction, Line, Place, parse_instruction};
use naru_content::{Image, LoadedImage};
use naru_oci::History;
use naru_runtime::view::View;
use rustix::fs::OFlags;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// In the place of a time: files keep theirs.
pub(super) const TIME_REAL: i64 = i64::MAX;

/// A stage as far as it has come.
#[derive(Debug, Clone)]
pub(super) struct Stage {
    /// The image that holds its layers; nothing stands on nothing.
    pub image: Option<Arc<Image>>,
    pub state: StageState,
    /// Of everything made in it, in seconds since the epoch.
    pub time: i64,
    pub history: StageHistory,
    pub teller: Teller,
}

/// Where a stage is in its file, to tell why its steps are made.
#[derive(Debug, Clone, Default)]
pub(super) struct StageHistory {
    /// What it stands on, as the file has it.
    pub base: String,
    /// Of all instructions up to here.
    pub place: Option<Digest>,
    /// The line of the last step that was made anew.
    pub made_anew: Option<usize>,
    /// Its steps are made, whether they were before or not.
    pub ignores_cache: bool,
}

impl Stage {
    pub(super) fn layers(&self) -> &[Digest] {
        self.image.as_ref().map_or(&[], |image| &image.layers)
    }

    /// Stands on a step's result from now on; whether that is a new layer.
    pub(super) fn advance(&mut self, image: Arc<Image>) -> bool {
        let is_new = image.layers.len() > self.layers().len();
        self.image = Some(image);
        is_new
    }
}

pub(super) struct Builder {
    pub engine: Arc<Engine>,
    pub request: BuildRequest,
    pub context: Arc<Context>,
    pub file: Dockerfile,
    pub teller: Teller,
    /// Named contexts that were fetched.
    pub named: tokio::sync::Mutex<HashMap<String, Arc<PackedTree>>>,
    known: Mutex<Known>,
    /// What nobody may prune meanwhile.
    uses: Arc<Uses>,
    /// Caches of other engines; opened before the first step.
    pub caches: OnceLock<Vec<Imported>>,
    steps: Mutex<Steps>,
    /// What was used, for a provenance; also of trials.
    pub gathered: Arc<Mutex<Gathered>>,
    /// Made to be compared: the image gets no name, and nobody is told of it.
    is_trial: bool,
}

/// What stages have found out, for each other.
#[derive(Debug, Default)]
struct Known {
    done: HashMap<usize, Stage>,
    arguments_used: BTreeSet<String>,
}

/// A stage being built, for everybody who waits for it.
type Building = Shared<BoxFuture<'static, Result<Stage>>>;

impl Builder {
    pub(super) fn new(
        engine: Arc<Engine>,
        request: BuildRequest,
        context: Context,
        file: Dockerfile,
        teller: Teller,
    ) -> Self {
        Self {
            uses: Arc::new(engine.builds.in_use.begin()),
            engine,
            request,
            context: Arc::new(context),
            file,
            teller,
            named: tokio::sync::Mutex::default(),
            known: Mutex::default(),
            caches: OnceLock::new(),
            steps: Mutex::default(),
            gathered: Arc::default(),
            is_trial: false,
        }
    }

    /// Contexts that are there already.
    pub(super) fn with_named(mut self, named: HashMap<String, Arc<PackedTree>>) -> Self {
        self.named = named.into();
        self
    }

    /// What was used before the first step.
    pub(super) fn with_gathered(mut self, gathered: Gathered) -> Self {
        self.gathered = Arc::new(Mutex::new(gathered));
        self
    }

    /// Whether something is to be attested of the result.
    pub(super) fn is_attested(&self) -> bool {
        !self.request.attest.is_empty()
    }

    /// What holds the build's results.
    pub(super) fn uses(&self) -> Arc<Uses> {
        Arc::clone(&self.uses)
    }

    fn steps(&self) -> MutexGuard<'_, Steps> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a cache mount of a step, whether that is made or found.
    pub(super) fn note_mount(&self, name: String) {
        self.steps().note_mount(name);
    }

    pub(super) fn steps_made(&self) -> Steps {
        self.steps().clone()
    }

    /// Notes what a step made, for the next build and for caches that are sent.
    pub(super) fn keep_step(&self, key: &Digest, image: &Arc<Image>, description: &str) -> Result<()> {
        self.steps().note(key, image);
        self.engine.note_step(key, &image.id, description)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stage that was waited for.
    pub(super) fn stage_done(&self, index: usize) -> Result<Stage> {
        let stage = self.known().done.get(&index).cloned();
        stage.ok_or_else(|| EngineError::system("a stage is missing"))
    }

    fn set_done(&self, index: usize, stage: Stage) {
        self.gather_stage(index, &stage);
        self.known().done.insert(index, stage);
    }

    pub(super) fn source_of(&self, from: &str) -> Source {
        stages::copy_source(&self.file, from, &self.context_names())
    }

    fn context_names(&self) -> BTreeSet<String> {
        examine::context_names(&self.request)
    }

    /// An error with the place in the Dockerfile that it is about.
    pub(super) fn located(&self, place: Place, error: EngineError) -> EngineError {
        super::located(&self.request.dockerfile, &self.file.text, place, error)
    }

    /// A step's error with its place, and the stage that may have been meant.
    fn step_failed(&self, line: &Line<Instruction>, place: Place, mut error: EngineError) -> EngineError {
        if naru_build::excerpt::is_located(&error.message) {
            return error;
        }
        if let Some(hint) = stages::hint_for(&self.file, &line.value, &self.context_names()) {
            error.message = format!("{}: {hint}", error.message);
        }
        self.located(place, error)
    }

    /// As [`Self::step_failed`], for a stage that cannot begin.
    fn base_failed(&self, planned: &PlannedStage, mut error: EngineError) -> EngineError {
        let stage = &self.file.stages[planned.index];
        if let Source::Image(name) = &planned.base
            && let Some(near) = stages::stage_meant(&self.file, name)
            && stage.name.as_deref() != Some(near)
        {
            error.message = format!(
                "{}: no stage is called {name} (did you mean {near}?)",
                error.message
            );
        }
        self.located(stage.place, error)
    }

    /// The same build without the cache, to be compared.
    async fn trial(&self) -> Result<Digest> {
        let trial = Self {
            engine: Arc::clone(&self.engine),
            request: BuildRequest {
                no_cache: true,
                ..self.request.clone()
            },
            context: Arc::clone(&self.context),
            file: self.file.clone(),
            teller: self.teller.anew(),
            named: self.named.lock().await.clone().into(),
            known: Mutex::default(),
            uses: self.uses(),
            caches: OnceLock::new(),
            steps: Mutex::default(),
            gathered: Arc::clone(&self.gathered),
            is_trial: true,
        };
        trial.run_once().await
    }

    /// Builds; or builds twice, if that was asked for, and refuses what is not the same.
    pub(super) async fn run(self) -> Result<Digest> {
        if !self.request.check_reproducible {
            return self.run_once().await;
        }
        let first = self.trial().await?;
        let told = format!("Built {}; building again to compare\n", first.short());
        self.teller.tell(BuildStep::Note(told)).await;
        let second = self.trial().await?;
        reproducible::compare(&self, first.clone(), second).await?;
        let told = "Reproducible: both builds made the same image\n".to_owned();
        self.teller.tell(BuildStep::Note(told)).await;
        self.publish(first).await
    }

    async fn run_once(self) -> Result<Digest> {
        let plan = stages::plan(&self.file, &examine::plan_options(&self.request)).map_err(|error| {
            let place = error.place;
            self.located(place, error.into())
        })?;
        let plan = Arc::new(plan);
        let warnings = self.check_file()?;
        let declared = self.file.global_arguments().map(|(name, ..)| name.to_owned());
        self.known().arguments_used.extend(declared);
        let builder = Arc::new(self);
        let _ = builder.caches.set(builder.open_caches().await);
        let mut building: HashMap<usize, Building> = HashMap::new();
        let mut steps_before = 0;
        for (position, planned) in plan.stages.iter().enumerate() {
            let needs: Vec<Building> = planned
                .needs
                .iter()
                .filter_map(|need| building.get(need).cloned())
                .collect();
            let work = StageWork {
                builder: Arc::clone(&builder),
                plan: Arc::clone(&plan),
                planned: planned.clone(),
                teller: builder.teller.of_stage(position),
                steps_told: steps_before,
            };
            steps_before += 1 + builder.file.stages[planned.index].instructions.len();
            building.insert(planned.index, work.run(needs).boxed().shared());
        }
        try_join_all(building.into_values()).await?;
        let target = plan.stages.last().map_or(0, |planned| planned.index);
        let stage = builder.stage_done(target)?;
        if builder.is_trial {
            return builder.finish(stage).await;
        }
        builder.warn_of_unused_arguments().await;
        if !warnings.findings.is_empty() {
            builder.teller.tell(BuildStep::Warned(Box::new(warnings))).await;
        }
        let id = builder.finish(stage).await?;
        let id = builder.publish(id).await?;
        builder.send_caches(&id).await?;
        builder.forget_failed().await?;
        Ok(id)
    }

    /// What the file is warned of; an error where it, or whoever builds, wants none.
    fn check_file(&self) -> Result<Warnings> {
        let report = self.engine.check_dockerfile(&self.file, &self.request, None);
        let report = report.map_err(|error| {
            let place = error.place;
            self.located(place, error.into())
        })?;
        let file = super::dockerfile_name(&self.request.dockerfile);
        if report.is_error {
            return Err(EngineError::invalid(check::shown(
                &report.findings,
                file,
                &self.file.text,
            )));
        }
        Ok(Warnings {
            file: file.to_owned(),
            text: self.file.text.clone(),
            findings: report.findings,
        })
    }

    async fn warn_of_unused_arguments(&self) {
        let used = self.known().arguments_used.clone();
        let is_unused = |name: &&String| {
            !used.contains(*name)
                && !PREDEFINED_ARGUMENTS.contains(&name.as_str())
                && name.as_str() != CHECK_ARGUMENT
                && !OF_THE_BUILDER.contains(&name.as_str())
        };
        let unused: Vec<&str> = self
            .request
            .arguments
            .keys()
            .filter(is_unused)
            .map(String::as_str)
            .collect();
        if !unused.is_empty() {
            let text = format!(
                "[Warning] One or more build-args [{}] were not consumed\n",
                unused.join(" ")
            );
            self.teller.tell(BuildStep::Note(text)).await;
        }
    }

    /// One instruction.
    async fn step(&self, stage: &mut Stage, line: &Line<Instruction>, plan: &StagePlan) -> Result<()> {
        let made = self.make_step(stage, line, plan).await;
        stage.history.place = Some(cache::key_of(&(&stage.history.place, &line.text)));
        made
    }

    async fn make_step(&self, stage: &mut Stage, line: &Line<Instruction>, plan: &StagePlan) -> Result<()> {
        let has_layer = match &line.value {
            Instruction::Run(run) => {
                self.gather_mounts(run);
                self.run_command(stage, line, run).await?
            }
            Instruction::Copy(transfer) => self.bring(stage, line, transfer, false).await?,
            Instruction::Add(transfer) => self.bring(stage, line, transfer, true).await?,
            Instruction::Arg(arguments) => {
                self.declare(stage, line, arguments, plan)?;
                false
            }
            Instruction::StopSignal(signal) => {
                let signal = stage.state.expand(line, signal, self.file.escape)?;
                crate::containers::parse_signal(&signal).map_err(|error| wrong(line, error.message))?;
                stage.state.apply(line, self.file.escape)?;
                false
            }
            Instruction::Workdir(_) => {
                stage.state.apply(line, self.file.escape)?;
                self.make_working_directory(stage, line).await?
            }
            _ => {
                stage.state.apply(line, self.file.escape)?;
                false
            }
        };
        stage.state.config.history.push(History {
            created: Some(time_of(stage.time)),
            created_by: described(stage, line),
            author: stage.state.config.author.clone(),
            comment: "naru.dockerfile".to_owned(),
            empty_layer: !has_layer,
        });
        Ok(())
    }

    fn declare(
        &self,
        stage: &mut Stage,
        line: &Line<Instruction>,
        arguments: &[(String, Option<String>)],
        plan: &StagePlan,
    ) -> Result<()> {
        for (name, default) in arguments {
            let name = stage.state.expand(line, name, self.file.escape)?;
            self.known().arguments_used.insert(name.clone());
            let given = self.request.arguments.get(&name).cloned().flatten();
            let default = default
                .as_ref()
                .map(|text| stage.state.expand(line, text, self.file.escape))
                .transpose()?;
            let value = given.or(default).or_else(|| plan.arguments.get(&name).cloned());
            if let Some(value) = value {
                stage.state.arguments.insert(name, value);
            }
        }
        Ok(())
    }

    /// A step that is about to be made. Of builds that make the same one at once, one makes it.
    pub(super) async fn begin_step(&self, key: Digest, stage: &Stage) -> PendingStep {
        if stage.history.ignores_cache {
            return PendingStep::alone(key);
        }
        self.engine.builds.begin(key).await
    }

    /// What the step made before.
    pub(super) async fn cached(
        &self,
        step: &PendingStep,
        stage: &Stage,
        description: &str,
    ) -> Option<Arc<Image>> {
        let image = self.find_step(&step.key, stage, description).await?;
        let cached = BuildStep::Cached(image.id.short().to_owned());
        stage.teller.tell(cached).await;
        Some(image)
    }

    /// What a step made before: here, or where a cache was taken from.
    async fn find_step(&self, key: &Digest, stage: &Stage, description: &str) -> Option<Arc<Image>> {
        if stage.history.ignores_cache {
            return None;
        }
        let image = match self.engine.cached_step(key, &self.uses) {
            Some(image) => image,
            None => self.import_step(key, stage, description).await?,
        };
        self.steps().note(key, &image);
        Some(image)
    }

    /// The image that a stage's next layer is made on.
    pub(super) async fn holder(&self, stage: &Stage) -> Result<Arc<Image>> {
        if let Some(image) = &stage.image {
            return Ok(Arc::clone(image));
        }
        let content = Arc::clone(&self.engine.content);
        blocking(move || {
            let made = content
                .configure_step(&[], super::bring::plain_config())
                .map_err(crate::images::error)?;
            content.image(made.id.as_str()).map_err(crate::images::error)
        })
        .await
    }

    /// The directory of `WORKDIR`, where there is none yet.
    async fn make_working_directory(&self, stage: &mut Stage, line: &Line<Instruction>) -> Result<bool> {
        let path = stage.state.config.config.working_dir.clone();
        let key = cache::key_of(&("workdir", stage.layers(), &path, stage.time));
        if let Some(image) = self.find_step(&key, stage, &line.text).await {
            return Ok(stage.advance(image));
        }
        let make = move |view: &View| {
            let asked = Asked::parse(&path);
            if place::open(&view.root, &asked.path, OFlags::PATH | OFlags::DIRECTORY).is_ok() {
                return Ok(());
            }
            layer::make_target(&view.root, &asked.path, None)
        };
        let image = self
            .change_files(stage, make)
            .await
            .map_err(|error| wrong(line, error.message))?;
        self.keep_step(&key, &image, &line.text)?;
        Ok(stage.advance(image))
    }

    /// Makes the stage the image that was asked for.
    async fn finish(&self, mut stage: Stage) -> Result<Digest> {
        let labels = self.request.labels.clone();
        if !labels.is_empty() {
            let words: Vec<String> = labels
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            stage.state.config.config.labels.extend(labels);
            stage.state.config.history.push(History {
                created: stage.state.config.created,
                created_by: format!("LABEL {}", words.join(" ")),
                comment: "naru.dockerfile".to_owned(),
                empty_layer: true,
                ..History::default()
            });
        }
        let content = Arc::clone(&self.engine.content);
        let (image, mut config) = (stage.image, stage.state.config);
        if self.request.is_cache_carried() {
            config.cache = Some(self.steps().inline(image.as_deref())?);
        }
        blocking(move || {
            let layers = image.as_ref().map_or(&[][..], |image| &image.layers);
            let made = content.configure_step(layers, config);
            Ok(made.map_err(crate::images::error)?.id)
        })
        .await
    }

    /// Annotates an image as was asked for. Asked for nothing, it leaves what another build of the same image was asked
    /// for, unless nobody sees that any more.
    async fn annotate(&self, id: &Digest) -> Result<()> {
        let annotations = self.request.annotations()?;
        let (content, id) = (Arc::clone(&self.engine.content), id.clone());
        if annotations.is_empty() && (self.request.is_unlisted || content.is_listed(&id)) {
            return Ok(());
        }
        blocking(move || content.annotate(&id, annotations).map_err(crate::images::error)).await
    }

    /// Gives the image its names, and shows it to everybody.
    async fn publish(&self, id: Digest) -> Result<Digest> {
        self.attest(&id).await?;
        self.annotate(&id).await?;
        let (content, names) = (Arc::clone(&self.engine.content), self.request.names.clone());
        let is_unlisted = self.request.is_unlisted;
        let built = blocking(move || {
            if is_unlisted {
                let names = Vec::new();
                return Ok(LoadedImage { id, names });
            }
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            content.publish_step(&id, &names).map_err(crate::images::error)
        })
        .await?;
        for name in &built.names {
            self.engine.image_event("tag", built.id.as_str(), name);
        }
        let told = BuildStep::Built {
            id: built.id.clone(),
            names: built.names,
        };
        self.teller.tell(told).await;
        Ok(built.id)
    }
}

/// One stage on its way.
struct StageWork {
    builder: Arc<Builder>,
    plan: Arc<StagePlan>,
    planned: PlannedStage,
    teller: Teller,
    steps_told: usize,
}

impl StageWork {
    async fn run(mut self, needs: Vec<Building>) -> Result<Stage> {
        try_join_all(needs).await?;
        let built = self.build().await;
        match &built {
            Ok(stage) => {
                self.builder.set_done(self.planned.index, stage.clone());
                self.teller.end().await;
            }
            Err(_) => self.teller.fail().await,
        }
        built
    }

    async fn build(&mut self) -> Result<Stage> {
        let builder = Arc::clone(&self.builder);
        let file = &builder.file.stages[self.planned.index];
        self.tell_step(&file.text).await;
        let begun = builder.begin_stage(&self.planned, &self.teller).await;
        let mut stage = begun.map_err(|error| builder.base_failed(&self.planned, error))?;
        self.tell_made(&stage).await;
        stage.history = StageHistory {
            base: file.base.clone(),
            place: Some(builder.place_of_stage(&file.text)),
            made_anew: None,
            ignores_cache: builder.request.ignores_cache(file.name.as_deref()),
        };
        for trigger in std::mem::take(&mut stage.state.config.config.on_build) {
            let note = format!("# Executing build trigger: {trigger}\n");
            self.teller.tell(BuildStep::Note(note)).await;
            let line = parse_instruction(&trigger, Place::default())?;
            let made = builder.step(&mut stage, &line, &self.plan).await;
            made.map_err(|error| builder.step_failed(&line, file.place, error))?;
        }
        for line in &file.instructions {
            self.tell_step(&line.text).await;
            let made = builder.step(&mut stage, line, &self.plan).await;
            made.map_err(|error| builder.step_failed(line, line.place, error))?;
            self.tell_made(&stage).await;
        }
        Ok(stage)
    }

    async fn tell_step(&mut self, text: &str) {
        self.steps_told += 1;
        let file = &self.builder.file;
        let steps = |planned: &PlannedStage| 1 + file.stages[planned.index].instructions.len();
        let step = BuildStep::Begun {
            number: self.steps_told,
            total: self.plan.stages.iter().map(steps).sum(),
            text: text.to_owned(),
        };
        self.teller.tell(step).await;
    }

    async fn tell_made(&self, stage: &Stage) {
        if let Some(image) = &stage.image {
            let made = BuildStep::Made(image.id.short().to_owned());
            self.teller.tell(made).await;
        }
    }
}

/// When something was made that gets this time: with real times that is now.
pub(super) fn time_of(time: i64) -> Timestamp {
    if time == TIME_REAL {
        Timestamp::now()
    } else {
        Timestamp::from_parts(time, 0)
    }
}

/// What is wrong with a line.
pub(super) fn wrong<T>(line: &Line<T>, message: impl Into<String>) -> EngineError {
    naru_build::DockerfileError::new(line.place, message).into()
}

/// How a step reads in the image's history.
fn described(stage: &Stage, line: &Line<Instruction>) -> String {
    match &line.value {
        Instruction::Run(run) => {
            let words = naru_build::configure::words_of(&run.command, &stage.state.config.config);
            format!("RUN {}", words.join(" "))
        }
        _ => line.text.clone(),
    }
}
