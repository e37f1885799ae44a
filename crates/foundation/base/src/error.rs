//! The kinds of failure that callers act on; each crate's error type names one for each of its variants.

/// What a caller can do about a failure. The Docker API maps each kind to one HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request itself is wrong and will fail again unchanged (400).
    InvalidParameter,
    /// The thing named does not exist (404).
    NotFound,
    /// The request contradicts the present state; another request may change that (409).
    Conflict,
    /// The state asked for is already so (304).
    NotModified,
    /// Credentials are missing or wrong (401).
    Unauthorized,
    /// The operation is not permitted (403).
    Forbidden,
    /// Naru does not do this, and says so (501).
    NotImplemented,
    /// A part that is needed is not there right now; a later try may succeed (503).
    Unavailable,
    /// The host refused or failed: a full disk, a missing kernel feature, a broken file (500).
    System,
}
