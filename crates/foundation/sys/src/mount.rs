//! Mount calls that `rustix` lacks.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Changes to the attributes of a mount, as `struct mount_attr`: `MOUNT_ATTR_*` bits and an `MS_PRIVATE`-like
/// propagation (0 leaves it).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountAttributes {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
    pub user_namespace: u64,
}

/// Changes the mount that `mount` is the root of (any descriptor on it, `O_PATH` too); with `recursive` also all below.
pub fn set_attributes(mount: BorrowedFd<'_>, attributes: MountAttributes, recursive: bool) -> io::Result<()> {
    set_attributes_at(mount, c"", attributes, recursive)
}

/// As [`set_attributes`], for a path relative to `directory`; an empty path means `directory` itself.
pub fn set_attributes_at(
    directory: BorrowedFd<'_>,
    path: &CStr,
    attributes: MountAttributes,
    recursive: bool,
) -> io::Result<()> {
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is a C string and the attributes have the size given; both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
