//! One build: its stages in order, each instruction a step.

use super::context::{Context, open_directory};
use super::transfer::{self, Item, SourceTree, TransferOptions};
use super::{BuildRequest, BuildStep, Teller, cache};
use crate::Engine;
use crate::archive::blocking;
use crate::archive::place::{self, Asked};
use crate::error::{EngineError, Result};
use crate::images::{PullRequest, Teller as TransferTeller, TransferStep};
use naru_base::{ContainerId, Digest, ErrorKind, Timestamp};
use naru_build::configure::{PREDEFINED_ARGUMENTS, StageState, joined_path};
use naru_build::dockerfile::Transfer;
use naru_build::stages::{self, PlanOptions, PlannedStage, Source, StagePlan};
use naru_build::words;
use naru_build::{Dockerfile, Instruction, Line, Place, parse_instruction};
use naru_content::Image;
use naru_oci::{ContainerConfig, History, ImageConfig, Platform, Reference};
use naru_runtime::plan::RootfsPlan;
use naru_runtime::view::{self, Base, View};
use rustix::fs::OFlags;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Where commands are looked for in an image that stands on nothing.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A stage as far as it has come.
#[derive(Debug, Clone)]
pub(super) struct Stage {
    /// The image that holds its layers; nothing stands on nothing.
    pub image: Option<Arc<Image>>,
    pub state: StageState,
    /// Of everything made in it, in seconds since the epoch.
    pub time: i64,
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
    pub context: Context,
    pub file: Dockerfile,
    pub teller: Teller,
    done: HashMap<usize, Stage>,
    steps_told: usize,
    steps_total: usize,
    arguments_used: BTreeSet<String>,
}

/// All that can change what a `COPY` or `ADD` makes.
#[derive(Serialize)]
struct TransferInputs<'a> {
    step: &'static str,
    layers: &'a [Digest],
    content: &'a Digest,
    target: &'a str,
    chown: &'a str,
    chmod: Option<u32>,
    unpacks: bool,
    time: i64,
}

impl Builder {
    pub(super) fn new(
        engine: Arc<Engine>,
        request: BuildRequest,
        context: Context,
        file: Dockerfile,
        teller: Teller,
    ) -> Self {
        Self {
            engine,
            request,
            context,
            file,
            teller,
            done: HashMap::new(),
            steps_told: 0,
            steps_total: 0,
            arguments_used: BTreeSet::new(),
        }
    }

    pub(super) async fn run(mut self) -> Result<Digest> {
        let given = self.request.arguments.iter();
        let options = PlanOptions {
            target: self.request.target.as_deref(),
            build_arguments: given
                .filter_map(|(name, value)| Some((name.clone(), value.clone()?)))
                .collect(),
            platform_arguments: platform_arguments(self.request.platform.as_ref()),
            contexts: BTreeSet::new(),
        };
        let plan = stages::plan(&self.file, &options)?;
        self.arguments_used
            .extend(self.file.arguments.iter().map(|line| line.value.0.clone()));
        self.steps_total = plan
            .stages
            .iter()
            .map(|planned| 1 + self.file.stages[planned.index].instructions.len())
            .sum();
        for planned in &plan.stages {
            let stage = self.build_stage(planned, &plan).await?;
            self.done.insert(planned.index, stage);
        }
        let target = plan.stages.last().map_or(0, |planned| planned.index);
        self.warn_of_unused_arguments().await;
        let stage = self
            .done
            .remove(&target)
            .ok_or_else(|| EngineError::system("the build made no stage"))?;
        self.finish(stage).await
    }

    async fn warn_of_unused_arguments(&self) {
        let is_unused = |name: &&String| {
            !self.arguments_used.contains(*name)
                && !PREDEFINED_ARGUMENTS.contains(&name.as_str())
                && *name != "SOURCE_DATE_EPOCH"
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

    async fn tell_step(&mut self, text: &str) {
        self.steps_told += 1;
        let step = BuildStep::Begun {
            number: self.steps_told,
            total: self.steps_total,
            text: text.to_owned(),
        };
        self.teller.tell(step).await;
    }

    async fn build_stage(&mut self, planned: &PlannedStage, plan: &StagePlan) -> Result<Stage> {
        let file = &self.file.stages[planned.index];
        let (text, instructions) = (file.text.clone(), file.instructions.clone());
        self.tell_step(&text).await;
        let mut stage = self.begin_stage(planned).await?;
        self.tell_made(&stage).await;
        for trigger in std::mem::take(&mut stage.state.config.config.on_build) {
            let note = format!("# Executing build trigger: {trigger}\n");
            self.teller.tell(BuildStep::Note(note)).await;
            let line = parse_instruction(&trigger, Place::default())?;
            self.step(&mut stage, &line, plan).await?;
        }
        for line in &instructions {
            self.tell_step(&line.text).await;
            self.step(&mut stage, line, plan).await?;
            self.tell_made(&stage).await;
        }
        Ok(stage)
    }

    async fn tell_made(&self, stage: &Stage) {
        if let Some(image) = &stage.image {
            self.teller
                .tell(BuildStep::Made(image.id.short().to_owned()))
                .await;
        }
    }

    async fn begin_stage(&self, planned: &PlannedStage) -> Result<Stage> {
        let mut stage = match &planned.base {
            Source::Stage(index) => {
                let base = self
                    .done
                    .get(index)
                    .ok_or_else(|| EngineError::system("a stage is missing"))?;
                // What the base has declared is not declared here; its command is a base's.
                return Ok(Stage {
                    state: StageState::new(base.state.config.clone()),
                    ..base.clone()
                });
            }
            Source::Context(name) => {
                return Err(EngineError::invalid(format!(
                    "a stage from the named context {name} is not supported yet"
                )));
            }
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
                }
            }
            Source::Image(name) => {
                let platform = planned.platform.as_deref().map(parse_platform).transpose()?;
                let image = self.base_image(name, platform).await?;
                let mut config = ImageConfig::clone(&image.config);
                // Where it was made, not what it is.
                config.container = String::new();
                config.comment = String::new();
                Stage {
                    time: image.created.map_or(0, Timestamp::as_second),
                    image: Some(image),
                    state: StageState::new(config),
                }
            }
        };
        if let Some(time) = self.source_date()? {
            stage.time = time;
        }
        stage.state.config.created = Some(Timestamp::from_parts(stage.time, 0));
        Ok(stage)
    }

    /// `SOURCE_DATE_EPOCH`: seconds.
    fn source_date(&self) -> Result<Option<i64>> {
        let given = self.request.arguments.get("SOURCE_DATE_EPOCH").cloned().flatten();
        let Some(text) = given.filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let seconds = text.parse().ok().filter(|seconds| *seconds >= 0);
        seconds.map(Some).ok_or_else(|| {
            EngineError::invalid(format!(
                "SOURCE_DATE_EPOCH must be seconds since 1970, not {text:?}"
            ))
        })
    }

    async fn base_image(&self, name: &str, platform: Option<Platform>) -> Result<Arc<Image>> {
        if !self.request.pull {
            match self.engine.content.image(name).map_err(crate::images::error) {
                Err(error) if error.kind == ErrorKind::NotFound => {}
                found => return found,
            }
        }
        let reference = Reference::parse(name).map_err(|error| EngineError::invalid(error.to_string()))?;
        let reference = reference.or_latest();
        let request = PullRequest {
            credentials: self.credentials_for(&reference),
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

    fn credentials_for(&self, reference: &Reference) -> Option<naru_registry::Credentials> {
        let name = reference.to_string();
        let registry = name.split('/').next().unwrap_or_default();
        let known = &self.request.credentials;
        known
            .get(registry)
            .or_else(|| {
                known
                    .get("https://index.docker.io/v1/")
                    .filter(|_| registry == "docker.io")
            })
            .cloned()
    }

    /// One instruction.
    async fn step(&mut self, stage: &mut Stage, line: &Line<Instruction>, plan: &StagePlan) -> Result<()> {
        let has_layer = match &line.value {
            Instruction::Run(run) => self.run_command(stage, line, run).await?,
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
            created: Some(Timestamp::from_parts(stage.time, 0)),
            created_by: described(stage, line),
            author: stage.state.config.author.clone(),
            comment: "naru.dockerfile".to_owned(),
            empty_layer: !has_layer,
        });
        Ok(())
    }

    fn declare(
        &mut self,
        stage: &mut Stage,
        line: &Line<Instruction>,
        arguments: &[(String, Option<String>)],
        plan: &StagePlan,
    ) -> Result<()> {
        for (name, default) in arguments {
            let name = stage.state.expand(line, name, self.file.escape)?;
            self.arguments_used.insert(name.clone());
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

    pub(super) async fn cached(&self, key: &Digest) -> Option<Arc<Image>> {
        if self.request.no_cache {
            return None;
        }
        let image = self.engine.cached_step(key)?;
        self.teller
            .tell(BuildStep::Cached(image.id.short().to_owned()))
            .await;
        Some(image)
    }

    /// The image that a stage's next layer is made on.
    pub(super) async fn holder(&self, stage: &Stage) -> Result<Arc<Image>> {
        if let Some(image) = &stage.image {
            return Ok(Arc::clone(image));
        }
        let content = Arc::clone(&self.engine.content);
        blocking(move || {
            let config = ImageConfig {
                os: "linux".to_owned(),
                ..ImageConfig::default()
            };
            let made = content
                .configure_step(None, config)
                .map_err(crate::images::error)?;
            content.image(made.id.as_str()).map_err(crate::images::error)
        })
        .await
    }

    async fn bring(
        &mut self,
        stage: &mut Stage,
        line: &Line<Instruction>,
        transfer: &Transfer,
        is_add: bool,
    ) -> Result<bool> {
        let wanted = self.resolve_transfer(stage, line, transfer, is_add)?;
        let tree = self
            .source_tree(transfer)
            .await
            .map_err(|error| copy_failed(line, &error))?;
        let sources = wanted.sources.clone();
        let (mode, texts) = (wanted.options.mode, wanted.texts);
        let (tree, items, content) = blocking(move || {
            let mut items = transfer::find_items(&tree, &sources)?;
            items.extend(texts);
            let content = transfer::digest_items(&tree, &items, mode)?;
            Ok((tree, items, content))
        })
        .await
        .map_err(|error| copy_failed(line, &error))?;
        let inputs = TransferInputs {
            step: "transfer",
            layers: stage.layers(),
            content: &content,
            target: &wanted.options.target,
            chown: &wanted.chown,
            chmod: wanted.options.mode,
            unpacks: wanted.options.unpacks,
            time: stage.time,
        };
        let key = cache::key_of(&inputs);
        if let Some(image) = self.cached(&key).await {
            return Ok(stage.advance(image));
        }
        let (mut options, chown) = (wanted.options, wanted.chown);
        let put = move |view: &View| {
            if !chown.is_empty() {
                options.owner = Some(owner_of(view, &chown)?);
            }
            transfer::put_items(tree, items, &view.root, &options)
        };
        let image = self
            .change_files(stage, put)
            .await
            .map_err(|error| copy_failed(line, &error))?;
        self.engine.note_step(&key, &image.id, &line.text)?;
        Ok(stage.advance(image))
    }

    fn resolve_transfer(
        &self,
        stage: &Stage,
        line: &Line<Instruction>,
        transfer: &Transfer,
        is_add: bool,
    ) -> Result<ResolvedTransfer> {
        let escape = self.file.escape;
        let expand = |text: &str| stage.state.expand(line, text, escape);
        for (is_asked, what) in [
            (transfer.parents, "COPY --parents"),
            (!transfer.excludes.is_empty(), "--exclude"),
            (transfer.checksum.is_some(), "ADD --checksum"),
            (transfer.keep_git_dir, "ADD --keep-git-dir"),
        ] {
            if is_asked {
                return Err(wrong(line, format!("{what} is not supported yet")));
            }
        }
        let sources = transfer
            .sources
            .iter()
            .map(|source| expand(source))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let is_remote = |source: &&String| {
            ["http://", "https://", "git://", "git@"]
                .iter()
                .any(|prefix| source.starts_with(prefix))
        };
        if let Some(remote) = sources.iter().find(is_remote).filter(|_| is_add) {
            return Err(wrong(
                line,
                format!("adding {remote}: remote sources are not supported yet; fetch it in a RUN"),
            ));
        }
        let target = expand(&transfer.target)?;
        let is_directory = target.ends_with('/') || target.ends_with("/.") || target == ".";
        let mut target = joined_path(&stage.state.config.config.working_dir, &target);
        if is_directory && target != "/" {
            target.push('/');
        }
        let mode = transfer.chmod.as_deref().map(expand).transpose()?;
        let mode = mode
            .map(|text| {
                u32::from_str_radix(&text, 8)
                    .ok()
                    .filter(|mode| *mode <= 0o7777)
                    .ok_or_else(|| wrong(line, format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777")))
            })
            .transpose()?;
        let texts = transfer
            .heredocs
            .iter()
            .map(|heredoc| {
                let content = if heredoc.expands {
                    expand_text(&heredoc.content, &stage.state, escape)
                } else {
                    Ok(heredoc.content.clone())
                };
                let content = content.map_err(|message| wrong(line, message))?;
                Ok(Item::Text {
                    name: heredoc.name.clone(),
                    content: content.into_bytes(),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(ResolvedTransfer {
            sources,
            texts,
            chown: transfer
                .chown
                .as_deref()
                .map(expand)
                .transpose()?
                .unwrap_or_default(),
            options: TransferOptions {
                target,
                owner: None,
                mode,
                unpacks: transfer.unpack.unwrap_or(is_add),
                time: stage.time,
            },
        })
    }

    /// Where a transfer's sources are.
    async fn source_tree(&self, transfer: &Transfer) -> Result<SourceTree> {
        let Some(from) = &transfer.from else {
            return Ok(SourceTree {
                root: open_directory(&self.context.root())?,
                name: "build context".to_owned(),
                keeps_owners: false,
            });
        };
        let image = match stages::copy_source(&self.file, from, &BTreeSet::new()) {
            Source::Stage(index) => self.done.get(&index).and_then(|stage| stage.image.clone()),
            Source::Scratch | Source::Context(_) => None,
            Source::Image(name) => Some(self.base_image(&name, None).await?),
        };
        let Some(image) = image else {
            return Err(EngineError::invalid(format!("{from} has no files")));
        };
        let content = Arc::clone(&self.engine.content);
        let name = from.clone();
        blocking(move || {
            let layers = content.image_layers(&image);
            let root = match &layers[..] {
                [] => return Err(EngineError::invalid(format!("{name} has no files"))),
                // One directory is no overlay.
                [only] => open_directory(only)?,
                several => {
                    let view = view::on_own_thread(|| view::layers(several));
                    view.map_err(|failure| EngineError::system(failure.message))?.root
                }
            };
            Ok(SourceTree {
                root,
                name,
                keeps_owners: true,
            })
        })
        .await
    }

    /// Lets `change` write on a stage's layers; what it has written is the next one.
    async fn change_files(
        &self,
        stage: &Stage,
        change: impl FnOnce(&View) -> Result<()> + Send + 'static,
    ) -> Result<Arc<Image>> {
        let holder = self.holder(stage).await?;
        let id = ContainerId::generate();
        let (content, snapshot_of) = (Arc::clone(&self.engine.content), id.clone());
        let changed = blocking(move || {
            let snapshot = content
                .create_snapshot(&snapshot_of, &holder.id)
                .map_err(crate::images::error)?;
            let rootfs = RootfsPlan::Overlay {
                lower: snapshot.lower,
                upper: snapshot.upper,
                work: snapshot.work,
            };
            let view = view::on_own_thread(|| view::stopped(&Base::Writable(&rootfs), &[]))
                .map_err(|failure| EngineError::system(failure.message))?;
            change(&view.ok_or_else(|| EngineError::system("cannot put the stage's files together"))?)
        })
        .await;
        let made = match changed {
            Ok(()) => self.adopt(&id, stage.time).await,
            Err(error) => Err(error),
        };
        let content = Arc::clone(&self.engine.content);
        blocking(move || content.remove_snapshot(&id).map_err(crate::images::error)).await?;
        made
    }

    /// The directory of `WORKDIR`, where there is none yet.
    async fn make_working_directory(&self, stage: &mut Stage, line: &Line<Instruction>) -> Result<bool> {
        let path = stage.state.config.config.working_dir.clone();
        let key = cache::key_of(&("workdir", stage.layers(), &path, stage.time));
        if let Some(image) = self.engine.cached_step(&key).filter(|_| !self.request.no_cache) {
            return Ok(stage.advance(image));
        }
        let make = move |view: &View| {
            let asked = Asked::parse(&path);
            if place::open(&view.root, &asked.path, OFlags::PATH | OFlags::DIRECTORY).is_ok() {
                return Ok(());
            }
            transfer::make_target(&view.root, &asked.path, None)
        };
        let image = self
            .change_files(stage, make)
            .await
            .map_err(|error| wrong(line, error.message))?;
        self.engine.note_step(&key, &image.id, &line.text)?;
        Ok(stage.advance(image))
    }

    /// Makes the stage the image that was asked for.
    async fn finish(self, mut stage: Stage) -> Result<Digest> {
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
        let (content, names) = (Arc::clone(&self.engine.content), self.request.names.clone());
        let (image, config) = (stage.image, stage.state.config);
        let built = blocking(move || {
            let made = content
                .configure_step(image.as_deref(), config)
                .map_err(crate::images::error)?;
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            content
                .publish_step(&made.id, &names)
                .map_err(crate::images::error)
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

    /// A path of the context to mount, and its digest.
    pub(super) fn context_mount(&self, source: &str) -> Result<(std::path::PathBuf, String)> {
        let root_path = self.context.root();
        let root = open_directory(&root_path)?;
        let asked = Asked::parse(if source.is_empty() { "/" } else { source });
        let real = place::resolve(&root, &asked.path)
            .map_err(|errno| EngineError::invalid(format!("{source}: {errno}")))?;
        let tree = SourceTree {
            root,
            name: "build context".to_owned(),
            keeps_owners: false,
        };
        let items = transfer::find_items(&tree, &[asked.path.to_string_lossy().into_owned()])?;
        let digest = transfer::digest_items(&tree, &items, None)?;
        let relative = real.strip_prefix("/").unwrap_or(&real);
        Ok((root_path.join(relative), digest.to_string()))
    }
}

struct ResolvedTransfer {
    sources: Vec<String>,
    texts: Vec<Item>,
    /// As the base's user database knows it.
    chown: String,
    options: TransferOptions,
}

/// A document's variables; quotes and backslashes in it mean nothing else.
fn expand_text(text: &str, state: &StageState, escape: char) -> Result<String, String> {
    let mut shielded = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\'' | '"' => shielded.extend([escape, character]),
            character if character == escape => {
                shielded.push(escape);
                // Only a dollar is taken for itself by it.
                if characters.peek() == Some(&'$') {
                    shielded.extend(characters.next());
                } else {
                    shielded.push(escape);
                }
            }
            character => shielded.push(character),
        }
    }
    words::expand(&shielded, escape, state)
}

fn parse_platform(text: &str) -> Result<Platform> {
    Platform::parse(text)
        .ok_or_else(|| EngineError::invalid(format!("\"{text}\": unknown operating system or architecture")))
}

/// What every `FROM` line may ask for.
fn platform_arguments(wanted: Option<&Platform>) -> BTreeMap<String, String> {
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

/// What is wrong with a line.
pub(super) fn wrong<T>(line: &Line<T>, message: impl Into<String>) -> EngineError {
    naru_build::DockerfileError::new(line.place, message).into()
}

fn copy_failed(line: &Line<Instruction>, error: &EngineError) -> EngineError {
    let word = if matches!(line.value, Instruction::Add(_)) {
        "ADD"
    } else {
        "COPY"
    };
    EngineError::new(
        error.kind,
        format!(
            "{word} failed on line {} of the Dockerfile: {}",
            line.place.line, error.message
        ),
    )
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

/// The owner that `--chown` means, by the stage's own databases. A number without a group stands for its group too.
fn owner_of(view: &View, chown: &str) -> Result<(u32, u32)> {
    if let Ok(id) = chown.parse() {
        return Ok((id, id));
    }
    view::find_user(view, chown).map_err(|failure| EngineError::invalid(failure.message))
}
