//! `RUN`: a container runs the command on a stage's layers, and what it writes becomes the next one.

use super::failed::{Failed, Tail};
use super::mounts::{DecidedMount, Mounted, bind};
use super::solve::{Builder, Stage, wrong};
use super::why::Inputs;
use super::{BuildStep, Teller, cache, dockerfile_name};
use crate::Engine;
use crate::archive::tape::{Tape, Times};
use crate::archive::walk::{Form, Walk};
use crate::archive::{ChunkReader, blocking, stream};
use crate::error::{EngineError, Result};
use crate::spec::{AttachmentSpec, ContainerSpec, LogSpec, MountSpec, NetworkMode};
use crate::views::{AttachRequest, RemoveOptions, WaitCondition};
use bytes::Bytes;
use naru_base::ContainerId;
use naru_build::configure::{PREDEFINED_ARGUMENTS, words_of};
use naru_build::{Instruction, Line, dockerfile, excerpt};
use naru_content::Image;
use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

/// Output handed on at once.
const OUTPUT_BYTES_MAX: usize = 64 << 10;

/// All that can change what a `RUN` does.
#[derive(Serialize)]
struct RunInputs<'a> {
    step: &'static str,
    layers: &'a [naru_base::Digest],
    words: &'a [String],
    script: Option<&'a str>,
    environment: &'a [String],
    user: &'a str,
    working_directory: &'a str,
    mounts: &'a [String],
    mounted: Vec<String>,
    network: &'a Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<&'a str>,
    time: i64,
}

impl Builder {
    pub(super) async fn run_command(
        &self,
        stage: &mut Stage,
        line: &Line<Instruction>,
        run: &dockerfile::Run,
    ) -> Result<bool> {
        if run.security.as_deref().is_some_and(|mode| mode != "sandbox") {
            return Err(wrong(
                line,
                "RUN --security=insecure is not supported: every step runs confined",
            ));
        }
        let may_use_host = self.request.network.as_deref() == Some("host")
            || self
                .request
                .entitlements
                .iter()
                .any(|name| name == "network.host");
        if run.network.as_deref() == Some("host") && !may_use_host {
            return Err(wrong(
                line,
                "RUN --network=host must be allowed by whoever builds, with --network host or --allow network.host",
            ));
        }
        let config = &stage.state.config.config;
        let words = match &run.script {
            Some(script) => vec![format!("/dev/pipes/{}", script.name)],
            None => words_of(&run.command, config),
        };
        let mut mounts = Vec::new();
        for mount in &run.mounts {
            mounts.push(self.decide_mount(stage, line, mount).await?);
        }
        self.note_mounts(&mounts);
        let environment = environment_of(stage, &self.request.arguments);
        let network = run.network.clone().or_else(|| self.request.network.clone());
        // A client that says what there is anyway asks for nothing else.
        let network = network.filter(|network| network != "default");
        let inputs = RunInputs {
            step: "run",
            layers: stage.layers(),
            words: &words,
            script: run.script.as_ref().map(|script| script.content.as_str()),
            environment: &without_predefined(&environment),
            user: &config.user,
            working_directory: &config.working_dir,
            mounts: &run.mounts,
            mounted: mounts.iter().map(|mount| mount.digest.clone()).collect(),
            network: &network,
            hostname: self.request.hostname(),
            time: stage.time,
        };
        let step = self.begin_step(cache::key_of(&inputs), stage).await;
        if let Some(image) = self.cached(&step, stage, &line.text).await {
            return Ok(stage.advance(image));
        }
        let mut told = Inputs::new(line, stage);
        tell_inputs(&mut told, stage, run, &environment, &mounts);
        told.fact("the command", &words.join(" "));
        told.fact("the network", network.as_deref().unwrap_or("default"));
        told.fact("the host's name", self.request.hostname().unwrap_or("build"));
        let told = self.tell_why(stage, line, told).await;
        let mut mounted = Vec::new();
        for mount in mounts {
            mounted.push(self.apply_mount(line, mount).await?);
        }
        let tried_environment = environment.clone();
        let mut environment = environment;
        environment.extend(mounted.iter().filter_map(|mount| mount.variable.clone()));
        let mut spec = self.step_spec(stage, &words, environment, network);
        spec.mounts = mounted.iter().filter_map(|mount| mount.spec.clone()).collect();
        if let Some(script) = &run.script {
            spec.mounts
                .push(self.script_mount(&script.name, &script.content)?);
        }
        spec.image = self.holder(stage).await?.id.to_string();
        let container = StepContainer::create(&self.engine, spec).await?;
        let secrets = mounted
            .iter()
            .filter_map(|mount: &Mounted| mount.secret_variable.clone());
        self.engine.builds.set_secrets(&container.id, secrets.collect());
        let teller = &stage.teller;
        teller
            .tell(BuildStep::Running(container.id.short().to_owned()))
            .await;
        let mut last_output = Tail::default();
        let exit_code = container.run(teller, &mut last_output).await?;
        drop(mounted);
        if exit_code != 0 {
            let message = format!(
                "The command '{}' returned a non-zero code: {exit_code}",
                words.join(" ")
            );
            let (word, name) = ("RUN", dockerfile_name(&self.request.dockerfile));
            let lines = excerpt::Lines::of(&self.file.text);
            let message = excerpt::locate_word(&message, word, name, &lines, line.place);
            let mut error = EngineError::invalid(message);
            error.message.push_str(&last_output.shown());
            let failed = Failed {
                stage,
                environment: tried_environment,
                container: &container.id,
            };
            error.message.push_str(&self.keep_failed(failed).await);
            return Err(error);
        }
        let image = self.adopt(&container.id, stage.time).await?;
        teller
            .tell(BuildStep::Removed(container.id.short().to_owned()))
            .await;
        container.remove().await?;
        self.keep_step(&step.key, &image, &line.text)?;
        told.keep().await;
        Ok(stage.advance(image))
    }

    fn step_spec(
        &self,
        stage: &Stage,
        words: &[String],
        environment: Vec<String>,
        network: Option<String>,
    ) -> ContainerSpec {
        let config = &stage.state.config.config;
        let (network, attached) = match network.as_deref() {
            None | Some("" | "default" | "bridge") => (NetworkMode::Bridge, Some("bridge".to_owned())),
            Some("none") => (NetworkMode::None, None),
            Some("host") => (NetworkMode::Host, None),
            Some(other) => match other.strip_prefix("container:") {
                Some(container) => (NetworkMode::Container(container.to_owned()), None),
                None => (NetworkMode::Named(other.to_owned()), Some(other.to_owned())),
            },
        };
        let request = &self.request;
        ContainerSpec {
            entrypoint: Some(Vec::new()),
            command: Some(words.to_vec()),
            env: environment,
            working_dir: Some(config.working_dir.clone()),
            user: Some(config.user.clone()),
            attach_stdout: true,
            attach_stderr: true,
            log: LogSpec {
                driver: "none".to_owned(),
                ..LogSpec::default()
            },
            network,
            attachments: attached
                .into_iter()
                .map(|network| AttachmentSpec {
                    network,
                    ..AttachmentSpec::default()
                })
                .collect(),
            extra_hosts: request.extra_hosts.clone(),
            resources: request.resources.clone(),
            shm_bytes: request.shm_bytes,
            rlimits: request.rlimits.clone(),
            cgroup_parent: request.cgroup_parent.clone(),
            // The same name at every build: programs write it into files.
            hostname: Some(request.hostname().unwrap_or("build").to_owned()),
            is_build_step: true,
            ..ContainerSpec::default()
        }
    }

    fn script_mount(&self, name: &str, content: &str) -> Result<MountSpec> {
        let path = self
            .context
            .own_file(&format!("script-{}", cache::key_of(&content).hex()));
        naru_sys::file::replace(&path, content.as_bytes())?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode)
            .map_err(naru_sys::file::FileError::at("change the mode of", &path))?;
        Ok(MountSpec {
            target: format!("/dev/pipes/{name}"),
            read_only: true,
            source: bind(path),
        })
    }

    /// Makes what was written in a container the next layer.
    pub(super) async fn adopt(&self, container: &ContainerId, time: i64) -> Result<Arc<Image>> {
        let (content, id) = (Arc::clone(&self.engine.content), container.clone());
        blocking(move || {
            let snapshot = content.snapshot(&id).map_err(crate::images::error)?;
            let failed = |error| EngineError::system(format!("cannot read what a step wrote: {error}"));
            super::pyc::settle(&snapshot.upper, time).map_err(failed)?;
            let layer = (!is_empty(&snapshot.upper)).then(|| {
                ChunkReader::new(stream(move |output| {
                    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    let upper = rustix::fs::open(&snapshot.upper, flags, Mode::empty())?;
                    let mut tape = Tape::new(output).with_times(Times::AtMost(time));
                    Walk::new(&mut tape, Form::Layer).write_directory(&upper, b"", None)?;
                    tape.finish()
                }))
            });
            let made = content
                .adopt_snapshot(&id, super::bring::plain_config(), layer)
                .map_err(crate::images::error)?;
            content.image(made.id.as_str()).map_err(crate::images::error)
        })
        .await
    }
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

/// The stage's environment, and its arguments where that says nothing.
fn environment_of(stage: &Stage, given: &BTreeMap<String, Option<String>>) -> Vec<String> {
    let config = &stage.state.config.config;
    let mut environment = config.env.clone();
    // Proxies need no declaration.
    let is_proxy =
        |name: &str| PREDEFINED_ARGUMENTS.contains(&name) && !stage.state.arguments.contains_key(name);
    let proxies = given.iter().filter(|(name, _)| is_proxy(name));
    let proxies = proxies.filter_map(|(name, value)| Some((name, value.as_ref()?)));
    for (name, value) in stage.state.arguments.iter().chain(proxies) {
        let in_environment = config
            .env
            .iter()
            .any(|entry| entry.split('=').next() == Some(name));
        if !in_environment {
            environment.push(format!("{name}={value}"));
        }
    }
    environment
}

/// What people know of the inputs of a `RUN`.
fn tell_inputs(
    told: &mut Inputs,
    stage: &Stage,
    run: &dockerfile::Run,
    environment: &[String],
    mounts: &[DecidedMount],
) {
    let config = &stage.state.config.config;
    for entry in without_predefined(environment) {
        let (name, value) = entry.split_once('=').unwrap_or((&entry, ""));
        let word = if config.env.contains(&entry) { "ENV" } else { "ARG" };
        told.fact(&format!("{word} {name}"), value);
    }
    told.fact("the user", &config.user);
    told.fact("the working directory", &config.working_dir);
    told.fact("the time of its files", &stage.time.to_string());
    for (written, decided) in run.mounts.iter().zip(mounts) {
        told.sum(&format!("--mount={written}"), &decided.digest);
    }
}

/// Proxies change how a command gets at things, not what it makes of them.
fn without_predefined(environment: &[String]) -> Vec<String> {
    let is_predefined = |entry: &&String| {
        let name = entry.split('=').next().unwrap_or_default();
        PREDEFINED_ARGUMENTS.contains(&name)
    };
    environment
        .iter()
        .filter(|entry| !is_predefined(entry))
        .cloned()
        .collect()
}

/// A step's container; removed when this is dropped before [`StepContainer::remove`].
struct StepContainer {
    engine: Arc<Engine>,
    id: ContainerId,
    is_removed: bool,
}

impl StepContainer {
    async fn create(engine: &Arc<Engine>, spec: ContainerSpec) -> Result<Self> {
        let created = engine.create_container(None, spec).await?;
        Ok(Self {
            engine: Arc::clone(engine),
            id: created.id,
            is_removed: false,
        })
    }

    /// Runs it to its end and passes on what it says.
    async fn run(&self, teller: &Teller, last_output: &mut Tail) -> Result<i32> {
        let request = AttachRequest {
            stdout: true,
            stderr: true,
            stream: true,
            ..AttachRequest::default()
        };
        let attached = self.engine.attach_container(self.id.as_str(), request).await?;
        let waiter = self
            .engine
            .wait_container(self.id.as_str(), WaitCondition::NextExit)
            .await?;
        self.engine.start_container(self.id.as_str()).await?;
        if let Some(output) = attached.socket {
            pass_on(output, teller, last_output).await;
        }
        let outcome = waiter.await?;
        match outcome.error.filter(|error| !error.is_empty()) {
            Some(error) => Err(EngineError::system(error)),
            None => Ok(outcome.exit_code),
        }
    }

    async fn remove(mut self) -> Result<()> {
        self.is_removed = true;
        let options = RemoveOptions {
            force: true,
            volumes: true,
        };
        self.engine.remove_container(self.id.as_str(), options).await
    }
}

impl Drop for StepContainer {
    fn drop(&mut self) {
        self.engine.builds.forget_secrets(&self.id);
        if self.is_removed {
            return;
        }
        let (engine, id) = (Arc::clone(&self.engine), self.id.clone());
        tokio::spawn(async move {
            let options = RemoveOptions {
                force: true,
                volumes: true,
            };
            if let Err(error) = engine.remove_container(id.as_str(), options).await {
                tracing::warn!(container = id.short(), %error, "cannot remove a build's container");
            }
        });
    }
}

/// Docker's frames: stream, three zero bytes, length, bytes.
async fn pass_on(mut output: UnixStream, teller: &Teller, last_output: &mut Tail) {
    let mut head = [0; 8];
    while output.read_exact(&mut head).await.is_ok() {
        let mut left = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        while left > 0 {
            let mut piece = vec![0; left.min(OUTPUT_BYTES_MAX)];
            let Ok(length) = output.read(&mut piece).await else {
                return;
            };
            if length == 0 {
                return;
            }
            piece.truncate(length);
            left -= length;
            last_output.push(&piece);
            teller.tell(BuildStep::Output(Bytes::from(piece))).await;
        }
    }
}
