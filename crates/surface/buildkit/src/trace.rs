//! A build's progress in BuildKit's words: vertices that begin and end, what they say, what they transfer.

use crate::wire::{
    Position, Range, SourceInfo, StatusResponse, Timestamp, Vertex, VertexLog, VertexStatus, VertexWarning,
};
use naru_base::Digest;
use naru_build::Place;
use naru_build::check::{description_of, page_of};
use naru_engine::{BuildStep, Warnings};
use sha2::{Digest as _, Sha256};
use std::time::SystemTime;

/// A Dockerfile that goes along with each of its warnings; of a longer one the lines are told by number alone.
const SOURCE_BYTES_MAX: usize = 64 << 10;

/// The vertices of one build as far as they are known.
#[derive(Debug)]
pub struct Trace {
    /// Tells its vertices from those of other builds.
    build: String,
    /// The step that is under way.
    current: Option<Vertex>,
    /// Where a client that knows warnings finds them; others get them as output.
    definition: Option<Definition>,
}

/// The step that brings the Dockerfile.
#[derive(Debug)]
struct Definition {
    name: String,
    /// A fetch has told of it.
    is_told: bool,
}

impl Trace {
    pub fn new(build: &str) -> Self {
        Self {
            build: build.to_owned(),
            current: None,
            definition: None,
        }
    }

    /// For a client that knows warnings.
    pub fn with_warnings(self, dockerfile: &str, is_told: bool) -> Self {
        let name = definition_step(dockerfile);
        Self {
            definition: Some(Definition { name, is_told }),
            ..self
        }
    }

    /// What a client is told of a step; nothing where its words have nothing for it.
    pub fn tell(&mut self, step: BuildStep) -> Option<StatusResponse> {
        match step {
            BuildStep::Begun { number, total, text } => {
                let mut told = self.end("");
                let vertex = Vertex {
                    digest: digest_of(&self.build, &format!("step {number}")),
                    inputs: told.vertexes.iter().map(|ended| ended.digest.clone()).collect(),
                    name: format!("[{number}/{total}] {text}"),
                    started: Some(now()),
                    ..Vertex::default()
                };
                self.current = Some(vertex.clone());
                told.vertexes.push(vertex);
                Some(told)
            }
            BuildStep::Cached(_) => {
                if let Some(current) = &mut self.current {
                    current.cached = true;
                }
                None
            }
            BuildStep::Output(bytes) => self.log(bytes.to_vec()),
            BuildStep::Note(text) => self.log(text.into_bytes()),
            BuildStep::Anew(reason) => self.log(format!("not cached: {reason}\n").into_bytes()),
            BuildStep::Warned(warnings) => self.warn(&warnings),
            BuildStep::Running(_) | BuildStep::Removed(_) | BuildStep::Made(_) | BuildStep::Left(_) => None,
            BuildStep::Built { id, names } => {
                let mut told = self.end("");
                let mut vertex = Vertex {
                    digest: digest_of(&self.build, "export"),
                    inputs: told.vertexes.iter().map(|ended| ended.digest.clone()).collect(),
                    name: "exporting to image".to_owned(),
                    started: Some(now()),
                    ..Vertex::default()
                };
                vertex.completed = Some(now());
                let lines = std::iter::once(format!("writing image {id}"))
                    .chain(names.into_iter().map(|name| format!("naming to {name}")));
                told.statuses = lines.map(|line| done_status(&vertex, line, 0)).collect();
                told.vertexes.push(vertex);
                Some(told)
            }
        }
    }

    /// The step under way has failed, or the build ended in it.
    pub fn fail(&mut self, message: &str) -> Option<StatusResponse> {
        let told = self.end(message);
        (!told.vertexes.is_empty()).then_some(told)
    }

    fn end(&mut self, error: &str) -> StatusResponse {
        let ended = self.current.take().map(|mut vertex| {
            vertex.completed = Some(now());
            error.clone_into(&mut vertex.error);
            vertex
        });
        StatusResponse {
            vertexes: ended.into_iter().collect(),
            ..StatusResponse::default()
        }
    }

    fn warn(&mut self, warnings: &Warnings) -> Option<StatusResponse> {
        let Some(definition) = &mut self.definition else {
            let lines = warnings.lines().into_iter();
            let text: Vec<String> = lines.map(|line| format!("warning: {line}\n")).collect();
            return self.log(text.concat().into_bytes());
        };
        let vertex = digest_of(&self.build, &definition.name);
        let mut told = StatusResponse {
            warnings: vertex_warnings(warnings, &vertex),
            ..StatusResponse::default()
        };
        if !std::mem::replace(&mut definition.is_told, true) {
            told.vertexes.push(Vertex {
                digest: vertex,
                name: definition.name.clone(),
                started: Some(now()),
                completed: Some(now()),
                ..Vertex::default()
            });
        }
        Some(told)
    }

    fn log(&self, message: Vec<u8>) -> Option<StatusResponse> {
        let current = self.current.as_ref()?;
        let log = VertexLog {
            vertex: current.digest.clone(),
            timestamp: Some(now()),
            stream: 1,
            msg: message,
        };
        Some(StatusResponse {
            logs: vec![log],
            ..StatusResponse::default()
        })
    }
}

/// A step of the session's own: what it fetches from the client.
#[derive(Debug)]
pub struct Fetch(Vertex);

impl Fetch {
    pub fn begin(build: &str, name: &str) -> (Self, StatusResponse) {
        let vertex = Vertex {
            digest: digest_of(build, name),
            name: name.to_owned(),
            started: Some(now()),
            ..Vertex::default()
        };
        (Self(vertex.clone()), of_vertex(vertex))
    }

    /// It has brought so many bytes, or why not.
    pub fn end(mut self, outcome: Result<u64, &str>) -> StatusResponse {
        self.0.completed = Some(now());
        let mut told = StatusResponse::default();
        match outcome {
            Ok(bytes) => told
                .statuses
                .push(done_status(&self.0, "transferring".to_owned(), bytes)),
            Err(message) => message.clone_into(&mut self.0.error),
        }
        told.vertexes.push(self.0);
        told
    }
}

/// What tells a build's vertices from those of others.
pub fn vertices_of(session: &str, build: &str) -> String {
    format!("{session} {build}")
}

/// The step that brings a Dockerfile.
pub fn definition_step(dockerfile: &str) -> String {
    format!("[internal] load build definition from {dockerfile}")
}

/// Warnings as the Dockerfile's frontend has them: each with its rule's page and the lines that it is about.
fn vertex_warnings(warnings: &Warnings, vertex: &str) -> Vec<VertexWarning> {
    let has_text = warnings.text.len() <= SOURCE_BYTES_MAX;
    let source = source_info(&warnings.file, if has_text { &warnings.text } else { "" });
    let (told, more) = warnings.told();
    let mut all: Vec<VertexWarning> = told
        .iter()
        .map(|one| VertexWarning {
            vertex: vertex.to_owned(),
            level: 1,
            short: format!("{}: {} (line {})", one.rule, one.message, one.place.line).into_bytes(),
            detail: vec![description_of(one.rule).as_bytes().to_vec()],
            url: page_of(one.rule),
            info: Some(source.clone()),
            ranges: vec![range_of(one.place)],
        })
        .collect();
    if more > 0 {
        all.push(VertexWarning {
            vertex: vertex.to_owned(),
            level: 1,
            short: format!("… and {more} more").into_bytes(),
            ..VertexWarning::default()
        });
    }
    all
}

pub fn source_info(file: &str, text: &str) -> SourceInfo {
    SourceInfo {
        filename: file.to_owned(),
        data: text.as_bytes().to_vec(),
        language: "Dockerfile".to_owned(),
        definition: None,
    }
}

/// Whole lines.
pub fn range_of(place: Place) -> Range {
    let at = |line: usize| Position {
        line: i32::try_from(line).unwrap_or(i32::MAX),
        character: 0,
    };
    Range {
        start: Some(at(place.line)),
        end: Some(at(place.last_line.max(place.line))),
    }
}

fn of_vertex(vertex: Vertex) -> StatusResponse {
    StatusResponse {
        vertexes: vec![vertex],
        ..StatusResponse::default()
    }
}

fn done_status(vertex: &Vertex, text: String, bytes: u64) -> VertexStatus {
    VertexStatus {
        id: text,
        vertex: vertex.digest.clone(),
        current: bytes as i64,
        timestamp: Some(now()),
        started: vertex.started,
        completed: Some(now()),
        ..VertexStatus::default()
    }
}

fn digest_of(build: &str, name: &str) -> String {
    let hash = Sha256::digest(format!("{build}\n{name}"));
    Digest::from_sha256(hash.into()).to_string()
}

fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp {
        seconds: since.as_secs() as i64,
        nanos: since.subsec_nanos() as i32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_vertices_that_begin_and_end() {
        let mut trace = Trace::new("b");
        let begun = |number| BuildStep::Begun {
            number,
            total: 2,
            text: "FROM x".to_owned(),
        };
        let first = trace.tell(begun(1)).unwrap();
        assert_eq!(
            (first.vertexes.len(), first.vertexes[0].name.as_str()),
            (1, "[1/2] FROM x")
        );
        assert!(trace.tell(BuildStep::Cached("id".to_owned())).is_none());
        let second = trace.tell(begun(2)).unwrap();
        assert!(second.vertexes[0].cached && second.vertexes[0].completed.is_some());
        assert_eq!(second.vertexes[1].inputs, [second.vertexes[0].digest.clone()]);
        let log = trace
            .tell(BuildStep::Output(bytes::Bytes::from_static(b"said")))
            .unwrap();
        assert_eq!(
            (log.logs[0].vertex.as_str(), &log.logs[0].msg[..]),
            (second.vertexes[1].digest.as_str(), &b"said"[..])
        );
        let text = "FROM a as b\n".to_owned();
        let file = naru_build::parse(text.as_bytes()).unwrap();
        let findings = naru_build::check::check(&file, &naru_build::check::Facts::default());
        let warnings = Box::new(Warnings {
            file: "Dockerfile".to_owned(),
            text,
            findings: findings.unwrap().findings,
        });
        let log = trace.tell(BuildStep::Warned(warnings.clone())).unwrap();
        let line = "warning: Dockerfile:1: FromAsCasing: ";
        assert!(String::from_utf8_lossy(&log.logs[0].msg).starts_with(line));
        trace = trace.with_warnings("Dockerfile", false);
        let warned = trace.tell(BuildStep::Warned(warnings.clone())).unwrap();
        let (vertex, warning) = (&warned.vertexes[0], &warned.warnings[0]);
        assert_eq!((&vertex.digest, warning.level), (&warning.vertex, 1));
        assert!(warning.url.ends_with("/from-as-casing/") && warning.short.ends_with(b"(line 1)"));
        assert_eq!(warning.ranges[0].end.unwrap().line, 1);
        assert!(
            trace
                .tell(BuildStep::Warned(warnings))
                .unwrap()
                .vertexes
                .is_empty()
        );
        let failed = trace.fail("why").unwrap();
        assert_eq!(failed.vertexes[0].error, "why");
        assert!(trace.fail("why").is_none());
    }
}
