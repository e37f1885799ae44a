//! Remapped user ids (`--userns-remap`): which ids of the host stand for those in containers.
//!
//! They are those that `/etc/subuid` and `/etc/subgid` set aside for a user, as `newuidmap` takes them. For `default`
//! that user is `dockremap`, and where nothing is set aside for it yet a free range is, as dockerd does.

use crate::error::{EngineError, Result};
use naru_runtime::plan::{MappedRoot, UserNamespacePlan};
use naru_runtime::view::HostIds;
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};
use std::io::Write;
use std::path::Path;

/// Dockerd's user for `default`.
const DEFAULT_USER: &str = "dockremap";
/// What `useradd` begins with (`SUB_UID_MIN` of `login.defs(5)`).
const FIRST_ID: u32 = 100_000;
/// What `useradd` gives a user (`SUB_UID_COUNT` of `login.defs(5)`): all 16-bit ids.
const RANGE_SIZE: u32 = 65_536;

/// The user namespace of an engine's containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remap {
    uids: Vec<LinuxIdMapping>,
    gids: Vec<LinuxIdMapping>,
    root: MappedRoot,
}

/// The files it reads.
struct Databases<'a> {
    passwd: &'a Path,
    group: &'a Path,
    subuid: &'a Path,
    subgid: &'a Path,
}

impl Remap {
    /// Reads `default`, `user`, `uid`, `user:group` or `uid:gid`. `None` for root, who cannot be remapped with itself.
    pub fn find(text: &str) -> Result<Option<Self>> {
        let databases = Databases {
            passwd: Path::new("/etc/passwd"),
            group: Path::new("/etc/group"),
            subuid: Path::new("/etc/subuid"),
            subgid: Path::new("/etc/subgid"),
        };
        Self::find_in(text, &databases)
    }

    fn find_in(text: &str, databases: &Databases<'_>) -> Result<Option<Self>> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        if user.is_empty() || group == Some("") || text.matches(':').count() > 1 {
            return Err(EngineError::invalid(format!(
                "invalid --userns-remap {text:?}: expected default, user, uid, user:group or uid:gid"
            )));
        }
        if text == "default" {
            set_aside(databases.subuid)?;
            set_aside(databases.subgid)?;
        }
        let user = if user == "default" { DEFAULT_USER } else { user };
        let users = names_of(databases.passwd, user)?;
        if users.iter().any(|name| name == "root" || name == "0") {
            return Ok(None);
        }
        let groups = match group {
            Some(group) => names_of(databases.group, group)?,
            None => users.clone(),
        };
        let uids = mappings(databases.subuid, &users)?;
        let gids = mappings(databases.subgid, &groups)?;
        Self::new(uids, gids).map(Some)
    }

    fn new(uids: Vec<LinuxIdMapping>, gids: Vec<LinuxIdMapping>) -> Result<Self> {
        let root_of = |mappings: &[LinuxIdMapping]| mappings.first().map(LinuxIdMapping::host_id);
        let (Some(uid), Some(gid)) = (root_of(&uids), root_of(&gids)) else {
            return Err(EngineError::invalid("no ids to remap to"));
        };
        Ok(Self {
            uids,
            gids,
            root: MappedRoot { uid, gid },
        })
    }

    /// The host's ids of a container's root.
    pub fn root(&self) -> MappedRoot {
        self.root
    }

    pub fn plan(&self) -> UserNamespacePlan {
        UserNamespacePlan::New {
            uid_mappings: self.uids.clone(),
            gid_mappings: self.gids.clone(),
        }
    }

    /// For looking at files that have the host's ids as the containers do.
    pub fn host_ids(&self) -> HostIds {
        let text = |mappings: &[LinuxIdMapping]| {
            let line = |mapping: &LinuxIdMapping| {
                format!(
                    "{} {} {}\n",
                    mapping.host_id(),
                    mapping.container_id(),
                    mapping.size()
                )
            };
            mappings.iter().map(line).collect()
        };
        HostIds {
            uids: text(&self.uids),
            gids: text(&self.gids),
        }
    }

    /// The host's ids for those of an image. One that containers cannot have becomes root's.
    pub fn owner(&self, uid: u32, gid: u32) -> (u32, u32) {
        (
            host_id(&self.uids, uid).unwrap_or(self.root.uid),
            host_id(&self.gids, gid).unwrap_or(self.root.gid),
        )
    }
}

fn host_id(mappings: &[LinuxIdMapping], id: u32) -> Option<u32> {
    mappings.iter().find_map(|mapping| {
        let offset = id.checked_sub(mapping.container_id())?;
        (offset < mapping.size()).then(|| mapping.host_id() + offset)
    })
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| EngineError::invalid(format!("{}: {error}", path.display())))
}

fn read_if_there(path: &Path) -> Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        _ => read(path),
    }
}

/// The name and the number of a user or group given by either; what is in no database stands for itself.
fn names_of(database: &Path, given: &str) -> Result<Vec<String>> {
    let text = read_if_there(database)?;
    let mut names = vec![given.to_owned()];
    for line in text.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if let [name, _, number, ..] = fields[..]
            && (name == given || number == given)
        {
            names.extend([name.to_owned(), number.to_owned()]);
        }
    }
    Ok(names)
}

/// `owner:first:count` on each line.
fn ranges(text: &str) -> impl Iterator<Item = (&str, u32, u32)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let first = fields.next()?.parse().ok()?;
        let count = fields.next()?.parse().ok()?;
        Some((owner, first, count))
    })
}

/// All ranges of one owner, one after the other from the container's root on.
fn mappings(database: &Path, owners: &[String]) -> Result<Vec<LinuxIdMapping>> {
    let text = read(database)?;
    let mut mappings = Vec::new();
    let mut container_id = 0_u32;
    for (_, first, count) in ranges(&text).filter(|(owner, ..)| owners.iter().any(|name| name == owner)) {
        let wrong = || {
            EngineError::invalid(format!(
                "{}: the range {first}:{count} has ids that do not exist",
                database.display()
            ))
        };
        first.checked_add(count).ok_or_else(wrong)?;
        let mapping = LinuxIdMappingBuilder::default()
            .container_id(container_id)
            .host_id(first)
            .size(count)
            .build()
            .map_err(|error| EngineError::invalid(error.to_string()))?;
        container_id = container_id.checked_add(count).ok_or_else(wrong)?;
        mappings.push(mapping);
    }
    if mappings.is_empty() || container_id == 0 {
        let name = &owners[0];
        return Err(EngineError::invalid(format!(
            "no ids are set aside for {name:?} in {path}: add a line such as {name}:{FIRST_ID}:{RANGE_SIZE} to it",
            path = database.display()
        )));
    }
    Ok(mappings)
}

/// Sets a free range aside for dockerd's user, unless it has one.
fn set_aside(database: &Path) -> Result<()> {
    let text = read_if_there(database)?;
    if ranges(&text).any(|(owner, ..)| owner == DEFAULT_USER) {
        return Ok(());
    }
    let first = ranges(&text)
        .map(|(_, first, count)| first.saturating_add(count))
        .fold(FIRST_ID, u32::max);
    let failed =
        |error: std::io::Error| EngineError::system(format!("cannot add to {}: {error}", database.display()));
    let separator = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(database)
        .and_then(|mut file| writeln!(file, "{separator}{DEFAULT_USER}:{first}:{RANGE_SIZE}"))
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str, user_ranges: &str, group_ranges: &str) -> (Result<Option<Remap>>, String) {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let passwd = file(
            "passwd",
            "root:x:0:0::/root:/bin/sh\nann:x:1000:1001::/:/bin/sh\n",
        );
        let group = file("group", "root:x:0:\nannies:x:1001:\n");
        let (users, groups) = (file("subuid", user_ranges), file("subgid", group_ranges));
        let found = Remap::find_in(
            text,
            &Databases {
                passwd: &passwd,
                group: &group,
                subuid: &users,
                subgid: &groups,
            },
        );
        (found, std::fs::read_to_string(users).unwrap())
    }

    #[test]
    fn a_user_is_found_by_name_or_number() {
        let ids = "bob:500000:10\nann:200000:65536\nann:300000:5\n";
        for text in ["ann", "1000", "ann:ann", "1000:ann"] {
            let remap = find(text, ids, ids).0.unwrap().unwrap();
            assert_eq!(
                remap.root(),
                MappedRoot {
                    uid: 200_000,
                    gid: 200_000
                },
                "{text}"
            );
            assert_eq!(remap.host_ids().uids.lines().next(), Some("200000 0 65536"));
            assert_eq!(remap.owner(7, 65_537), (200_007, 300_001));
            assert_eq!(remap.owner(70_000, 0), (200_000, 200_000));
        }
        let remap = find("ann:annies", ids, "annies:400000:65536\n")
            .0
            .unwrap()
            .unwrap();
        assert_eq!(remap.root().gid, 400_000);
        let remap = find("4242", "4242:1:1\n", "4242:2:1\n").0.unwrap().unwrap();
        assert_eq!(remap.root(), MappedRoot { uid: 1, gid: 2 });
    }

    #[test]
    fn root_means_no_remapping() {
        assert_eq!(find("root", "", "").0.unwrap(), None);
        assert_eq!(find("0:0", "", "").0.unwrap(), None);
    }

    #[test]
    fn the_default_user_gets_a_free_range_once() {
        let (remap, subuid) = find("default", "ann:100000:65536", "");
        assert_eq!(
            remap.unwrap().unwrap().root(),
            MappedRoot {
                uid: 165_536,
                gid: 100_000
            }
        );
        assert_eq!(subuid, "ann:100000:65536\ndockremap:165536:65536\n");
        let (_, unchanged) = find("default", &subuid, &subuid);
        assert_eq!(unchanged, subuid);
    }

    #[test]
    fn what_cannot_be_remapped_is_refused_with_the_remedy() {
        let message = find("ann", "", "").0.unwrap_err().message;
        assert!(
            message.contains("add a line such as ann:100000:65536"),
            "{message}"
        );
        for text in ["", "ann:", ":ann", "a:b:c"] {
            assert!(find(text, "", "").0.is_err(), "{text:?}");
        }
        assert!(find("ann", "ann:4294967295:2\n", "ann:1:1\n").0.is_err());
    }
}
