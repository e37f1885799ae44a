//! What a process is besides what it may do: scheduler, I/O priority, personality, security label; and the refusal of
//! everything in a specification that this runtime does not do. Nothing is passed over in silence.

use crate::failure::{invalid, system};
use crate::parked::FileSystem;
use crate::plan::StartFailure;
use naru_sys::scheduling::{self, SchedulerAttributes};
use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxPersonality, LinuxPersonalityDomain, LinuxSchedulerFlag as Flag,
    LinuxSchedulerPolicy as Policy, Process, Scheduler, Spec,
};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use std::io::Write;
use std::os::fd::OwnedFd;

/// `linux/personality.h`.
const PERSONALITY_LINUX: u64 = 0;
const PERSONALITY_LINUX32: u64 = 8;

/// Refuses, by name, what a specification asks for and this runtime does not do.
pub(crate) fn check_supported(spec: &Spec, linux: &Linux) -> Result<(), StartFailure> {
    let wanted = [
        ("hooks", spec.hooks().is_some()),
        ("vm", spec.vm().is_some()),
        ("windows", spec.windows().is_some()),
        ("solaris", spec.solaris().is_some()),
        ("zos", spec.zos().is_some()),
        ("linux.intelRdt", linux.intel_rdt().is_some()),
        ("linux.memoryPolicy", linux.memory_policy().is_some()),
        (
            "linux.netDevices",
            linux
                .net_devices()
                .as_ref()
                .is_some_and(|devices| !devices.is_empty()),
        ),
        (
            "linux.mountLabel",
            linux
                .mount_label()
                .as_ref()
                .is_some_and(|label| !label.is_empty()),
        ),
    ];
    match wanted.iter().find(|(_, is_wanted)| *is_wanted) {
        None => Ok(()),
        Some((name, _)) => Err(unsupported(name)),
    }
}

fn unsupported(name: &str) -> StartFailure {
    invalid("plan", format!("{name} is not supported; leave it out"))
}

/// Sets what `execve` keeps and no capability of the program's own could: while the process has them all.
pub(crate) fn apply(process: &Process) -> Result<(), StartFailure> {
    if let Some(scheduler) = process.scheduler() {
        scheduling::set_scheduler(scheduler_attributes(scheduler)?).map_err(system(
            "scheduler",
            format_args!("set it to {}", policy_name(scheduler)),
        ))?;
    }
    if let Some(priority) = process.io_priority() {
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let level = u16::try_from(priority.priority())
            .ok()
            .filter(|level| *level < 8)
            .ok_or_else(|| {
                invalid(
                    "ioPriority",
                    format!("the priority {} is not one of 0 to 7", priority.priority()),
                )
            })?;
        scheduling::set_io_priority(class, level).map_err(system(
            "ioPriority",
            format_args!("set it to {:?}", priority.class()),
        ))?;
    }
    if process.exec_cpu_affinity().is_some() {
        return Err(unsupported("process.execCPUAffinity"));
    }
    set_label(process)
}

/// The first process's; those it makes inherit it.
pub(crate) fn set_personality(linux: &Linux) -> Result<(), StartFailure> {
    let Some(personality) = linux.personality() else {
        return Ok(());
    };
    scheduling::set_personality(personality_value(personality)?).map_err(system(
        "personality",
        format_args!("set it to {}", personality.domain()),
    ))
}

fn personality_value(personality: &LinuxPersonality) -> Result<u64, StartFailure> {
    if let Some(flag) = personality.flags().iter().flatten().next() {
        return Err(invalid("personality", format!("there is no flag {flag:?}")));
    }
    Ok(match personality.domain() {
        LinuxPersonalityDomain::PerLinux => PERSONALITY_LINUX,
        LinuxPersonalityDomain::PerLinux32 => PERSONALITY_LINUX32,
    })
}

fn policy_name(scheduler: &Scheduler) -> String {
    format!("{:?}", scheduler.policy())
}

/// In the kernel's numbers (`linux/sched.h`).
fn scheduler_attributes(scheduler: &Scheduler) -> Result<SchedulerAttributes, StartFailure> {
    let policy = match scheduler.policy() {
        Policy::SchedOther => 0,
        Policy::SchedFifo => 1,
        Policy::SchedRr => 2,
        Policy::SchedBatch => 3,
        Policy::SchedIso => return Err(invalid("scheduler", "the kernel has no policy SCHED_ISO")),
        Policy::SchedIdle => 5,
        Policy::SchedDeadline => 6,
    };
    let flags = scheduler.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                Flag::SchedResetOnFork => 0x01,
                Flag::SchedFlagReclaim => 0x02,
                Flag::SchedFlagDLOverrun => 0x04,
                Flag::SchedFlagKeepPolicy => 0x08,
                Flag::SchedFlagKeepParams => 0x10,
                Flag::SchedFlagUtilClampMin => 0x20,
                Flag::SchedFlagUtilClampMax => 0x40,
            }
    });
    let priority = scheduler.priority().unwrap_or_default();
    Ok(SchedulerAttributes {
        policy,
        flags,
        nice: scheduler.nice().unwrap_or_default(),
        priority: u32::try_from(priority)
            .map_err(|_| invalid("scheduler", format!("the priority {priority} is negative")))?,
        runtime: scheduler.runtime().unwrap_or_default(),
        deadline: scheduler.deadline().unwrap_or_default(),
        period: scheduler.period().unwrap_or_default(),
        ..SchedulerAttributes::default()
    })
}

/// Asks for an AppArmor profile or an SELinux label from `execve` on. A kernel without that module refuses, and so
/// does this.
fn set_label(process: &Process) -> Result<(), StartFailure> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if let Some(profile) = given(process.apparmor_profile()) {
        write_attribute("attr/apparmor/exec", &format!("exec {profile}")).map_err(|error| {
            let why = match error.kind() {
                std::io::ErrorKind::NotFound => "AppArmor is not enabled on this kernel".to_owned(),
                _ => format!("{} (is the profile loaded?)", crate::failure::reason(&error)),
            };
            invalid(
                "apparmor",
                format!("apply the AppArmor profile {profile:?}: {why}"),
            )
        })?;
    }
    if let Some(label) = given(process.selinux_label()) {
        write_attribute("attr/exec", &label).map_err(|error| {
            let why = match error.raw_os_error() {
                Some(libc::EINVAL) => {
                    "SELinux is not enabled on this kernel, or knows no such label".to_owned()
                }
                _ => crate::failure::reason(&error),
            };
            invalid("selinux", format!("apply the SELinux label {label:?}: {why}"))
        })?;
    }
    Ok(())
}

/// Through a procfs made here: at /proc the image may have put anything (CVE-2019-16884).
fn write_attribute(name: &str, value: &str) -> std::io::Result<()> {
    let wish = FileSystem {
        kind: "proc".to_owned(),
        source: "proc".to_owned(),
        attributes: 0,
        data: Vec::new(),
    };
    let proc: OwnedFd = wish
        .mount()
        .map_err(|failure| std::io::Error::other(failure.message))?;
    let path = format!("{}/{name}", rustix::process::getpid().as_raw_pid());
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat2(&proc, path, flags, Mode::empty(), resolve)?;
    std::fs::File::from(file).write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheduler_is_said_in_the_kernels_numbers() {
        let json = r#"{"policy":"SCHED_BATCH","nice":5,"flags":["SCHED_RESET_ON_FORK"]}"#;
        let attributes = scheduler_attributes(&serde_json::from_str(json).unwrap()).unwrap();
        assert_eq!((attributes.policy, attributes.nice, attributes.flags), (3, 5, 1));
        for json in [
            r#"{"policy":"SCHED_ISO"}"#,
            r#"{"policy":"SCHED_FIFO","priority":-1}"#,
        ] {
            assert!(scheduler_attributes(&serde_json::from_str(json).unwrap()).is_err());
        }
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        let refused = |json: &str| {
            let spec: Spec = serde_json::from_str(json).unwrap();
            let linux = spec.linux().clone().unwrap_or_default();
            check_supported(&spec, &linux).unwrap_err().message
        };
        for (json, name) in [
            (r#"{"ociVersion":"1.2.0","hooks":{},"linux":{}}"#, "hooks"),
            (
                r#"{"ociVersion":"1.2.0","linux":{"mountLabel":"x"}}"#,
                "linux.mountLabel",
            ),
            (
                r#"{"ociVersion":"1.2.0","linux":{"intelRdt":{"closID":"a"}}}"#,
                "linux.intelRdt",
            ),
        ] {
            assert!(refused(json).starts_with(name), "{json}");
        }
    }
}
