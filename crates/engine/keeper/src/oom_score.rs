//! The keeper's own standing with the kernel's out-of-memory killer.

use rustix::fs::{Mode, OFlags};

/// Scores tried, best first. Below its present score a process may only go with `CAP_SYS_RESOURCE`.
const SCORES: [&[u8]; 2] = [b"-999", b"-500"];

/// Asks the kernel to end others before this process; returns the score it had, where that has changed, for children
/// must not inherit the new one.
pub fn lower() -> Option<i32> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open("/proc/self/oom_score_adj", flags, Mode::empty()).ok()?;
    let mut text = [0_u8; 16];
    let length = rustix::io::read(&file, &mut text).ok()?;
    let before = std::str::from_utf8(&text[..length]).ok()?.trim().parse().ok()?;
    let is_lowered = SCORES
        .iter()
        .any(|score| rustix::io::pwrite(&file, score, 0).is_ok());
    is_lowered.then_some(before)
}
