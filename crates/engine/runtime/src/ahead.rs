//! A container's root filesystem, mounted before its start: at creation, by the stem that is to run it, or by its
//! keeper where the stem is in a user namespace.
//!
//! Mounting an overlay makes and removes half a dozen files on the upper file system, which is most of a start's time.
//! The mount is good only for a start that names the same layers; nobody has looked into it until then. Nothing is
//! mounted while somebody writes into the snapshot from outside.

use crate::mapped_overlay::{self, Layers};
use crate::plan::RootfsPlan;
use crate::root;
use crate::user_namespace::UserNamespace;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, fstat, openat};
use std::os::fd::OwnedFd;

/// Where overlayfs keeps files in the making, below the work directory it is given.
const WORK: &str = "work";

#[derive(Debug)]
pub(crate) struct RootAhead {
    plan: RootfsPlan,
    mount: OwnedFd,
    work: OwnedFd,
}

impl RootAhead {
    /// `None` where it cannot be done: the start then mounts it itself, and says what is wrong.
    pub(crate) fn mount(plan: RootfsPlan, user: Option<&UserNamespace>) -> Option<Self> {
        let RootfsPlan::Overlay { lower, upper, work } = &plan else {
            return None;
        };
        let _alone = root::lock_work(work, FlockOperation::NonBlockingLockExclusive).ok()?;
        let mount = match user {
            None => root::overlay(lower, upper, work).ok()??,
            Some(user) => mapped_overlay::mount(Layers { lower, upper, work }, user).ok()?,
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let work = openat(CWD, work.join(WORK), flags, Mode::empty()).ok()?;
        Some(Self { plan, mount, work })
    }

    /// The mount, if it is still the one that `plan` wants. Another mount of the same snapshot made meanwhile has
    /// replaced the inner work directory, without which this one cannot copy up.
    pub(crate) fn take(self, plan: &RootfsPlan) -> Option<OwnedFd> {
        let is_whole = fstat(&self.work).is_ok_and(|stat| stat.st_nlink > 0);
        (self.plan == *plan && is_whole).then_some(self.mount)
    }
}
