//! What an ordinary container must find.

use crate::support::{Sandbox, pipes, start_exec, wait};
use naru_runtime::ChildStdio;
use naru_runtime::plan::{StartFailure, StartFailureKind};
use naru_runtime::view::{self, Base};
use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use serde_json::json;
use std::io::{Read, Write};

type Test = (&'static str, fn());

pub const TESTS: &[Test] = &[
    ("exit_codes_are_the_programs_own", exit_codes_are_the_programs_own),
    ("missing_commands_are_told_apart", missing_commands_are_told_apart),
    ("privileges_are_dockers_defaults", privileges_are_dockers_defaults),
    (
        "the_system_directories_are_complete",
        the_system_directories_are_complete,
    ),
    ("users_are_found_in_the_image", users_are_found_in_the_image),
    (
        "a_terminal_is_the_containers_own",
        a_terminal_is_the_containers_own,
    ),
    ("exec_enters_everything", exec_enters_everything),
    ("a_read_only_root_refuses_writes", a_read_only_root_refuses_writes),
    ("bind_mounts_keep_their_options", bind_mounts_keep_their_options),
    ("namespaces_are_joined_or_shared", namespaces_are_joined_or_shared),
    ("limits_and_sysctls_are_set", limits_and_sysctls_are_set),
    ("init_runs_from_memory", init_runs_from_memory),
    (
        "a_root_mounted_ahead_serves_its_own_start_only",
        a_root_mounted_ahead_serves_its_own_start_only,
    ),
    (
        "writers_from_outside_and_mounts_ahead_keep_apart",
        writers_from_outside_and_mounts_ahead_keep_apart,
    ),
    (
        "a_program_waits_for_what_is_done_meanwhile",
        a_program_waits_for_what_is_done_meanwhile,
    ),
    ("a_stem_leaves_nothing", a_stem_leaves_nothing),
];

fn exit_codes_are_the_programs_own() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.run(&sandbox.plan(&["true"])), (0, String::new()));
    assert_eq!(sandbox.run(&sandbox.plan(&["/bin/false"])).0, 1);
    assert_eq!(
        sandbox.run(&sandbox.shell("echo $$ $HOME; pwd; hostname; exit 42")),
        (42, "1 /root\n/\ntesthost\n".to_owned())
    );
}

fn missing_commands_are_told_apart() {
    let sandbox = Sandbox::new();
    let failure = sandbox.fails(&sandbox.plan(&["nothing-here"]));
    assert_eq!(failure.kind, StartFailureKind::CommandNotFound);
    assert_eq!(
        failure.message,
        "exec: \"nothing-here\": executable file not found in $PATH"
    );
    let failure = sandbox.fails(&sandbox.plan(&["/x"]));
    assert_eq!(failure.kind, StartFailureKind::CommandNotFound);
    assert_eq!(
        failure.message,
        "exec: \"/x\": stat /x: no such file or directory"
    );
    for (path, why) in [("/etc", "is a directory"), ("/etc/passwd", "permission denied")] {
        let failure = sandbox.fails(&sandbox.plan(&[path]));
        assert_eq!(failure.kind, StartFailureKind::CommandNotExecutable);
        assert!(failure.message.contains(why), "{failure}");
    }
    let script = sandbox.image().join("bin/garbage");
    std::fs::write(&script, "#!/nothing/here\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let failure = sandbox.fails(&sandbox.plan(&["garbage"]));
    assert_eq!(failure.kind, StartFailureKind::InterpreterMissing);
    std::fs::write(&script, "\0garbage").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let failure = sandbox.fails(&sandbox.plan(&["garbage"]));
    assert_eq!(failure.kind, StartFailureKind::FormatUnknown);
    assert!(failure.message.contains("exec format error"), "{failure}");
}

fn privileges_are_dockers_defaults() {
    let sandbox = Sandbox::new();
    let (_, status) = sandbox.run(&sandbox.plan(&["cat", "/proc/self/status"]));
    for line in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t00000000a80425fb",
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "CapAmb:\t0000000000000000",
        "Seccomp:\t2",
        "NoNewPrivs:\t0",
        "Umask:\t0022",
        "SigIgn:\t0000000000000000",
        "SigBlk:\t0000000000000000",
    ] {
        assert!(status.contains(line), "{line} in {status}");
    }
    let (_, status) = sandbox.run(&sandbox.plan(&["cat", "/proc/self/status"]).user("ann"));
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    assert!(status.contains("CapBnd:\t00000000a80425fb"), "{status}");
    let (code, _) = sandbox.run(&sandbox.plan(&["mount", "-t", "tmpfs", "none", "/tmp"]));
    assert_ne!(code, 0);
}

fn the_system_directories_are_complete() {
    let sandbox = Sandbox::new();
    let script = "ls /proc/self/fd | grep -c .; ls /dev; cat /proc/1/comm; ls /sys/class/net; \
        cat /proc/kcore | grep -c .; ls /sys/firmware; echo x > /proc/sys/kernel/hostname; cat /proc/self/cgroup; \
        ls /sys/fs/cgroup; echo x > /dev/null && echo null; echo > /sys/fs/cgroup/x; stat -c %a /dev/shm /dev/pts/ptmx /dev/null";
    let (_, output) = sandbox.run(&sandbox.shell(script));
    // 0, 1, 2 and the directory being listed.
    assert!(output.starts_with("4\n"), "{output}");
    for text in [
        "console\n",
        "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n",
        "lo\n",
        "sysctl",
        "null\n",
        "Read-only file system",
        "1777\n666\n666\n",
    ] {
        if text != "console\n" && text != "sysctl" {
            assert!(output.contains(text), "{text} in {output}");
        }
    }
    for line in output.lines().filter(|line| {
        line.contains("::") || line.split(':').count() == 3 && line.starts_with(char::is_numeric)
    }) {
        assert!(line.ends_with(":/"), "{line}");
    }
}

fn users_are_found_in_the_image() {
    let sandbox = Sandbox::new();
    let id = |user: &str| {
        sandbox
            .run(&sandbox.shell("echo $(id -u) $(id -g) $(id -G) $HOME").user(user))
            .1
    };
    assert_eq!(id(""), "0 0 0 /root\n");
    assert_eq!(id("ann"), "1000 1001 1001 29 /home/ann\n");
    assert_eq!(id("1000:5"), "1000 5 5 /home/ann\n");
    assert_eq!(id("4242"), "4242 0 0 /\n");
    for user in ["nobody", "4294967296", "0:4294967296", "ann:nogroup"] {
        assert_eq!(
            sandbox.fails(&sandbox.plan(&["true"]).user(user)).kind,
            StartFailureKind::Invalid,
            "{user}"
        );
    }
    let (code, output) = sandbox.run(&sandbox.shell("echo again > /dev/stdout").user("ann"));
    assert_eq!((code, output.as_str()), (0, "again\n"));
}

fn a_terminal_is_the_containers_own() {
    let sandbox = Sandbox::new();
    let plan = sandbox
        .shell("tty; stty size; ls -l /dev/console | grep -c 136; read x; echo got $x; tty < /dev/tty");
    let stdio = ChildStdio::Terminal {
        rows: 33,
        columns: 44,
    };
    let stem = sandbox.stem().unwrap();
    let (init, ()) = stem.start(&plan.build(), stdio, || Ok(())).unwrap();
    let mut console = std::fs::File::from(init.console.unwrap());
    console.write_all(b"hello\n").unwrap();
    let mut output = Vec::new();
    // Ends with EIO when the last process has closed its side.
    let _ = console.read_to_end(&mut output);
    let output = String::from_utf8_lossy(&output).into_owned();
    assert_eq!(wait(init.pid), 0, "{output}");
    for text in ["/dev/pts/0", "33 44", "got hello", "/dev/tty"] {
        assert!(output.contains(text), "{text} in {output}");
    }
}

fn a_root_mounted_ahead_serves_its_own_start_only() {
    let sandbox = Sandbox::new();
    let plan = sandbox.shell("echo written > /etc/made && cat /etc/made");
    // The container's own; then one that a later mount of the same snapshot has made useless; then another's.
    let other = Sandbox::new();
    let foreign = other.plan(&["true"]).rootfs;
    for case in 0..3 {
        let (mut stem, mut late) = (sandbox.stem().unwrap(), sandbox.stem().unwrap());
        let ahead = if case == 2 { &foreign } else { &plan.rootfs };
        stem.mount_ahead(ahead).unwrap();
        if case == 1 {
            std::thread::sleep(std::time::Duration::from_millis(100));
            late.mount_ahead(&plan.rootfs).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        let (stdio, output) = pipes();
        let (init, ()) = stem.start(&plan.build(), stdio, || Ok(())).unwrap();
        let mut text = String::new();
        std::fs::File::from(output).read_to_string(&mut text).unwrap();
        assert_eq!((wait(init.pid), text.as_str()), (0, "written\n"), "case {case}");
    }
}

/// Of two mounts made at once one fails, and one made while another copies up takes its work directory away.
fn writers_from_outside_and_mounts_ahead_keep_apart() {
    const ROUNDS: u32 = 50;
    let sandbox = Sandbox::new();
    let rootfs = sandbox.plan(&["true"]).rootfs;
    let mut stem = sandbox.stem().unwrap();
    for round in 0..ROUNDS {
        for _ in 0..4 {
            stem.mount_ahead(&rootfs).unwrap();
        }
        let base = Base::Writable(&rootfs);
        let view = view::on_own_thread(|| view::stopped(&base, &[], None));
        let view = view.unwrap().unwrap();
        for file in 0..4 {
            let (flags, mode) = (OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR);
            openat(&view.root, format!("etc/{round}-{file}"), flags, mode).unwrap();
            unlinkat(&view.root, format!("etc/{round}-{file}"), AtFlags::empty()).unwrap();
        }
    }
}

fn a_program_waits_for_what_is_done_meanwhile() {
    let sandbox = Sandbox::new();
    let plan = sandbox.shell("echo ran > /ran");
    let (stdio, output) = pipes();
    let refused = sandbox.stem().unwrap().start(&plan.build(), stdio, || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        Err::<(), _>(StartFailure {
            step: "log".to_owned(),
            kind: StartFailureKind::System,
            message: "no log".to_owned(),
        })
    });
    assert_eq!(refused.unwrap_err().step, "log");
    // Its end of the pipe is closed: nothing of it is left.
    assert_eq!(
        std::fs::File::from(output).read_to_end(&mut Vec::new()).unwrap(),
        0
    );
    assert!(!sandbox.path().join("upper/ran").exists());
}

fn exec_enters_everything() {
    let sandbox = Sandbox::new();
    let running = sandbox.start(&sandbox.plan(&["sleep", "100"])).unwrap();
    let (stdio, output) = pipes();
    let mut plan = sandbox.exec_plan(&["sh", "-c", "hostname; cat /proc/1/comm; id -u; ls /proc/self/fd | grep -c .; cat /proc/self/status | grep -e CapEff -e Seccomp:; exit 7"]);
    "ann".clone_into(&mut plan.user);
    let exec = start_exec(&running.init, &plan, stdio).unwrap();
    let mut text = String::new();
    std::fs::File::from(output).read_to_string(&mut text).unwrap();
    assert_eq!(wait(exec.pid), 7, "{text}");
    assert_eq!(
        text,
        "testhost\nsleep\n1000\n4\nCapEff:\t0000000000000000\nSeccomp:\t2\n"
    );
    let (stdio, _output) = pipes();
    let plan = sandbox.exec_plan(&["nothing"]);
    let failure = start_exec(&running.init, &plan, stdio).unwrap_err();
    assert_eq!(failure.kind, StartFailureKind::CommandNotFound);
    let stdio = ChildStdio::Terminal { rows: 5, columns: 6 };
    let plan = sandbox.exec_plan(&["stty", "size"]);
    let exec = start_exec(&running.init, &plan, stdio).unwrap();
    let mut seen = Vec::new();
    let _ = std::fs::File::from(exec.console.unwrap()).read_to_end(&mut seen);
    assert_eq!(wait(exec.pid), 0);
    assert!(String::from_utf8_lossy(&seen).contains("5 6"));
    assert_eq!(running.kill(), 137);
}

fn a_read_only_root_refuses_writes() {
    let sandbox = Sandbox::new();
    let plan = sandbox
        .shell("echo x > /x || echo refused; echo x > /dev/shm/x && echo shm")
        .set("/root/readonly", json!(true));
    assert!(sandbox.run(&plan).1.ends_with("refused\nshm\n"));
}

fn bind_mounts_keep_their_options() {
    let sandbox = Sandbox::new();
    let source = sandbox.path().join("source");
    std::fs::create_dir_all(source.join("sub")).unwrap();
    std::fs::write(source.join("file"), "content").unwrap();
    let bind = |options: &[&str], target: &str, path: &std::path::Path| json!({"destination": target, "type": "bind", "source": path, "options": options});
    let plan = sandbox
        .shell("cat /data/file /one; echo y > /data/w && echo wrote; echo y > /ro/w || echo refused; echo y > /ro/sub/w || echo refused")
        .mount(bind(&["rbind", "rprivate"], "/data", &source))
        .mount(bind(&["rbind", "rprivate"], "/one", &source.join("file")))
        .mount(bind(&["rbind", "rro", "rprivate"], "/deep/new/../new/ro", &source))
        .mount(bind(&["rbind", "ro", "rprivate"], "/ro", &source));
    let (_, output) = sandbox.run(&plan);
    assert!(output.starts_with("contentcontentwrote\n"), "{output}");
    assert_eq!(output.matches("refused").count(), 2, "{output}");
    assert_eq!(std::fs::read_to_string(source.join("w")).unwrap(), "y\n");
    let missing = sandbox
        .plan(&["true"])
        .mount(bind(&["rbind"], "/m", &source.join("missing")));
    assert!(
        sandbox
            .fails(&missing)
            .message
            .contains("bind source path does not exist")
    );
}

fn namespaces_are_joined_or_shared() {
    let sandbox = Sandbox::new();
    let running = sandbox.start(&sandbox.plan(&["sleep", "100"])).unwrap();
    let own = |kind: &str| {
        std::fs::read_link(format!("/proc/self/ns/{kind}"))
            .unwrap()
            .display()
            .to_string()
    };
    let of = |kind: &str| {
        std::fs::read_link(format!("/proc/{}/ns/{kind}", running.init.pid))
            .unwrap()
            .display()
            .to_string()
    };
    for kind in ["net", "ipc", "uts", "pid", "mnt", "cgroup"] {
        assert_ne!(own(kind), of(kind));
    }
    let script = "for n in net ipc uts pid; do stat -c %N /proc/self/ns/$n; done; ls /sys/class/net";
    let path = |kind: &str| format!("/proc/{}/ns/{kind}", running.init.pid);
    let namespaces = json!([{"type": "mount"}, {"type": "network", "path": path("net")}, {"type": "pid", "path": path("pid")}]);
    let (_, output) = sandbox.run(&sandbox.shell(script).set("/linux/namespaces", namespaces));
    for text in [of("net"), of("pid"), own("uts"), own("ipc")] {
        assert!(output.contains(&text), "{text} in {output}");
    }
    let host = json!([{"type": "mount"}, {"type": "cgroup"}]);
    let (_, output) = sandbox.run(&sandbox.shell(script).set("/linux/namespaces", host));
    for text in [own("net"), own("pid")] {
        assert!(output.contains(&text), "{text} in {output}");
    }
    running.kill();
}

fn limits_and_sysctls_are_set() {
    let sandbox = Sandbox::new();
    let plan = sandbox
        .shell("ulimit -n; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/self/oom_score_adj")
        .set(
            "/process/rlimits",
            json!([{"type": "RLIMIT_NOFILE", "hard": 512, "soft": 256}]),
        )
        .set("/process/oomScoreAdj", json!(100))
        .set(
            "/linux/sysctl",
            json!({"net.ipv4.ip_unprivileged_port_start": "77"}),
        );
    assert_eq!(sandbox.run(&plan).1, "256\n77\n100\n");
    let huge = sandbox.plan(&["true"]).set(
        "/process/rlimits",
        json!([{"type": "RLIMIT_NOFILE", "hard": 1_000_000_000_u64, "soft": 1024}]),
    );
    assert_eq!(sandbox.run(&huge).0, 0);
}

fn a_stem_leaves_nothing() {
    let sandbox = Sandbox::new();
    let stem = sandbox.stem().unwrap();
    let pidfd = stem.pidfd().try_clone_to_owned().unwrap();
    drop(stem);
    assert!(rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::CONT).is_err());
}

fn init_runs_from_memory() {
    let bytes = std::fs::read("/bin/busybox").unwrap();
    naru_runtime::set_init_program(Box::leak(bytes.into_boxed_slice()));
    let sandbox = Sandbox::new();
    let mut plan = sandbox.plan(&["true"]);
    plan.with_init = true;
    // Busybox goes by its name and knows none such: that it says so shows who was run, and under which name.
    let (code, output) = sandbox.run(&plan);
    assert_eq!((code, output.as_str()), (127, "docker-init: applet not found\n"));
    let mut plan = sandbox.plan(&["nothing"]);
    plan.with_init = true;
    assert_eq!(sandbox.fails(&plan).kind, StartFailureKind::CommandNotFound);
}
