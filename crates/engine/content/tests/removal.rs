//! Names, look-up, removal and pruning, in Docker's words.

mod support;

use naru_base::{ContainerId, Digest, ErrorKind};
use naru_content::{Attestation, ContentStore, Image, ImageUser, Removed};
use support::*;

fn store() -> (tempfile::TempDir, ContentStore) {
    let root = tempfile::tempdir().unwrap();
    let store = ContentStore::open(root.path()).unwrap();
    (root, store)
}

fn add(store: &ContentStore, name: &str, layers: &[&[u8]]) -> Digest {
    load(store, &docker_archive(name, layers)).unwrap()[0].id.clone()
}

fn nobody(_: &Digest) -> Vec<ImageUser> {
    Vec::new()
}

fn one_user(is_running: bool) -> impl Fn(&Digest) -> Vec<ImageUser> {
    move |_| {
        let container = "c".repeat(64).parse().unwrap();
        vec![ImageUser {
            container,
            name: "web".into(),
            is_running,
        }]
    }
}

#[test]
fn images_are_found_by_every_form_of_their_name() {
    let (_root, store) = store();
    let id = add(&store, "debian:latest", &[&layer(&[file("a", "")])]);
    let forms = [
        "debian",
        "debian:latest",
        "docker.io/library/debian",
        id.as_str(),
        id.hex(),
        &id.hex()[..6],
        &id.as_str()[..12],
    ];
    for form in forms {
        assert_eq!(store.image(form).unwrap().id, id, "{form}");
    }
    let error = store.image("absent").unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.kind()),
        ("No such image: absent:latest", ErrorKind::NotFound)
    );
    assert_eq!(
        store.image("Bad").unwrap_err().kind(),
        ErrorKind::InvalidParameter
    );
    assert!(
        store
            .image(&"f".repeat(64))
            .unwrap_err()
            .to_string()
            .starts_with("No such image: sha256:ffff")
    );
}

#[test]
fn what_is_attested_goes_with_the_last_image_that_has_it() {
    let (root, store) = store();
    let ids = ["one", "two"].map(|name| add(&store, name, &[&layer(&[file(name, "")])]));
    let attested = [Attestation {
        predicate_type: "https://example.com/x".to_owned(),
        file_name: "x.json".to_owned(),
        is_inline_only: true,
        predicate: serde_json::json!({ "same": "for both" }),
    }];
    for id in &ids {
        store.attest(id, &[], &attested).unwrap();
    }
    let blobs = || {
        std::fs::read_dir(root.path().join("blobs/sha256"))
            .unwrap()
            .count()
    };
    assert_eq!(blobs(), 3, "two configurations and what both share");
    store.remove("one", false, false, &nobody).unwrap();
    drop(store);
    let store = ContentStore::open(root.path()).unwrap();
    assert_eq!(store.attestations(&ids[1]).unwrap(), attested);
    let record = std::fs::read_to_string(root.path().join("images.json")).unwrap();
    let blob = record.split("\"blob\":\"sha256:").nth(1).unwrap();
    std::fs::write(root.path().join("blobs/sha256").join(&blob[..64]), "damaged").unwrap();
    assert!(store.attestations(&ids[1]).is_err());
    store.attest(&ids[1], &[], &attested).unwrap();
    assert_eq!(store.attestations(&ids[1]).unwrap(), attested);
    let absent = store.attest(&ids[0], &[], &attested).unwrap_err();
    assert_eq!((absent.kind(), blobs()), (ErrorKind::NotFound, 2));
    store.attest(&ids[1], &[], &[]).unwrap();
    assert_eq!((store.attestation_types(&ids[1]).len(), blobs()), (0, 1));
}

#[test]
fn removing_follows_dockers_rules() {
    let (root, store) = store();
    let shared = layer(&[file("shared", "12345")]);
    let id = add(&store, "one:1", &[&shared, &layer(&[file("a", "1")])]);
    let other = add(&store, "two:1", &[&shared]);
    store.tag("one:1", "three").unwrap();
    let short = id.short().to_owned();

    let error = store.remove(id.hex(), false, false, &nobody).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
        )
    );
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(
        store.remove("three", false, false, &nobody).unwrap(),
        [Removed::Untagged("three:latest".into())]
    );

    let error = store.remove("one:1", false, false, &one_user(false)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "conflict: unable to remove repository reference \"one:1\" (must force) - container cccccccccccc is using its referenced image {short}"
        )
    );
    let error = store
        .remove(id.hex(), false, false, &one_user(false))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "conflict: unable to delete {short} (must be forced) - image is being used by stopped container cccccccccccc"
        )
    );
    let error = store.remove(id.hex(), true, false, &one_user(true)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "conflict: unable to delete {short} (cannot be forced) - image is being used by running container cccccccccccc"
        )
    );

    let removed = store.remove("one:1", false, false, &nobody).unwrap();
    assert_eq!(removed[0], Removed::Untagged("one:1".into()));
    assert_eq!(removed[1], Removed::Deleted(id));
    assert_eq!(removed.len(), 3);
    assert_eq!(std::fs::read_dir(root.path().join("layers")).unwrap().count(), 1);
    store.remove(other.hex(), false, false, &nobody).unwrap();
    assert_empty(root.path());
}

#[test]
fn layers_under_a_container_stay_until_it_goes() {
    let (root, store) = store();
    let id = add(
        &store,
        "one:1",
        &[&layer(&[file("a", "1")]), &layer(&[file("b", "2")])],
    );
    let container = ContainerId::generate();
    let snapshot = store.create_snapshot(&container, &id).unwrap();
    store.remove("one:1", true, false, &one_user(false)).unwrap();
    assert!(store.image(id.as_str()).is_err());
    drop(store);
    let store = ContentStore::open(root.path()).unwrap();
    assert_eq!(store.snapshot(&container).unwrap(), snapshot);
    assert!(snapshot.lower.iter().all(|path| path.is_dir()));
    store.remove_snapshot(&container).unwrap();
    assert_empty(root.path());
}

#[test]
fn layers_mounted_beside_a_container_stay_until_it_goes() {
    let (root, store) = store();
    let base = add(&store, "base:1", &[&layer(&[file("a", "base")])]);
    let tool = add(
        &store,
        "tool:1",
        &[&layer(&[file("t", "low")]), &layer(&[file("t", "top")])],
    );
    let top = store.image("tool:1").unwrap().chain_ids.last().cloned();
    let container = ContainerId::generate();
    let snapshot = store.create_snapshot(&container, &base).unwrap();
    let shown = store.hold_layers(&container, top.as_ref()).unwrap();
    assert_eq!(shown.len(), 3);
    assert_eq!(std::fs::read(shown[0].join("t")).unwrap(), b"top");
    assert_eq!(std::fs::read_dir(&shown[2]).unwrap().count(), 0);
    store.remove(tool.as_str(), true, false, &nobody).unwrap();
    assert!(shown[0].is_dir() && shown[1].is_dir());
    drop(store);
    let store = ContentStore::open(root.path()).unwrap();
    assert!(
        shown[0].is_dir() && shown[1].is_dir(),
        "a new daemon keeps them too"
    );
    // Of an image without layers there is an empty directory alone.
    assert_eq!(store.hold_layers(&container, None).unwrap().len(), 1);
    store.remove_snapshot(&container).unwrap();
    assert!(!shown[0].exists() && !shown[1].exists());
    assert!(!snapshot.upper.parent().unwrap().exists());
    assert!(store.hold_layers(&container, top.as_ref()).is_err());
}

#[test]
fn a_name_moves_to_the_image_loaded_last_and_prune_takes_the_other() {
    let (root, store) = store();
    let old = add(&store, "app:1", &[&layer(&[file("a", "old!")])]);
    let new = add(&store, "app:1", &[&layer(&[file("a", "new")])]);
    assert_eq!(store.image("app:1").unwrap().id, new);
    assert!(store.image(old.as_str()).unwrap().tags.is_empty());
    let all = |_: &Image| true;
    assert!(store.prune(true, &all, &one_user(false)).unwrap().0.is_empty());
    assert!(store.prune(true, &|_| false, &nobody).unwrap().0.is_empty());
    let (removed, bytes) = store.prune(true, &all, &nobody).unwrap();
    assert_eq!((&removed[0], bytes), (&Removed::Deleted(old), 4));
    store.prune(false, &all, &nobody).unwrap();
    assert_empty(root.path());
}

#[test]
fn everything_is_there_again_after_reopening() {
    let (root, store) = store();
    let id = add(&store, "app:1", &[&layer(&[file("a", "1")])]);
    store.tag("app:1", "localhost:5000/app:2").unwrap();
    assert!(
        ContentStore::open(root.path()).is_err(),
        "two daemons on one store"
    );
    drop(store);
    std::fs::create_dir(root.path().join("temporary/left")).unwrap();
    std::fs::create_dir(root.path().join("layers").join("e".repeat(64))).unwrap();
    let store = ContentStore::open(root.path()).unwrap();
    assert_eq!(
        (
            store.open_report().temporary_removed,
            store.open_report().layers_damaged.len()
        ),
        (1, 1)
    );
    assert_eq!(
        store.image("app:1").unwrap().tags,
        ["app:1", "localhost:5000/app:2"]
    );
    let history = store.history(&store.image("app:1").unwrap());
    assert_eq!((history[0].id.as_str(), history[0].bytes), (id.as_str(), 1));
}

#[test]
fn an_image_that_lost_a_layer_is_forgotten_and_can_be_loaded_again() {
    let (root, store) = store();
    let archive = docker_archive("app:1", &[&layer(&[file("a", "1")])]);
    let id = load(&store, &archive).unwrap()[0].id.clone();
    let chain = store.image("app:1").unwrap().chain_ids[0].clone();
    drop(store);
    std::fs::remove_file(root.path().join("layers").join(chain.hex()).join("layer.json")).unwrap();
    let store = ContentStore::open(root.path()).unwrap();
    assert_eq!(store.open_report().images_damaged, [id]);
    assert!(store.images().is_empty());
    load(&store, &archive).unwrap();
    assert!(store.image("app:1").is_ok());
}
