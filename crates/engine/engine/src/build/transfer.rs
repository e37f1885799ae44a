//! What `COPY` and `ADD` bring: sources found in a tree, and all that is below them, as plain data.

use super::cache::{HashWriter, key_of};
use super::tree::{Content, Listed, Root, SourceTree};
use crate::archive::place::Asked;
use crate::archive::tape::Member;
use crate::error::{EngineError, Result};
use naru_base::Digest;
use naru_build::ignore::{Ignore, NamePattern};
use std::io;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// One source: a file or a directory with everything below it.
#[derive(Debug)]
pub(super) struct Item {
    pub tree: Arc<SourceTree>,
    /// Its own name; that of a directory is not brought.
    pub base: String,
    pub is_directory: bool,
    /// Where `--parents` keeps it below the target; else empty.
    pub below: String,
    /// By their way from the item itself, which comes first and is nameless. Not that of a directory whose content alone
    /// is brought.
    pub listed: Vec<Listed>,
}

/// What is taken, and what of it is left out.
#[derive(Debug, Default)]
pub(super) struct Selection {
    pub sources: Vec<String>,
    pub keeps_parents: bool,
    pub excludes: Ignore,
    /// What `excludes` was read from.
    pub exclude_words: Vec<String>,
}

impl Selection {
    /// The digest of what is selected of a tree, which a packed one remembers; with what was found to get it, if it was
    /// looked for.
    pub(super) fn digest(&self, tree: &Arc<SourceTree>) -> Result<(Digest, Option<Vec<Item>>)> {
        let Root::Packed(packed) = &tree.root else {
            let items = find_items(tree, self)?;
            return Ok((digest_items(&items)?, Some(items)));
        };
        let key = key_of(&(&self.sources, self.keeps_parents, &self.exclude_words));
        if let Some(digest) = packed.recall(&key) {
            return Ok((digest, None));
        }
        let items = find_items(tree, self)?;
        let digest = digest_items(&items)?;
        packed.remember(key, digest.clone());
        Ok((digest, Some(items)))
    }
}

/// Finds the sources, patterns among them, in the order they are named.
pub(super) fn find_items(tree: &Arc<SourceTree>, selection: &Selection) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for source in &selection.sources {
        let (pivot, rest) = split_pivot(source, selection.keeps_parents);
        let paths = find_paths(tree, pivot, rest, selection.keeps_parents)?;
        if paths.is_empty() {
            return Err(EngineError::invalid(format!(
                "no source files were specified: nothing in {} fits {source:?}",
                tree.name
            )));
        }
        for path in paths {
            let item = find_item(tree, source, pivot, &path, selection)?;
            items.extend(item);
        }
    }
    Ok(items)
}

/// `--parents` keeps what follows `/./`, or all of it.
fn split_pivot(source: &str, keeps_parents: bool) -> (&str, &str) {
    if !keeps_parents {
        return ("", source);
    }
    source.split_once("/./").unwrap_or(("", source))
}

fn find_paths(tree: &SourceTree, pivot: &str, rest: &str, crosses: bool) -> Result<Vec<String>> {
    let mut paths = vec![format!("/{}", pivot.trim_matches('/'))];
    for part in rest.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if crosses && part == "**" {
            paths = paths
                .iter()
                .flat_map(|path| directories_below(tree, path))
                .collect();
            continue;
        }
        let pattern =
            NamePattern::parse(part).map_err(|reason| EngineError::invalid(format!("{rest:?}: {reason}")))?;
        paths = match pattern {
            None if paths.len() == 1 || !crosses => paths.iter().map(|path| join(path, part)).collect(),
            None => paths
                .iter()
                .map(|path| join(path, part))
                .filter(|path| tree.is_directory(Path::new(path)).is_ok())
                .collect(),
            Some(pattern) => paths
                .iter()
                .flat_map(|path| {
                    let names = tree.names_in(path);
                    let fitting = names.into_iter().filter(|name| pattern.fits(name));
                    fitting.map(|name| join(path, &name)).collect::<Vec<_>>()
                })
                .collect(),
        };
    }
    Ok(paths)
}

/// The directory and all below it.
fn directories_below(tree: &SourceTree, path: &str) -> Vec<String> {
    let listed = tree.list(Path::new(path)).unwrap_or_default();
    listed
        .iter()
        .filter(|one| one.member.kind == tar::EntryType::Directory)
        .map(|one| match &one.member.name[..] {
            [] => path.to_owned(),
            name => join(path, &String::from_utf8_lossy(name)),
        })
        .collect()
}

fn join(directory: &str, name: &str) -> String {
    format!("{}/{name}", directory.trim_end_matches('/'))
}

/// `None` where the excludes leave nothing of it.
fn find_item(
    tree: &Arc<SourceTree>,
    source: &str,
    pivot: &str,
    path: &str,
    selection: &Selection,
) -> Result<Option<Item>> {
    let asked = Asked::parse(path);
    // Links named here are followed, inside the tree.
    let is_directory = tree.is_directory(&asked.path).map_err(|errno| {
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
    if (source.ends_with('/') || source.ends_with("/.")) && !is_directory {
        return Err(EngineError::invalid(format!(
            "{source} in {} is not a directory",
            tree.name
        )));
    }
    let base = String::from_utf8_lossy(asked.base()).into_owned();
    let mut listed = tree.list(&asked.path).map_err(read_error)?;
    let excludes = &selection.excludes;
    if !excludes.is_empty() {
        let whole = asked.path.to_string_lossy().trim_start_matches('/').to_owned();
        if !is_directory && (excludes.excludes(&base) || excludes.excludes(&whole)) {
            return Ok(None);
        }
        listed.retain(|one| {
            one.member.name.is_empty() || !excludes.excludes(&String::from_utf8_lossy(&one.member.name))
        });
    }
    let below = if selection.keeps_parents {
        let pivot = format!("/{}", pivot.trim_matches('/'));
        let kept = asked.path.strip_prefix(&pivot).unwrap_or(&asked.path);
        kept.to_string_lossy().into_owned()
    } else {
        String::new()
    };
    Ok(Some(Item {
        tree: Arc::clone(tree),
        base,
        is_directory,
        below,
        listed,
    }))
}

/// A file written in the Dockerfile, or fetched for it.
pub(super) fn text_item(tree: &Arc<SourceTree>, name: String, content: Vec<u8>, mode: u32) -> Item {
    let mut member = Member::empty(Vec::new());
    (member.mode, member.bytes) = (mode, content.len() as u64);
    Item {
        tree: Arc::clone(tree),
        base: name,
        is_directory: false,
        below: String::new(),
        listed: vec![Listed {
            member,
            content: Content::Text(content.into()),
        }],
    }
}

/// The digest of all that would be brought: names, permissions, content; owners where they are kept; never times.
pub(super) fn digest_items(items: &[Item]) -> Result<Digest> {
    let mut hash = HashWriter::default();
    for item in items {
        let own = if item.is_directory { "" } else { &item.base };
        write!(hash, "{own}\0{}\0{}\0", item.below, item.listed.len()).map_err(read_error)?;
        for listed in &item.listed {
            // The directory itself is not brought.
            if !(item.is_directory && listed.member.name.is_empty()) {
                item.tree.digest_into(&mut hash, listed).map_err(read_error)?;
            }
        }
    }
    Ok(hash.finish())
}

pub(super) fn read_error(error: io::Error) -> EngineError {
    EngineError::system(format!("cannot read what is to be copied: {error}"))
}
