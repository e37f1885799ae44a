//! `cp`: files from a container and into one, by the rules of Docker's client.

use super::{Arity, Command};
use crate::args::Kind::Bool;
use crate::args::{Flag, Order, flag};
use crate::error::{CliError, Result};
use crate::http::{Body, Query, Response};
use crate::json::Value;
use crate::session_io::container_path;
use crate::tarball::{Pack, Rename, unpack};
use crate::{Arguments, Session, units};
use base64::Engine as _;
use std::io::{self, IsTerminal, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

const FLAGS: &[Flag] = &[
    flag(
        "archive",
        'a',
        Bool,
        "Archive mode (copy all uid/gid information)",
    ),
    flag("follow-link", 'L', Bool, "Always follow symbol link in SRC_PATH"),
    flag(
        "quiet",
        'q',
        Bool,
        "Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached",
    ),
];

pub const COMMAND: Command = Command {
    names: &["container cp", "cp"],
    usage: "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n        cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    about: "Copy files/folders between a container and the local filesystem",
    flags: &[FLAGS],
    order: Order::Mixed,
    arity: Arity::Exactly(2),
    run,
};

/// Go's bits of a directory and of a link in a mode.
const GO_DIRECTORY: i64 = 1 << 31;
const GO_LINK: i64 = 1 << 27;
/// Devices, pipes and sockets.
const GO_SPECIAL: i64 = 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21;

fn run(session: &Session, arguments: &Arguments) -> Result<u8> {
    let [source, target] = &arguments.positional[..] else {
        return Err(CliError::message("cp takes a source and a destination"));
    };
    if source.is_empty() {
        return Err(CliError::message("source can not be empty"));
    }
    if target.is_empty() {
        return Err(CliError::message("destination can not be empty"));
    }
    match (split(source), split(target)) {
        ((Some(container), path), (None, target)) => copy_out(session, arguments, container, path, target),
        ((None, source), (Some(container), path)) => copy_in(session, arguments, source, container, path),
        ((Some(_), _), (Some(_), _)) => Err(CliError::message("copying between containers is not supported")),
        ((None, _), (None, _)) => Err(CliError::message("must specify at least one container source")),
    }
}

/// `container:path`, or a local path: one that is absolute or begins with a dot.
fn split(text: &str) -> (Option<&str>, &str) {
    if text.starts_with('/') {
        return (None, text);
    }
    match text.split_once(':') {
        Some((container, path)) if !container.starts_with('.') && !container.is_empty() => {
            (Some(container), path)
        }
        _ => (None, text),
    }
}

fn copy_out(
    session: &Session,
    arguments: &Arguments,
    container: &str,
    path: &str,
    target: &str,
) -> Result<u8> {
    let target_path = resolve_local(target)?;
    if target == "-" {
        if io::stdout().is_terminal() {
            return Err(CliError::message("cowardly refusing to copy to a terminal"));
        }
    } else {
        check_output(&target_path)?;
    }
    let mut path = path.to_owned();
    let mut rebased = None;
    if arguments.is_set("follow-link")
        && let Some(stat) = stat_path(session, container, &path)?
        && stat.is_link()
    {
        (path, rebased) = follow(&path, &stat.link_target(&path));
    }
    let query = Query::new(&format!("{}/archive", container_path(container)))
        .set("path", &path)
        .build();
    let mut response = session.client.send("GET", &query, Body::Empty)?;
    let stat = read_stat(&response)?;
    if target == "-" {
        io::copy(&mut response, &mut io::stdout().lock()).map_err(CliError::Output)?;
        return Ok(0);
    }
    let (directory, rename) = place_locally(&path, rebased.as_deref(), stat.is_directory(), &target_path)?;
    let mut counted = Counted {
        input: response,
        bytes: 0,
    };
    unpack(&mut counted, &directory, rename.as_ref()).map_err(|error| CliError::message(plain(&error)))?;
    report(arguments, counted.bytes, target);
    Ok(0)
}

/// Where an archive is unpacked and what its first element becomes.
fn place_locally(
    source: &str,
    rebased: Option<&str>,
    is_directory: bool,
    target: &str,
) -> Result<(PathBuf, Option<Rename>)> {
    let source_base = base_name(source);
    let (target, metadata) = local_destination(target)?;
    let (directory, base) = (directory_name(&target), base_name(&target));
    let rename = |to: &str| Rename {
        from: if source_base == "/" {
            Vec::new()
        } else {
            source_base.clone().into_bytes()
        },
        to: to.as_bytes().to_vec(),
    };
    match metadata {
        Some(metadata) if metadata.is_dir() => Ok((PathBuf::from(&target), rebased.map(rename))),
        Some(_) if is_directory => Err(CliError::message("cannot copy directory")),
        None if !is_directory && means_directory(&target) => Err(CliError::message("no such directory")),
        _ => Ok((PathBuf::from(directory), Some(rename(&base)))),
    }
}

/// A destination with its links followed, and what is there.
fn local_destination(target: &str) -> Result<(String, Option<std::fs::Metadata>)> {
    let mut path = target.to_owned();
    for _ in 0..10 {
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => {
                let link =
                    std::fs::read_link(&path).map_err(|error| file_error("readlink", &path, &error))?;
                let base = PathBuf::from(directory_name(&path));
                path = base.join(link).to_string_lossy().into_owned();
            }
            Ok(metadata) => return Ok((path, Some(metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((path, None)),
            Err(error) => return Err(file_error("lstat", &path, &error)),
        }
    }
    Err(CliError::message(format!("too many symlinks in {target:?}")))
}

fn copy_in(
    session: &Session,
    arguments: &Arguments,
    source: &str,
    container: &str,
    path: &str,
) -> Result<u8> {
    let local = (source != "-")
        .then(|| LocalSource::find(source, arguments.is_set("follow-link")))
        .transpose()?;
    let mut target = path.to_owned();
    let mut stat = stat_path(session, container, &target)?;
    if let Some(link) = stat.as_ref().filter(|stat| stat.is_link()) {
        target = link.link_target(&target);
        stat = stat_path(session, container, &target)?;
    }
    let must_be =
        |what: &str| CliError::message(format!("destination \"{container}:{path}\" must be {what}"));
    if stat.as_ref().is_some_and(|stat| stat.mode & GO_SPECIAL != 0) {
        return Err(must_be("a directory or a regular file"));
    }
    let is_target_directory = stat.as_ref().map(Stat::is_directory);
    let put = |directory: &str, input: &mut dyn Read| {
        let query = Query::new(&format!("{}/archive", container_path(container)))
            .set("path", directory)
            .set("noOverwriteDirNonDir", "true")
            .set_if(arguments.is_set("archive"), "copyUIDGID", "true")
            .build();
        session
            .client
            .call("PUT", &query, Body::Stream(input, "application/x-tar"))
    };
    let Some(local) = local else {
        if is_target_directory != Some(true) {
            return Err(must_be("a directory"));
        }
        put(&target, &mut io::stdin().lock())?;
        return Ok(0);
    };
    let (directory, name) = local.name_at(&target, is_target_directory)?;
    let pack = Pack::new(&local.path, name.as_deref().map(Path::new))
        .map_err(|error| CliError::message(plain(&error)))?;
    let mut counted = Counted {
        input: pack,
        bytes: 0,
    };
    put(&directory, &mut counted)?;
    report(arguments, counted.bytes, &format!("{container}:{path}"));
    Ok(0)
}

/// A file or directory on this side.
struct LocalSource {
    path: PathBuf,
    /// Its name in an archive; `.` for a directory's content alone.
    base: String,
    is_directory: bool,
}

impl LocalSource {
    fn find(text: &str, follow: bool) -> Result<Self> {
        let absolute = resolve_local(text)?;
        let metadata = if follow || means_directory(&absolute) {
            std::fs::metadata(&absolute)
        } else {
            std::fs::symlink_metadata(&absolute)
        };
        let metadata = metadata.map_err(|error| file_error("lstat", &absolute, &error))?;
        let path = if follow {
            std::fs::canonicalize(&absolute).map_err(|error| file_error("lstat", &absolute, &error))?
        } else {
            PathBuf::from(&absolute)
        };
        Ok(Self {
            path,
            base: base_name(&absolute),
            is_directory: metadata.is_dir(),
        })
    }

    /// The directory it goes into, and its name there; no name for a directory's content.
    fn name_at(&self, target: &str, is_directory: Option<bool>) -> Result<(String, Option<String>)> {
        let own = || (self.base != "." && self.base != "/").then(|| self.base.clone());
        let renamed = || (directory_name(target), Some(base_name(target)));
        match is_directory {
            Some(true) => Ok((target.to_owned(), own())),
            Some(false) if self.is_directory => Err(CliError::message("cannot copy directory")),
            None if !self.is_directory && means_directory(target) => {
                Err(CliError::message("no such directory"))
            }
            _ => Ok(renamed()),
        }
    }
}

/// What the daemon tells of a path.
struct Stat {
    mode: i64,
    target: String,
}

impl Stat {
    fn is_directory(&self) -> bool {
        self.mode & GO_DIRECTORY != 0
    }

    fn is_link(&self) -> bool {
        self.mode & GO_LINK != 0
    }

    fn link_target(&self, path: &str) -> String {
        if self.target.starts_with('/') {
            self.target.clone()
        } else {
            format!("{}/{}", directory_name(path), self.target)
        }
    }
}

/// `None` where there is nothing; a container that is not there is an error.
fn stat_path(session: &Session, container: &str, path: &str) -> Result<Option<Stat>> {
    let query = Query::new(&format!("{}/archive", container_path(container)))
        .set("path", path)
        .build();
    match session.client.send("HEAD", &query, Body::Empty) {
        Ok(response) => read_stat(&response).map(Some),
        Err(CliError::Daemon { .. }) => {
            // The answer to HEAD has no words; whether the container is there is asked for in its own right.
            session
                .client
                .get(&format!("{}/json", container_path(container)))?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn read_stat(response: &Response) -> Result<Stat> {
    let bad = || CliError::Protocol("an archive without a stat of its path".to_owned());
    let header = response.header("x-docker-container-path-stat").ok_or_else(bad)?;
    let json = base64::engine::general_purpose::STANDARD
        .decode(header)
        .map_err(|_| bad())?;
    let value = Value::parse(&json).map_err(|_| bad())?;
    Ok(Stat {
        mode: value.get("mode").integer(),
        target: value.get("linkTarget").text().to_owned(),
    })
}

/// A path that was a link, followed: the trailing slash or dot goes with it, and the archive keeps the link's own name.
fn follow(path: &str, target: &str) -> (String, Option<String>) {
    let mut followed = target.to_owned();
    if path.ends_with("/.") || path == "." {
        followed.push_str("/.");
        return (followed, None);
    }
    if path.ends_with('/') {
        followed.push('/');
    }
    let (own, new) = (base_name(path), base_name(target));
    (followed, (own != new).then_some(own))
}

/// Absolute, without `.` and `..`, the last slash or dot kept.
fn resolve_local(text: &str) -> Result<String> {
    let here = std::env::current_dir().map_err(|error| CliError::message(error.to_string()))?;
    let joined = here.join(text).to_string_lossy().into_owned();
    Ok(clean(&joined) + ending(text))
}

/// What must not get lost of a path when it is cleaned.
fn ending(text: &str) -> &'static str {
    if text == "." || text == ".." || text.ends_with("/.") || text.ends_with("/..") {
        "/."
    } else if text.ends_with('/') {
        "/"
    } else {
        ""
    }
}

fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// As Go's client splits a path: `/a/b/.` is `.` in `/a/b`.
fn directory_name(path: &str) -> String {
    let cleaned = clean(path);
    if ending(path) == "/." {
        return cleaned;
    }
    match cleaned.rsplit_once('/') {
        Some(("", _)) | None => "/".to_owned(),
        Some((directory, _)) => directory.to_owned(),
    }
}

fn base_name(path: &str) -> String {
    if ending(path) == "/." {
        return ".".to_owned();
    }
    let cleaned = clean(path);
    match cleaned.rsplit_once('/') {
        Some((_, "")) | None => "/".to_owned(),
        Some((_, base)) => base.to_owned(),
    }
}

fn means_directory(path: &str) -> bool {
    !ending(path).is_empty()
}

fn check_output(path: &str) -> Result<()> {
    let directory = directory_name(path.trim_end_matches('/'));
    if !Path::new(&directory).exists() {
        return Err(CliError::message(format!(
            "invalid output path: directory {directory:?} does not exist"
        )));
    }
    let Ok(metadata) = std::fs::metadata(path) else {
        return Ok(());
    };
    let kind = metadata.file_type();
    if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device() {
        return Err(CliError::message(format!(
            "invalid output path: {path:?} must be a directory or a regular file"
        )));
    }
    Ok(())
}

fn file_error(action: &str, path: &str, error: &io::Error) -> CliError {
    CliError::message(format!("{action} {path}: {}", plain(error)))
}

/// The system's words without a number, in lower case, as Go has them.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) if !words.contains('/') => words.to_lowercase(),
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

fn report(arguments: &Arguments, bytes: u64, target: &str) {
    if !arguments.is_set("quiet") {
        crate::output::tell!(
            "Successfully copied {} to {target}",
            units::human_size(bytes as f64)
        );
    }
}

struct Counted<R> {
    input: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read(target)?;
        self.bytes += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_split_as_docker_splits_them() {
        assert_eq!(split("c:/x"), (Some("c"), "/x"));
        assert_eq!(split("/a:b"), (None, "/a:b"));
        assert_eq!(split("./a:b"), (None, "./a:b"));
        assert_eq!(split("a"), (None, "a"));
    }

    #[test]
    fn paths_keep_what_their_ending_means() {
        assert_eq!(
            (directory_name("/a/b/"), base_name("/a/b/")),
            ("/a".into(), "b".into())
        );
        assert_eq!(
            (directory_name("/a/b/."), base_name("/a/b/.")),
            ("/a/b".into(), ".".into())
        );
        assert_eq!((directory_name("/"), base_name("/")), ("/".into(), "/".into()));
        assert!(means_directory("a/") && means_directory("a/.") && !means_directory("a"));
    }
}
