//! Limits, devices, ulimits and health checks.

use super::gpus::parse_gpus;
use super::{Object, Outcome, texts};
use crate::args::Arguments;
use crate::json::Value;
use crate::units;

pub fn plan_resources(arguments: &Arguments, host: &mut Object) -> Outcome<()> {
    for (flag, key) in [
        ("memory", "Memory"),
        ("memory-reservation", "MemoryReservation"),
        ("memory-swap", "MemorySwap"),
        ("kernel-memory", "KernelMemory"),
        ("shm-size", "ShmSize"),
        ("io-maxbandwidth", "IOMaximumBandwidth"),
    ] {
        host.set_some(key, arguments.bytes(flag));
    }
    for (flag, key) in [
        ("cpu-shares", "CpuShares"),
        ("cpu-period", "CpuPeriod"),
        ("cpu-quota", "CpuQuota"),
        ("cpu-rt-period", "CpuRealtimePeriod"),
        ("cpu-rt-runtime", "CpuRealtimeRuntime"),
        ("cpu-count", "CpuCount"),
        ("cpu-percent", "CpuPercent"),
        ("io-maxiops", "IOMaximumIOps"),
        ("blkio-weight", "BlkioWeight"),
        ("oom-score-adj", "OomScoreAdj"),
        ("pids-limit", "PidsLimit"),
    ] {
        host.set_some(key, arguments.int(flag));
    }
    if let Some(swappiness) = arguments.int("memory-swappiness") {
        if swappiness != -1 && !(0..=100).contains(&swappiness) {
            return Err(format!(
                "invalid value: {swappiness}. Valid memory swappiness range is 0-100"
            ));
        }
        host.set("MemorySwappiness", swappiness);
    }
    host.set_some(
        "NanoCpus",
        arguments.text("cpus").map(units::parse_nano_cpus).transpose()?,
    );
    host.set_some("CpusetCpus", arguments.text("cpuset-cpus"));
    host.set_some("CpusetMems", arguments.text("cpuset-mems"));
    host.set_true("OomKillDisable", arguments.is_set("oom-kill-disable"));
    plan_devices(arguments, host)?;
    plan_throttles(arguments, host)?;
    let ulimits = ulimits(arguments)?;
    if !ulimits.is_empty() {
        host.set("Ulimits", ulimits);
    }
    Ok(())
}

/// The values of `--ulimit`.
pub fn ulimits(arguments: &Arguments) -> Outcome<Vec<Value>> {
    arguments.list("ulimit").map(parse_ulimit).collect()
}

fn plan_devices(arguments: &Arguments, host: &mut Object) -> Outcome<()> {
    let mut devices = Vec::new();
    let mut requests = Vec::new();
    for text in arguments.list("device") {
        // vendor.com/class=name is a CDI device.
        if !text.starts_with('/') && text.contains('=') {
            let request = [
                ("Driver", Value::from("cdi")),
                ("DeviceIDs", Value::from(vec![text.to_owned()])),
            ];
            requests.push(Value::object(request));
        } else {
            devices.push(parse_device(text)?);
        }
    }
    for text in arguments.list("gpus") {
        requests.push(parse_gpus(text)?);
    }
    if !devices.is_empty() {
        host.set("Devices", devices);
    }
    if !requests.is_empty() {
        host.set("DeviceRequests", requests);
    }
    let rules = texts(arguments, "device-cgroup-rule");
    if let Some(bad) = rules.iter().find(|rule| !is_device_rule(rule)) {
        return Err(format!(
            "invalid argument {bad:?} for \"--device-cgroup-rule\" flag: invalid device cgroup format '{bad}'"
        ));
    }
    host.set_list("DeviceCgroupRules", rules);
    Ok(())
}

fn is_device_mode(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| b"rwm".contains(&byte))
        && text
            .bytes()
            .all(|byte| text.bytes().filter(|other| *other == byte).count() == 1)
}

/// `c 1:3 rwm`, numbers may be `*`.
fn is_device_rule(text: &str) -> bool {
    let parts: Vec<&str> = text.split(' ').collect();
    let is_number =
        |part: &str| part == "*" || (!part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    let [kind, numbers, mode] = parts[..] else {
        return false;
    };
    let numbers = numbers
        .split_once(':')
        .is_some_and(|(major, minor)| is_number(major) && is_number(minor));
    ["a", "b", "c"].contains(&kind) && numbers && is_device_mode(mode)
}

fn parse_device(text: &str) -> Outcome<Value> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts[..] {
        [source] => (source, source, "rwm"),
        [source, mode] if is_device_mode(mode) => (source, source, mode),
        [source, target] => (source, target, "rwm"),
        [source, target, mode] if is_device_mode(mode) => (source, target, mode),
        _ => {
            return Err(format!(
                "invalid argument {text:?} for \"--device\" flag: bad mode specified: {}",
                parts[parts.len() - 1]
            ));
        }
    };
    Ok(Value::object([
        ("PathOnHost", Value::from(source)),
        ("PathInContainer", Value::from(target)),
        ("CgroupPermissions", Value::from(mode)),
    ]))
}

fn plan_throttles(arguments: &Arguments, host: &mut Object) -> Outcome<()> {
    for (flag, key, in_bytes) in [
        ("device-read-bps", "BlkioDeviceReadBps", true),
        ("device-write-bps", "BlkioDeviceWriteBps", true),
        ("device-read-iops", "BlkioDeviceReadIOps", false),
        ("device-write-iops", "BlkioDeviceWriteIOps", false),
    ] {
        let throttles = arguments
            .list(flag)
            .map(|text| parse_throttle(flag, text, in_bytes))
            .collect::<Outcome<Vec<_>>>()?;
        if !throttles.is_empty() {
            host.set(key, throttles);
        }
    }
    let weights = arguments
        .list("blkio-weight-device")
        .map(parse_weight)
        .collect::<Outcome<Vec<_>>>()?;
    if !weights.is_empty() {
        host.set("BlkioWeightDevice", weights);
    }
    Ok(())
}

fn split_device(flag: &str, text: &str) -> Outcome<(String, String)> {
    let bad = |reason: &str| format!("invalid argument {text:?} for \"--{flag}\" flag: {reason}");
    let (path, number) = text
        .split_once(':')
        .ok_or_else(|| bad(&format!("bad format: {text}")))?;
    if !path.starts_with("/dev/") {
        return Err(bad(&format!("bad format for device path: {text}")));
    }
    Ok((path.to_owned(), number.to_owned()))
}

fn parse_throttle(flag: &str, text: &str, in_bytes: bool) -> Outcome<Value> {
    let (path, number) = split_device(flag, text)?;
    let rate = if in_bytes {
        units::parse_ram_bytes(&number).ok()
    } else {
        number.parse().ok()
    };
    let rate = rate.filter(|rate| *rate >= 0).ok_or_else(|| {
        let shape = if in_bytes { "<device-path>:<number>[<unit>]" } else { "<device-path>:<number>" };
        format!("invalid argument {text:?} for \"--{flag}\" flag: invalid rate for device: {text}. The correct format is {shape}. Number must be a positive integer")
    })?;
    Ok(Value::object([
        ("Path", Value::from(path)),
        ("Rate", Value::Integer(rate)),
    ]))
}

fn parse_weight(text: &str) -> Outcome<Value> {
    let flag = "blkio-weight-device";
    let (path, number) = split_device(flag, text)?;
    let weight: i64 = number
        .parse()
        .ok()
        .filter(|weight| *weight == 0 || (10..=1000).contains(weight))
        .ok_or_else(|| {
            format!("invalid argument {text:?} for \"--{flag}\" flag: invalid weight for device: {text}")
        })?;
    Ok(Value::object([
        ("Path", Value::from(path)),
        ("Weight", Value::Integer(weight)),
    ]))
}

/// `name=soft[:hard]`; `-1` is unlimited.
fn parse_ulimit(text: &str) -> Outcome<Value> {
    const NAMES: [&str; 16] = [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let bad = |reason: String| format!("invalid argument {text:?} for \"--ulimit\" flag: {reason}");
    let (name, limits) = text
        .split_once('=')
        .ok_or_else(|| bad(format!("invalid ulimit argument: {text}")))?;
    if !NAMES.contains(&name) {
        return Err(bad(format!("invalid ulimit type: {name}")));
    }
    let (soft_text, hard_text) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |part: &str| {
        part.parse::<i64>()
            .map_err(|_| bad(format!("strconv.ParseInt: parsing {part:?}: invalid syntax")))
    };
    let (soft, hard) = (number(soft_text)?, number(hard_text)?);
    if hard != -1 && (soft > hard || soft == -1) {
        return Err(bad(format!(
            "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        )));
    }
    Ok(Value::object([
        ("Name", Value::from(name)),
        ("Hard", Value::Integer(hard)),
        ("Soft", Value::Integer(soft)),
    ]))
}

pub fn plan_healthcheck(arguments: &Arguments) -> Outcome<Option<Value>> {
    const FLAGS: [&str; 6] = [
        "health-cmd",
        "health-interval",
        "health-timeout",
        "health-retries",
        "health-start-period",
        "health-start-interval",
    ];
    let has_any = FLAGS.iter().any(|flag| arguments.is_given(flag));
    if arguments.is_set("no-healthcheck") {
        if has_any {
            return Err("--no-healthcheck conflicts with --health-* options".to_owned());
        }
        return Ok(Some(Value::object([(
            "Test",
            Value::from(vec!["NONE".to_owned()]),
        )])));
    }
    if !has_any {
        return Ok(None);
    }
    let mut check = Object::default();
    if let Some(command) = arguments.text("health-cmd") {
        check.set("Test", vec!["CMD-SHELL".to_owned(), command.to_owned()]);
    }
    for (flag, key) in [
        ("health-interval", "Interval"),
        ("health-timeout", "Timeout"),
        ("health-start-period", "StartPeriod"),
        ("health-start-interval", "StartInterval"),
    ] {
        let value = arguments.duration(flag);
        if value.is_some_and(|value| value < 0) {
            return Err(format!("--{flag} cannot be negative"));
        }
        check.set_some(key, value);
    }
    if arguments.int("health-retries").is_some_and(|count| count < 0) {
        return Err("--health-retries cannot be negative".to_owned());
    }
    check.set_some("Retries", arguments.int("health-retries"));
    Ok(Some(Value::Map(check.0)))
}
