//! What evil archives do not become. Each attack has its honest twin in `load.rs`.

mod support;

use naru_content::{ContentError, ContentStore, LayerError};
use support::*;

/// Loads one evil layer into a fresh store and returns the error; nothing may be left, inside or outside.
fn refused(items: &[Item]) -> LayerError {
    let root = tempfile::tempdir().unwrap();
    let store_root = root.path().join("store");
    let store = ContentStore::open(&store_root).unwrap();
    let error = load(&store, &docker_archive("evil:1", &[&layer(items)])).unwrap_err();
    assert_empty(&store_root);
    assert!(store.images().is_empty());
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    match error {
        ContentError::Layer { source, .. } => source,
        other => panic!("{other}"),
    }
}

#[test]
fn names_that_climb_out_are_refused() {
    for name in ["../x", "a/../../x", "../../../../../../tmp/naru-evil", "../.wh.x"] {
        assert!(
            matches!(refused(&[file(name, "x")]), LayerError::Outside(_)),
            "{name}"
        );
    }
}

#[test]
fn links_never_lead_out_of_the_layer() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let root = tempfile::tempdir().unwrap();
    let store = ContentStore::open(root.path()).unwrap();
    // An absolute link is resolved in the layer, where its target does not exist.
    let error = load_layer(&store, &[symlink("out", target), file("out/x", "evil")]).unwrap_err();
    assert!(error.to_string().contains("parent is not a directory"), "{error}");
    let climb = format!("{}{target}", "../".repeat(12));
    let error = load_layer(&store, &[symlink("out", &climb), file("out/x", "evil")]).unwrap_err();
    assert!(error.to_string().contains("parent is not a directory"), "{error}");
    // With a directory of that name inside, the file goes there.
    let inner = target.trim_start_matches('/');
    load_layer(
        &store,
        &[
            directory(inner, 0o755),
            symlink("out", target),
            file("out/x", "evil"),
        ],
    )
    .unwrap();
    // A link as the last component is replaced, never followed.
    load_layer(&store, &[symlink("f", &format!("{target}/x")), file("f", "evil")]).unwrap();
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn hard_links_reach_only_files_of_the_layer() {
    for target in ["/etc/passwd", "../../../../etc/passwd", "etc/passwd", ".", ""] {
        assert!(
            matches!(refused(&[hard_link("x", target)]), LayerError::LinkTarget { .. }),
            "{target}"
        );
    }
    let through = [symlink("d", "/etc"), hard_link("x", "d/passwd")];
    assert!(matches!(refused(&through), LayerError::LinkTarget { .. }));
}

#[test]
fn whiteouts_name_one_plain_entry() {
    for name in [".wh.", ".wh..", ".wh...", "a/.wh.."] {
        assert!(
            matches!(refused(&[file(name, "")]), LayerError::Name(_)),
            "{name}"
        );
    }
}

#[test]
fn overlay_xattrs_of_an_image_are_dropped() {
    let root = tempfile::tempdir().unwrap();
    let store = ContentStore::open(root.path()).unwrap();
    let redirect = Item {
        xattrs: vec![
            ("SCHILY.xattr.trusted.overlay.redirect".into(), b"/etc".to_vec()),
            ("SCHILY.xattr.user.kept".into(), b"1".to_vec()),
        ],
        ..directory("d", 0o755)
    };
    let diff = load_layer(&store, &[redirect]).unwrap();
    let mut value = [0; 16];
    assert!(rustix::fs::getxattr(diff.join("d"), "trusted.overlay.redirect", &mut value[..]).is_err());
    assert!(rustix::fs::getxattr(diff.join("d"), "user.kept", &mut value[..]).is_ok());
}

#[test]
fn impossible_owners_are_refused() {
    for owner in [u64::from(u32::MAX), 1 << 32] {
        assert!(matches!(
            refused(&[Item {
                owner,
                ..file("x", "")
            }]),
            LayerError::Corrupt(_)
        ));
    }
}

#[test]
fn damaged_layers_are_typed_errors_and_leave_nothing() {
    let root = tempfile::tempdir().unwrap();
    let store = ContentStore::open(root.path()).unwrap();
    let honest = layer(&[file("a", &"data".repeat(50_000)), file("b", "x")]);
    let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
    let cut = |bytes: &[u8]| gzip(bytes)[..200].to_vec();
    let bend = |bytes: &[u8]| {
        let mut bytes = gzip(bytes);
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        bytes
    };
    let other = |_: &[u8]| gzip(&layer(&[file("other", "")]));
    let short = |bytes: &[u8]| gzip(&bytes[..1000]);
    let evil: [Change<'_>; 4] = [&cut, &bend, &other, &short];
    for (index, damage) in evil.iter().enumerate() {
        let error = load(&store, &oci_archive("x:1", &[&honest], damage, kind)).unwrap_err();
        match (index, &error) {
            (
                0 | 3,
                ContentError::Layer {
                    source: LayerError::Truncated,
                    ..
                },
            )
            | (1, ContentError::Layer { .. })
            | (2, ContentError::DigestMismatch { .. }) => {}
            _ => panic!("{index}: {error}"),
        }
        assert_empty(root.path());
    }
    let whole = docker_archive("x:1", &[&honest]);
    for length in [0, 100, 600, 5000, whole.len() / 2, whole.len() - 4000] {
        assert!(load(&store, &whole[..length]).is_err(), "{length}");
        assert_empty(root.path());
    }
    load(&store, &whole).unwrap();
}

#[test]
fn a_blob_that_is_not_what_its_name_says_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let store = ContentStore::open(root.path()).unwrap();
    let name = format!("blobs/sha256/{}", "a".repeat(64));
    let evil = layer(&[file(&name, "{}"), file("index.json", "{}")]);
    assert!(matches!(
        load(&store, &evil),
        Err(ContentError::DigestMismatch { .. })
    ));
}

#[test]
fn a_document_that_is_manifest_and_index_at_once_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let store = ContentStore::open(root.path()).unwrap();
    let evil = layer(&[file(
        "index.json",
        r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#,
    )]);
    let error = load(&store, &evil).unwrap_err();
    assert!(error.to_string().contains("ambiguous manifest"), "{error}");
}

#[test]
fn garbage_of_every_length_is_an_error_and_never_a_panic() {
    let root = tempfile::tempdir().unwrap();
    let store = ContentStore::open(root.path()).unwrap();
    let honest = docker_archive("x:1", &[&layer(&[file("a", "x"), symlink("l", "a")])]);
    let mut seed = 42_u64;
    for _ in 0..400 {
        let mut evil = honest.clone();
        for _ in 0..8 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let place = (seed >> 33) as usize % evil.len();
            evil[place] = (seed >> 20) as u8;
        }
        drop(load(&store, &evil));
    }
    assert_eq!(
        std::fs::read_dir(root.path().join("temporary")).unwrap().count(),
        0
    );
}
