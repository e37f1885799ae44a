//! PID 1 for a container whose own program was not written to be one: `init -- PROGRAM ARGUMENT…`.
//!
//! The kernel treats PID 1 specially: signals it has no handler for are dropped, and orphans become its children. This
//! program starts the real one as its child in a process group of its own, passes on every signal it gets, reaps
//! every child, and ends with the program's exit code, or 128 and the number of the signal that ended it.
//!
//! It uses neither the standard library nor a C library, only system calls.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::mem::MaybeUninit;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(125)
}

const SIGCHLD: i32 = 17;
const SIGTTIN: i32 = 21;
const SIGTTOU: i32 = 22;
const SIG_SETMASK: usize = 2;
const WNOHANG: usize = 1;
const TIOCSPGRP: usize = 0x5410;
const ENOENT: isize = -2;
const EINTR: isize = -4;
const EACCES: isize = -13;
const ENOTDIR: isize = -20;
/// Longest path the kernel takes (`PATH_MAX`).
const PATH_BYTES_MAX: usize = 4096;

/// Every signal but those that say this program itself is broken: ILL, TRAP, ABRT, BUS, FPE, SEGV, SYS.
const HELD_SIGNALS: u64 = !(bit(4) | bit(5) | bit(6) | bit(7) | bit(8) | bit(11) | bit(31));

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

#[cfg(target_arch = "x86_64")]
mod number {
    pub const WRITE: usize = 1;
    pub const RT_SIGPROCMASK: usize = 14;
    pub const IOCTL: usize = 16;
    pub const GETPID: usize = 39;
    pub const CLONE: usize = 56;
    pub const EXECVE: usize = 59;
    pub const WAIT4: usize = 61;
    pub const KILL: usize = 62;
    pub const SETPGID: usize = 109;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const EXIT_GROUP: usize = 231;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub const IOCTL: usize = 29;
    pub const WRITE: usize = 64;
    pub const EXIT_GROUP: usize = 94;
    pub const KILL: usize = 129;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const SETPGID: usize = 154;
    pub const GETPID: usize = 172;
    pub const CLONE: usize = 220;
    pub const EXECVE: usize = 221;
    pub const WAIT4: usize = 260;
}

// The kernel enters with the stack pointer at argc; everything else follows from there.
#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {}", sym start);

#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, #0", "mov x0, sp", "bl {}", sym start);

/// # Safety
/// The arguments must be what the system call of that number expects.
unsafe fn call(number: usize, arguments: [usize; 5]) -> isize {
    let result: isize;
    let [a, b, c, d, e] = arguments;
    // SAFETY: the kernel's own calling convention; the registers it changes are named.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!(
            "syscall", inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            lateout("rcx") _, lateout("r11") _, options(nostack)
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!(
            "svc 0", in("x8") number, inlateout("x0") a as isize => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, options(nostack)
        );
    }
    result
}

type Words = *const *const u8;

/// # Safety
/// `stack` must be the stack as the kernel made it: argc, argv, null, envp, null.
unsafe extern "C" fn start(stack: *const usize) -> ! {
    // SAFETY: the promise above.
    unsafe {
        let count = *stack;
        let arguments: Words = stack.add(1).cast();
        let environment: Words = arguments.add(count + 1);
        let mut index = 1;
        while index < count && !is_separator(*arguments.add(index)) {
            index += 1;
        }
        if index + 1 >= count {
            complain(b"usage: init -- PROGRAM ARGUMENT...\n");
            exit(125)
        }
        run(arguments.add(index + 1), environment)
    }
}

/// # Safety
/// `word` must be a C string.
unsafe fn is_separator(word: *const u8) -> bool {
    // SAFETY: each byte is read only when the one before it was not the last.
    unsafe { *word == b'-' && *word.add(1) == b'-' && *word.add(2) == 0 }
}

/// # Safety
/// Both must be null-terminated lists of C strings.
unsafe fn run(program: Words, environment: Words) -> ! {
    // From here on every signal waits until it is asked for, so none is lost between fork and the first wait. TTIN and
    // TTOU are held too, and so do not stop this program, which is not in the terminal's foreground.
    let before = set_signal_mask(HELD_SIGNALS);
    // SAFETY: a plain fork: SIGCHLD, and the child goes on with a copy of this stack.
    let child = unsafe { call(number::CLONE, [SIGCHLD as usize, 0, 0, 0, 0]) };
    if child < 0 {
        complain(b"init: cannot start a process\n");
        exit(125)
    }
    if child == 0 {
        take_foreground();
        set_signal_mask(before);
        // SAFETY: the caller's promise.
        unsafe { execute(program, environment) }
    }
    look_after(child)
}

/// A group of its own, so that the terminal's signals reach the program and what it starts, each once.
fn take_foreground() {
    // SAFETY: no addresses.
    unsafe { call(number::SETPGID, [0; 5]) };
    // SAFETY: as above; the answer is this process's number, which is its group's too.
    let group = unsafe { call(number::GETPID, [0; 5]) } as i32;
    // SAFETY: the kernel reads one int; where standard input is no terminal it refuses, which is no concern.
    unsafe { call(number::IOCTL, [0, TIOCSPGRP, &raw const group as usize, 0, 0]) };
}

/// Passes signals on and reaps until the program has ended.
fn look_after(child: isize) -> ! {
    loop {
        let signals = HELD_SIGNALS;
        // SAFETY: the set is 8 bytes; no information and no time limit are asked for.
        let signal = unsafe { call(number::RT_SIGTIMEDWAIT, [&raw const signals as usize, 0, 0, 8, 0]) };
        match signal as i32 {
            SIGCHLD => {
                if let Some(code) = reap(child) {
                    exit(code)
                }
            }
            SIGTTIN | SIGTTOU => {}
            signal if signal > 0 => {
                // SAFETY: no addresses. A program that has just ended misses nothing.
                unsafe { call(number::KILL, [child as usize, signal as usize, 0, 0, 0]) };
            }
            _ => {}
        }
    }
}

/// Reaps every child that has ended; one SIGCHLD can stand for many. The exit code once the program is among them.
fn reap(child: isize) -> Option<i32> {
    let mut code = None;
    loop {
        let mut status: i32 = 0;
        // SAFETY: the kernel writes one int.
        let ended = unsafe {
            call(
                number::WAIT4,
                [usize::MAX, &raw mut status as usize, WNOHANG, 0, 0],
            )
        };
        if ended == EINTR {
            continue;
        }
        if ended <= 0 {
            return code;
        }
        if ended == child {
            let signal = status & 0x7f;
            code = Some(if signal == 0 {
                status >> 8 & 0xff
            } else {
                128 + signal
            });
        }
    }
}

fn set_signal_mask(signals: u64) -> u64 {
    let mut before = 0u64;
    let (new, old) = (&raw const signals as usize, &raw mut before as usize);
    // SAFETY: both sets are 8 bytes, the kernel's size.
    unsafe { call(number::RT_SIGPROCMASK, [SIG_SETMASK, new, old, 8, 0]) };
    before
}

/// Replaces this process; a name without a slash is looked for along `PATH`, as `execvp` does.
///
/// # Safety
/// As for [`run`].
unsafe fn execute(program: Words, environment: Words) -> ! {
    // SAFETY: the lists end with null, strings with zero, and `path` is never written past its end.
    unsafe {
        let name = *program;
        let length = length_of(name);
        let try_path = |path: *const u8| {
            call(
                number::EXECVE,
                [path as usize, program as usize, environment as usize, 0, 0],
            )
        };
        let mut failure = ENOENT;
        if contains_slash(name) {
            failure = try_path(name);
        } else {
            let mut rest = find_path(environment);
            let mut path = MaybeUninit::<[u8; PATH_BYTES_MAX]>::uninit();
            let path: *mut u8 = path.as_mut_ptr().cast();
            loop {
                let mut end = 0;
                while *rest.add(end) != 0 && *rest.add(end) != b':' {
                    end += 1;
                }
                if end + 1 + length < PATH_BYTES_MAX {
                    // An empty entry is the current directory: then the name alone is the path.
                    let mut at = append(path, 0, rest, end);
                    if end > 0 {
                        at = append(path, at, c"/".as_ptr().cast(), 1);
                    }
                    append(path, at, name, length + 1);
                    let error = try_path(path);
                    if error != ENOENT && error != ENOTDIR {
                        failure = error;
                    }
                }
                if *rest.add(end) == 0 {
                    break;
                }
                rest = rest.add(end + 1);
            }
        }
        complain(b"init: ");
        write_bytes(name, length);
        let reason: &[u8] = match failure {
            ENOENT | ENOTDIR => b": no such file or directory\n",
            EACCES => b": permission denied\n",
            _ => b": cannot be executed\n",
        };
        complain(reason);
        exit(if failure == ENOENT || failure == ENOTDIR {
            127
        } else {
            126
        })
    }
}

/// # Safety
/// `word` must be a C string.
unsafe fn length_of(word: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: each byte is read only when the one before it was not the last. Volatile, or the compiler would make
    // this loop a call of `strlen`, which is not there.
    while unsafe { word.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}

/// # Safety
/// `word` must be a C string.
unsafe fn contains_slash(word: *const u8) -> bool {
    let mut at = 0;
    // SAFETY: as in `length_of`.
    unsafe {
        while *word.add(at) != 0 {
            if *word.add(at) == b'/' {
                return true;
            }
            at += 1;
        }
    }
    false
}

/// The value of `PATH`, or Docker's default.
///
/// # Safety
/// `environment` must be a null-terminated list of C strings.
unsafe fn find_path(environment: Words) -> *const u8 {
    let mut entry = environment;
    // SAFETY: the list ends with null; a string's next byte is read only when the last one matched.
    unsafe {
        while !(*entry).is_null() {
            let word = *entry;
            if *word == b'P'
                && *word.add(1) == b'A'
                && *word.add(2) == b'T'
                && *word.add(3) == b'H'
                && *word.add(4) == b'='
            {
                return word.add(5);
            }
            entry = entry.add(1);
        }
    }
    c"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        .as_ptr()
        .cast()
}

/// # Safety
/// `bytes` must have `count` bytes, and `path` room for them at `at`.
unsafe fn append(path: *mut u8, at: usize, bytes: *const u8, count: usize) -> usize {
    let mut index = 0;
    while index < count {
        // SAFETY: the promise above; volatile, or the compiler would call `memcpy`, which is not there.
        unsafe { path.add(at + index).write_volatile(*bytes.add(index)) };
        index += 1;
    }
    at + count
}

fn complain(message: &[u8]) {
    // SAFETY: the bytes are borrowed for the call.
    unsafe { write_bytes(message.as_ptr(), message.len()) };
}

/// # Safety
/// `bytes` must have `count` bytes.
unsafe fn write_bytes(bytes: *const u8, count: usize) {
    // SAFETY: the promise above.
    unsafe { call(number::WRITE, [2, bytes as usize, count, 0, 0]) };
}

fn exit(code: i32) -> ! {
    loop {
        // SAFETY: no addresses; it does not return.
        unsafe { call(number::EXIT_GROUP, [code as usize, 0, 0, 0, 0]) };
    }
}
