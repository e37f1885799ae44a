//! Scheduler, priorities, personality, labels, propagation: honoured, or refused by name.

use crate::support::Sandbox;
use naru_runtime::plan::{SeccompPlan, StartFailureKind};
use serde_json::{Value, json};

type Test = (&'static str, fn());

pub const TESTS: &[Test] = &[
    (
        "scheduler_priority_and_personality_are_set",
        scheduler_priority_and_personality_are_set,
    ),
    (
        "the_roots_propagation_is_set_when_asked_for",
        the_roots_propagation_is_set_when_asked_for,
    ),
    ("what_cannot_be_had_is_refused", what_cannot_be_had_is_refused),
    (
        "an_agent_that_does_not_listen_is_named",
        an_agent_that_does_not_listen_is_named,
    ),
];

fn scheduler_priority_and_personality_are_set() {
    let sandbox = Sandbox::new();
    // Fields 19 and 41 of stat: nice value and policy, of which 3 is SCHED_BATCH.
    let plan = sandbox
        .shell("cut -d' ' -f19,41 /proc/self/stat; ionice -p 1; uname -m")
        .set("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 5}))
        .set(
            "/process/ioPriority",
            json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0}),
        )
        .set("/linux/personality", json!({"domain": "LINUX32"}));
    let (code, text) = sandbox.run(&plan);
    assert_eq!(code, 0, "{text}");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "5 3");
    assert!(lines[1].starts_with("idle"), "{text}");
    assert_eq!(lines[2], "i686");
}

fn the_roots_propagation_is_set_when_asked_for() {
    let sandbox = Sandbox::new();
    let script = "grep -c ' / / .* shared:' /proc/self/mountinfo";
    for (propagation, shared) in [("shared", "1\n"), ("rslave", "0\n"), ("private", "0\n")] {
        let plan = sandbox
            .shell(script)
            .set("/linux/rootfsPropagation", json!(propagation));
        assert_eq!(sandbox.run(&plan).1, shared, "{propagation}");
    }
    let plan = sandbox
        .shell(script)
        .set("/linux/rootfsPropagation", json!("sideways"));
    assert_eq!(sandbox.fails(&plan).kind, StartFailureKind::Invalid);
}

fn what_cannot_be_had_is_refused() {
    let sandbox = Sandbox::new();
    let cases: [(&str, Value, &str); 9] = [
        ("/process/apparmorProfile", json!("docker-default"), "AppArmor"),
        (
            "/process/selinuxLabel",
            json!("system_u:system_r:svirt_lxc_net_t:s0"),
            "SELinux",
        ),
        ("/linux/mountLabel", json!("x"), "linux.mountLabel"),
        ("/linux/intelRdt", json!({"closID": "a"}), "linux.intelRdt"),
        ("/hooks", json!({"prestart": [{"path": "/bin/true"}]}), "hooks"),
        ("/process/scheduler", json!({"policy": "SCHED_ISO"}), "SCHED_ISO"),
        (
            "/process/ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
            "0 to 7",
        ),
        (
            "/process/execCPUAffinity",
            json!({"initial": "0"}),
            "execCPUAffinity",
        ),
        (
            "/linux/personality",
            json!({"domain": "LINUX", "flags": ["SHORT_INODE"]}),
            "SHORT_INODE",
        ),
    ];
    for (pointer, value, word) in cases {
        let failure = sandbox.fails(&sandbox.plan(&["true"]).set(pointer, value));
        assert_eq!(failure.kind, StartFailureKind::Invalid, "{failure:?}");
        assert!(failure.message.contains(word), "{failure}");
    }
    for option in ["idmap", "tmpcopyup"] {
        let plan = sandbox.plan(&["true"]).mount(
            json!({"destination": "/m", "type": "bind", "source": "/tmp", "options": ["bind", option]}),
        );
        assert_eq!(sandbox.fails(&plan).kind, StartFailureKind::Invalid);
    }
}

fn an_agent_that_does_not_listen_is_named() {
    let sandbox = Sandbox::new();
    let rule = json!([{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]);
    for (profile, word) in [
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/nobody/here", "syscalls": rule}),
            "/nobody/here",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rule}),
            "listenerPath",
        ),
    ] {
        let mut plan = sandbox.plan(&["true"]);
        plan.seccomp = SeccompPlan::Profile(serde_json::from_value(profile).unwrap());
        let failure = sandbox.fails(&plan);
        assert_eq!(failure.kind, StartFailureKind::Invalid, "{failure:?}");
        assert!(failure.message.contains(word), "{failure}");
    }
}
