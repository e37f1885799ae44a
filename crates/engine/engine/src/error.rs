//! What can go wrong in the engine, in words for people, with the kind that decides the HTTP status.

use naru_base::ErrorKind;

/// A failed operation. `message` is one sentence in Docker's words where Docker has them.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct EngineError {
    pub kind: ErrorKind,
    pub message: String,
}

impl EngineError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidParameter, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    pub fn system(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::System, message)
    }
}

pub type Result<T, E = EngineError> = std::result::Result<T, E>;

impl From<naru_sys::file::FileError> for EngineError {
    fn from(error: naru_sys::file::FileError) -> Self {
        Self::system(error.to_string())
    }
}

impl From<naru_store::StoreError> for EngineError {
    fn from(error: naru_store::StoreError) -> Self {
        Self::system(error.to_string())
    }
}
