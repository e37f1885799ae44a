//! `Binds`, `Mounts`, `Tmpfs` and `Volumes`.

use crate::error::{ApiError, ApiResult};
use naru_docker_wire::types::{BindOptions, HostConfig, Mount, Set, TmpfsOptions, VolumeOptions};
use naru_engine::spec::{MountSource, MountSpec, VolumesFromSpec};
use std::collections::BTreeSet;
use std::path::PathBuf;

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// Every mount asked for, each target once.
pub fn mounts(host: &HostConfig) -> ApiResult<Vec<MountSpec>> {
    let mut mounts = Vec::new();
    for bind in host.binds.iter().flatten() {
        mounts.push(parse_bind(bind)?);
    }
    for mount in host.mounts.iter().flatten() {
        mounts.push(parse_mount(mount)?);
    }
    for (target, options) in host.tmpfs.iter().flatten() {
        mounts.push(parse_tmpfs(target, options)?);
    }
    let mut targets = BTreeSet::new();
    match mounts.iter().find(|mount| !targets.insert(mount.target.as_str())) {
        Some(twice) => Err(ApiError::invalid(format!(
            "Duplicate mount point: {}",
            twice.target
        ))),
        None => Ok(mounts),
    }
}

/// `container[:ro|rw]`, as `--volumes-from` takes it.
pub fn volumes_from(host: &HostConfig) -> ApiResult<Vec<VolumesFromSpec>> {
    let parse = |text: &String| {
        let (container, mode) = text.split_once(':').unwrap_or((text, "rw"));
        if container.is_empty() {
            return Err(ApiError::invalid(
                "volumes-from specification cannot be an empty string",
            ));
        }
        Ok(VolumesFromSpec {
            container: container.to_owned(),
            read_only: BindMode::parse(mode)?.read_only,
        })
    };
    host.volumes_from.iter().flatten().map(parse).collect()
}

/// The keys of `Config.Volumes`.
pub fn anonymous_volumes(wire: Set) -> ApiResult<BTreeSet<String>> {
    wire.into_keys()
        .map(|target| {
            if target.contains(':') {
                return Err(ApiError::invalid(format!(
                    "invalid volume specification: '{target}'"
                )));
            }
            clean_target(&target).map_err(|reason| {
                ApiError::invalid(format!("invalid volume specification: '{target}': {reason}"))
            })
        })
        .collect()
}

/// `source:target[:options]`; a source that is no path names a volume.
fn parse_bind(text: &str) -> ApiResult<MountSpec> {
    let invalid = |reason: &str| {
        let colon = if reason.is_empty() { "" } else { ": " };
        ApiError::invalid(format!("invalid volume specification: '{text}'{colon}{reason}"))
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => return Err(invalid("")),
    };
    if parts.len() > 1 && (source.is_empty() || target.is_empty()) {
        return Err(invalid(""));
    }
    let target = clean_target(target).map_err(|reason| invalid(&reason))?;
    let options = BindMode::parse(options)?;
    let source = if source.starts_with('/') {
        MountSource::Bind {
            path: PathBuf::from(source),
            propagation: options.propagation,
            create_missing: true,
            non_recursive: false,
            read_only_non_recursive: false,
        }
    } else {
        if options.propagation.is_some() {
            return Err(invalid("a volume has no mount propagation"));
        }
        check_volume_name(source)?;
        MountSource::Volume {
            name: Some(source.to_owned()).filter(|name| !name.is_empty()),
            no_copy: options.no_copy,
            subpath: None,
            labels: std::collections::BTreeMap::default(),
            options: std::collections::BTreeMap::default(),
        }
    };
    Ok(MountSpec {
        target,
        read_only: options.read_only,
        source,
    })
}

#[derive(Default)]
struct BindMode {
    read_only: bool,
    no_copy: bool,
    propagation: Option<String>,
}

impl BindMode {
    fn parse(text: &str) -> ApiResult<Self> {
        let mut mode = Self::default();
        for option in text.split(',').filter(|option| !option.is_empty()) {
            match option {
                "rw" => mode.read_only = false,
                "ro" => mode.read_only = true,
                "nocopy" => mode.no_copy = true,
                // SELinux labels: Docker ignores them on hosts without SELinux, and so they are here.
                "z" | "Z" | "consistent" | "cached" | "delegated" => {}
                other if PROPAGATIONS.contains(&other) => mode.propagation = Some(other.to_owned()),
                _ => return Err(ApiError::invalid(format!("invalid mode: {text}"))),
            }
        }
        Ok(mode)
    }
}

/// An absolute path, without `.` and `..`, and not the root.
fn clean_target(target: &str) -> Result<String, String> {
    if !target.starts_with('/') {
        return Err(format!(
            "invalid mount path: '{target}' mount path must be absolute"
        ));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part if part.contains('\0') => return Err("invalid mount path: it holds a NUL byte".to_owned()),
            part => parts.push(part),
        }
    }
    if parts.is_empty() {
        return Err("invalid specification: destination can't be '/'".to_owned());
    }
    Ok(format!("/{}", parts.join("/")))
}

pub fn check_volume_name(name: &str) -> ApiResult<()> {
    let is_valid = name.is_empty()
        || (name.len() >= 2
            && name.len() <= 255
            && name.starts_with(|first: char| first.is_ascii_alphanumeric())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)));
    if is_valid {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )))
}

fn parse_mount(mount: &Mount) -> ApiResult<MountSpec> {
    let invalid = |reason: &str| {
        ApiError::invalid(format!(
            "invalid mount config for type \"{}\": {reason}",
            mount.kind
        ))
    };
    let belongs = [
        ("bind", "BindOptions", mount.bind_options.is_some()),
        ("volume", "VolumeOptions", mount.volume_options.is_some()),
        ("image", "ImageOptions", mount.image_options.is_some()),
        ("tmpfs", "TmpfsOptions", mount.tmpfs_options.is_some()),
    ];
    if !belongs.iter().any(|(kind, ..)| *kind == mount.kind) {
        return Err(match mount.kind.as_str() {
            "npipe" | "cluster" => ApiError::not_supported(
                format!("a mount of type \"{}\"", mount.kind),
                "use bind, volume, image or tmpfs",
            ),
            "" => invalid("mount type unknown: \"\""),
            _ => invalid("mount type unknown"),
        });
    }
    if let Some((_, name, _)) = belongs
        .iter()
        .find(|(kind, _, given)| *given && *kind != mount.kind)
    {
        return Err(invalid(&format!(
            "cannot mix {name} with mount type {}",
            mount.kind
        )));
    }
    if mount.target.is_empty() {
        return Err(invalid("field Target must not be empty"));
    }
    let target = clean_target(&mount.target).map_err(|reason| invalid(&reason))?;
    let source = match mount.kind.as_str() {
        "bind" => {
            bind_source(mount, mount.bind_options.clone().unwrap_or_default()).map_err(|why| invalid(&why))?
        }
        "volume" => volume_source(mount, mount.volume_options.clone().unwrap_or_default())?,
        "image" => {
            if mount.source.is_empty() {
                return Err(invalid("field Source must not be empty"));
            }
            let options = mount.image_options.clone().unwrap_or_default();
            MountSource::Image {
                name: mount.source.clone(),
                subpath: subpath(options.subpath).map_err(|why| invalid(&why))?,
            }
        }
        _ => tmpfs_source(mount, mount.tmpfs_options.clone().unwrap_or_default())
            .map_err(|why| invalid(&why))?,
    };
    Ok(MountSpec {
        target,
        read_only: mount.read_only,
        source,
    })
}

fn bind_source(mount: &Mount, options: BindOptions) -> Result<MountSource, String> {
    if mount.source.is_empty() {
        return Err("field Source must not be empty".to_owned());
    }
    if !mount.source.starts_with('/') {
        return Err(format!(
            "invalid mount path: '{}' mount path must be absolute",
            mount.source
        ));
    }
    let propagation = Some(options.propagation).filter(|text| !text.is_empty());
    if let Some(unknown) = propagation.as_deref().filter(|text| !PROPAGATIONS.contains(text)) {
        return Err(format!("invalid propagation mode: {unknown}"));
    }
    if options.read_only_force_recursive && (options.read_only_non_recursive || !mount.read_only) {
        return Err(
            "ReadOnlyForceRecursive must be set with ReadOnly and without ReadOnlyNonRecursive".to_owned(),
        );
    }
    if options.read_only_non_recursive && !mount.read_only {
        return Err("ReadOnlyNonRecursive must be set with ReadOnly".to_owned());
    }
    Ok(MountSource::Bind {
        path: PathBuf::from(&mount.source),
        propagation,
        create_missing: options.create_mountpoint,
        non_recursive: options.non_recursive,
        read_only_non_recursive: options.read_only_non_recursive,
    })
}

fn volume_source(mount: &Mount, options: VolumeOptions) -> ApiResult<MountSource> {
    check_volume_name(&mount.source)?;
    let mut driver_options = std::collections::BTreeMap::default();
    if let Some(driver) = options.driver_config {
        if !matches!(driver.name.as_str(), "" | "local") {
            return Err(ApiError::not_found(format!(
                "plugin \"{}\" not found",
                driver.name
            )));
        }
        driver_options = driver.options;
    }
    let subpath = subpath(options.subpath)
        .map_err(|why| ApiError::invalid(format!("invalid mount config for type \"volume\": {why}")))?;
    Ok(MountSource::Volume {
        name: Some(mount.source.clone()).filter(|name| !name.is_empty()),
        no_copy: options.no_copy,
        subpath,
        labels: options.labels,
        options: driver_options,
    })
}

/// A path below the root of a volume or an image.
fn subpath(text: String) -> Result<Option<String>, String> {
    if text.starts_with('/') || text.split('/').any(|part| part == "..") {
        return Err(format!(
            "subpath must be a relative path within the volume: {text}"
        ));
    }
    Ok(Some(text).filter(|path| !path.is_empty()))
}

fn tmpfs_source(mount: &Mount, options: TmpfsOptions) -> Result<MountSource, String> {
    if !mount.source.is_empty() {
        return Err("field Source must not be specified".to_owned());
    }
    let bytes_max = u64::try_from(options.size_bytes).map_err(|_| "invalid size".to_owned())?;
    let flags = options
        .options
        .unwrap_or_default()
        .into_iter()
        .map(|pair| pair.join("="))
        .collect();
    Ok(MountSource::Tmpfs {
        bytes_max: Some(bytes_max).filter(|bytes| *bytes > 0),
        mode: Some(options.mode).filter(|mode| *mode > 0),
        options: flags,
    })
}

/// An entry of `HostConfig.Tmpfs`: options as mount(8) takes them.
fn parse_tmpfs(target: &str, text: &str) -> ApiResult<MountSpec> {
    const FLAGS: [&str; 20] = [
        "rw",
        "ro",
        "exec",
        "noexec",
        "suid",
        "nosuid",
        "dev",
        "nodev",
        "sync",
        "async",
        "atime",
        "noatime",
        "diratime",
        "nodiratime",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
        "mand",
        "nomand",
    ];
    const VALUES: [&str; 7] = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"];
    let target = clean_target(target)
        .map_err(|reason| ApiError::invalid(format!("invalid mount config for type \"tmpfs\": {reason}")))?;
    let mut read_only = false;
    let mut options = Vec::new();
    for option in text.split(',').filter(|option| !option.is_empty()) {
        let key = option.split('=').next().unwrap_or_default();
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            _ if FLAGS.contains(&option) || PROPAGATIONS.contains(&option) => options.push(option.to_owned()),
            _ if option.contains('=') && VALUES.contains(&key) => options.push(option.to_owned()),
            _ => return Err(ApiError::invalid(format!("invalid tmpfs option [\"{option}\"]"))),
        }
    }
    Ok(MountSpec {
        target,
        read_only,
        source: MountSource::Tmpfs {
            bytes_max: None,
            mode: None,
            options,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_are_read() {
        let mount = parse_bind("/src:/dst/../dst/:ro,rslave").unwrap();
        assert_eq!((mount.target.as_str(), mount.read_only), ("/dst", true));
        assert!(
            matches!(mount.source, MountSource::Bind { propagation: Some(p), create_missing: true, .. } if p == "rslave")
        );
        let mount = parse_bind("data:/var/lib/data:nocopy").unwrap();
        assert!(
            matches!(mount.source, MountSource::Volume { name: Some(n), no_copy: true, .. } if n == "data")
        );
        assert!(matches!(
            parse_bind("/var/x").unwrap().source,
            MountSource::Volume { name: None, .. }
        ));
    }

    #[test]
    fn bad_binds_are_refused_in_dockers_words() {
        let message = |text: &str| parse_bind(text).unwrap_err().message;
        assert_eq!(
            message("/a:/b:rw:x"),
            "invalid volume specification: '/a:/b:rw:x'"
        );
        assert_eq!(message("/a:"), "invalid volume specification: '/a:'");
        assert_eq!(message("/a:/b:nonsense"), "invalid mode: nonsense");
        assert!(message("/a:b").contains("mount path must be absolute"));
        assert!(message("/a:/").contains("destination can't be '/'"));
        assert!(message("../a:/b").contains("includes invalid characters for a local volume name"));
    }

    #[test]
    fn mounts_are_checked() {
        let mount = |kind: &str, source: &str, target: &str| Mount {
            kind: kind.to_owned(),
            source: source.to_owned(),
            target: target.to_owned(),
            ..Mount::default()
        };
        let message = |mount: &Mount| parse_mount(mount).unwrap_err().message;
        assert_eq!(
            message(&mount("bind", "/a", "")),
            "invalid mount config for type \"bind\": field Target must not be empty"
        );
        assert_eq!(
            message(&mount("bind", "", "/b")),
            "invalid mount config for type \"bind\": field Source must not be empty"
        );
        assert!(message(&mount("tmpfs", "/a", "/b")).contains("field Source must not be specified"));
        assert!(message(&mount("nonsense", "/a", "/b")).contains("mount type unknown"));
        assert!(parse_mount(&mount("volume", "", "/b")).is_ok());
        let mixed = Mount {
            tmpfs_options: Some(TmpfsOptions::default()),
            ..mount("bind", "/a", "/b")
        };
        assert!(message(&mixed).contains("cannot mix TmpfsOptions"));
    }

    #[test]
    fn a_target_is_used_once() {
        let host = HostConfig {
            binds: Some(vec!["/a:/x".to_owned(), "/b:/x/".to_owned()]),
            ..HostConfig::default()
        };
        assert_eq!(mounts(&host).unwrap_err().message, "Duplicate mount point: /x");
    }

    #[test]
    fn tmpfs_options_are_known_ones() {
        let mount = parse_tmpfs("/run", "rw,size=64k,mode=1770,noexec").unwrap();
        assert!(
            matches!(mount.source, MountSource::Tmpfs { options, .. } if options == ["size=64k", "mode=1770", "noexec"])
        );
        assert!(parse_tmpfs("/run", "lowerdir=/etc").is_err());
    }
}
