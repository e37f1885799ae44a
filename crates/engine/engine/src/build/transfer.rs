//! What `COPY` and `ADD` bring: sources found in a tree, their digest, and their files put into a stage's layer.

use super::cache::HashWriter;
use crate::archive::extract::{ExtractOptions, Target, extract, make_directories};
use crate::archive::place::{self, Asked, Found};
use crate::archive::tape::{Member, Tape, Times};
use crate::archive::walk::{Form, Walk};
use crate::archive::{ChunkReader, stream};
use crate::error::{EngineError, Result};
use naru_base::Digest;
use naru_build::ignore::NamePattern;
use naru_content::Compression;
use naru_content::tarball::{NoTap, TarReader};
use rustix::fs::{Dir, FileType, OFlags};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A tree that sources are taken from, and what users call it.
#[derive(Debug)]
pub(super) struct SourceTree {
    pub root: OwnedFd,
    pub name: String,
    /// Files keep their owners; those of a context get root's.
    pub keeps_owners: bool,
}

/// One thing to bring, without its place in the target.
#[derive(Debug)]
pub(super) enum Item {
    /// A file or directory of the tree.
    Path { asked: Asked, is_directory: bool },
    /// A file written in the Dockerfile.
    Text { name: String, content: Vec<u8> },
}

/// How it is brought.
#[derive(Debug, Clone, Default)]
pub(super) struct TransferOptions {
    /// Absolute; ends in a slash where a directory is meant.
    pub target: String,
    pub owner: Option<(u32, u32)>,
    pub mode: Option<u32>,
    /// Archives among the sources are unpacked.
    pub unpacks: bool,
    /// The time of everything, in seconds since the epoch.
    pub time: i64,
}

/// Finds the sources, patterns among them, in the order they are named.
pub(super) fn find_items(tree: &SourceTree, sources: &[String]) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for source in sources {
        let found = find_paths(tree, source)?;
        if found.is_empty() {
            return Err(EngineError::invalid(format!(
                "no source files were specified: nothing in {} fits {source:?}",
                tree.name
            )));
        }
        items.extend(found);
    }
    Ok(items)
}

fn find_paths(tree: &SourceTree, source: &str) -> Result<Vec<Item>> {
    let mut paths = vec![String::from("/")];
    for part in source.split('/').filter(|part| !part.is_empty()) {
        let pattern = NamePattern::parse(part)
            .map_err(|reason| EngineError::invalid(format!("{source:?}: {reason}")))?;
        paths = match pattern {
            None => paths.into_iter().map(|path| join(&path, part)).collect(),
            Some(pattern) => {
                let mut fitting = Vec::new();
                for path in &paths {
                    let names = names_in(&tree.root, path);
                    fitting.extend(
                        names
                            .iter()
                            .filter(|name| pattern.fits(name))
                            .map(|name| join(path, name)),
                    );
                }
                fitting
            }
        };
    }
    let is_directory_meant = source.ends_with('/') || source.ends_with("/.");
    paths
        .into_iter()
        .map(|path| find_path(tree, source, &path, is_directory_meant))
        .collect()
}

fn join(directory: &str, name: &str) -> String {
    format!("{}/{name}", directory.trim_end_matches('/'))
}

/// The names in a directory, sorted; none where there is no such directory.
fn names_in(root: &OwnedFd, path: &str) -> Vec<String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let Ok(directory) = place::open(root, Path::new(path), flags) else {
        return Vec::new();
    };
    let entries = Dir::read_from(&directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
        .filter(|name| name != "." && name != "..")
        .collect();
    names.sort();
    names
}

fn find_path(tree: &SourceTree, source: &str, path: &str, is_directory_meant: bool) -> Result<Item> {
    let asked = Asked::parse(path);
    // Links named here are followed, inside the tree.
    let found = place::open(&tree.root, &asked.path, OFlags::PATH)
        .and_then(rustix::fs::fstat)
        .map_err(|errno| {
            EngineError::invalid(format!(
                "file not found in {}{}: stat {source}: {errno}",
                tree.name,
                if tree.keeps_owners {
                    ""
                } else {
                    " or excluded by .dockerignore"
                },
            ))
        })?;
    let is_directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
    if is_directory_meant && !is_directory {
        return Err(EngineError::invalid(format!(
            "{source} in {} is not a directory",
            tree.name
        )));
    }
    Ok(Item::Path { asked, is_directory })
}

/// The digest of all that would be brought: names, permissions, content; owners where they are kept; never times.
pub(super) fn digest_items(tree: &SourceTree, items: &[Item], mode: Option<u32>) -> Result<Digest> {
    let mut hash = HashWriter::default();
    for (index, item) in items.iter().enumerate() {
        let mut tape = Tape::new(&mut hash).with_times(Times::All(0)).with_mode(mode);
        if !tree.keeps_owners {
            tape = tape.with_owner((0, 0));
        }
        write_item(&mut tape, tree, item, &format!("{index}/{}", base_of(item)))?;
        tape.finish().map_err(read_error)?;
    }
    Ok(hash.finish())
}

fn base_of(item: &Item) -> String {
    match item {
        // A directory's content is brought, not its name.
        Item::Path {
            is_directory: true, ..
        } => String::new(),
        Item::Path { asked, .. } => String::from_utf8_lossy(asked.base()).into_owned(),
        Item::Text { name, .. } => name.clone(),
    }
}

fn read_error(error: io::Error) -> EngineError {
    EngineError::system(format!("cannot read what is to be copied: {error}"))
}

/// Writes an item under `name`, which is a directory's own place where the item is one.
fn write_item<W: Write>(tape: &mut Tape<W>, tree: &SourceTree, item: &Item, name: &str) -> Result<()> {
    match item {
        Item::Text { content, .. } => {
            let mut member = Member::empty(name.as_bytes().to_vec());
            member.mode = 0o644;
            member.bytes = content.len() as u64;
            tape.push_file(&member, &mut &content[..]).map_err(read_error)
        }
        Item::Path { asked, is_directory } => {
            let found = place::open(&tree.root, &asked.path, OFlags::PATH)
                .map_err(|errno| read_error(errno.into()))?;
            let mut walk = Walk::new(tape, Form::Plain);
            if *is_directory {
                let prefix = format!("{}/", name.trim_end_matches('/'));
                let prefix = prefix.trim_start_matches('/');
                return walk
                    .write_directory(&found, prefix.as_bytes(), None)
                    .map_err(read_error);
            }
            let stat = rustix::fs::fstat(&found).map_err(|errno| read_error(errno.into()))?;
            // The file itself, where a link was named.
            let real = place::resolve(&tree.root, &asked.path).map_err(|errno| read_error(errno.into()))?;
            let parent = real.parent().unwrap_or(Path::new("/"));
            let directory = place::open(&tree.root, parent, OFlags::PATH | OFlags::DIRECTORY)
                .map_err(|errno| read_error(errno.into()))?;
            let base = real.file_name().unwrap_or(OsStr::new("/"));
            let member = name.trim_start_matches('/').as_bytes().to_vec();
            walk.write_file(&directory, base, member, &stat)
                .map_err(read_error)
        }
    }
}

/// Puts the items into a tree; all or an error.
pub(super) fn put_items(
    tree: SourceTree,
    items: Vec<Item>,
    root: &OwnedFd,
    options: &TransferOptions,
) -> Result<()> {
    let target = Path::new(&options.target);
    let is_directory_there = place::open(root, target, OFlags::PATH | OFlags::DIRECTORY).is_ok();
    let is_into = options.target.ends_with('/') || is_directory_there;
    if items.len() > 1 && !is_into {
        return Err(EngineError::invalid(
            "When using COPY with more than one source file, the destination must be a directory and end with a /",
        ));
    }
    let mut placed = VecDeque::new();
    for item in items {
        if options.unpacks && is_archive(&tree, &item)? {
            make_target(root, target, options.owner)?;
            unpack(&tree, &item, root, options)?;
            continue;
        }
        let (name, directory) = match &item {
            Item::Path {
                is_directory: true, ..
            } => (target.to_owned(), target.to_owned()),
            other if is_into => (target.join(base_of(other)), target.to_owned()),
            _ => (
                target.to_owned(),
                target.parent().unwrap_or(Path::new("/")).to_owned(),
            ),
        };
        make_target(root, &directory, options.owner)?;
        placed.push_back((item, name));
    }
    if placed.is_empty() {
        return Ok(());
    }
    let owner = options.owner.or((!tree.keeps_owners).then_some((0, 0)));
    let (time, mode) = (Times::All(options.time), options.mode);
    let archive = stream(move |output| {
        let mut tape = Tape::new(output).with_times(time).with_mode(mode);
        for (item, name) in &placed {
            let name = String::from_utf8_lossy(name.as_os_str().as_bytes()).into_owned();
            write_item(&mut tape, &tree, item, &name).map_err(|error| io::Error::other(error.message))?;
        }
        tape.finish()
    });
    let into = Target {
        root,
        directory: "/".into(),
    };
    let options = ExtractOptions {
        keep_kinds: true,
        owner,
        ids: None,
    };
    extract(ChunkReader::new(archive), &into, options)
}

/// Makes a directory and those above it; the new ones get the owner.
pub(super) fn make_target(root: &OwnedFd, path: &Path, owner: Option<(u32, u32)>) -> Result<()> {
    let failed = |errno| crate::archive::extract::file_error("mkdir", path, errno);
    let mut missing = Vec::new();
    let mut next: Option<&Path> = Some(path);
    while let Some(directory) = next {
        if place::open(root, directory, OFlags::PATH | OFlags::DIRECTORY).is_ok() {
            break;
        }
        missing.push(directory.to_owned());
        next = directory.parent();
    }
    if missing.is_empty() {
        return Ok(());
    }
    make_directories(root, path).map_err(failed)?;
    let Some((uid, gid)) = owner else { return Ok(()) };
    for directory in missing {
        let made = place::open(root, &directory, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed)?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::fchown(&made, Some(uid), Some(gid)).map_err(failed)?;
    }
    Ok(())
}

fn open_item(tree: &SourceTree, item: &Item) -> Result<Option<File>> {
    let Item::Path {
        asked,
        is_directory: false,
    } = item
    else {
        return Ok(None);
    };
    let Found { stat, .. } = place::find(&tree.root, asked).map_err(|errno| read_error(errno.into()))?;
    if !matches!(
        FileType::from_raw_mode(stat.st_mode),
        FileType::RegularFile | FileType::Symlink
    ) {
        return Ok(None);
    }
    let file = place::open(&tree.root, &asked.path, OFlags::RDONLY | OFlags::NONBLOCK);
    Ok(Some(file.map_err(|errno| read_error(errno.into()))?.into()))
}

/// A plain file that begins as an archive does, once it is decompressed.
fn is_archive(tree: &SourceTree, item: &Item) -> Result<bool> {
    let Some(file) = open_item(tree, item)? else {
        return Ok(false);
    };
    let mut input = BufReader::new(file);
    let head = io::BufRead::fill_buf(&mut input).map_err(read_error)?;
    let compression = Compression::of(head);
    if head.is_empty() || head.starts_with(b"BZh") || head.starts_with(&[0xfd, b'7', b'z', b'X', b'Z']) {
        // What they hold is told when they are unpacked.
        return Ok(!head.is_empty());
    }
    let Ok(plain) = naru_content::decompress(input, compression) else {
        return Ok(false);
    };
    let mut first = [0; 512];
    let mut plain = plain;
    if plain.read_exact(&mut first).is_err() || first.iter().all(|byte| *byte == 0) {
        return Ok(false);
    }
    let mut reader = TarReader::new(BufReader::new((&first[..]).chain(plain)), NoTap);
    Ok(reader.next_entry().is_ok())
}

fn unpack(tree: &SourceTree, item: &Item, root: &OwnedFd, options: &TransferOptions) -> Result<()> {
    let Some(file) = open_item(tree, item)? else {
        return Ok(());
    };
    let target = Target {
        root,
        directory: PathBuf::from(&options.target),
    };
    let options = ExtractOptions {
        keep_kinds: true,
        owner: options.owner,
        ids: None,
    };
    extract(file, &target, options)
}
