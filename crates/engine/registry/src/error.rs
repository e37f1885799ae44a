//! What can go wrong between here and a registry, told so that a person knows whose turn it is.

use naru_base::{Digest, ErrorKind};
use naru_oci::DocumentError;
use std::time::Duration;

#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryError {
    #[error("cannot connect to registry {host}: {reason}")]
    Connect { host: String, reason: String },
    #[error("cannot trust registry {host}: {reason}; put its CA into /etc/docker/certs.d/{host}/ca.crt")]
    Tls { host: String, reason: String },
    #[error("registry {host} did not go on with {what} within {seconds} s")]
    Timeout {
        host: String,
        what: String,
        seconds: u64,
    },
    #[error("the connection to registry {host} broke during {what}: {reason}")]
    Broken {
        host: String,
        what: String,
        reason: String,
    },
    #[error("unauthorized: {host} refused {what}: {reason}")]
    Unauthorized {
        host: String,
        what: String,
        reason: String,
    },
    #[error("{host} denied access to {what}: {reason}")]
    Denied {
        host: String,
        what: String,
        reason: String,
    },
    #[error("{what} not found: {reason}")]
    NotFound { what: String, reason: String },
    #[error("toomanyrequests: registry {host} asks to slow down{}", wait_text(*.retry_after))]
    TooManyRequests {
        host: String,
        retry_after: Option<Duration>,
    },
    #[error("registry {host} failed to answer {what}: status {status}: {reason}")]
    Server {
        host: String,
        what: String,
        status: u16,
        reason: String,
    },
    #[error("registry {host} gave an unexpected answer to {what}: {reason}")]
    Unexpected {
        host: String,
        what: String,
        reason: String,
    },
    #[error("{what} from {host} has digest {found}, expected {expected}")]
    Digest {
        host: String,
        what: String,
        expected: Digest,
        found: Digest,
    },
    #[error("{what} from {host} is {found} bytes long, expected {expected}")]
    Size {
        host: String,
        what: String,
        expected: u64,
        found: u64,
    },
    #[error("{what}: {source}")]
    Document { what: String, source: DocumentError },
    #[error("no matching manifest for {platform} in the manifest list entries of {what}")]
    NoPlatform { what: String, platform: String },
    #[error("invalid {what}: {reason}")]
    Invalid { what: String, reason: String },
}

fn wait_text(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |wait| format!(", for {} s", wait.as_secs()))
}

impl RegistryError {
    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unauthorized { .. } => ErrorKind::Unauthorized,
            Self::Denied { .. } => ErrorKind::Forbidden,
            Self::NotFound { .. } | Self::NoPlatform { .. } => ErrorKind::NotFound,
            Self::Invalid { .. } => ErrorKind::InvalidParameter,
            Self::TooManyRequests { .. } => ErrorKind::Unavailable,
            _ => ErrorKind::System,
        }
    }

    /// Whether the same request may well succeed a little later.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. }
                | Self::Timeout { .. }
                | Self::Broken { .. }
                | Self::TooManyRequests { .. }
                | Self::Server { .. }
        )
    }

    /// How long the registry wants to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyRequests { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
