//! Builds in the session form: `POST /session` is turned around, `POST /build?version=2` asks for a build over it.
//!
//! The answer is a stream of objects as with a classic build, whose `aux` holds BuildKit's own messages:
//! `{"id":"moby.buildkit.trace","aux":"<protobuf in base64>"}`, and `moby.image.id` at the end.

use super::build::{build_request, cache_names, error_line, said};
use crate::error::{ApiError, ApiResult};
use crate::request::{Call, parse_json};
use crate::respond::{self, Answer, json_line};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::{HeaderMap, StatusCode};
use naru_base::ErrorKind;
use naru_buildkit::{KitError, Output, Remote, Running, SessionBuild, SessionDescription, Told};
use naru_engine::{CacheSource, EngineError};
use serde::Deserialize;
use serde_json::json;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

/// What precedes a build's id in the request that brings its context.
const UPLOAD: &str = "upload-request";

impl From<KitError> for ApiError {
    fn from(error: KitError) -> Self {
        EngineError::from(error).into()
    }
}

/// `POST /session`: the client serves from now on, we call.
pub fn session(mut call: Call) -> ApiResult<Answer> {
    let description = SessionDescription::read(&call.headers)
        .ok_or_else(|| ApiError::invalid("a session needs the header X-Docker-Expose-Session-Uuid"))?;
    let upgrade = wanted_upgrade(&mut call)?;
    let builders = call.builders;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => {
                if let Err(error) = builders.serve_session(description, connection).await {
                    tracing::debug!(%error, "a session ended");
                }
            }
            Err(error) => tracing::debug!(%error, "a client left before its session began"),
        }
    });
    Ok(switch_to_h2c())
}

/// `POST /grpc`: BuildKit's own interface.
pub fn grpc(mut call: Call) -> ApiResult<Answer> {
    let upgrade = wanted_upgrade(&mut call)?;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => {
                if let Err(error) = call.builders.serve_grpc(call.engine, connection).await {
                    tracing::debug!(%error, "a client of BuildKit's interface ended");
                }
            }
            Err(error) => tracing::debug!(%error, "a client left before its calls began"),
        }
    });
    Ok(switch_to_h2c())
}

fn wanted_upgrade(call: &mut Call) -> ApiResult<hyper::upgrade::OnUpgrade> {
    if !names_h2c(&call.headers) {
        return Err(ApiError::invalid("upgrade to h2c, and speak HTTP/2 from then on"));
    }
    call.upgrade
        .take()
        .ok_or_else(|| ApiError::invalid("the connection cannot be upgraded"))
}

fn names_h2c(headers: &HeaderMap) -> bool {
    let asked = headers.get(UPGRADE).and_then(|value| value.to_str().ok());
    asked.is_some_and(|asked| asked.split(',').any(|one| one.trim().eq_ignore_ascii_case("h2c")))
}

fn switch_to_h2c() -> Answer {
    let mut response = respond::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("h2c"));
    response
}

/// `POST /build/cancel`: a build that is no more is no error, as with Docker.
pub fn cancel(call: &Call) -> Answer {
    call.builders.cancel(call.query.get("id").unwrap_or_default());
    respond::empty(StatusCode::OK)
}

/// `POST /build?version=2`.
pub async fn build(call: Call) -> ApiResult<Answer> {
    let session = call.query.get("session").unwrap_or_default().to_owned();
    let builders = Arc::clone(&call.builders);
    let answer = begin(call, &session).await;
    if answer.is_err() && !session.is_empty() {
        builders.end_session(&session).await;
    }
    answer
}

async fn begin(call: Call, session: &str) -> ApiResult<Answer> {
    let id = call.query.get("buildid").unwrap_or_default().to_owned();
    if let Some(build) = id.strip_prefix(UPLOAD).and_then(|rest| rest.strip_prefix(':')) {
        let archive = crate::upload::chunks(call.body);
        call.builders.upload(build, archive).await?;
        return Ok(respond::empty(StatusCode::OK));
    }
    if session.is_empty() {
        return Err(ApiError::invalid("a build of version 2 needs a session"));
    }
    let outputs = read_outputs(&call)?;
    let remote = match call.query.get("remote").unwrap_or_default() {
        "client-session" => Remote::Client {
            context: "context".to_owned(),
            dockerfile: "dockerfile".to_owned(),
        },
        UPLOAD => Remote::Upload,
        "" => {
            return Err(ApiError::invalid(
                "a build of version 2 needs remote=client-session and a session",
            ));
        }
        _ => Remote::Fetched,
    };
    let mut request = build_request(&call)?;
    if remote != Remote::Fetched {
        request.remote = None;
    }
    request
        .cache_from
        .extend(cache_names(&call)?.into_iter().map(CacheSource::Named));
    let build = SessionBuild {
        id,
        session: session.to_owned(),
        remote,
        request,
        outputs,
        takes_warnings: false,
    };
    let is_quiet = call.query.flag("q");
    let mut running = call.builders.begin(call.engine, build).await?;
    let mut telling = Telling {
        waiting: VecDeque::new(),
        is_quiet,
        running: None,
    };
    // What fails before the first step has a status of its own.
    match running.told.recv().await {
        Some(Told::Failed(error)) => return Err(error.into()),
        first => {
            telling.running = Some(running);
            telling.take(first);
        }
    }
    Ok(respond::stream(respond::JSON, stream::unfold(telling, next_line)))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireOutput {
    r#type: String,
    #[serde(default)]
    attrs: Option<HashMap<String, String>>,
}

/// What is wanted of the build; an image, where nothing is told.
fn read_outputs(call: &Call) -> ApiResult<Vec<Output>> {
    let Some(text) = call.query.non_empty("outputs") else {
        return Ok(Vec::new());
    };
    let outputs: Option<Vec<WireOutput>> = parse_json(text.as_bytes())?;
    let read = |output: WireOutput| {
        // Of this form's clients it is an image in the engine.
        let kind = match output.r#type.as_str() {
            "docker" => "image",
            other => other,
        };
        Ok(Output::read(kind, &output.attrs.unwrap_or_default(), None)?)
    };
    outputs.unwrap_or_default().into_iter().map(read).collect()
}

struct Telling {
    waiting: VecDeque<Bytes>,
    is_quiet: bool,
    /// Gone with the build's last word.
    running: Option<Running>,
}

impl Telling {
    fn take(&mut self, told: Option<Told>) {
        match told {
            Some(Told::Trace(status)) => self.waiting.push_back(json_line(&json!({
                "id": "moby.buildkit.trace",
                "aux": STANDARD.encode(naru_buildkit::encode(&status)),
            }))),
            // This form's clients keep no caches.
            Some(Told::Cache(_)) => {}
            Some(Told::Built(None)) => self.running = None,
            Some(Told::Built(Some(id))) => {
                let image = json!({ "id": "moby.image.id", "aux": { "ID": id.to_string() } });
                self.waiting.push_back(json_line(&image));
                if self.is_quiet {
                    self.waiting.push_back(said(format!("{id}\n")));
                }
                self.running = None;
            }
            Some(Told::Failed(error)) => {
                self.waiting.push_back(error_line(&error.to_string()));
                self.running = None;
            }
            None => {
                let error = EngineError::new(ErrorKind::System, "the build was ended");
                self.waiting.push_back(error_line(&error.message));
                self.running = None;
            }
        }
    }
}

async fn next_line(mut telling: Telling) -> Option<(io::Result<Bytes>, Telling)> {
    loop {
        if let Some(line) = telling.waiting.pop_front() {
            return Some((Ok(line), telling));
        }
        let told = telling.running.as_mut()?.told.recv().await;
        telling.take(told);
    }
}
