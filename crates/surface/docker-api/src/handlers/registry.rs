//! What needs a registry: pull, push, login, search, and asking about an image.

use super::images::check_platform;
use crate::error::{ApiError, ApiResult};
use crate::request::Call;
use crate::respond::{self, Answer};
use crate::translate::filters::Filters;
use crate::translate::transfer::{error_line, progress_line};
use bytes::Bytes;
use futures_util::stream;
use hyper::StatusCode;
use naru_base::ErrorKind;
use naru_engine::archive::ChunkReader;
use naru_engine::oci::{Platform, Reference};
use naru_engine::registry::Credentials;
use naru_engine::{EngineError, ImportRequest, PullRequest, PushRequest, Teller, TransferStep};
use std::collections::VecDeque;
use std::io;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Steps in flight; a client that reads slower sees fewer of them.
const STEPS_MAX: usize = 64;

/// `POST /images/create`: a pull, or with `fromSrc` an import.
pub async fn pull(call: Call) -> ApiResult<Answer> {
    if let Some(source) = call.query.non_empty("fromSrc").map(str::to_owned) {
        return import(call, source).await;
    }
    let name = call.query.get("fromImage").unwrap_or_default();
    let reference = parse_reference(name, call.query.non_empty("tag"))?;
    let platform = call.query.non_empty("platform").map(parse_platform).transpose()?;
    let request = PullRequest {
        has_all_tags: reference.tag().is_none() && reference.digest().is_none(),
        reference,
        platform,
        credentials: credentials(&call)?,
    };
    let (steps, told) = mpsc::channel(STEPS_MAX);
    let work = tokio::task::spawn_blocking(move || call.engine.pull_image(&request, &Teller::new(steps)));
    answer_with_steps(told, work).await
}

/// `POST /images/{}/push`.
pub async fn push(call: Call) -> ApiResult<Answer> {
    let reference = parse_reference(&call.name, call.query.non_empty("tag"))?;
    if call.version.is_at_least(46) {
        check_platform(&call, &reference.clone().or_latest().to_string())?;
    }
    let request = PushRequest {
        reference,
        credentials: credentials(&call)?,
    };
    let (steps, told) = mpsc::channel(STEPS_MAX);
    let work = tokio::task::spawn_blocking(move || call.engine.push_image(&request, &Teller::new(steps)));
    answer_with_steps(told, work).await
}

/// `POST /auth`: tries credentials.
pub async fn auth(mut call: Call) -> ApiResult<Answer> {
    let credentials: Credentials = call.json().await?;
    let credentials = credentials
        .completed()
        .ok_or_else(|| ApiError::invalid("invalid auth: it is not base64 of username:password"))?;
    let logged_in = call
        .engine
        .log_in(&credentials)
        .await
        .map_err(|error| match error.kind {
            ErrorKind::Forbidden => ApiError::new(StatusCode::UNAUTHORIZED, error.message),
            _ => error.into(),
        })?;
    Ok(respond::ok(&serde_json::json!({
        "Status": "Login Succeeded",
        "IdentityToken": logged_in.identity_token,
    })))
}

/// `GET /distribution/{}/json`: what a registry has under a name.
pub async fn distribution(call: Call) -> ApiResult<Answer> {
    let reference = parse_reference(&call.name, None)?;
    let found = call
        .engine
        .inspect_distribution(&reference, credentials(&call)?)
        .await?;
    let platform = |platform: Platform| {
        let mut value = serde_json::json!({ "architecture": platform.architecture, "os": platform.os });
        if !platform.variant.is_empty() {
            value["variant"] = platform.variant.into();
        }
        value
    };
    Ok(respond::ok(&serde_json::json!({
        "Descriptor": {
            "mediaType": found.media_type,
            "digest": found.digest.to_string(),
            "size": found.bytes,
        },
        "Platforms": found.platforms.into_iter().map(platform).collect::<Vec<_>>(),
    })))
}

/// Docker's own limits on `limit`.
const SEARCH_LIMIT_DEFAULT: i64 = 25;
const SEARCH_LIMIT_MAX: i64 = 100;

/// `GET /images/search`.
pub async fn search(call: Call) -> ApiResult<Answer> {
    let filters = Filters::parse(
        call.query.get("filters"),
        &["is-automated", "is-official", "stars"],
    )?;
    let term = call.query.non_empty("term").unwrap_or_default().to_owned();
    let limit = call
        .integer("limit")?
        .filter(|limit| *limit != 0)
        .unwrap_or(SEARCH_LIMIT_DEFAULT);
    if !(1..=SEARCH_LIMIT_MAX).contains(&limit) {
        return Err(ApiError::invalid(format!(
            "limit {limit} is outside the range of [1, {SEARCH_LIMIT_MAX}]"
        )));
    }
    let (official, automated) = (filters.boolean("is-official")?, filters.boolean("is-automated")?);
    let stars = filters
        .values("stars")
        .iter()
        .map(|text| {
            text.parse::<i64>()
                .map_err(|_| ApiError::invalid(format!("invalid filter 'stars={text}'")))
        })
        .collect::<ApiResult<Vec<_>>>()?;
    let found = call
        .engine
        .search_registry(&term, limit as u32, credentials(&call)?)
        .await?;
    let wanted = found.into_iter().filter(|one| {
        official.is_none_or(|wanted| wanted == one.is_official)
            && automated.is_none_or(|wanted| wanted == one.is_automated)
            && stars.iter().all(|least| one.star_count >= *least)
    });
    let results = wanted.map(|one| {
        serde_json::json!({
            "name": one.name,
            "description": one.description.unwrap_or_default(),
            "star_count": one.star_count,
            "is_official": one.is_official,
            "is_automated": one.is_automated,
        })
    });
    Ok(respond::ok(&results.collect::<Vec<_>>()))
}

/// Makes an image of the archive in the body, or of the one that a URL names.
async fn import(call: Call, source: String) -> ApiResult<Answer> {
    let reference = match call.query.non_empty("repo") {
        Some(name) => Some(parse_reference(name, call.query.non_empty("tag"))?),
        None => None,
    };
    let platform = call.query.non_empty("platform").map(parse_platform).transpose()?;
    let request = ImportRequest {
        reference,
        message: call.query.get("message").unwrap_or_default().to_owned(),
        source: source.clone(),
        changes: call.query.all("changes").map(str::to_owned).collect(),
        platform: platform.unwrap_or_else(Platform::host),
    };
    let chunks = if source == "-" {
        crate::upload::chunks(call.body)
    } else {
        call.engine.open_url(&source).await?
    };
    let archive = ChunkReader::new(chunks);
    let (steps, told) = mpsc::channel(STEPS_MAX);
    let engine = call.engine;
    let work = tokio::task::spawn_blocking(move || {
        let id = engine.import_image(&request, archive)?;
        let step = TransferStep::Status {
            id: None,
            text: id.to_string(),
        };
        // Whoever asked may have gone; the image is there all the same.
        let _ = steps.blocking_send(step);
        Ok(())
    });
    Ok(respond::stream(
        respond::JSON,
        stream::unfold(
            Steps {
                told,
                waiting: VecDeque::new(),
                work: Some(work),
            },
            next_line,
        ),
    ))
}

/// A name with what the `tag` parameter says: a tag or a digest.
fn parse_reference(name: &str, tag: Option<&str>) -> ApiResult<Reference> {
    let text = match tag {
        Some(tag) if tag.contains(':') => format!("{name}@{tag}"),
        Some(tag) => format!("{name}:{tag}"),
        None => name.to_owned(),
    };
    Reference::parse(&text).map_err(|error| ApiError::invalid(error.to_string()))
}

/// `linux/arm64`, or what newer clients send: `{"os":"linux","architecture":"arm64"}`.
pub(super) fn parse_platform(text: &str) -> ApiResult<Platform> {
    let parsed = if text.starts_with('{') {
        serde_json::from_str(text).ok()
    } else {
        Platform::parse(text)
    };
    parsed.ok_or_else(|| {
        ApiError::invalid(format!(
            "\"{text}\": unknown operating system or architecture: invalid argument"
        ))
    })
}

/// The credentials the client sent along.
fn credentials(call: &Call) -> ApiResult<Option<Credentials>> {
    let Some(header) = call.headers.get("x-registry-auth") else {
        return Ok(None);
    };
    let text = header
        .to_str()
        .map_err(|_| ApiError::invalid("invalid X-Registry-Auth header: it is not ASCII"))?;
    Ok(Some(Credentials::decode(text).map_err(EngineError::from)?)
        .filter(|known| *known != Credentials::default()))
}

/// Answers with the steps as they come. What fails before the first of them has a status of its own; later it is too
/// late for that, and the error is the last line.
async fn answer_with_steps(
    mut told: mpsc::Receiver<TransferStep>,
    work: JoinHandle<Result<(), EngineError>>,
) -> ApiResult<Answer> {
    let Some(first) = told.recv().await else {
        return match work.await {
            Ok(Ok(())) => Ok(respond::stream(respond::JSON, stream::empty())),
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                error.to_string(),
            )),
        };
    };
    let state = Steps {
        told,
        waiting: VecDeque::from(progress_line(first)),
        work: Some(work),
    };
    Ok(respond::stream(respond::JSON, stream::unfold(state, next_line)))
}

struct Steps {
    told: mpsc::Receiver<TransferStep>,
    waiting: VecDeque<Bytes>,
    work: Option<JoinHandle<Result<(), EngineError>>>,
}

async fn next_line(mut steps: Steps) -> Option<(io::Result<Bytes>, Steps)> {
    loop {
        if let Some(line) = steps.waiting.pop_front() {
            return Some((Ok(line), steps));
        }
        if let Some(step) = steps.told.recv().await {
            steps.waiting.extend(progress_line(step));
            continue;
        }
        let failure = match steps.work.take()?.await {
            Ok(Ok(())) => return None,
            Ok(Err(error)) => error.message,
            Err(error) => error.to_string(),
        };
        steps.waiting.push_back(error_line(&failure));
    }
}
