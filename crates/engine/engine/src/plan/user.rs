//! User namespaces: which one a container is to be in, and what cannot be had in one.

use crate::error::{EngineError, Result};
use crate::keepers::StemNeeds;
use crate::remap::Remap;
use crate::spec::{ContainerSpec, NamespaceMode, NetworkMode};
use naru_runtime::plan::{MappedRoot, UserNamespacePlan};
use oci_spec::runtime::LinuxNamespaceType as Kind;
use std::path::PathBuf;

/// The user namespace of a container whose namespaces this one joins; `None` for the host's.
pub type Donor = Option<(PathBuf, MappedRoot)>;

/// What the stem of a container must have been made with, and who its root is. To share another namespace of a
/// container's is to share its user namespace, which owns it.
pub fn plan_user(
    spec: &ContainerSpec,
    remap: Option<&Remap>,
    donors: &[Donor],
) -> Result<(StemNeeds, Option<MappedRoot>)> {
    let mut donors = donors.iter();
    let (user, root) = match donors.next() {
        Some(first) => {
            if donors.any(|other| other != first) {
                return Err(EngineError::invalid(
                    "cannot share namespaces of containers that are in different user namespaces",
                ));
            }
            first
                .clone()
                .map(|(path, root)| (UserNamespacePlan::Join { path }, root))
        }
        None => remap
            .filter(|_| spec.user_mode != NamespaceMode::Host)
            .map(|remap| (remap.plan(), remap.root())),
    }
    .unzip();
    let shared = if user.is_some() {
        check_remapped(spec)?;
        shared_with_host(spec)
    } else {
        Vec::new()
    };
    Ok((StemNeeds { user, shared }, root))
}

/// What a container asks for that only the host's root can have, in Docker's words.
pub fn check_remapped(spec: &ContainerSpec) -> Result<()> {
    let refuse = |why: &str| Err(EngineError::invalid(why));
    if spec.user_mode == NamespaceMode::Host {
        return Ok(());
    }
    if spec.privileged {
        return refuse(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode",
        );
    }
    if spec.network == NetworkMode::Host {
        return refuse("cannot share the host's network namespace when user namespaces are enabled");
    }
    if spec.pid_mode == NamespaceMode::Host {
        return refuse("cannot share the host PID namespace when user namespaces are enabled");
    }
    Ok(())
}

fn shared_with_host(spec: &ContainerSpec) -> Vec<Kind> {
    [
        (&spec.ipc_mode, Kind::Ipc),
        (&spec.uts_mode, Kind::Uts),
        (&spec.cgroup_namespace, Kind::Cgroup),
    ]
    .into_iter()
    .filter(|(mode, _)| **mode == NamespaceMode::Host)
    .map(|(_, kind)| kind)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "as a donor is given")]
    fn donor(pid: i32) -> Donor {
        let root = MappedRoot {
            uid: 100_000,
            gid: 100_000,
        };
        Some((PathBuf::from(format!("/proc/{pid}/ns/user")), root))
    }

    #[test]
    fn a_container_is_in_the_user_namespace_of_those_it_joins() {
        let spec = ContainerSpec::default();
        assert_eq!(plan_user(&spec, None, &[]).unwrap(), (StemNeeds::default(), None));
        let (needs, root) = plan_user(&spec, None, &[donor(1), donor(1)]).unwrap();
        assert!(matches!(needs.user, Some(UserNamespacePlan::Join { .. })));
        assert_eq!(root.unwrap().uid, 100_000);
        assert_eq!(plan_user(&spec, None, &[None]).unwrap().1, None);
        assert!(plan_user(&spec, None, &[donor(1), donor(2)]).is_err());
        assert!(plan_user(&spec, None, &[donor(1), None]).is_err());
    }

    #[test]
    fn what_only_the_hosts_root_can_have_is_refused_unless_it_is() {
        for spec in [
            ContainerSpec {
                privileged: true,
                ..ContainerSpec::default()
            },
            ContainerSpec {
                network: NetworkMode::Host,
                ..ContainerSpec::default()
            },
            ContainerSpec {
                pid_mode: NamespaceMode::Host,
                ..ContainerSpec::default()
            },
        ] {
            assert!(check_remapped(&spec).is_err());
            let hosts = ContainerSpec {
                user_mode: NamespaceMode::Host,
                ..spec
            };
            assert!(check_remapped(&hosts).is_ok());
        }
    }

    #[test]
    fn what_is_shared_with_the_host_is_never_left() {
        let spec = ContainerSpec {
            uts_mode: NamespaceMode::Host,
            ..ContainerSpec::default()
        };
        assert_eq!(plan_user(&spec, None, &[donor(1)]).unwrap().0.shared, [Kind::Uts]);
    }
}
