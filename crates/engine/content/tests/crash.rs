//! Killed at any moment, a load is there or not; with a full disk it is not, and nothing of it stays.

mod support;

use naru_content::{ContentError, ContentStore};
use std::process::{Command, Stdio};
use std::time::Duration;
use support::*;

/// What the child processes of these tests are told: the store and what to do.
const ROOT: &str = "NARU_TEST_STORE";

fn big_archive() -> Vec<u8> {
    let files = |prefix: &str| -> Vec<Item> {
        (0..300)
            .map(|n| file(&format!("{prefix}{n}"), &"content ".repeat(200)))
            .collect()
    };
    docker_archive("big:1", &[&layer(&files("a/")), &layer(&files("b/"))])
}

/// Not a test of its own: the process that `loads_survive_being_killed` kills.
#[test]
#[ignore = "run by another test"]
fn child_loads_and_removes() {
    let root = std::env::var(ROOT).unwrap();
    let archive = big_archive();
    let store = ContentStore::open(root.as_ref()).unwrap();
    loop {
        load(&store, &archive).unwrap();
        store.remove("big:1", false, false, &|_| Vec::new()).unwrap();
    }
}

fn child(test: &str, root: &std::path::Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", test])
        .env(ROOT, root)
        .stdout(Stdio::null());
    command
}

#[test]
fn loads_survive_being_killed() {
    let root = tempfile::tempdir().unwrap();
    let mut present = 0;
    for round in 0..40_u64 {
        let mut process = child("child_loads_and_removes", root.path()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20 + round * 37 % 150));
        process.kill().unwrap();
        process.wait().unwrap();
        let store = ContentStore::open(root.path()).unwrap();
        let report = store.open_report();
        assert!(
            report.images_damaged.is_empty() && report.layers_damaged.is_empty(),
            "{report:?}"
        );
        assert_eq!(
            std::fs::read_dir(root.path().join("temporary")).unwrap().count(),
            0
        );
        match store.images().as_slice() {
            [] => assert_empty(root.path()),
            [image] => {
                present += 1;
                assert_eq!(
                    (image.tags.as_slice(), image.bytes),
                    (["big:1".to_owned()].as_slice(), 960_000)
                );
                for chain in &image.chain_ids {
                    let diff = root.path().join("layers").join(chain.hex()).join("diff");
                    let folder = std::fs::read_dir(diff).unwrap().next().unwrap().unwrap().path();
                    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 300);
                }
            }
            more => panic!("{more:?}"),
        }
    }
    println!("an image was there after {present} of 40 kills");
}

/// Not a test of its own: runs in a mount namespace with a small filesystem at the store.
#[test]
#[ignore = "run by another test"]
fn child_fills_the_disk() {
    let root = std::env::var(ROOT).unwrap();
    let store = ContentStore::open(root.as_ref()).unwrap();
    load(&store, &docker_archive("small:1", &[&layer(&[file("a", "x")])])).unwrap();
    let many: Vec<Item> = (0..20)
        .map(|n| file(&n.to_string(), &"x".repeat(1 << 20)))
        .collect();
    let one = [file("huge", &"x".repeat(20 << 20))];
    for items in [&many[..], &one[..]] {
        let error = load(&store, &docker_archive("large:1", &[&layer(items)])).unwrap_err();
        assert!(matches!(error, ContentError::DiskFull(_)), "{error}");
        assert_eq!(std::fs::read_dir(format!("{root}/temporary")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(format!("{root}/layers")).unwrap().count(), 1);
    }
    assert!(store.image("small:1").is_ok());
    load(
        &store,
        &docker_archive("fits:1", &[&layer(&[file("a", &"x".repeat(2 << 20))])]),
    )
    .unwrap();
}

#[test]
fn a_full_disk_is_a_typed_error_and_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let script =
        "mount -t tmpfs -o size=8m none \"$1\" && exec \"$2\" --ignored --exact child_fills_the_disk";
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .args([root.path(), &program])
        .env(ROOT, root.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

/// Prints how fast a tree loads: `NARU_TEST_TAR=<docker archive> cargo test --release … -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn measure_load() {
    let path = std::env::var("NARU_TEST_TAR").unwrap();
    for _ in 0..5 {
        let root = tempfile::Builder::new()
            .tempdir_in(std::env::var("NARU_TEST_DIR").unwrap())
            .unwrap();
        let store = ContentStore::open(root.path()).unwrap();
        let start = std::time::Instant::now();
        let loaded = store
            .load(std::fs::File::open(&path).unwrap(), None, &mut |_| ())
            .unwrap();
        let seconds = start.elapsed().as_secs_f64();
        let bytes = store.image(loaded[0].id.as_str()).unwrap().bytes as f64;
        println!(
            "{:.3} s, {:.0} MB/s of {:.0} MB",
            seconds,
            bytes / seconds / 1e6,
            bytes / 1e6
        );
        let (id, rounds) = (loaded[0].id.clone(), 1000_u32);
        let containers: Vec<_> = (0..rounds).map(|_| naru_base::ContainerId::generate()).collect();
        let start = std::time::Instant::now();
        for container in &containers {
            store.create_snapshot(container, &id).unwrap();
        }
        let made = start.elapsed();
        let start = std::time::Instant::now();
        for container in &containers {
            store.remove_snapshot(container).unwrap();
        }
        println!(
            "snapshot: create {:?}, remove {:?}",
            made / rounds,
            start.elapsed() / rounds
        );
    }
}
