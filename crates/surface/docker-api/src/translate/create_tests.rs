//! What a create request becomes, and what is refused.

use super::*;
use naru_engine::spec::AttachmentSpec;
use naru_engine::spec::{MountSource, NamespaceMode, SeccompSpec};

const HOST: HostFacts = HostFacts { cpus: 2 };

fn translate(json: &str) -> ApiResult<(ContainerSpec, Vec<String>)> {
    container_spec(CreateRequest::from_slice(json.as_bytes()).unwrap(), HOST)
}

fn host(fields: &str) -> ApiResult<(ContainerSpec, Vec<String>)> {
    translate(&format!(r#"{{"Image":"x","HostConfig":{{{fields}}}}}"#))
}

fn refusal(fields: &str) -> String {
    host(fields).unwrap_err().message
}

/// What Docker's client 20.10 sends for `docker create busybox`, nulls and all.
#[test]
fn a_plain_request_of_dockers_client_means_defaults() {
    let (spec, warnings) = translate(
        r#"{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":true,"AttachStderr":true,
        "Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":[],"Cmd":null,"Image":"busybox","Volumes":{},
        "WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":{},"HostConfig":{"Binds":null,"ContainerIDFile":"",
        "LogConfig":{"Type":"","Config":{}},"NetworkMode":"default","PortBindings":{},"RestartPolicy":{"Name":"no",
        "MaximumRetryCount":0},"AutoRemove":false,"VolumeDriver":"","VolumesFrom":null,"CapAdd":null,"CapDrop":null,
        "CgroupnsMode":"","Dns":[],"DnsOptions":[],"DnsSearch":[],"ExtraHosts":null,"GroupAdd":null,"IpcMode":"",
        "Cgroup":"","Links":null,"OomScoreAdj":0,"PidMode":"","Privileged":false,"PublishAllPorts":false,
        "ReadonlyRootfs":false,"SecurityOpt":null,"UTSMode":"","UsernsMode":"","ShmSize":0,"ConsoleSize":[0,0],
        "Isolation":"","CpuShares":0,"Memory":0,"NanoCpus":0,"CgroupParent":"","BlkioWeight":0,
        "BlkioWeightDevice":[],"BlkioDeviceReadBps":null,"BlkioDeviceWriteBps":null,"BlkioDeviceReadIOps":null,
        "BlkioDeviceWriteIOps":null,"CpuPeriod":0,"CpuQuota":0,"CpuRealtimePeriod":0,"CpuRealtimeRuntime":0,
        "CpusetCpus":"","CpusetMems":"","Devices":[],"DeviceCgroupRules":null,"DeviceRequests":null,"KernelMemory":0,
        "KernelMemoryTCP":0,"MemoryReservation":0,"MemorySwap":0,"MemorySwappiness":-1,"OomKillDisable":false,
        "PidsLimit":0,"Ulimits":null,"CpuCount":0,"CpuPercent":0,"IOMaximumIOps":0,"IOMaximumBandwidth":0,
        "MaskedPaths":null,"ReadonlyPaths":null},"NetworkingConfig":{"EndpointsConfig":{}}}"#,
    )
    .unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    let wanted = ContainerSpec {
        image: "busybox".to_owned(),
        attach_stdout: true,
        attach_stderr: true,
        attachments: vec![AttachmentSpec {
            network: "bridge".to_owned(),
            ..AttachmentSpec::default()
        }],
        origin: spec.origin.clone(),
        ..ContainerSpec::default()
    };
    let json = |spec: &ContainerSpec| serde_json::to_value(spec).unwrap();
    assert_eq!(json(&spec), json(&wanted));
    assert_eq!(spec.origin.config["Image"], "busybox");
}

#[test]
fn flags_of_run_arrive() {
    let (spec, _) = translate(
        r#"{"Image":"x","Cmd":"true","Entrypoint":[""],"Env":["A=b","C"],"User":"1:2","Tty":true,
        "ExposedPorts":{"80/tcp":{},"53/udp":null},"StopTimeout":3,"HostConfig":{"Memory":104857600,"NanoCpus":1500000000,
        "Binds":["/a:/b:ro"],"Tmpfs":{"/run":"size=1m"},"Mounts":[{"Type":"volume","Source":"data","Target":"/d"}],
        "PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"8080"}]},"NetworkMode":"bridge","IpcMode":"host",
        "RestartPolicy":{"Name":"on-failure","MaximumRetryCount":3},"Init":true,"CapAdd":["net_admin","CAP_SYS_TIME"],
        "SecurityOpt":["no-new-privileges","seccomp=unconfined"],"Ulimits":[{"Name":"nofile","Soft":1,"Hard":2}],
        "ReadonlyRootfs":true,"ShmSize":1048576,"Sysctls":{"net.ipv4.ip_forward":"1"},"PidsLimit":10}}"#,
    )
    .unwrap();
    assert_eq!(spec.command, Some(vec!["true".to_owned()]));
    assert_eq!(spec.entrypoint, Some(Vec::new()));
    assert_eq!(spec.resources.memory_bytes, Some(104_857_600));
    assert_eq!(spec.resources.nano_cpus, Some(1_500_000_000));
    assert_eq!(spec.resources.pids_max, Some(10));
    assert_eq!(spec.exposed_ports.len(), 2);
    assert_eq!(spec.ports.len(), 1);
    assert_eq!(spec.mounts.len(), 3);
    assert!(matches!(
        spec.mounts[0].source,
        MountSource::Bind {
            create_missing: true,
            ..
        }
    ));
    assert_eq!(spec.ipc_mode, NamespaceMode::Host);
    assert_eq!(spec.restart, RestartPolicy::OnFailure { retries_max: Some(3) });
    assert_eq!(spec.capabilities_add, ["CAP_NET_ADMIN", "CAP_SYS_TIME"]);
    assert_eq!(spec.seccomp, SeccompSpec::Unconfined);
    assert!(spec.no_new_privileges && spec.read_only_rootfs && spec.with_init == Some(true));
}

#[test]
fn impossible_limits_are_refused_in_dockers_words() {
    let cases = [
        (r#""Memory":1024"#, "Minimum memory limit allowed is 6MB"),
        (
            r#""Memory":104857600,"MemorySwap":52428800"#,
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ),
        (
            r#""MemorySwap":52428800"#,
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ),
        (
            r#""MemorySwappiness":101"#,
            "Invalid value: 101, valid memory swappiness range is 0-100",
        ),
        (
            r#""NanoCpus":3000000000"#,
            "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
        ),
        (
            r#""NanoCpus":1000000000,"CpuQuota":5000"#,
            "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
        ),
        (
            r#""CpuQuota":10"#,
            "CPU cfs quota can not be less than 1ms (i.e. 1000)",
        ),
        (
            r#""CpusetCpus":"0-5""#,
            "Requested CPUs are not available - requested 0-5, available: 0-1",
        ),
        (r#""CpusetCpus":"x""#, "Invalid value x for cpuset cpus"),
        (r#""BlkioWeight":5"#, "Range of blkio weight is from 10 to 1000"),
        (r#""ShmSize":-1"#, "SHM size can not be less than 0"),
        (
            r#""OomScoreAdj":2000"#,
            "Invalid value 2000, range for oom score adj is [-1000, 1000]",
        ),
        (
            r#""RestartPolicy":{"Name":"sometimes"}"#,
            "invalid restart policy 'sometimes'",
        ),
        (
            r#""AutoRemove":true,"RestartPolicy":{"Name":"always"}"#,
            "can't create 'AutoRemove' container with restart policy",
        ),
        (
            r#""Ulimits":[{"Name":"nonsense"}]"#,
            "invalid ulimit type: nonsense",
        ),
        (
            r#""CapAdd":["fly"]"#,
            "invalid CapAdd: unknown capability: \"CAP_FLY\"",
        ),
        (
            r#""LogConfig":{"Type":"splunk"}"#,
            "logger: no log driver named 'splunk' is registered",
        ),
        (
            r#""SecurityOpt":["nonsense"]"#,
            "invalid --security-opt 2: \"nonsense\"",
        ),
        (
            r#""Sysctls":{"kernel.core_pattern":"|/x"}"#,
            "sysctl 'kernel.core_pattern' is not whitelisted",
        ),
        (
            r#""Sysctls":{"net.a":"1"},"NetworkMode":"host""#,
            "sysctl 'net.a' not allowed in host network namespace",
        ),
        (r#""PidMode":"nonsense""#, "Invalid PID mode: nonsense"),
        (
            r#""NetworkMode":"container:a","PortBindings":{"80/tcp":[{"HostPort":"1"}]}"#,
            "conflicting options: port publishing and the container type network mode",
        ),
    ];
    for (fields, message) in cases {
        assert_eq!(refusal(fields), message);
    }
}

#[test]
fn sysctl_names_cannot_leave_their_directory() {
    for name in [
        "net/../kernel/core_pattern",
        "net.../x",
        "net./etc",
        "fs.mqueue.\\u0000",
    ] {
        let fields = format!(r#""Sysctls":{{"{name}":"1"}}"#);
        assert!(refusal(&fields).contains("is not whitelisted"), "{name}");
    }
}

#[test]
fn nothing_is_silently_ignored() {
    let refused = [
        r#""VolumesFrom":["a:nonsense"]"#,
        r#""Cgroup":"x""#,
        r#""CpuRealtimePeriod":100,"CpuRealtimeRuntime":101"#,
        r#""CpuRealtimeRuntime":-1"#,
        r#""BlkioWeightDevice":[{"Path":"/dev/sda","Weight":9}]"#,
        r#""StorageOpt":{"size":"1G"}"#,
        r#""DeviceRequests":[{"Driver":"nvidia"}]"#,
        r#""CpuPercent":5"#,
        r#""Isolation":"hyperv""#,
        r#""Runtime":"kata""#,
        r#""UsernsMode":"private""#,
        r#""VolumeDriver":"nfs""#,
        r#""SecurityOpt":["apparmor=docker-default"]"#,
    ];
    for fields in refused {
        let error = host(fields).unwrap_err();
        assert!(
            error.status.is_client_error() || error.status.as_u16() == 501,
            "{fields}"
        );
    }
    let (_, warnings) = host(r#""KernelMemory":10000000"#).unwrap();
    assert_eq!(warnings.len(), 1);
    let (_, warnings) = host(r#""NetworkMode":"host","PortBindings":{"80/tcp":[{"HostPort":"1"}]}"#).unwrap();
    assert_eq!(
        warnings,
        ["Published ports are discarded when using host network mode"]
    );
}

#[test]
fn bad_config_is_refused() {
    let message = |json: &str| translate(json).unwrap_err().message;
    assert!(message(r#"{"Image":"x","Env":["=a"]}"#).starts_with("invalid environment variable"));
    assert!(message(r#"{"Image":"x","WorkingDir":"a"}"#).contains("needs to be an absolute path"));
    assert!(message(r#"{"Image":"x","Hostname":"a b"}"#).starts_with("invalid hostname format"));
    assert!(message(r#"{"Image":"x","MacAddress":"zz"}"#).starts_with("invalid MAC address"));
    assert!(message(r#"{"Image":"x","Healthcheck":{"Interval":5}}"#).contains("cannot be less than 1ms"));
}

#[test]
fn wrong_types_are_errors_and_not_panics() {
    for json in [
        "",
        "[]",
        "{",
        "null",
        r#"{"Memory":"x","HostConfig":{"Memory":"1g"}}"#,
        r#"{"Env":{}}"#,
    ] {
        let parsed = CreateRequest::from_slice(json.as_bytes());
        assert!(parsed.is_err() || json == "null" || json == "[]", "{json}");
    }
}
