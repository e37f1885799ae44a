//! A hostile client, and an honest one that sends only what has changed.

use super::*;
use crate::build::packed::PackedTree;
use std::collections::BTreeMap;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("naru-kept-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn begin(&self) -> Update {
        let place = Place::take(&self.0, "key");
        let entries = read_index(&place.index());
        if entries.is_none() {
            file::remove_tree(&place.directory).unwrap();
            file::make_directories(&place.files(), 0o700).unwrap();
        }
        Update::begin(place, entries.unwrap_or_default()).unwrap()
    }

    /// Sends a whole context; returns it with the names of the files whose content was wanted.
    fn send(&self, files: &[(&str, KeptKind, &str)]) -> Result<(KeptContext, Vec<String>)> {
        let mut update = self.begin();
        let mut wanted = BTreeMap::new();
        for (path, kind, content) in files {
            if let Some(number) = update.offer(entry(path, kind.clone()))? {
                wanted.insert(number, ((*path).to_owned(), (*content).to_owned()));
            }
        }
        update.end_of_entries()?;
        for (number, (_, content)) in &wanted {
            for piece in content.as_bytes().chunks(3) {
                update.receive(*number, piece)?;
            }
            update.receive(*number, b"")?;
        }
        let names = wanted.into_values().map(|(name, _)| name).collect();
        Ok((update.finish()?, names))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn entry(path: &str, kind: KeptKind) -> KeptEntry {
    let mode = if kind == KeptKind::Directory { 0o755 } else { 0o640 };
    KeptEntry {
        path: path.to_owned(),
        kind,
        mode,
        modified_ns: 1_000_000_000_000_000_001,
        capability: Vec::new(),
    }
}

fn text(content: &str) -> KeptKind {
    KeptKind::File {
        bytes: content.len() as u64,
    }
}

/// All that a copy of a path brings, digests of contents included.
fn listed(context: &KeptContext, path: &str) -> Option<String> {
    let tree = PackedTree::of_kept(context.clone());
    tree.list(Path::new(path))
        .ok()
        .map(|listed| format!("{listed:?}"))
}

const D: KeptKind = KeptKind::Directory;

#[test]
fn only_changed_files_are_wanted_again() {
    let scratch = Scratch::new("changed");
    let whole = |two: &'static str| {
        [
            ("a", text("one"), "one"),
            ("d", D, ""),
            ("d/empty", text(""), ""),
            ("d/two", text(two), two),
            ("d-e", text("three"), "three"),
            ("l", KeptKind::Symlink("/etc/passwd".to_owned()), ""),
        ]
    };
    let (context, wanted) = scratch.send(&whole("two")).unwrap();
    assert_eq!(wanted, ["a", "d/empty", "d/two", "d-e"]);
    let first = listed(&context, "/").unwrap();
    assert_eq!(
        std::fs::read_to_string(context.root().join("d/two")).unwrap(),
        "two"
    );
    drop(context);
    let (context, wanted) = scratch.send(&whole("two")).unwrap();
    assert_eq!((wanted.len(), listed(&context, "/")), (0, Some(first.clone())));
    drop(context);
    let (context, wanted) = scratch.send(&whole("more")).unwrap();
    assert_eq!(wanted, ["d/two"]);
    assert_ne!(listed(&context, "/").unwrap(), first);
    assert_eq!(
        std::fs::read_to_string(context.root().join("d/two")).unwrap(),
        "more"
    );
    assert!(listed(&context, "/l").is_none() && listed(&context, "/nosuch").is_none());
    let number = context
        .entries()
        .find(|(_, entry, _)| entry.path == "d/two")
        .unwrap()
        .0;
    assert_eq!(io::read_to_string(context.open(number).unwrap()).unwrap(), "more");
    assert_ne!(listed(&context, "/d"), listed(&context, "/d/two"));
}

#[test]
fn kinds_change_and_what_is_gone_goes() {
    let scratch = Scratch::new("kinds");
    let first = [
        ("a", D, ""),
        ("a/b", D, ""),
        ("a/b/c", text("1"), "1"),
        ("z", text("2"), "2"),
    ];
    scratch.send(&first).unwrap();
    let second = [("a", text("3"), "3"), ("z", D, ""), ("z/y", text("4"), "4")];
    let (context, wanted) = scratch.send(&second).unwrap();
    assert_eq!(wanted, ["a", "z/y"]);
    assert_eq!(std::fs::read_to_string(context.root().join("a")).unwrap(), "3");
    drop(context);
    let (context, _) = scratch
        .send(&[("z", KeptKind::Symlink("/".to_owned()), "")])
        .unwrap();
    let names: Vec<_> = std::fs::read_dir(context.root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["z"]);
}

#[test]
fn hard_links_stay_one_file() {
    use std::os::unix::fs::MetadataExt;
    let scratch = Scratch::new("hard");
    let link = KeptKind::HardLink("a".to_owned());
    for content in ["1", "22", "22"] {
        let (context, _) = scratch
            .send(&[("a", text(content), content), ("b", link.clone(), "")])
            .unwrap();
        let (a, b) = (context.root().join("a"), context.root().join("b"));
        assert_eq!(a.metadata().unwrap().ino(), b.metadata().unwrap().ino());
        assert_eq!(std::fs::read_to_string(b).unwrap(), content);
    }
    assert!(scratch.send(&[("b", link, "")]).is_err());
}

#[test]
fn hostile_descriptions_are_refused() {
    let scratch = Scratch::new("hostile");
    let link = || KeptKind::Symlink("/etc".to_owned());
    for files in [
        vec![("../x", text(""), "")],
        vec![("/x", text(""), "")],
        vec![("", D, "")],
        vec![(".", D, "")],
        vec![("a/../x", text(""), "")],
        vec![("a/b", text(""), "")],
        vec![("a", link(), ""), ("a/passwd", text("x"), "x")],
        vec![("a", text(""), ""), ("a/b", text("x"), "x")],
        vec![("b", D, ""), ("a", D, "")],
        vec![("a", text(""), ""), ("a", text(""), "")],
        vec![("a", D, ""), ("a-b", D, ""), ("a/c", text(""), "")],
        vec![("a", link(), ""), ("b", KeptKind::HardLink("a".to_owned()), "")],
        vec![("a", KeptKind::HardLink("a".to_owned()), "")],
        vec![("a", text("long"), "longer")],
        vec![("a", text("long"), "lo")],
        vec![("a\0b", text(""), "")],
    ] {
        assert!(scratch.send(&files).is_err(), "{files:?}");
    }
    let mut update = scratch.begin();
    assert!(update.receive(0, b"x").is_err());
    assert_eq!(update.offer(entry("a", text("1"))).unwrap(), Some(0));
    assert!(update.finish().is_err());
}

#[test]
fn an_update_that_breaks_off_is_begun_anew() {
    let scratch = Scratch::new("broken");
    scratch
        .send(&[("a", text("1"), "1"), ("b", text("2"), "2")])
        .unwrap();
    let mut update = scratch.begin();
    assert_eq!(update.offer(entry("a", text("11"))).unwrap(), Some(0));
    update.receive(0, b"1").unwrap();
    drop(update);
    let (_, wanted) = scratch
        .send(&[("a", text("1"), "1"), ("b", text("2"), "2")])
        .unwrap();
    assert_eq!(wanted, ["a", "b"]);
}

#[test]
fn a_second_build_gets_a_place_of_its_own() {
    let scratch = Scratch::new("second");
    let (first, _) = scratch.send(&[("a", text("1"), "1")]).unwrap();
    let (second, wanted) = scratch.send(&[("a", text("2"), "2")]).unwrap();
    assert_eq!(wanted, ["a"]);
    assert_ne!(first.root(), second.root());
    assert_eq!(std::fs::read_to_string(first.root().join("a")).unwrap(), "1");
    let own = second.root();
    drop((first, second));
    assert!(!own.exists());
    let (_, wanted) = scratch.send(&[("a", text("1"), "1")]).unwrap();
    assert!(wanted.is_empty());
}
