//! An image made from a container: its layers, what it has written as one more, and its configuration.

use super::channel::ChunkReader;
use super::tape::Tape;
use super::walk::{Form, Walk};
use super::{apply_instructions, blocking, stream};
use crate::Engine;
use crate::containers::Container;
use crate::error::Result;
use crate::record::{ContainerRecord, ContainerState};
use naru_base::Timestamp;
use naru_content::{ImageConfig, Snapshot};
use naru_oci::{ContainerConfig, Healthcheck, History};
use rustix::fs::{Mode, OFlags};
use std::path::Path;
use std::sync::Arc;

/// What `commit` asks for.
#[derive(Debug, Clone, Default)]
pub struct CommitRequest {
    /// The new image's name; none leaves it without.
    pub reference: Option<String>,
    pub comment: String,
    pub author: String,
    /// Freeze the container while its files are read.
    pub pause: bool,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
    /// What the client wants instead of the container's own configuration, where it says anything.
    pub config: Option<ContainerConfig>,
}

impl Engine {
    /// Makes an image of a container as it is now; returns the image's id. The same files make the same layer.
    pub async fn commit_container(self: &Arc<Self>, name: &str, request: CommitRequest) -> Result<String> {
        let container = self.registry.find(name)?;
        let record = container.record();
        let mut config = ImageConfig {
            config: merged(request.config.clone(), container_config(&record)),
            ..ImageConfig::default()
        };
        apply_instructions(&mut config.config, &request.changes)?;
        let is_paused = request.pause
            && matches!(record.state, ContainerState::Running { .. })
            && self.pause_container(container.id.as_str()).await.is_ok();
        let made = self.commit_paused(&container, &record, config, &request).await;
        if is_paused {
            // It may have been killed meanwhile.
            let _ = self.unpause_container(container.id.as_str()).await;
        }
        let id = made?;
        self.image_event("commit", &id, request.reference.as_deref().unwrap_or(&id));
        let more = [("comment", request.comment.as_str()), ("imageID", id.as_str())];
        self.container_event("commit", &container, &more);
        Ok(id)
    }

    async fn commit_paused(
        self: &Arc<Self>,
        container: &Container,
        record: &Arc<ContainerRecord>,
        mut config: ImageConfig,
        request: &CommitRequest,
    ) -> Result<String> {
        let snapshot = self.snapshot_of(container)?;
        let has_layer = !is_empty(&snapshot.upper);
        self.fill_from_parent(&mut config, record);
        let now = Timestamp::now();
        config.created = Some(now);
        config.author.clone_from(&request.author);
        config.comment.clone_from(&request.comment);
        config.container = record.id.to_string();
        env!("CARGO_PKG_VERSION").clone_into(&mut config.docker_version);
        let command = record.resolved.entrypoint.iter().chain(&record.resolved.command);
        config.history.push(History {
            created: Some(now),
            created_by: command.cloned().collect::<Vec<_>>().join(" "),
            author: request.author.clone(),
            comment: request.comment.clone(),
            empty_layer: !has_layer,
        });
        let layer = has_layer.then(|| layer_of(snapshot));
        let (content, id) = (Arc::clone(&self.content), container.id.clone());
        let reference = request.reference.clone();
        blocking(move || {
            let names: Vec<&str> = reference.as_deref().into_iter().collect();
            let layer = layer.map(ChunkReader::new);
            let made = content.commit_snapshot(&id, &names, config, layer);
            Ok(made.map_err(crate::images::error)?.id.to_string())
        })
        .await
    }

    /// What an image is apart from its configuration for containers comes from the image it builds on.
    fn fill_from_parent(&self, config: &mut ImageConfig, record: &ContainerRecord) {
        let parent = self.content.image(record.resolved.image_id.as_str()).ok();
        if let Some(parent) = parent {
            let parent = &parent.config;
            config.architecture.clone_from(&parent.architecture);
            config.variant.clone_from(&parent.variant);
            config.os.clone_from(&parent.os);
            config.history.clone_from(&parent.history);
            config.config.shell = config.config.shell.take().or(parent.config.shell.clone());
            if config.config.on_build.is_empty() {
                config.config.on_build.clone_from(&parent.config.on_build);
            }
        } else {
            "linux".clone_into(&mut config.os);
            naru_oci::Platform::host()
                .architecture
                .clone_into(&mut config.architecture);
        }
    }
}

fn is_empty(upper: &Path) -> bool {
    std::fs::read_dir(upper).is_ok_and(|mut entries| entries.next().is_none())
}

/// What the container wrote, as an image layer.
fn layer_of(snapshot: Snapshot) -> super::Chunks {
    stream(move |output| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let upper = rustix::fs::open(&snapshot.upper, flags, Mode::empty())?;
        let mut tape = Tape::new(output);
        Walk::new(&mut tape, Form::Layer).write_directory(&upper, b"", None)?;
        tape.finish()
    })
}

/// The configuration that would make this container again.
fn container_config(record: &ContainerRecord) -> ContainerConfig {
    let resolved = &record.resolved;
    let list = |words: &Vec<String>| Some(words.clone()).filter(|list| !list.is_empty());
    let healthcheck = resolved.healthcheck.as_ref().map(|check| Healthcheck {
        test: check.test.clone(),
        interval: check.interval_ns,
        timeout: check.timeout_ns,
        start_period: check.start_period_ns,
        start_interval: check.start_interval_ns,
        retries: check.retries,
    });
    ContainerConfig {
        user: resolved.user.clone(),
        exposed_ports: resolved.exposed_ports.iter().map(ToString::to_string).collect(),
        env: resolved.env.clone(),
        entrypoint: list(&resolved.entrypoint),
        cmd: list(&resolved.command),
        volumes: resolved.volumes.clone(),
        working_dir: resolved.working_dir.clone(),
        labels: resolved.labels.clone(),
        stop_signal: resolved.stop_signal.clone(),
        stop_timeout: record.spec.stop_timeout_seconds,
        healthcheck,
        ..ContainerConfig::default()
    }
}

/// What the client gave, and the container's own where it gave nothing, as Docker merges them.
fn merged(given: Option<ContainerConfig>, own: ContainerConfig) -> ContainerConfig {
    let Some(mut config) = given else { return own };
    let key = |entry: &String| entry.split('=').next().unwrap_or_default().to_owned();
    for entry in own.env {
        if !config.env.iter().any(|other| key(other) == key(&entry)) {
            config.env.push(entry);
        }
    }
    for (label, value) in own.labels {
        config.labels.entry(label).or_insert(value);
    }
    config.exposed_ports.extend(own.exposed_ports);
    config.volumes.extend(own.volumes);
    let fill = |field: &mut String, value: String| {
        if field.is_empty() {
            *field = value;
        }
    };
    fill(&mut config.user, own.user);
    fill(&mut config.working_dir, own.working_dir);
    fill(&mut config.stop_signal, own.stop_signal);
    if config.entrypoint.is_none() {
        config.cmd = config.cmd.or(own.cmd);
        config.entrypoint = own.entrypoint;
    }
    config.healthcheck = config.healthcheck.or(own.healthcheck);
    config.stop_timeout = config.stop_timeout.or(own.stop_timeout);
    config
}
