//! Making processes, becoming other programs, and the attributes of a process that survive neither or both.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Which side of a [`fork`] the caller finds itself on.
#[derive(Debug)]
pub enum Fork {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

/// Duplicates the calling process, with `flags` (`CLONE_NEW*`, `CLONE_PARENT`, …) applied to the new one.
///
/// The process must be single-threaded: otherwise a lock that another thread holds at this moment, the allocator's
/// say, is held in the child for ever. Flags that share memory or need more arguments are refused. Without
/// `CLONE_PARENT` the child signals its end with `SIGCHLD`; with it, by the caller's own signal.
pub fn fork(flags: u64) -> io::Result<Fork> {
    clone3(flags, None)
}

/// As [`fork`]; the child starts its life in the cgroup (version 2) that `cgroup` is a directory of.
pub fn fork_into_cgroup(flags: u64, cgroup: BorrowedFd<'_>) -> io::Result<Fork> {
    clone3(flags, Some(cgroup))
}

/// Kernel's `struct clone_args`, as long as `CLONE_ARGS_SIZE_VER2` (Linux 5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Not in the libc crate: `CLONE_INTO_CGROUP` of `linux/sched.h`.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    let sharing = libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SETTLS | libc::CLONE_VFORK;
    if flags & sharing as u64 != 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut pidfd: RawFd = -1;
    let mut arguments = CloneArguments {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: if flags & libc::CLONE_PARENT as u64 == 0 {
            libc::SIGCHLD as u64
        } else {
            0
        },
        ..CloneArguments::default()
    };
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: the arguments are a valid clone_args of the size given; no memory is shared (checked above), so the
    // child runs on its own copy of this stack; `pidfd` outlives the call.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<CloneArguments>(),
        )
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => {
            // SAFETY: the kernel has just made this descriptor for us and nobody else owns it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Fork::Parent {
                pid: pid as i32,
                pidfd,
            })
        }
    }
}

/// What a process that shares its parent's memory begins with.
struct SharedStart<F> {
    main: Option<F>,
    /// The new process's id; the kernel writes it before the process runs.
    pid: libc::pid_t,
}

/// Bytes of stack for a process that shares its parent's memory; what it does not touch costs nothing.
const SHARED_STACK_BYTES: usize = 512 << 10;

/// Runs `main` in a new process, on a stack of its own but in the caller's memory (`CLONE_VM | CLONE_VFORK`). Returns
/// when the process has executed a program or has ended; when `main` returns it ends. `main` is told the process's id
/// as the caller's pid namespace numbers it.
///
/// Nothing is copied, which is the point: page tables and pages touched are most of what a fork costs. What `main`
/// changes in memory stays changed; descriptors, credentials, namespaces and directories are the new process's own. The
/// caller must be single-threaded, as for [`fork`].
pub fn run_sharing_memory<F: FnOnce(i32)>(flags: i32, main: F) -> io::Result<()> {
    extern "C" fn enter<F: FnOnce(i32)>(argument: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the argument is the `SharedStart<F>` below, whose owner sleeps until this process has other memory.
        let start = unsafe { &mut *argument.cast::<SharedStart<F>>() };
        if let Some(main) = start.main.take() {
            let pid = start.pid;
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| main(pid)));
        }
        exit_now(1)
    }
    if flags & (libc::CLONE_THREAD | libc::CLONE_SETTLS | libc::CLONE_SIGHAND) != 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let end_signal = if flags & libc::CLONE_PARENT == 0 {
        libc::SIGCHLD
    } else {
        0
    };
    let mut stack = vec![std::mem::MaybeUninit::<u128>::uninit(); SHARED_STACK_BYTES / size_of::<u128>()];
    let mut start = SharedStart {
        main: Some(main),
        pid: 0,
    };
    let flags = flags | libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PARENT_SETTID | end_signal;
    // SAFETY: the stack's end is aligned to 16 bytes, and the stack and the argument outlive the new process's use of
    // them: with CLONE_VFORK this call returns only once the process has left this memory. The caller's frames are
    // not run meanwhile, and the new process never returns into them.
    let result = unsafe {
        libc::clone(
            enter::<F>,
            stack.as_mut_ptr_range().end.cast(),
            flags,
            (&raw mut start).cast(),
            &raw mut start.pid,
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Ends the process at once: no destructors, no exit handlers. For children of [`fork`].
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Strings in the form `execve` takes, made ahead of the call.
pub struct ExecStrings {
    // The pointers below point into these.
    _owned: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl ExecStrings {
    /// Fails when a string contains a zero byte.
    pub fn new<S: AsRef<str>>(strings: &[S]) -> io::Result<Self> {
        let owned = strings
            .iter()
            .map(|text| CString::new(text.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;
        let mut pointers: Vec<_> = owned.iter().map(|text| text.as_ptr()).collect();
        pointers.push(std::ptr::null());
        Ok(Self {
            _owned: owned,
            pointers,
        })
    }
}

/// `execve`; returns only on failure.
pub fn exec(path: &CStr, arguments: &ExecStrings, environment: &ExecStrings) -> io::Error {
    // SAFETY: both arrays end with a null pointer and point to strings that live as long as they do.
    unsafe {
        libc::execve(
            path.as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
        )
    };
    io::Error::last_os_error()
}

/// `execveat` of the file itself, whatever its path; returns only on failure.
pub fn exec_file(file: BorrowedFd<'_>, arguments: &ExecStrings, environment: &ExecStrings) -> io::Error {
    // SAFETY: as in `exec`; the path is an empty string, which AT_EMPTY_PATH allows.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Makes the calling thread act on files as another user and group. Leaving root takes the capabilities over files out
/// of its effective set, coming back returns them (`setfsuid(2)`).
pub fn set_file_system_ids(uid: u32, gid: u32) -> io::Result<()> {
    // Neither call tells whether it succeeded: one with an impossible id changes nothing and returns the present one.
    const ASK: u32 = u32::MAX;
    // SAFETY: no memory is involved.
    let (uid_now, gid_now) = unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
        (libc::setfsuid(ASK), libc::setfsgid(ASK))
    };
    if uid_now as u32 == uid && gid_now as u32 == gid {
        Ok(())
    } else {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

/// Closes every descriptor from `first` on, in the kernel's table: owners in this process are left with stale
/// numbers, so only a process about to end or to execute another program may call it.
pub fn close_from(first: RawFd) -> io::Result<()> {
    close_range(first, RawFd::MAX, 0)
}

/// Closes the descriptors from `first` to `last`; the same caution as for [`close_from`].
pub fn close_between(first: RawFd, last: RawFd) -> io::Result<()> {
    if first > last {
        Ok(())
    } else {
        close_range(first, last, 0)
    }
}

/// Marks every descriptor from `first` on to be closed by `execve`.
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    close_range(first, RawFd::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: RawFd, last: RawFd, flags: u32) -> io::Result<()> {
    // SAFETY: no memory is involved; the caution about ownership is documented at the callers.
    check(unsafe { libc::syscall(libc::SYS_close_range, first as u32, last as u32, flags) })
}

/// Makes `fd` the descriptor `number` (0, 1 or 2), which will survive `execve`.
pub fn set_standard_stream(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == number {
        // dup2 onto itself would leave close-on-exec set.
        // SAFETY: plain system call without memory arguments.
        return check(unsafe { libc::fcntl(number, libc::F_SETFD, 0) }.into());
    }
    // SAFETY: numbers 0 to 2 are owned by nobody but the process as a whole.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into())
}

/// Kernel's `struct sigaction`, which libc's differs from; all zeros mean the default action.
#[repr(C)]
#[derive(Default)]
struct KernelSignalAction {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

/// Every signal to its default action, none blocked: what `execve` alone does not do, since it keeps ignored ones.
///
/// Asks the kernel itself, since libc refuses the two signals that it keeps for its own use.
pub fn reset_signals() -> io::Result<()> {
    let default = KernelSignalAction::default();
    let empty: u64 = 0;
    for signal in 1..=64 {
        // SIGKILL and SIGSTOP refuse; nothing can have changed those.
        // SAFETY: the structure is the kernel's for this architecture, no old one is asked for, and with the default
        // action no code of ours will run.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const default,
                std::ptr::null_mut::<KernelSignalAction>(),
                size_of::<u64>(),
            )
        };
    }
    // SAFETY: the set has the size given and no old one is asked for.
    check(unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const empty,
            std::ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    })
}

/// One instruction of classic BPF, as `struct sock_filter` lays it out.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterInstruction {
    pub code: u16,
    pub jump_true: u8,
    pub jump_false: u8,
    pub operand: u32,
}

/// Installs a seccomp filter for the calling thread. Needs `no_new_privs` or `CAP_SYS_ADMIN`.
pub fn install_seccomp_filter(program: &[FilterInstruction], flags: u64) -> io::Result<()> {
    install(program, flags).map(drop)
}

/// As [`install_seccomp_filter`], for a filter that notifies; returns where the notifications come out.
pub fn install_seccomp_listener(program: &[FilterInstruction], flags: u64) -> io::Result<OwnedFd> {
    let raw = install(program, flags | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
    // SAFETY: with this flag the kernel returns a descriptor that it has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as RawFd) })
}

fn install(program: &[FilterInstruction], flags: u64) -> io::Result<libc::c_long> {
    let description = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_ptr() as *mut libc::sock_filter,
    };
    // SAFETY: `FilterInstruction` has the layout of `sock_filter`; the kernel only reads the program.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const description,
        )
    };
    check(result).map(|()| result)
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fork_refuses_to_share_memory() {
        assert!(fork(libc::CLONE_VM as u64).is_err());
    }

    #[test]
    fn strings_with_zero_bytes_are_refused() {
        assert!(ExecStrings::new(&["a\0b"]).is_err());
    }
}
