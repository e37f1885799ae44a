//! User and time namespaces.

use crate::support::{Plan, Sandbox, pipes, start_exec, wait};
use naru_runtime::plan::{MappedRoot, StartFailureKind, UserNamespacePlan};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};
use serde_json::json;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

type Test = (&'static str, fn());

pub const TESTS: &[Test] = &[
    (
        "a_bind_mount_has_mapped_ids_when_asked_for",
        a_bind_mount_has_mapped_ids_when_asked_for,
    ),
    (
        "a_mapped_root_owns_its_image_and_what_it_writes_but_nothing_of_the_hosts",
        a_mapped_root_owns_its_image_and_what_it_writes_but_nothing_of_the_hosts,
    ),
    (
        "a_stem_in_a_user_namespace_takes_a_root_mounted_ahead",
        a_stem_in_a_user_namespace_takes_a_root_mounted_ahead,
    ),
    (
        "a_process_started_later_is_in_the_same_user_namespace",
        a_process_started_later_is_in_the_same_user_namespace,
    ),
    (
        "a_second_container_joins_the_user_and_network_namespace_of_a_first",
        a_second_container_joins_the_user_and_network_namespace_of_a_first,
    ),
    (
        "devices_of_the_host_keep_their_owners",
        devices_of_the_host_keep_their_owners,
    ),
    (
        "a_specification_for_another_user_namespace_than_the_parked_one_is_refused",
        a_specification_for_another_user_namespace_than_the_parked_one_is_refused,
    ),
    (
        "clocks_are_set_off_in_a_new_time_namespace_and_in_processes_started_later",
        clocks_are_set_off_in_a_new_time_namespace_and_in_processes_started_later,
    ),
    (
        "offsets_without_a_time_namespace_and_unknown_clocks_are_refused",
        offsets_without_a_time_namespace_and_unknown_clocks_are_refused,
    ),
];

const HOST_ID: u32 = 300_000;

fn mapping() -> Vec<LinuxIdMapping> {
    let mapping = LinuxIdMappingBuilder::default()
        .container_id(0_u32)
        .host_id(HOST_ID)
        .size(65_536_u32);
    vec![mapping.build().unwrap()]
}

fn mapped(mut plan: Plan) -> Plan {
    plan.user_namespace = Some(UserNamespacePlan::New {
        uid_mappings: mapping(),
        gid_mappings: mapping(),
    });
    plan.spec["linux"]["uidMappings"] = serde_json::to_value(mapping()).unwrap();
    plan.spec["linux"]["gidMappings"] = serde_json::to_value(mapping()).unwrap();
    plan.namespace(json!({"type": "user"}))
}

fn a_mapped_root_owns_its_image_and_what_it_writes_but_nothing_of_the_hosts() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path().join("host")).unwrap();
    fs::write(sandbox.path().join("host/secret"), "secret").unwrap();
    fs::set_permissions(
        sandbox.path().join("host/secret"),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    let script = "id -u; cut -c1-50 /proc/self/uid_map; stat -c %u:%g /bin/busybox /dev /dev/null /; echo new >/new && \
        chown 7:8 /new && stat -c %u:%g /new; echo x >/dev/null; stat -c %u /host/secret; cat /host/secret; \
        cat /proc/self/setgroups; ip link add x type dummy 2>&1; hostname other; echo again >/dev/stdout";
    let plan = mapped(sandbox.shell(script)).mount(
        json!({"destination": "/host", "type": "bind", "source": sandbox.path().join("host"), "options": ["rbind"]}),
    );
    let (code, text) = sandbox.run(&plan);
    assert_eq!(code, 0, "{text}");
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    assert_eq!(lines[0], "0");
    assert_eq!(
        lines[1].split_whitespace().collect::<Vec<_>>(),
        ["0", "300000", "65536"]
    );
    assert_eq!(lines[2..6], ["0:0"; 4], "{text}");
    assert_eq!(lines[6..8], ["7:8", "65534"], "{text}");
    assert!(
        text.contains("Permission denied") && !text.contains("secret\n"),
        "{text}"
    );
    assert!(text.ends_with("again\n"), "{text}");
    // On disk the ids are the container's own, so that any other container can use them.
    let written = fs::metadata(sandbox.path().join("upper/new")).unwrap();
    assert_eq!((written.uid(), written.gid()), (7, 8));
}

fn a_stem_in_a_user_namespace_takes_a_root_mounted_ahead() {
    let sandbox = Sandbox::new();
    let plan = mapped(sandbox.shell("stat -c %u /bin"));
    let mut stem = sandbox.stem_in(plan.user_namespace.clone()).unwrap();
    stem.mount_ahead(&plan.rootfs).unwrap();
    let (stdio, output) = pipes();
    let (init, ()) = stem.start(&plan.build(), stdio, || Ok(())).unwrap();
    let mut text = String::new();
    fs::File::from(output).read_to_string(&mut text).unwrap();
    assert_eq!((wait(init.pid), text.as_str()), (0, "0\n"));
}

fn a_process_started_later_is_in_the_same_user_namespace() {
    let sandbox = Sandbox::new();
    let running = sandbox.start(&mapped(sandbox.plan(&["sleep", "60"]))).unwrap();
    let mut exec = sandbox.exec_plan(&["sh", "-c", "id -u; cat /proc/self/uid_map; echo out >/dev/stdout"]);
    exec.place.mapped_root = Some(MappedRoot {
        uid: HOST_ID,
        gid: HOST_ID,
    });
    let (stdio, output) = pipes();
    let started = { start_exec(&running.init, &exec, stdio).unwrap() };
    let mut text = String::new();
    fs::File::from(output).read_to_string(&mut text).unwrap();
    assert_eq!(wait(started.pid), 0);
    assert!(
        text.starts_with("0\n") && text.contains("300000") && text.ends_with("out\n"),
        "{text}"
    );
    drop(started);
    running.kill();
}

fn a_bind_mount_has_mapped_ids_when_asked_for() {
    let sandbox = Sandbox::new();
    let bind = |option: &str| {
        let source = sandbox.path().join("lower");
        mapped(sandbox.shell("stat -c %u /m")).mount(
            json!({"destination": "/m", "type": "bind", "source": source, "options": ["rbind", option]}),
        )
    };
    assert_eq!(sandbox.run(&bind("rw")).1, "65534\n");
    assert_eq!(sandbox.run(&bind("ridmap")).1, "0\n");
}

fn a_second_container_joins_the_user_and_network_namespace_of_a_first() {
    let (first, second) = (Sandbox::new(), Sandbox::new());
    let running = first.start(&mapped(first.plan(&["sleep", "60"]))).unwrap();
    let of_first = |name: &str| format!("/proc/{}/ns/{name}", running.init.pid);
    let mut plan = second
        .shell("cat /proc/self/uid_map; stat -c %u /bin/busybox; ls /sys/class/net")
        .namespace(json!({"type": "user", "path": of_first("user")}));
    plan.spec["linux"]["namespaces"][1]["path"] = json!(of_first("net"));
    plan.user_namespace = Some(UserNamespacePlan::Join {
        path: of_first("user").into(),
    });
    let (code, text) = second.run(&plan);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("300000") && text.ends_with("\n0\nlo\n"), "{text}");
    running.kill();
}

fn devices_of_the_host_keep_their_owners() {
    let sandbox = Sandbox::new();
    let device = json!([
        {"path": "/dev/secret", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 0, "gid": 0},
        {"path": "/dev/open", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666, "uid": 0, "gid": 0},
    ]);
    let script = "stat -c '%u %a %t:%T' /dev/secret /dev/open; head=x; cat /dev/secret; cat </dev/open | grep -c nothing -m1; true";
    let plan = mapped(sandbox.shell(&script.replace(
        "cat </dev/open | grep -c nothing -m1",
        "test -r /dev/open && echo readable",
    )))
    .set("/linux/devices", device);
    let (code, text) = sandbox.run(&plan);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("65534 600 1:3\n65534 666 1:5\n"), "{text}");
    assert!(
        text.contains("Permission denied") && text.ends_with("readable\n"),
        "{text}"
    );
}

fn a_specification_for_another_user_namespace_than_the_parked_one_is_refused() {
    let sandbox = Sandbox::new();
    let mut plan = mapped(sandbox.plan(&["true"]));
    plan.user_namespace = None;
    assert_eq!(sandbox.fails(&plan).kind, StartFailureKind::Invalid);
    let mut plan = mapped(sandbox.plan(&["true"]));
    plan.spec["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 5, "size": 9}]);
    assert_eq!(sandbox.fails(&plan).kind, StartFailureKind::Invalid);
    let mut plan = mapped(sandbox.plan(&["true"]));
    plan.user_namespace = Some(UserNamespacePlan::New {
        uid_mappings: Vec::new(),
        gid_mappings: mapping(),
    });
    assert_eq!(sandbox.fails(&plan).kind, StartFailureKind::Invalid);
}

fn uptime(text: &str) -> f64 {
    text.split_whitespace().next().unwrap().parse().unwrap()
}

fn clocks_are_set_off_in_a_new_time_namespace_and_in_processes_started_later() {
    let sandbox = Sandbox::new();
    for in_user_namespace in [false, true] {
        let offsets = json!({"boottime": {"secs": 864_000}, "monotonic": {"secs": 1_000, "nanosecs": 5}});
        let mut plan = sandbox
            .shell("cat /proc/uptime /proc/self/timens_offsets; echo end; exec sleep 60")
            .namespace(json!({"type": "time"}))
            .set("/linux/timeOffsets", offsets);
        if in_user_namespace {
            plan = mapped(plan);
        }
        let host = uptime(&fs::read_to_string("/proc/uptime").unwrap());
        let running = sandbox.start(&plan).unwrap();
        let mut exec = sandbox.exec_plan(&["cat", "/proc/uptime"]);
        exec.place.has_time_namespace = true;
        exec.place.mapped_root = in_user_namespace.then_some(MappedRoot {
            uid: HOST_ID,
            gid: HOST_ID,
        });
        let (stdio, output) = pipes();
        let started = { start_exec(&running.init, &exec, stdio).unwrap() };
        let mut text = String::new();
        fs::File::from(output).read_to_string(&mut text).unwrap();
        assert_eq!(wait(started.pid), 0);
        drop(started);
        assert!((uptime(&text) - host - 864_000.0).abs() < 60.0, "{text}");
        let text = running.read_to_end_mark();
        running.kill();
        assert!((uptime(&text) - host - 864_000.0).abs() < 60.0, "{text}");
        let words: Vec<_> = text.split_whitespace().collect();
        assert!(
            words.windows(3).any(|words| words == ["monotonic", "1000", "5"]),
            "{text}"
        );
    }
}

fn offsets_without_a_time_namespace_and_unknown_clocks_are_refused() {
    let sandbox = Sandbox::new();
    let offsets = json!({"boottime": {"secs": 1}});
    let plan = sandbox.plan(&["true"]).set("/linux/timeOffsets", offsets);
    assert_eq!(sandbox.fails(&plan).kind, StartFailureKind::Invalid);
    let plan = sandbox
        .plan(&["true"])
        .namespace(json!({"type": "time"}))
        .set("/linux/timeOffsets", json!({"realtime": {"secs": 1}}));
    assert_eq!(sandbox.fails(&plan).kind, StartFailureKind::Invalid);
}
