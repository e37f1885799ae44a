//! Turning the system's refusals into [`StartFailure`]s.

use crate::plan::{StartFailure, StartFailureKind};
use std::fmt::Display;

/// For `map_err`: the host failed at `step` while doing `what`.
pub(crate) fn system<E: Display>(step: &'static str, what: impl Display) -> impl FnOnce(E) -> StartFailure {
    move |error| of(StartFailureKind::System, step, format!("{what}: {error}"))
}

/// The request itself cannot be satisfied.
pub(crate) fn invalid(step: &'static str, message: impl Into<String>) -> StartFailure {
    of(StartFailureKind::Invalid, step, message)
}

pub(crate) fn of(kind: StartFailureKind, step: &'static str, message: impl Into<String>) -> StartFailure {
    StartFailure {
        step: step.to_owned(),
        kind,
        message: message.into(),
    }
}
