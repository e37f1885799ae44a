//! Bodies and filters that no honest client sends.

use super::create::{HostFacts, container_spec};
use super::exec::exec_spec;
use super::filters::Filters;
use super::update::update_spec;
use crate::request::parse_json;
use naru_docker_wire::types::{CreateRequest, HostConfig};
use naru_engine::spec::ContainerSpec;
use naru_fuzz::{feed, feed_text};

const CREATE: &[u8] = br#"{"Image":"x","Cmd":["a","b"],"Entrypoint":null,"Env":["A=b"],"User":"1:2","WorkingDir":"/w","Tty":true,"Labels":{"a":"b"},"ExposedPorts":{"80/tcp":{},"1-3/udp":{}},"Volumes":{"/v":{}},"StopSignal":"SIGTERM","StopTimeout":5,"Healthcheck":{"Test":["CMD","x"],"Interval":1000000000},"HostConfig":{"Binds":["/a:/b:ro,rshared","v:/c"],"Mounts":[{"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":1,"Mode":511}}],"PortBindings":{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":"8000-8010"}]},"Memory":67108864,"MemorySwap":-1,"NanoCpus":500000000,"CpusetCpus":"0-3,5","PidsLimit":10,"Ulimits":[{"Name":"nofile","Soft":1,"Hard":2}],"Devices":[{"PathOnHost":"/dev/null","PathInContainer":"/x","CgroupPermissions":"rwm"}],"DeviceCgroupRules":["c 1:3 rwm"],"CapAdd":["ALL"],"CapDrop":["NET_RAW"],"SecurityOpt":["seccomp=unconfined","no-new-privileges"],"Sysctls":{"net.ipv4.ip_forward":"1"},"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":3},"NetworkMode":"bridge","IpcMode":"private","PidMode":"host","Tmpfs":{"/x":"size=1m"},"ExtraHosts":["a:1.2.3.4"],"Dns":["1.1.1.1"],"LogConfig":{"Type":"json-file","Config":{"max-size":"1m","max-file":"2"}},"ShmSize":1,"OomScoreAdj":-5,"VolumesFrom":["c:ro"],"BlkioWeight":10,"BlkioDeviceReadBps":[{"Path":"/dev/x","Rate":1}]},"NetworkingConfig":{"EndpointsConfig":{"bridge":{"Aliases":["a"]}}}}"#;

#[test]
fn bodies_of_create() {
    feed(&[CREATE, b"{}"], |bytes| {
        if let Ok(request) = CreateRequest::from_slice(bytes) {
            let _ = container_spec(request, HostFacts { cpus: 4 });
        }
    });
}

#[test]
fn bodies_of_exec_and_update() {
    let examples: &[&[u8]] = &[
        br#"{"Cmd":["a"],"Env":["A=b"],"User":"x","WorkingDir":"/","DetachKeys":"ctrl-a","ConsoleSize":[1,2],"Tty":true}"#,
        br#"{"Memory":67108864,"MemorySwap":-1,"CpuShares":2,"PidsLimit":-1,"RestartPolicy":{"Name":"always"},"CpusetCpus":"0-1"}"#,
    ];
    feed(examples, |bytes| {
        if let Ok(request) = parse_json(bytes) {
            let _ = exec_spec(request);
        }
        if let Ok(wanted) = parse_json::<HostConfig>(bytes) {
            let mut spec = ContainerSpec::default();
            let _ = update_spec(&mut spec, &wanted, HostFacts { cpus: 4 }, &mut Vec::new());
        }
    });
}

#[test]
fn filters() {
    let examples = [
        r#"{"label":["a=b"],"status":["running"]}"#,
        r#"{"label":{"a":true},"until":{"5m":false}}"#,
    ];
    feed_text(&examples, |text| {
        if let Ok(filters) = Filters::parse(Some(text), &["label", "status", "until", "dangling"]) {
            let _ = (
                filters.boolean("dangling"),
                filters.labels_match(&std::collections::BTreeMap::new()),
            );
        }
    });
}
