//! A hostile client, and an honest one that sends only what has changed.

use super::place::Place;
use super::*;
use naru_build::listing::{self, EntryKind, FileIdentity};
use std::collections::BTreeMap;
use std::path::Path;

/// A place in a directory of the test's own.
struct Scratch {
    path: PathBuf,
    place: Arc<Place>,
}

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("naru-kept-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        let place = Arc::new(Place::new(path.join("key")));
        Self { path, place }
    }

    /// As a daemon that comes after this one sees it.
    fn restart(&mut self) {
        self.place.save().unwrap();
        self.place = Arc::new(Place::new(self.path.join("key")));
    }

    fn begin(&self) -> Update {
        Arc::clone(&self.place).begin().unwrap()
    }

    /// Sends a whole context; returns it with the names of the files whose content was wanted.
    fn send(&self, files: &[(&str, EntryKind, &str)]) -> Result<(KeptContext, Vec<String>)> {
        let mut update = self.begin();
        let mut wanted = BTreeMap::new();
        for (path, kind, content) in files {
            if let Some(number) = update.offer(entry(path, kind.clone()))? {
                wanted.insert(number, ((*path).to_owned(), (*content).to_owned()));
            }
        }
        update.end_of_entries();
        for (number, (_, content)) in &wanted {
            for piece in content.as_bytes().chunks(3) {
                update.receive(*number, piece)?;
            }
            update.receive(*number, b"")?;
        }
        let names = wanted.into_values().map(|(name, _)| name).collect();
        Ok((update.finish(None)?, names))
    }

    /// Sends a context by its listing; each wanted file is its own path. Returns the paths that were wanted.
    fn send_listed(&self, entries: &[ContextEntry]) -> (KeptContext, Vec<String>) {
        let listing = listing::encode(entries.iter());
        let update = ListedUpdate::begin(self.begin(), &listing).unwrap();
        let (mut contents, mut paths) = (Vec::new(), Vec::new());
        for (first, count) in update.wanted() {
            for entry in &entries[first as usize..][..count as usize] {
                contents.push(0);
                contents.extend_from_slice(entry.path.as_bytes());
                paths.push(entry.path.clone());
            }
        }
        (update.receive(&contents[..]).unwrap(), paths)
    }

    fn packs(&self) -> usize {
        let found = std::fs::read_dir(&self.place.directory).unwrap();
        found
            .filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name.to_string_lossy().starts_with("pack-")
            })
            .count()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn entry(path: &str, kind: EntryKind) -> ContextEntry {
    ContextEntry {
        path: path.to_owned(),
        mode: if kind == EntryKind::Directory {
            0o755
        } else {
            0o640
        },
        kind,
        modified_ns: 1_000_000_000_000_000_001,
        identity: None,
        is_recent: false,
        capability: Vec::new(),
    }
}

/// A file that has its own path for content.
fn listed_file(path: &str, changed_ns: i64) -> ContextEntry {
    let bytes = path.len() as u64;
    let identity = FileIdentity {
        changed_ns,
        inode: 1,
        device: 1,
    };
    ContextEntry {
        identity: Some(identity),
        ..entry(path, EntryKind::File { bytes })
    }
}

fn text(content: &str) -> EntryKind {
    EntryKind::File {
        bytes: content.len() as u64,
    }
}

/// All that a copy of a path brings, digests of contents included, wherever they are.
fn brought(context: &KeptContext, path: &str) -> Option<Vec<String>> {
    let tree = context.tree();
    let listed = tree.list(Path::new(path)).ok()?;
    let told = listed.iter().map(|one| {
        let digest = match &one.content {
            crate::build::tree::Content::Packed { digest, .. } => digest.to_string(),
            _ => String::new(),
        };
        format!("{:?} {digest}", one.member)
    });
    Some(told.collect())
}

fn read(context: &KeptContext, path: &str) -> String {
    String::from_utf8(context.tree().read_file(Path::new(path), 100).unwrap()).unwrap()
}

const D: EntryKind = EntryKind::Directory;

#[test]
fn only_changed_files_are_wanted_again() {
    let mut scratch = Scratch::new("changed");
    let whole = |two: &'static str| {
        [
            ("a", text("one"), "one"),
            ("d", D, ""),
            ("d/empty", text(""), ""),
            ("d/two", text(two), two),
            ("d-e", text("three"), "three"),
            ("l", EntryKind::Symlink("/etc/passwd".to_owned()), ""),
        ]
    };
    let (context, wanted) = scratch.send(&whole("two")).unwrap();
    assert_eq!(wanted, ["a", "d/empty", "d/two", "d-e"]);
    let first = brought(&context, "/").unwrap();
    for is_restarted in [false, true] {
        if is_restarted {
            scratch.restart();
        }
        let (again, wanted) = scratch.send(&whole("two")).unwrap();
        assert_eq!((wanted.len(), brought(&again, "/").unwrap()), (0, first.clone()));
        assert_eq!(Arc::ptr_eq(&context.tree(), &again.tree()), !is_restarted);
    }
    let (changed, wanted) = scratch.send(&whole("more")).unwrap();
    assert_eq!(wanted, ["d/two"]);
    assert_eq!(read(&changed, "d/two"), "more");
    assert_ne!(brought(&changed, "/").unwrap(), first);
    assert!(brought(&changed, "/l").is_none() && brought(&changed, "/nosuch").is_none());
    // A build that has the version before goes on with it.
    assert_eq!(read(&context, "d/two"), "two");
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
    assert_eq!(read(&context, "a"), "3");
    let (context, _) = scratch
        .send(&[("z", EntryKind::Symlink("/".to_owned()), "")])
        .unwrap();
    assert_eq!(context.tree().names_in("/"), ["z"]);
}

#[test]
fn hard_links_stay_one_file() {
    let scratch = Scratch::new("hard");
    let link = EntryKind::HardLink("a".to_owned());
    for content in ["1", "22", "22"] {
        let (context, _) = scratch
            .send(&[("a", text(content), content), ("b", link.clone(), "")])
            .unwrap();
        let all = brought(&context, "/").unwrap();
        assert!(all[2].contains("kind: Link"), "{all:?}");
        assert_eq!(read(&context, "b"), content);
    }
    assert!(scratch.send(&[("b", link, "")]).is_err());
}

#[test]
fn hostile_descriptions_are_refused() {
    let scratch = Scratch::new("hostile");
    let link = || EntryKind::Symlink("/etc".to_owned());
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
        vec![("a", link(), ""), ("b", EntryKind::HardLink("a".to_owned()), "")],
        vec![("a", EntryKind::HardLink("a".to_owned()), "")],
        vec![("a", text("long"), "longer")],
        vec![("a", text("long"), "lo")],
        vec![("a", EntryKind::File { bytes: u64::MAX }, "x")],
        vec![("a\0b", text(""), "")],
    ] {
        assert!(scratch.send(&files).is_err(), "{files:?}");
    }
    let mut update = scratch.begin();
    assert!(update.receive(0, b"x").is_err());
    assert_eq!(update.offer(entry("a", text("1"))).unwrap(), Some(0));
    assert!(update.finish(None).is_err());
    assert_eq!(scratch.packs(), 0);
}

#[test]
fn an_update_that_breaks_off_changes_nothing() {
    let mut scratch = Scratch::new("broken");
    let whole = [("a", text("1"), "1"), ("b", text("2"), "2")];
    scratch.send(&whole).unwrap();
    for is_restarted in [false, true] {
        let mut update = scratch.begin();
        assert_eq!(update.offer(entry("a", text("11"))).unwrap(), Some(0));
        update.receive(0, b"1").unwrap();
        drop(update);
        if is_restarted {
            scratch.restart();
        }
        let (context, wanted) = scratch.send(&whole).unwrap();
        assert!(wanted.is_empty());
        assert_eq!(read(&context, "a"), "1");
    }
}

#[test]
fn builds_side_by_side_have_each_their_own_context() {
    let scratch = Scratch::new("second");
    for begun in [None, Some("0")] {
        if let Some(content) = begun {
            scratch.send(&[("a", text(content), content)]).unwrap();
        }
        let mut updates = [scratch.begin(), scratch.begin()];
        for update in &mut updates {
            assert_eq!(update.offer(entry("a", text("12345"))).unwrap(), Some(0));
        }
        for (update, piece) in updates.iter_mut().zip(["123", "678"]) {
            update.receive(0, piece.as_bytes()).unwrap();
        }
        let contexts = updates.map(|mut update| {
            update.receive(0, b"45").unwrap();
            update.receive(0, b"").unwrap();
            update.finish(None).unwrap()
        });
        assert_eq!(
            contexts.each_ref().map(|context| read(context, "a")),
            ["12345", "67845"]
        );
    }
    scratch.place.save().unwrap();
    assert_eq!(scratch.packs(), 1);
}

#[test]
fn a_listing_stands_for_files_that_tell_of_their_changes() {
    let mut scratch = Scratch::new("listed");
    let old = [listed_file("a", 1), listed_file("b", 1)];
    let (context, wanted) = scratch.send_listed(&old);
    assert_eq!((wanted.len(), read(&context, "b")), (2, "b".to_owned()));
    let state = context.0.state.clone().unwrap();
    // The content of one is the same, but nobody could know.
    let touched = [listed_file("a", 1), listed_file("b", 2)];
    let (after, wanted) = scratch.send_listed(&touched);
    assert_eq!(wanted, ["b"]);
    assert_ne!(after.0.state.as_ref(), Some(&state));
    assert!(Arc::ptr_eq(&context.tree(), &after.tree()));
    scratch.restart();
    assert_eq!(scratch.place.latest().unwrap().state, after.0.state);
    // What has changed a moment ago is wanted each time, and its listing stands for nothing.
    let mut recent = touched.clone();
    recent[0].is_recent = true;
    for _ in 0..2 {
        let (context, wanted) = scratch.send_listed(&recent);
        assert_eq!((wanted, context.0.state.clone()), (vec!["a".to_owned()], None));
    }
    let (context, wanted) = scratch.send_listed(&touched);
    assert_eq!(
        (wanted, context.0.state.clone()),
        (vec!["a".to_owned()], after.0.state.clone())
    );
}

#[test]
fn what_is_damaged_is_asked_for_again() {
    let whole = [("a", text("content"), "content")];
    for damage in ["index", "pack-1"] {
        let mut scratch = Scratch::new(damage);
        scratch.send(&whole).unwrap();
        scratch.place.save().unwrap();
        let path = scratch.place.directory.join(damage);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        scratch.restart();
        let (context, wanted) = scratch.send(&whole).unwrap();
        assert_eq!((wanted.len(), read(&context, "a")), (1, "content".to_owned()));
    }
}

#[test]
fn a_pack_that_is_mostly_waste_is_left() {
    let mut scratch = Scratch::new("waste");
    let (first, _) = scratch
        .send(&[("a", text("1"), "1"), ("b", text("2"), "2")])
        .unwrap();
    // As if much had come and gone.
    first.0.pack.allocate(1 << 30).unwrap();
    let (second, _) = scratch
        .send(&[("a", text("1"), "1"), ("b", text("33"), "33")])
        .unwrap();
    assert!(second.0.pack.number > first.0.pack.number && second.0.pack.end() == 3);
    scratch.restart();
    assert_eq!(scratch.packs(), 1);
    let (third, wanted) = scratch
        .send(&[("a", text("1"), "1"), ("b", text("33"), "33")])
        .unwrap();
    assert!(wanted.is_empty());
    assert_eq!(
        (read(&third, "a"), read(&third, "b")),
        ("1".to_owned(), "33".to_owned())
    );
    assert_eq!(read(&first, "b"), "2");
}
