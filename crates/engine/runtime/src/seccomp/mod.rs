//! Seccomp: profiles in OCI and Docker form, compiled to a tree-shaped filter.
//!
//! Nothing here runs a container; a profile goes in, a BPF program comes out.

mod compile;
mod default;
mod docker;
mod listener;
mod syscalls;

pub use default::default_seccomp;
pub use docker::{ProfileError, parse_docker_seccomp};
pub(crate) use listener::{Agent, Described};

use crate::failure::invalid;
use crate::plan::{SeccompPlan, StartFailure};
use naru_sys::process::{FilterInstruction, install_seccomp_filter, install_seccomp_listener};
use oci_spec::runtime::{Capabilities, Capability, LinuxSeccomp, LinuxSeccompFilterFlag};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock};

/// A compiled profile.
#[derive(Debug)]
pub struct Filter {
    program: Vec<FilterInstruction>,
    flags: u64,
    /// Some calls are decided by an agent (`SCMP_ACT_NOTIFY`).
    notifies: bool,
}

impl Filter {
    /// Compiles a profile for the architectures of this machine.
    pub fn compile(profile: &LinuxSeccomp) -> Result<Self, StartFailure> {
        let program = compile::compile(profile).map_err(|message| invalid("seccomp", message))?;
        let mut flags = 0;
        for flag in profile.flags().as_deref().unwrap_or_default() {
            flags |= match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            };
        }
        let notifies = listener::notifies(profile);
        if notifies {
            listener::check(profile).map_err(|message| invalid("seccomp", message))?;
        }
        Ok(Self {
            program,
            flags,
            notifies,
        })
    }

    pub(crate) fn notifies(&self) -> bool {
        self.notifies
    }

    pub(crate) fn install(&self) -> io::Result<()> {
        install_seccomp_filter(&self.program, self.flags)
    }

    /// For a filter that notifies: returns where the notifications come out.
    pub(crate) fn install_listener(&self) -> io::Result<OwnedFd> {
        install_seccomp_listener(&self.program, self.flags)
    }
}

/// The default profile depends on the capabilities that have rules of their own, and on nothing else.
type Cache = Mutex<Vec<(BTreeSet<String>, Arc<Filter>)>>;

fn cache() -> &'static Cache {
    static CACHE: OnceLock<Cache> = OnceLock::new();
    CACHE.get_or_init(Cache::default)
}

/// Compiles the default profile for the default capabilities, for forks to inherit.
pub(crate) fn warm_up() {
    let _ = default_filter(&crate::default_capabilities());
}

fn default_filter(capabilities: &[Capability]) -> Result<Arc<Filter>, StartFailure> {
    let key: BTreeSet<String> = capabilities.iter().map(ToString::to_string).collect();
    let Ok(mut cache) = cache().lock() else {
        return Filter::compile(&default_seccomp(capabilities)).map(Arc::new);
    };
    if let Some((_, filter)) = cache.iter().find(|(known, _)| *known == key) {
        return Ok(Arc::clone(filter));
    }
    let filter = Arc::new(Filter::compile(&default_seccomp(capabilities))?);
    cache.push((key, Arc::clone(&filter)));
    Ok(filter)
}

/// The filter that a plan asks for.
pub(crate) fn filter_for(
    plan: &SeccompPlan,
    bounding: Option<&Capabilities>,
) -> Result<Option<Arc<Filter>>, StartFailure> {
    match plan {
        SeccompPlan::Unconfined => Ok(None),
        SeccompPlan::Profile(profile) => Ok(Some(Arc::new(Filter::compile(profile)?))),
        SeccompPlan::Default => {
            let capabilities: Vec<_> = bounding.into_iter().flatten().copied().collect();
            default_filter(&capabilities).map(Some)
        }
    }
}
