//! Archives and layers that were honest once.

mod support;

use naru_content::ContentStore;
use naru_fuzz::feed;
use support::*;

/// Feeds a store with what `archive` makes of each input; whatever it was, nothing is beside the store and nothing half
/// made in it.
fn feed_store(examples: &[&[u8]], archive: impl Fn(&[u8]) -> Vec<u8>) {
    let root = tempfile::tempdir().unwrap();
    let store_root = root.path().join("store");
    let store = ContentStore::open(&store_root).unwrap();
    feed(examples, |bytes| {
        let _ = load(&store, &archive(bytes));
        assert_eq!(
            std::fs::read_dir(root.path()).unwrap().count(),
            1,
            "something lies beside the store"
        );
        assert_eq!(
            std::fs::read_dir(store_root.join("temporary")).unwrap().count(),
            0
        );
    });
}

fn honest_layer() -> Vec<u8> {
    layer(&[
        directory("d", 0o755),
        file("d/file", "content"),
        symlink("d/link", "../d/file"),
        hard_link("hard", "d/file"),
        file("d/.wh.gone", ""),
        file("d/.wh..wh..opq", ""),
        of_kind(tar::EntryType::Fifo, "fifo"),
        of_kind(tar::EntryType::Char, "null"),
        Item {
            xattrs: vec![("SCHILY.xattr.user.a".to_owned(), b"b".to_vec())],
            ..file("x", "y")
        },
    ])
}

#[test]
fn layers() {
    let honest = honest_layer();
    feed_store(&[&honest, &layer(&[file("a", "b")])], |bytes| {
        docker_archive("fuzz:1", &[bytes])
    });
}

#[test]
fn docker_archives() {
    let honest = docker_archive("fuzz:1", &[&honest_layer()]);
    let compressed = gzip(&honest);
    feed_store(&[&honest, &compressed], <[u8]>::to_vec);
}

#[test]
fn oci_layouts() {
    let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
    let honest = oci_archive("fuzz:1", &[&honest_layer()], &gzip, kind);
    feed_store(&[&honest], <[u8]>::to_vec);
}

#[test]
fn compressed_layers() {
    let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
    let honest = gzip(&honest_layer());
    let inner = honest_layer();
    feed_store(&[&honest], |bytes| {
        oci_archive("fuzz:1", &[&inner], &|_| bytes.to_vec(), kind)
    });
}
