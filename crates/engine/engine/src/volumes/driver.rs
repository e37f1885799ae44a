//! The options of the `local` driver: what a volume is made of, where it is not a directory of the engine's own.
//!
//! Nothing is mounted on the host for them. Each container mounts what the options say in its own mount namespace; a
//! tmpfs, which must be one and the same for all, is taken by the second container from the first that runs.

use crate::Engine;
use crate::error::{EngineError, Result};
use crate::record::{ContainerRecord, MountKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::MutexGuard;

/// What stands behind a volume with driver options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backing {
    /// A directory of the host.
    Bind { device: PathBuf, read_only: bool },
    /// A file system of this kind: `tmpfs`, `nfs`, ….
    FileSystem {
        kind: String,
        device: String,
        options: Vec<String>,
    },
}

/// Options, read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalOptions {
    /// `None`: a directory of the engine's own.
    pub backing: Option<Backing>,
    /// Who that directory belongs to.
    pub owner: Option<(u32, u32)>,
}

/// Reads driver options, in Docker's words where they are wrong. `o` may come alone with `uid` and `gid`, for the owner
/// of an ordinary volume.
pub fn parse_options(options: &BTreeMap<String, String>) -> Result<LocalOptions> {
    if options.is_empty() {
        return Ok(LocalOptions::default());
    }
    if let Some(key) = options
        .keys()
        .find(|key| !matches!(key.as_str(), "type" | "o" | "device" | "size"))
    {
        return Err(EngineError::invalid(format!("invalid option: {key:?}")));
    }
    if options.contains_key("size") {
        return Err(EngineError::invalid("quota size requested but no quota support"));
    }
    let text = |key: &str| options.get(key).map_or("", String::as_str);
    let mut words: Vec<String> = text("o")
        .split(',')
        .filter(|word| !word.is_empty())
        .map(ToOwned::to_owned)
        .collect();
    if !options.contains_key("type") && !options.contains_key("device") {
        let owner = parse_owner(&words)?;
        return Ok(LocalOptions {
            backing: None,
            owner: Some(owner),
        });
    }
    for key in ["device", "type"] {
        if text(key).is_empty() {
            return Err(EngineError::invalid(format!("missing required option: {key:?}")));
        }
    }
    let is_bind = words.iter().any(|word| matches!(word.as_str(), "bind" | "rbind"));
    let backing = if is_bind {
        let device = PathBuf::from(text("device"));
        if !device.is_absolute() {
            return Err(EngineError::invalid(format!(
                "invalid device: {}: it must be an absolute path",
                device.display()
            )));
        }
        Backing::Bind {
            device,
            read_only: words.iter().any(|word| word == "ro"),
        }
    } else {
        words.retain(|word| word != "rw");
        Backing::FileSystem {
            kind: text("type").to_owned(),
            device: text("device").to_owned(),
            options: words,
        }
    };
    Ok(LocalOptions {
        backing: Some(backing),
        owner: None,
    })
}

fn parse_owner(words: &[String]) -> Result<(u32, u32)> {
    let (mut uid, mut gid) = (0, 0);
    for word in words {
        let id = |text: &str| {
            text.parse()
                .ok()
                .filter(|id: &u32| *id < u32::MAX)
                .ok_or_else(|| EngineError::invalid(format!("invalid option \"o\": {word}")))
        };
        match word.split_once('=') {
            Some(("uid", text)) => uid = id(text)?,
            Some(("gid", text)) => gid = id(text)?,
            _ => return Err(EngineError::invalid("missing required option: \"device\"")),
        }
    }
    Ok((uid, gid))
}

impl Backing {
    fn is_shared_by_hand(&self) -> bool {
        matches!(self, Self::FileSystem { kind, .. } if kind == "tmpfs" || kind == "ramfs")
    }
}

/// A start's turn with volumes that must be made once for all; starts without such never wait.
pub(crate) type SharedTurn<'a> = Option<MutexGuard<'a, ()>>;

impl Engine {
    /// The record with the mounts of volumes as this start is to make them. The turn is kept until the container runs.
    pub(crate) async fn settle_backings(
        &self,
        record: Arc<ContainerRecord>,
    ) -> Result<(Arc<ContainerRecord>, SharedTurn<'_>)> {
        let backings = || {
            record
                .resolved
                .mounts
                .iter()
                .filter_map(|mount| mount.backing.as_ref())
        };
        if backings().next().is_none() {
            return Ok((record, None));
        }
        let turn = if backings().any(Backing::is_shared_by_hand) {
            Some(self.volumes.shared_starts.lock().await)
        } else {
            None
        };
        let mut settled = ContainerRecord::clone(&record);
        for mount in &mut settled.resolved.mounts {
            let Some(backing) = &mut mount.backing else {
                continue;
            };
            if backing.is_shared_by_hand()
                && let Some(source) = self.running_mount(mount.volume.as_deref().unwrap_or_default(), &record)
            {
                mount.source = source;
                mount.backing = None;
                continue;
            }
            if let Backing::Bind { device, .. } = backing
                && !device.exists()
            {
                return Err(EngineError::system(format!(
                    "failed to mount local volume: mount {}:{}: no such file or directory",
                    device.display(),
                    mount.source.display()
                )));
            }
            resolve_address(backing).await?;
        }
        Ok((Arc::new(settled), turn))
    }

    /// Where a container that runs has this volume mounted, as a path through its process.
    fn running_mount(&self, volume: &str, but: &ContainerRecord) -> Option<PathBuf> {
        self.registry.all().iter().find_map(|container| {
            let record = container.record();
            let pid = record.pid().filter(|_| record.id != but.id)?;
            let mount =
                record.resolved.mounts.iter().find(|mount| {
                    mount.kind == MountKind::Volume && mount.volume.as_deref() == Some(volume)
                })?;
            Some(PathBuf::from(format!("/proc/{pid}/root{}", mount.target)))
        })
    }
}

/// The kernel takes addresses only: `addr=name` is looked up, as Docker does.
async fn resolve_address(backing: &mut Backing) -> Result<()> {
    let Backing::FileSystem { options, .. } = backing else {
        return Ok(());
    };
    for option in options {
        let Some(name) = option.strip_prefix("addr=") else {
            continue;
        };
        if name.parse::<std::net::IpAddr>().is_ok() {
            continue;
        }
        let failed = |why: String| {
            EngineError::invalid(format!(
                "error resolving passed in network volume address {name}: {why}"
            ))
        };
        let found = tokio::net::lookup_host((name, 0))
            .await
            .map_err(|error| failed(error.to_string()))?
            .next()
            .ok_or_else(|| failed("no such host".to_owned()))?;
        *option = format!("addr={}", found.ip());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<LocalOptions> {
        let options = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        parse_options(&options.collect())
    }

    #[test]
    fn options_are_read_as_docker_reads_them() {
        let bind = parse(&[("type", "none"), ("o", "bind,ro"), ("device", "/srv")]).unwrap();
        assert!(matches!(
            bind.backing,
            Some(Backing::Bind { read_only: true, .. })
        ));
        let nfs = parse(&[("type", "nfs"), ("o", "addr=10.0.0.1,rw"), ("device", ":/x")]).unwrap();
        let Some(Backing::FileSystem {
            kind,
            device,
            options,
        }) = nfs.backing
        else {
            panic!("no file system");
        };
        assert_eq!(
            (kind.as_str(), device.as_str(), options),
            ("nfs", ":/x", vec!["addr=10.0.0.1".to_owned()])
        );
        assert_eq!(parse(&[("o", "uid=7,gid=8")]).unwrap().owner, Some((7, 8)));
        assert_eq!(parse(&[]).unwrap(), LocalOptions::default());
    }

    #[test]
    fn wrong_options_are_refused_in_dockers_words() {
        let message = |pairs: &[(&str, &str)]| parse(pairs).unwrap_err().message;
        assert_eq!(message(&[("nonsense", "1")]), "invalid option: \"nonsense\"");
        assert_eq!(
            message(&[("type", "tmpfs")]),
            "missing required option: \"device\""
        );
        assert_eq!(message(&[("device", "x")]), "missing required option: \"type\"");
        assert!(message(&[("o", "uid=-1")]).contains("uid=-1"));
        assert!(message(&[("type", "none"), ("o", "bind"), ("device", "a")]).contains("absolute"));
        assert!(message(&[("size", "1")]).contains("quota"));
    }
}
