//! What `ps` shows as a process's command line.
//!
//! That is the memory in which the kernel put the arguments at `execve`, wherever the process was forked since; a
//! process that is to have a title of its own writes it there.

use std::io;
use std::sync::OnceLock;

/// Where the arguments are: address and bytes.
static AREA: OnceLock<(usize, usize)> = OnceLock::new();

/// Finds the memory of the arguments. Once, early, in the process that the others are forked from.
pub fn find() -> io::Result<()> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let area = parse_area(&stat).ok_or(io::ErrorKind::InvalidData)?;
    let _ = AREA.set(area);
    Ok(())
}

/// Fields 48 and 49 of `/proc/<pid>/stat` (`proc_pid_stat(5)`), counted from the end of the command's name.
fn parse_area(stat: &str) -> Option<(usize, usize)> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split_whitespace().skip(45);
    let start: usize = fields.next()?.parse().ok()?;
    let end: usize = fields.next()?.parse().ok()?;
    (start != 0 && end > start).then_some((start, end - start))
}

/// Shows `text`, as much of it as there is room for. Does nothing in a process in which [`find`] was not called. The
/// process must be single-threaded and must not ask for its arguments any more.
pub fn set(text: &str) {
    let Some(&(start, bytes)) = AREA.get() else { return };
    // The kernel takes a last byte that is not zero for a sign that the title goes on in the environment.
    let length = text.len().min(bytes - 1);
    // SAFETY: the range is that of this process's arguments, which the kernel put on the first thread's stack, writable
    // and there for as long as the process is; a fork has it at the same address. Nobody reads it meanwhile, since the
    // process has one thread; strings in it stay terminated, since its last byte stays zero.
    unsafe {
        let area = start as *mut u8;
        std::ptr::copy_nonoverlapping(text.as_ptr(), area, length);
        std::ptr::write_bytes(area.add(length), 0, bytes - length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_found_behind_any_name() {
        let stat = format!("7 (a) b) S {} 4096 4128 9", vec!["1"; 44].join(" "));
        assert_eq!(parse_area(&stat), Some((4096, 32)));
        assert_eq!(parse_area("7 (x) S 1 2"), None);
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        let (_, bytes) = parse_area(&own).unwrap();
        assert_eq!(bytes, std::fs::read("/proc/self/cmdline").unwrap().len());
    }
}
