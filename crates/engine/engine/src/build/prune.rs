//! Pruning what builds keep: which entries go is decided over the list of all, then done.
//!
//! What nobody has used for longest goes first, and what stands on a layer before the layer. An entry that a running
//! build needs stays, and so does one whose layer an image has too, unless all is asked for: its removal frees nothing.

use super::account::{CacheEntry, CacheKind, Found, Place};
use super::cache::CacheRecord;
use crate::Engine;
use crate::error::{EngineError, Result};
use naru_base::Timestamp;
use naru_sys::file;
use regex::Regex;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// What is to go.
#[derive(Debug, Clone, Default)]
pub struct PruneCacheRequest {
    /// Also what an image has too.
    pub all: bool,
    /// Nothing that was used later.
    pub unused_since: Option<Timestamp>,
    /// An entry must match all of one of them; none: every entry does.
    pub filters: Vec<Vec<CacheFilter>>,
    /// Bytes that stay in any case.
    pub reserved_bytes: u64,
    /// Bytes that the cache may take up; 0: not bounded.
    pub used_bytes_max: u64,
    /// Bytes that the file system should have free; 0: any.
    pub free_bytes_min: u64,
}

/// A condition on one property of an entry.
#[derive(Debug, Clone)]
pub struct CacheFilter {
    field: Field,
    test: Test,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Id,
    Parents,
    Kind,
    Description,
    IsInUse,
    IsShared,
    IsPrivate,
    IsMutable,
}

#[derive(Debug, Clone)]
enum Test {
    Equal(String),
    Unequal(String),
    Matches(Regex),
    Present,
}

impl CacheFilter {
    /// A property that is there, or true.
    pub fn present(field: &str) -> Result<Self> {
        Self::of(field, Test::Present)
    }

    pub fn equal(field: &str, value: &str) -> Result<Self> {
        Self::of(field, Test::Equal(value.to_owned()))
    }

    pub fn unequal(field: &str, value: &str) -> Result<Self> {
        Self::of(field, Test::Unequal(value.to_owned()))
    }

    pub fn matches(field: &str, pattern: &str) -> Result<Self> {
        let wrong =
            |error: regex::Error| EngineError::invalid(format!("invalid filter {field}~={pattern}: {error}"));
        Self::of(field, Test::Matches(Regex::new(pattern).map_err(wrong)?))
    }

    fn of(field: &str, test: Test) -> Result<Self> {
        let field = match field {
            "id" => Field::Id,
            "parents" | "parent" => Field::Parents,
            "type" => Field::Kind,
            "description" => Field::Description,
            "inuse" => Field::IsInUse,
            "shared" => Field::IsShared,
            "private" => Field::IsPrivate,
            "mutable" => Field::IsMutable,
            other => {
                return Err(EngineError::invalid(format!(
                    "invalid filter '{other}': the build cache knows id, parents, type, description, inuse, shared, private"
                )));
            }
        };
        Ok(Self { field, test })
    }

    fn is_met(&self, entry: &CacheEntry) -> bool {
        let truth = |is: bool| if is { "true" } else { "" };
        match self.field {
            Field::Id => self.takes(&entry.id),
            Field::Kind => self.takes(entry.kind.name()),
            Field::Description => self.takes(&entry.description),
            Field::Parents => match entry.parents.as_slice() {
                [] => self.takes(""),
                parents => parents.iter().any(|parent| self.takes(parent)),
            },
            Field::IsInUse => self.takes(truth(entry.is_in_use)),
            Field::IsShared => self.takes(truth(entry.is_shared)),
            Field::IsPrivate => self.takes(truth(!entry.is_shared)),
            Field::IsMutable => self.takes(truth(entry.kind != CacheKind::Step)),
        }
    }

    fn takes(&self, value: &str) -> bool {
        let is_truth = matches!(
            self.field,
            Field::IsInUse | Field::IsShared | Field::IsPrivate | Field::IsMutable
        );
        let equals = |wanted: &str| match wanted {
            "0" | "false" if is_truth => value.is_empty(),
            "1" if is_truth => !value.is_empty(),
            wanted => wanted == value,
        };
        match &self.test {
            Test::Present => !value.is_empty(),
            Test::Equal(wanted) => equals(wanted),
            Test::Unequal(wanted) => !equals(wanted),
            Test::Matches(pattern) => pattern.is_match(value),
        }
    }
}

impl PruneCacheRequest {
    fn is_meant(&self, entry: &CacheEntry) -> bool {
        let is_young = self
            .unused_since
            .is_some_and(|since| entry.used_at.is_some_and(|used_at| used_at > since));
        !entry.is_in_use && (self.all || !entry.is_shared) && !is_young && is_matched(&self.filters, entry)
    }

    /// How many bytes may stay; `None`: everything that is meant goes.
    fn bytes_to_keep(&self, total: u64, free: u64) -> Option<u64> {
        let bounds = [self.reserved_bytes, self.used_bytes_max, self.free_bytes_min];
        if bounds == [0, 0, 0] {
            return None;
        }
        let mut keep = match (self.used_bytes_max, self.free_bytes_min) {
            // Only what is reserved was told: down to that.
            (0, 0) => self.reserved_bytes,
            (0, _) => total,
            (bytes_max, _) => bytes_max,
        };
        if self.free_bytes_min > free {
            keep = keep.min(total.saturating_sub(self.free_bytes_min - free));
        }
        Some(keep.max(self.reserved_bytes))
    }
}

/// Whether an entry matches one of the lists of conditions.
pub fn is_matched(filters: &[Vec<CacheFilter>], entry: &CacheEntry) -> bool {
    let is_met = |conditions: &Vec<CacheFilter>| conditions.iter().all(|filter| filter.is_met(entry));
    filters.is_empty() || filters.iter().any(is_met)
}

/// Decides which entries go, by their numbers, in order.
fn plan_prune(found: &[Found], request: &PruneCacheRequest, free: u64) -> Vec<usize> {
    let entries: Vec<&CacheEntry> = found.iter().map(|found| &found.entry).collect();
    let ranks = ranks_of(&entries);
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|number| ranks[*number]);
    let mut total: u64 = entries
        .iter()
        .filter(|entry| !entry.is_shared)
        .map(|entry| entry.bytes)
        .sum();
    let keep = request.bytes_to_keep(total, free);
    let mut children: HashMap<&str, usize> = HashMap::new();
    for parent in entries.iter().flat_map(|entry| &entry.parents) {
        *children.entry(parent).or_default() += 1;
    }
    let mut going = Vec::new();
    for number in order {
        if keep.is_some_and(|keep| total <= keep) {
            break;
        }
        let entry = entries[number];
        // Its bytes would stay with what stands on it.
        let is_needed = children.get(&*entry.id).is_some_and(|count| *count > 0);
        if is_needed || !request.is_meant(entry) {
            continue;
        }
        for parent in &entry.parents {
            children.entry(parent).and_modify(|count| *count -= 1);
        }
        total -= if entry.is_shared { 0 } else { entry.bytes };
        going.push(number);
    }
    going
}

/// When each entry or one that stands on it was last used, and how many it stands on.
fn ranks_of(entries: &[&CacheEntry]) -> Vec<(Option<Timestamp>, Reverse<usize>)> {
    let numbers: HashMap<&str, usize> = entries
        .iter()
        .enumerate()
        .map(|(number, entry)| (&*entry.id, number))
        .collect();
    let mut used: Vec<Option<Timestamp>> = entries.iter().map(|entry| entry.used_at).collect();
    let mut depths = vec![0; entries.len()];
    for (number, entry) in entries.iter().enumerate() {
        let mut next = entry.parents.first();
        // No chain is longer than there are entries, whatever is on the disk.
        while let Some(&parent) = next.and_then(|id| numbers.get(&**id)) {
            if depths[number] == entries.len() {
                break;
            }
            depths[number] += 1;
            used[parent] = used[parent].max(entry.used_at);
            next = entries[parent].parents.first();
        }
    }
    used.into_iter().zip(depths.into_iter().map(Reverse)).collect()
}

impl Engine {
    /// Deletes what builds keep and `request` means; returns the ids of what is gone and the bytes that are free now.
    pub async fn prune_builds(self: &Arc<Self>, request: PruneCacheRequest) -> Result<(Vec<String>, u64)> {
        let engine = Arc::clone(self);
        crate::archive::blocking(move || engine.apply_prune(&request)).await
    }

    fn apply_prune(&self, request: &PruneCacheRequest) -> Result<(Vec<String>, u64)> {
        // Images to look around in hold layers, and are of no use to builds.
        self.clear_failed()?;
        let found = self.find_cache();
        let going = plan_prune(&found, request, self.file_system_space().free_bytes);
        let (mut ids, mut bytes) = (Vec::new(), 0);
        let mut removed: HashSet<&str> = HashSet::new();
        for number in going {
            let Found { entry, place } = &found[number];
            let freed = match place {
                Place::Record(path, _) => std::fs::remove_file(path).ok().map(|()| 0),
                Place::Below => Some(0),
                Place::Directory(path) => self
                    .remove_kept(entry.kind, &entry.id, path)
                    .then_some(entry.bytes),
            };
            if let Some(freed) = freed {
                bytes += freed;
                removed.insert(&entry.id);
                ids.push(entry.id.clone());
            }
        }
        let needed: HashSet<_> = found
            .iter()
            .filter(|found| !removed.contains(&*found.entry.id))
            .filter_map(|found| match &found.place {
                Place::Record(_, image) => Some(image.clone()),
                _ => None,
            })
            .collect();
        self.sweep_records();
        if needed.is_empty() {
            self.clear_why()?;
        }
        // Images that no record names were of use to their own build alone.
        let steps = self.content.step_images();
        let steps = steps
            .iter()
            .filter(|image| !needed.contains(&image.id))
            .map(|image| (image.id.clone(), image.arrived_at));
        let forgotten = self
            .builds
            .in_use
            .forget(steps, |going| self.content.forget_steps(going));
        Ok((ids, bytes + forgotten.map_err(crate::images::error)?))
    }

    /// Removes records whose images are gone.
    fn sweep_records(&self) {
        let records = std::fs::read_dir(self.builds_directory().join("cache"));
        for entry in records.into_iter().flatten().flatten() {
            let record = naru_store::read::<CacheRecord>(&entry.path());
            if record.is_ok_and(|record| self.content.image(record.image.as_str()).is_err()) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Removes a directory that builds keep, unless one uses it; whether it did.
    fn remove_kept(&self, kind: CacheKind, name: &str, path: &Path) -> bool {
        match kind {
            CacheKind::Context => self.remove_context(path),
            CacheKind::Mount => {
                let number = super::ORDINAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let aside = self
                    .builds_directory()
                    .join("running")
                    .join(format!("pruned-{number}"));
                let moved = self.builds.in_use.remove_mount(name, || {
                    let _ = std::fs::remove_file(path.with_file_name(format!("{name}.use")));
                    std::fs::rename(path, &aside).ok()
                });
                // What a crash leaves there, the next daemon clears.
                moved.is_some() && file::remove_tree(&aside).is_ok()
            }
            CacheKind::Fetched | CacheKind::Step => file::remove_tree(path).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(id: &str, parent: &str, used: i64, bytes: u64, change: impl FnOnce(&mut CacheEntry)) -> Found {
        let mut entry = CacheEntry {
            id: id.to_owned(),
            parents: Some(parent)
                .filter(|parent| !parent.is_empty())
                .map(str::to_owned)
                .into_iter()
                .collect(),
            kind: CacheKind::Step,
            description: format!("RUN {id}"),
            is_in_use: false,
            is_shared: false,
            bytes,
            made_at: None,
            used_at: Some(Timestamp::from_parts(used, 0)),
            uses: 1,
        };
        change(&mut entry);
        let place = match id {
            "below" => Place::Below,
            _ => Place::Directory(id.into()),
        };
        Found { entry, place }
    }

    fn example() -> Vec<Found> {
        vec![
            found("below", "", 0, 50, |entry| entry.used_at = None),
            found("base", "below", 10, 10, |_| {}),
            found("top", "base", 30, 20, |_| {}),
            found("old", "", 5, 5, |_| {}),
            found("image", "", 1, 40, |entry| entry.is_shared = true),
            found("busy", "", 2, 7, |entry| entry.is_in_use = true),
            found("mount", "", 20, 100, |entry| entry.kind = CacheKind::Mount),
        ]
    }

    fn planned(request: &PruneCacheRequest) -> Vec<String> {
        let found = example();
        let going = plan_prune(&found, request, 1000);
        going
            .into_iter()
            .map(|number| found[number].entry.id.clone())
            .collect()
    }

    fn filter(filter: Result<CacheFilter>) -> PruneCacheRequest {
        PruneCacheRequest {
            filters: vec![vec![filter.unwrap()]],
            ..PruneCacheRequest::default()
        }
    }

    #[test]
    fn the_longest_unused_goes_first_and_leaves_before_what_they_stand_on() {
        let mut request = PruneCacheRequest::default();
        assert_eq!(planned(&request), ["old", "mount", "top", "base", "below"]);
        request.all = true;
        assert_eq!(planned(&request)[0], "image");
        request.all = false;
        request.unused_since = Some(Timestamp::from_parts(20, 0));
        // What is below still has somebody on it.
        assert_eq!(planned(&request), ["old", "mount"]);
    }

    #[test]
    fn bounds_say_how_much_stays() {
        let with = |reserved_bytes, used_bytes_max, free_bytes_min| {
            planned(&PruneCacheRequest {
                reserved_bytes,
                used_bytes_max,
                free_bytes_min,
                ..PruneCacheRequest::default()
            })
        };
        // 192 bytes are there that no image has too.
        assert!(with(192, 0, 0).is_empty());
        assert_eq!(with(191, 0, 0), ["old"]);
        assert_eq!(with(0, 100, 0), ["old", "mount"]);
        assert_eq!(with(188, 100, 0), ["old"]);
        assert!(with(0, 0, 1000).is_empty());
        assert_eq!(with(0, 0, 1001), ["old"]);
        assert_eq!(with(0, 0, 1050), ["old", "mount"]);
    }

    #[test]
    fn filters_choose_by_what_an_entry_is() {
        assert_eq!(
            planned(&filter(CacheFilter::equal("type", "exec.cachemount"))),
            ["mount"]
        );
        assert_eq!(planned(&filter(CacheFilter::matches("id", "^to"))), ["top"]);
        assert_eq!(planned(&filter(CacheFilter::equal("parents", "base"))), ["top"]);
        assert_eq!(
            planned(&filter(CacheFilter::matches("description", "RUN o"))),
            ["old"]
        );
        assert!(planned(&filter(CacheFilter::present("inuse"))).is_empty());
        assert_eq!(planned(&filter(CacheFilter::equal("private", "false"))).len(), 0);
        assert_eq!(planned(&filter(CacheFilter::unequal("shared", "true"))).len(), 5);
        assert!(CacheFilter::present("nosuch").is_err());
        assert!(CacheFilter::matches("id", "(").is_err());
    }
}
