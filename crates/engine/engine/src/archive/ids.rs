//! The owners of a running container's files, where it is in a user namespace of its own: on the host its files have
//! the host's ids, in an archive those that the container itself sees.

use super::extract::file_error;
use crate::error::Result;
use crate::record::ContainerRecord;
use naru_runtime::plan::MappedRoot;
use rustix::io::Errno;
use std::path::Path;

/// What a file gets whose owner the container cannot see (`kernel.overflowuid`).
const NOBODY: u32 = 65_534;

/// A container's ids and the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    pub root: MappedRoot,
    uids: Vec<Range>,
    gids: Vec<Range>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    container: u32,
    host: u32,
    count: u32,
}

impl Ids {
    /// Those of the container's first process; `None` where they are the host's own.
    pub fn of(record: &ContainerRecord) -> Result<Option<Self>> {
        let root = record.run.as_ref().and_then(|run| run.mapped_root);
        let (Some(root), Some(pid)) = (root, record.pid()) else {
            return Ok(None);
        };
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            std::fs::read_to_string(&path).map_err(|error| {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                file_error("read", Path::new(&path), errno)
            })
        };
        Ok(Some(Self {
            root,
            uids: parse(&read("uid_map")?),
            gids: parse(&read("gid_map")?),
        }))
    }

    pub fn to_container(&self, uid: u32, gid: u32) -> (u32, u32) {
        let find = |ranges: &[Range], id| {
            let find = |range: &Range| shift(id, range.host, range.count, range.container);
            ranges.iter().find_map(find).unwrap_or(NOBODY)
        };
        (find(&self.uids, uid), find(&self.gids, gid))
    }

    /// `None` for an owner that the container cannot have.
    pub fn to_host(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        let find = |ranges: &[Range], id| {
            let find = |range: &Range| shift(id, range.container, range.count, range.host);
            ranges.iter().find_map(find)
        };
        Some((find(&self.uids, uid)?, find(&self.gids, gid)?))
    }
}

fn shift(id: u32, from: u32, count: u32, to: u32) -> Option<u32> {
    let offset = id.checked_sub(from)?;
    (offset < count).then(|| to + offset)
}

/// `uid_map` as the kernel shows it: container, host, count.
fn parse(text: &str) -> Vec<Range> {
    let line = |line: &str| {
        let mut words = line.split_whitespace().map(str::parse);
        let mut next = || words.next()?.ok();
        Some(Range {
            container: next()?,
            host: next()?,
            count: next()?,
        })
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_in_every_range() {
        let ranges = parse("         0     100000        1000\n      1000     300000         10\n");
        let ids = Ids {
            root: MappedRoot {
                uid: 100_000,
                gid: 100_000,
            },
            uids: ranges.clone(),
            gids: ranges,
        };
        assert_eq!(ids.to_host(0, 1005), Some((100_000, 300_005)));
        assert_eq!(ids.to_host(1010, 0), None);
        assert_eq!(ids.to_container(100_999, 300_000), (999, 1000));
        assert_eq!(ids.to_container(0, 5), (NOBODY, NOBODY));
    }
}
