//! Giving memory back to the kernel, and files in memory that nobody can change.

use rustix::fs::SealFlags;
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How long a file in memory may be in the kernel's own hands before sealing it fails.
const SEAL_WAIT_MAX: Duration = Duration::from_secs(5);
const SEAL_RETRY: Duration = Duration::from_millis(5);

/// How far below the present depth the stack is released. Less than the kernel's guard gap (1 MiB by default), so that
/// even a stack much shorter than this has nothing else within reach.
const STACK_BYTES: usize = 512 * 1024;

/// Left untouched below the present depth, for this call's own frames and the red zone.
const STACK_MARGIN: usize = 32 * 1024;

/// The largest page size of any Linux architecture; ranges aligned to it are aligned to every smaller one.
const PAGE_BYTES_MAX: usize = 64 * 1024;

/// Returns what this process no longer uses to the kernel: free heap, and pages of the main thread's stack that an
/// earlier, deeper call has left behind. For a small process about to be idle for long. Call it on the main thread.
pub fn release_unused() {
    // SAFETY: takes no pointers; it only returns memory that the allocator itself holds as free.
    unsafe { libc::malloc_trim(0) };
    let marker = 0_u8;
    let end = (&raw const marker as usize - STACK_MARGIN) & !(PAGE_BYTES_MAX - 1);
    let start = end - STACK_BYTES;
    // SAFETY: the range lies wholly below the stack pointer, further than any frame of this call reaches, so nothing
    // in it is live; where no stack has been mapped yet the kernel reports that and touches nothing, and no other
    // mapping can be this close below a main thread's stack.
    unsafe { libc::madvise(start as *mut libc::c_void, STACK_BYTES, libc::MADV_DONTNEED) };
}

/// Seals a file in memory: from here on its bytes and its length stay as they are.
///
/// The kernel refuses while anything holds one of its pages, be it that reclaim or compaction only looks at it; that
/// passes.
pub fn seal(file: impl AsFd) -> std::io::Result<()> {
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    let deadline = Instant::now() + SEAL_WAIT_MAX;
    loop {
        match rustix::fs::fcntl_add_seals(&file, seals) {
            Err(Errno::BUSY) if Instant::now() < deadline => std::thread::sleep(SEAL_RETRY),
            sealed => return Ok(sealed?),
        }
    }
}
