//! What can go wrong between a build and its client.

use naru_engine::EngineError;
use tonic::{Code, Status};

#[derive(Debug, Clone, thiserror::Error)]
pub enum KitError {
    #[error("no active session for {0}: the client's connection for its files is not there")]
    NoSession(String),
    #[error("the session's connection cannot be used: {0}")]
    Connection(String),
    #[error("the client refused {what}: {reason}")]
    Refused {
        what: &'static str,
        reason: String,
        code: Code,
    },
    #[error("the client broke off {what}: {reason}")]
    Broken { what: &'static str, reason: String },
    #[error("failed to read dockerfile: open {0}: no such file or directory")]
    NoDockerfile(String),
    #[error("there is no build {0} in the history")]
    NoBuild(String),
    #[error("{0} is not supported: {1}")]
    NotSupported(String, &'static str),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

pub type Result<T, E = KitError> = std::result::Result<T, E>;

impl KitError {
    pub(crate) fn refused(what: &'static str) -> impl FnOnce(Status) -> Self {
        move |status| Self::Refused {
            what,
            reason: status.message().to_owned(),
            code: status.code(),
        }
    }

    pub(crate) fn broken(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Broken {
            what,
            reason: reason.into(),
        }
    }

    /// The client knows of no such thing, or offers no such service.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                code: Code::NotFound | Code::Unimplemented,
                ..
            }
        )
    }
}

impl From<KitError> for EngineError {
    fn from(error: KitError) -> Self {
        match error {
            KitError::Engine(error) => error,
            KitError::NotSupported(..) => Self::new(naru_base::ErrorKind::NotImplemented, error.to_string()),
            other => Self::invalid(other.to_string()),
        }
    }
}
