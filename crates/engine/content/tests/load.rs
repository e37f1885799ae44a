//! What honest archives become.

mod support;

use naru_base::ContainerId;
use naru_content::ContentStore;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use support::*;

const OCI_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

#[test]
fn docker_archives_load_and_snapshots_have_their_layers_topmost_first() {
    let root = tempfile::tempdir().unwrap();
    let store = ContentStore::open(root.path()).unwrap();
    let (base, top) = (layer(&[file("a", "base")]), layer(&[file("b", "top")]));
    let loaded = load(&store, &docker_archive("debian:12", &[&base, &top])).unwrap();
    assert_eq!(loaded[0].names, ["debian:12"]);
    let image = store.image("debian:12").unwrap();
    assert_eq!(
        (image.bytes, image.tags.as_slice()),
        (7, ["debian:12".to_owned()].as_slice())
    );
    let container = ContainerId::generate();
    let snapshot = store.create_snapshot(&container, &image.id).unwrap();
    assert_eq!(snapshot.lower.len(), 3);
    assert!(snapshot.lower[0].join(".dockerenv").exists());
    assert_eq!(std::fs::read(snapshot.lower[1].join("b")).unwrap(), b"top");
    assert_eq!(std::fs::read(snapshot.lower[2].join("a")).unwrap(), b"base");
    assert_eq!(store.snapshot(&container).unwrap(), snapshot);
    std::fs::write(snapshot.upper.join("new"), "12345").unwrap();
    assert_eq!(store.snapshot_sizes(std::slice::from_ref(&container)), [(5, 12)]);
    store.remove_snapshot(&container).unwrap();
    store.remove_snapshot(&container).unwrap();
    assert!(!snapshot.upper.exists());
}

#[test]
fn oci_layouts_load_compressed_in_any_way_and_compressed_again() {
    let plain = layer(&[file("a", "x")]);
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let cases: [(Change<'_>, &str); 3] = [
        (&gzip, OCI_GZIP),
        (&zstd, "application/vnd.oci.image.layer.v1.tar+zstd"),
        (&<[u8]>::to_vec, "application/vnd.oci.image.layer.v1.tar"),
    ];
    for (compress, kind) in cases {
        let archive = oci_archive("docker.io/library/x:1", &[&plain], compress, kind);
        for archive in [archive.clone(), gzip(&archive), zstd(&archive)] {
            let root = tempfile::tempdir().unwrap();
            let store = ContentStore::open(root.path()).unwrap();
            assert_eq!(load(&store, &archive).unwrap()[0].names, ["x:1"]);
            // A second time, everything is there already.
            assert_eq!(load(&store, &archive).unwrap().len(), 1);
            assert_eq!(
                std::fs::read_dir(root.path().join("temporary")).unwrap().count(),
                0
            );
        }
    }
}

#[test]
fn every_kind_of_entry_arrives_with_its_attributes() {
    let root = tempfile::tempdir().unwrap();
    let store = ContentStore::open(root.path()).unwrap();
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(90));
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let pax_path = Item {
        xattrs: vec![("path".into(), long.clone().into())],
        ..file("short", "long name")
    };
    let diff = load_layer(
        &store,
        &[
            directory("bin/", 0o1777),
            Item {
                mode: 0o4755,
                owner: 7,
                ..file("bin/su", "suid")
            },
            Item {
                xattrs: vec![("SCHILY.xattr.security.capability".into(), capability.to_vec())],
                ..file("bin/ping", "cap")
            },
            symlink("sh", "bin/su"),
            hard_link("bin/su2", "bin/su"),
            of_kind(tar::EntryType::Char, "null"),
            of_kind(tar::EntryType::Fifo, "fifo"),
            pax_path,
            file("/absolute", "confined"),
            file("etc/.wh.gone", ""),
            file("var/.wh..wh..opq", ""),
        ],
    )
    .unwrap();
    let stat = |name: &str| std::fs::symlink_metadata(diff.join(name)).unwrap();
    assert_eq!(stat("bin").mode() & 0o7777, 0o1777);
    assert_eq!(
        (stat("bin/su").mode() & 0o7777, stat("bin/su").uid()),
        (0o4755, 7)
    );
    assert_eq!(
        (stat("bin/su").mtime(), stat("bin").mtime()),
        (1_000_000_000, 1_000_000_000)
    );
    assert_eq!(
        (stat("bin/su").ino(), stat("bin/su").nlink()),
        (stat("bin/su2").ino(), 2)
    );
    assert!(stat("null").file_type().is_char_device() && stat("null").rdev() == 0x103);
    assert!(stat("fifo").file_type().is_fifo());
    assert_eq!(std::fs::read_to_string(diff.join(&long)).unwrap(), "long name");
    assert_eq!(
        std::fs::read_to_string(diff.join("absolute")).unwrap(),
        "confined"
    );
    assert!(stat("etc/gone").file_type().is_char_device() && stat("etc/gone").rdev() == 0);
    let mut value = [0; 64];
    let read = rustix::fs::getxattr(diff.join("var"), "trusted.overlay.opaque", &mut value[..]).unwrap();
    assert_eq!(&value[..read], b"y");
    let read = rustix::fs::getxattr(diff.join("bin/ping"), "security.capability", &mut value[..]).unwrap();
    assert_eq!(&value[..read], capability);
}

#[test]
fn a_file_below_a_link_of_its_own_layer_lands_where_the_link_points() {
    let root = tempfile::tempdir().unwrap();
    let store = ContentStore::open(root.path()).unwrap();
    let items = [
        directory("usr/lib", 0o755),
        symlink("lib", "usr/lib"),
        symlink("abs", "/usr/lib"),
        file("lib/x", "1"),
        file("abs/y", "2"),
    ];
    let diff = load_layer(&store, &items).unwrap();
    assert_eq!(std::fs::read(diff.join("usr/lib/x")).unwrap(), b"1");
    assert_eq!(std::fs::read(diff.join("usr/lib/y")).unwrap(), b"2");
}

#[test]
fn archives_of_layers_are_made_again_bit_for_bit() {
    let root = tempfile::tempdir().unwrap();
    let store = ContentStore::open(root.path()).unwrap();
    let mut odd = layer(&[
        directory("usr/lib", 0o755),
        symlink("lib", "usr/lib"),
        file("lib/x", "first"),
        file("a/b/c", "deep"),
        file("lib/x", "second"),
        hard_link("y", "usr/lib/x"),
        file("a", "a file where a directory was"),
        file("empty", ""),
        file(".wh.gone", ""),
    ]);
    odd.extend_from_slice(&[0; 8192]);
    let loaded = load(&store, &docker_archive("odd:1", &[&odd, &odd])).unwrap();
    let image = store.image(loaded[0].id.as_str()).unwrap();
    for index in 0..2 {
        let mut again = Vec::new();
        store
            .layer_archive(&image, index)
            .unwrap()
            .read_to_end(&mut again)
            .unwrap();
        assert_eq!(sha256(&again), sha256(&odd), "layer {index}");
    }
}

#[test]
fn sparse_files_are_unpacked_by_gnu_tar_rules() {
    let work = tempfile::tempdir().unwrap();
    let path = work.path().join("sparse");
    let made = std::fs::File::create(&path).unwrap();
    made.set_len(10 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&made, b"middle", 5 << 20).unwrap();
    for format in ["--format=gnu", "--format=posix"] {
        let output = std::process::Command::new("tar")
            .args(["-cS", format, "-C"])
            .arg(work.path())
            .arg("sparse")
            .output()
            .unwrap();
        let root = tempfile::tempdir().unwrap();
        let store = ContentStore::open(root.path()).unwrap();
        let archive = docker_archive("sparse:1", &[&output.stdout]);
        load(&store, &archive).unwrap();
        let image = store.image("sparse:1").unwrap();
        let snapshot = store
            .create_snapshot(&ContainerId::generate(), &image.id)
            .unwrap();
        assert!(std::fs::read(snapshot.lower[1].join("sparse")).unwrap() == std::fs::read(&path).unwrap());
        let mut again = Vec::new();
        store
            .layer_archive(&image, 0)
            .unwrap()
            .read_to_end(&mut again)
            .unwrap();
        assert_eq!(sha256(&again), sha256(&output.stdout));
    }
}

#[test]
fn directories_only_implied_keep_the_attributes_of_the_layer_below() {
    let root = tempfile::tempdir().unwrap();
    let store = ContentStore::open(root.path()).unwrap();
    let (base, top) = (
        layer(&[directory("tmp", 0o1777)]),
        layer(&[file("tmp/x", ""), file("new/y", "")]),
    );
    let loaded = load(&store, &docker_archive("implied:1", &[&base, &top])).unwrap();
    let snapshot = store
        .create_snapshot(&ContainerId::generate(), &loaded[0].id)
        .unwrap();
    let mode = |name: &str| snapshot.lower[1].join(name).metadata().unwrap().mode() & 0o7777;
    assert_eq!((mode("tmp"), mode("new")), (0o1777, 0o755));
}

#[test]
fn a_volume_is_filled_from_the_image_only_while_it_is_empty() {
    let root = tempfile::tempdir().unwrap();
    let store = ContentStore::open(root.path()).unwrap();
    let items = [
        Item {
            owner: 5,
            ..directory("srv/data", 0o750)
        },
        Item {
            mode: 0o4711,
            ..file("srv/data/a", "1")
        },
        hard_link("srv/data/b", "srv/data/a"),
        symlink("srv/data/c", "/etc/passwd"),
        symlink("link", "/srv/data"),
    ];
    let image = layer(&items);
    let id = load(&store, &docker_archive("volume:1", &[&image])).unwrap()[0]
        .id
        .clone();
    let volume = root.path().join("volume/_data");
    std::fs::create_dir_all(&volume).unwrap();
    let as_it_is = |uid, gid| (uid, gid);
    assert!(!store.copy_up(&id, "/absent", &volume, &as_it_is).unwrap());
    assert!(!store.copy_up(&id, "/srv/data/a", &volume, &as_it_is).unwrap());
    assert!(store.copy_up(&id, "/link", &volume, &as_it_is).unwrap());
    let stat = |name: &str| std::fs::symlink_metadata(volume.join(name)).unwrap();
    assert_eq!(
        (stat("").mode() & 0o7777, stat("").uid(), stat("").mtime()),
        (0o750, 5, 1_000_000_000)
    );
    assert_eq!(
        (stat("a").mode() & 0o7777, stat("a").ino()),
        (0o4711, stat("b").ino())
    );
    assert_eq!(
        std::fs::read_link(volume.join("c")).unwrap().to_str(),
        Some("/etc/passwd")
    );
    let mapped = root.path().join("mapped/_data");
    std::fs::create_dir_all(&mapped).unwrap();
    let shift = |uid, gid| (uid + 100_000, gid + 200_000);
    assert!(store.copy_up(&id, "/link", &mapped, &shift).unwrap());
    let owner = |name: &str| {
        let metadata = std::fs::symlink_metadata(mapped.join(name)).unwrap();
        (metadata.uid(), metadata.gid() >= 200_000)
    };
    assert_eq!(
        (owner(""), owner("a").1, owner("c").1),
        ((100_005, true), true, true)
    );
    std::fs::write(volume.join("a"), "mine").unwrap();
    assert!(!store.copy_up(&id, "/srv/data", &volume, &as_it_is).unwrap());
    assert_eq!(std::fs::read(volume.join("a")).unwrap(), b"mine");
    assert_eq!(std::fs::read_dir(root.path().join("volume")).unwrap().count(), 1);
}

#[test]
fn of_several_platforms_the_one_asked_for_is_loaded() {
    let platform = |architecture: &str| naru_oci::Platform {
        architecture: architecture.to_owned(),
        os: "linux".to_owned(),
        variant: String::new(),
    };
    let archives = [
        docker_archive("x:1", &[&layer(&[file("a", "x")])]),
        oci_archive(
            "docker.io/library/x:1",
            &[&layer(&[file("a", "x")])],
            &gzip,
            OCI_GZIP,
        ),
    ];
    for archive in archives {
        let root = tempfile::tempdir().unwrap();
        let store = ContentStore::open(root.path()).unwrap();
        let load = |platform| store.load(archive.as_slice(), Some(&platform), &mut |_| ());
        let refused = load(platform("s390x")).unwrap_err().to_string();
        assert!(refused.contains("no image for platform linux/s390x"), "{refused}");
        assert!(store.images().is_empty());
        assert_empty(root.path());
        assert_eq!(load(platform("amd64")).unwrap()[0].names, ["x:1"]);
    }
}
