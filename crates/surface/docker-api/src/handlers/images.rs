//! Images: reading the store, and the changes the engine makes to it.

use super::registry::parse_platform;
use crate::error::{ApiError, ApiResult};
use crate::request::Call;
use crate::respond::{self, Answer};
use crate::translate::filters::Filters;
use crate::translate::image::{delete_items, history as wire_history, image_inspect, image_summary};
use crate::translate::pattern::fits;
use crate::translate::prune::PruneFilters;
use crate::translate::time::parse_time;
use futures_util::stream;
use hyper::StatusCode;
use naru_docker_wire::types::{
    ErrorDetail, ImageAttestation, ImageSummary, ProgressDetail, ProgressLine, PruneImagesResponse,
};
use naru_engine::EngineError;
use naru_engine::archive::ChunkReader;
use naru_engine::content::{Image, LoadProgress, LoadedImage};
use naru_engine::oci::Platform;
use tokio::sync::mpsc;

/// Lines of progress in flight; a client that reads slower sees fewer of them.
const PROGRESS_LINES_MAX: usize = 64;

const FILTERS: [&str; 8] = [
    "before",
    "dangling",
    "label",
    "label!",
    "reference",
    "since",
    "until",
    "id",
];

pub async fn list(call: Call) -> ApiResult<Answer> {
    let filters = Filters::parse(call.query.get("filters"), &FILTERS)?;
    let dangling = filters.boolean("dangling")?;
    let store = call.engine.images();
    let created = |name: &String| store.image(name).map(|image| image.listed_at());
    let before = filters
        .values("before")
        .iter()
        .map(created)
        .collect::<Result<Vec<_>, _>>()?;
    let since = filters
        .values("since")
        .iter()
        .map(created)
        .collect::<Result<Vec<_>, _>>()?;
    let mut until = Vec::new();
    for text in filters.values("until") {
        until.push(parse_time(text)?);
    }
    let is_wanted = |image: &Image| {
        dangling.is_none_or(|wanted| wanted == image.tags.is_empty())
            && filters.labels_match(&image.config.config.labels)
            && filters.any("reference", |pattern| {
                image
                    .tags
                    .iter()
                    .chain(&image.digests)
                    .any(|name| is_referred(name, pattern))
            })
            && filters.any("id", |id| {
                image.id.hex().starts_with(id.trim_start_matches("sha256:"))
            })
            && before.iter().all(|mark| image.listed_at() < *mark)
            && since.iter().all(|mark| image.listed_at() > *mark)
            && until.iter().all(|mark| image.arrived_at < *mark)
    };
    let mut summaries: Vec<ImageSummary> = Vec::new();
    for image in store.images().iter().filter(|image| is_wanted(image)) {
        let containers = if call.version.is_at_least(51) {
            call.engine.image_users(&image.id).await.len() as i64
        } else {
            -1
        };
        // Of an image with several names the filter shows those it fits, as Docker does.
        let is_shown = |name: &String| filters.any("reference", |pattern| is_referred(name, pattern));
        let mut shown = Image::clone(image);
        shown.tags.retain(is_shown);
        shown.digests.retain(is_shown);
        summaries.push(image_summary(&shown, containers, -1, call.version));
    }
    Ok(respond::ok(&summaries))
}

/// `busybox`, `busybox:1.36`, `*/web:*`, as Docker's `reference` filter has it.
fn is_referred(name: &str, pattern: &str) -> bool {
    let repository = name
        .rsplit_once('@')
        .or_else(|| name.rsplit_once(':'))
        .map_or(name, |(repository, _)| repository);
    fits(pattern, name) || fits(pattern, repository)
}

pub fn inspect(call: &Call) -> ApiResult<Answer> {
    let image = call.engine.images().image(&call.name)?;
    if call.version.is_at_least(49) {
        if call.query.flag("manifests") && call.query.non_empty("platform").is_some() {
            return Err(ApiError::invalid(
                "conflicting options: manifests and platform options cannot both be set",
            ));
        }
        check_platform(call, &call.name)?;
    }
    let mut inspected = image_inspect(&image, call.version);
    inspected.attestations = call.engine.images().attestation_types(&image.id);
    Ok(respond::ok(&inspected))
}

/// `GET /naru/images/{}/attestations`.
pub fn attestations(call: &Call) -> ApiResult<Answer> {
    let image = call.engine.images().image(&call.name)?;
    let attested = call.engine.images().attestations(&image.id)?;
    let wire = attested.into_iter().map(|one| ImageAttestation {
        predicate_type: one.predicate_type,
        predicate: one.predicate,
    });
    Ok(respond::ok(&wire.collect::<Vec<_>>()))
}

/// An image here is of one platform: another one that is asked for is not there.
pub fn check_platform(call: &Call, name: &str) -> ApiResult<()> {
    let Some(text) = call.query.non_empty("platform") else {
        return Ok(());
    };
    let wanted = parse_platform(text)?;
    check_match(name, &wanted, &*call.engine.images().image(name)?)
}

/// The values of `platforms`: each an object, or an array of them.
fn platforms(call: &Call) -> ApiResult<Vec<Platform>> {
    let mut all = Vec::new();
    for text in call.query.all("platforms") {
        if text.starts_with('[') {
            let several: Vec<Platform> = serde_json::from_str(text)
                .map_err(|error| ApiError::invalid(format!("invalid platforms {text:?}: {error}")))?;
            all.extend(several);
        } else {
            all.push(parse_platform(text)?);
        }
    }
    Ok(all)
}

fn check_match(name: &str, wanted: &Platform, image: &Image) -> ApiResult<()> {
    let found = image.config.platform();
    if wanted.fits(&found) {
        return Ok(());
    }
    Err(ApiError::not_found(format!(
        "image with reference {name} was found but does not match the specified platform: wanted {wanted}, actual: {found}"
    )))
}

pub fn history(call: &Call) -> ApiResult<Answer> {
    let store = call.engine.images();
    let image = store.image(&call.name)?;
    if call.version.is_at_least(48) {
        check_platform(call, &call.name)?;
    }
    Ok(respond::ok(&wire_history(store.history(&image))))
}

pub fn tag(call: &Call) -> ApiResult<Answer> {
    let repository = call.query.get("repo").unwrap_or_default();
    if repository.is_empty() {
        return Err(ApiError::invalid(
            "invalid reference format: repository name must be given",
        ));
    }
    let target = match call.query.non_empty("tag") {
        Some(tag) => format!("{repository}:{tag}"),
        None => repository.to_owned(),
    };
    call.engine.tag_image(&call.name, &target)?;
    Ok(respond::empty(StatusCode::CREATED))
}

pub async fn remove(call: Call) -> ApiResult<Answer> {
    let (force, no_prune) = (call.query.flag("force"), call.query.flag("noprune"));
    if call.version.is_at_least(50) && call.query.non_empty("platforms").is_some() {
        let image = call.engine.images().image(&call.name)?;
        for platform in platforms(&call)? {
            check_match(&call.name, &platform, &image)?;
        }
    }
    let removed = blocking(move || Ok(call.engine.remove_image(&call.name, force, no_prune)?)).await?;
    Ok(respond::ok(&delete_items(removed)))
}

pub async fn prune(call: Call) -> ApiResult<Answer> {
    let known = ["dangling", "label", "label!", "until"];
    let meant = PruneFilters::parse(call.query.get("filters"), &known)?;
    let dangling_only = meant.filters.boolean("dangling")?.unwrap_or(true);
    let prune = move || {
        let is_meant = |image: &Image| meant.is_meant(&image.config.config.labels, Some(image.arrived_at));
        Ok(call.engine.prune_images(dangling_only, &is_meant)?)
    };
    let (removed, bytes) = blocking(prune).await?;
    let deleted = delete_items(removed);
    Ok(respond::ok(&PruneImagesResponse {
        images_deleted: Some(deleted).filter(|list| !list.is_empty()),
        space_reclaimed: bytes,
    }))
}

pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> ApiResult<T> + Send + 'static,
) -> ApiResult<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the operation did not finish: {error}"),
        ))
    })
}

/// The archive is unpacked while it arrives; the answer is a stream of progress, and errors come in it.
pub fn load(call: Call) -> ApiResult<Answer> {
    let platform = call
        .query
        .non_empty("platform")
        .filter(|_| call.version.is_at_least(48));
    let platform = platform.map(parse_platform).transpose()?;
    let quiet = call.query.flag("quiet");
    let archive = ChunkReader::new(crate::upload::chunks(call.body));
    let (lines, progress) = mpsc::channel(PROGRESS_LINES_MAX);
    tokio::task::spawn_blocking(move || {
        let mut tell = |step: LoadProgress| {
            if !quiet {
                // A full channel means a slow reader, which then misses a step and nothing else.
                let _ = lines.try_send(progress_line(step));
            }
        };
        let loaded = call.engine.load_images(archive, platform.as_ref(), &mut tell);
        for line in closing_lines(loaded) {
            if lines.blocking_send(line).is_err() {
                break;
            }
        }
    });
    let body = stream::unfold(progress, |mut progress| async move {
        progress
            .recv()
            .await
            .map(|line| (Ok(respond::json_line(&line)), progress))
    });
    Ok(respond::stream(respond::JSON, body))
}

fn progress_line(step: LoadProgress) -> ProgressLine {
    ProgressLine {
        status: Some("Loading layer".to_owned()),
        id: Some(step.layer),
        progress_detail: Some(ProgressDetail {
            current: step.bytes,
            total: step.bytes_total,
        }),
        progress: Some(format!(
            "{} / {}",
            human_size(step.bytes),
            human_size(step.bytes_total)
        )),
        ..ProgressLine::default()
    }
}

pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1000.0 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes}B")
    } else {
        format!("{size:.3}{}", UNITS[unit])
    }
}

fn closing_lines(loaded: Result<Vec<LoadedImage>, EngineError>) -> Vec<ProgressLine> {
    let told = |text: String| ProgressLine {
        stream: Some(text),
        ..ProgressLine::default()
    };
    match loaded {
        Ok(images) => images
            .into_iter()
            .flat_map(|image| {
                if image.names.is_empty() {
                    vec![told(format!("Loaded image ID: {}\n", image.id))]
                } else {
                    image
                        .names
                        .iter()
                        .map(|name| told(format!("Loaded image: {name}\n")))
                        .collect()
                }
            })
            .collect(),
        Err(error) => vec![ProgressLine {
            error_detail: Some(ErrorDetail {
                code: 0,
                message: error.message.clone(),
            }),
            error: Some(error.message),
            ..ProgressLine::default()
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_dockers() {
        assert_eq!(human_size(999), "999B");
        assert_eq!(human_size(4_259_840), "4.260MB");
    }
}
