//! Control groups on the running kernel, as root. On another host, such as a virtual machine with cgroup v2 only, the
//! compiled file is run as it is. Every test works below its own `/naru-test-<pid>-<name>` and removes it.

use naru_cgroup::{Cgroup, CgroupError, Version, default_device_rules, hierarchy, list_children};
use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
};
use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A cgroup which is gone, with its processes, when the test ends.
struct Scope {
    parent: String,
    cgroup: Cgroup,
}

impl Scope {
    fn new(name: &str) -> Self {
        let parent = format!("/naru-test-{}-{name}", std::process::id());
        let cgroup = Cgroup::create(&format!("{parent}/box")).expect("a cgroup");
        Self { parent, cgroup }
    }

    /// Runs a shell command inside: the shell waits until it has been moved there.
    fn spawn(&self, script: &str) -> Child {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("read go\n{script}")]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("a shell");
        self.cgroup.enter(child.id() as i32).expect("enter");
        child
            .stdin
            .take()
            .expect("a pipe")
            .write_all(b"\n")
            .expect("a line");
        child
    }

    fn output(&self, script: &str) -> (i32, String) {
        let output = self.spawn(script).wait_with_output().expect("output");
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (
            output
                .status
                .code()
                .unwrap_or(128 + output.status.signal().unwrap_or(0)),
            text.into_owned(),
        )
    }

    fn read(&self, controllers: [&str; 2], v1: &str, v2: &str) -> String {
        let root = controllers
            .iter()
            .find_map(|name| hierarchy().unwrap().root_with(name))
            .expect("a controller");
        let name = if root.version() == Version::V1 { v1 } else { v2 };
        let path = format!("{}{}/{name}", root.mount_point().display(), self.cgroup.path());
        fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{path}: {error}"))
            .trim()
            .to_owned()
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        let parent = Cgroup::open(&self.parent).expect("a path");
        parent.kill_all().expect("kill");
        parent.remove().expect("remove");
        assert!(!parent.exists());
    }
}

fn memory(bytes: i64, both: i64) -> LinuxResources {
    let memory = LinuxMemoryBuilder::default()
        .limit(bytes)
        .swap(both)
        .build()
        .unwrap();
    LinuxResourcesBuilder::default().memory(memory).build().unwrap()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < end, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn state_of(pid: u32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    text.rsplit(") ")
        .next()
        .unwrap_or_default()
        .chars()
        .take(1)
        .collect()
}

#[test]
fn processes_are_found_and_cgroups_removed() {
    let scope = Scope::new("life");
    assert!(scope.cgroup.exists());
    let mut child = scope.spawn("sleep 1000 & sleep 1000 & wait");
    wait_until("three processes", || {
        scope.cgroup.process_ids().unwrap().len() == 3
    });
    assert!(scope.cgroup.process_ids().unwrap().contains(&(child.id() as i32)));
    assert_eq!(list_children(&scope.parent).unwrap(), ["box"]);
    let inner = Cgroup::create(&format!("{}/inner", scope.cgroup.path()));
    match hierarchy().unwrap().version() {
        // Limits below a cgroup with processes of its own do not exist.
        Version::V2 => assert!(inner.is_err(), "{inner:?}"),
        Version::V1 => inner
            .expect("a cgroup below one with processes")
            .enter(child.id() as i32)
            .unwrap(),
    }
    assert_eq!(scope.cgroup.process_ids().unwrap().len(), 3, "those below count");
    scope.cgroup.kill_all().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    scope.cgroup.remove().unwrap();
    assert!(!scope.cgroup.exists());
    scope.cgroup.remove().expect("removing twice is no error");
    scope.cgroup.kill_all().expect("nothing to kill is no error");
}

#[test]
fn limits_reach_the_kernel() {
    let scope = Scope::new("limits");
    let cpu = LinuxCpuBuilder::default()
        .shares(512u64)
        .quota(50_000i64)
        .period(100_000u64)
        .cpus("0")
        .build();
    let wanted = LinuxResourcesBuilder::default()
        .cpu(cpu.unwrap())
        .memory(
            LinuxMemoryBuilder::default()
                .limit(64i64 << 20)
                .swap(64i64 << 20)
                .build()
                .unwrap(),
        )
        .pids(LinuxPidsBuilder::default().limit(20).build().unwrap())
        .build()
        .unwrap();
    scope.cgroup.apply(&wanted).unwrap();
    assert_eq!(
        scope.read(["memory", ""], "memory.limit_in_bytes", "memory.max"),
        "67108864"
    );
    assert_eq!(scope.read(["pids", ""], "pids.max", "pids.max"), "20");
    assert_eq!(scope.read(["cpuset", ""], "cpuset.cpus", "cpuset.cpus"), "0");
    let quota = scope.read(["cpu", ""], "cpu.cfs_quota_us", "cpu.max");
    assert!(quota == "50000" || quota == "50000 100000", "{quota}");
    let weight = scope.read(["cpu", ""], "cpu.shares", "cpu.weight");
    assert!(weight == "512" || weight == "20", "{weight}");

    let (code, text) = scope
        .output("for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22; do sleep 1 & done; wait");
    assert!(
        text.contains("fork") || code != 0,
        "the limit of processes holds: {code} {text}"
    );
    let stats = scope.cgroup.stats().unwrap();
    assert_eq!(
        (stats.memory.limit_bytes, stats.pids.limit),
        (Some(64 << 20), Some(20))
    );
    assert!(
        stats.cpu.usage_ns > 0 && stats.memory.max_usage_bytes > 0,
        "{stats:?}"
    );
}

#[test]
fn limits_can_be_raised_and_lowered_and_lifted() {
    let scope = Scope::new("update");
    for megabytes in [64i64, 256, 32] {
        scope
            .cgroup
            .apply(&memory(megabytes << 20, megabytes << 20))
            .unwrap();
        assert_eq!(
            scope.cgroup.stats().unwrap().memory.limit_bytes,
            Some((megabytes << 20) as u64)
        );
    }
    scope.cgroup.apply(&memory(-1, 0)).unwrap();
    assert_eq!(scope.cgroup.stats().unwrap().memory.limit_bytes, None);
}

#[test]
fn an_impossible_limit_is_named_with_its_reason() {
    let scope = Scope::new("impossible");
    let cpu = LinuxCpuBuilder::default().cpus("4000").build().unwrap();
    let wanted = LinuxResourcesBuilder::default().cpu(cpu).build().unwrap();
    let error = scope.cgroup.apply(&wanted).unwrap_err();
    assert!(matches!(error, CgroupError::Refused { .. }), "{error:?}");
    assert!(
        error.to_string().contains("cpuset.cpus") && error.to_string().contains("4000"),
        "{error}"
    );
}

#[test]
fn too_much_memory_is_killed_and_counted() {
    let scope = Scope::new("oom");
    scope.cgroup.apply(&memory(16 << 20, 16 << 20)).unwrap();
    assert_eq!(scope.cgroup.oom_kill_count().unwrap(), 0);
    // The shell alone grows: one line of 64 MiB.
    let (code, _) = scope.output("head -c 67108864 /dev/zero | tail");
    assert_eq!(code, 137);
    assert!(scope.cgroup.oom_kill_count().unwrap() >= 1);
}

#[test]
fn frozen_processes_stop_and_can_still_be_killed() {
    let scope = Scope::new("freeze");
    let mut child = scope.spawn("while :; do :; done");
    wait_until("the process is inside", || {
        !scope.cgroup.process_ids().unwrap().is_empty()
    });
    scope.cgroup.freeze().unwrap();
    assert!(scope.cgroup.is_frozen().unwrap());
    let before = scope.cgroup.stats().unwrap().cpu.usage_ns;
    std::thread::sleep(Duration::from_millis(100));
    let after = scope.cgroup.stats().unwrap().cpu.usage_ns;
    assert!(after - before < 20_000_000, "{} ns while frozen", after - before);
    scope.cgroup.thaw().unwrap();
    assert!(!scope.cgroup.is_frozen().unwrap());
    wait_until("it runs again", || state_of(child.id()) == "R");
    scope.cgroup.freeze().unwrap();
    scope.cgroup.kill_all().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

#[test]
fn processes_that_multiply_are_killed_whole() {
    let scope = Scope::new("bomb");
    let multiply = "(while :; do sleep 0.2 & sleep 0.005; done) &";
    let mut child = scope.spawn(&format!("for i in 1 2 3 4 5 6 7 8; do {multiply} done; wait"));
    wait_until("many processes", || {
        scope.cgroup.process_ids().unwrap().len() > 20
    });
    scope.cgroup.kill_all().unwrap();
    child.wait().unwrap();
    assert!(scope.cgroup.process_ids().unwrap().is_empty());
}

/// `mknod` with its result, for a device that exists on every machine: the kernel's log, 1:11.
const READ_LOG_DEVICE: &str =
    "d=/dev/naru-test-$$; mknod $d c 1 11 && head -c 0 $d; code=$?; rm -f $d; exit $code";

#[test]
fn only_allowed_devices_can_be_opened() {
    let scope = Scope::new("devices");
    assert_eq!(
        scope.output(READ_LOG_DEVICE),
        (0, String::new()),
        "before any rule"
    );
    scope.cgroup.apply_devices(&default_device_rules()).unwrap();
    let (code, text) = scope.output(READ_LOG_DEVICE);
    assert_ne!(code, 0);
    assert!(text.contains("not permitted"), "{text}");
    assert_eq!(
        scope
            .output("head -c 4 /dev/zero >/dev/null && echo x >/dev/null")
            .0,
        0
    );
    let made = scope.output("d=/dev/naru-test-$$; mknod $d b 8 0 && rm $d");
    assert_eq!(made, (0, String::new()), "a node may be made");

    // Replaced by other rules: a privileged container's, then ones without mknod.
    let everything = oci_spec::runtime::LinuxDeviceCgroupBuilder::default()
        .allow(true)
        .access("rwm")
        .build();
    scope.cgroup.apply_devices(&[everything.unwrap()]).unwrap();
    assert_eq!(scope.output(READ_LOG_DEVICE), (0, String::new()), "all allowed");
    let mut rules = default_device_rules();
    rules.drain(1..3);
    scope.cgroup.apply_devices(&rules).unwrap();
    assert_ne!(
        scope.output("d=/dev/naru-test-$$; mknod $d b 8 0 && rm $d").0,
        0,
        "no node may be made"
    );
}

#[test]
fn a_missing_cgroup_is_an_error_not_a_panic() {
    let cgroup = Cgroup::open("/naru-test-missing/none").unwrap();
    assert!(!cgroup.exists());
    assert!(cgroup.stats().is_err());
    assert!(cgroup.enter_self().is_err());
    assert!(cgroup.apply(&memory(1 << 20, 1 << 20)).is_err());
    for path in ["", "/", "naru", "/a/../b", "/a//b", "/a/.", "/a/"] {
        assert!(Cgroup::open(path).is_err(), "{path:?}");
    }
}

/// Not a test of a promise but the measurement behind the design: run with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn measure_the_life_of_a_cgroup() {
    let parent = format!("/naru-test-{}-measure", std::process::id());
    let wanted = memory(64 << 20, 64 << 20);
    let rules = default_device_rules();
    let mut steps = [
        ("create", vec![]),
        ("devices", vec![]),
        ("apply", vec![]),
        ("enter", vec![]),
        ("remove", vec![]),
    ];
    for index in 0..200 {
        let mut child = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let path = format!("{parent}/{index}");
        let start = Instant::now();
        let cgroup = Cgroup::create(&path).unwrap();
        let created = Instant::now();
        cgroup.apply_devices(&rules).unwrap();
        let devices = Instant::now();
        cgroup.apply(&wanted).unwrap();
        let applied = Instant::now();
        cgroup.enter(child.id() as i32).unwrap();
        let entered = Instant::now();
        child.kill().unwrap();
        child.wait().unwrap();
        let gone = Instant::now();
        cgroup.remove().unwrap();
        let removed = Instant::now();
        let times = [
            created - start,
            devices - created,
            applied - devices,
            entered - applied,
            removed - gone,
        ];
        for ((_, list), time) in steps.iter_mut().zip(times) {
            list.push(time.as_micros());
        }
    }
    for (name, list) in &mut steps {
        list.sort_unstable();
        println!("{name}: median {} µs, p90 {} µs", list[100], list[180]);
    }
    Cgroup::open(&parent).unwrap().remove().unwrap();
}
