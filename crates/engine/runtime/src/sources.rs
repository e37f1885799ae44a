//! What a keeper mounts for a stem in a user namespace, which has no rights to the host's files, devices and
//! namespaces: everything as detached mounts, handed over with the plan and put into place by the stem.

use crate::ahead::RootAhead;
use crate::channel::Channel;
use crate::failure::system;
use crate::mapped_overlay::{self, Layers};
use crate::parked::FileSystem;
use crate::plan::{ContainerPlan, RootfsPlan, StartFailure};
use crate::root;
use crate::seccomp::Agent;
use crate::user_namespace::UserNamespace;
use crate::{devices, mounts};
use oci_spec::runtime::LinuxDevice;
use rustix::fs::{CWD, Mode, fstat, makedev};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

/// What a detached mount is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum SourceKind {
    Root,
    /// By its place among the specification's mounts.
    Mount(usize),
    /// By its place among the specification's devices.
    Device(usize),
    /// Not a mount, but a connection to the seccomp agent.
    Agent,
}

/// The mounts that one start needs; empty for a stem that makes all itself.
#[derive(Debug, Default)]
pub(crate) struct Sources(HashMap<SourceKind, OwnedFd>);

impl Sources {
    /// The keeper's side: makes them, in the host's namespaces.
    pub(crate) fn make(
        plan: &ContainerPlan,
        user: &UserNamespace,
        ahead: Option<RootAhead>,
    ) -> Result<Self, StartFailure> {
        // Device nodes get the very modes asked for.
        let umask = rustix::process::umask(Mode::empty());
        let made = Self::make_all(plan, user, ahead);
        rustix::process::umask(umask);
        made
    }

    fn make_all(
        plan: &ContainerPlan,
        user: &UserNamespace,
        ahead: Option<RootAhead>,
    ) -> Result<Self, StartFailure> {
        let mut made = HashMap::new();
        made.insert(SourceKind::Root, mount_root(&plan.rootfs, user, ahead)?);
        for (index, mount) in plan.spec.mounts().iter().flatten().enumerate() {
            if let Some(fd) = mounts::make_for_mapped(mount, plan, user)? {
                made.insert(SourceKind::Mount(index), fd);
            }
        }
        let linux = plan.spec.linux().as_ref();
        let devices = linux
            .and_then(|linux| linux.devices().as_deref())
            .unwrap_or_default();
        for (index, fd) in make_devices(devices)?.into_iter().enumerate() {
            made.insert(SourceKind::Device(index), fd);
        }
        if let Some(path) = Agent::path(&plan.seccomp) {
            made.insert(SourceKind::Agent, Agent::connect(path)?);
        }
        Ok(Self(made))
    }

    pub(crate) fn send(
        &self,
        channel: &Channel,
        order: impl Fn(SourceKind) -> Vec<u8>,
    ) -> std::io::Result<()> {
        self.0
            .iter()
            .try_for_each(|(kind, fd)| channel.send_bytes(&order(*kind), &[fd.as_fd()]))
    }

    /// The stem's side.
    pub(crate) fn add(&mut self, kind: SourceKind, fd: OwnedFd) {
        self.0.insert(kind, fd);
    }

    pub(crate) fn take(&mut self, kind: SourceKind) -> Option<OwnedFd> {
        self.0.remove(&kind)
    }
}

fn mount_root(
    plan: &RootfsPlan,
    user: &UserNamespace,
    ahead: Option<RootAhead>,
) -> Result<OwnedFd, StartFailure> {
    if let Some(fd) = ahead.and_then(|ahead| ahead.take(plan)) {
        return Ok(fd);
    }
    match plan {
        RootfsPlan::Overlay { lower, upper, work } => {
            mapped_overlay::mount(Layers { lower, upper, work }, user)
        }
        // The OCI runtime specification leaves its owners to the caller.
        RootfsPlan::Directory { path } => root::copy_tree(path),
    }
}

/// The nodes, each alone in a mount of its own. Their owners are the host's: a container's root gets no more of a
/// device than anyone else on the host, as with Docker.
fn make_devices(devices: &[LinuxDevice]) -> Result<Vec<OwnedFd>, StartFailure> {
    if devices.is_empty() {
        return Ok(Vec::new());
    }
    let directory = FileSystem {
        kind: "tmpfs".to_owned(),
        source: "devices".to_owned(),
        attributes: 0,
        data: vec!["mode=700".to_owned()],
    }
    .mount()?;
    let copy = |(index, device): (usize, &LinuxDevice)| {
        let name = index.to_string();
        devices::make_node(directory.as_fd(), name.as_ref(), device)?;
        match open_tree(&directory, &name, COPY) {
            // Before Linux 6.15 nothing can be copied out of a detached mount; the host may have the very node.
            Err(Errno::INVAL) => copy_of_hosts(device),
            copied => copied,
        }
        .map_err(system(
            "devices",
            format_args!("copy {}", device.path().display()),
        ))
    };
    devices.iter().enumerate().map(copy).collect()
}

const COPY: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC);

/// The host's own node of that name, where it is the same device.
fn copy_of_hosts(device: &LinuxDevice) -> Result<OwnedFd, Errno> {
    let copy = open_tree(CWD, device.path(), COPY)?;
    let number = makedev(device.major() as u32, device.minor() as u32);
    if fstat(&copy)?.st_rdev == number {
        Ok(copy)
    } else {
        Err(Errno::NODEV)
    }
}
