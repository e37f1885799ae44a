//! A build's progress in BuildKit's words: vertices that begin and end, what they say, what they transfer.

use crate::wire::{StatusResponse, Timestamp, Vertex, VertexLog, VertexStatus};
use naru_base::Digest;
use naru_engine::BuildStep;
use sha2::{Digest as _, Sha256};
use std::time::SystemTime;

/// The vertices of one build as far as they are known.
#[derive(Debug)]
pub struct Trace {
    /// Tells its vertices from those of other builds.
    build: String,
    /// The step that is under way.
    current: Option<Vertex>,
}

impl Trace {
    pub fn new(build: &str) -> Self {
        Self {
            build: build.to_owned(),
            current: None,
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
            BuildStep::Warning(text) => self.log(format!("warning: {text}\n").into_bytes()),
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
        let failed = trace.fail("why").unwrap();
        assert_eq!(failed.vertexes[0].error, "why");
        assert!(trace.fail("why").is_none());
    }
}
