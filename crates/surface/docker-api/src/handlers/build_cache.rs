//! What builds keep: as a part of `GET /system/df`, and `POST /build/prune`.

use crate::error::{ApiError, ApiResult};
use crate::request::Call;
use crate::respond::{self, Answer};
use crate::translate::filters::Filters;
use crate::translate::time::parse_time;
use naru_base::Timestamp;
use naru_docker_wire::types::BuildCache;
use naru_engine::{CacheEntry, CacheFilter, PruneCacheRequest};
use serde_json::json;
use std::collections::BTreeMap;

/// Filters by a property and its value, and those by what is true of an entry.
const PROPERTIES: &[&str] = &["id", "parents", "type", "description"];
const TRUTHS: &[&str] = &["inuse", "shared", "private"];

/// Filters by age, two names for one; and by labels, of which the cache has none.
const OTHERS: &[&str] = &["until", "unused-for", "label", "label!"];

/// `POST /build/prune`.
pub async fn prune(call: Call) -> ApiResult<Answer> {
    let known: Vec<&str> = [PROPERTIES, TRUTHS, OTHERS].concat();
    let filters = Filters::parse(call.query.get("filters"), &known)?;
    let is_meant = filters.labels_match(&BTreeMap::new());
    let request = PruneCacheRequest {
        all: call.query.flag("all"),
        unused_since: unused_since(&filters)?,
        filters: conditions(&filters)?,
        // The older name of the same bound.
        reserved_bytes: bytes(&call, "reserved-space")?.max(bytes(&call, "keep-storage")?),
        used_bytes_max: bytes(&call, "max-used-space")?,
        free_bytes_min: bytes(&call, "min-free-space")?,
    };
    let (ids, bytes) = if is_meant {
        call.engine.prune_builds(request).await?
    } else {
        (Vec::new(), 0)
    };
    Ok(respond::ok(
        &json!({ "CachesDeleted": ids, "SpaceReclaimed": bytes }),
    ))
}

fn bytes(call: &Call, key: &str) -> ApiResult<u64> {
    let Some(bytes) = call.integer(key)? else {
        return Ok(0);
    };
    u64::try_from(bytes)
        .map_err(|_| ApiError::invalid(format!("{key} must not be less than 0, as {bytes} is")))
}

fn unused_since(filters: &Filters) -> ApiResult<Option<Timestamp>> {
    match (filters.values("until"), filters.values("unused-for")) {
        ([], []) => Ok(None),
        ([text], []) | ([], [text]) => parse_time(text).map(Some),
        _ => Err(ApiError::invalid(
            "more than one until or unused-for filter specified",
        )),
    }
}

/// All must hold of an entry; an id is found by any part of it, as Docker does.
fn conditions(filters: &Filters) -> ApiResult<Vec<Vec<CacheFilter>>> {
    let mut all = Vec::new();
    for name in PROPERTIES.iter().chain(TRUTHS).copied() {
        let condition = match filters.values(name) {
            [] => continue,
            [value] if name == "id" => CacheFilter::matches(name, value)?,
            [value] if TRUTHS.contains(&name) && value.is_empty() => CacheFilter::present(name)?,
            [value] => CacheFilter::equal(name, value)?,
            _ => {
                return Err(ApiError::invalid(format!(
                    "filter {name:?} accepts only one value"
                )));
            }
        };
        all.push(condition);
    }
    Ok(if all.is_empty() { Vec::new() } else { vec![all] })
}

pub fn wire_entry(entry: CacheEntry) -> BuildCache {
    BuildCache {
        // Clients before 1.42 know one parent alone.
        parent: entry.parents.first().cloned().unwrap_or_default(),
        parents: entry.parents,
        id: entry.id,
        kind: entry.kind.name().to_owned(),
        description: entry.description,
        in_use: entry.is_in_use,
        shared: entry.is_shared,
        size: entry.bytes as i64,
        created_at: entry.made_at.unwrap_or(Timestamp::from_parts(0, 0)).to_string(),
        last_used_at: entry.used_at.map(|used_at| used_at.to_string()),
        usage_count: entry.uses as i64,
    }
}
