//! What builds keep, in BuildKit's words: `Control/DiskUsage` and `Control/Prune`.

use crate::error::Result;
use crate::wire::{Timestamp, control};
use naru_engine::{CacheEntry, CacheFilter, CacheKind, Engine, EngineError, PruneCacheRequest, is_matched};
use std::collections::HashMap;
use std::sync::Arc;

/// Each may be a pattern that takes a while to understand; people write a handful.
const CONDITIONS_MAX: usize = 100;

/// Conditions as containerd writes them: `type==regular,id~=abc`, each string by itself enough.
pub fn read_filters(texts: &[String]) -> Result<Vec<Vec<CacheFilter>>> {
    let count: usize = texts.iter().map(|text| text.split(',').count()).sum();
    if count > CONDITIONS_MAX {
        let message = format!("{count} conditions are too many: at most {CONDITIONS_MAX} are read");
        return Err(EngineError::invalid(message).into());
    }
    let conditions = |text: &String| {
        text.split(',')
            .map(str::trim)
            .map(read_filter)
            .collect::<Result<Vec<_>>>()
    };
    texts
        .iter()
        .filter(|text| !text.trim().is_empty())
        .map(conditions)
        .collect()
}

fn read_filter(text: &str) -> Result<CacheFilter> {
    let unquoted = |value: &str| value.trim_matches('"').to_owned();
    let at = |operator: &str| {
        text.split_once(operator)
            .map(|(field, value)| (field.to_owned(), unquoted(value)))
    };
    let filter = if let Some((field, value)) = at("==") {
        CacheFilter::equal(&field, &value)
    } else if let Some((field, value)) = at("!=") {
        CacheFilter::unequal(&field, &value)
    } else if let Some((field, value)) = at("~=") {
        CacheFilter::matches(&field, &value)
    } else {
        CacheFilter::present(text)
    };
    Ok(filter?)
}

pub async fn usage(
    engine: Arc<Engine>,
    request: control::DiskUsageRequest,
) -> Result<control::DiskUsageResponse> {
    let filters = read_filters(&request.filter)?;
    let unused_since = ago(request.age_limit);
    let entries = engine.build_cache().await?.into_iter();
    let is_old = |entry: &CacheEntry| {
        unused_since.is_none_or(|since| entry.used_at.is_none_or(|used_at| used_at <= since))
    };
    let entries = entries.filter(|entry| is_matched(&filters, entry) && is_old(entry));
    Ok(control::DiskUsageResponse {
        record: entries.map(record_of).collect(),
    })
}

/// Prunes, and says what went.
pub async fn prune(engine: Arc<Engine>, request: control::PruneRequest) -> Result<Vec<control::UsageRecord>> {
    let bytes = |value: i64, what: &str| {
        u64::try_from(value).map_err(|_| EngineError::invalid(format!("{what} must not be less than 0")))
    };
    let wanted = PruneCacheRequest {
        all: request.all,
        unused_since: ago(request.keep_duration),
        filters: read_filters(&request.filter)?,
        reserved_bytes: bytes(request.reserved_space, "reserved space")?,
        used_bytes_max: bytes(request.max_used_space, "max used space")?,
        free_bytes_min: bytes(request.min_free_space, "min free space")?,
    };
    let before = engine.build_cache().await?;
    let mut before: HashMap<String, CacheEntry> = before
        .into_iter()
        .map(|entry| (entry.id.clone(), entry))
        .collect();
    let (ids, _) = engine.prune_builds(wanted).await?;
    Ok(ids
        .iter()
        .filter_map(|id| before.remove(id))
        .map(record_of)
        .collect())
}

/// So many nanoseconds before now; nothing for none.
fn ago(nanoseconds: i64) -> Option<naru_base::Timestamp> {
    let at = naru_base::Timestamp::now().as_nanosecond() - i128::from(nanoseconds);
    let split = |at: i128| ((at / 1_000_000_000) as i64, (at % 1_000_000_000) as i32);
    let (seconds, rest) = split(at);
    (nanoseconds > 0).then(|| naru_base::Timestamp::from_parts(seconds, rest))
}

pub fn wire_time(time: naru_base::Timestamp) -> Timestamp {
    Timestamp {
        seconds: time.as_second(),
        nanos: (time.as_nanosecond().rem_euclid(1_000_000_000)) as i32,
    }
}

fn record_of(entry: CacheEntry) -> control::UsageRecord {
    control::UsageRecord {
        mutable: entry.kind != CacheKind::Step,
        in_use: entry.is_in_use,
        size: entry.bytes as i64,
        created_at: entry.made_at.map(wire_time),
        last_used_at: entry.used_at.map(wire_time),
        usage_count: entry.uses as i64,
        record_type: entry.kind.name().to_owned(),
        shared: entry.is_shared,
        parents: entry.parents,
        description: entry.description,
        id: entry.id,
        ..control::UsageRecord::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_as_containerd_writes_them() {
        let read = |text: &str| read_filters(&[text.to_owned()]);
        assert_eq!(read("type==regular,id~=^ab").unwrap()[0].len(), 2);
        assert_eq!(read("inuse").unwrap()[0].len(), 1);
        assert!(read("").unwrap().is_empty());
        assert!(read("nosuch==1").is_err());
        assert!(read("id~=(").is_err());
    }
}
