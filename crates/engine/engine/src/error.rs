//! What can go wrong in the engine, in words for people, with the kind that decides the HTTP status.

use crate::why::StartFault;
use naru_base::ErrorKind;

/// A failed operation. `message` is one sentence in Docker's words where Docker has them.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct EngineError {
    pub kind: ErrorKind,
    pub message: String,
    /// The step of a start that failed, where whoever made the error knows it.
    pub fault: Option<StartFault>,
}

impl EngineError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            fault: None,
        }
    }

    /// Names the step of a start that failed, unless somebody nearer to it has.
    #[must_use]
    pub fn with_fault(mut self, fault: StartFault) -> Self {
        self.fault.get_or_insert(fault);
        self
    }

    /// For `map_err`: the step of a start that failed.
    pub(crate) fn at(fault: StartFault) -> impl FnOnce(Self) -> Self {
        move |error| error.with_fault(fault)
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
        let is_full = error.source.kind() == std::io::ErrorKind::StorageFull;
        let own = Self::system(error.to_string());
        if is_full {
            own.with_fault(StartFault::DiskFull)
        } else {
            own
        }
    }
}

impl From<naru_store::StoreError> for EngineError {
    fn from(error: naru_store::StoreError) -> Self {
        match error {
            naru_store::StoreError::File(error) => error.into(),
            error => Self::system(error.to_string()),
        }
    }
}
