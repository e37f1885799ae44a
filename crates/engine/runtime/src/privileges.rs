//! Resource limits, capabilities, user and seccomp filter of the calling process.

use crate::failure::{invalid, system};
use crate::plan::{SeccompPlan, StartFailure};
use crate::seccomp::{self, Described, Filter};
use crate::users::User;
use oci_spec::runtime::{Capabilities, Capability, PosixRlimit, PosixRlimitType, Process};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, set_capabilities, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};
use std::collections::HashSet;
use std::sync::Arc;

/// What a process may do, worked out before it starts giving up what it has.
pub(crate) struct Privileges {
    bounding: CapabilitySet,
    effective: CapabilitySet,
    permitted: CapabilitySet,
    ambient: CapabilitySet,
    /// `no_new_privs`.
    forbids_new: bool,
    filter: Option<Arc<Filter>>,
}

impl Privileges {
    pub(crate) fn of(process: &Process, seccomp: &SeccompPlan) -> Result<Self, StartFailure> {
        let sets = process.capabilities().clone().unwrap_or_default();
        let set =
            |wanted: &Option<Capabilities>| wanted.as_ref().map_or(CapabilitySet::empty(), capability_set);
        // CAP_MAX of this kernel: asking for a later one would be refused.
        let known = known_capabilities();
        let bounding = set(sets.bounding()) & known;
        let permitted = set(sets.permitted()) & known;
        Ok(Self {
            bounding,
            permitted,
            effective: set(sets.effective()) & permitted,
            ambient: set(sets.ambient()) & permitted & set(sets.inheritable()),
            forbids_new: process.no_new_privileges().unwrap_or(false),
            filter: seccomp::filter_for(seccomp, sets.bounding().as_ref())?,
        })
    }

    /// Drops everything not granted and becomes `user`. Only `execve` may follow.
    pub(crate) fn apply(&self, user: &User, agent: Option<Described>) -> Result<(), StartFailure> {
        let failed = |what| system("privileges", what);
        for capability in (known_capabilities() - self.bounding).iter() {
            rustix::thread::remove_capability_from_bounding_set(capability)
                .map_err(failed("drop a bounding capability"))?;
        }
        let _ = rustix::thread::clear_ambient_capability_set();
        // Otherwise leaving user 0 would drop all capabilities, and the filter below needs one.
        rustix::thread::set_keep_capabilities(true).map_err(failed("keep capabilities"))?;
        let groups: Vec<_> = user
            .groups
            .iter()
            .map(|&gid| rustix::fs::Gid::from_raw(gid))
            .collect();
        set_thread_groups(&groups).map_err(unmapped("set the supplementary groups", "group"))?;
        let gid = rustix::fs::Gid::from_raw(user.gid);
        set_thread_res_gid(gid, gid, gid).map_err(unmapped("set the group", "group"))?;
        let uid = rustix::fs::Uid::from_raw(user.uid);
        set_thread_res_uid(uid, uid, uid).map_err(unmapped("set the user", "user"))?;
        rustix::thread::set_keep_capabilities(false).map_err(failed("keep capabilities"))?;
        if self.forbids_new {
            rustix::thread::set_no_new_privs(true).map_err(failed("set no_new_privs"))?;
        }
        // The keeper's death is no longer this process's. Changing the user cleared it or not; certain is better.
        rustix::process::set_parent_process_death_signal(None::<Signal>)
            .map_err(failed("detach from the keeper"))?;
        if let Some(filter) = &self.filter {
            install(filter, agent)?;
        }
        self.set_final_capabilities(user)
    }

    fn set_final_capabilities(&self, user: &User) -> Result<(), StartFailure> {
        let failed = |what| system("capabilities", what);
        // Inheritable stays empty (CVE-2022-29162) but for what ambient needs.
        let is_root = user.uid == 0;
        let kept = if is_root { self.permitted } else { self.ambient };
        let sets = CapabilitySets {
            effective: if is_root {
                self.effective
            } else {
                self.effective & kept
            },
            permitted: kept,
            inheritable: self.ambient,
        };
        set_capabilities(None, sets).map_err(failed("set them"))?;
        for capability in self.ambient.iter() {
            rustix::thread::configure_capability_in_ambient_set(capability, true)
                .map_err(failed("raise an ambient one"))?;
        }
        Ok(())
    }
}

/// The kernel takes no id that the user namespace does not have.
fn unmapped(what: &'static str, kind: &'static str) -> impl FnOnce(Errno) -> StartFailure {
    move |error| match error {
        Errno::INVAL => invalid(
            "user",
            format!("cannot change to a {kind} that is unmapped in the container's user namespace"),
        ),
        other => system("privileges", what)(other),
    }
}

/// While CAP_SYS_ADMIN is still held, so that no_new_privs is not needed; of later calls the filter must allow
/// only capset, prctl and execve.
fn install(filter: &Filter, agent: Option<Described>) -> Result<(), StartFailure> {
    let mut held = rustix::thread::capabilities(None).map_err(system("seccomp", "read capabilities"))?;
    held.effective = held.permitted;
    set_capabilities(None, held).map_err(system("seccomp", "raise capabilities"))?;
    let what = "install the filter";
    match agent.filter(|_| filter.notifies()) {
        None if filter.notifies() => Err(system("seccomp", what)("no agent decides its calls")),
        None => filter.install().map_err(system("seccomp", what)),
        Some(agent) => agent.send(&filter.install_listener().map_err(system("seccomp", what))?),
    }
}

/// Every capability that the running kernel knows: what is in the bounding set of its first process, and with
/// certainty what this process itself could hold.
fn known_capabilities() -> CapabilitySet {
    static KNOWN: std::sync::OnceLock<CapabilitySet> = std::sync::OnceLock::new();
    *KNOWN.get_or_init(|| {
        (0..63)
            .map(|number| CapabilitySet::from_bits_retain(1 << number))
            .take_while(|&capability| rustix::thread::capability_is_in_bounding_set(capability).is_ok())
            .filter(|&capability| rustix::thread::capability_is_in_bounding_set(capability) == Ok(true))
            .fold(CapabilitySet::empty(), |all, one| all | one)
    })
}

/// The capabilities a container could be given at most.
pub(crate) fn grantable_capabilities() -> HashSet<Capability> {
    let known = known_capabilities();
    CAPABILITIES
        .iter()
        .copied()
        .filter(|capability| known.contains(bit(*capability)))
        .collect()
}

/// Called once before forking, so that forks inherit the answer.
pub(crate) fn warm_up() {
    known_capabilities();
}

fn capability_set(wanted: &Capabilities) -> CapabilitySet {
    wanted
        .iter()
        .fold(CapabilitySet::empty(), |set, capability| set | bit(*capability))
}

fn bit(capability: Capability) -> CapabilitySet {
    let number = CAPABILITIES
        .iter()
        .position(|&known| known == capability)
        .unwrap_or(63);
    CapabilitySet::from_bits_retain(1 << number)
}

/// In the order of `linux/capability.h`: the position is the number.
const CAPABILITIES: [Capability; 41] = {
    use Capability as C;
    [
        C::Chown,
        C::DacOverride,
        C::DacReadSearch,
        C::Fowner,
        C::Fsetid,
        C::Kill,
        C::Setgid,
        C::Setuid,
        C::Setpcap,
        C::LinuxImmutable,
        C::NetBindService,
        C::NetBroadcast,
        C::NetAdmin,
        C::NetRaw,
        C::IpcLock,
        C::IpcOwner,
        C::SysModule,
        C::SysRawio,
        C::SysChroot,
        C::SysPtrace,
        C::SysPacct,
        C::SysAdmin,
        C::SysBoot,
        C::SysNice,
        C::SysResource,
        C::SysTime,
        C::SysTtyConfig,
        C::Mknod,
        C::Lease,
        C::AuditWrite,
        C::AuditControl,
        C::Setfcap,
        C::MacOverride,
        C::MacAdmin,
        C::Syslog,
        C::WakeAlarm,
        C::BlockSuspend,
        C::AuditRead,
        C::Perfmon,
        C::Bpf,
        C::CheckpointRestore,
    ]
};

/// Raising a hard limit needs CAP_SYS_RESOURCE, which the engine itself may lack: then as much as there is.
pub(crate) fn set_limits(process: &Process) -> Result<(), StartFailure> {
    let limits = process.rlimits().iter().flatten();
    limits
        .filter(|limit| limit.typ() != PosixRlimitType::RlimitNofile)
        .try_for_each(set_limit)
}

/// The rest of [`set_limits`]: a process at this one can open nothing more.
pub(crate) fn limit_open_files(process: &Process) -> Result<(), StartFailure> {
    let limits = process.rlimits().iter().flatten();
    limits
        .filter(|limit| limit.typ() == PosixRlimitType::RlimitNofile)
        .try_for_each(set_limit)
}

fn set_limit(limit: &PosixRlimit) -> Result<(), StartFailure> {
    let resource = resource(limit.typ());
    let value = |number: u64| if number == u64::MAX { None } else { Some(number) };
    let wanted = Rlimit {
        current: value(limit.soft()),
        maximum: value(limit.hard()),
    };
    match setrlimit(resource, wanted) {
        Err(Errno::PERM) => {
            let maximum = getrlimit(resource).maximum;
            let least = |a: Option<u64>, b: Option<u64>| match (a, b) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, None) => a,
                (None, b) => b,
            };
            let maximum = least(wanted.maximum, maximum);
            setrlimit(
                resource,
                Rlimit {
                    current: least(wanted.current, maximum),
                    maximum,
                },
            )
        }
        other => other,
    }
    .map_err(system("rlimits", format_args!("set {:?}", limit.typ())))
}

fn resource(kind: PosixRlimitType) -> Resource {
    use PosixRlimitType as Kind;
    match kind {
        Kind::RlimitCpu => Resource::Cpu,
        Kind::RlimitFsize => Resource::Fsize,
        Kind::RlimitData => Resource::Data,
        Kind::RlimitStack => Resource::Stack,
        Kind::RlimitCore => Resource::Core,
        Kind::RlimitRss => Resource::Rss,
        Kind::RlimitNproc => Resource::Nproc,
        Kind::RlimitNofile => Resource::Nofile,
        Kind::RlimitMemlock => Resource::Memlock,
        Kind::RlimitAs => Resource::As,
        Kind::RlimitLocks => Resource::Locks,
        Kind::RlimitSigpending => Resource::Sigpending,
        Kind::RlimitMsgqueue => Resource::Msgqueue,
        Kind::RlimitNice => Resource::Nice,
        Kind::RlimitRtprio => Resource::Rtprio,
        Kind::RlimitRttime => Resource::Rttime,
    }
}
