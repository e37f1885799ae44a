use super::environment::read_variables;
use super::*;
use crate::args::{Order, parse};

fn arguments(words: &[&str]) -> Arguments {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    parse(&[FLAGS, LIMITS, CONTAINER_LIMITS], Order::FlagsFirst, &words).unwrap()
}

fn plan(words: &[&str]) -> CreatePlan {
    let words: Vec<&str> = words.iter().copied().chain(["image", "command"]).collect();
    plan_create(&arguments(&words), false).unwrap()
}

fn refused(words: &[&str]) -> String {
    let words: Vec<&str> = words.iter().copied().chain(["image"]).collect();
    plan_create(&arguments(&words), false).unwrap_err()
}

#[test]
fn flags_become_the_fields_docker_sends() {
    let host = |key| ["HostConfig", key];
    for (words, path, json) in [
        (&["-m", "64m"][..], &host("Memory")[..], "67108864"),
        (&["--memory-swap", "-1"], &host("MemorySwap"), "-1"),
        (&["--cpus", "1.5"], &host("NanoCpus"), "1500000000"),
        (&["-c", "512"], &host("CpuShares"), "512"),
        (&["--pids-limit=10"], &host("PidsLimit"), "10"),
        (&["--shm-size", "1g"], &host("ShmSize"), "1073741824"),
        (&["--init"], &host("Init"), "true"),
        (&["--init=false"], &host("Init"), "false"),
        (&["--rm"], &host("AutoRemove"), "true"),
        (&["--privileged"], &host("Privileged"), "true"),
        (&["--read-only"], &host("ReadonlyRootfs"), "true"),
        (&[], &host("NetworkMode"), "\"default\""),
        (&["--network", "host"], &host("NetworkMode"), "\"host\""),
        (&["--net=container:x"], &host("NetworkMode"), "\"container:x\""),
        (&["--pid=host"], &host("PidMode"), "\"host\""),
        (
            &["-p", "80"],
            &host("PortBindings"),
            r#"{"80/tcp":[{"HostIp":"","HostPort":""}]}"#,
        ),
        (
            &["-p", "8080:80/udp"],
            &host("PortBindings"),
            r#"{"80/udp":[{"HostIp":"","HostPort":"8080"}]}"#,
        ),
        (
            &["-p", "127.0.0.1:8080:80"],
            &host("PortBindings"),
            r#"{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":"8080"}]}"#,
        ),
        (
            &["-p", "127.0.0.1::80"],
            &host("PortBindings"),
            r#"{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":""}]}"#,
        ),
        (
            &["-p", "[::1]:8080:80"],
            &host("PortBindings"),
            r#"{"80/tcp":[{"HostIp":"::1","HostPort":"8080"}]}"#,
        ),
        (
            &["-p", "8000-8001:80-81"],
            &host("PortBindings"),
            r#"{"80/tcp":[{"HostIp":"","HostPort":"8000"}],"81/tcp":[{"HostIp":"","HostPort":"8001"}]}"#,
        ),
        (
            &["-p", "8000-8005:80"],
            &host("PortBindings"),
            r#"{"80/tcp":[{"HostIp":"","HostPort":"8000-8005"}]}"#,
        ),
        (
            &["-p", "1:80", "-p", "2:80"],
            &host("PortBindings"),
            r#"{"80/tcp":[{"HostIp":"","HostPort":"1"},{"HostIp":"","HostPort":"2"}]}"#,
        ),
        (
            &["-p", "target=80,published=8080"],
            &host("PortBindings"),
            r#"{"80/tcp":[{"HostIp":"","HostPort":"8080"}]}"#,
        ),
        (
            &["--expose", "1-2/udp"],
            &["ExposedPorts"],
            r#"{"1/udp":{},"2/udp":{}}"#,
        ),
        (&["-v", "/a:/b:ro", "-v", "/c"], &host("Binds"), r#"["/a:/b:ro"]"#),
        (&["-v", "/c"], &["Volumes"], r#"{"/c":{}}"#),
        (&["--tmpfs", "/t:size=1m"], &host("Tmpfs"), r#"{"/t":"size=1m"}"#),
        (
            &["--mount", "type=bind,src=/a,dst=/b,ro,bind-propagation=rslave"],
            &host("Mounts"),
            r#"[{"Type":"bind","Source":"/a","Target":"/b","ReadOnly":true,"BindOptions":{"Propagation":"rslave"}}]"#,
        ),
        (
            &["--mount", "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770"],
            &host("Mounts"),
            r#"[{"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":1048576,"Mode":1016}}]"#,
        ),
        (
            &["--mount", "source=v,target=/v,volume-nocopy"],
            &host("Mounts"),
            r#"[{"Type":"volume","Source":"v","Target":"/v","VolumeOptions":{"NoCopy":true}}]"#,
        ),
        (
            &["--ulimit", "nofile=10:20"],
            &host("Ulimits"),
            r#"[{"Name":"nofile","Hard":20,"Soft":10}]"#,
        ),
        (
            &["--device", "/dev/null:/dev/x:r"],
            &host("Devices"),
            r#"[{"PathOnHost":"/dev/null","PathInContainer":"/dev/x","CgroupPermissions":"r"}]"#,
        ),
        (
            &["--device-read-bps", "/dev/sda:1mb"],
            &host("BlkioDeviceReadBps"),
            r#"[{"Path":"/dev/sda","Rate":1048576}]"#,
        ),
        (
            &["--gpus", "all"],
            &host("DeviceRequests"),
            r#"[{"Count":-1,"Capabilities":[["gpu"]]}]"#,
        ),
        (
            &["--restart", "on-failure:3"],
            &host("RestartPolicy"),
            r#"{"Name":"on-failure","MaximumRetryCount":3}"#,
        ),
        (
            &["--log-opt", "max-size=1m"],
            &host("LogConfig"),
            r#"{"Type":"","Config":{"max-size":"1m"}}"#,
        ),
        (
            &["--add-host", "h=1.2.3.4", "--add-host", "g:host-gateway"],
            &host("ExtraHosts"),
            r#"["h:1.2.3.4","g:host-gateway"]"#,
        ),
        (
            &["--security-opt", "seccomp=unconfined"],
            &host("SecurityOpt"),
            r#"["seccomp=unconfined"]"#,
        ),
        (
            &["--security-opt", "systempaths=unconfined"],
            &host("MaskedPaths"),
            "[]",
        ),
        (&["--sysctl", "net.x=1"], &host("Sysctls"), r#"{"net.x":"1"}"#),
        (
            &["--network", "n", "--ip", "1.2.3.4", "--network-alias", "a"],
            &["NetworkingConfig"],
            r#"{"EndpointsConfig":{"n":{"IPAMConfig":{"IPv4Address":"1.2.3.4"},"Aliases":["a"]}}}"#,
        ),
        (&["-e", "A=1", "-e", "B="], &["Env"], r#"["A=1","B="]"#),
        (&["-l", "a=b=c", "-l", "d"], &["Labels"], r#"{"a":"b=c","d":""}"#),
        (&["--entrypoint", ""], &["Entrypoint"], r#"[""]"#),
        (&[], &["Cmd"], r#"["command"]"#),
        (&["-h", "x"], &["Hostname"], "\"x\""),
        (&["-it"], &["StdinOnce"], "true"),
        (
            &["--health-cmd", "true", "--health-interval", "5s"],
            &["Healthcheck"],
            r#"{"Test":["CMD-SHELL","true"],"Interval":5000000000}"#,
        ),
        (&["--no-healthcheck"], &["Healthcheck"], r#"{"Test":["NONE"]}"#),
        (&["--stop-timeout", "3"], &["StopTimeout"], "3"),
    ] {
        assert_eq!(plan(words).body.at(path).to_json(), json, "{words:?}");
    }
}

#[test]
fn wrong_values_are_refused_before_anything_is_sent() {
    for (words, message) in [
        (
            &["--restart", "always", "--rm"][..],
            "Conflicting options: --restart and --rm",
        ),
        (&["-p", "x:80"], "invalid hostPort: x"),
        (&["-p", "80:x"], "invalid containerPort: x"),
        (&["-p", "1.2.3.999:1:2"], "invalid IP address: 1.2.3.999"),
        (
            &["-p", "1-3:1-2"],
            "invalid ranges specified for container and host Ports: 1-2 and 1-3",
        ),
        (&["-p", "80/icmp"], "invalid proto: icmp"),
        (&["--pid", "x"], "--pid: invalid PID mode"),
        (
            &["--memory-swappiness", "101"],
            "invalid value: 101. Valid memory swappiness range is 0-100",
        ),
        (
            &["--mount", "type=bind,src=/a"],
            "invalid argument \"type=bind,src=/a\" for \"--mount\" flag: target is required",
        ),
        (
            &["--mount", "type=bind,src=/a,dst=/b,tmpfs-size=1"],
            "invalid argument \"type=bind,src=/a,dst=/b,tmpfs-size=1\" for \"--mount\" flag: cannot mix 'tmpfs-*' options with mount type 'bind'",
        ),
        (
            &["--ulimit", "x=1"],
            "invalid argument \"x=1\" for \"--ulimit\" flag: invalid ulimit type: x",
        ),
        (
            &["--env-file", "/nowhere/x"],
            "open /nowhere/x: no such file or directory",
        ),
        (
            &["--log-driver", "none", "--log-opt", "a=b"],
            "invalid logging opts for driver none",
        ),
        (
            &["--pull", "sometimes"],
            "invalid pull option: 'sometimes': must be one of \"always\", \"missing\" or \"never\"",
        ),
        (
            &["--security-opt", "seccomp="],
            "invalid --security-opt: \"seccomp=\"",
        ),
        (
            &["-a", "x"],
            "invalid argument \"x\" for \"-a, --attach\" flag: valid streams are STDIN, STDOUT and STDERR",
        ),
    ] {
        assert_eq!(refused(words), message, "{words:?}");
    }
}

#[test]
fn streams_are_attached_as_docker_attaches_them() {
    let attach = |words: &[&str]| plan(words).attach;
    assert_eq!(
        attach(&[]),
        Attach {
            stdin: false,
            stdout: true,
            stderr: true
        }
    );
    assert_eq!(
        attach(&["-i"]),
        Attach {
            stdin: true,
            stdout: true,
            stderr: true
        }
    );
    assert_eq!(
        attach(&["-a", "stderr"]),
        Attach {
            stdin: false,
            stdout: false,
            stderr: true
        }
    );
    let detached = plan_create(&arguments(&["-i", "image"]), true).unwrap();
    assert!(!detached.attach.any());
}

#[test]
fn environment_files_come_first_and_take_bare_names_from_the_client() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("env");
    std::fs::write(&path, "\u{feff}# comment\n\nA=1\n  B=x y\nHERE\nABSENT\n").unwrap();
    let given = arguments(&[
        "--env-file",
        path.to_str().unwrap(),
        "-e",
        "HERE",
        "-e",
        "GONE",
        "image",
    ]);
    let lookup = |name: &str| (name == "HERE").then(|| "h".to_owned());
    assert_eq!(
        read_variables(&given, &lookup).unwrap(),
        ["A=1", "B=x y", "HERE=h", "HERE=h", "GONE"]
    );
    std::fs::write(&path, "A B=1\n").unwrap();
    assert!(
        read_variables(&given, &lookup)
            .unwrap_err()
            .contains("contains whitespaces")
    );
}

#[test]
fn a_seccomp_profile_is_sent_as_its_content() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("profile.json");
    std::fs::write(&path, "{ \"defaultAction\" : \"SCMP_ACT_ALLOW\" }").unwrap();
    let option = format!("seccomp={}", path.display());
    let sent = plan(&["--security-opt", &option])
        .body
        .at(&["HostConfig", "SecurityOpt"])
        .to_json();
    assert_eq!(sent, r#"["seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}"]"#);
}
