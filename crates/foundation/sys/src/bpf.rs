//! The `bpf(2)` calls that a cgroup's device filter needs: load a program, and attach, list and replace it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_PROG_LOAD: u32 = 5;
const BPF_PROG_ATTACH: u32 = 8;
const BPF_PROG_DETACH: u32 = 9;
const BPF_PROG_GET_FD_BY_ID: u32 = 13;
const BPF_PROG_QUERY: u32 = 16;

const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_F_REPLACE: u32 = 4;

/// More programs than this on one cgroup are not listed; the kernel itself allows 64.
const PROGRAMS_MAX: usize = 64;
/// A verifier's log of a program of a few hundred instructions fits.
const LOG_BYTES: usize = 64 * 1024;

/// One instruction as the kernel takes it: operation, registers, offset, immediate value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    pub operation: u8,
    /// Destination in the low four bits, source in the high four.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

/// Why a program was not taken.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct LoadError {
    pub source: io::Error,
    /// What the kernel's verifier said; empty when it did not come so far.
    pub log: String,
}

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`, up to `prog_name`.
#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
    replaced: u32,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttributes {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    program_count: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Default)]
struct IdAttributes {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// # Safety
/// `attributes` must be a prefix of `union bpf_attr` for `command`, zero where unused, and every address in it must be
/// valid for what the command does with it while the call lasts.
unsafe fn bpf<T>(command: u32, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the pointer and the size describe `attributes`, which is borrowed for the call; the rest is the
    // caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            std::mem::size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as i32)
    }
}

/// Loads a device filter for cgroups.
///
/// The verifier writes its log only on a second try, after a refusal: the log slows loading down.
pub fn load_device_filter(instructions: &[Instruction]) -> Result<OwnedFd, LoadError> {
    match try_load(instructions, &mut []) {
        Ok(program) => Ok(program),
        Err(source) => {
            let mut log = vec![0u8; LOG_BYTES];
            match try_load(instructions, &mut log) {
                Ok(program) => Ok(program),
                Err(_) => {
                    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
                    Err(LoadError {
                        source,
                        log: String::from_utf8_lossy(&log[..end]).trim().to_owned(),
                    })
                }
            }
        }
    }
}

fn try_load(instructions: &[Instruction], log: &mut [u8]) -> io::Result<OwnedFd> {
    let mut attributes = LoadAttributes {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        name: *b"naru_devices\0\0\0\0",
        ..LoadAttributes::default()
    };
    if !log.is_empty() {
        attributes.log_level = 1;
        attributes.log_size = log.len() as u32;
        attributes.log_buffer = log.as_mut_ptr() as u64;
    }
    // SAFETY: instructions and log are borrowed slices of the sizes given, the license is a static C string.
    let descriptor = unsafe { bpf(BPF_PROG_LOAD, &mut attributes)? };
    // SAFETY: a successful load returns a new descriptor that nobody else owns; the kernel sets close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Attaches a device filter beside those already there, or in the place of one of them.
pub fn attach_device_filter(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replaced: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attributes = AttachAttributes {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI | if replaced.is_some() { BPF_F_REPLACE } else { 0 },
        replaced: replaced.map_or(0, |program| program.as_raw_fd() as u32),
    };
    // SAFETY: there are no addresses in these attributes.
    unsafe { bpf(BPF_PROG_ATTACH, &mut attributes) }.map(drop)
}

pub fn detach_device_filter(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = AttachAttributes {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        ..AttachAttributes::default()
    };
    // SAFETY: there are no addresses in these attributes.
    unsafe { bpf(BPF_PROG_DETACH, &mut attributes) }.map(drop)
}

/// The device filters attached to this very cgroup, not those of its parents.
pub fn attached_device_filters(cgroup: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    let mut ids = [0u32; PROGRAMS_MAX];
    let mut attributes = QueryAttributes {
        target: cgroup.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        program_ids: ids.as_mut_ptr() as u64,
        program_count: PROGRAMS_MAX as u32,
        ..QueryAttributes::default()
    };
    // SAFETY: `ids` outlives the call and holds the number of entries given.
    unsafe { bpf(BPF_PROG_QUERY, &mut attributes)? };
    let count = (attributes.program_count as usize).min(PROGRAMS_MAX);
    ids[..count].iter().map(|id| open_program(*id)).collect()
}

fn open_program(id: u32) -> io::Result<OwnedFd> {
    let mut attributes = IdAttributes {
        id,
        ..IdAttributes::default()
    };
    // SAFETY: there are no addresses in these attributes.
    let descriptor = unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &mut attributes)? };
    // SAFETY: a successful call returns a new descriptor that nobody else owns; the kernel sets close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
