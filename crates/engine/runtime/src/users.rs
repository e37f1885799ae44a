//! Who a process runs as: Docker's `--user` resolved against the container's own `/etc/passwd` and `/etc/group`.

use crate::failure::{invalid, system};
use crate::plan::StartFailure;
use crate::root::Root;
use rustix::fs::{FileType, OFlags, fstat};
use std::io::Read;
use std::path::Path;

/// Docker's bounds for ids: beyond them a number could wrap to root.
const ID_MAX: u32 = 2_147_483_647;
/// More of a user database than this is an attack on whoever reads it (CVE-2024-9676).
const DATABASE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups, the primary one first.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// Resolves `user` (`name`, `uid`, `name:group`, `uid:gid`, empty for root) and `additional` group names or numbers.
pub(crate) fn resolve(root: &Root, user: &str, additional: &[String]) -> Result<User, StartFailure> {
    let passwd = read_database(root, "/etc/passwd")?;
    let needs_groups = !additional.is_empty() || user.contains(':');
    // Without an entry for the user no group lists it, and the file need not be read.
    let group = if needs_groups || passwd_entry(&passwd, user.split(':').next().unwrap_or_default()).is_some()
    {
        read_database(root, "/etc/group")?
    } else {
        String::new()
    };
    resolve_in(&passwd, &group, user, additional)
}

fn read_database(root: &Root, path: &str) -> Result<String, StartFailure> {
    // Not blocking: the image may have put a FIFO there.
    let Ok(fd) = root.open(
        Path::new(path),
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
    ) else {
        return Ok(String::new());
    };
    let stat = fstat(&fd).map_err(system("user", path))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(invalid(
            "user",
            format!("{path} in the container is not a regular file"),
        ));
    }
    let mut bytes = Vec::new();
    let mut file = std::fs::File::from(fd).take(DATABASE_BYTES_MAX + 1);
    file.read_to_end(&mut bytes).map_err(system("user", path))?;
    if bytes.len() as u64 > DATABASE_BYTES_MAX {
        return Err(invalid(
            "user",
            format!("{path} in the container is larger than 1 MiB"),
        ));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// The first entry whose name is `wanted`, or whose number is; `wanted` empty means user 0.
fn passwd_entry<'a>(passwd: &'a str, wanted: &str) -> Option<PasswdEntry<'a>> {
    let wanted_uid = if wanted.is_empty() {
        Some(0)
    } else {
        parse_number(wanted)
    };
    passwd.lines().filter_map(parse_passwd_line).find(|entry| {
        (!wanted.is_empty() && entry.name == wanted) || Some(u64::from(entry.uid)) == wanted_uid
    })
}

fn parse_passwd_line(line: &str) -> Option<PasswdEntry<'_>> {
    let mut fields = line.trim().split(':');
    let name = fields.next()?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(PasswdEntry {
        name,
        uid,
        gid,
        home: fields.nth(1).unwrap_or_default(),
    })
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn parse_group_line(line: &str) -> Option<GroupEntry<'_>> {
    let mut fields = line.trim().split(':');
    let name = fields.next()?;
    let gid = fields.nth(1)?.parse().ok()?;
    Some(GroupEntry {
        name,
        gid,
        members: fields.next().unwrap_or_default(),
    })
}

fn resolve_in(passwd: &str, group: &str, user: &str, additional: &[String]) -> Result<User, StartFailure> {
    let (user_part, group_part) = user.split_once(':').unwrap_or((user, ""));
    let entry = passwd_entry(passwd, user_part);
    let (uid, mut gid, home) = match (&entry, parse_number(user_part)) {
        (Some(entry), _) => (entry.uid, entry.gid, entry.home),
        (None, _) if user_part.is_empty() => (0, 0, "/"),
        (None, Some(number)) => (check_range(number)?, 0, "/"),
        (None, None) => {
            let message = format!("unable to find user {user_part}: no matching entries in passwd file");
            return Err(invalid("user", message));
        }
    };
    let mut supplementary = Vec::new();
    if !group_part.is_empty() {
        gid = find_group(group, group_part)?;
    } else if let Some(entry) = &entry {
        let listed = group.lines().filter_map(parse_group_line);
        supplementary.extend(
            listed
                .filter(|group| group.members.split(',').any(|member| member == entry.name))
                .map(|group| group.gid),
        );
    }
    for name in additional {
        supplementary.push(find_group(group, name)?);
    }
    let mut groups = vec![check_range(u64::from(gid))?];
    for gid in supplementary {
        if !groups.contains(&gid) {
            groups.push(check_range(u64::from(gid))?);
        }
    }
    let home = if home.is_empty() { "/" } else { home };
    Ok(User {
        uid: check_range(u64::from(uid))?,
        gid,
        groups,
        home: home.to_owned(),
    })
}

fn find_group(group: &str, wanted: &str) -> Result<u32, StartFailure> {
    let number = parse_number(wanted);
    let mut entries = group.lines().filter_map(parse_group_line);
    if let Some(entry) = entries.find(|entry| entry.name == wanted || Some(u64::from(entry.gid)) == number) {
        return Ok(entry.gid);
    }
    number.map_or_else(
        || {
            let message = format!("unable to find group {wanted}: no matching entries in group file");
            Err(invalid("user", message))
        },
        check_range,
    )
}

/// A number too large for its type is still a number, and out of range, rather than a name.
fn parse_number(text: &str) -> Option<u64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(if text.starts_with('-') {
        u64::MAX
    } else {
        digits.parse().unwrap_or(u64::MAX)
    })
}

fn check_range(number: u64) -> Result<u32, StartFailure> {
    u32::try_from(number)
        .ok()
        .filter(|&id| id <= ID_MAX)
        .ok_or_else(|| invalid("user", format!("uids and gids must be in range 0-{ID_MAX}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbin:x:1:1:bin:/bin:/sbin/nologin\nbad line\n\
        ann:x:1000:1001::/home/ann:/bin/sh\n7:x:55:56::/seven:/bin/sh\n";
    const GROUP: &str = "root:x:0:root\nwheel:x:10:root,ann\nannies:x:1001:\naudio:x:29:ann\n";

    fn user(text: &str) -> Result<User, String> {
        resolve_in(PASSWD, GROUP, text, &[]).map_err(|failure| failure.message)
    }

    #[test]
    fn names_bring_their_groups_and_home() {
        let ann = user("ann").unwrap();
        assert_eq!((ann.uid, ann.gid, ann.home.as_str()), (1000, 1001, "/home/ann"));
        assert_eq!(ann.groups, [1001, 10, 29]);
        assert_eq!(user("1000").unwrap(), ann);
        assert_eq!(user("").unwrap().home, "/root");
    }

    #[test]
    fn an_explicit_group_replaces_the_listed_ones() {
        assert_eq!(user("ann:wheel").unwrap().groups, [10]);
        assert_eq!(user("ann:4242").unwrap().gid, 4242);
    }

    #[test]
    fn unknown_numbers_are_taken_as_they_are() {
        let stranger = user("4000").unwrap();
        assert_eq!(
            (stranger.uid, stranger.gid, stranger.home.as_str()),
            (4000, 0, "/")
        );
    }

    #[test]
    fn numbers_that_would_wrap_are_refused() {
        for text in [
            "2147483648",
            "4294967296",
            "99999999999999999999999",
            "-1",
            "0:4294967296",
        ] {
            assert!(user(text).unwrap_err().contains("range"), "{text}");
        }
        assert!(
            user("nobody")
                .unwrap_err()
                .contains("no matching entries in passwd file")
        );
        assert!(
            user("ann:nogroup")
                .unwrap_err()
                .contains("no matching entries in group file")
        );
    }

    #[test]
    fn a_numeric_name_is_found_by_name() {
        assert_eq!(user("7").unwrap().uid, 55);
    }

    #[test]
    fn additional_groups_are_added() {
        let resolved = resolve_in(PASSWD, GROUP, "ann", &["root".into(), "77".into()]).unwrap();
        assert_eq!(resolved.groups, [1001, 10, 29, 0, 77]);
    }
}
