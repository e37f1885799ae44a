//! Turning the system's refusals into [`StartFailure`]s.

use crate::plan::{StartFailure, StartFailureKind};
use std::fmt::Display;

/// For `map_err`: the host failed at `step` while doing `what`.
pub(crate) fn system<E: Display>(step: &'static str, what: impl Display) -> impl FnOnce(E) -> StartFailure {
    move |error| {
        of(
            StartFailureKind::System,
            step,
            format!("{what}: {}", reason(&error)),
        )
    }
}

/// The system's words without a number and in lower case, `no such file or directory`: Docker's client looks for them
/// and chooses its exit code by them.
pub(crate) fn reason(error: &impl Display) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
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
