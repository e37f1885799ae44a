//! Images and plans that try to reach the host.

use crate::support::Sandbox;
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;

type Test = (&'static str, fn());

pub const TESTS: &[Test] = &[
    (
        "symlinked_system_directories_are_refused",
        symlinked_system_directories_are_refused,
    ),
    ("mount_targets_stay_inside", mount_targets_stay_inside),
    (
        "a_leaked_directory_is_no_working_directory",
        a_leaked_directory_is_no_working_directory,
    ),
    (
        "user_databases_are_read_with_care",
        user_databases_are_read_with_care,
    ),
    ("sysctls_of_the_host_are_refused", sysctls_of_the_host_are_refused),
    ("masked_paths_show_nothing", masked_paths_show_nothing),
];

fn symlinked_system_directories_are_refused() {
    for name in ["proc", "sys", "dev"] {
        let sandbox = Sandbox::new();
        symlink("/tmp", sandbox.image().join(name)).unwrap();
        let failure = sandbox.fails(&sandbox.plan(&["true"]));
        assert!(failure.message.contains("symbolic link"), "{failure}");
    }
}

fn mount_targets_stay_inside() {
    let sandbox = Sandbox::new();
    let outside = sandbox.path().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, sandbox.image().join("escape")).unwrap();
    symlink("../../../../../../etc", sandbox.image().join("up")).unwrap();
    symlink("/tmp", sandbox.image().join("honest")).unwrap();
    for target in ["/escape/x", "/up/new", "/../../../outside/y", "/honest/z"] {
        let mount =
            json!({"destination": target, "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]});
        let _ = sandbox
            .start(&sandbox.plan(&["true"]).mount(mount))
            .map(crate::support::Running::finish);
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert!(!std::path::Path::new("/etc/new").exists());
    let honest = json!({"destination": "/honest/z", "type": "tmpfs", "source": "tmpfs"});
    assert_eq!(
        sandbox.run(&sandbox.shell("ls -d /tmp/z").mount(honest)).1,
        "/tmp/z\n"
    );
}

fn a_leaked_directory_is_no_working_directory() {
    let sandbox = Sandbox::new();
    // Open here, without close-on-exec, as a careless engine would have it.
    let leak = rustix::fs::open("/", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    for number in 3..20 {
        let plan = sandbox
            .shell("ls /")
            .set("/process/cwd", json!(format!("/proc/self/fd/{number}")));
        let Err(failure) = sandbox.start(&plan) else {
            panic!("entered descriptor {number}")
        };
        assert_eq!(failure.step, "cwd", "{failure}");
    }
    drop(leak);
    let plan = sandbox.shell("pwd").set("/process/cwd", json!("/made/for/it"));
    assert_eq!(sandbox.run(&plan).1, "/made/for/it\n");
}

fn user_databases_are_read_with_care() {
    let sandbox = Sandbox::new();
    let passwd = sandbox.image().join("etc/passwd");
    fs::remove_file(&passwd).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &passwd,
        rustix::fs::FileType::Fifo,
        0o666.into(),
        0,
    )
    .unwrap();
    assert!(
        sandbox
            .fails(&sandbox.plan(&["true"]).user("ann"))
            .message
            .contains("regular file")
    );
    fs::remove_file(&passwd).unwrap();
    fs::write(&passwd, vec![b'\n'; 2 << 20]).unwrap();
    assert!(sandbox.fails(&sandbox.plan(&["true"])).message.contains("1 MiB"));
}

fn sysctls_of_the_host_are_refused() {
    let sandbox = Sandbox::new();
    for name in [
        "kernel.core_pattern",
        "vm.swappiness",
        "net/../kernel/core_pattern",
        "net...kernel.core_pattern",
    ] {
        let plan = sandbox.plan(&["true"]).set("/linux/sysctl", json!({name: "|/x"}));
        assert_eq!(sandbox.fails(&plan).step, "sysctl");
    }
}

fn masked_paths_show_nothing() {
    let sandbox = Sandbox::new();
    // A link instead of the null device in the image must not become the mask (CVE-2025-31133): /dev is ours.
    fs::create_dir(sandbox.image().join("dev")).unwrap();
    symlink("/etc/passwd", sandbox.image().join("dev/null")).unwrap();
    fs::create_dir(sandbox.image().join("secret")).unwrap();
    fs::write(sandbox.image().join("secret/key"), "x").unwrap();
    fs::write(sandbox.image().join("plain"), "hidden").unwrap();
    let plan = sandbox
        .shell(
            "cat /plain; ls /secret; echo x > /secret/new || echo refused; cat /proc/timer_list /proc/keys",
        )
        .set(
            "/linux/maskedPaths",
            json!([
                "/plain",
                "/secret",
                "/missing",
                "/plain/below",
                "/proc/timer_list",
                "/proc/keys"
            ]),
        );
    let (_, output) = sandbox.run(&plan);
    assert!(
        output.ends_with("refused\n") && output.lines().count() == 2,
        "{output}"
    );
}
