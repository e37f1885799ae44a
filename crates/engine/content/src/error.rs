//! What can go wrong with images and snapshots, in Docker's words where Docker has any.

use naru_base::{ContainerId, Digest, ErrorKind};
use naru_oci::{DocumentError, ReferenceError};
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The name as people see it.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    #[error("No such container snapshot: {0}")]
    NoSuchSnapshot(ContainerId),
    /// Docker's whole sentence.
    #[error("{0}")]
    Conflict(String),
    #[error("refusing to create a tag with a digest reference")]
    TagWithDigest,
    #[error("content store {path} has format {found:?}; this program reads {expected:?}")]
    Format {
        path: PathBuf,
        found: String,
        expected: String,
    },
    #[error("content store {0} is in use by another daemon")]
    InUse(PathBuf),
    #[error("invalid image archive: {0}")]
    Archive(String),
    #[error("invalid image archive: {document}: {source}")]
    Document { document: String, source: DocumentError },
    #[error("invalid image configuration: {0}")]
    Config(String),
    #[error("{what} has digest {found}, expected {expected}")]
    DigestMismatch {
        what: String,
        expected: Digest,
        found: Digest,
    },
    #[error("layer {layer}: {source}")]
    Layer { layer: String, source: LayerError },
    #[error("not enough space in {0} for the image: no space left on device")]
    DiskFull(PathBuf),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// Why a layer was refused. What it had unpacked is gone.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error("unexpected end of archive")]
    Truncated,
    #[error("corrupt archive: {0}")]
    Corrupt(String),
    #[error("corrupt compressed data: {0}")]
    Compression(io::Error),
    /// CVE class: path traversal by `..`.
    #[error("{0:?} is outside of the layer")]
    Outside(String),
    #[error("hard link {name:?} to {target:?}: the target is not a file of this layer")]
    LinkTarget { name: String, target: String },
    #[error("{0:?}: a parent is not a directory")]
    ParentNotDirectory(String),
    #[error("{0:?}: unsupported entry type {1:?}")]
    EntryType(String, char),
    #[error("{0:?}: the name cannot be used")]
    Name(String),
    #[error("too many {0}")]
    TooMany(&'static str),
    #[error("{name:?} claims {bytes} bytes; {free} are free")]
    TooLarge { name: String, bytes: u64, free: u64 },
    #[error("{name:?}: {action}: {source}")]
    Io {
        name: String,
        action: &'static str,
        source: io::Error,
    },
    #[error("reading: {0}")]
    Read(io::Error),
}

impl LayerError {
    /// Whether the cause is a filesystem or quota that is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::TooLarge { .. } => true,
            Self::Io { source, .. } | Self::Read(source) => is_disk_full(source),
            _ => false,
        }
    }
}

/// Whether an error means a full filesystem or quota.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

impl ContentError {
    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchImage(_) | Self::NoSuchSnapshot(_) => ErrorKind::NotFound,
            Self::Conflict(_) => ErrorKind::Conflict,
            Self::InUse(_) => ErrorKind::Unavailable,
            Self::Layer {
                source: LayerError::Io { .. },
                ..
            }
            | Self::Format { .. }
            | Self::DiskFull(_)
            | Self::Io { .. } => ErrorKind::System,
            Self::Reference(_)
            | Self::TagWithDigest
            | Self::Archive(_)
            | Self::Document { .. }
            | Self::Config(_)
            | Self::DigestMismatch { .. }
            | Self::Layer { .. } => ErrorKind::InvalidParameter,
        }
    }

    /// An I/O error at `path`; a full disk becomes [`ContentError::DiskFull`].
    pub(crate) fn io(path: &Path, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        if is_disk_full(&source) {
            return Self::DiskFull(path.to_owned());
        }
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}
