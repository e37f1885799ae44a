//! `version`.

/// What `--version` prints.
pub fn one_line(program: &str) -> String {
    format!("{program} version {}", env!("CARGO_PKG_VERSION"))
}
