//! The time namespace: made or joined by the stem, entered by the processes it makes.
//!
//! Its offsets can be set only before the first process is in it, which the stem itself never is.

use crate::failure::{invalid, system};
use crate::plan::StartFailure;
use naru_sys::namespace;
use oci_spec::runtime::{Linux, LinuxTimeOffset};
use rustix::fs::{Mode, OFlags};
use std::collections::HashMap;
use std::io::Write;
use std::os::fd::OwnedFd;

/// Opened before the stem enters a user namespace, from where the file of a process that cannot be inspected is out of
/// reach. `None` where the kernel has no time namespaces.
pub(crate) fn open_offsets() -> Option<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::open("/proc/self/timens_offsets", flags, Mode::empty()).ok()
}

/// Makes a time namespace for the calling process's children, its clocks set off as `linux.timeOffsets` says.
pub(crate) fn make(linux: Option<&Linux>, offsets_file: Option<OwnedFd>) -> Result<(), StartFailure> {
    let offsets = linux.and_then(|linux| linux.time_offsets().as_ref());
    let text = offsets.map(text).transpose()?.unwrap_or_default();
    namespace::unshare(libc::CLONE_NEWTIME).map_err(system("time namespace", "make a new time namespace"))?;
    if text.is_empty() {
        return Ok(());
    }
    let file = offsets_file
        .or_else(open_offsets)
        .ok_or_else(|| invalid("time namespace", "this kernel has no time namespaces"))?;
    // The kernel takes all clocks in one write.
    std::fs::File::from(file)
        .write_all(text.as_bytes())
        .map_err(system(
            "time namespace",
            format_args!("set the clocks off by {:?}", text.trim_end()),
        ))
}

/// As `time_namespaces(7)` has it: clock, seconds, nanoseconds.
fn text(offsets: &HashMap<String, LinuxTimeOffset>) -> Result<String, StartFailure> {
    let mut lines = Vec::new();
    for (clock, offset) in offsets {
        if !["monotonic", "boottime"].contains(&clock.as_str()) {
            return Err(invalid(
                "time namespace",
                format!("timeOffsets: there is no clock {clock:?}; monotonic and boottime can be set off"),
            ));
        }
        let (seconds, nanoseconds) = (
            offset.secs().unwrap_or_default(),
            offset.nanosecs().unwrap_or_default(),
        );
        lines.push(format!("{clock} {seconds} {nanoseconds}\n"));
    }
    lines.sort();
    Ok(lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(json: &str) -> HashMap<String, LinuxTimeOffset> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn offsets_are_written_as_the_kernel_reads_them() {
        let json = r#"{"monotonic":{"secs":-5,"nanosecs":7},"boottime":{"secs":86400}}"#;
        assert_eq!(
            text(&offsets(json)).unwrap(),
            "boottime 86400 0\nmonotonic -5 7\n"
        );
    }

    #[test]
    fn an_unknown_clock_is_refused_by_name() {
        let failure = text(&offsets(r#"{"realtime":{"secs":1}}"#)).unwrap_err();
        assert!(failure.message.contains("realtime"), "{failure}");
    }
}
