//! `RUN`: a container runs the command on a stage's layers, and what it writes becomes the next one.

use super::solve::{Builder, Stage, wrong};
use super::{BuildStep, Teller, cache};
use crate::Engine;
use crate::archive::tape::{Tape, Times};
use crate::archive::walk::{Form, Walk};
use crate::archive::{ChunkReader, blocking, stream};
use crate::error::{EngineError, Result};
use crate::spec::{AttachmentSpec, ContainerSpec, LogSpec, MountSource, MountSpec, NetworkMode};
use crate::views::{AttachRequest, RemoveOptions, WaitCondition};
use bytes::Bytes;
use naru_base::ContainerId;
use naru_build::configure::{PREDEFINED_ARGUMENTS, words_of};
use naru_build::{Instruction, Line, dockerfile};
use naru_content::Image;
use naru_oci::ImageConfig;
use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
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
    time: i64,
}

/// A mount of a `RUN`, decided.
struct Mounted {
    spec: MountSpec,
    /// What of it decides what the command does.
    digest: String,
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
        let config = &stage.state.config.config;
        let words = match &run.script {
            Some(script) => vec![format!("/dev/pipes/{}", script.name)],
            None => words_of(&run.command, config),
        };
        let mounts = run
            .mounts
            .iter()
            .map(|mount| self.decide_mount(stage, line, mount))
            .collect::<Result<Vec<_>>>()?;
        let environment = environment_of(stage, &self.request.arguments);
        let network = run.network.clone().or_else(|| self.request.network.clone());
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
            time: stage.time,
        };
        let key = cache::key_of(&inputs);
        if let Some(image) = self.cached(&key).await {
            return Ok(stage.advance(image));
        }
        let mut spec = self.step_spec(stage, &words, environment, network);
        spec.mounts = mounts.into_iter().map(|mount| mount.spec).collect();
        if let Some(script) = &run.script {
            spec.mounts
                .push(self.script_mount(&script.name, &script.content)?);
        }
        spec.image = self.holder(stage).await?.id.to_string();
        let container = StepContainer::create(&self.engine, spec).await?;
        self.teller
            .tell(BuildStep::Running(container.id.short().to_owned()))
            .await;
        let exit_code = container.run(&self.teller).await?;
        if exit_code != 0 {
            let shown = words.join(" ");
            let message = format!("The command '{shown}' returned a non-zero code: {exit_code}");
            return Err(EngineError::invalid(format!(
                "{message} (line {} of the Dockerfile)",
                line.place.line
            )));
        }
        let image = self.adopt(&container.id, stage.time).await?;
        self.teller
            .tell(BuildStep::Removed(container.id.short().to_owned()))
            .await;
        container.remove().await?;
        self.engine.note_step(&key, &image.id, &line.text)?;
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
            hostname: Some("build".to_owned()),
            is_build_step: true,
            ..ContainerSpec::default()
        }
    }

    /// `type=…,target=…` and so on.
    fn decide_mount(&self, stage: &Stage, line: &Line<Instruction>, text: &str) -> Result<Mounted> {
        let mount = MountWords::parse(text).map_err(|message| wrong(line, message))?;
        let target = stage.state.expand(line, &mount.target, self.file.escape)?;
        let target = naru_build::configure::joined_path(&stage.state.config.config.working_dir, &target);
        let (source, read_only, digest) = match mount.kind.as_str() {
            "tmpfs" => (
                MountSource::Tmpfs {
                    bytes_max: mount.bytes,
                    mode: None,
                    options: Vec::new(),
                },
                false,
                String::new(),
            ),
            "cache" => {
                let id = if mount.id.is_empty() {
                    target.clone()
                } else {
                    mount.id.clone()
                };
                let id = stage.state.expand(line, &id, self.file.escape)?;
                (
                    bind(self.cache_mount(&id, &mount)?),
                    mount.read_only.unwrap_or(false),
                    String::new(),
                )
            }
            "bind" if mount.from.is_empty() => {
                if mount.read_only == Some(false) {
                    return Err(wrong(line, "a bind mount of the context can only be read"));
                }
                let (path, digest) = self.context_mount(&mount.source)?;
                (bind(path), true, digest)
            }
            "bind" => {
                return Err(wrong(
                    line,
                    "RUN --mount=type=bind,from=… is not supported yet: use COPY --from",
                ));
            }
            "secret" | "ssh" => {
                return Err(wrong(
                    line,
                    format!(
                        "RUN --mount=type={} needs a client that can be asked for it, which is not supported yet",
                        mount.kind
                    ),
                ));
            }
            other => {
                return Err(wrong(
                    line,
                    format!("invalid mount type {other:?}: use bind, cache, tmpfs, secret or ssh"),
                ));
            }
        };
        let spec = MountSpec {
            target,
            read_only,
            source,
        };
        Ok(Mounted { spec, digest })
    }

    /// A directory that outlives builds; nothing that is in it is a step's input.
    fn cache_mount(&self, id: &str, mount: &MountWords) -> Result<PathBuf> {
        let name = cache::key_of(&id);
        let path = self.engine.builds_directory().join("mounts").join(name.hex());
        if !path.is_dir() {
            naru_sys::file::make_directories(&path, mount.mode.unwrap_or(0o755))?;
            let owner = std::os::unix::fs::chown(&path, mount.uid.or(Some(0)), mount.gid.or(Some(0)));
            owner.map_err(naru_sys::file::FileError::at("change the owner of", &path))?;
        }
        Ok(path)
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
            let layer = (!is_empty(&snapshot.upper)).then(|| {
                ChunkReader::new(stream(move |output| {
                    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    let upper = rustix::fs::open(&snapshot.upper, flags, Mode::empty())?;
                    let mut tape = Tape::new(output).with_times(Times::AtMost(time));
                    Walk::new(&mut tape, Form::Layer).write_directory(&upper, b"", None)?;
                    tape.finish()
                }))
            });
            // Its id is that of its layers: the same layers are the same image.
            let config = ImageConfig {
                os: "linux".to_owned(),
                ..ImageConfig::default()
            };
            let made = content
                .adopt_snapshot(&id, config, layer)
                .map_err(crate::images::error)?;
            content.image(made.id.as_str()).map_err(crate::images::error)
        })
        .await
    }
}

fn bind(path: PathBuf) -> MountSource {
    MountSource::Bind {
        path,
        propagation: None,
        create_missing: false,
        non_recursive: false,
        read_only_non_recursive: false,
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
    async fn run(&self, teller: &Teller) -> Result<i32> {
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
            pass_on(output, teller).await;
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
async fn pass_on(mut output: UnixStream, teller: &Teller) {
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
            teller.tell(BuildStep::Output(Bytes::from(piece))).await;
        }
    }
}

/// What a `--mount` says.
#[derive(Debug, Default)]
struct MountWords {
    kind: String,
    target: String,
    source: String,
    from: String,
    id: String,
    read_only: Option<bool>,
    bytes: Option<u64>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl MountWords {
    fn parse(text: &str) -> Result<Self, String> {
        let mut mount = Self {
            kind: "bind".to_owned(),
            ..Self::default()
        };
        for field in text.split(',').map(str::trim) {
            let (key, value) = field
                .split_once('=')
                .map_or((field, None), |(key, value)| (key, Some(value)));
            let given = || value.ok_or_else(|| format!("invalid field {field:?} must be a key=value pair"));
            let number = |radix| {
                let text = given()?;
                u32::from_str_radix(text, radix).map_err(|_| format!("invalid value for {key}: {text}"))
            };
            let switch = || match value {
                None | Some("true" | "1") => Ok(Some(true)),
                Some("false" | "0") => Ok(Some(false)),
                Some(other) => Err(format!("invalid value for {key}: {other}")),
            };
            match key.to_ascii_lowercase().as_str() {
                "type" => given()?.clone_into(&mut mount.kind),
                "target" | "dst" | "destination" => given()?.clone_into(&mut mount.target),
                "source" | "src" => given()?.clone_into(&mut mount.source),
                "from" => given()?.clone_into(&mut mount.from),
                "id" => given()?.clone_into(&mut mount.id),
                "readonly" | "ro" => mount.read_only = switch()?,
                "rw" | "readwrite" => mount.read_only = switch()?.map(|on| !on),
                "size" => {
                    mount.bytes = Some(
                        given()?
                            .parse()
                            .map_err(|_| format!("invalid value for size: {field}"))?,
                    );
                }
                "mode" => mount.mode = Some(number(8)?),
                "uid" => mount.uid = Some(number(10)?),
                "gid" => mount.gid = Some(number(10)?),
                "sharing" if ["shared", "private", "locked"].contains(&given()?) => {}
                "env" | "required" => {}
                other => return Err(format!("unexpected key {other:?} in {text:?}")),
            }
        }
        if mount.target.is_empty() && !matches!(mount.kind.as_str(), "secret" | "ssh") {
            return Err(format!("a mount needs a target: {text:?}"));
        }
        Ok(mount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_as_they_are_written() {
        let mount = MountWords::parse("type=cache,target=/c,id=x,mode=0700,uid=5,sharing=locked,ro").unwrap();
        assert_eq!(
            (mount.kind.as_str(), mount.target.as_str(), mount.id.as_str()),
            ("cache", "/c", "x")
        );
        assert_eq!(
            (mount.mode, mount.uid, mount.read_only),
            (Some(0o700), Some(5), Some(true))
        );
        for (text, reason) in [
            ("type=cache", "needs a target"),
            ("type=bind,target=/x,colour=red", "unexpected key"),
            ("target=/x,mode=9", "mode"),
            ("target", "key=value"),
        ] {
            assert!(MountWords::parse(text).unwrap_err().contains(reason), "{text}");
        }
    }
}
