//! The `mounts` of the specification: options read, file systems made or bind mounts copied, attached by descriptor.

use crate::cgroup::{self, HierarchyKind};
use crate::failure::{invalid, system};
use crate::mapped_overlay;
use crate::namespaces;
use crate::parked::{self, FileSystem, Parked};
use crate::plan::{ContainerPlan, StartFailure, StartFailureKind};
use crate::root::{Root, TargetKind, attach, clean, map_ids, read_only_overlay};
use crate::user_namespace::UserNamespace;
use naru_sys::mount::{MountAttributes, set_attributes};
use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, StatxFlags, Uid, fstat, symlinkat};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The options of one mount, read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    set: MountAttributes,
    set_recursive: MountAttributes,
    bind: bool,
    bind_recursive: bool,
    propagation: Option<(u64, bool)>,
    /// The ids are those of the container's user namespace; of everything mounted below too.
    map_ids: Option<bool>,
    data: Vec<String>,
    /// A path below the source of a bind, for `naru.subpath`.
    subpath: Option<PathBuf>,
    /// Directories that together are the source, topmost first, for `naru.layer`: an image's.
    layers: Vec<PathBuf>,
}

/// Mounts one entry. The host's tree must still be reachable, since bind sources are looked up there.
pub(crate) fn apply(
    root: &Root,
    mount: &Mount,
    spec: &Spec,
    parked: &mut Parked,
    host_mounts: Option<&OwnedFd>,
    ready: Option<OwnedFd>,
) -> Result<(), StartFailure> {
    let options = parse_options(mount.options().as_deref().unwrap_or_default());
    let target = mount.destination();
    let kind = mount.typ().as_deref().unwrap_or("none");
    if kind == "bind" || options.bind {
        let fd = match ready {
            Some(fd) => fd,
            None => copy_source(mount, &options, host_mounts, None)?,
        };
        return bind(root, target, &fd);
    }
    if let Some(fd) = ready {
        if is_dev(mount) {
            parked::trim_dev(fd.as_fd(), spec)?;
        }
        place(root, target, &fd, is_system(kind, target))?;
        return change_propagation(&fd, &options, target);
    }
    if kind == "cgroup" || kind == "cgroup2" {
        return cgroups(root, target, &options, parked);
    }
    let file_system = file_system(mount, &options);
    let fd = if let Some(fd) = parked.take(&file_system) {
        fd
    } else {
        let fd = file_system.mount()?;
        if is_dev(mount) {
            parked::fill_dev(fd.as_fd(), None)?;
        }
        fd
    };
    if is_dev(mount) {
        parked::trim_dev(fd.as_fd(), spec)?;
    }
    place(root, target, &fd, is_system(kind, target))?;
    change_propagation(&fd, &options, target)
}

fn file_system(mount: &Mount, options: &Options) -> FileSystem {
    let kind = mount.typ().as_deref().unwrap_or("none");
    let source = mount.source().as_deref().and_then(Path::to_str).unwrap_or(kind);
    FileSystem {
        kind: kind.to_owned(),
        source: source.to_owned(),
        attributes: options.set.set as u32,
        data: options.data.clone(),
    }
}

fn is_dev(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("tmpfs") && mount.destination() == Path::new("/dev")
}

/// What the keeper must make for a stem in a user namespace: copies of the host's mounts, device nodes, and what shows
/// a namespace that the container shares with the host. `None` for all else, which the stem makes itself.
pub(crate) fn make_for_mapped(
    mount: &Mount,
    plan: &ContainerPlan,
    user: &UserNamespace,
) -> Result<Option<OwnedFd>, StartFailure> {
    let options = parse_options(mount.options().as_deref().unwrap_or_default());
    let kind = mount.typ().as_deref().unwrap_or("none");
    if kind == "bind" || options.bind {
        // The keeper has never left the host's mount namespace.
        return copy_source(mount, &options, None, Some(user)).map(Some);
    }
    if is_dev(mount) {
        let fd = file_system(mount, &options).mount()?;
        let (uid, gid) = (Uid::from_raw(user.root.uid), Gid::from_raw(user.root.gid));
        rustix::fs::chownat(&fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
            .map_err(system("mount", "give /dev to the container"))?;
        parked::fill_dev(fd.as_fd(), Some(user.root))?;
        return Ok(Some(fd));
    }
    if !parked::namespace_shown(kind).is_some_and(|shown| namespaces::is_host(plan, shown)) {
        return Ok(None);
    }
    if kind == "cgroup" || kind == "cgroup2" {
        return cgroup_tree(options.set.set as u32, |_| Ok(())).map(Some);
    }
    file_system(mount, &options).mount().map(Some)
}

/// The mounts whose place the image must not redirect by a symbolic link.
fn is_system(kind: &str, target: &Path) -> bool {
    matches!(
        kind,
        "proc" | "sysfs" | "devpts" | "mqueue" | "cgroup" | "cgroup2"
    ) || target.starts_with("/dev")
}

fn place(root: &Root, target: &Path, mount: &OwnedFd, is_system: bool) -> Result<(), StartFailure> {
    if is_system && !is_plain_or_missing(root, target) {
        let message = format!(
            "{} must be an ordinary directory in the image, not a symbolic link",
            target.display()
        );
        return Err(invalid("mount", message));
    }
    let directory = root.open_target(target, TargetKind::Directory)?;
    if !is_system {
        keep_out_of_proc(root, target, &directory, mount)?;
    }
    attach(mount.as_fd(), directory.as_fd()).map_err(system("mount", target.display()))
}

/// The files of /proc that something else may be mounted on: what programs like lxcfs show in place of the host's.
const PROC_FILES: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// Refuses to cover what the container's own /proc shows, as runc does: a program that trusts /proc/self must not be
/// given another (CVE-2019-16884, CVE-2019-19921). Another procfs may take the whole of its place.
fn keep_out_of_proc(
    root: &Root,
    path: &Path,
    target: &OwnedFd,
    source: &OwnedFd,
) -> Result<(), StartFailure> {
    if !is_proc(target, path)? {
        return Ok(());
    }
    let own = root
        .open_plain(Path::new("/proc"), OFlags::PATH)
        .map_err(system("mount", "/proc"))?;
    // Another procfs, such as the host's bound elsewhere, is an ordinary place.
    if mount_id(&own, path)? != mount_id(target, path)? {
        return Ok(());
    }
    let cleaned = clean(path);
    let is_whole = cleaned == Path::new("/proc") && is_proc(source, path)?;
    if is_whole || PROC_FILES.iter().any(|file| cleaned == Path::new(file)) {
        return Ok(());
    }
    let message = format!("{} cannot be mounted because it is inside /proc", path.display());
    Err(invalid("mount", message))
}

fn is_proc(fd: &OwnedFd, path: &Path) -> Result<bool, StartFailure> {
    let stat = rustix::fs::fstatfs(fd).map_err(system("mount", path.display()))?;
    Ok(stat.f_type == libc::PROC_SUPER_MAGIC)
}

fn mount_id(fd: &OwnedFd, path: &Path) -> Result<u64, StartFailure> {
    rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        .map(|stat| stat.stx_mnt_id)
        .map_err(system("mount", path.display()))
}

/// False when a step of the path is a symbolic link.
fn is_plain_or_missing(root: &Root, target: &Path) -> bool {
    !matches!(
        root.open_plain(target, OFlags::PATH | OFlags::DIRECTORY),
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR)
    )
}

fn change_propagation(mount: &OwnedFd, options: &Options, target: &Path) -> Result<(), StartFailure> {
    let Some((propagation, recursive)) = options.propagation else {
        return Ok(());
    };
    let attributes = MountAttributes {
        propagation,
        ..MountAttributes::default()
    };
    set_attributes(mount.as_fd(), attributes, recursive).map_err(system(
        "mount",
        format_args!("set the propagation of {}", target.display()),
    ))
}

/// A bind mount's source as a detached mount, its attributes set.
fn copy_source(
    mount: &Mount,
    options: &Options,
    host_mounts: Option<&OwnedFd>,
    user: Option<&UserNamespace>,
) -> Result<OwnedFd, StartFailure> {
    let target = mount.destination();
    if let Some(option) = options.data.first() {
        let message = format!("a bind mount has no option {option:?} ({})", target.display());
        return Err(invalid("mount", message));
    }
    let source = mount
        .source()
        .as_deref()
        .ok_or_else(|| invalid("mount", "a bind mount has no source"))?;
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if options.bind_recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let fd = if options.layers.is_empty() {
        open_source(source, flags, options, host_mounts)?
    } else {
        open_image(options, user)?
    };
    if let Some(recursive) = options.map_ids {
        let user = user.ok_or_else(|| {
            let message = format!(
                "{}: idmap needs a user namespace of the container's own",
                target.display()
            );
            invalid("mount", message)
        })?;
        map_ids(fd.as_fd(), user.fd.as_fd(), recursive).map_err(system(
            "mount",
            format_args!("map the ids of {}", source.display()),
        ))?;
    }
    // A copy of a shared mount is shared too: made private first, so that attaching it spreads nowhere.
    if options.propagation.is_none() {
        let private = MountAttributes {
            propagation: libc::MS_PRIVATE,
            ..MountAttributes::default()
        };
        set_attributes(fd.as_fd(), private, true).map_err(system("mount", source.display()))?;
    }
    change_propagation(&fd, options, target)?;
    for (attributes, recursive) in [(options.set, false), (options.set_recursive, true)] {
        if attributes != MountAttributes::default() {
            set_attributes(fd.as_fd(), attributes, recursive).map_err(system(
                "mount",
                format_args!("set the options of {}", target.display()),
            ))?;
        }
    }
    Ok(fd)
}

/// Mounts one bind entry, for whoever looks at a container that does not run; with the ids of a user namespace, where
/// its file system can show others than its own.
pub(crate) fn apply_bind(
    root: &Root,
    mount: &Mount,
    ids: Option<BorrowedFd<'_>>,
) -> Result<(), StartFailure> {
    let options = parse_options(mount.options().as_deref().unwrap_or_default());
    let source = copy_source(mount, &options, None, None)?;
    if let Some(ids) = ids {
        let _ = map_ids(source.as_fd(), ids, true).or_else(|_| map_ids(source.as_fd(), ids, false));
    }
    bind(root, mount.destination(), &source)
}

/// Attaches a copy of a directory or file at `target`, which is made where missing.
pub(crate) fn bind(root: &Root, target: &Path, source: &OwnedFd) -> Result<(), StartFailure> {
    let stat = fstat(source).map_err(system("mount", target.display()))?;
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let target_kind = if is_directory {
        TargetKind::Directory
    } else {
        TargetKind::File
    };
    let target_fd = root.open_target(target, target_kind)?;
    keep_out_of_proc(root, target, &target_fd, source)?;
    attach(source.as_fd(), target_fd.as_fd()).map_err(system("mount", target.display()))
}

/// A copy of the mount at `source`. A tree can be copied only from within its own mount namespace: another process's
/// (`/proc/<pid>/root/…`), or the host's for `shared` and `rshared`, where the copy joins the original's peers; here
/// there are only slaves of them.
fn open_source(
    source: &Path,
    flags: OpenTreeFlags,
    options: &Options,
    host_mounts: Option<&OwnedFd>,
) -> Result<OwnedFd, StartFailure> {
    if let Some((process, path)) = inside_process(source) {
        let theirs = namespaces::of_process(process, "mnt")?;
        // What is found there is that container's to arrange: links are refused.
        return within(&theirs, || {
            let path = Path::new("/").join(path);
            let place = Root::current()?
                .open_plain(&path, OFlags::PATH)
                .map_err(source_failure(source))?;
            open_tree(&place, "", flags | OpenTreeFlags::AT_EMPTY_PATH).map_err(source_failure(source))
        });
    }
    let open = || match &options.subpath {
        Some(below) => open_below(source, below, flags),
        None => open_tree(CWD, source, flags).map_err(source_failure(source)),
    };
    match host_mounts {
        Some(host) if is_shared(options) => within(host, open),
        _ => open(),
    }
}

/// An image's layers, or what is at a path in them, as a detached mount that nobody can write to.
fn open_image(options: &Options, user: Option<&UserNamespace>) -> Result<OwnedFd, StartFailure> {
    let whole = match user {
        None => read_only_overlay(&options.layers, MountAttrFlags::empty())?,
        Some(user) => mapped_overlay::mount_read_only(&options.layers, user)?,
    };
    let Some(below) = &options.subpath else {
        return Ok(whole);
    };
    let failed = |error: &rustix::io::Errno| {
        let reason = crate::failure::reason(error);
        let message = format!("cannot access path {} of the image: {reason}", below.display());
        invalid("mount", message)
    };
    // The mount goes with its descriptor, which must stay until it has been copied.
    let root = Root::of(whole);
    let place = root.open(below, OFlags::PATH).map_err(|error| failed(&error))?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(&place, "", flags).map_err(|error| match error {
        // Nothing can be copied out of a detached mount before.
        rustix::io::Errno::INVAL => invalid("mount", "a subpath of an image needs Linux 6.15 or newer"),
        other => failed(&other),
    })
}

/// A copy of the mount of a path below `source`. Whoever writes to the source may put links there: they lead nowhere but
/// below it, whatever is changed meanwhile.
fn open_below(source: &Path, below: &Path, flags: OpenTreeFlags) -> Result<OwnedFd, StartFailure> {
    let top = rustix::fs::open(
        source,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(source_failure(source))?;
    let whole = source.join(below);
    let place = Root::of(top).open(below, OFlags::PATH).map_err(|error| {
        let reason = crate::failure::reason(&error);
        invalid(
            "mount",
            format!("cannot access path {}: {reason}", whole.display()),
        )
    })?;
    open_tree(&place, "", flags | OpenTreeFlags::AT_EMPTY_PATH).map_err(source_failure(&whole))
}

fn source_failure(source: &Path) -> impl Fn(rustix::io::Errno) -> StartFailure {
    let source = source.display().to_string();
    move |error| match error {
        rustix::io::Errno::NOENT => invalid("mount", format!("bind source path does not exist: {source}")),
        other => crate::failure::of(
            StartFailureKind::System,
            "mount",
            format!("bind source {source}: {}", crate::failure::reason(&other)),
        ),
    }
}

/// `/proc/<pid>/root/<path>` taken apart.
fn inside_process(source: &Path) -> Option<(i32, &Path)> {
    let (pid, path) = source
        .strip_prefix("/proc")
        .ok()?
        .to_str()?
        .split_once("/root/")?;
    Some((pid.parse().ok()?, Path::new(path)))
}

/// Does `work` in another mount namespace and comes back.
fn within<T>(namespace: &OwnedFd, work: impl FnOnce() -> Result<T, StartFailure>) -> Result<T, StartFailure> {
    let own = namespaces::own("mnt")?;
    let enter = |fd: &OwnedFd| {
        naru_sys::namespace::join(fd.as_fd(), libc::CLONE_NEWNS)
            .map_err(system("mount", "change the mount namespace"))
    };
    enter(namespace)?;
    let outcome = work();
    enter(&own)?;
    outcome
}

fn is_shared(options: &Options) -> bool {
    matches!(options.propagation, Some((libc::MS_SHARED, _)))
}

/// Whether a mount must be copied in the host's own mount namespace.
pub(crate) fn needs_host(spec: &Spec) -> bool {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    mounts
        .iter()
        .flat_map(|mount| mount.options().iter().flatten())
        .any(|option| option == "shared" || option == "rshared")
}

/// Whether the container may write to its own cgroup.
pub(crate) fn has_writable_cgroup(plan: &ContainerPlan) -> bool {
    let is_own = namespaces::is_own(plan, LinuxNamespaceType::Cgroup);
    let is_writable = |mount: &Mount| {
        let options = parse_options(mount.options().as_deref().unwrap_or_default());
        matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"))
            && options.set.set & u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()) == 0
    };
    is_own && plan.spec.mounts().iter().flatten().any(is_writable)
}

/// The container's own cgroup as the root of every hierarchy, thanks to its cgroup namespace.
fn cgroups(root: &Root, target: &Path, options: &Options, parked: &mut Parked) -> Result<(), StartFailure> {
    let attributes = options.set.set as u32;
    if let Some(tree) = parked.take(&parked::cgroup_wish(attributes)) {
        return place(root, target, &tree, true);
    }
    cgroup_tree(attributes, |base| place(root, target, base, true)).map(drop)
}

/// Makes the mounts of /sys/fs/cgroup. `attach_base` is called with the lowest before any is put on it: kernels before
/// 6.15 put no mount on a detached one.
pub(crate) fn cgroup_tree(
    attributes: u32,
    attach_base: impl FnOnce(&OwnedFd) -> Result<(), StartFailure>,
) -> Result<OwnedFd, StartFailure> {
    let of = |kind: &str, attributes: u32, data: Vec<String>| FileSystem {
        kind: kind.to_owned(),
        source: if kind == "tmpfs" { "tmpfs" } else { "cgroup" }.to_owned(),
        attributes,
        data,
    };
    let hierarchies = cgroup::hierarchies();
    if hierarchies
        .iter()
        .all(|hierarchy| hierarchy.kind == HierarchyKind::Two)
    {
        let only = of("cgroup2", attributes, Vec::new()).mount()?;
        attach_base(&only)?;
        return Ok(only);
    }
    let writable = attributes & !MountAttrFlags::MOUNT_ATTR_RDONLY.bits();
    let base = of("tmpfs", writable, vec!["mode=755".to_owned()]).mount()?;
    attach_base(&base)?;
    for hierarchy in hierarchies {
        let HierarchyKind::One { controllers } = &hierarchy.kind else {
            continue;
        };
        let Some(name) = hierarchy.mount_point.file_name() else {
            continue;
        };
        let mounted = of("cgroup", attributes, controllers.clone()).mount()?;
        rustix::fs::mkdirat(&base, name, Mode::from_raw_mode(0o755))
            .map_err(system("mount", "make a cgroup directory"))?;
        let place = rustix::fs::openat(&base, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(system("mount", "open a cgroup directory"))?;
        attach(mounted.as_fd(), place.as_fd()).map_err(system("mount", "attach a cgroup hierarchy"))?;
        // `cpu,cpuacct` is also reached by each of its names.
        for controller in controllers.iter().filter(|_| controllers.len() > 1) {
            let _ = symlinkat(name, &base, controller.as_str());
        }
    }
    let frozen = MountAttributes {
        set: u64::from(attributes),
        ..MountAttributes::default()
    };
    set_attributes(base.as_fd(), frozen, false).map_err(system("mount", "freeze the cgroup directory"))?;
    Ok(base)
}

/// How mounts spread from the container's root (`linux.rootfsPropagation`), after it has become the root.
pub(crate) fn propagate_root(propagation: &str) -> Result<(), StartFailure> {
    let parsed = parse_options(&[propagation.to_owned()]);
    let Some((kind, recursive)) = parsed.propagation else {
        return Err(invalid(
            "rootfs",
            format!("rootfsPropagation: there is no propagation {propagation:?}"),
        ));
    };
    let attributes = MountAttributes {
        propagation: kind,
        ..MountAttributes::default()
    };
    let root = Root::current()?;
    set_attributes(root.fd(), attributes, recursive).map_err(system(
        "rootfs",
        format_args!("set the root's propagation to {propagation}"),
    ))
}

fn parse_options(options: &[String]) -> Options {
    let mut parsed = Options::default();
    for option in options {
        parse_option(&mut parsed, option);
    }
    parsed.data.sort();
    parsed
}

fn parse_option(parsed: &mut Options, option: &str) {
    let (name, recursive) = match option {
        "rro" | "rrw" | "rnosuid" | "rsuid" | "rnodev" | "rdev" | "rnoexec" | "rexec" | "rnoatime"
        | "rrelatime" | "rstrictatime" | "rnosymfollow" => (&option[1..], true),
        other => (other, false),
    };
    if let Some((set, clear)) = attribute(name) {
        let attributes = if recursive {
            &mut parsed.set_recursive
        } else {
            &mut parsed.set
        };
        attributes.set = attributes.set & !clear | set;
        attributes.clear = attributes.clear & !set | clear;
        return;
    }
    match option {
        "bind" => parsed.bind = true,
        "rbind" => (parsed.bind, parsed.bind_recursive) = (true, true),
        "private" => parsed.propagation = Some((libc::MS_PRIVATE, false)),
        "rprivate" => parsed.propagation = Some((libc::MS_PRIVATE, true)),
        "slave" => parsed.propagation = Some((libc::MS_SLAVE, false)),
        "rslave" => parsed.propagation = Some((libc::MS_SLAVE, true)),
        "shared" => parsed.propagation = Some((libc::MS_SHARED, false)),
        "rshared" => parsed.propagation = Some((libc::MS_SHARED, true)),
        "unbindable" => parsed.propagation = Some((libc::MS_UNBINDABLE, false)),
        "runbindable" => parsed.propagation = Some((libc::MS_UNBINDABLE, true)),
        "idmap" => parsed.map_ids = Some(false),
        "ridmap" => parsed.map_ids = Some(true),
        "defaults" | "" => {}
        _ if option.starts_with("naru.subpath=") => {
            parsed.subpath = option.split_once('=').map(|(_, path)| PathBuf::from(path));
        }
        _ if option.starts_with("naru.layer=") => {
            let path = option.split_once('=').map(|(_, path)| PathBuf::from(path));
            parsed.layers.extend(path);
        }
        data => parsed.data.push(data.to_owned()),
    }
}

/// The attribute bits that an option sets and clears. The kinds of access time are one field of several bits.
fn attribute(option: &str) -> Option<(u64, u64)> {
    use MountAttrFlags as Flag;
    let bits = |flag: Flag| u64::from(flag.bits());
    let time = bits(Flag::MOUNT_ATTR__ATIME);
    Some(match option {
        "ro" => (bits(Flag::MOUNT_ATTR_RDONLY), 0),
        "rw" => (0, bits(Flag::MOUNT_ATTR_RDONLY)),
        "nosuid" => (bits(Flag::MOUNT_ATTR_NOSUID), 0),
        "suid" => (0, bits(Flag::MOUNT_ATTR_NOSUID)),
        "nodev" => (bits(Flag::MOUNT_ATTR_NODEV), 0),
        "dev" => (0, bits(Flag::MOUNT_ATTR_NODEV)),
        "noexec" => (bits(Flag::MOUNT_ATTR_NOEXEC), 0),
        "exec" => (0, bits(Flag::MOUNT_ATTR_NOEXEC)),
        "nosymfollow" => (bits(Flag::MOUNT_ATTR_NOSYMFOLLOW), 0),
        "noatime" => (bits(Flag::MOUNT_ATTR_NOATIME), time),
        "strictatime" => (bits(Flag::MOUNT_ATTR_STRICTATIME), time),
        "relatime" | "atime" => (0, time),
        "nodiratime" => (bits(Flag::MOUNT_ATTR_NODIRATIME), 0),
        _ => return None,
    })
}

/// Paths hidden from the container: a file becomes /dev/null, a directory an empty read-only one. Absent ones are
/// passed over, and so are those behind something that is no directory.
pub(crate) fn mask(root: &Root, paths: &[String]) -> Result<(), StartFailure> {
    let mut null: Option<OwnedFd> = None;
    // The first directory gets the file system itself, the others copies of it: kernels before 6.15 copy attached mounts
    // only, and a detached one that is let go of makes the kernel wait for all processors.
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let Some((target, is_directory)) = find(root, path)? else {
            continue;
        };
        let source = match (is_directory, &empty, &null) {
            (true, None, _) => {
                let made = empty.insert(empty_directory()?);
                attach(made.as_fd(), target.as_fd()).map_err(system("mask", path))?;
                continue;
            }
            (true, Some(fd), _) | (false, _, Some(fd)) => fd,
            (false, _, None) => null.insert(null_device(root)?),
        };
        let cover = crate::root::copy_mount(source.as_fd(), false).map_err(system("mask", path))?;
        attach(cover.as_fd(), target.as_fd()).map_err(system("mask", path))?;
    }
    Ok(())
}

/// An empty read-only directory.
fn empty_directory() -> Result<OwnedFd, StartFailure> {
    FileSystem {
        kind: "tmpfs".to_owned(),
        source: "tmpfs".to_owned(),
        attributes: MountAttrFlags::MOUNT_ATTR_RDONLY.bits(),
        data: vec!["size=0".to_owned()],
    }
    .mount()
}

/// The null device in the container's /dev, after making sure that it is the one: an image or a volume could have
/// put something else there, which a mask would then expose.
fn null_device(root: &Root) -> Result<OwnedFd, StartFailure> {
    let fd = root
        .open_plain(Path::new("/dev/null"), OFlags::PATH)
        .map_err(system("mask", "/dev/null"))?;
    let stat = fstat(&fd).map_err(system("mask", "/dev/null"))?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(1, 3);
    if is_null {
        Ok(fd)
    } else {
        Err(invalid(
            "mask",
            "/dev/null of the container is not the null device",
        ))
    }
}

/// Paths made read-only, with everything mounted below them at this time.
pub(crate) fn make_read_only(root: &Root, paths: &[String]) -> Result<(), StartFailure> {
    for path in paths {
        let Some((target, _)) = find(root, path)? else {
            continue;
        };
        let copy = crate::root::copy_mount(target.as_fd(), true).map_err(system("readonly", path))?;
        let read_only = MountAttributes {
            set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()),
            ..MountAttributes::default()
        };
        set_attributes(copy.as_fd(), read_only, true).map_err(system("readonly", path))?;
        attach(copy.as_fd(), target.as_fd()).map_err(system("readonly", path))?;
    }
    Ok(())
}

/// Opens a path to be covered; links are not followed, since what counts is the name in the kernel's file systems.
fn find(root: &Root, path: &str) -> Result<Option<(OwnedFd, bool)>, StartFailure> {
    match root.open(&PathBuf::from(path), OFlags::PATH) {
        Ok(fd) => {
            let stat = fstat(&fd).map_err(system("mask", path))?;
            Ok(Some((
                fd,
                FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
            )))
        }
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(error) => Err(system("mask", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Options {
        parse_options(&list.iter().map(|&option| option.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn options_split_into_attributes_propagation_and_data() {
        let parsed = options(&["rbind", "rro", "nosuid", "rslave", "size=1m", "mode=1777"]);
        assert!(parsed.bind && parsed.bind_recursive);
        assert_eq!(
            parsed.set_recursive.set,
            u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits())
        );
        assert_eq!(
            parsed.set.set,
            u64::from(MountAttrFlags::MOUNT_ATTR_NOSUID.bits())
        );
        assert_eq!(parsed.propagation, Some((libc::MS_SLAVE, true)));
        assert_eq!(parsed.data, ["mode=1777", "size=1m"]);
    }

    #[test]
    fn a_later_option_overrides_an_earlier_one() {
        assert_eq!(options(&["ro", "rw"]).set.set, 0);
        assert_eq!(
            options(&["rw", "ro"]).set.set,
            u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits())
        );
    }
}
