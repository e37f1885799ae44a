//! What can go wrong with a control group, said with the file, the value and the kernel's own reason.

use naru_base::ErrorKind;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub type Result<T, E = CgroupError> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("no cgroup hierarchy is mounted on this host")]
    NotMounted,
    #[error("{path:?} is not a usable cgroup path: it must be absolute and without empty, '.' or '..' parts")]
    InvalidPath { path: String },
    /// The kernel refused a value that somebody asked for.
    #[error("cannot set {file} of cgroup {cgroup} to {value:?}: {source}")]
    Refused {
        cgroup: String,
        file: String,
        value: String,
        source: io::Error,
    },
    /// A limit was asked for that this host has no controller or no file for.
    #[error("this host cannot limit {limit}: the cgroup {needs} is not available")]
    Unsupported { limit: String, needs: String },
    /// A limit that contradicts itself, found before the kernel was asked.
    #[error("invalid limit: {reason}")]
    InvalidLimit { reason: String },
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot load the device filter of cgroup {cgroup}: {source}; verifier: {log}")]
    DeviceFilter {
        cgroup: String,
        log: String,
        source: io::Error,
    },
    #[error("cgroup {cgroup} did not become {state} within {waited:?}")]
    TimedOut {
        cgroup: String,
        state: &'static str,
        waited: Duration,
    },
}

impl CgroupError {
    pub(crate) fn io(action: &'static str, path: PathBuf, source: rustix::io::Errno) -> Self {
        Self::Io {
            action,
            path,
            source: source.into(),
        }
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidPath { .. }
            | Self::Refused { .. }
            | Self::Unsupported { .. }
            | Self::InvalidLimit { .. } => ErrorKind::InvalidParameter,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorKind::NotFound,
            Self::NotMounted | Self::Io { .. } | Self::DeviceFilter { .. } | Self::TimedOut { .. } => {
                ErrorKind::System
            }
        }
    }
}
